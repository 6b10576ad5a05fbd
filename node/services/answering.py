"""Answers whose experts are elsewhere: the trunk decodes in our worker, and each layer's rows go to peers and come back.

    generate --> BeginAnswer --> [ DecodeStep --> RowsWanted --> calls of experts, all at once --> ] ... --> Decoded --> tokens

Answers that mean the same versions of all tiles share a decoder, whose steps read a token of each. A decoder begins with an
answer and ends with its last one; between two jobs of it the worker does whatever else there is. What cannot go on, because
the worker died or nobody computes an expert in time, ends its answers with the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from compute.expert_caller import CallingStatistics
from compute.io.pool import JobError, JobLost, JobTimedOut
from compute.jobs import (
    BeginAnswer,
    Decoded,
    DecodedToken,
    DecodeStep,
    EndAnswer,
    ExpertPart,
    RowsWanted,
    TileFile,
)
from compute.model.layout import TRUNK, expert_group
from compute.model.tiling import TileMap
from compute.tokenizer import END
from node.adverts import Adverts
from node.services.expert_client import ExpertClient
from node.services.expert_server import Computes
from p2p.transport import Transport
from protocol.experts import ExpertSlice
from protocol.ids import PeerId, TileId, Version
from protocol.limits import EXPERT_ROWS_BYTES_MAX
from protocol.rejection import Reason, Rejected

log = structlog.get_logger()

EXPERT_PATIENCE_SECONDS: Final = 10.0  # three holders may be lost on the way
JOB_PATIENCE_SECONDS: Final = 30.0  # a micro-step of learning is in front of it
PLACE_SECONDS: Final = 2.0  # between two looks at who computes
ANSWERS_MAX: Final = 256  # at a time (a guess)


@dataclass(slots=True)
class _Stream:
    """One answer, as its reader sees it: room for all of its tokens, so that no reader holds up the others."""

    send: trio.MemorySendChannel[int]
    is_begun: bool = False  # the worker knows of it
    failure: Rejected | None = None


@dataclass(slots=True)
class _Decoder:
    """One decoder of the worker, from its first answer to the moment at which there is none. ``versions``: of all tiles."""

    number: int
    versions: dict[TileId, Version]
    streams: dict[str, _Stream] = field(default_factory=dict)
    changed: trio.Event = field(default_factory=trio.Event)  # an answer has begun, or did not

    def change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class Answering:
    """The answers of one node, by the experts of others."""

    def __init__(
        self,
        transport: Transport,
        adverts: Adverts,
        client: ExpertClient,
        tile_map: TileMap,
        newest: Callable[[TileId], Version | None],
        tile_files: Callable[[Sequence[tuple[TileId, Version]]], Awaitable[tuple[TileFile, ...]]],
        find_worker: Callable[[], Computes | None],
        nursery: trio.Nursery,
        *,
        row_bytes: int,
        call_bytes_max: int = EXPERT_ROWS_BYTES_MAX,
    ) -> None:
        """``row_bytes``: of one row of activations; ``call_bytes_max``: of the rows of one call."""
        self._transport = transport
        self._adverts = adverts
        self._client = client
        self._tile_map = tile_map
        self._experts = {tile.group: None for tile in tile_map.tiles if tile.group != TRUNK}
        self._newest = newest
        self._tile_files = tile_files
        self._find_worker = find_worker
        self._nursery = nursery
        self._call_bytes_max, self._row_bytes = call_bytes_max, row_bytes
        self._numbers = itertools.count(1)
        self._decoders: dict[int, _Decoder] = {}
        self._able: tuple[PeerId, ...] = ()  # who computes experts

    def statistics(self) -> CallingStatistics:
        """Of the calls of experts."""
        return self._client.statistics()

    async def run(self) -> None:
        """Keep knowing who computes: peers that are connected and have a device. All of them alike, while nobody plans."""
        while True:
            self._able = tuple(peer for peer in self._transport.connected_peers() if self._computes(peer))
            copies = dict.fromkeys(self._able, 1)  # again each time: who had not the right version may have it by now
            self._client.place({ExpertSlice(expert): copies for expert in self._experts})
            await trio.sleep(PLACE_SECONDS)

    def _computes(self, peer: PeerId) -> bool:
        advert = self._adverts.find(peer)
        return advert is not None and bool(advert.device)

    @asynccontextmanager
    async def generate(
        self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int
    ) -> AsyncIterator[AsyncIterator[int]]:
        """The tokens that follow a prompt, one by one. Leaving the context stops it.

        Raises ``Rejected``, also while iterating.
        """
        worker = self._find_worker()
        if worker is None:
            raise Rejected(Reason.BUSY, "this node has no worker to generate with")
        if not self._able:
            raise Rejected(Reason.BUSY, "no peer that is connected computes experts; try again when one is there")
        if sum(len(decoder.streams) for decoder in self._decoders.values()) >= ANSWERS_MAX:
            raise Rejected(Reason.BUSY, f"{ANSWERS_MAX} answers are under way")
        name = f"answer-{next(self._numbers)}"
        send, receive = trio.open_memory_channel[int](max_tokens)
        stream = _Stream(send)
        decoder = await self._begin(worker, stream, name, tuple(prompt), max_tokens, temperature, seed)

        async def tokens() -> AsyncIterator[int]:
            async for token in receive:
                yield token
            if stream.failure is not None:
                raise stream.failure

        try:
            yield tokens()
        finally:
            if decoder.streams.pop(name, None) is not None:
                self._nursery.start_soon(self._end, worker, EndAnswer(decoder.number, name))
            send.close()

    async def _begin(
        self,
        worker: Computes,
        stream: _Stream,
        name: str,
        prompt: tuple[int, ...],
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> _Decoder:
        versions = {tile: version for tile in self._tile_map.ids if (version := self._newest(tile)) is not None}
        if len(versions) < len(self._tile_map.ids):
            raise Rejected(Reason.BUSY, "this node has not all of the model yet")
        trunk = [(tile.id, versions[tile.id]) for tile in self._tile_map.group_tiles(TRUNK)]
        files = await self._tile_files(trunk)
        decoder = next((each for each in self._decoders.values() if each.versions == versions), None)
        if decoder is None:
            decoder = _Decoder(next(self._numbers), versions)
            self._decoders[decoder.number] = decoder
            self._nursery.start_soon(self._decode, worker, decoder)
        job = BeginAnswer(decoder.number, files, name, prompt, max_tokens, temperature, 0, seed, (END,))
        decoder.streams[name] = stream  # before the worker knows of it: its first token may be here before that is
        try:
            await _call(worker, job)
            stream.is_begun = True
        except BaseException:
            decoder.streams.pop(name, None)
            self._nursery.start_soon(self._end, worker, EndAnswer(decoder.number, name))  # it may have begun
            raise
        finally:
            decoder.change()
        if stream.failure is not None:  # with all others, and the worker may have made the decoder anew for this one
            await self._end(worker, EndAnswer(decoder.number, ""))
        return decoder

    async def _end(self, worker: Computes, job: EndAnswer) -> None:
        try:
            await _call(worker, job)
        except Rejected as failure:
            log.info("an answer was not ended", why=str(failure))

    async def _decode(self, worker: Computes, decoder: _Decoder) -> None:
        """Step after step, until there is no answer left."""
        outputs: tuple[ExpertPart, ...] = ()
        try:
            while decoder.streams:
                if not any(stream.is_begun for stream in decoder.streams.values()):
                    await decoder.changed.wait()
                    continue
                reply = await _call(worker, DecodeStep(decoder.number, outputs))
                match reply:
                    case RowsWanted():
                        outputs = await self._compute(decoder, reply)
                    case Decoded(tokens):
                        outputs = ()
                        for each in tokens:
                            self._say(decoder, each)
        except Rejected as failure:
            log.warning("answers were given up", answers=len(decoder.streams), why=str(failure))
            for stream in decoder.streams.values():
                stream.failure = failure
                stream.send.close()
            decoder.streams.clear()
        finally:
            del self._decoders[decoder.number]
        await self._end(worker, EndAnswer(decoder.number, ""))

    def _say(self, decoder: _Decoder, decoded: DecodedToken) -> None:
        stream = decoder.streams.get(decoded.name)
        if stream is None:
            return  # nobody reads it any more
        if decoded.token >= 0:
            stream.send.send_nowait(decoded.token)
        if decoded.ends:
            del decoder.streams[decoded.name]
            stream.send.close()

    async def _compute(self, decoder: _Decoder, wanted: RowsWanted) -> tuple[ExpertPart, ...]:
        """What the experts of a layer make of their rows, all at once."""
        given: dict[tuple[int, int], bytes] = {}  # by expert, and where its rows begin
        refusals: list[Rejected] = []

        async def ask(expert: int, first: int, rows: bytes, scope: trio.CancelScope) -> None:
            name = expert_group(wanted.layer, expert)
            versions = [decoder.versions[tile.id] for tile in self._tile_map.group_tiles(name)]
            try:
                given[expert, first] = await self._client.call(
                    ExpertSlice(name), versions, rows, EXPERT_PATIENCE_SECONDS
                )
            except Rejected as refusal:
                refusals.append(refusal)
                scope.cancel()

        size = self._call_bytes_max // self._row_bytes * self._row_bytes
        async with trio.open_nursery() as nursery:
            for part in wanted.parts:
                for first in range(0, len(part.rows), size):
                    rows = part.rows[first : first + size]
                    nursery.start_soon(ask, part.expert, first, rows, nursery.cancel_scope)
        if refusals:
            raise refusals[0]
        return tuple(
            ExpertPart(part.expert, b"".join(given[part.expert, first] for first in range(0, len(part.rows), size)))
            for part in wanted.parts
        )


async def _call(worker: Computes, job: BeginAnswer | DecodeStep | EndAnswer) -> object:
    """A job's answer; raises ``Rejected``, with BUSY where the worker is not there."""
    try:
        return await worker.call(job, JOB_PATIENCE_SECONDS)
    except (JobLost, JobTimedOut, JobError) as failure:
        raise Rejected(Reason.BUSY, f"this node's worker did not go on: {failure}") from None
