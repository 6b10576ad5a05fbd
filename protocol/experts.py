"""Experts as they are kept and asked for: whole, or cut into slices where one is too large for a machine.

    layer0.expert7          the whole expert
    layer0.expert7#1/4      the second of four slices: as many of its hidden units as the others have

A slice is cut along the hidden units: rows of ``up``, columns of ``down``. What the slices give for the same tokens, added up,
is what the expert gives.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class ExpertSlice:
    """Slice ``index`` of ``count`` of the expert that the model's layout calls ``expert``."""

    expert: str
    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return self.expert if self.count == 1 else f"{self.expert}#{self.index}/{self.count}"


def slices_of(expert: str, count: int) -> tuple[ExpertSlice, ...]:
    """All slices of an expert that is cut into so many."""
    return tuple(ExpertSlice(expert, index, count) for index in range(count))
