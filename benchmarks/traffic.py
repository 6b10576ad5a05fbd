"""What learning together sends, a step: beside the traffic table of the source documents, with edge aggregation and without.

Each row is a network of cores (``simnet/cores``) with the scenario ``calm``: its regions, machines and roster, a model of four
tiles that everybody learns, rounds of thirty local steps. Everything that crosses the links of such a network is counted:
deltas, aggregates, updates, gossip, votes, blocks and adverts; gossip as trees, a copy for each peer.

The tiles of these runs are small, so that hundreds of learners fit into minutes; each delta, aggregate and update is weighed
as what the real codec makes of tiles of 4 MiB (1,048,576 values). That is measured first: one delta with the unevenness of
a trained one (benchmarks/programs/ready_deltas.py), and merges of 1 to 64 such deltas, whose largest values are partly the
same, as those of learners of one model are.

The table's numbers are claims without a method; a step of it is taken as one local step. Ours is what crosses regions (WAN),
and all bytes beside it.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import compare, report, say, standard_options
from benchmarks.programs.ready_deltas import ready_delta
from compute.delta.codec import MAGIC, decode, encode
from compute.delta.pipeline import DEFAULT, DEFAULT_UPDATE
from compute.merge import MergeRule, merge
from compute.model.tiling import Segment, Tile
from protocol.ids import TileId
from simnet.cores.world import World
from simnet.scenario import Scenario
from simnet.scenario_file import find_scenario
from simnet.scenario_size import resize

if TYPE_CHECKING:
    from simnet.outcome import Outcome

MEGABYTE: Final = 1_000_000
TABLE_MB: Final = {
    10: 50,
    50: 180,
    100: 320,
    200: 580,
}  # source documents 001, lines 1187-1204: MB a step, four tiles a node
AIM_PEERS, AIM_MB = 100, 8
TILES: Final = 4
REAL_VALUES: Final = 1 << 20
SMALL_VALUES: Final = 10_240  # the least of which four tiles are a model: one of the trunk and three experts
ROUNDS: Final = 3  # the first is not measured: everybody has just arrived
MERGED: Final[tuple[int, ...]] = (1, 2, 4, 8, 16, 32, 64)
SHARED: Final = 0.5  # of a delta's variance is what all learners of a model find: a guess
SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Sizes:
    """Payload bytes of a tile of 4 MiB."""

    delta: int
    merged: dict[int, int]  # how many deltas were merged -> bytes of the aggregate or update

    def of_merged(self, deltas: int) -> int:
        """That of so many; between two that were measured, on the line."""
        known = sorted(self.merged)
        at = bisect_left(known, deltas)
        if at == len(known):
            return self.merged[known[-1]]
        if known[at] == deltas or at == 0:
            return self.merged[known[at]]
        low, high = known[at - 1], known[at]
        return self.merged[low] + (self.merged[high] - self.merged[low]) * (deltas - low) // (high - low)


def measure_sizes(values: int, counts: tuple[int, ...]) -> Sizes:
    """Encode real deltas and real merges of them."""
    side = int(values**0.5)
    tile = Tile(TileId("trunk/0"), "trunk", (Segment("matrix", 0, side, side, 0),), side * side)
    matrices = ((side, side),)
    generator = np.random.default_rng(0)
    common_N = ready_delta(tile, generator) * np.float32(SHARED**0.5)
    payloads = [
        encode(common_N + ready_delta(tile, generator) * np.float32((1 - SHARED) ** 0.5), DEFAULT, matrices)
        for _ in range(max(counts))
    ]
    decoded = [(index.to_bytes(4, "big"), 1, decode(payload, tile.values)) for index, payload in enumerate(payloads)]
    merged = {
        count: len(encode(merge(decoded[:count], MergeRule()).gradient_N, DEFAULT_UPDATE, matrices)) for count in counts
    }
    return Sizes(len(payloads[0]), merged)


class LargeTiles(World):
    """A world whose deltas, aggregates and updates weigh what those of large tiles do."""

    def __init__(self, scenario: Scenario, seed: int, sizes: Sizes) -> None:
        super().__init__(scenario, seed)
        self._sizes = sizes

    def weigh(self, data: bytes) -> int:
        """An update is of everybody's deltas, as where nothing goes wrong; an aggregate is of its contributors'.

        Whatever is not payload stays as it is.
        """
        if data.startswith(MAGIC):
            return self._sizes.of_merged(self.scenario.peers)
        delta = self.shared.read_delta(data)
        many = len(delta.contributors)
        return len(data) - len(delta.payload) + (self._sizes.of_merged(many) if many else self._sizes.delta)

    def tile_bytes(self, tile: TileId) -> int:
        """Of a tile that is fetched whole."""
        return 4 * REAL_VALUES


def make_scenario(peers: int, *, aggregation: bool, regions: int | None = None) -> Scenario:
    """``calm`` with four tiles; ``regions``: only the first so many of its own."""
    scenario = resize(find_scenario("calm"), peers)
    learning = replace(scenario.learning, tiles=TILES, tile_values=SMALL_VALUES, aggregation=aggregation)
    kept = scenario.regions[:regions]
    names = [region.name for region in kept]
    return replace(
        scenario,
        seconds=ROUNDS * learning.round_seconds,
        learning=learning,
        regions=kept,
        routes=tuple(route for route in scenario.routes if set(route.between) <= set(names)),
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes for each local step, of the rounds after the first."""

    wan: float
    all: float
    kinds: dict[str, int]  # of the whole run, and what of it crossed regions
    wan_kinds: dict[str, int]
    rounds: int
    learners: int  # that had a delta counted in the last round

    @classmethod
    def of(cls, outcome: Outcome, wan_kinds: dict[str, int]) -> Cost:
        """What a run cost. Raises ``click.ClickException`` where it was not clean, or had no second round."""
        rounds = outcome.rounds[1:]
        if not outcome.passed or not rounds:
            breached = [name for name, each in outcome.invariants.items() if each.breaches]
            raise click.ClickException(f"{outcome.peers} peers: {', '.join(breached) or 'fewer than two rounds'}")
        steps = len(rounds) * outcome.inner_steps
        wan, local = (sum(getattr(each, name) for each in rounds) for name in ("wan_bytes", "local_bytes"))
        kinds: dict[str, int] = {}
        for sample in outcome.samples:
            for kind, size in sample.by_kind.items():
                kinds[kind] = kinds.get(kind, 0) + size
        return cls(wan / steps, (wan + local) / steps, kinds, wan_kinds, len(rounds), rounds[-1].learners)

    def facts(self) -> dict[str, Any]:
        return {
            "wan_bytes_per_step": round(self.wan),
            "all_bytes_per_step": round(self.all),
            "bytes_by_kind": self.kinds,
            "wan_bytes_by_kind": self.wan_kinds,
            "rounds": self.rounds,
            "learners": self.learners,
        }


