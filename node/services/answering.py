"""Answers: our worker decodes, with its own experts or with those of peers, to whom each layer's rows go.

    generate --> BeginAnswer --> DecodeStep --> Decoded --> tokens              again until the last token of the last answer
                                  |      ^
                                  v      |
                                RowsWanted --> experts of peers, all at once     once for each layer

Answers that mean the same versions of all tiles share a decoder, whose steps read a token of each. A decoder begins with an
answer and ends with its last one; between two jobs of it the worker does whatever else there is. What cannot go on, because
the worker died or nobody computes an expert in time, ends its answers with the reason.

An answer that was given can be replayed: its tokens are read again, and at each place is seen what would have been chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

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
from protocol.answers import MILLION
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


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, how many tokens may follow it, and how they are drawn (``compute.sampling.Sampling``), in whole millionths."""

    prompt: tuple[int, ...]
    tokens_max: int
    temperature_micro: int
    seed: int
    top_p_micro: int = MILLION


class Experts(Protocol):
    """Whoever computes a layer's experts, where the worker has the trunk alone."""

    async def compute(self, versions: Mapping[TileId, Version], wanted: RowsWanted) -> tuple[ExpertPart, ...]:
        """What the experts of a layer make of their rows. Raises ``Rejected``."""
        ...


class Said:
    """The tokens of one answer, as they come. ``tokens``: those that were read, with the END that a reader does not see."""

    def __init__(
        self,
        question: Question,
        versions: Mapping[TileId, Version],
        stream: _Stream,
        receive: trio.MemoryReceiveChannel[DecodedToken],
    ) -> None:
        self.question = question
        self.versions = versions
        self.tokens: list[int] = []
        self._stream, self._receive = stream, receive

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        """Raises ``Rejected`` where the answer could not go on."""
        while True:
            decoded = await self.next_decoded()
            if decoded is None:
                raise StopAsyncIteration
            if decoded.token >= 0:
                return decoded.token

    async def next_decoded(self) -> DecodedToken | None:
        """The same with the end, and with margins where tokens were given."""
        try:
            decoded = await self._receive.receive()
        except trio.EndOfChannel:
            if self._stream.failure is not None:
                raise self._stream.failure from None
            return None
        self.tokens.append(decoded.token if decoded.token >= 0 else END)
        return decoded


@dataclass(slots=True)
class _Stream:
    """One answer, as its reader sees it: room for all of its tokens, so that no reader holds up the others."""

    send: trio.MemorySendChannel[DecodedToken]
    is_begun: bool = False  # the worker knows of it
    failure: Rejected | None = None


@dataclass(slots=True)
class _Decoder:
    """One decoder of the worker, from its first answer to the moment at which there is none. ``versions``: of all tiles.

    ``experts``: None: the worker has them all.
    """

    number: int
    versions: Mapping[TileId, Version]
    experts: Experts | None
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
    ) -> AsyncIterator[Said]:
        """The tokens that follow a prompt, one by one. Leaving the context stops it.

        Temperature and top_p are taken to millionths. Raises ``Rejected``, also while iterating.
        """
        if self._remote is not None:
            self._remote.check()
        micro = (round(temperature * MILLION), max(1, round(top_p * MILLION)))
        question = Question(tuple(prompt), max_tokens, micro[0], seed, micro[1])
        versions = {tile: version for tile in self._tile_map.ids if (version := self._newest(tile)) is not None}
        if len(versions) < len(self._tile_map.ids):
            raise Rejected(Reason.BUSY, "this node has not all of the model yet")
        async with self._answer(question, versions, self._remote) as said:
            yield said

    @asynccontextmanager
    async def replay(
        self, question: Question, versions: Mapping[TileId, Version], given: Sequence[int], experts: Experts | None
    ) -> AsyncIterator[Said]:
        """An answer that was given, END included, with the margin of each token; by these versions and experts."""
        question = replace(question, tokens_max=len(given))
        async with self._answer(question, versions, experts, tuple(given)) as said:
            yield said

    @asynccontextmanager
    async def _answer(
        self,
        question: Question,
        versions: Mapping[TileId, Version],
        experts: Experts | None,
        given: tuple[int, ...] = (),
    ) -> AsyncIterator[Said]:
        worker = self._find_worker()
        if worker is None:
            raise Rejected(Reason.BUSY, "this node has no worker to generate with")
        needed_bytes = self._cache_bytes_of(len(question.prompt) + question.tokens_max)
        if self._under_way >= ANSWERS_MAX or (
            self._under_way and self._cache_bytes + needed_bytes > self._cache_bytes_max
        ):
            raise Rejected(Reason.BUSY, f"{self._under_way} answers are under way, and there is no room for another")
        name = f"answer-{next(self._numbers)}"
        send, receive = trio.open_memory_channel[DecodedToken](question.tokens_max)
        stream = _Stream(send)
        self._under_way += 1
        self._cache_bytes += needed_bytes
        try:
            decoder = await self._begin(worker, stream, name, question, versions, experts, given)
            try:
                yield Said(question, versions, stream, receive)
            finally:
                if decoder.streams.pop(name, None) is not None:
                    self._nursery.start_soon(self._end, worker, EndAnswer(decoder.number, name))
                send.close()
                receive.close()
        finally:
            self._under_way -= 1
            self._cache_bytes -= needed_bytes

    async def _begin(
        self,
        worker: Computes,
        stream: _Stream,
        name: str,
        question: Question,
        versions: Mapping[TileId, Version],
        experts: Experts | None,
        given: tuple[int, ...],
    ) -> _Decoder:
        tiles = self._tile_map.tiles if experts is None else self._tile_map.group_tiles(TRUNK)
        files = await self._tile_files([(tile.id, versions[tile.id]) for tile in tiles])
        decoder = next(
            (each for each in self._decoders.values() if each.versions == versions and each.experts is experts), None
        )
        if decoder is None:
            decoder = _Decoder(next(self._numbers), versions, experts)
            self._decoders[decoder.number] = decoder
            self._nursery.start_soon(self._decode, worker, decoder)
        job = BeginAnswer(
            decoder.number,
            files,
            name,
            question.prompt,
            question.tokens_max,
            question.temperature_micro / MILLION,
            0,
            question.seed,
            (END,),
            question.top_p_micro / MILLION,
            given,
        )
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
                        if decoder.experts is None:
                            raise InvariantBroken("a worker with all experts asked for rows")
                        outputs = await decoder.experts.compute(decoder.versions, reply)
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
        self._tokens += decoded.token >= 0
        stream.send.send_nowait(decoded)
        if decoded.ends:
            del decoder.streams[decoded.name]
            stream.send.close()


async def _call(worker: Computes, job: BeginAnswer | DecodeStep | EndAnswer) -> object:
    """A job's answer; raises ``Rejected``, with BUSY where the worker is not there."""
    try:
        return await worker.call(job, JOB_PATIENCE_SECONDS)
    except (JobLost, JobTimedOut, JobError) as failure:
        raise Rejected(Reason.BUSY, f"this node's worker did not go on: {failure}") from None
