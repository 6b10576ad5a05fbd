"""Which call of a worker is next, and what becomes of one that is cancelled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from compute.jobs import URGENCY, Call, Cancel, Dataset, DecodeStep, Evaluate, Hello, Learn
from compute.waiting_calls import WaitingCalls

DATASET = Dataset(bytes(32), ())
JOBS = (
    Hello("cpu", 1),
    DecodeStep(1, ()),
    Evaluate((), DATASET, 1),
    Learn(0, b"", (), DATASET, (), "", ""),
)
EVERY_CALL = len(URGENCY)


def test_the_most_urgent_is_taken_first_and_equals_in_their_order() -> None:
    """Nothing is taken that is no more urgent than what asks."""
    waiting = WaitingCalls()
    for number, job in enumerate((JOBS[3], JOBS[1], JOBS[3], JOBS[1])):
        waiting.accept(Call(number, job))
    assert [getattr(waiting.take(URGENCY[Learn]), "number", None) for _ in range(3)] == [1, 3, None]
    assert [getattr(waiting.take(EVERY_CALL), "number", None) for _ in range(3)] == [0, 2, None]


def test_a_cancelled_call_that_waits_is_taken_at_the_next_checkpoint() -> None:
    """Before everything, even from within the most urgent job: only to be answered."""
    waiting = WaitingCalls()
    for number, job in enumerate((JOBS[1], JOBS[1], JOBS[3])):
        waiting.accept(Call(number, job))
    running = waiting.take(EVERY_CALL)
    assert running is not None
    waiting.accept(Call(2, Cancel()))
    cancelled = waiting.take(URGENCY[DecodeStep])
    assert cancelled is not None
    assert (cancelled.number, waiting.is_cancelled(2), waiting.is_cancelled(0)) == (2, True, False)
    waiting.end(2)
    assert not waiting.is_cancelled(2)


def test_a_call_that_has_ended_cannot_be_cancelled() -> None:
    """Its cancellation crossed its answer; the number is nobody's then."""
    waiting = WaitingCalls()
    waiting.accept(Call(0, JOBS[1]))
    waiting.take(EVERY_CALL)
    waiting.end(0)
    waiting.accept(Call(0, Cancel()))
    assert not waiting.is_cancelled(0)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([*JOBS, Cancel()]), st.booleans()), max_size=40))
def test_every_call_is_taken_once(script: list[tuple[int, Hello, bool]]) -> None:
    """Whatever is cancelled and taken in between."""
    waiting = WaitingCalls()
    accepted, taken, number = [], [], 100
    for back, job, takes in script:
        if isinstance(job, Cancel):
            waiting.accept(Call(number - back, job))
        else:
            number += 1
            accepted.append(number)
            waiting.accept(Call(number, job))
        if takes and (call := waiting.take(EVERY_CALL)) is not None:
            taken.append(call.number)
            waiting.end(call.number)
    while (call := waiting.take(EVERY_CALL)) is not None:
        taken.append(call.number)
    assert sorted(taken) == accepted
