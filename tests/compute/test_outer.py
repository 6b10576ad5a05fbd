"""The outer step."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from compute.delta.codec import decode, encode
from compute.outer import RULES, OuterRule, apply_update, bias_correction, initial_state
from protocol.ids import Version
from protocol.rejection import InvariantBroken, Rejected

from .golden_deltas import drawn_delta

VALUES = 1000


def updates(count: int) -> list[bytes]:
    """Published updates of consecutive versions."""
    return [encode(drawn_delta(f"update {index}", VALUES), "update_int8") for index in range(count)]


def reference(weights: np.ndarray, rule: OuterRule, published: list[bytes]) -> np.ndarray:
    """The rules in float64."""
    weights = weights.astype(np.float64)
    first = np.zeros(VALUES)
    second = np.zeros(VALUES)
    rate, mu, b2 = float(rule.rate), float(rule.momentum), float(rule.second_momentum)
    for version, payload in enumerate(published, 1):
        update = decode(payload, VALUES).dense().astype(np.float64)
        match rule.name:
            case "average":
                weights = weights - update
            case "nesterov":
                first = mu * first + update
                weights = weights - rate * (update + mu * first)
            case _:
                first = mu * first + (1 - mu) * update
                second = b2 * second + (1 - b2) * update**2
                direction = (first / (1 - mu**version)) / (np.sqrt(second / (1 - b2**version)) + float(rule.epsilon))
                weights = weights - rate * (direction + float(rule.decay) * weights)
    return weights


@pytest.mark.parametrize("name", list(RULES))
def test_every_rule_follows_its_formula(name: str) -> None:
    """Five steps stay within rounding of float64; the state has the rule's planes and the input is left alone."""
    rule = OuterRule(name, decay=Fraction(1, 100))
    weights = drawn_delta("weights", VALUES) * np.float32(64)
    state = initial_state(weights, rule)
    published = updates(5)
    for version, payload in enumerate(published, 1):
        before = state.copy()
        after = apply_update(state, decode(payload, VALUES), rule, Version(version))
        assert np.array_equal(state, before)
        assert after.shape == (rule.planes, VALUES)
        state = after
    expected = reference(weights, rule, published)
    assert np.abs(state[0] - expected).max() <= 2.0**-18 * np.abs(expected).max()


def test_averaging_one_delta_with_itself_arrives_at_the_learner() -> None:
    """With an exact update, old weights minus (old minus new) is new."""
    rule = OuterRule("average")
    old = np.array([1.0, -2.0, 0.5], np.float32)
    new = np.array([1.5, -2.25, 0.25], np.float32)
    update = decode(encode(old - new, "none"), old.size)
    assert np.array_equal(apply_update(initial_state(old, rule), update, rule, Version(1))[0], new)


def test_bias_corrections_are_exact_and_fade() -> None:
    """1 / (1 - b^t), rounded once; one when b^t is lost in rounding, without a huge power."""
    assert bias_correction(Fraction(9, 10), 1) == np.float32(10)
    assert bias_correction(Fraction(9, 10), 2) == np.float32(1 / 0.19)
    assert bias_correction(Fraction(9, 10), 401) == 1
    assert bias_correction(Fraction(999_999, 10**6), 10**12) == 1


def test_weights_that_leave_the_range_are_refused() -> None:
    """An update that would make a weight infinite is a rejection, not a state."""
    rule = OuterRule("nesterov", rate=Fraction(10))
    state = np.full((2, 1), 3e38, np.float32)
    with pytest.raises(Rejected):
        apply_update(state, decode(encode(np.ones(1, np.float32), "none"), 1), rule, Version(1))


def test_what_makes_no_sense_is_refused() -> None:
    """Unknown rules and coefficients out of range are the config's mistake; a state of other planes is our bug."""
    for arguments in ({"name": "sgd"}, {"momentum": Fraction(1)}, {"rate": Fraction(0)}, {"rate": Fraction(1, 3)}):
        with pytest.raises(Rejected):
            OuterRule(**arguments)  # type: ignore[arg-type]  # a table of mistakes
    rule = OuterRule("nesterov")
    update = decode(encode(np.ones(3, np.float32), "none"), 3)
    with pytest.raises(InvariantBroken):
        apply_update(np.zeros((1, 3), np.float32), update, rule, Version(1))
    with pytest.raises(Rejected, match="3 values for a tile of 4"):
        apply_update(initial_state(np.ones(4, np.float32), rule), update, rule, Version(1))
