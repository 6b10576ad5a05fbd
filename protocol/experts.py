"""Experts as they are kept and asked for: whole, or cut into slices where one is too large for a machine.

    layer0.expert7          the whole expert
    layer0.expert7#1/4      the second of four slices: as many of its hidden units as the others have

A slice is cut along the hidden units: rows of ``up``, columns of ``down``. What the slices give for the same tokens, added up,
is what the expert gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from protocol.codec import Message
from protocol.ids import VersionField
from protocol.limits import (
    EXPERT_NAME_CHARACTERS_MAX,
    EXPERT_ROWS_BYTES_MAX,
    EXPERT_SLICES_MAX,
    EXPERT_TILES_MAX,
)

_Rows = Annotated[bytes, Meta(min_length=4, max_length=EXPERT_ROWS_BYTES_MAX)]


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


class CallExpert(Message, frozen=True):
    """Ask a peer to send rows through slice ``index`` of ``count`` of an expert.

    ``versions``: of the expert's tiles, in order: which weights are meant. ``rows``: float32, little-endian, row after row.
    """

    expert: Annotated[str, Meta(min_length=1, max_length=EXPERT_NAME_CHARACTERS_MAX)]
    index: Annotated[int, Meta(ge=0, lt=EXPERT_SLICES_MAX)]
    count: Annotated[int, Meta(ge=1, le=EXPERT_SLICES_MAX)]
    versions: Annotated[tuple[VersionField, ...], Meta(min_length=1, max_length=EXPERT_TILES_MAX)]
    rows: _Rows


class ExpertCalled(Message, frozen=True):
    """The answer: as many rows of the same form."""

    rows: _Rows
