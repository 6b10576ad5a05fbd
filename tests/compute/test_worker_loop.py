"""What a checkpoint of a worker lets through before its own work goes on."""

from __future__ import annotations

import io
import threading

from compute.io.worker_loop import WorkerLoop
from compute.jobs import URGENCY, Call, Decoded, DecodeStep, Learn

AFTER_LEARNING = URGENCY[Learn]


class Answers(io.BytesIO):
    """Tells of each answer that is written."""

    def __init__(self, on_answer) -> None:
        super().__init__()
        self._on_answer = on_answer

    def flush(self) -> None:
        self._on_answer()


def served_at_one_checkpoint(calls: int, **limits) -> int:
    """Of calls that come one after the other, each a moment after the answer to the one before."""
    served, threads = [], []

    def decode(job, desk):
        served.append(job)
        return Decoded(())

    def ask_again() -> None:
        if len(served) < calls:
            threads.append(threading.Thread(target=loop._accept, args=(Call(len(served), DecodeStep(1, ())),)))
            threads[-1].start()

    loop = WorkerLoop({DecodeStep: decode}, io.BytesIO(), Answers(ask_again), **limits)
    loop._accept(Call(0, DecodeStep(1, ())))
    loop.run_waiting(AFTER_LEARNING)
    for thread in threads:
        thread.join()
    return len(served)


def test_the_next_step_of_the_same_answer_is_waited_for():
    """It comes a moment after the answer to the one before, and goes before learning does."""
    assert served_at_one_checkpoint(5, anticipation_seconds=3.0, urgent_seconds_max=60.0) == 5


def test_learning_goes_on_all_the_same():
    """A checkpoint that ran calls for long enough ends, however many come."""
    assert served_at_one_checkpoint(5, anticipation_seconds=3.0, urgent_seconds_max=-1.0) == 1


def test_nothing_is_waited_for_where_nothing_was_run():
    """A checkpoint that finds nothing costs nothing: it would wait for ever here."""
    loop = WorkerLoop({}, io.BytesIO(), Answers(lambda: None), anticipation_seconds=threading.TIMEOUT_MAX)
    loop.run_waiting(AFTER_LEARNING)
