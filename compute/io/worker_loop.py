"""The child's half of a worker: reads calls, runs handlers one at a time, lets the urgent ones through, answers.

    main thread     serve(handlers):  take the most urgent waiting call -> handler(job, desk) -> final answer
    reader thread   standard input -> waiting calls; Cancel marks a call; end of input: the process exits at once

A handler is a plain function of (job, desk) that returns the final reply. Between two steps it calls
`desk.checkpoint()`, which runs every waiting call that is more urgent than its own, then returns, or raises
JobCancelled. Work that is written as a generator (`compute.jobs.Work`) becomes a handler by `in_steps`.

Whoever decodes asks again a moment after each answer. A checkpoint that ran something therefore waits for that moment, or
each token would wait for one more step of learning (anticipatory scheduling: Iyer and Druschel, SOSP 2001). It returns
after a while all the same: people who read come first, but training goes on.

The parent's death closes our standard input, whatever killed it; that is the whole orphan protection. (PR_SET_PDEATHSIG
would be wrong here: it fires when the *thread* that spawned us ends, and trio spawns from short-lived threads.) For it
to work while torch is being imported, `serve` must be entered first: handlers import what they need.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final

from compute.jobs import (
    LENGTH,
    URGENCY,
    Answer,
    AnyReply,
    Call,
    Diverged,
    Job,
    JobFailed,
    Shutdown,
    Work,
    check_frame_length,
    frame,
    parse_call,
)
from compute.waiting_calls import WaitingCalls
from protocol.rejection import Rejected


class JobCancelled(Exception):
    """Raised by `Desk.checkpoint` in a handler whose call was cancelled: let it pass."""


Handler = Callable[[Any, "Desk"], AnyReply]
"""(job, desk) -> final reply. The job has the type under which the handler is registered."""

EVERY_CALL: Final = len(URGENCY)
"""An urgency that none has: every waiting call goes before it."""

ANTICIPATION_SECONDS: Final = 0.005  # a node with experts adds up to 4 ms to a token, in all (docs/log.md)
URGENT_SECONDS_MAX: Final = 1.0  # of a checkpoint; then at least one step of what it interrupts (a guess)


class Desk:
    """A handler's way to say things while it works."""

    def __init__(self, loop: WorkerLoop, call: Call) -> None:
        self._loop = loop
        self._call = call

    def send(self, reply: AnyReply) -> None:
        """Stream a reply that is not final."""
        self._loop.answer(self._call.number, reply)

    def checkpoint(self) -> None:
        """Run what is waiting and more urgent than this call. Raises JobCancelled if this call was cancelled."""
        self._loop.run_waiting(URGENCY[type(self._call.job)])
        if self._loop.is_cancelled(self._call.number):
            raise JobCancelled


class WorkerLoop:
    """State shared by the reader thread (which only adds) and the main thread (which runs handlers)."""

    def __init__(
        self,
        handlers: Mapping[type[Job], Handler],
        calls: BinaryIO,
        answers: BinaryIO,
        anticipation_seconds: float = ANTICIPATION_SECONDS,
        urgent_seconds_max: float = URGENT_SECONDS_MAX,
    ) -> None:
        self._anticipation_seconds = anticipation_seconds
        self._urgent_seconds_max = urgent_seconds_max
        self._handlers = handlers
        self._calls = calls
        self._answers = answers
        self._condition = threading.Condition()
        self._waiting = WaitingCalls()

    def run_forever(self) -> None:
        """Read in a thread, run in this one; returns never, the process ends with its input."""
        threading.Thread(target=self._read_calls, name="worker-calls", daemon=True).start()
        while True:
            with self._condition:
                while (call := self._waiting.take(EVERY_CALL)) is None:
                    self._condition.wait()
            self._serve(call)

    def run_waiting(self, urgency: int) -> None:
        """Run waiting calls that are more urgent than `urgency`, the most urgent first, until none comes any more."""
        began = time.monotonic()
        patience_seconds = 0.0
        while (call := self._take(urgency, patience_seconds)) is not None:
            self._serve(call)
            if time.monotonic() - began > self._urgent_seconds_max:
                return
            patience_seconds = self._anticipation_seconds

    def _take(self, urgency: int, patience_seconds: float) -> Call | None:
        """The next call that is more urgent, which may yet come."""
        with self._condition:
            call = self._waiting.take(urgency)
            if call is None and patience_seconds:
                self._condition.wait(patience_seconds)
                call = self._waiting.take(urgency)
            return call

    def is_cancelled(self, number: int) -> bool:
        """Whether the call was cancelled."""
        with self._condition:
            return self._waiting.is_cancelled(number)

    def answer(self, number: int, reply: AnyReply) -> None:
        """Write one answer; only ever called from the main thread."""
        self._answers.write(frame(Answer(number, reply)))
        self._answers.flush()

    def _serve(self, call: Call) -> None:
        self.answer(call.number, self._run(call))
        with self._condition:
            self._waiting.end(call.number)

    def _run(self, call: Call) -> AnyReply:
        if self.is_cancelled(call.number):
            return CANCELLED_BEFORE
        try:
            return self._handlers[type(call.job)](call.job, Desk(self, call))
        except Exception as error:  # a handler's bug must not take the process and its other calls with it
            return failure_of(error, sys.stderr.write)

    def _read_calls(self) -> None:
        """Reader thread. Whatever ends it ends the process: without a reader nobody would notice the parent's death."""
        try:
            while (call := self._read_call()) is not None:
                self._accept(call)
        finally:
            os._exit(0)

    def _read_call(self) -> Call | None:
        """The next call; None at the end of input."""
        head = self._calls.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        length = check_frame_length(LENGTH.unpack(head)[0])
        body = self._calls.read(length)
        return parse_call(body) if len(body) == length else None

    def _accept(self, call: Call) -> None:
        if isinstance(call.job, Shutdown):
            os._exit(0)
        with self._condition:
            self._waiting.accept(call)
            self._condition.notify()


CANCELLED_BEFORE: Final = JobFailed("cancelled", "before it began")


def failure_of(error: Exception, on_bug: Callable[[str], object]) -> JobFailed:
    """The final answer of a call whose work raised this; the traceback of what nobody foresaw goes to `on_bug`."""
    match error:
        case JobCancelled():
            return JobFailed("cancelled", "at a checkpoint")
        case Rejected():
            return JobFailed(error.reason.code, error.detail)
        case Diverged():
            return JobFailed("diverged", str(error))
        case OSError():  # a full disk, a file that is gone: nobody's bug
            pass
        case _:
            on_bug("".join(traceback.format_exception(error)))
    return JobFailed("error", f"{type(error).__name__}: {error}"[:1000])


def in_steps(work_on: Callable[[Any], Work[Any]]) -> Handler:
    """The handler that does work of this kind: at each checkpoint the reply goes out, then what is more urgent goes first."""

    def handle(job: Any, desk: Desk) -> AnyReply:
        with contextlib.closing(work_on(job)) as work:
            while True:
                try:
                    checkpoint = next(work)
                except StopIteration as end:
                    final: AnyReply = end.value
                    return final
                if checkpoint.reply is not None:
                    desk.send(checkpoint.reply)
                desk.checkpoint()

    return handle


def serve(handlers: Mapping[type[Job], Handler]) -> None:
    """Serve calls on standard input and output until the input ends. Never returns.

    Standard output belongs to the frames: whatever else is printed goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    WorkerLoop(handlers, os.fdopen(os.dup(0), "rb"), answers).run_forever()
