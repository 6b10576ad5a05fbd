"""A node without experts answers with those of its peers: the whole model's tokens, whatever comes and goes meanwhile."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio

from compute.jobs import DecodeStep, EndAnswer
from protocol.ids import Version
from protocol.rejection import Reason, Rejected
from tests.node.village import ANSWERS, TOKENS, Village, Worker, live
from tests.node.worker_samples import Bench, bench_in_memory


@pytest.fixture(scope="module")
def bench() -> Bench:
    return bench_in_memory()


def test_a_node_without_experts_says_what_the_whole_model_says(bench: Bench) -> None:
    """Token for token, greedy and sampled; every expert was computed by a peer, and the decoder goes with its last answer."""

    async def talk(village: Village) -> None:
        for prompt, temperature in (("def ", 0.0), ("return self", 1.0)):
            assert await village.answer(prompt, TOKENS, temperature) == village.whole(prompt, TOKENS, temperature)
        again = sum(type(job).__name__ == "ComputeExpert" for job in village.door.jobs)
        assert (
            again == village.client.check_statistics().checked < 20
        )  # the door has no expert, but it looks at some answers
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
            async with village.answering.generate([65], 200, 0.0, 1) as decoded:
                async for _ in decoded:
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
