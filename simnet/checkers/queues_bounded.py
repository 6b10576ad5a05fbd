"""Queues have bounds and are emptied: one that only ever grows is a leak, long before it meets its bound.

A climb is a run of samples of one queue in which it never became shorter. A queue that is used climbs for a few samples and
falls; one that nobody reads, or that is read more slowly than it fills, climbs to the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.ids import PeerId
from simnet.checkers.checker import Checker
from simnet.checkers.facts import Facts, Peer

RISES_MAX: Final = 8  # samples in one climb in which it grew (a guess: a busy queue was empty within two)


@dataclass(slots=True)
class _Climb:
    begun_at: float
    first: int
    last: int
    rises: int = 0
    is_told: bool = False


class QueuesBounded(Checker):
    """A climb is a breach when it lasted a round and rose in so many samples."""

    says = f"No inbound queue exceeds its bound, or only ever grows for a round and through {RISES_MAX} samples."

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._climbs: dict[tuple[PeerId, str], _Climb] = {}

    def arrived(self, peer: Peer, now: float) -> None:
        """A process that begins again has other queues."""
        for key in [key for key in self._climbs if key[0] == peer.id]:
            del self._climbs[key]

    def sampled(self, peer: Peer, name: str, length: int, length_max: int, now: float) -> None:
        self.tally.checks += 1
        if length > length_max:
            self.breach(now, f"{peer.name}: {length} in {name}, at most {length_max}")
        climb = self._climbs.get((peer.id, name))
        if climb is None or length < climb.last:
            self._climbs[peer.id, name] = _Climb(now, length, length)
            return
        climb.rises += length > climb.last
        climb.last = length
        if climb.rises >= RISES_MAX and now - climb.begun_at >= self.facts.round_seconds and not climb.is_told:
            climb.is_told = True
            self.breach(
                now,
                f"{peer.name}: {name} grew from {climb.first} to {length} since {climb.begun_at:.1f} s "
                f"and was never shorter in between",
            )
