"""Elections: proportional, stable, and the same on every machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.election import election_order, log2_fixed, tile_shard
from protocol.digest import digest
from protocol.ids import Epoch, PeerId, TileId
from protocol.roster import Roster
from tests.consensus.genesis import make_keys, make_roster

BEACON = digest("nock/beacon/1", b"election")
MANY = [
    TileId(f"layer{layer}.expert{expert}/{index}") for layer in range(8) for expert in range(50) for index in range(10)
]
GOLDEN = "12389ccf4f963f84c8e2df99bdb8fdd2ab9001cecb00b4be6451b47525551cae"

uniforms = (
    st.integers(1, 2**64) | st.integers(0, 64).map(lambda bit: 2**bit) | st.integers(1, 64).map(lambda b: 2**b - 1)
)


def log2_oracle(value: int) -> int:
    """The same logarithm with a mantissa of 512 bits: its error is far below one unit."""
    whole = value.bit_length() - 1
    mantissa = (value << 511) >> whole
    fraction = 0
    for _ in range(32):
        mantissa = mantissa * mantissa >> 511
        fraction <<= 1
        if mantissa >> 512:
            mantissa >>= 1
            fraction |= 1
    return (whole << 32) | fraction


@given(uniforms)
def test_the_first_bits_of_the_logarithm_are_exact(value):
    """floor(4096 log2 v) is the bit length of v**4096, less one: integers alone."""
    assert log2_fixed(value) >> 20 == (value**4096).bit_length() - 1


@given(uniforms)
def test_the_logarithm_is_never_more_than_one_unit_low_and_never_high(value):
    """32 bits after the point, rounded down."""
    assert log2_fixed(value) in (log2_oracle(value), log2_oracle(value) - 1)


@given(st.integers(0, 64))
def test_the_logarithm_of_a_power_of_two_is_whole(bit):
    """No fraction where there is none."""
    assert log2_fixed(2**bit) == bit << 32


@given(st.integers(1, 2**64 - 1))
def test_the_logarithm_never_falls(value):
    """A larger number never has a smaller logarithm: no order is inverted."""
    assert log2_fixed(value) <= log2_fixed(value + 1)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (1, 2, 3, 4), (1, 100, 10, 1)])
def test_ownership_is_proportional_to_weight(weights):
    """Over 4,000 tiles each member owns its share, within four standard deviations."""
    roster = make_roster(make_keys(4), BEACON, weights)
    owned = Counter(election_order(BEACON, tile, roster)[0] for tile in MANY)
    for index, weight in enumerate(weights):
        share = weight / sum(weights)
        deviation = (len(MANY) * share * (1 - share)) ** 0.5
        assert abs(owned[index] - len(MANY) * share) < 4 * deviation


def test_the_first_standby_is_proportional_too():
    """Where the heaviest member is not the owner, it is the likeliest first standby."""
    roster = make_roster(make_keys(4), BEACON, (1, 1, 1, 5))
    second = Counter(order[1] for tile in MANY if (order := election_order(BEACON, tile, roster))[0] != 3)
    share = 5 / 7  # of the three that remain, two weigh one
    total = sum(second.values())
    assert abs(second[3] - total * share) < 4 * (total * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("leaver", range(5))
def test_a_member_that_leaves_moves_only_its_own_tiles(leaver):
    """Every order is the old one without the leaver: a tile changes hands only if it was the leaver's."""
    roster = make_roster(make_keys(5), BEACON, (1, 2, 3, 4, 5))
    keep = [index for index in range(5) if index != leaver]
    smaller = Roster(Epoch(0), tuple(roster.members[i] for i in keep), tuple(roster.weights[i] for i in keep), BEACON)

    def names(of: Roster, tile: TileId) -> list[PeerId]:
        return [of.members[index].node for index in election_order(BEACON, tile, of)]

    for tile in MANY[:300]:
        before = names(roster, tile)
        before.remove(roster.members[leaver].node)
        assert names(smaller, tile) == before


def test_members_without_weight_take_no_part():
    """A weight of zero is never elected, not even as the last standby."""
    roster = make_roster(make_keys(4), BEACON, (1, 0, 1, 1))
    for tile in MANY[:50]:
        assert sorted(election_order(BEACON, tile, roster)) == [0, 2, 3]


def test_shards_are_in_range_and_all_used():
    """Every tile has one topic, and every topic tiles."""
    assert {tile_shard(tile, 8) for tile in MANY} == set(range(8))


def test_elections_are_pinned_under_two_hash_seeds():
    """The orders of two hundred tiles have one digest, on this machine and on every other."""
    program = "from tests.consensus.test_election import orders_digest; print(orders_digest())"
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert said == {GOLDEN}


def orders_digest() -> str:
    """What is pinned: changing it changes who owns every tile of every network."""
    roster = make_roster(make_keys(7), BEACON, (1, 1, 2, 3, 5, 8, 13))
    return digest("nock/election/1", *(bytes(election_order(BEACON, tile, roster)) for tile in MANY[::20])).hex()
