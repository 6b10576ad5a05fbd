"""Token buckets: a burst, then a rate, and no more memory than was said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.token_buckets import TokenBuckets


@given(st.lists(st.floats(0, 10), max_size=60))
def test_no_more_than_a_burst_and_the_rate_is_taken(pauses: list[float]) -> None:
    """Of three at once and two a second; whoever is told to wait so long is not told to wait again."""
    buckets, now, taken = TokenBuckets[str](8), 0.0, 0
    for pause in pauses:
        now += pause
        wait_seconds = buckets.take("a", 3, 2, now)
        taken += not wait_seconds
        assert taken <= 3 + 2 * now + 1e-6
        if wait_seconds:
            assert wait_seconds <= 0.5
            now += wait_seconds + 1e-6
            assert buckets.take("a", 3, 2, now) == 0
            taken += 1


def test_each_key_has_its_own_and_the_longest_unused_is_forgotten() -> None:
    """A forgotten one starts full again."""
    buckets = TokenBuckets[int](2)
    for key in (1, 2):
        assert buckets.take(key, 1, 0, 0.0) == 0
        assert buckets.take(key, 1, 0, 0.0) == float("inf")
    assert buckets.take(3, 1, 0, 0.0) == 0
    assert len(buckets) == 2
    assert buckets.take(1, 1, 0, 0.0) == 0
    assert buckets.left(1) == 0
    assert buckets.left(9) == float("inf")
