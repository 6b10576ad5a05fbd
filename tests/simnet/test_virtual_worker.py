"""A learner's process that is none: what its node hears of it, and when, in virtual time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from compute.io.pool import JobError, JobLost, JobTimedOut, WorkerHandle
from compute.jobs import (
    Decoded,
    DecodedToken,
    DecodeStep,
    EvaluateDone,
    Hello,
    JobFailed,
    LearnDone,
    Noted,
    Progress,
    Ready,
    Shutdown,
)
from compute.model.tiling import TileMap
from compute.trainer import Device, run_to_end
from protocol.ids import PeerId, TileId, Version
from protocol.rejection import Reason, Rejected
from simnet.compute import Valley
from simnet.villains import Conspiracy, Villain
from simnet.villains.sign_flipped import SignFlipped
from simnet.virtual.disk import Pool, VirtualDisk
from simnet.virtual.learner import AnalyticDevice, Landscape, ModelDevice, made_report
from simnet.virtual.worker import TOKEN_SECONDS, NamedFiles, VirtualWorker
from tests.node.worker_samples import LEARNER, bench_in_memory, bench_on_disk, found, three_rounds

LEARN_SECONDS = 100.0
EVALUATE_SECONDS = 7.0
REPORT = made_report("bench")


class Machine:
    """A simulated disk with a bench on it, and a worker that reads it."""

    def __init__(self, villain: Callable[[Conspiracy], Villain] | None = None, device: Device | None = None) -> None:
        self.disk = VirtualDisk("peer-007", Pool())
        self.bench = bench_in_memory(self.disk)
        self.conspiracy = Conspiracy(0)
        self.landscape = Landscape(Valley(self.bench.tile_map, bytes(32)), self.conspiracy)
        self.device = device or AnalyticDevice(self.landscape, REPORT, villain(self.conspiracy) if villain else None)
        self.log: list[str] = []
        self.worker = self.make_worker(self.bench.greeting)

    def make_worker(self, greeting: Hello) -> VirtualWorker:
        return VirtualWorker(
            self.device,
            NamedFiles(self.disk.files, self.disk.name_of),
            greeting=greeting,
            learn_seconds=LEARN_SECONDS,
            evaluate_seconds=EVALUATE_SECONDS,
            on_log=self.log.append,
        )


def run(test: Callable[[Machine], Awaitable[Any]], machine: Machine | None = None) -> Any:
    """The result of ``test`` beside a running worker, in virtual time."""
    machine = machine or Machine()

    async def main() -> Any:
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.worker.run)
            result = await test(machine)
            nursery.cancel_scope.cancel()
        assert machine.worker.statistics().process is None
        return result

    return trio.run(main, clock=MockClock(autojump_threshold=0))


async def timed(worker: WorkerHandle, job: Any) -> list[tuple[float, Any]]:
    """Every reply, with the seconds since it was asked for."""
    began = trio.current_time()
    async with worker.stream(job) as replies:
        return [(trio.current_time() - began, reply) async for reply in replies]


def test_a_made_worker_is_greeted_and_says_its_device() -> None:
    """As every child: before any job. Its process is a number that the run decides."""

    async def test(machine: Machine) -> None:
        assert await machine.worker.wait_greeted() == Ready(REPORT, 1)
        assert machine.worker.statistics().process == 1

    run(test)


def test_a_genesis_that_is_none_is_refused_at_the_greeting() -> None:
    """By the worker's own check."""
    machine = Machine()
    machine.worker = machine.make_worker(Hello("cpu", 1, b"no genesis"))

    async def test(machine: Machine) -> Any:
        return await machine.worker.wait_greeted()

    refusal = run(test, machine)
    assert isinstance(refusal, JobFailed)
    assert refusal.code == Reason.MALFORMED.code


