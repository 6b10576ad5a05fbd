"""A worker process is watched, fed, cancelled, replaced, and never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import trio

from compute.io.pool import JobError, JobLost, JobTimedOut, Worker, worker_environment
from compute.jobs import (
    Dataset,
    Decoded,
    DecodeStep,
    Evaluate,
    EvaluateDone,
    Hello,
    JobFailed,
    Learn,
    LearnDone,
    Progress,
    Ready,
)
from protocol.rejection import Reason, Rejected

FAKE_WORKER = [sys.executable, str(Path(__file__).with_name("fake_worker.py"))]
TORCH_WORKER = [sys.executable, str(Path(__file__).with_name("torch_worker.py"))]
REPOSITORY = str(Path(__file__).parents[2])
DATASET = Dataset(bytes(32), ())


def learn(rounds, gate=""):
    return Learn(rounds, b"", (), DATASET, (), "", gate)


def evaluate(what):
    return Evaluate((), DATASET, what)


def run_with_worker(test, argv=FAKE_WORKER, **options):
    """Run `test(worker, log)` beside a supervised worker, a fake one, with a deadline that only a hang meets."""
    log = []

    @asynccontextmanager
    async def running():
        environment = worker_environment() | {"PYTHONPATH": REPOSITORY}
        worker = Worker(argv, on_log=log.append, environment=environment, **options)
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            yield worker
            nursery.cancel_scope.cancel()

    async def main():
        with trio.fail_after(60):
            async with running() as worker:
                await test(worker, log)
            assert worker.statistics().process is None

    trio.run(main)


def test_calls_are_answered():
    """Each by its own answer, also when several wait."""

    async def test(worker, log):
        assert isinstance(await worker.call(evaluate(0)), EvaluateDone)
        answers = []

        async def ask(count):
            answers.append(await worker.call(learn(count)))

        async with trio.open_nursery() as nursery:
            for count in (1, 2, 3):
                nursery.start_soon(ask, count)
        assert sorted(answer.round for answer in answers) == [1, 2, 3]
        assert worker.statistics().answered == 4
        assert worker.statistics().open_calls == 0

    run_with_worker(test)


def test_replies_stream_in_order():
    """Steps as they are done, the final reply last."""

    async def test(worker, log):
        async with worker.stream(learn(3)) as replies:
            said = [reply async for reply in replies]
        assert said == [*(Progress(step, 3, 0.0) for step in range(3)), LearnDone(3, (), "", 3, 0.0, 0)]

    run_with_worker(test)


def test_decoding_is_served_between_two_steps_of_learning(tmp_path):
    """While learning waits at its gate, a step of decoding begins and ends; then learning goes on to its own end."""

    async def test(worker, log):
        gate = tmp_path / "gate"
        async with worker.stream(learn(2, str(gate))) as steps:
            assert await worker.call(DecodeStep(1, ())) == Decoded(())
            gate.touch()
            assert [type(reply) async for reply in steps] == [Progress, Progress, LearnDone]

    run_with_worker(test)


def test_learning_waits_for_learning(tmp_path):
    """Equal urgency never interrupts: the second round begins after the first ended."""

    async def test(worker, log):
        gate = tmp_path / "gate"
        async with worker.stream(learn(1, str(gate))) as first, worker.stream(learn(1)) as second:
            gate.touch()
            assert [type(reply) async for reply in first] == [Progress, LearnDone]
            assert [type(reply) async for reply in second] == [Progress, LearnDone]

    run_with_worker(test)


def test_a_crash_fails_the_open_calls_and_a_new_child_serves_the_next():
    """JobLost, never a hang, for the call that crashed it and for one that waited behind."""

    async def test(worker, log):
        lost = []

        async def ask(job):
            try:
                await worker.call(job)
            except JobLost:
                lost.append(job)

        async with trio.open_nursery() as nursery, worker.stream(learn(0)) as steps:
            assert isinstance(await anext(steps), Progress)
            nursery.start_soon(ask, evaluate(1))
            with pytest.raises(JobLost):
                async for _ in steps:
                    pass
        assert lost == [evaluate(1)]
        assert isinstance(await worker.call(evaluate(0)), EvaluateDone)
        assert worker.statistics().starts == 2
        assert worker.statistics().lost == 2

    run_with_worker(test, grace_seconds=0.05)


def test_a_child_killed_from_outside_is_replaced():
    """kill -9 of the child is a crash like any other."""

    async def test(worker, log):
        async with worker.stream(learn(0)) as steps:
            await anext(steps)
            os.kill(worker.statistics().process, signal.SIGKILL)
            with pytest.raises(JobLost):
                async for _ in steps:
                    pass
        assert isinstance(await worker.call(evaluate(0)), EvaluateDone)

    run_with_worker(test)


def test_a_call_that_takes_too_long_is_cancelled_in_the_child():
    """The caller gets JobTimedOut, the child its time back, and it is the same child."""

    async def test(worker, log):
        process = worker.statistics().process
        with pytest.raises(JobTimedOut):
            await worker.call(learn(0), timeout_seconds=0.2)
        assert isinstance(await worker.call(learn(1)), LearnDone)
        assert worker.statistics().process == process

    run_with_worker(test)


def test_a_child_that_does_not_end_a_cancelled_call_is_killed():
    """A hung kernel reaches no checkpoint: after the grace the process is replaced, and what waited behind it is lost."""

    async def test(worker, log):
        async with worker.stream(evaluate(3)) as replies:
            await anext(replies)  # now it hangs, and is left
        with pytest.raises(JobLost):
            await worker.call(evaluate(0))
        assert isinstance(await worker.call(evaluate(0)), EvaluateDone)
        assert worker.statistics().starts == 2
        assert any("killing" in line for line in log)

    run_with_worker(test, grace_seconds=0.5)


def test_a_cancelled_call_that_waits_behind_a_long_one_costs_nobody_the_child():
    """It has not begun and cannot for as long as the other runs; it ends all the same, well within the grace."""

    async def test(worker, log):
        async with worker.stream(learn(0)) as steps:
            await anext(steps)
            async with worker.stream(learn(1)):
                assert worker.statistics().open_calls == 2
            while worker.statistics().open_calls == 2:
                assert isinstance(await anext(steps), Progress)
        assert worker.statistics().starts == 1

    run_with_worker(test)


def test_leaving_a_stream_cancels_its_job():
    """The endless round ends when nobody listens."""

    async def test(worker, log):
        async with worker.stream(learn(0)) as steps:
            await anext(steps)
        assert isinstance(await worker.call(learn(1)), LearnDone)
        assert worker.statistics().starts == 1

    run_with_worker(test)


def test_a_handlers_refusal_and_a_handlers_bug_are_told_apart():
    """Rejected arrives as Rejected; anything else as JobError with its text, and the child lives on."""

    async def test(worker, log):
        with pytest.raises(Rejected) as refused:
            await worker.call(evaluate(2))
        assert refused.value.reason is Reason.BAD_SHAPE
        with pytest.raises(JobError, match="a bug") as failed:
            await worker.call(evaluate(6))
        assert failed.value.code == "error"
        assert worker.statistics().starts == 1

    run_with_worker(test)


def test_prints_of_the_child_become_log_lines():
    """Its standard output belongs to the frames; what is printed there does not break them."""

    async def test(worker, log):
        await worker.call(evaluate(4))
        while not {"printed", "warned"} <= set(log):
            await trio.sleep(0)

    run_with_worker(test)


def test_garbage_from_the_child_is_a_crash():
    """A frame that cannot be is answered with a new child."""

    async def test(worker, log):
        with pytest.raises(JobLost):
            await worker.call(evaluate(5))
        assert isinstance(await worker.call(evaluate(0)), EvaluateDone)
        assert any("unreadable" in line for line in log)

    run_with_worker(test)


def test_every_new_child_is_greeted_before_it_gets_a_call():
    """The answer to the greeting is kept, and is the new child's after a crash."""

    async def test(worker, log):
        first = await worker.wait_greeted()
        assert isinstance(first, Ready)
        with pytest.raises(JobLost):
            await worker.call(evaluate(1))
        await worker.call(evaluate(0))
        second = await worker.wait_greeted()
        assert isinstance(second, Ready)
        assert first.process != second.process == worker.statistics().process

    run_with_worker(test, greeting=Hello("cpu", 1))


