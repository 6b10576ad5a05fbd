"""The internet of a scenario: latencies between regions, rates of machines, cuts, and an account of every byte.

A machine sends one thing after the other at its rate, and takes large things one after the other at its own; between them lies
the route of their regions. So a peer that everybody asks at once is slow, as a real one is.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocol.ids import PeerId
from simnet.scenario import HardwareClass, Region, Scenario

FRAME_BYTES: Final = 60  # TCP, IP and encryption around what is sent (a guess: one small packet's)
BULK_BYTES: Final = 16_384  # what is smaller slips in between, so that nothing waits for what arrives after it
BITS_PER_SECOND: Final = 1_000_000


@dataclass(slots=True)
class _Wire:
    """One machine's connection to the internet."""

    region: str
    upload_seconds_per_byte: float
    download_seconds_per_byte: float
    sends_until: float = 0.0
    takes_until: float = 0.0


class RegionLinks:
    """:class:`p2p.io.memory_links.Links` between the regions of a scenario."""

    def __init__(self, scenario: Scenario, generator: random.Random) -> None:
        self._scenario = scenario
        self._generator = generator
        self._wires: dict[PeerId, _Wire] = {}
        self.cut: dict[str, int] = {}  # regions that are cut off, how many times at once
        self.slow: dict[str, tuple[float, float]] = {}  # region -> (latency factor, share of the rate)
        self.carried: Counter[tuple[str, str]] = Counter()  # (from region, to region) -> bytes
        self.by_kind: Counter[str] = Counter()  # bytes of topics and protocols, copies and frames included
        self.wan_bytes = 0
        self.local_bytes = 0
        self.count = 0

    def connect(self, peer: PeerId, region: Region, hardware: HardwareClass) -> None:
        """A machine gets its place."""
        self._wires[peer] = _Wire(
            region.name,
            8 / (hardware.upload_megabits * BITS_PER_SECOND),
            8 / (hardware.download_megabits * BITS_PER_SECOND),
        )

    def region_of(self, peer: PeerId) -> str:
        return self._wires[peer].region

    def arrival(self, source: PeerId, sink: PeerId, kind: str, size_bytes: int, now: float) -> float:
        sender, taker = self._wires[source], self._wires.get(sink, self._wires[source])
        size_bytes += FRAME_BYTES
        self._account(sender.region, taker.region, kind, size_bytes)
        route = self._scenario.route(sender.region, taker.region)
        latency = route.latency_ms + (self._generator.random() * route.jitter_ms if route.jitter_ms else 0.0)
        share = 1.0
        if self.slow and sender.region != taker.region:
            for region in (sender.region, taker.region):
                factor, slowed = self.slow.get(region, (1.0, 1.0))
                latency *= factor
                share *= slowed
        sent = max(now, sender.sends_until) + size_bytes * sender.upload_seconds_per_byte / share
        sender.sends_until = sent
        arrives, takes = sent + latency / 1000, size_bytes * taker.download_seconds_per_byte / share
        if size_bytes < BULK_BYTES:
            return arrives + takes
        taker.takes_until = max(arrives, taker.takes_until) + takes
        return taker.takes_until

    def _account(self, source: str, sink: str, kind: str, size_bytes: int) -> None:
        self.count += 1
        self.carried[source, sink] += size_bytes
        self.by_kind[kind] += size_bytes
        if source == sink:
            self.local_bytes += size_bytes
        else:
            self.wan_bytes += size_bytes

    def loses(self, source: PeerId, sink: PeerId) -> bool:
        loss = self._scenario.route(self.region_of(source), self.region_of(sink)).loss
        return loss > 0.0 and self._generator.random() < loss

    def breaks(self) -> bool:
        return False

    def are_apart(self, one: PeerId, other: PeerId) -> bool:
        if not self.cut:
            return False
        here, there = self._wires[one].region, self._wires[other].region if other in self._wires else ""
        return here != there and (here in self.cut or there in self.cut)

    def sent_between(self) -> Mapping[str, dict[str, int]]:
        """Region -> region -> bytes."""
        table: dict[str, dict[str, int]] = {region.name: {} for region in self._scenario.regions}
        for (source, sink), size_bytes in sorted(self.carried.items()):
            table[source][sink] = size_bytes
        return table
