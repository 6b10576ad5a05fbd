"""Who looks after which tile: one primary and an order of standbys per epoch, by weighted rendezvous hashing.

Every member computes the same order alone, from the beacon of the epoch, the tile and the roster. A member's score for a
tile is ``-ln(u) / weight`` with ``u`` uniform in (0, 1] from ``digest(beacon, tile, member)``; the lowest score owns. With
this score a member's chance is proportional to its weight, and a member that leaves moves only its own tiles (Thaler and
Ravishankar 1998; the logarithm is the method of Schindelhauer and Schomaker 2005).

Integers only: ``log2`` comes from repeated squaring of a 64-bit mantissa, exact to 32 bits after the point and the same on
every machine. The base of the logarithm scales all scores alike, so it does not matter.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from protocol.digest import Domain, digest
from protocol.ids import Digest, MemberIndex, PeerId, ShardId, TileId
from protocol.roster import Roster

_FRACTION_BITS = 32


def log2_fixed(value: int) -> int:
    """``log2(value)`` for ``value >= 1`` as an integer in units of 2**-32, rounded down.

    Squaring a mantissa in [1, 2) doubles its logarithm; each time it passes 2 the next bit of the fraction is one.
    """
    whole = value.bit_length() - 1
    mantissa = (value << 63) >> whole  # 2**63 stands for 1
    fraction = 0
    for _ in range(_FRACTION_BITS):
        mantissa = mantissa * mantissa >> 63
        fraction <<= 1
        if mantissa >= 1 << 64:
            mantissa >>= 1
            fraction |= 1
    return (whole << _FRACTION_BITS) | fraction


def weighted_score(drawn: Digest, weight: int) -> int:
    """``-ln(u) / weight`` in some unit, with the ``u`` that ``drawn`` stands for: the lowest score is first."""
    uniform = int.from_bytes(drawn[:8], "big") + 1  # of 2**64
    minus_log = (64 << _FRACTION_BITS) - log2_fixed(uniform)
    return (minus_log << 64) // weight


def election_order(beacon: Digest, tile: TileId, roster: Roster) -> tuple[MemberIndex, ...]:
    """The tile's primary, then its standbys: members in ascending order of score; members without weight take no part."""

    def score(index: int) -> tuple[int, bytes]:
        member = roster.members[index].node
        return weighted_score(digest(Domain.ELECTION, beacon, tile.encode(), member), roster.weights[index]), member

    eligible = [index for index in range(len(roster.members)) if roster.weights[index] > 0]
    return tuple(MemberIndex(index) for index in sorted(eligible, key=score))


def aggregator_order(
    beacon: Digest, region: str, tile: TileId, peers: Iterable[PeerId], members: Container[PeerId]
) -> list[PeerId]:
    """Who gathers a region's deltas of a tile: the first that can be had of the region's peers, members before strangers.

    Plain rendezvous hashing: everybody orders the peers that they know alone, and those who know the same agree.
    """

    def score(peer: PeerId) -> tuple[bool, bytes]:
        return peer not in members, digest(Domain.AGGREGATOR, beacon, region.encode(), tile.encode(), peer)

    return sorted(peers, key=score)


def tile_shard(tile: TileId, shards: int) -> ShardId:
    """Which gossip topic carries the heads of a tile."""
    return ShardId(int.from_bytes(digest(Domain.SHARD, tile.encode())[:8], "big") % shards)
