"""Proof of history: a chain of hashes that nobody can shorten, with events mixed in; and hash onions for a beacon.

    tick    hash <- SHA-256(hash)
    mix     hash <- digest("nock/history/1", hash, event)

Each hash needs the one before it, so a chain of n ticks took one machine n hashes in a row, whoever made it, and an event mixed
in at tick t was known before tick t + 1 was. That is all that it proves: an order, and a least amount of work between events,
not a time of day. A tick hashes 32 bytes and a mix a longer text, so neither is ever the other.

Checking costs as many hashes as making, but segments are checked independently, each on any core: ``check_segment`` is a pure
function of one segment, and ``check_joined`` compares the ends.

    segment = [start, ticks, events: (tick, digest)..., end]       events after their tick, in order

A hash onion is n hashes around a secret: its outermost layer is the commitment, and each reveal is one layer further in. Who is
committed cannot choose what it reveals, only whether, so a beacon mixed from reveals can be biased by silence alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from protocol.codec import Message
from protocol.digest import Domain, digest
from protocol.ids import Digest, DigestField
from protocol.limits import HISTORY_EVENTS_PER_SEGMENT_MAX, HISTORY_TICKS_PER_SEGMENT_MAX, ONION_LAYERS_MAX
from protocol.rejection import Reason, Rejected

_Tick = Annotated[int, Meta(ge=0, le=HISTORY_TICKS_PER_SEGMENT_MAX)]


class HistoryEvent(Message, frozen=True):
    """An event by its digest, mixed in after so many ticks of its segment."""

    tick: _Tick
    event: DigestField


class HistorySegment(Message, frozen=True):
    """A piece of history between two checkpoints, ``start`` and ``end``."""

    start: DigestField
    ticks: _Tick
    events: Annotated[tuple[HistoryEvent, ...], Meta(max_length=HISTORY_EVENTS_PER_SEGMENT_MAX)]
    end: DigestField


def _tick(at: Digest, ticks: int) -> Digest:
    raw: bytes = at
    for _ in range(ticks):
        raw = hashlib.sha256(raw).digest()
    return Digest(raw)


def _mix(at: Digest, event: Digest) -> Digest:
    return digest(Domain.HISTORY, at, event)


@dataclass(slots=True)
class History:
    """The writer's side: it ticks when told to, takes events, and cuts segments."""

    start: Digest  # the last checkpoint
    _at: Digest
    _ticks: int
    _events: list[HistoryEvent]

    @classmethod
    def after(cls, checkpoint: Digest) -> History:
        """History that continues a checkpoint; the first is the digest of something that everybody knows."""
        return cls(checkpoint, checkpoint, 0, [])

    @property
    def is_full(self) -> bool:
        """Whether the segment under way takes no more events or no more ticks."""
        return self._ticks >= HISTORY_TICKS_PER_SEGMENT_MAX or len(self._events) >= HISTORY_EVENTS_PER_SEGMENT_MAX

    def advance(self, ticks: int) -> None:
        """Tick; raises ``ValueError`` beyond ``HISTORY_TICKS_PER_SEGMENT_MAX``: cut first."""
        if not 0 <= ticks <= HISTORY_TICKS_PER_SEGMENT_MAX - self._ticks:
            raise ValueError(f"{ticks} ticks after {self._ticks} do not fit in a segment")
        self._at = _tick(self._at, ticks)
        self._ticks += ticks

    def mix(self, event: Digest) -> None:
        """Mix an event in; raises ``ValueError`` when the segment holds as many as it may."""
        if len(self._events) >= HISTORY_EVENTS_PER_SEGMENT_MAX:
            raise ValueError("the segment is full of events")
        self._events.append(HistoryEvent(self._ticks, event))
        self._at = _mix(self._at, event)

    def cut(self) -> HistorySegment:
        """The segment up to here; its end is the checkpoint after which the next one begins."""
        segment = HistorySegment(self.start, self._ticks, tuple(self._events), self._at)
        self.start, self._ticks, self._events = self._at, 0, []
        return segment


