"""Aggregates: a delta of many learners, in one form and under one signature."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from protocol.codec import decode, encode
from protocol.learning import SignedDelta, check_contributors, check_delta_signature
from protocol.limits import CONTRIBUTORS_PER_AGGREGATE_MAX, FRAME_BYTES_MAX
from protocol.rejection import Reason, Rejected
from tests.protocol.samples import aggregate, delta


def refusal(changed: SignedDelta) -> Reason:
    with pytest.raises(Rejected) as caught:
        check_contributors(changed.contributors, changed.tokens)
    return caught.value.reason


def test_an_honest_list_is_accepted() -> None:
    """So is none: a learner's own delta."""
    for each in (aggregate(), delta()):
        check_contributors(each.contributors, each.tokens)


def test_a_list_has_one_form() -> None:
    """Learners ascend, no learner and no delta is there twice, and the tokens are those of the contributors."""
    whole = aggregate()
    first, second = whole.contributors
    assert refusal(replace(whole, contributors=(second, first))) is Reason.NOT_CANONICAL
    assert refusal(replace(whole, contributors=(first, first))) is Reason.NOT_CANONICAL
    assert refusal(replace(whole, contributors=(first, replace(second, delta=first.delta)))) is Reason.BAD_DELTA
    assert refusal(replace(whole, tokens=whole.tokens + 1)) is Reason.BAD_DELTA


@pytest.mark.parametrize("weight", [0, 2**40 + 1])
def test_a_contributor_weighs_something_in_bounds(weight: int) -> None:
    """The decoder refuses the rest."""
    whole = aggregate()
    data = encode(replace(whole, contributors=(replace(whole.contributors[0], weight=weight),)))
    with pytest.raises(Rejected):
        decode(SignedDelta, data, limit_bytes=FRAME_BYTES_MAX)


def test_a_list_is_bounded() -> None:
    """The decoder refuses a contributor too many."""
    whole = aggregate()
    data = encode(replace(whole, contributors=whole.contributors[:1] * (CONTRIBUTORS_PER_AGGREGATE_MAX + 1)))
    with pytest.raises(Rejected):
        decode(SignedDelta, data, limit_bytes=FRAME_BYTES_MAX)


def test_the_aggregator_signs_the_list() -> None:
    """Whoever changes a contributor afterwards has no signature for it."""
    whole = aggregate()
    check_delta_signature(whole)
    for changed in (replace(whole, contributors=whole.contributors[:1]), replace(whole, contributors=())):
        with pytest.raises(Rejected) as caught:
            check_delta_signature(changed)
        assert caught.value.reason is Reason.BAD_SIGNATURE
