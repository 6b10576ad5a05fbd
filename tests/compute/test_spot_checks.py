"""Which answers are computed again, how far off they may be, and what is remembered of those who gave them."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.spot_checks import (
    DEVIATION_MICRO_MAX,
    NO_LIKENESS_MICRO,
    RECORDS_MAX,
    Choice,
    Given,
    SpotCheckRule,
    SpotChecks,
    find_deviation_micro,
)
from protocol.experts import ExpertSlice
from protocol.ids import PeerId, Version
from protocol.rejection import InvariantBroken, Reason, Rejected

ONE, OTHER = PeerId(bytes([1]) * 32), PeerId(bytes([2]) * 32)
A, B = ExpertSlice("layer0.expert0"), ExpertSlice("layer0.expert1")
WIDTH = 8


def checks(rule: SpotCheckRule | None = None, seed: int = 1) -> SpotChecks:
    return SpotChecks(Random(seed), rule)


def given_by(peer: PeerId, expert: ExpertSlice, version: int = 3) -> Given:
    return Given(peer, expert, Version(version))


def believe(made: SpotChecks, peer: PeerId, expert: ExpertSlice) -> None:
    assert made.choose(given_by(peer, expert)) is Choice.BEFORE
    assert not made.found(given_by(peer, expert), Choice.BEFORE, 0)


def test_the_first_answer_of_a_holder_for_an_expert_is_looked_at_before_it_is_used() -> None:
    """As long as none was found right; being right about one expert says nothing about another, nor about another peer."""
    made = checks()
    assert made.choose(given_by(ONE, A)) is Choice.BEFORE
    assert made.choose(given_by(ONE, A)) is Choice.BEFORE  # the first is not back yet
    made.found(given_by(ONE, A), Choice.BEFORE, None)
    assert made.choose(given_by(ONE, A)) is Choice.BEFORE  # it could not be computed, which says nothing
    made.found(given_by(ONE, A), Choice.BEFORE, DEVIATION_MICRO_MAX)
    assert made.choose(given_by(ONE, A)) is not Choice.BEFORE
    assert made.choose(given_by(ONE, B)) is made.choose(given_by(OTHER, A)) is Choice.BEFORE


def test_a_newer_version_is_looked_at_again() -> None:
    """Once for all experts of a holder: who does not fetch updates is found before its old rows are used."""
    made = checks()
    believe(made, ONE, A)
    believe(made, ONE, B)
    assert made.choose(given_by(ONE, A, 2)) is not Choice.BEFORE
    newer = given_by(ONE, A, 4)
    assert made.choose(newer) is Choice.BEFORE
    made.found(newer, Choice.BEFORE, 0)
    assert made.choose(newer) is not Choice.BEFORE
    assert made.choose(given_by(ONE, B, 4)) is not Choice.BEFORE
    assert made.records()[ONE].version == 4


def test_whoever_was_wrong_is_believed_about_nothing() -> None:
    """Neither about that expert nor about those about which it was right."""
    made = checks(SpotCheckRule(one_in=1))
    believe(made, ONE, A)
    believe(made, ONE, B)
    believe(made, OTHER, A)
    assert made.choose(given_by(ONE, A)) is Choice.BESIDE
    assert made.found(given_by(ONE, A), Choice.BESIDE, DEVIATION_MICRO_MAX + 1)
    assert made.choose(given_by(ONE, A)) is made.choose(given_by(ONE, B)) is Choice.BEFORE
    assert made.choose(given_by(OTHER, A)) is Choice.BESIDE
    record = made.records()[ONE]
    assert (record.answers, record.checked, record.wrong, record.believed) == (5, 3, 1, 0)


def test_of_the_others_one_in_so_many_is_looked_at() -> None:
    """By chance, so that nobody can tell which; and no more at once than there is room for."""
    made = checks(SpotCheckRule(one_in=16, beside_max=3))
    believe(made, ONE, A)
    chosen = []
    for _ in range(8_000):
        choice = made.choose(given_by(ONE, A))
        chosen.append(choice)
        if choice is Choice.BESIDE:
            made.found(given_by(ONE, A), choice, 5)
    assert 400 < chosen.count(Choice.BESIDE) < 600
    assert made.records()[ONE].deviation_micro_max == 5
    held = [made.choose(given_by(ONE, A)) for _ in range(8_000)]
    assert held.count(Choice.BESIDE) == made.statistics().open == 3
    with pytest.raises(InvariantBroken):
        made.found(given_by(ONE, A), Choice.NOT, 0)


def test_no_more_is_remembered_than_there_is_room_for() -> None:
    """Of more peers than that the first is forgotten, and is new when it comes again."""
    made = checks()
    believe(made, ONE, A)
    for number in range(RECORDS_MAX):
        made.choose(given_by(PeerId(number.to_bytes(32, "big")), A))
    assert len(made.records()) == RECORDS_MAX
    assert ONE not in made.records()
    assert made.statistics().answers == RECORDS_MAX + 1  # what was counted stays counted
    assert made.choose(given_by(ONE, A)) is Choice.BEFORE


def rows(values: np.ndarray) -> bytes:
    return values.astype("<f4").tobytes()


def test_the_worst_row_counts() -> None:
    """One row of a hundred that is another's is as far off as all of them."""
    own = np.random.default_rng(1).standard_normal((100, WIDTH))
    given = own.copy()
    assert find_deviation_micro(rows(given), rows(own), WIDTH) == 0
    given[40] *= 1.01
    assert find_deviation_micro(rows(given), rows(own), WIDTH) == pytest.approx(10_000, rel=0.01)
    given[40] = -own[40]
    assert find_deviation_micro(rows(given), rows(own), WIDTH) == pytest.approx(2_000_000, rel=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_no_number_is_like_nothing(value: float) -> None:
    """Nor is a number that is larger than rows are; no warning, no error."""
    own = np.ones((3, WIDTH))
    given = own.copy()
    given[1, 2] = value
    assert find_deviation_micro(rows(given), rows(own), WIDTH) == NO_LIKENESS_MICRO


def test_own_rows_that_are_no_numbers_are_like_nothing() -> None:
    """Weights that have become none: the answer is not taken for right, and nothing is raised."""
    own = np.full((1, WIDTH), np.inf)
    assert find_deviation_micro(rows(own), rows(own), WIDTH) == NO_LIKENESS_MICRO


def test_rows_of_noughts_are_like_rows_of_noughts_alone() -> None:
    """An expert none of whose units answers gives them."""
    noughts, ones = np.zeros((2, WIDTH)), np.ones((2, WIDTH))
    assert find_deviation_micro(rows(noughts), rows(noughts), WIDTH) == 0
    assert find_deviation_micro(rows(ones), rows(noughts), WIDTH) == NO_LIKENESS_MICRO
    assert find_deviation_micro(rows(noughts), rows(ones), WIDTH) == 1_000_000


def test_as_many_rows_are_compared_as_there_are() -> None:
    """What is no whole row, or has no other beside it, has no deviation."""
    for given_rows, own in ((b"", bytes(32)), (bytes(64), bytes(32)), (bytes(33), bytes(33))):
        with pytest.raises(Rejected) as refused:
            find_deviation_micro(given_rows, own, WIDTH)
        assert refused.value.reason is Reason.BAD_SHAPE


@given(st.binary(min_size=4 * WIDTH, max_size=4 * WIDTH), st.binary(min_size=4 * WIDTH, max_size=4 * WIDTH))
def test_any_bytes_are_some_way_off(given_row: bytes, own_row: bytes) -> None:
    """Whatever a peer sends of the right size, and whatever our own weights have become."""
    assert 0 <= find_deviation_micro(given_row, own_row, WIDTH) <= NO_LIKENESS_MICRO
