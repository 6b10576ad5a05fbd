"""A learner's process that is none: the worker's own main program behind two pipes in memory, in virtual time.

    node <-> compute.io.pool.SupervisedWorker <-> frames <-> _Process <-> node.worker.WorkerMain        all in one process

What a node meets is what it meets in the world: the same parent watches, feeds, cancels and replaces the child, and the same
program works on the jobs. Here the child waits where a real one computes: of the seconds that a job takes, as many pass
before a checkpoint as the share of the work that was done since the last. While they pass a more urgent job goes first, and
takes its own time besides.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable
from typing import BinaryIO, Final

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream

from compute.io.pool import SupervisedWorker
from compute.io.worker_loop import CANCELLED_BEFORE, EVERY_CALL, JobCancelled, failure_of
from compute.jobs import (
    URGENCY,
    Answer,
    AnyReply,
    Call,
    DecodeStep,
    Evaluate,
    Hello,
    Job,
    Learn,
    Shutdown,
    frame,
    parse_call,
    take_frames,
)
from compute.trainer import Device
from compute.waiting_calls import WaitingCalls
from node.worker import WorkerMain
from storage.files import Files
from storage.tensor_block import BytesLike

TOKEN_SECONDS: Final = 0.05  # a person reads about so fast
KILLED: Final = -9


class NamedFiles:
    """``node.worker.WorkerFiles`` on the files of a simulated disk."""

    def __init__(self, files: Files, name_of: Callable[[str], str]) -> None:
        """``name_of``: what a path in a job is called in ``files``; ``ValueError`` for one that is not there."""
        self._files = files
        self._name_of = name_of

    def map(self, path: str) -> memoryview:
        return memoryview(bytearray(self._files.read(self._name_of(path))))  # private, and writable for torch

    def open(self, path: str) -> BinaryIO:
        return io.BytesIO(self._files.read(self._name_of(path)))

    def write(self, path: str, pieces: Iterable[BytesLike]) -> None:
        self._files.write(self._name_of(path), pieces)


class VirtualWorker(SupervisedWorker):
    """Handle of a made worker: a ``compute.io.pool.WorkerHandle``. Under a ``MockClock`` its seconds are virtual."""

    def __init__(
        self,
        device: Device,
        files: NamedFiles,
        *,
        greeting: Hello,
        learn_seconds: float,
        evaluate_seconds: float,
        on_log: Callable[[str], None],
    ) -> None:
        """``device`` outlives the child, so it must remember nothing that a process would forget.

        ``learn_seconds``: all steps of one round. ``evaluate_seconds``: all batches of one evaluation.
        """
        super().__init__(self._start_process, on_log=on_log, greeting=greeting)
        self._device = device
        self._files = files
        self._learn_seconds = learn_seconds
        self._evaluate_seconds = evaluate_seconds

    def kill(self) -> None:
        """The child ends at once, as by ``kill -9``; what it was asked is lost, and the next one starts."""
        self._kill()

    async def _start_process(self, nursery: trio.Nursery) -> _Process:
        pid = self._starts + 1
        main = WorkerMain(self._device, self._files, _monotonic_ms, process=pid)
        process = _Process(pid, main, self._seconds_of)
        nursery.start_soon(process.run)
        return process

    def _seconds_of(self, job: Job) -> float:
        match job:
            case Learn():
                return self._learn_seconds
            case Evaluate():
                return self._evaluate_seconds
            case DecodeStep():
                return TOKEN_SECONDS
            case _:
                return 0.0


class _Process:
    """A ``compute.io.pool.Child``: ``compute.io.worker_loop`` in virtual time."""

    def __init__(self, pid: int, main: WorkerMain, seconds_of: Callable[[Job], float]) -> None:
        self.pid = pid
        self.stdin, self.stdout, self.stderr = MemorySendStream(), MemoryReceiveStream(), MemoryReceiveStream()
        self._work = main.work
        self._seconds_of = seconds_of
        self._waiting = WaitingCalls()
        self._news = trio.Event()
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    def kill(self) -> None:
        self._scope.cancel()

    async def wait(self) -> int:
        await self._ended.wait()
        return KILLED

    async def run(self) -> None:
        """Serve calls until killed, or until the input ends."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read_calls)
                    while True:
                        await self._serve_waiting(EVERY_CALL)
                        await self._wait_for_news()
        finally:
            self.stdout.put_eof()
            self.stderr.put_eof()
            self._ended.set()

    async def _read_calls(self) -> None:
        buffer = bytearray()
        while data := await self.stdin.get_data():
            buffer += data
            for body in take_frames(buffer):
                call = parse_call(body)
                if isinstance(call.job, Shutdown):
                    self.kill()
                    return
                self._waiting.accept(call)
                self._news.set()
        self.kill()

    async def _wait_for_news(self) -> None:
        await self._news.wait()
        self._news = trio.Event()

    async def _serve_waiting(self, urgency: int) -> None:
        """Serve waiting calls that are more urgent, the most urgent first, until there is none."""
        while (call := self._waiting.take(urgency)) is not None:
            self._answer(call, await self._final_reply(call))
            self._waiting.end(call.number)

    async def _final_reply(self, call: Call) -> AnyReply:
        if self._waiting.is_cancelled(call.number):
            return CANCELLED_BEFORE
        try:
            return await self._do(call)
        except Exception as error:  # as in the process: a bug must not take the other calls with it
            return failure_of(error, lambda text: self.stderr.put_data(text.encode()))

    async def _do(self, call: Call) -> AnyReply:
        """Work on the job from checkpoint to checkpoint; before each, the time passes that the work took."""
        seconds, share = self._seconds_of(call.job), 0.0
        with contextlib.closing(self._work[type(call.job)](call.job)) as work:
            while True:
                try:
                    checkpoint = next(work)
                except StopIteration as end:
                    final: AnyReply = end.value
                    return final
                await self._pass(call, seconds * (checkpoint.share - share))
                share = checkpoint.share
                if checkpoint.reply is not None:
                    self._answer(call, checkpoint.reply)
                await self._checkpoint(call)

    async def _pass(self, call: Call, seconds: float) -> None:
        """Let the time of a job pass; what is more urgent goes first whenever it comes: steps are taken for short."""
        while seconds > 0:
            began = trio.current_time()
            with trio.move_on_after(seconds) as rest:
                await self._wait_for_news()
            if rest.cancelled_caught:
                return
            seconds -= trio.current_time() - began
            await self._checkpoint(call)

    async def _checkpoint(self, call: Call) -> None:
        await self._serve_waiting(URGENCY[type(call.job)])
        if self._waiting.is_cancelled(call.number):
            raise JobCancelled

    def _answer(self, call: Call, reply: AnyReply) -> None:
        self.stdout.put_data(frame(Answer(call.number, reply)))


def _monotonic_ms() -> int:
    return int(1000 * trio.current_time())
