"""What samples show: every formula beside a count, and the figures of the design."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.erasure import COLD, LIVE, Geometry
from protocol.limits import KIB
from storage.sampling.odds import (
    fooled,
    found_by_audits,
    found_in_blob,
    samplers_until_public,
    samples_needed,
    sampling_plan,
)

MILLIONTH = Fraction(1, 10**6)


@pytest.mark.parametrize(("data_cells", "cells"), [(1, 5), (3, 7), (4, 8), (6, 8)])
def test_the_chance_is_a_share_of_all_draws(data_cells: int, cells: int) -> None:
    """Counted one by one: draws in which no more are lost than are forgiven, while K - 1 cells answer."""
    geometry = Geometry(data_cells, cells - data_cells, KIB)
    for samples, forgiven in itertools.product(range(1, cells + 1), range(3)):
        draws = itertools.combinations(range(cells), samples)
        deceived = sum(sum(cell >= data_cells - 1 for cell in draw) <= forgiven for draw in draws)
        assert fooled(geometry, samples, forgiven) == Fraction(deceived, comb(cells, samples))


def test_without_forgiving_it_is_the_formula_of_the_specification() -> None:
    """C(k-1, s) / C(n, s), never more than (63/256)^s; its numbers of samples for a live tile."""
    for samples in range(1, 64):
        assert fooled(LIVE, samples) == Fraction(comb(63, samples), comb(256, samples)) <= Fraction(63, 256) ** samples
    chances = (Fraction(1, 1_000), MILLIONTH, Fraction(1, 10**9), Fraction(1, 2**40))
    assert [samples_needed(LIVE, chance) for chance in chances] == [5, 10, 14, 19]
    shapes = (Geometry(16, 16, KIB), Geometry(64, 64, KIB), Geometry(128, 128, KIB), Geometry(64, 128, KIB))
    assert [samples_needed(geometry, MILLIONTH) for geometry in shapes] == [13, 18, 19, 12]
    assert 300 * fooled(LIVE, 8) < Fraction(3, 1_000)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 10**7), st.integers(0, 4))
def test_a_plan_has_no_more_than_its_chance_in_all(
    data_cells: int, parity_cells: int, one_in: int, forgiven: int
) -> None:
    """Its stages together; and no stage takes fewer samples than the one before, or more than there are cells."""
    geometry, chance = Geometry(data_cells, parity_cells, KIB), Fraction(1, one_in)
    if parity_cells < forgiven:
        with pytest.raises(ValueError, match="samples show nothing"):
            samples_needed(geometry, Fraction(0), forgiven)
        return
    plan = sampling_plan(geometry, chance, forgiven)
    assert sum(fooled(geometry, samples, lost) for lost, samples in enumerate(plan)) <= chance
    assert list(plan) == sorted(plan)
    assert plan[-1] <= geometry.cells


def test_plans_of_the_profiles() -> None:
    """Of one in a million. All ten cells of a cold tile must answer: nine might be all that there are."""
    assert sampling_plan(LIVE, MILLIONTH, 0) == (10,)
    assert sampling_plan(LIVE, MILLIONTH, 4) == (11, 14, 16, 18, 20)
    assert sampling_plan(COLD, MILLIONTH, 0) == (10,)


def test_many_that_look_at_little_find_what_is_withheld() -> None:
    """A hundred that each take ten cells of 8 of 256 tiles: 95.8 %. 44 audits, where a tenth was dropped: 99 %."""
    found = found_in_blob(256, 8, fooled(LIVE, 10), 100)
    assert Fraction(958, 1_000) < found < Fraction(959, 1_000)
    assert found_in_blob(1, 1, fooled(LIVE, 10), 1) == 1 - fooled(LIVE, 10)
    assert Fraction(990, 1_000) < found_by_audits(Fraction(1, 10), 44) < Fraction(991, 1_000)
    assert found_by_audits(Fraction(0), 44) == 0


def test_a_tile_that_is_shown_to_enough_samplers_is_public() -> None:
    """Of five cells each: fifteen, not the thirteenth, because some cells are drawn twice."""
    assert samplers_until_public(LIVE, 5) == 15
    assert samplers_until_public(LIVE, 64) == 1
    assert samplers_until_public(LIVE, 1) == 74
