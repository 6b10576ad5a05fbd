"""Which learners' deltas a head counts."""

from __future__ import annotations

from collections.abc import Iterator

from protocol.codec import decode
from protocol.learning import SignedDelta
from protocol.limits import FRAME_BYTES_MAX
from protocol.rejection import Rejected
from protocol.roster import DeltaRef, Head
from simnet.checkers.facts import Counted, FindBlob


def counted_by(head: Head, find_blob: FindBlob) -> tuple[Counted, ...]:
    """Every delta that goes into a head, by itself or inside an aggregate."""
    return tuple(each for reference in head.deltas for each in _inside(reference, find_blob))


def _inside(reference: DeltaRef, find_blob: FindBlob) -> Iterator[Counted]:
    """What one reference counts. Whose it is, an aggregate's bytes know; where they are gone, the aggregator answers for it."""
    if not reference.contributors:
        yield Counted(reference.delta, reference.learner, reference.base)
        return
    learners = {}
    if (blob := find_blob(reference.delta)) is not None:
        try:
            contributors = decode(SignedDelta, blob, limit_bytes=FRAME_BYTES_MAX).contributors
            learners = {each.delta: each.learner for each in contributors}
        except Rejected:
            pass  # another checker says so
    for name in reference.contributors:
        yield Counted(name, learners.get(name, reference.learner), reference.base)
