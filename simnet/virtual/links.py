"""The internet of a scenario: latencies between regions, rates of machines, cuts, and an account of every byte.

A machine sends one thing after the other at its rate, and takes large things one after the other at its own; between them lies
the route of their regions. So a peer that everybody asks at once is slow, as a real one is.
"""

from __future__ import annotations

import random
from collections import Counter
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


@dataclass(slots=True)
class _Path:
    """From one machine to another. ``bytes`` and ``count``: what was sent on it."""

    sender: _Wire
    taker: _Wire
    latency_seconds: float
    jitter_seconds: float
    loss: float
    bytes: int = 0
    count: int = 0


class RegionLinks:
    """:class:`p2p.io.memory_links.Links` between the regions of a scenario."""

    def __init__(self, scenario: Scenario, generator: random.Random) -> None:
        self._scenario = scenario
        self._generator = generator
        self._wires: dict[PeerId, _Wire] = {}
        self._paths: dict[tuple[PeerId, PeerId], _Path] = {}
        self.cut: dict[str, int] = {}  # regions that are cut off, how many times at once
        self.slow: dict[str, tuple[float, float]] = {}  # region -> (latency factor, share of the rate)
        self.by_kind: Counter[str] = Counter()  # bytes of topics and protocols, copies and frames included

    def connect(self, peer: PeerId, region: Region, hardware: HardwareClass) -> None:
        """A machine gets its place."""
        self._wires[peer] = _Wire(
            region.name,
            8 / (hardware.upload_megabits * BITS_PER_SECOND),
            8 / (hardware.download_megabits * BITS_PER_SECOND),
        )

    def region_of(self, peer: PeerId) -> str:
        return self._wires[peer].region

    def _path(self, source: PeerId, sink: PeerId) -> _Path:
        path = self._paths.get((source, sink))
        if path is None:
            sender, taker = self._wires[source], self._wires.get(sink, self._wires[source])
            route = self._scenario.route(sender.region, taker.region)
            path = _Path(sender, taker, route.latency_ms / 1000, route.jitter_ms / 1000, route.loss)
            self._paths[source, sink] = path
        return path

    def arrival(self, source: PeerId, sink: PeerId, kind: str, size_bytes: int, now: float) -> float:
        path = self._paths.get((source, sink)) or self._path(source, sink)
        size_bytes += FRAME_BYTES
        path.bytes += size_bytes
        path.count += 1
        self.by_kind[kind] += size_bytes
        sender, taker = path.sender, path.taker
        latency, share = path.latency_seconds + self._generator.random() * path.jitter_seconds, 1.0
        if self.slow and sender.region != taker.region:
            for region in (sender.region, taker.region):
                factor, slowed = self.slow.get(region, (1.0, 1.0))
                latency *= factor
                share *= slowed
        begins = now if now > sender.sends_until else sender.sends_until
        sender.sends_until = begins + size_bytes * sender.upload_seconds_per_byte / share
        arrives, takes = sender.sends_until + latency, size_bytes * taker.download_seconds_per_byte / share
        if size_bytes < BULK_BYTES:
            return arrives + takes
        taker.takes_until = max(arrives, taker.takes_until) + takes
        return taker.takes_until

    def loses(self, source: PeerId, sink: PeerId) -> bool:
        loss = self._path(source, sink).loss
        return loss > 0.0 and self._generator.random() < loss

    def breaks(self) -> bool:
        return False

    def are_apart(self, one: PeerId, other: PeerId) -> bool:
        if not self.cut:
            return False
        here, there = self._wires[one].region, self._wires[other].region if other in self._wires else ""
        return here != there and (here in self.cut or there in self.cut)

    # -- the account ----------------------------------------------------------------------------------------------------

    def sent_between(self) -> dict[str, dict[str, int]]:
        """Region -> region -> bytes."""
        names = [region.name for region in self._scenario.regions]
        table = {name: dict.fromkeys(names, 0) for name in names}
        for path in self._paths.values():
            table[path.sender.region][path.taker.region] += path.bytes
        return table

    def totals(self) -> tuple[int, int, int]:
        """Bytes between regions, bytes within them, and things sent."""
        wan = sum(path.bytes for path in self._paths.values() if path.sender.region != path.taker.region)
        everything = sum(path.bytes for path in self._paths.values())
        return wan, everything - wan, sum(path.count for path in self._paths.values())
