"""The network of a scenario: its genesis, everybody's keys, and who is where with what machine. Pure, from the seed.

The model is as small as the scenario wants it: a trunk of a few tiles, and experts of exactly one tile each. Its text is made
of words drawn by a fixed generator, so that a scenario depends on no file of the machine that it runs on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_template
from typing import Final, TypeVar

from msgspec.structs import replace

from compute.data import pack_corpus
from compute.model.tiling import TileMap
from node.config import NetworkTemplate, load_template
from node.genesis_file import found_network
from node.keys import NodeKeys
from protocol.digest import Domain, digest, number
from protocol.genesis import MILLION, ChainRule, Genesis, ModelShape
from protocol.ids import PeerId
from protocol.keys import KeyPair
from protocol.rejection import Reason, Rejected
from simnet.scenario import HardwareClass, Region, Scenario, SkewClocks

CREATED_MS: Final = 1_700_000_000_000  # what the clocks of this world show at its beginning
WIDTH: Final = 16  # of the model: a trunk of 9,328 values, the least that has every kind of tensor
BLOCKS_PER_ROUND: Final = (
    10  # empty blocks, where nothing else is to be decided; votes are most of what a small world costs
)
IDLE_MS: Final = (1_500, 30_000)  # bounds of the time between them
EPOCH_HEIGHTS: Final = 32  # an hour of calm sees several boundaries
HISTORY_TICKS: Final = 16  # of a segment: what a beacon costs is measured elsewhere
TEXT_WORDS: Final = 12_000
_VOCABULARY: Final = (
    "a peer gives its delta to the owner of tile and every holder takes the head that a quorum decided in this round "
    "before another learner may merge what it found so no byte is lost when one machine dies"
)

Kind = TypeVar("Kind", Region, HardwareClass)


# -- keys and genesis ---------------------------------------------------------------------------------------------------


def make_keys(seed: int, count: int, first: int = 0) -> tuple[NodeKeys, ...]:
    """Three keys for each peer, the same for every run with this seed; ``first``: the number of the first of them."""

    def pair(index: int, name: str) -> KeyPair:
        return KeyPair(digest(Domain.WEIGHTS, b"simnet key", number(seed), number(index), name.encode()))

    return tuple(
        NodeKeys(pair(index, "node"), pair(index, "vote"), pair(index, "account"))
        for index in range(first, first + count)
    )


def make_text() -> bytes:
    """Sentences of a small vocabulary: text that a model learns within rounds."""
    draw, vocabulary = random.Random(2_026), _VOCABULARY.split()
    words = [draw.choice(vocabulary) + (".\n" if draw.random() < 0.1 else " ") for _ in range(TEXT_WORDS)]
    return "".join(words).encode()


def make_shards() -> tuple[bytes, ...]:
    """The shards of data set 0."""
    return tuple(pack_corpus([make_text()]))


def model_shape(tiles: int, tile_values: int) -> ModelShape:
    """A model with so many tiles of so many values. Raises ``Rejected(BAD_CONFIG)`` where its trunk alone takes as many."""
    shape = ModelShape(
        vocabulary=258,
        layers=1,
        width=WIDTH,
        heads=1,
        experts=1,
        expert_width=tile_values // (2 * WIDTH),
        experts_per_token=1,
        context=32,
    )
    trunk = len(TileMap.from_shape(shape, 4 * tile_values).tiles) - 1
    if tiles <= trunk:
        raise Rejected(
            Reason.BAD_CONFIG, f"a model of tiles of {tile_values} values has at least {trunk + 1}, not {tiles}"
        )
    return replace(shape, experts=tiles - trunk)


def chain_rule(round_seconds: float) -> ChainRule:
    """Blocks often enough that a round sees some, and no more: a virtual hour of them must be cheap."""
    idle_ms = min(max(IDLE_MS[0], int(1000 * round_seconds / BLOCKS_PER_ROUND)), IDLE_MS[1])
    return ChainRule(
        view_delta_ms=1_000,
        block_interval_ms_min=500,
        idle_interval_ms=idle_ms,
        tile_shards=1,
        epoch_heights=EPOCH_HEIGHTS,
        history_segment_ticks=HISTORY_TICKS,
    )


def make_template(scenario: Scenario) -> NetworkTemplate:
    """What the scenario's network is founded with: the devnet's rules, with the scenario's own learning."""
    learning, base = scenario.learning, load_template("devnet")
    return replace_template(
        base,
        name=f"simnet-{scenario.name}",
        model=model_shape(learning.tiles, learning.tile_values),
        tile_bytes=4 * learning.tile_values,
        learning=replace(
            base.learning,
            inner_steps=learning.inner_steps,
            batch_sequences=4,
            merge_rule=learning.merge_rule,
            round_ms=int(1000 * learning.round_seconds),
            validation_sequences=8,
            decay_rounds=0,
        ),
        chain=chain_rule(learning.round_seconds),
        dataset_split_micro=MILLION // 8,
    )


