"""Holders who give something else than an expert makes of rows: found, left alone, and what they gave is used by nobody."""

from __future__ import annotations

from collections import Counter
from typing import Any, NoReturn

import numpy as np
import pytest
import trio

from compute.io.pool import JobLost
from compute.jobs import Noted, TileFile
from compute.spot_checks import Record, SpotCheckRule
from protocol.experts import ExpertSlice
from protocol.ids import PeerId, Version
from protocol.rejection import Reason, Rejected
from simnet.virtual.learner import ModelDevice, made_report
from simnet.wrong_experts import ALWAYS_WRONG, SeldomDevice
from tests.node.village import Village, live
from tests.node.worker_samples import Bench, bench_in_memory

QUARANTINE_SECONDS = 300.0


@pytest.fixture(scope="module")
def bench() -> Bench:
    return bench_in_memory()


class Blame:
    """Who was reported, and why."""

    def __init__(self) -> None:
        self.reasons: Counter[tuple[PeerId, Reason]] = Counter()

    def __call__(self, peer: PeerId, refusal: Rejected) -> None:
        self.reasons[peer, refusal.reason] += 1


def next_version(bench: Bench) -> tuple[TileFile, ...]:
    """The bench's tiles after a round: each value a little off."""
    generator = np.random.default_rng(1)
    return tuple(
        bench.store_tile(
            tile,
            values + 0.02 * np.std(values) * generator.standard_normal(values.size, np.float32),
            bench.path(f"next-{index}"),
        )
        for index, (tile, values) in enumerate(bench.weights.items())
    )


@pytest.mark.parametrize("kind", sorted(ALWAYS_WRONG))
def test_whoever_computes_something_else_is_found_before_it_is_believed(bench: Bench, kind: str) -> None:
    """Of three one lies from its first answer on: the text is the whole model's, and the liar alone is in quarantine."""
    blame = Blame()

    async def talk(village: Village) -> None:
        if kind == "stale":  # it was right, until there was something newer
            model = bench.genesis.model
            while village.client.records().get(village.peers[0], Record()).believed < model.layers * model.experts:
                assert await village.answer("def ", 40, 1.0) == village.whole("def ", 40, 1.0)
            assert blame.reasons == {}
            village.tiles[1] = next_version(bench)
            village.version = Version(1)
        for prompt in ("def ", "return "):
            assert await village.answer(prompt, 24) == village.whole(prompt, 24)
        liar, *honest = village.peers
        assert list(village.client.quarantined_seconds()) == [liar]
        assert village.client.quarantined_seconds()[liar] <= QUARANTINE_SECONDS
        assert set(blame.reasons) == {(liar, Reason.WRONG_ROWS)}
        records = village.client.records()
        assert all(records[peer].wrong == 0 and records[peer].checked > 0 for peer in honest)
        assert all(records[peer].deviation_micro_max < 10 for peer in honest)

    live(bench, 3, talk, devices=[ALWAYS_WRONG[kind]("liar")], report=blame, rule=SpotCheckRule(one_in=8))


def test_whoever_lies_now_and_then_is_found_too(bench: Bench) -> None:
    """It is right as long as it is new, and then wrong once in ten answers; each is looked at with the same chance."""
    blame = Blame()
    found_after: list[int] = []

    async def talk(village: Village) -> None:
        liar = village.peers[0]
        while not blame.reasons:
            await village.answer("def ", 40)
        found_after.append(village.client.records()[liar].answers)
        assert set(blame.reasons) == {(liar, Reason.WRONG_ROWS)}
        assert await village.answer("def ", 24) == village.whole("def ", 24)

    live(bench, 3, talk, devices=[SeldomDevice("liar")], report=blame, rule=SpotCheckRule(one_in=8))
    assert found_after[0] < 1_000  # 80 on average; as many as this once in 300,000 runs


def test_after_five_minutes_it_must_be_right_once_before_it_is_believed(bench: Bench) -> None:
    """Who still lies is away again at its first answer, which nobody uses; who was mended takes part again."""
    blame = Blame()

    async def talk(village: Village) -> None:
        liar = village.peers[0]

        async def wrong_once_more() -> None:
            before = village.client.records()[liar]
            while liar not in village.client.quarantined_seconds():
                assert await village.answer("def ") == village.whole("def ")
            assert village.client.records()[liar].wrong > before.wrong

        assert await village.answer("def ") == village.whole("def ")
        assert liar in village.client.quarantined_seconds()
        asked = village.client.records()[liar].answers
        assert await village.answer("return ") == village.whole("return ")
        assert village.client.records()[liar].answers == asked  # nobody asked it
        await trio.sleep(QUARANTINE_SECONDS)
        await wrong_once_more()

        holder = village.holders[0]
        assert holder is not None
        holder.main = bench.worker(ModelDevice(made_report("mended")))
        village.client.recover(liar)  # its owner says so; else it would be five minutes
        while village.client.records()[liar].believed < 2:
            assert await village.answer("def ") == village.whole("def ")
        village.client.quarantine(liar)
        assert list(village.client.quarantined_seconds()) == [liar]

    live(bench, 2, talk, devices=[ALWAYS_WRONG["noise"]("liar")], report=blame, rule=SpotCheckRule(one_in=8))


class Dying:
    """A worker of which each job is lost."""

    async def call(self, job: object, timeout_seconds: float = 0.0) -> NoReturn:
        raise JobLost("it was killed")


class Confused:
    """A worker that answers something else."""

    async def call(self, job: object, timeout_seconds: float = 0.0) -> Noted:
        return Noted()


@pytest.mark.parametrize("worker", [None, Dying(), Confused(), "no files"])
def test_what_cannot_be_looked_at_is_used(bench: Bench, worker: Any) -> None:
    """A door whose worker is gone, or whose tiles were pruned just now, blames nobody for it."""

    async def talk(village: Village) -> None:
        async def no_files(bases: object) -> tuple[()]:
            return ()

        audit = village.client._audit
        assert audit is not None
        if worker == "no files":
            audit._tile_files = no_files
        else:
            audit._find_worker = lambda: worker
        assert await village.answer("def ") == village.whole("def ")
        statistics = village.client.check_statistics()
        assert (statistics.checked, statistics.wrong, statistics.open) == (0, 0, 0)
        assert statistics.unknown == statistics.answers > 0

    live(bench, 2, talk)


def test_a_look_goes_on_when_nobody_waits_for_the_answer(bench: Bench) -> None:
    """A caller that leaves, or another holder that was faster, does not save a liar that had answered; it is told of once."""
    blame = Blame()

    async def talk(village: Village) -> None:
        village.door.seconds = 1.0
        expert = ExpertSlice("layer0.expert1")
        versions = [Version(0)] * len(village.bench.tile_map.group_tiles(expert.expert))
        rows = np.ones((2, village.bench.genesis.model.width), "<f4").tobytes()
        async with trio.open_nursery() as nursery:  # several, of which all are wrong
            nursery.cancel_scope.deadline = trio.current_time() + 0.1
            for _ in range(3):
                nursery.start_soon(village.client.call, expert, versions, rows, 5.0)
        assert village.client.check_statistics().open == 3
        await trio.sleep(4.0)
        assert village.client.check_statistics().wrong == 3
        assert village.client.check_statistics().open == 0
        assert list(village.client.quarantined_seconds()) == village.peers
        assert sum(blame.reasons.values()) == 1

    live(bench, 1, talk, devices=[ALWAYS_WRONG["noise"]("liar")], report=blame)