def test_a_round_takes_the_time_that_it_was_told() -> None:
    """Its steps are spread over it; the deltas are those of the same program without a clock, and say how long it was."""

    async def test(machine: Machine) -> None:
        bench = machine.bench
        replies = await timed(machine.worker, bench.first)
        steps = bench.genesis.learning.inner_steps
        assert [at for at, _ in replies] == pytest.approx(
            [LEARN_SECONDS * (step + 1) / steps for step in range(steps)] + [LEARN_SECONDS]
        )
        assert [type(reply) for _, reply in replies] == [Progress] * steps + [LearnDone]
        done = replies[-1][1]
        assert done.milliseconds == pytest.approx(1000 * LEARN_SECONDS, abs=1)
        assert done.deltas == run_to_end(bench.worker(machine.device).learn(bench.first)).deltas

    run(test)


def test_what_is_urgent_goes_first_and_takes_its_time() -> None:
    """An answer goes before an evaluation, which goes before a round; each ends later by what went before it."""

    async def test(machine: Machine) -> None:
        ends: dict[str, float] = {}

        async def ask(name: str, job: Any, after: float) -> None:
            await trio.sleep(after)
            await machine.worker.call(job)
            ends[name] = trio.current_time() - began

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "learning", machine.bench.first, 0)
            nursery.start_soon(ask, "evaluation", machine.bench.evaluation, 30)
            nursery.start_soon(ask, "begin", machine.bench.answer(20), 31)
            for _ in range(20):
                nursery.start_soon(ask, "tokens", DecodeStep(1, ()), 32)
        urgent_seconds = EVALUATE_SECONDS + 20 * TOKEN_SECONDS
        assert ends == pytest.approx(
            {
                "begin": 31,
                "tokens": 32 + 20 * TOKEN_SECONDS,
                "evaluation": 30 + urgent_seconds,
                "learning": LEARN_SECONDS + urgent_seconds,
            }
        )

    run(test)


def test_an_evaluation_is_the_loss_of_the_versions_that_it_names() -> None:
    """Computed once in the whole world, and forgotten when there are many others."""

    async def test(machine: Machine) -> None:
        done = await machine.worker.call(machine.bench.evaluation)
        assert isinstance(done, EvaluateDone)
        assert done.loss_micro == round(machine.landscape.valley.loss(machine.bench.weights) * 1_000_000)
        assert len(machine.landscape.losses) == 1
        context = machine.bench.genesis.model.context
        assert done.tokens == 16 * context

    run(test)


def test_an_answer_comes_token_by_token() -> None:
    """As many as were asked for, at the pace of a reader."""

    async def test(machine: Machine) -> None:
        assert await machine.worker.call(machine.bench.answer(3)) == Noted()
        began = trio.current_time()
        for token in range(3):
            said = await machine.worker.call(DecodeStep(1, ()))
            assert said == Decoded((DecodedToken("a", token, token == 2),))
        assert trio.current_time() - began == pytest.approx(3 * TOKEN_SECONDS)

    run(test)


def test_leaving_a_round_gives_it_up_at_once() -> None:
    """The next one begins anew in the same child, and nothing was written for the one that was left."""

    async def test(machine: Machine) -> None:
        async with machine.worker.stream(machine.bench.first) as replies:
            await anext(replies)
        began = trio.current_time()
        done = await machine.worker.call(machine.bench.first)
        assert trio.current_time() - began == pytest.approx(LEARN_SECONDS)
        assert isinstance(done, LearnDone)
        assert machine.worker.statistics().starts == 1
        with pytest.raises(JobTimedOut):
            await machine.worker.call(replace(machine.bench.first, round=1), timeout_seconds=LEARN_SECONDS / 2)
        assert machine.disk.files.names("learner") == ["learner/round-00000000.npz"]

    run(test)


def test_a_call_that_waits_can_be_cancelled_before_it_began() -> None:
    """It waited behind a round, and its caller left."""

    async def test(machine: Machine) -> None:
        async with machine.worker.stream(machine.bench.first) as replies:
            with pytest.raises(JobTimedOut):
                await machine.worker.call(replace(machine.bench.first, round=1), timeout_seconds=1)
            assert [type(reply) async for reply in replies][-1] is LearnDone
        assert machine.disk.files.names("learner") == ["learner/round-00000000.npz"]

    run(test)


