"""Which learners' deltas a head counts."""

from __future__ import annotations

from protocol.roster import Head
from simnet.checkers.facts import Counted, FindBlob


def counted_by(head: Head, find_blob: FindBlob) -> tuple[Counted, ...]:
    """Every delta that goes into a head, by itself or inside an aggregate."""
    return tuple(Counted(reference.delta, reference.learner, reference.base) for reference in head.deltas)
