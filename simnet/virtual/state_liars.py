"""Nodes that work as they should, but for what they say when somebody asks them for the state."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio
from msgspec.structs import replace

from p2p.requests import STATE
from p2p.transport import RequestHandler
from protocol.codec import decode, encode
from protocol.ids import Height, PeerId, short
from protocol.limits import FRAME_BYTES_MAX
from protocol.rejection import Reason, Rejected
from protocol.state_sync import Checkpoint, Entries, GetCheckpoint, GetEntries, StateEntry, StateRequest
from simnet.scenario import StateLiars

if TYPE_CHECKING:
    from node.node import Node
    from simnet.virtual.world import VirtualWorld

STALL_SECONDS: Final = 29.0  # a second less than askers wait


async def lie_about_state(world: VirtualWorld, fault: StateLiars, draw: random.Random) -> None:
    """Some of those who are there from the beginning lie, each in its own way, in every life of theirs."""
    able = [machine for machine in world.machines if machine.plan.arrives_seconds == 0.0]
    liars = draw.sample(able, max(1, round(fault.share * len(able))))
    for number, machine in enumerate(liars):
        kind = list(LIES)[number % len(LIES)]
        world.tell(f"{short(machine.peer)} lies about the state: {kind}")
        machine.corrupt = Corrupt(LIES[kind], random.Random(draw.getrandbits(64)))


class Corrupt:
    """Puts a lie between a node and who asks it."""

    def __init__(self, lie: Lie, draw: random.Random) -> None:
        self._lie = lie
        self._draw = draw

    def __call__(self, node: Node) -> None:
        honest = node.state_server.serve

        async def handle(peer: PeerId, data: bytes) -> bytes:
            request: StateRequest = decode(StateRequest, data, limit_bytes=STATE.request_bytes_max)  # type: ignore[arg-type]  # a union
            return await self._lie(request, honest, peer, self._draw)

        node.transport.set_request_handler(STATE.protocol, handle)


Lie = Callable[[StateRequest, RequestHandler, PeerId, random.Random], Awaitable[bytes]]


async def _bad_entries(request: StateRequest, honest: RequestHandler, peer: PeerId, draw: random.Random) -> bytes:
    """Money from nowhere: one entry of each answer is another."""
    answer = await honest(peer, encode(request))
    if not isinstance(request, GetEntries):
        return answer
    first, *rest = decode(Entries, answer, limit_bytes=FRAME_BYTES_MAX).parts
    entries = list(first or (StateEntry(b"a", b""),))
    at = draw.randrange(len(entries))
    entries[at] = replace(entries[at], value=entries[at].value[:-1] + draw.randbytes(1))
    return encode(Entries((tuple(entries), *rest)))


async def _stale(request: StateRequest, honest: RequestHandler, peer: PeerId, draw: random.Random) -> bytes:
    """Nothing newer than what the asker has, and no part of anything."""
    raise Rejected(Reason.NOT_FOUND, "no checkpoint")


async def _slow(request: StateRequest, honest: RequestHandler, peer: PeerId, draw: random.Random) -> bytes:
    """Rightly, at the last moment."""
    answer = await honest(peer, encode(request))
    await trio.sleep(STALL_SECONDS)
    return answer


async def _false_manifest(request: StateRequest, honest: RequestHandler, peer: PeerId, draw: random.Random) -> bytes:
    """A checkpoint much higher than there is any, with a state root of its own."""
    answer = await honest(peer, encode(request))
    if not isinstance(request, GetCheckpoint):
        return answer
    way = decode(Checkpoint, answer, limit_bytes=FRAME_BYTES_MAX)
    *before, last = way.proof.blocks
    header = replace(last.header, height=Height(last.header.height * 1_000))
    return encode(replace(way, proof=replace(way.proof, blocks=(*before, replace(last, header=header)))))


LIES: Final[dict[str, Lie]] = {
    "wrong entries": _bad_entries,
    "a false checkpoint": _false_manifest,
    "as slowly as it may": _slow,
    "that it has none": _stale,
}