def test_a_worker_that_is_killed_loses_its_calls_and_is_replaced() -> None:
    """JobLost; nothing was written. The next child goes on from the state file, to the same bytes as if nothing had been."""

    async def test(machine: Machine) -> None:
        worker, bench = machine.worker, machine.bench
        first = await worker.call(bench.first)
        assert isinstance(first, LearnDone)
        job = replace(bench.first, round=1, state_path=first.state_path, lost=first.deltas[:1])
        async with worker.stream(job) as replies:
            await anext(replies)
            worker.kill()
            with pytest.raises(JobLost):
                async for _ in replies:
                    pass
        assert machine.disk.files.names("learner") == ["learner/round-00000000.npz"]
        assert await worker.wait_greeted() == Ready(REPORT, 2)
        again = await worker.call(job)
        assert isinstance(again, LearnDone)
        assert again.deltas == run_to_end(bench.worker(machine.device).learn(job)).deltas
        assert worker.statistics().lost == 1

    run(test)


def test_a_worker_that_is_told_to_shut_down_is_replaced_too() -> None:
    """Its end is an end like any other."""

    async def test(machine: Machine) -> None:
        with pytest.raises(JobLost):
            await machine.worker.call(Shutdown())
        assert isinstance(await machine.worker.call(machine.bench.evaluation), EvaluateDone)
        assert machine.worker.statistics().starts == 2

    run(test)


def test_refusals_and_failures_of_the_disk_are_told_as_a_process_tells_them() -> None:
    """A corrupt tile is Rejected; a full disk is an error that says so, and nobody's bug; the child lives."""

    async def test(machine: Machine) -> None:
        bad = (replace(machine.bench.tiles[0], path="peer-008/elsewhere"), *machine.bench.tiles[1:])
        with pytest.raises(Rejected) as refused:
            await machine.worker.call(replace(machine.bench.first, tiles=bad))
        assert refused.value.reason is Reason.TILE_CORRUPT
        machine.disk.is_full = True
        with pytest.raises(JobError, match="no space left") as failed:
            await machine.worker.call(machine.bench.first)
        assert failed.value.code == "error"
        machine.disk.is_full = False
        assert isinstance(await machine.worker.call(machine.bench.first), LearnDone)
        assert machine.worker.statistics().starts == 1
        assert not machine.log

    run(test)


def test_a_bug_of_a_device_is_told_in_the_log() -> None:
    """With where it happened, as a process prints it; the child lives on."""

    class Broken(AnalyticDevice):
        def trainer(self, *_: Any) -> Any:
            raise ZeroDivisionError("a bug")

    async def test(machine: Machine) -> None:
        with pytest.raises(JobError, match="ZeroDivisionError: a bug"):
            await machine.worker.call(machine.bench.first)
        assert isinstance(await machine.worker.call(machine.bench.evaluation), EvaluateDone)
        assert machine.log[0].startswith("Traceback")
        assert any("a bug" in line for line in machine.log)

    genesis = found()[0]
    valley = Valley(TileMap.from_shape(genesis.model, genesis.tile_bytes), bytes(32))
    run(test, Machine(device=Broken(Landscape(valley, Conspiracy(0)), REPORT)))


def test_a_made_worker_says_what_a_process_says(tmp_path: Any) -> None:
    """Three rounds with a withheld tile and a lost delta: the deltas of a program on a real disk, without a clock."""

    async def test(machine: Machine) -> list[LearnDone]:
        bench, said = machine.bench, []
        tile = bench.tile_map.ids[0]
        said.append(await machine.worker.call(bench.first))
        lost = next(delta for delta in said[0].deltas if delta.tile == tile)
        job = replace(bench.first, round=1, state_path=said[-1].state_path, withheld=(tile,))
        said.append(await machine.worker.call(job))
        job = replace(bench.first, round=2, state_path=said[-1].state_path, lost=(lost,))
        said.append(await machine.worker.call(job))
        return said

    for device in (None, ModelDevice(REPORT)):
        machine = Machine(device=device)
        real = bench_on_disk(tmp_path)
        expected, _ = three_rounds(real, real.worker(machine.device))
        assert [done.deltas for done in run(test, machine)] == [done.deltas for done in expected]


