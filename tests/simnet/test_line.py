"""When bytes arrive over lines that may be slow."""

from hypothesis import given
from hypothesis import strategies as st

from simnet.line import Line, arrives_at

SIZES = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 100_000)), min_size=1, max_size=30)


def slow(delay_seconds: float, bytes_per_second: float | None) -> Line:
    line = Line()
    line.set_speed(delay_seconds, bytes_per_second)
    return line


def test_a_usual_line_keeps_nothing():
    """Without a delay and a rate, bytes arrive when they come."""
    assert arrives_at([Line(), Line()], 10**9, 3.0) == 3.0


def test_bytes_wait_for_those_before_them_and_then_travel():
    """The rate spaces them out, the delay comes on top of each."""
    line = slow(0.2, 1000)
    assert [arrives_at([line], 500, 3.0), arrives_at([line], 500, 3.0)] == [3.7, 4.2]
    assert arrives_at([line], 500, 10.0) == 10.7


def test_two_slow_ends_add_their_delays_and_the_slower_sets_the_pace():
    """As two poor lines with a good network between them."""
    assert arrives_at([slow(0.2, 1000), slow(0.3, 500)], 500, 0.0) == 1.5


@given(SIZES, st.floats(0, 1), st.integers(1, 10**6))
def test_a_line_keeps_order_and_rate(sends, delay_seconds, bytes_per_second):
    """However bytes come: none before its delay, none before an earlier one, and never more than the rate."""
    line, now, last, sent = slow(delay_seconds, bytes_per_second), 0.0, 0.0, 0
    for pause, size in sends:
        now, sent = now + pause, sent + size
        due = arrives_at([line], size, now)
        assert due >= max(last, now + delay_seconds)
        assert due * bytes_per_second >= sent - 1e-3
        last = due


def test_a_line_that_is_mended_owes_nothing():
    """What waits keeps its time, what comes later does not wait for it."""
    line = slow(5.0, 10)
    assert arrives_at([line], 1000, 0.0) == 105.0
    line.set_speed(0.0, None)
    assert arrives_at([line], 1000, 1.0) == 1.0
    line.set_speed(0.0, 1000)
    assert arrives_at([line], 1000, 2.0) == 3.0
