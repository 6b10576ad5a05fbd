"""Answers: our worker decodes, with its own experts or with those of peers, to whom each layer's rows go.

    generate --> BeginAnswer --> DecodeStep --> Decoded --> tokens              again until the last token of the last answer
                                  |      ^
                                  v      |
                                RowsWanted --> experts of peers, all at once     once for each layer

Answers that mean the same versions of all tiles share a decoder, whose steps read a token of each. A decoder begins with an
answer and ends with its last one; between two jobs of it the worker does whatever else there is. What cannot go on, because
the worker died or nobody computes an expert in time, ends its answers with the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

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
from compute.model.layout import TRUNK
from compute.model.tiling import FLOAT32_BYTES, TileMap
from compute.tokenizer import END
from node.services.expert_server import Computes
from node.services.remote_experts import RemoteExperts
from protocol.genesis import ModelShape
from protocol.ids import TileId, Version
from protocol.rejection import InvariantBroken, Reason, Rejected

log = structlog.get_logger()

JOB_PATIENCE_SECONDS: Final = 30.0  # a micro-step of learning is in front of it
CACHE_BYTES_MAX: Final = 2**30  # of keys and values of all answers under way, in the worker (a guess)
ANSWERS_MAX: Final = 1024  # at a time, however short: 001 4258 asks for a thousand


@dataclass(frozen=True, slots=True)
class AnsweringStatistics:
    """Answers under way, and since the start: those begun, their tokens, and those that could not go on."""

    under_way: int
    begun: int
    tokens: int
    given_up: int


def cache_bytes(model: ModelShape, tokens: int) -> int:
    """Keys and values of an answer that reads and writes so many tokens: no more than a context of them is kept."""
    return 2 * FLOAT32_BYTES * model.layers * model.width * min(tokens, model.context)


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
    """The answers of one node."""

    def __init__(
        self,
        tile_map: TileMap,
        newest: Callable[[TileId], Version | None],
        tile_files: Callable[[Sequence[tuple[TileId, Version]]], Awaitable[tuple[TileFile, ...]]],
        find_worker: Callable[[], Computes | None],
        nursery: trio.Nursery,
        experts: RemoteExperts | None = None,
        *,
        cache_bytes_of: Callable[[int], int],
        cache_bytes_max: int = CACHE_BYTES_MAX,
    ) -> None:
        """``experts``: those of peers; None: the worker has them all. ``cache_bytes_of``: of an answer of so many tokens."""
        self._tile_map = tile_map
        self._remote = experts
        self._cache_bytes_of, self._cache_bytes_max = cache_bytes_of, cache_bytes_max
        self._cache_bytes = 0  # that answers under way may need
        self._newest = newest
        self._tile_files = tile_files
        self._find_worker = find_worker
        self._nursery = nursery
        self._numbers = itertools.count(1)
        self._decoders: dict[int, _Decoder] = {}
        self._under_way = self._begun = self._tokens = self._given_up = 0

    def statistics(self) -> AnsweringStatistics:
        """A snapshot of the counters."""
        return AnsweringStatistics(self._under_way, self._begun, self._tokens, self._given_up)

    @asynccontextmanager
    async def generate(
        self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int, top_p: float = 1.0
    ) -> AsyncIterator[AsyncIterator[int]]:
        """The tokens that follow a prompt, one by one. Leaving the context stops it.

        Raises ``Rejected``, also while iterating.
        """
        worker = self._find_worker()
        if worker is None:
            raise Rejected(Reason.BUSY, "this node has no worker to generate with")
        if self._remote is not None:
            self._remote.check()
        needed_bytes = self._cache_bytes_of(len(prompt) + max_tokens)
        if self._under_way >= ANSWERS_MAX or (
            self._under_way and self._cache_bytes + needed_bytes > self._cache_bytes_max
        ):
            raise Rejected(Reason.BUSY, f"{self._under_way} answers are under way, and there is no room for another")
        name = f"answer-{next(self._numbers)}"
        send, receive = trio.open_memory_channel[int](max_tokens)
        stream = _Stream(send)

        async def tokens() -> AsyncGenerator[int]:
            async for token in receive:
                yield token
            if stream.failure is not None:
                raise stream.failure

        self._under_way += 1
        self._cache_bytes += needed_bytes
        try:
            decoder = await self._begin(worker, stream, name, tuple(prompt), max_tokens, temperature, seed, top_p)
            try:
                async with aclosing(tokens()) as said:
                    yield said
            finally:
                if decoder.streams.pop(name, None) is not None:
                    self._nursery.start_soon(self._end, worker, EndAnswer(decoder.number, name))
                send.close()
        finally:
            self._under_way -= 1
            self._cache_bytes -= needed_bytes

    async def _begin(
        self,
        worker: Computes,
        stream: _Stream,
        name: str,
        prompt: tuple[int, ...],
        max_tokens: int,
        temperature: float,
        seed: int,
        top_p: float,
    ) -> _Decoder:
        versions = {tile: version for tile in self._tile_map.ids if (version := self._newest(tile)) is not None}
        if len(versions) < len(self._tile_map.ids):
            raise Rejected(Reason.BUSY, "this node has not all of the model yet")
        tiles = self._tile_map.tiles if self._remote is None else self._tile_map.group_tiles(TRUNK)
        files = await self._tile_files([(tile.id, versions[tile.id]) for tile in tiles])
        decoder = next((each for each in self._decoders.values() if each.versions == versions), None)
        if decoder is None:
            decoder = _Decoder(next(self._numbers), versions)
            self._decoders[decoder.number] = decoder
            self._nursery.start_soon(self._decode, worker, decoder)
        job = BeginAnswer(decoder.number, files, name, prompt, max_tokens, temperature, 0, seed, (END,), top_p)
        decoder.streams[name] = stream  # before the worker knows of it: its first token may be here before that is
        try:
            await _call(worker, job)
            stream.is_begun = True
            self._begun += 1
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
                        if self._remote is None:
                            raise InvariantBroken("a worker with all experts asked for rows")
                        outputs = await self._remote.compute(decoder.versions, reply)
                    case Decoded(tokens):
                        outputs = ()
                        for each in tokens:
                            self._say(decoder, each)
        except Rejected as failure:
            log.warning("answers were given up", answers=len(decoder.streams), why=str(failure))
            self._given_up += len(decoder.streams)
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
            self._tokens += 1
            stream.send.send_nowait(decoded.token)
        if decoded.ends:
            del decoder.streams[decoded.name]
            stream.send.close()


async def _call(worker: Computes, job: BeginAnswer | DecodeStep | EndAnswer) -> object:
    """A job's answer; raises ``Rejected``, with BUSY where the worker is not there."""
    try:
        return await worker.call(job, JOB_PATIENCE_SECONDS)
    except (JobLost, JobTimedOut, JobError) as failure:
        raise Rejected(Reason.BUSY, f"this node's worker did not go on: {failure}") from None