# -- villains -----------------------------------------------------------------------------------------------------------


def test_a_villain_says_its_own_change_and_the_honest_are_seen() -> None:
    """Opposite signs go through the same compression; only an honest learner's changes are told to those who conspire."""

    async def test(machine: Machine) -> tuple[LearnDone, int]:
        done = await machine.worker.call(machine.bench.first)
        return done, sum(len(machine.conspiracy.seen(tile, 0)) for tile in machine.bench.tile_map.ids)

    honest, seen = run(test)
    turned, unseen = run(test, Machine(lambda conspiracy: SignFlipped(PeerId(LEARNER), 0, conspiracy)))
    assert (seen, unseen) == (len(honest.deltas), 0)
    assert len(turned.deltas) == len(honest.deltas)
    assert turned.deltas != honest.deltas


def test_a_villain_may_say_nothing_of_a_tile() -> None:
    """Then it has no delta, and nothing waits in the residual."""

    class Silent(Villain):
        def change(self, tile: TileId, round_number: int, base: Version, weights_N: Any, honest_N: Any) -> Any:
            return None if tile == "trunk/0" else honest_N

    async def test(machine: Machine) -> None:
        done = await machine.worker.call(machine.bench.first)
        said = [delta.tile for delta in done.deltas]
        assert said == sorted(set(machine.bench.tile_map.ids) - {"trunk/0"})
        assert sorted(machine.bench.residuals(done)) == said

    run(test, Machine(lambda conspiracy: Silent(PeerId(LEARNER), 0, conspiracy)))


def test_wrong_labels_are_learned_from_before_anything_is_said() -> None:
    """Who flips labels is given as honest what it found with them; others are not."""
    given: list[Any] = []

    class Flipped(Villain):
        FLIPS_LABELS: ClassVar[bool] = True

        def change(self, tile: TileId, round_number: int, base: Version, weights_N: Any, honest_N: Any) -> Any:
            given.append((tile, weights_N, honest_N))
            return honest_N

    async def test(machine: Machine) -> None:
        await machine.worker.call(machine.bench.first)
        steps = machine.bench.genesis.learning.inner_steps
        for tile, weights_N, honest_N in given:
            expected = machine.landscape.valley.change(tile, weights_N, PeerId(LEARNER), 0, steps, flipped=True)
            assert (honest_N == expected).all()

    run(test, Machine(lambda conspiracy: Flipped(PeerId(LEARNER), 0, conspiracy)))
    assert given


# -- one seed, one run --------------------------------------------------------------------------------------------------

RUN = "from tests.simnet.test_virtual_worker import what_was_said; print(what_was_said())"


def what_was_said() -> str:
    """The digest of all replies with their times, and of all state files, of three rounds with evaluations between them."""

    async def test(machine: Machine) -> list[Any]:
        said: list[Any] = []
        state = ""
        for number in range(3):
            said += await timed(machine.worker, replace(machine.bench.first, round=number, state_path=state))
            state = said[-1][1].state_path
            said.append(bytes(machine.bench.files.map(state)))
            said += await timed(machine.worker, machine.bench.evaluation)
        return said

    return hashlib.sha256(repr(run(test)).encode()).hexdigest()


def test_two_processes_with_other_hashes_say_the_same() -> None:
    """Replies, their times and the state files, to the byte."""
    said = {
        subprocess.run(
            [sys.executable, "-c", RUN], capture_output=True, check=True, env=os.environ | {"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("0", "1")
    }
    assert len(said) == 1
