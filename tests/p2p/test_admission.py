"""The doorkeeper: bans, sizes, budgets, and a bounded memory of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.admission import Admission, Allowance
from protocol.ids import PeerId
from protocol.rejection import Reason, Rejected

ONE, OTHER = PeerId(b"1" * 32), PeerId(b"2" * 32)
ALLOWANCE = Allowance(message_bytes_max=100, burst_tokens=3, tokens_per_second=2)


def verdict(admission: Admission, peer: PeerId, now: float, *, word: str = "tx", size: int = 1, tokens: float = 1):
    try:
        admission.check(peer, word, ALLOWANCE, size, now, tokens)
    except Rejected as rejected:
        return rejected.reason
    return None


def test_a_burst_is_let_in_and_no_more():
    """A peer may say as much as the burst at once, then as fast as tokens come back."""
    admission = Admission()
    assert [verdict(admission, ONE, 0.0) for _ in range(4)] == [None, None, None, Reason.OVER_BUDGET]
    assert verdict(admission, ONE, 0.4) is Reason.OVER_BUDGET
    assert verdict(admission, ONE, 0.5) is None
    assert [verdict(admission, ONE, 100.0) for _ in range(4)] == [None, None, None, Reason.OVER_BUDGET]


def test_peers_and_words_have_budgets_of_their_own():
    """What one peer spent on one word is no loss to another peer or word."""
    admission = Admission()
    assert verdict(admission, ONE, 0.0, tokens=3) is None
    assert verdict(admission, ONE, 0.0) is Reason.OVER_BUDGET
    assert verdict(admission, OTHER, 0.0) is None
    assert verdict(admission, ONE, 0.0, word="final") is None


def test_a_large_message_costs_nothing_but_is_refused():
    """The size is checked before the budget."""
    admission = Admission()
    assert verdict(admission, ONE, 0.0, size=101) is Reason.TOO_LARGE
    assert verdict(admission, ONE, 0.0, size=100, tokens=3) is None


def test_a_ban_ends():
    """Everything of a banned peer is refused until the ban is over; a longer ban is not shortened."""
    admission = Admission()
    admission.ban(ONE, 10.0)
    admission.ban(ONE, 5.0)
    assert verdict(admission, ONE, 9.9) is Reason.BANNED
    assert verdict(admission, OTHER, 9.9) is None
    assert verdict(admission, ONE, 10.0) is None


def test_memory_is_bounded():
    """Ten thousand strangers leave as many buckets as are allowed, and as many bans."""
    admission = Admission(buckets_max=100, bans_max=10)
    for number in range(10_000):
        stranger = PeerId(number.to_bytes(32, "big"))
        assert verdict(admission, stranger, 0.0) is None
        admission.ban(stranger, 1.0)
    assert len(admission) == 100
    assert sum(admission.is_banned(PeerId(number.to_bytes(32, "big")), 0.5) for number in range(10_000)) == 10


@given(st.lists(st.floats(0, 5, allow_nan=False), max_size=60))
def test_nobody_ever_exceeds_burst_and_rate(gaps):
    """However the messages are spaced, those let in up to any moment are at most burst + elapsed * rate."""
    admission = Admission()
    now, admitted = 0.0, 0
    for gap in gaps:
        now += gap
        admitted += verdict(admission, ONE, now) is None
        assert admitted <= ALLOWANCE.burst_tokens + now * ALLOWANCE.tokens_per_second + 1e-6


def test_refusals_are_rejections():
    """A refusal names its word, for the one who reads."""
    with pytest.raises(Rejected, match="tx: 200 bytes, at most 100"):
        Admission().check(ONE, "tx", ALLOWANCE, 200, 0.0)