@click.command()
@click.option("--peers", default="10,50,100,200", show_default=True, help="How many, of each network.")
@click.option(
    "--regions", default="1,2,3,5", show_default=True, help="Over how many regions a hundred peers are spread."
)
@standard_options
def main(peers: str, regions: str, as_json: bool, quick: bool) -> None:
    """Bytes that cross regions for each local step, with edge aggregation and without, beside the source documents' table."""
    counts = [int(count) for count in peers.split(",")]
    spreads = [int(count) for count in regions.split(",")]
    values, merged = REAL_VALUES, MERGED
    if quick:
        counts, spreads, values, merged = [10], [], 1 << 16, (1, 8)
    say(f"payloads of {4 * values >> 10} KiB tiles")
    sizes = measure_sizes(values, merged)
    rows = [
        compare("delta of one tile", "kB", sizes.delta / 1_000),
        *(compare(f"merge of {many}", "kB", size / 1_000) for many, size in sizes.merged.items()),
    ]
    facts: dict[str, Any] = {"tile_bytes": 4 * values, "tiles": TILES, "networks": {}}

    def run(name: str, scenario: Scenario) -> Cost:
        say(name)
        world = LargeTiles(scenario, SEED, sizes)
        cost = Cost.of(world.run(), dict(sorted(world.network.traffic.wan_by_kind.items())))
        facts["networks"][name] = cost.facts()
        return cost

    aimed: float | None = None
    for count in counts:
        claimed = None if quick else TABLE_MB.get(count)  # small tiles compare with nothing
        claims = None if claimed is None else "the table's claim"
        for aggregation in (True, False):
            name = f"{count} peers, {'with' if aggregation else 'without'} aggregation"
            cost = run(name, make_scenario(count, aggregation=aggregation))
            if count == AIM_PEERS and aggregation:
                aimed = cost.wan / MEGABYTE
            rows += [
                compare(f"{name}: WAN a step", "MB", cost.wan / MEGABYTE, claimed, claims),
                compare(f"{name}: all a step", "MB", cost.all / MEGABYTE, claimed, claims),
            ]
    for count in spreads:
        name = f"{AIM_PEERS} peers in {count} regions"
        cost = run(name, make_scenario(AIM_PEERS, aggregation=True, regions=count))
        rows.append(compare(f"{name}: WAN a step", "MB", cost.wan / MEGABYTE))
    goal = f"at most {AIM_MB} MB of WAN a step with {AIM_PEERS} peers x {TILES} tiles"
    goals = [] if aimed is None else [{"goal": goal, "mb": round(aimed, 2), "met": aimed <= AIM_MB}]
    report("traffic", rows, as_json, facts | {"goals": goals})


if __name__ == "__main__":
    main()
