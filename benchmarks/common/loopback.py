"""Finality over real sockets: members in one process, each with a libp2p host of its own on loopback.

Everything on the way is real but the disk and the application: signatures, encryption, framing, the machine. All members share
one interpreter, so what one of them computes delays the others' messages; links may be made longer, as they are between houses.
A message's delay is measured in the same run: from the effect that sends it to the event that brings it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import trio

from consensus.finality.core import FinalityCore
from consensus.finality.events import (
    Anchor,
    BodyBuilt,
    BodyChecked,
    Event,
    Finalized,
    MessageReceived,
    RequestBuild,
    RequestCheck,
    Send,
    SetTimer,
    Started,
    TimerFired,
)
from consensus.finality.signer import VoteSigner
from p2p import transport as wire
from p2p.io.libp2p_host import open_libp2p_host
from p2p.requests import VOTE
from p2p.transport import RequestFailed, Transport
from protocol.codec import decode, encode
from protocol.digest import blob_digest
from protocol.finality import ChainId, Proposal, ValidatorMessage
from protocol.genesis import ChainRule
from protocol.ids import Digest, Epoch, PeerId, VoteKey
from protocol.keys import KeyPair
from protocol.limits import FRAME_BYTES_MAX
from protocol.roster import Member, Roster

CHAIN: Final = ChainId(b"loop", 0)
ROOT: Final = blob_digest(b"state")  # the application has one state
BODY: Final = b"a body that travels" * 16
RULE: Final = ChainRule(
    view_delta_ms=1_000, block_interval_ms_min=100, idle_interval_ms=1_000, tile_shards=1, epoch_heights=2**20
)


@dataclass(slots=True)
class Times:
    """In seconds, of one run."""

    delays: list[float] = field(default_factory=list)  # of each message
    finalized: list[float] = field(default_factory=list)  # since the proposal was sent, once for each block and member
    _sent: dict[tuple[PeerId, PeerId, bytes], float] = field(default_factory=dict)
    _proposed: dict[Digest, float] = field(default_factory=dict)

    def send(self, source: PeerId, to: PeerId, data: bytes) -> None:
        self._sent.setdefault((source, to, data), time.perf_counter())

    def receive(self, source: PeerId, to: PeerId, data: bytes) -> None:
        sent = self._sent.pop((source, to, data), None)
        if sent is not None:
            self.delays.append(time.perf_counter() - sent)

    def propose(self, block: Digest) -> None:
        self._proposed.setdefault(block, time.perf_counter())

    def finalize(self, block: Digest) -> None:
        self.finalized.append(time.perf_counter() - self._proposed[block])


class _Member:
    """One machine and its host."""

    def __init__(
        self, core: FinalityCore, transport: Transport, nursery: trio.Nursery, link: float, times: Times
    ) -> None:
        self._core, self._transport, self._nursery = core, transport, nursery
        self._link_seconds, self._times = link, times

    async def run(self) -> None:
        self._handle(Started())
        async for event in self._transport.events:
            if isinstance(event, wire.MessageReceived):
                self._times.receive(event.peer, self._transport.peer_id, event.data)
                message: ValidatorMessage = decode(ValidatorMessage, event.data, limit_bytes=FRAME_BYTES_MAX)  # type: ignore[arg-type]  # a union
                self._handle(MessageReceived(event.peer, message))

    def _handle(self, event: Event) -> None:
        for effect in self._core.handle(event, int(1000 * time.time())):
            match effect:
                case Send(to, message):
                    if isinstance(message, Proposal):
                        self._times.propose(message.vote.block)
                    self._send(to, encode(message))
                case SetTimer(timer, at_ms):
                    self._nursery.start_soon(self._wait, at_ms / 1000 - time.time(), TimerFired(timer))
                case RequestBuild(epoch=epoch, view=view):
                    self._handle(BodyBuilt(epoch, view, BODY, ROOT))
                case RequestCheck(block=block):
                    self._handle(BodyChecked(block, True, ROOT))
                case Finalized(blocks):
                    for block in blocks:
                        self._times.finalize(block.header.digest())
                case _:
                    pass  # the disk

    async def _wait(self, seconds: float, event: Event) -> None:
        await trio.sleep(max(0.0, seconds))
        self._handle(event)

    def _send(self, to: tuple[PeerId, ...], data: bytes) -> None:
        for peer in to:
            self._times.send(self._transport.peer_id, peer, data)
            self._nursery.start_soon(self._carry, peer, data)

    async def _carry(self, peer: PeerId, data: bytes) -> None:
        await trio.sleep(self._link_seconds)
        try:
            await self._transport.send(peer, VOTE.protocol, data)
        except RequestFailed:
            return  # R8 says everything again


async def finalize_over_loopback(count: int, seconds: float, link_seconds: float, say: Callable[[str], None]) -> Times:
    """Let so many members decide for a while; ``link_seconds`` more are on the way of each message."""
    times = Times()
    async with AsyncExitStack() as stack:
        hosts: dict[PeerId, Transport] = {}
        votes: dict[PeerId, KeyPair] = {}
        for index in range(count):
            seed = bytes([1 + index]) * 32
            listen = ["/ip4/127.0.0.1/tcp/0"]
            host = await stack.enter_async_context(
                open_libp2p_host(seed, listen=listen, hello=b"", check_hello=lambda peer, hello: None)
            )
            for other in hosts.values():
                await host.dial(other.addresses[0])
            hosts[host.peer_id], votes[host.peer_id] = host, KeyPair(bytes([101 + index]) * 32)
        while any(len(host.connected_peers()) < count - 1 for host in hosts.values()):
            await trio.sleep(0.05)
        say(f"finality of {count} members over loopback, {1000 * link_seconds:.0f} ms a link, {seconds:.0f} s")
        members = tuple(Member(node, VoteKey(votes[node].public)) for node in sorted(hosts))
        rosters = [Roster(Epoch(epoch), members, (1,) * count, blob_digest(b"beacon")) for epoch in (0, 1)]
        anchor = Anchor.genesis(ROOT, int(1000 * time.time()))
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for node, host in hosts.items():
                    signer = VoteSigner(votes[node], CHAIN, rosters[0])
                    core = FinalityCore(node, rosters[0], rosters[1], CHAIN, signer, RULE, anchor)
                    nursery.start_soon(_Member(core, host, nursery, link_seconds, times).run)
    return times
