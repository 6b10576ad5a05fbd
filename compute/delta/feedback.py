"""Error feedback: what a payload does not say is not lost, it waits in the residual.

    target    = delta + residual
    payload   = encode(target),   decoded = what any receiver reads from it
    residual' = decay * (target - decoded)

A learner begins its steps ahead of the decided weights, by a share of its residual: `weights - start * residual`. From the
decided weights alone it would find again what it could not yet say, and then say it twice: once as residual, once as delta
(docs/decisions/0011).

Each line is one float32 operation a value. With decay 1 every bit of every delta is sent once, sooner or later: the
decoded payloads and the last residual add up to the deltas (exactly where float32 rounds nothing). The decay applies
to what was *not* sent; ``decay * target - decoded`` would take back a twentieth of what was.

The residual belongs to the learner's durable state: it is journalled with the payload, in one write, before the
payload leaves.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from compute.delta.codec import decode, encode_and_read
from compute.delta.order import Matrices
from compute.exact import Float32, check_vector, float32_of, settle


def compress_with_feedback(
    delta_N: Float32, residual_N: Float32, pipeline: str, decay: Fraction, matrices: Matrices = ()
) -> tuple[bytes, Float32]:
    """The payload to send and the new residual; ``matrices`` as in ``encode``.

    Raises Rejected(BAD_DELTA) if the delta is not finite: training diverged.
    """
    check_vector(residual_N, check_vector(delta_N).size)
    target_N = delta_N + residual_N
    payload, said = encode_and_read(target_N, pipeline, matrices)
    rest_N = target_N - said.dense()
    return payload, settle(float32_of(decay) * rest_N)


def begin_ahead(weights_N: Float32, residual_N: Float32, start: Fraction) -> Float32:
    """The weights from which a learner takes its steps: the decided ones less ``start`` of what it has not yet said."""
    check_vector(residual_N, check_vector(weights_N).size)
    return weights_N - float32_of(start) * residual_N


def add_back(residual_N: Float32, payload: bytes) -> Float32:
    """The residual of a learner whose payload was not among those that were decided: everything it said waits again."""
    check_vector(residual_N)
    return settle(residual_N + decode(payload, residual_N.size).dense())


def withhold(residual_N: Float32, delta_N: Float32) -> Float32:
    """The residual of a learner that sends nothing of a delta now: all of it waits."""
    check_vector(residual_N, check_vector(delta_N).size)
    return settle(residual_N + delta_N)


def empty_residual(values: int) -> Float32:
    """The residual of a learner that has sent nothing."""
    return np.zeros(values, np.float32)
