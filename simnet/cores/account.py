"""What the report shows of a run besides what ``simnet/checkers`` saw: samples at even steps, regions, happenings."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from protocol.finality import Header
from simnet.network import CREATED_MS
from simnet.outcome import Happening, RegionOutcome, Sample

if TYPE_CHECKING:
    from simnet.cores.peer import Peer
    from simnet.cores.world import World

SAMPLES: Final = 120
STEP_MS_MIN: Final = 5_000


class Account:
    """The books of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.step_ms = max(STEP_MS_MIN, int(1_000 * world.scenario.seconds / SAMPLES))
        self.samples: list[Sample] = []
        self.happenings: list[Happening] = []
        self.queue_max = 0  # since the last sample
        self._finalized: Counter[int] = Counter()  # height -> peers; heights that two thirds have are gone
        self.height = 0  # of the highest final block
        self._lag_ms = 0
        self._wan_bytes = self._local_bytes = 0
        self._by_kind: Counter[str] = Counter()

    def tell(self, sentence: str) -> None:
        """Something of the scenario took place."""
        self.happenings.append(Happening(self._world.now_ms / 1_000, sentence))
        self._world.note("happening", sentence)

    def finalized(self, header: Header) -> None:
        """One more peer has a block."""
        self.height = max(self.height, header.height)
        self._finalized[header.height] += 1
        if 3 * self._finalized[header.height] >= 2 * self._world.running_count:
            self._lag_ms = CREATED_MS + self._world.now_ms - header.time_ms
            self._finalized[header.height] = -(1 << 40)  # counted for good

    def queued(self, peer: Peer) -> None:
        """A peer's requests under way became more."""
        self.queue_max = max(self.queue_max, peer.under_way)

    def sample(self) -> None:
        """Take one."""
        world = self._world
        traffic = world.network.traffic
        wan, local = traffic.wan_bytes, traffic.local_bytes
        by_kind = traffic.by_kind - self._by_kind
        self.samples.append(
            Sample(
                seconds=world.now_ms / 1_000,
                peers=world.running_count,
                connections=sum(len(peer.connected) for peer in world.peers if peer.is_running) // 2,
                wan_bytes=wan - self._wan_bytes,
                local_bytes=local - self._local_bytes,
                by_kind={kind: by_kind[kind] for kind in sorted(by_kind)},
                finality_lag_seconds=self._lag_ms / 1_000,
                height=self.height,
                queue_max=self.queue_max,
            )
        )
        self._wan_bytes, self._local_bytes, self._by_kind = wan, local, Counter(traffic.by_kind)
        self.queue_max = 0

    def regions(self) -> list[RegionOutcome]:
        """Every region with what it sent where."""
        world = self._world
        between = world.network.traffic.between
        placed = Counter(peer.region for peer in world.peers)
        return [
            RegionOutcome(
                region.name,
                region.at,
                placed[region.name],
                {other.name: between[region.name, other.name] for other in world.scenario.regions},
            )
            for region in world.scenario.regions
        ]
