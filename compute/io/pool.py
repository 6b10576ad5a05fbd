"""The parent's half of a worker: one child per device, started, fed, timed out, replaced.

    call(job) --> outbox --> [writer] --> child's stdin            one frame at a time, never cut by a cancellation
    waiting[number] <------- [reader] <-- child's stdout           progress and final answers, by call number
    on_log(line) <---------- [logger] <-- child's stderr

A child that ends, for whatever reason, fails every open call with JobLost and is started again after a pause that
doubles from 0.1 s to 10 s and falls back once a job succeeds. A call that is given up (timed out, or its task
cancelled) is cancelled in the child; a child that does not end it within `grace_seconds` is killed: that is how a hung
kernel is survived. No child outlives its parent: the child exits when its standard input ends
(`compute.io.worker_loop`).

The child of a `Worker` is a process. A simulated world supervises children of its own (`SupervisedWorker`), which are
not: all that may go wrong between parent and child is decided here, once.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from compute.jobs import (
    FINAL_REPLIES,
    Answer,
    AnyJob,
    AnyReply,
    Call,
    Cancel,
    Hello,
    JobFailed,
    Ready,
    frame,
    parse_answer,
    take_frames,
)
from protocol.rejection import REASON_BY_CODE, Rejected

OPEN_CALLS_MAX = 256
"""Calls waiting for one child; more than that is a queue that nobody drains. The next one waits its turn."""

REPLIES_BUFFERED_MAX = 65_536
"""Replies of one call that its caller has not taken: the steps of a long round. Beyond it the call is lost, not the memory."""

LOG_LINE_BYTES_MAX = 4096
RESTART_SECONDS_MIN = 0.1
RESTART_SECONDS_MAX = 10.0


class JobLost(Exception):
    """The worker process ended before it answered; the job may or may not have run. Ask again."""


class JobTimedOut(Exception):
    """The answer did not come in time; the job was cancelled in the worker."""


class JobError(Exception):
    """The worker answered JobFailed with a code that blames nobody outside: cancelled, diverged, or a bug of ours."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """starts: child processes started. open_calls: not yet answered. lost: calls failed by a child's end."""

    starts: int
    open_calls: int
    answered: int
    lost: int
    process: int | None


@dataclass(slots=True, eq=False)
class _OpenCall:
    replies: trio.MemorySendChannel[AnyReply]
    given_up: bool = False
    ended: trio.Event = field(default_factory=trio.Event)


class Replies:
    """The replies to one call, in order; ends after the final one. Iterating raises JobLost, JobError or Rejected.

    A plain iterator, not an async generator: one that is left half-way needs no closing.
    """

    def __init__(self, receive: trio.MemoryReceiveChannel[AnyReply]) -> None:
        self._receive = receive
        self._ended = False

    def __aiter__(self) -> Replies:
        return self

    async def __anext__(self) -> AnyReply:
        if self._ended:
            raise StopAsyncIteration
        try:
            reply = await self._receive.receive()
        except trio.EndOfChannel:
            raise JobLost("the worker process ended before it answered") from None
        self._ended = isinstance(reply, FINAL_REPLIES)
        if isinstance(reply, JobFailed):
            reason = REASON_BY_CODE.get(reply.code)
            raise Rejected(reason, reply.detail) if reason else JobError(reply.code, reply.detail)
        return reply


class WorkerHandle(Protocol):
    """What a node needs of a worker, whatever its child is made of."""

    def statistics(self) -> WorkerStatistics:
        """A snapshot of the counters."""
        ...

    async def run(
        self,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined]  # stubs end at trio 0.22
    ) -> None:
        """Supervise the child until cancelled; `started` once the first one runs."""
        ...

    async def wait_greeted(self) -> Ready | JobFailed | None:
        """The present child's final answer to the greeting, once there is one; None where no greeting was given."""
        ...

    async def call(self, job: AnyJob, timeout_seconds: float = math.inf) -> AnyReply:
        """The final reply to `job`. Raises JobLost, JobTimedOut, JobError or Rejected."""
        ...

    def stream(self, job: AnyJob) -> AbstractAsyncContextManager[Replies]:
        """Progress, then the final reply; leaving the block early cancels the job."""
        ...


class Child(Protocol):
    """A process as its parent sees it: three pipes, and an end. `trio.Process` is one."""

    @property
    def pid(self) -> int: ...

    @property
    def stdin(self) -> trio.abc.SendStream | None: ...

    @property
    def stdout(self) -> trio.abc.ReceiveStream | None: ...

    @property
    def stderr(self) -> trio.abc.ReceiveStream | None: ...

    def kill(self) -> None:
        """It ends at once; no error where it has ended."""
        ...

    async def wait(self) -> int:
        """Its exit status, once it has ended."""
        ...


