"""A node without experts answers with those of its peers: the whole model's tokens, whatever comes and goes meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from functools import partial
from random import Random
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from compute.io.pool import JobLost
from compute.jobs import DecodeStep, EndAnswer
from compute.trainer import run_to_end
from node.adverts import Adverts
from node.services.answering import Answering, cache_bytes
from node.services.expert_client import open_expert_client
from node.services.expert_server import ExpertServer
from node.services.remote_experts import RemoteExperts
from protocol.ids import PeerId, TileId, Version
from protocol.learning import Advert
from protocol.limits import EXPERT_ROWS_BYTES_MAX
from protocol.rejection import Reason, Rejected
from simnet.virtual.learner import ModelDevice, made_report
from tests.node.memory_hosts import connected_hosts, no_report
from tests.node.worker_samples import Bench, answer, bench_in_memory

TOKENS = 12
ANSWERS = 64  # that fit, each with a whole context


@pytest.fixture(scope="module")
def bench() -> Bench:
    return bench_in_memory()


class Worker:
    """A worker whose jobs take a moment, one after the other; dead from some job on, if it is told so."""

    def __init__(self, bench: Bench, seconds: float = 0.002) -> None:
        self.main = bench.worker(ModelDevice(made_report("node")))
        self.seconds = seconds
        self.dies_after: int | None = None
        self.jobs: list[Any] = []
        self._one = trio.Lock()

    async def call(self, job: Any, timeout_seconds: float = 0.0) -> Any:
        async with self._one:
            self.jobs.append(job)
            if self.dies_after is not None and len(self.jobs) > self.dies_after:
                raise JobLost("it was killed")
            await trio.sleep(self.seconds)
            return run_to_end(self.main.work[type(job)](job))


class Known(Adverts):
    """Adverts of peers with a device."""

    def __init__(self, able: set[PeerId]) -> None:
        super().__init__()
        self.able = able

    def find(self, peer: PeerId) -> Advert | None:
        device = "cpu" if peer in self.able else ""
        return Advert((), "", (), device, 0, 0, 0, 0, 0, 0, 0, 0)  # type: ignore[arg-type]  # rounds and heights are numbers


class Village:
    """A node without experts, and holders."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.version = Version(0)
        self.door = Worker(bench)
        self.holders: list[Worker | None] = []
        self.answering: Answering

    async def tile_files(self, bases: Any) -> Any:
        by_name = {tile.tile: tile for tile in self.bench.tiles}
        return tuple(by_name[tile] for tile, version in bases)

    def newest(self, tile: TileId) -> Version:
        return self.version

    async def answer(self, prompt: str, tokens: int = TOKENS, temperature: float = 0.0) -> list[int]:
        async with self.answering.generate(list(prompt.encode()), tokens, temperature, 1) as decoded:
            return [token async for token in decoded]

    def whole(self, prompt: str, tokens: int = TOKENS, temperature: float = 0.0) -> list[int]:
        """What a worker with all of the model says."""
        job = replace(self.bench.answer(tokens), prompt=tuple(prompt.encode()), temperature=temperature, seed=1)
        return answer(self.bench.worker(ModelDevice(made_report("all"))), job)