def make_genesis(scenario: Scenario, keys: Sequence[NodeKeys], seed: int = 0) -> Genesis:
    """The genesis document that the first ``scenario.validators`` of ``keys`` founded."""
    cards = [each.card() for each in keys[: scenario.validators]]
    return found_network(make_template(scenario), cards, make_shards(), seed, CREATED_MS)


# -- who is where -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerPlan:
    """One peer of the scenario. The validators come first, then the others; those that arrive later come last."""

    index: int
    keys: NodeKeys
    region: Region
    hardware: HardwareClass
    arrives_seconds: float
    is_validator: bool
    is_bootstrap: bool
    villain: str | None
    villain_from_round: int
    clock_offset_ms: int

    @property
    def peer(self) -> PeerId:
        return self.keys.peer


def plan_peers(scenario: Scenario, seed: int) -> tuple[PeerPlan, ...]:
    """Everybody's place, drawn from the seed; shares are met as nearly as whole peers can."""
    draw = random.Random(f"plan {seed}")
    count = scenario.peers
    keys = make_keys(seed, count)
    # Shares hold among the validators by themselves too, so that no region has all of them.
    first, rest = scenario.validators, count - scenario.validators
    regions = _share_out(draw, scenario.regions, first) + _share_out(draw, scenario.regions, rest)
    hardware = _share_out(draw, scenario.hardware, first) + _share_out(draw, scenario.hardware, rest)
    villains = _draw_villains(draw, scenario)
    offsets = [0] * count
    for fault in scenario.faults:
        if isinstance(fault, SkewClocks):
            for index in draw.sample(range(count), round(fault.share * count)):
                offsets[index] = int(1000 * fault.offset_seconds) * draw.choice((-1, 1))
    arrivals = _arrivals(scenario)
    return tuple(
        PeerPlan(
            index=index,
            keys=keys[index],
            region=regions[index],
            hardware=hardware[index],
            arrives_seconds=arrivals[index],
            is_validator=index < scenario.validators,
            is_bootstrap=index < scenario.bootstraps,
            villain=villains[index][0],
            villain_from_round=villains[index][1],
            clock_offset_ms=offsets[index],
        )
        for index in range(count)
    )


def _share_out(draw: random.Random, kinds: Sequence[Kind], count: int) -> list[Kind]:
    """``count`` of them in proportion to their shares (largest remainders), in an order that is drawn."""
    total = sum(each.share for each in kinds)
    exact = [each.share * count / total for each in kinds]
    numbers = [int(share) for share in exact]
    by_remainder = sorted(range(len(kinds)), key=lambda at: (numbers[at] - exact[at], at))
    for at in by_remainder[: count - sum(numbers)]:
        numbers[at] += 1
    placed = [kind for kind, many in zip(kinds, numbers, strict=True) for _ in range(many)]
    draw.shuffle(placed)
    return placed


def _draw_villains(draw: random.Random, scenario: Scenario) -> list[tuple[str | None, int]]:
    order = draw.sample(range(scenario.peers), scenario.peers)
    villains: list[tuple[str | None, int]] = [(None, 0)] * scenario.peers
    at, share = 0, 0.0
    for group in scenario.villains:
        share += group.share
        upto = round(share * scenario.peers)
        for index in order[at:upto]:
            villains[index] = (group.kind, group.from_round)
        at = upto
    return villains


def _arrivals(scenario: Scenario) -> list[float]:
    """When each peer comes: 0 for those that are there."""
    times = [0.0] * (scenario.peers - sum(each.peers for each in scenario.arrivals))
    for each in scenario.arrivals:
        step = (each.until_seconds - each.from_seconds) / max(1, each.peers)
        times += [each.from_seconds + step * number for number in range(each.peers)]
    return times
