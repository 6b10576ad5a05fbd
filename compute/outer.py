"""The outer step: from one version of a tile to the next, with the same bits at every holder.

    P  planes: weights, then what the rule remembers          N  values of the tile

    state_PN + published update + rule + version  ->  new state_PN

The update u is the merged pseudo-gradient (old weights minus new ones) as published, decoded from its bytes; nobody
applies what was not published. Each line is one float32 operation a value, in this order:

    rule      planes   step
    average   1        w' = w - u
    nesterov  2        m' = mu * m + u;            w' = w - rate * (u + mu * m')
    adamw     3        m' = b1 * m + (1 - b1) * u;   v' = b2 * v + ((1 - b2) * u) * u
                       w' = w - rate * ((m' * c1) / (sqrt(v' * c2) + epsilon) + decay * w)
                       c = 1 / (1 - b^version), an exact rational rounded once

The square root and the division are allowed: IEEE 754 demands their correct rounding, and numpy uses the processor's
own instructions for both (a power or an exponential would come from a library, with the library's last bit).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compute.delta.decoded import DecodedDelta
from compute.exact import FLOAT32, Float32, float32_of, settle
from protocol.ids import Version
from protocol.rejection import Reason, Rejected, check_invariant

MICRO: Final = 1_000_000  # coefficients are given in millionths
SETTLED: Final = 40  # when version * (1 - b) passes this, b^version < e^-40 < 2^-57 and the correction rounds to 1


@dataclass(frozen=True, slots=True)
class OuterRule:
    """The outer optimiser. Coefficients are exact, in millionths at the finest; a rule reads those it needs."""

    name: str = "average"  # a key of RULES
    rate: Fraction = Fraction(7, 10)
    momentum: Fraction = Fraction(9, 10)  # of nesterov; b1 of adamw
    second_momentum: Fraction = Fraction(95, 100)  # b2 of adamw
    epsilon: Fraction = Fraction(1, 10**6)
    decay: Fraction = Fraction(0)  # weight decay of adamw

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise Rejected(Reason.BAD_CONFIG, f"no outer rule {self.name!r}; there are {', '.join(RULES)}")
        coefficients = (self.rate, self.momentum, self.second_momentum, self.epsilon, self.decay)
        if any(value < 0 or MICRO % value.denominator for value in coefficients):
            raise Rejected(Reason.BAD_CONFIG, "outer coefficients are non-negative and in millionths")
        if (
            self.momentum >= 1
            or self.second_momentum >= 1
            or not 0 < self.rate <= 10
            or not 0 < self.epsilon <= 1
            or self.decay > 1
        ):
            raise Rejected(
                Reason.BAD_CONFIG, "momenta are below 1, the rate is in (0, 10], epsilon in (0, 1], decay at most 1"
            )

    @property
    def planes(self) -> int:
        """Planes of a tile's state under this rule."""
        return RULES[self.name].planes


def initial_state(weights_N: Float32, rule: OuterRule) -> NDArray[np.float32]:
    """The state of version 0: the weights, and nothing remembered."""
    state_PN = np.zeros((rule.planes, weights_N.size), np.float32)
    state_PN[0] = weights_N
    return state_PN


def apply_update(
    state_PN: NDArray[np.float32], update: DecodedDelta, rule: OuterRule, version: Version
) -> NDArray[np.float32]:
    """The state of ``version`` (1 or more) from that of the version before and the published update; the input stays.

    Raises Rejected(BAD_SHAPE) for an update of another size, Rejected(BAD_DELTA) for one that drives a weight out of range.
    """
    check_invariant(version >= 1, "version 0 is genesis")
    check_invariant(
        state_PN.ndim == 2
        and state_PN.dtype == FLOAT32
        and bool(state_PN.flags.c_contiguous)
        and state_PN.shape[0] == rule.planes,
        "the state has the planes of its rule",
    )
    if update.values != state_PN.shape[1]:
        raise Rejected(Reason.BAD_SHAPE, f"an update of {update.values} values for a tile of {state_PN.shape[1]}")
    update_N = update.dense()
    new_PN = np.empty_like(state_PN)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):  # settle refuses what left the range
        RULES[rule.name].step(state_PN, update_N, rule, version, new_PN)
    settle(new_PN.reshape(-1))
    return new_PN


def _average(state_PN: Float32, update_N: Float32, rule: OuterRule, version: int, new_PN: Float32) -> None:
    np.subtract(state_PN[0], update_N, out=new_PN[0])


def _nesterov(state_PN: Float32, update_N: Float32, rule: OuterRule, version: int, new_PN: Float32) -> None:
    momentum, rate = float32_of(rule.momentum), float32_of(rule.rate)
    remembered_N = momentum * state_PN[1] + update_N
    ahead_N = update_N + momentum * remembered_N
    np.subtract(state_PN[0], rate * ahead_N, out=new_PN[0])
    new_PN[1] = remembered_N


def _adamw(state_PN: Float32, update_N: Float32, rule: OuterRule, version: int, new_PN: Float32) -> None:
    first_N = float32_of(rule.momentum) * state_PN[1] + float32_of(1 - rule.momentum) * update_N
    second_N = (
        float32_of(rule.second_momentum) * state_PN[2] + (float32_of(1 - rule.second_momentum) * update_N) * update_N
    )
    corrected_first_N = first_N * bias_correction(rule.momentum, version)
    corrected_second_N = settle(second_N * bias_correction(rule.second_momentum, version))
    direction_N = corrected_first_N / (np.sqrt(corrected_second_N) + float32_of(rule.epsilon))
    decayed_N = direction_N + float32_of(rule.decay) * state_PN[0]
    np.subtract(state_PN[0], float32_of(rule.rate) * decayed_N, out=new_PN[0])
    new_PN[1] = first_N
    new_PN[2] = second_N


def bias_correction(momentum: Fraction, version: int) -> np.float32:
    """``1 / (1 - momentum^version)``, exact, then rounded to float32."""
    if version * (1 - momentum) > SETTLED:
        return np.float32(1)
    return float32_of(1 / (1 - momentum**version))


@dataclass(frozen=True, slots=True)
class _Step:
    """One row of the table."""

    planes: int
    step: Callable[[Float32, Float32, OuterRule, int, Float32], None]


RULES: Final[Mapping[str, _Step]] = {
    "average": _Step(1, _average),
    "nesterov": _Step(2, _nesterov),
    "adamw": _Step(3, _adamw),
}
