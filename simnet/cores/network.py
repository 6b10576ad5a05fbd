"""Links: how long a message takes between two peers, who cannot reach whom, and every byte by the regions it went between.

    arrives = waits for the sender's line + bytes / upload -> latency of the route (+ jitter) -> bytes / download

A sender's line carries one thing after another; a receiver's line only bounds the rate. What is lost of a stream is sent
again, which costs a round trip. A slow region multiplies latencies and rates of everything that goes into or out of it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from simnet.cores.peer import Peer
from simnet.scenario import Region, Route, Scenario

BITS_PER_MEGABIT_MS: Final = 1_000  # of one megabit per second
FRAME_BYTES: Final = 48  # of one message: stream and cipher frames (a guess)


@dataclass(slots=True)
class _Weather:
    """What is wrong with a region. Faults that overlap are counted."""

    cuts: int = 0
    latency_factor: float = 1.0
    rate_share: float = 1.0

    @property
    def is_bad(self) -> bool:
        return self.cuts > 0 or self.latency_factor != 1.0 or self.rate_share != 1.0


@dataclass(slots=True)
class Traffic:
    """Bytes by (from, to) region and by kind, since the beginning."""

    between: Counter[tuple[str, str]]
    by_kind: Counter[str]
    wan_by_kind: Counter[str]

    @property
    def wan_bytes(self) -> int:
        return sum(size for (one, other), size in self.between.items() if one != other)

    @property
    def local_bytes(self) -> int:
        return sum(size for (one, other), size in self.between.items() if one == other)


class Network:
    """The links of one world."""

    def __init__(self, scenario: Scenario, draw: random.Random) -> None:
        self._draw = draw
        self._regions: Sequence[Region] = scenario.regions
        self._weather = {region.name: _Weather() for region in scenario.regions}
        self._routes: dict[tuple[str, str], Route] = {
            (one.name, other.name): scenario.route(one.name, other.name)
            for one in scenario.regions
            for other in scenario.regions
        }
        self.traffic = Traffic(Counter(), Counter(), Counter())
        self.changes = 0  # of who reaches whom and how fast: what was worked out before is worthless then

    # -- weather --------------------------------------------------------------------------------------------------------

    def cut(self, region: str, by: int) -> None:
        """Cut a region off (1) or join it again (-1)."""
        self._weather[region].cuts += by
        self.changes += 1

    def slow(self, region: str, latency_factor: float, rate_share: float) -> None:
        """Multiply a region's latencies and rates; by their inverses to undo it."""
        weather = self._weather[region]
        weather.latency_factor *= latency_factor
        weather.rate_share *= rate_share
        self.changes += 1

    def reaches(self, source: Peer, to: Peer) -> bool:
        """Whether both run and nothing is cut between them."""
        if not (source.is_running and to.is_running):
            return False
        one, other = source.region, to.region
        return one == other or not (self._weather[one].cuts or self._weather[other].cuts)

    def side(self, region: str) -> str:
        """The name of the part of the network that a region is in: its own while it is cut off."""
        return region if self._weather[region].cuts else ""

    # -- time -----------------------------------------------------------------------------------------------------------

    def latency_ms(self, one: str, other: str) -> float:
        """One way, drawn with its jitter."""
        route = self._routes[one, other]
        latency = route.latency_ms
        if route.jitter_ms:
            latency += route.jitter_ms * self._draw.random()
        return latency * self._factor(one, other)

    def is_lost(self, one: str, other: str) -> bool:
        """Whether one message of gossip is."""
        loss = self._routes[one, other].loss
        return loss > 0 and self._draw.random() < loss

    def send_ms(self, source: Peer, to: Peer, size_bytes: int, now_ms: int, kind: str) -> float:
        """Count a message on a stream; after how long its last byte is there."""
        size_bytes += FRAME_BYTES
        one, other = source.region, to.region
        self.count(one, other, size_bytes, kind)
        rate = self._rate(one, other)
        bits = 8 * size_bytes
        begins_ms = max(source.line_free_ms, float(now_ms))
        source.line_free_ms = begins_ms + bits / (source.upload_bits_per_ms * rate)
        slowest_ms = max(source.line_free_ms - begins_ms, bits / (to.download_bits_per_ms * rate))
        latency_ms = self.latency_ms(one, other)
        if self.is_lost(one, other):
            latency_ms += 2 * self.latency_ms(one, other)
        return begins_ms - now_ms + slowest_ms + latency_ms

    def _factor(self, one: str, other: str) -> float:
        if one == other:
            return self._weather[one].latency_factor
        return self._weather[one].latency_factor * self._weather[other].latency_factor

    def _rate(self, one: str, other: str) -> float:
        if one == other:
            return self._weather[one].rate_share
        return min(self._weather[one].rate_share, self._weather[other].rate_share)

    # -- bytes ----------------------------------------------------------------------------------------------------------

    def count(self, one: str, other: str, size_bytes: int, kind: str) -> None:
        """So many bytes went from one region to another."""
        self.traffic.between[one, other] += size_bytes
        self.traffic.by_kind[kind] += size_bytes
        if one != other:
            self.traffic.wan_by_kind[kind] += size_bytes