OpenChild = Callable[[trio.Nursery], Awaitable[Child]]
"""Starts a child. A child that is no process runs in the nursery, which is cancelled when the child has ended."""


class SupervisedWorker:
    """Handle of one supervised child. Make it, start `run` in a nursery, then `call` and `stream` from any task."""

    def __init__(
        self,
        open_child: OpenChild,
        *,
        on_log: Callable[[str], None],
        greeting: Hello | None = None,
        grace_seconds: float = 10.0,
    ) -> None:
        """`greeting`: what every new child gets before any job. `grace_seconds`: how long a cancelled call may go on."""
        self._open_child = open_child
        self._on_log = on_log
        self._greeting = greeting
        self._grace_seconds = grace_seconds
        self._open: dict[int, _OpenCall] = {}
        self._next_number = 0
        self._outbox: trio.MemorySendChannel[bytes] | None = None
        self._up = trio.Event()
        self._process: Child | None = None
        self._places = trio.Semaphore(OPEN_CALLS_MAX)
        self._pause_seconds = RESTART_SECONDS_MIN
        self._starts = self._answered = self._lost = 0
        self._nursery: trio.Nursery | None = None
        self._greeted: Ready | JobFailed | None = None

    def statistics(self) -> WorkerStatistics:
        """A snapshot of the counters."""
        return WorkerStatistics(
            starts=self._starts,
            open_calls=len(self._open),
            answered=self._answered,
            lost=self._lost,
            process=self._process.pid if self._process is not None else None,
        )

    async def run(
        self,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined]  # stubs end at trio 0.22
    ) -> None:
        """Supervise the child until cancelled; then it is killed and waited for. `started` once the first one runs."""
        announced = False
        while True:
            try:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    await self._start(nursery)
                    if not announced:
                        task_status.started()
                        announced = True
                    await self._watch(nursery)
            finally:
                await self._stop()
            self._on_log(f"worker ended; the next one starts in {self._pause_seconds:.1f} s")
            await trio.sleep(self._pause_seconds)
            self._pause_seconds = min(2 * self._pause_seconds, RESTART_SECONDS_MAX)

    async def wait_greeted(self) -> Ready | JobFailed | None:
        """The present child's final answer to the greeting, once there is one; None where no greeting was given.

        JobFailed if the child refused it, which it will do again after every restart: look once at boot.
        """
        await self._up.wait()
        return self._greeted

    async def call(self, job: AnyJob, timeout_seconds: float = math.inf) -> AnyReply:
        """The final reply to `job`; its progress is dropped. Waits for a child that is being restarted.

        Raises JobLost, JobTimedOut, JobError, or Rejected if the worker refused the job for a Reason.
        """
        with trio.move_on_after(timeout_seconds):
            async with self.stream(job) as replies:
                async for reply in replies:
                    if isinstance(reply, FINAL_REPLIES):
                        return reply
        raise JobTimedOut(f"{type(job).__name__} gave no answer within {timeout_seconds} s")

    @asynccontextmanager
    async def stream(self, job: AnyJob) -> AsyncIterator[Replies]:
        """`async with worker.stream(job) as replies: async for reply in replies`: progress, then the final reply.

        Leaving the block early cancels the job in the worker. Iterating raises JobLost, JobError or Rejected.
        """
        async with self._places:
            await self._up.wait()
            send, receive = trio.open_memory_channel[AnyReply](REPLIES_BUFFERED_MAX)
            number = self._next_number
            self._next_number += 1
            call = self._open[number] = _OpenCall(send)
            try:
                await self._send(Call(number, job))
            except BaseException:  # not sent, so there is nothing to cancel in the child
                self._open.pop(number, None)
                raise
            try:
                yield Replies(receive)
            finally:
                if number in self._open:
                    self._give_up(number, call)

    def _give_up(self, number: int, call: _OpenCall) -> None:
        """Cancel a call in the child; kill the child if it does not end it in time."""
        call.given_up = True
        call.replies.close()
        if self._outbox is None or self._nursery is None:
            return
        try:
            self._outbox.send_nowait(frame(Call(number, Cancel())))
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self._kill()  # it does not even read
            return
        self._nursery.start_soon(self._enforce, number, call)

    async def _enforce(self, number: int, call: _OpenCall) -> None:
        with trio.move_on_after(self._grace_seconds) as grace:
            await call.ended.wait()
        if grace.cancelled_caught:
            self._on_log(f"worker did not end a cancelled call within {self._grace_seconds} s; killing it")
            self._kill()

    async def _send(self, call: Call) -> None:
        if self._outbox is None:
            raise JobLost("the worker process ended before the job was sent")
        try:
            await self._outbox.send(frame(call))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise JobLost("the worker process ended before the job was sent") from None

    async def _start(self, nursery: trio.Nursery) -> None:
        """Start a child and its three pipes; greet it. A command that cannot be run is an OSError for whoever runs us."""
        process = await self._open_child(nursery)
        self._process = process
        self._starts += 1
        self._outbox, outbox = trio.open_memory_channel[bytes](OPEN_CALLS_MAX + 16)
        nursery.start_soon(self._write, process, outbox)
        nursery.start_soon(self._read_log, process)

    async def _watch(self, nursery: trio.Nursery) -> None:
        """Read answers until the child's output ends, then end its other tasks."""
        process = self._process
        if process is None or process.stdout is None:
            raise RuntimeError("no child to watch")
        if self._greeting is None:
            self._up.set()
        else:
            nursery.start_soon(self._greet, self._greeting)
        try:
            await self._read_answers(process.stdout)
        except (Rejected, trio.BrokenResourceError) as error:
            self._on_log(f"worker said something unreadable: {error}")
        nursery.cancel_scope.cancel()

    async def _greet(self, greeting: Hello) -> None:
        send, receive = trio.open_memory_channel[AnyReply](16)
        number = self._next_number
        self._next_number += 1
        self._open[number] = _OpenCall(send)
        try:
            await self._send(Call(number, greeting))
        except JobLost:
            return  # the reader notices too, and the next child is greeted
        async for reply in receive:
            if isinstance(reply, Ready | JobFailed):
                self._greeted = reply
        if self._greeted is not None:
            self._up.set()

    async def _read_answers(self, stdout: trio.abc.ReceiveStream) -> None:
        buffer = bytearray()
        while data := await stdout.receive_some():
            buffer += data
            for body in take_frames(buffer):
                self._deliver(parse_answer(body))

    def _deliver(self, answer: Answer) -> None:
        call = self._open.get(answer.number)
        if call is None:
            return
        if isinstance(answer.reply, FINAL_REPLIES):
            del self._open[answer.number]
            call.ended.set()
            self._answered += 1
            if not isinstance(answer.reply, Ready | JobFailed):
                self._pause_seconds = RESTART_SECONDS_MIN
        if not call.given_up:
            try:
                call.replies.send_nowait(answer.reply)
            except trio.WouldBlock:
                self._on_log("a caller does not take its replies; its call is lost")
                call.replies.close()
                call.given_up = True
        if call.ended.is_set():
            call.replies.close()

    async def _write(self, process: Child, outbox: trio.MemoryReceiveChannel[bytes]) -> None:
        if process.stdin is None:
            raise RuntimeError("the child has no standard input")
        async with outbox:
            try:
                async for data in outbox:
                    await process.stdin.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the child is gone; the reader notices too

    async def _read_log(self, process: Child) -> None:
        if process.stderr is None:
            raise RuntimeError("the child has no standard error")
        line = bytearray()
        async for data in process.stderr:
            for piece in data.splitlines(keepends=True):
                line += piece
                if line.endswith(b"\n") or len(line) >= LOG_LINE_BYTES_MAX:
                    self._on_log(line.decode("utf-8", "replace").rstrip()[:LOG_LINE_BYTES_MAX])
                    line.clear()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    async def _stop(self) -> None:
        """Kill the child, wait for it, and fail what is open."""
        self._up = trio.Event()
        self._outbox = None
        self._nursery = None
        self._greeted = None
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                for stream in (process.stdin, process.stdout, process.stderr):
                    if stream is not None:
                        await trio.aclose_forcefully(stream)
        open_calls, self._open = list(self._open.values()), {}
        for call in open_calls:
            if not call.given_up:
                self._lost += 1
            call.ended.set()
            call.replies.close()


class Worker(SupervisedWorker):
    """Handle of one supervised child process."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        on_log: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
        greeting: Hello | None = None,
        grace_seconds: float = 10.0,
    ) -> None:
        """`argv`: the command of the child, which must enter `worker_loop.serve`. `environment`: all of its variables
        (None: `worker_environment()`)."""
        environment = dict(environment) if environment is not None else worker_environment()
        super().__init__(
            partial(_open_process, list(argv), environment),
            on_log=on_log,
            greeting=greeting,
            grace_seconds=grace_seconds,
        )


async def _open_process(argv: Sequence[str], environment: Mapping[str, str], nursery: trio.Nursery) -> trio.Process:
    return await trio.lowlevel.open_process(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # a Ctrl-C in the terminal is the parent's to handle
    )


def worker_environment(threads: int = 1) -> dict[str, str]:
    """The variables of this process, and what a worker needs before it imports torch.

    Threads: two OpenMP threads on busy cores are 3 to 18 times slower than one for small work. Allocator: glibc returns
    every large tensor to the system and page-faults it back in; keeping the memory saves a tenth of a learning step.
    CUBLAS_WORKSPACE_CONFIG: cuBLAS repeats its bits only with a fixed workspace.
    """
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
