"""What lies between hosts in memory: how long bytes take, which are lost, who cannot reach whom."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Protocol

from protocol.ids import PeerId


class Links(Protocol):
    """The links of a made network. Asked once for everything that is sent, in the order of sending."""

    def arrival(self, source: PeerId, sink: PeerId, kind: str, size_bytes: int, now: float) -> float:
        """When the last of so many bytes arrives that are sent now; ``kind`` is a topic or a protocol."""
        ...

    def loses(self, source: PeerId, sink: PeerId) -> bool:
        """Whether a gossip message is lost between two peers. (Streams lose nothing: TCP says it again.)"""
        ...

    def breaks(self) -> bool:
        """Whether a write breaks its connection."""
        ...

    def are_apart(self, one: PeerId, other: PeerId) -> bool:
        """Whether nothing goes between two peers at the moment."""
        ...


class UniformLinks:
    """The same between any two: a latency that is drawn evenly, no limit of rate, islands."""

    def __init__(
        self,
        generator: random.Random,
        latency_seconds: tuple[float, float],
        break_probability: float = 0.0,
    ) -> None:
        self._generator = generator
        self._latency_seconds = latency_seconds
        self._break_probability = break_probability
        self.islands: tuple[frozenset[PeerId], ...] = ()

    def part(self, *islands: Collection[PeerId]) -> None:
        """Peers of one island reach no other; peers in no island reach everybody."""
        self.islands = tuple(frozenset(island) for island in islands)

    def arrival(self, source: PeerId, sink: PeerId, kind: str, size_bytes: int, now: float) -> float:
        return now + self._generator.uniform(*self._latency_seconds)

    def loses(self, source: PeerId, sink: PeerId) -> bool:
        return False

    def breaks(self) -> bool:
        return self._break_probability > 0.0 and self._generator.random() < self._break_probability

    def are_apart(self, one: PeerId, other: PeerId) -> bool:
        of_one = [one in island for island in self.islands]
        of_other = [other in island for island in self.islands]
        return any(of_one) and any(of_other) and of_one != of_other