def test_a_refused_greeting_is_told_to_who_asks():
    """A device that is not there: JobFailed with the remedy, from the worker's own mouth."""

    async def test(worker, log):
        refusal = await worker.wait_greeted()
        assert isinstance(refusal, JobFailed)
        assert refusal.code == Reason.BAD_DEVICE.code
        assert "--device" in refusal.detail

    run_with_worker(test, argv=TORCH_WORKER, greeting=Hello("cuda:99", 1))


def test_a_command_that_cannot_be_run_is_an_error_of_the_system():
    """Not retried for ever: whoever runs the worker hears of it."""

    async def main():
        worker = Worker(["/nowhere/no-such-program"], on_log=lambda line: None)
        with pytest.raises(BaseExceptionGroup) as failed:
            async with trio.open_nursery() as nursery:
                await nursery.start(worker.run)
        assert failed.group_contains(FileNotFoundError)

    trio.run(main)


PARENT = """
import sys, trio
from compute.io.pool import Worker
from compute.jobs import Dataset, Learn

async def main():
    worker = Worker(sys.argv[1:], on_log=lambda line: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        async with worker.stream(Learn(0, b"", (), Dataset(bytes(32), ()), (), "", "")) as steps:
            await anext(steps)
            print(worker.statistics().process, flush=True)
            await trio.sleep_forever()

trio.run(main)
"""


def test_a_parent_killed_with_kill_9_leaves_no_child():
    """In the middle of a job: the child notices that its input ended, and exits at once."""
    environment = os.environ | {"PYTHONPATH": REPOSITORY}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *FAKE_WORKER], stdout=subprocess.PIPE, env=environment, text=True
    ) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
        parent.wait()
        psutil.wait_procs([child], timeout=20)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_two_processes_with_torch_learn_the_same_bits():
    """One thread each: the losses of every step are equal numbers."""
    losses = []

    async def test(worker, log):
        assert (await worker.wait_greeted()).device.device == "cpu"
        async with worker.stream(evaluate(0)) as replies:
            losses.append([reply async for reply in replies])

    for _ in range(2):
        run_with_worker(test, argv=TORCH_WORKER, greeting=Hello("cpu", 1))
    assert losses[0] == losses[1]
    assert losses[0][-1].tokens == 4 * 4 * 16
    assert losses[0][0].loss > losses[0][3].loss