def live(
    bench: Bench,
    holders: int,
    talk: Callable[[Village], Awaitable[None]],
    call_bytes_max: int = EXPERT_ROWS_BYTES_MAX,
    *,
    is_whole: bool = False,
) -> None:
    """A village with so many holders; ``is_whole``: whose door needs none."""

    async def main() -> None:
        village = Village(bench)
        async with (
            connected_hosts(holders + 1) as hosts,
            open_expert_client(hosts[0], Random(1), no_report) as client,
            trio.open_nursery() as nursery,
        ):
            for number, host in enumerate(hosts[1:]):
                village.holders.append(Worker(bench))
                ExpertServer(
                    host,
                    bench.tile_map,
                    village.newest,
                    village.tile_files,
                    lambda number=number: village.holders[number],
                )
            cache_bytes_of = partial(cache_bytes, bench.genesis.model)
            experts = RemoteExperts(
                hosts[0],
                Known({host.peer_id for host in hosts[1:]}),
                client,
                bench.tile_map,
                row_bytes=4 * bench.genesis.model.width,
                call_bytes_max=call_bytes_max,
            )
            nursery.start_soon(experts.run)
            village.answering = Answering(
                bench.tile_map,
                village.newest,
                village.tile_files,
                lambda: village.door,
                nursery,
                None if is_whole else experts,
                cache_bytes_of=cache_bytes_of,
                cache_bytes_max=ANSWERS * cache_bytes_of(bench.genesis.model.context),
            )
            await trio.sleep(0.1)
            await talk(village)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_node_without_experts_says_what_the_whole_model_says(bench: Bench) -> None:
    """Token for token, greedy and sampled; every expert was computed by a peer, and the decoder goes with its last answer."""

    async def talk(village: Village) -> None:
        for prompt, temperature in (("def ", 0.0), ("return self", 1.0)):
            assert await village.answer(prompt, TOKENS, temperature) == village.whole(prompt, TOKENS, temperature)
        assert not any(type(job).__name__ == "ComputeExpert" for job in village.door.jobs)
        assert all(worker is not None and worker.jobs for worker in village.holders)
        await trio.sleep(1.0)
        assert [job.name for job in village.door.jobs if isinstance(job, EndAnswer)] == ["", ""]

    live(bench, 2, talk)


def test_a_node_with_all_experts_asks_nobody(bench: Bench) -> None:
    """Its worker alone decodes, many answers in a step: of twenty each says what it says alone."""

    async def talk(village: Village) -> None:
        said: dict[str, list[int]] = {}

        async def ask(prompt: str) -> None:
            said[prompt] = await village.answer(prompt)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, f"method_{number}(")
        for prompt, tokens in said.items():
            assert tokens == village.whole(prompt), prompt
        steps = sum(isinstance(job, DecodeStep) for job in village.door.jobs)
        assert steps < 2 * TOKENS + 20
        assert all(worker is not None and not worker.jobs for worker in village.holders)
        statistics = village.answering.statistics()
        assert (statistics.under_way, statistics.begun, statistics.given_up) == (0, 20, 0)
        assert statistics.tokens == sum(map(len, said.values()))

    live(bench, 1, talk, is_whole=True)


def test_answers_share_steps_and_none_is_mixed_up_with_another(bench: Bench) -> None:
    """Twenty come one after the other while others are under way; some are left in the middle: all others are as if alone."""
    prompts = [f"method_{number}(" for number in range(20)]

    async def talk(village: Village) -> None:
        said: dict[str, list[int]] = {}

        async def ask(prompt: str, delay: float) -> None:
            await trio.sleep(delay)
            said[prompt] = await village.answer(prompt)

        async def leave(delay: float) -> None:
            await trio.sleep(delay)
            async with village.answering.generate([65], 200, 0.0, 1) as decoded, aclosing(decoded) as tokens:
                async for _ in tokens:
                    break

        async with trio.open_nursery() as nursery:
            for number, prompt in enumerate(prompts):
                nursery.start_soon(ask, prompt, 0.01 * number)
                nursery.start_soon(leave, 0.013 * number)
        for prompt in prompts:
            assert said[prompt] == village.whole(prompt), prompt
        steps = sum(isinstance(job, DecodeStep) for job in village.door.jobs)
        assert steps < 20 * TOKENS * (bench.genesis.model.layers + 1) / 2  # they were not alone

    live(bench, 2, talk)


