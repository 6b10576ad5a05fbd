"""The child's half of a worker: reads calls, runs handlers one at a time, lets the urgent ones through, answers.

    main thread     serve(handlers):  take the most urgent waiting call -> handler(job, desk) -> final answer
    reader thread   standard input -> waiting calls; Cancel marks a call; end of input: the process exits at once

A handler is a plain function of (job, desk) that returns the final reply. Between two steps it calls
`desk.checkpoint()`, which runs every waiting call that is more urgent than its own, then returns, or raises
JobCancelled.

The parent's death closes our standard input, whatever killed it; that is the whole orphan protection. (PR_SET_PDEATHSIG
would be wrong here: it fires when the *thread* that spawned us ends, and trio spawns from short-lived threads.) For it
to work while torch is being imported, `serve` must be entered first: handlers import what they need.
"""

from __future__ import annotations

import heapq
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from compute.jobs import (
    LENGTH,
    URGENCY,
    Answer,
    AnyJob,
    AnyReply,
    Call,
    Cancel,
    Diverged,
    Job,
    JobFailed,
    Shutdown,
    check_frame_length,
    frame,
    parse_call,
)
from protocol.rejection import Rejected


class JobCancelled(Exception):
    """Raised by `Desk.checkpoint` in a handler whose call was cancelled: let it pass."""


Handler = Callable[[Any, "Desk"], AnyReply]
"""(job, desk) -> final reply. The job has the type under which the handler is registered."""


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

    def __init__(self, handlers: Mapping[type[Job], Handler], calls: BinaryIO, answers: BinaryIO) -> None:
        self._handlers = handlers
        self._calls = calls
        self._answers = answers
        self._condition = threading.Condition()
        self._waiting: list[tuple[int, int, Call]] = []  # heap of (urgency, arrival, call)
        self._arrivals = 0
        self._cancelled: set[int] = set()
        self._running: set[int] = set()

    def run_forever(self) -> None:
        """Read in a thread, run in this one; returns never, the process ends with its input."""
        threading.Thread(target=self._read_calls, name="worker-calls", daemon=True).start()
        while True:
            with self._condition:
                while not self._waiting:
                    self._condition.wait()
            self.run_waiting(len(URGENCY))

    def run_waiting(self, urgency: int) -> None:
        """Run waiting calls that are more urgent than `urgency`, the most urgent first, until there is none."""
        while True:
            with self._condition:
                if not self._waiting or self._waiting[0][0] >= urgency:
                    return
                call = heapq.heappop(self._waiting)[2]
                self._running.add(call.number)
            self.answer(call.number, self._run(call))
            with self._condition:
                self._running.discard(call.number)
                self._cancelled.discard(call.number)

    def is_cancelled(self, number: int) -> bool:
        """Whether the call was cancelled."""
        with self._condition:
            return number in self._cancelled

    def answer(self, number: int, reply: AnyReply) -> None:
        """Write one answer; only ever called from the main thread."""
        self._answers.write(frame(Answer(number, reply)))
        self._answers.flush()

    def _run(self, call: Call) -> AnyReply:
        if self.is_cancelled(call.number):
            return JobFailed("cancelled", "before it began")
        try:
            return self._handlers[type(call.job)](call.job, Desk(self, call))
        except JobCancelled:
            return JobFailed("cancelled", "at a checkpoint")
        except Rejected as rejected:
            return JobFailed(rejected.reason.code, rejected.detail)
        except Diverged as error:
            return JobFailed("diverged", str(error))
        except Exception as error:  # a handler's bug must not take the process and its other calls with it
            traceback.print_exc(file=sys.stderr)
            return JobFailed("error", f"{type(error).__name__}: {error}"[:1000])

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
        job: AnyJob = call.job
        if isinstance(job, Shutdown):
            os._exit(0)
        with self._condition:
            if isinstance(job, Cancel):
                if call.number in self._running or any(call.number == entry[2].number for entry in self._waiting):
                    self._cancelled.add(call.number)
            else:
                self._arrivals += 1
                heapq.heappush(self._waiting, (URGENCY[type(job)], self._arrivals, call))
                self._condition.notify()


def serve(handlers: Mapping[type[Job], Handler]) -> None:
    """Serve calls on standard input and output until the input ends. Never returns.

    Standard output belongs to the frames: whatever else is printed goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    WorkerLoop(handlers, os.fdopen(os.dup(0), "rb"), answers).run_forever()