def check_segment(segment: HistorySegment) -> None:
    """Check one segment alone, by doing its work again; raises ``Rejected(BAD_PROOF)``. Any core may do it."""
    at, done = segment.start, 0
    ticks = [event.tick for event in segment.events]
    if ticks != sorted(ticks) or (ticks and ticks[-1] > segment.ticks):
        raise Rejected(Reason.BAD_PROOF, "events are in order of tick, within the segment")
    for event in segment.events:
        at, done = _mix(_tick(at, event.tick - done), event.event), event.tick
    if _tick(at, segment.ticks - done) != segment.end:
        raise Rejected(Reason.BAD_PROOF, "the segment has another end")


def walk_segments(start: Digest, ticks: int, count: int) -> tuple[Digest, ...]:
    """The ends of ``count`` segments from ``start`` on, of so many ticks each and without events."""
    ends: list[Digest] = []
    for _ in range(count):
        ends.append(_tick(ends[-1] if ends else start, ticks))
    return tuple(ends)


def segments_between(start: Digest, ends: Sequence[Digest], ticks: int) -> tuple[HistorySegment, ...]:
    """The segments that lead from ``start`` over each of ``ends``, of so many ticks each and without events."""
    starts = (start, *ends[:-1])
    return tuple(HistorySegment(first, ticks, (), last) for first, last in zip(starts, ends, strict=True))


def check_joined(checkpoint: Digest, segments: Sequence[HistorySegment]) -> Digest:
    """Check that segments, each checked alone, follow each other from ``checkpoint``; returns the last end.

    Raises ``Rejected(BAD_PROOF)``.
    """
    for index, segment in enumerate(segments):
        if segment.start != checkpoint:
            raise Rejected(Reason.BAD_PROOF, f"segment {index} begins elsewhere than the one before it ends")
        checkpoint = segment.end
    return checkpoint


# -- hash onions --------------------------------------------------------------------------------------------------------


class Onion:
    """The owner's side: the secret and its layers. Reveals go from the outside in."""

    __slots__ = ("_layers",)

    def __init__(self, secret: bytes, layers: int) -> None:
        """``secret`` is 32 bytes of entropy; raises ``ValueError`` for another length or number of layers."""
        if len(secret) != 32 or not 1 <= layers <= ONION_LAYERS_MAX:
            raise ValueError(f"an onion has a secret of 32 bytes and 1 to {ONION_LAYERS_MAX} layers")
        self._layers = [Digest(secret)]
        for _ in range(layers):
            self._layers.append(_wrap(self._layers[-1]))

    @property
    def commitment(self) -> Digest:
        """The outermost layer: published before anything is revealed."""
        return self._layers[-1]

    def reveal(self, index: int) -> Digest:
        """Reveal number ``index``, from 0; raises ``ValueError`` when the onion has no such layer."""
        if not 0 <= index < len(self._layers) - 1:
            raise ValueError(f"an onion of {len(self._layers) - 1} layers has no reveal {index}")
        return self._layers[-2 - index]

    def find_below(self, layer: Digest) -> Digest | None:
        """The layer below ``layer``; None where the onion does not have it, or it is the innermost."""
        if layer not in self._layers[1:]:
            return None
        return self._layers[self._layers.index(layer) - 1]


def _wrap(layer: Digest) -> Digest:
    return digest(Domain.ONION, layer)


def check_reveal(commitment: Digest, reveal: Digest) -> Digest:
    """Check that ``reveal`` is the layer below ``commitment``; returns the commitment from now on: the reveal.

    Raises ``Rejected(BAD_PROOF)``.
    """
    if _wrap(reveal) != commitment:
        raise Rejected(Reason.BAD_PROOF, "the reveal is not below the commitment")
    return reveal


def mix_beacon(beacon: Digest, checkpoint: Digest, reveals: Sequence[Digest]) -> Digest:
    """The next beacon: the last one, a checkpoint of history after the reveals, and the checked reveals.

    They are mixed in ascending order, so that the beacon does not depend on which came first.
    """
    return digest(Domain.BEACON, beacon, checkpoint, *sorted(reveals))