def test_an_answer_survives_its_holders_one_by_one(bench: Bench) -> None:
    """Two of three stop computing in the middle: no token is lost or said twice, and none takes three seconds."""

    async def talk(village: Village) -> None:
        said: list[int] = []
        gaps: list[float] = []
        before = trio.current_time()
        async with village.answering.generate(list(b"def "), 40, 0.0, 1) as decoded:
            async for token in decoded:
                gaps.append(trio.current_time() - before)
                before = trio.current_time()
                said.append(token)
                if len(said) in (10, 20):
                    village.holders[len(said) // 10 - 1] = None
        assert said == village.whole("def ", 40)
        assert max(gaps) < 3.0

    live(bench, 3, talk)


def test_what_cannot_go_on_ends_with_its_reason(bench: Bench) -> None:
    """Nobody computes any more, or the worker dies: all answers under way end so, and later ones begin anew."""

    async def fail(village: Village, prompt: str) -> None:
        with pytest.raises(Rejected) as refused:
            await village.answer(prompt, 200)
        assert refused.value.reason is Reason.BUSY

    async def talk(village: Village) -> None:
        holders = list(village.holders)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, village, "def ")
            nursery.start_soon(fail, village, "return ")
            await trio.sleep(0.2)
            village.holders[:] = [None, None]
        village.holders[:] = holders
        assert await village.answer("def ") == village.whole("def ")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, village, "def ")
            await trio.sleep(0.2)
            village.door.dies_after = len(village.door.jobs)
        village.door = Worker(bench)  # as the supervisor starts the next one
        assert await village.answer("def ") == village.whole("def ")
        with pytest.raises(Rejected, match="no token"):
            await village.answer("")

    live(bench, 2, talk)


def test_more_rows_than_a_call_takes_go_in_several(bench: Bench) -> None:
    """A long prompt through a wide model: no call is larger than may be, and the text is the same."""
    row_bytes = 4 * bench.genesis.model.width
    sizes: list[int] = []

    async def talk(village: Village) -> None:
        for worker in village.holders:
            assert worker is not None
            worker.seconds = 0.0
        assert await village.answer("def method(self):") == village.whole("def method(self):")
        sizes.extend(len(job.rows) for worker in village.holders if worker is not None for job in worker.jobs)

    live(bench, 2, talk, call_bytes_max=3 * row_bytes + 1)
    assert max(sizes) == 3 * row_bytes


def test_an_answer_that_is_left_while_it_begins_is_ended(bench: Bench) -> None:
    """The worker is told, or it would go on decoding for nobody beside those who stay."""

    async def talk(village: Village) -> None:
        async def stay() -> None:
            assert await village.answer("def ", 40) == village.whole("def ", 40)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay)
            await trio.sleep(0.1)
            village.door.seconds = 0.5
            with trio.move_on_after(0.2) as left:
                async with village.answering.generate([65], 1000, 0.0, 1):
                    raise AssertionError("it began at once")
            assert left.cancelled_caught
            village.door.seconds = 0.002
        named = [job.name for job in village.door.jobs if isinstance(job, EndAnswer) and job.name]
        assert len(named) == 1

    live(bench, 2, talk)


def test_where_nobody_computes_that_is_said_at_once(bench: Bench) -> None:
    """Before anything is begun, and without waiting for anybody."""

    async def talk(village: Village) -> None:
        with pytest.raises(Rejected, match="no peer that is connected computes experts"):
            await village.answer("def ")
        assert village.door.jobs == []
        assert trio.current_time() < 5.0

    live(bench, 0, talk)


def test_no_more_answers_than_there_is_room_for(bench: Bench) -> None:
    """Whoever comes when it is full is told so; a version that comes meanwhile is another decoder's."""

    async def talk(village: Village) -> None:
        async with AsyncExitStack() as opened:
            for number in range(ANSWERS):
                village.version = Version(number % 2)
                await opened.enter_async_context(village.answering.generate([65], 1000, 0.0, 1))
            with pytest.raises(Rejected) as refused:
                await village.answer("def ")
            assert refused.value.reason is Reason.BUSY
            begun = {job.decoder for job in village.door.jobs if type(job).__name__ == "BeginAnswer"}
            assert len(begun) == 2
        await trio.sleep(5.0)
        assert await village.answer("def ") == village.whole("def ")

    live(bench, 2, talk)
