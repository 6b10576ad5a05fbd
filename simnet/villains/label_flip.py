"""Learns honestly from wrong labels: the poison is in its data, its machine may not even know.

(Biggio et al., 2012, "Poisoning Attacks against Support Vector Machines"; for learners that are merged, Tolpegin et al.,
2020.) The change looks like any other in length and shape. All who have the same wrong data agree with each other, and the
better the model gets, the longer their changes are, for theirs is the only loss that stays large.
"""

from __future__ import annotations

from typing import ClassVar

from simnet.villains.villain import Villain


class LabelFlip(Villain):
    """Believes what is wrong. The world gives it what such data teach; it sends that as it is."""

    SUMMARY: ClassVar[str] = "learns from wrong labels"
    FLIPS_LABELS: ClassVar[bool] = True
