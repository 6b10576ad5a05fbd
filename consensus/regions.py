"""Who is near whom, and who gathers for whom: labels that peers give themselves, in their adverts.

A region's learners give their deltas of a tile to one of them, the aggregator, who sends one delta to an owner far away
(learning.md 2); those of a small region give them to the owner directly. Nothing that is decided depends on a label: a wrong
one costs time, never agreement. Two learners that know different peers may choose different aggregators, who then gather less
each; members of the roster come first, because everybody is connected to them.

    near   both say the same region                  deltas go directly: a stop between would only cost time
    far    both say a region, and not the same       deltas go through the aggregator of our own
    else   somebody has said nothing                 deltas go directly

An update goes the other way: one peer of a region fetches it from a proposer far away, and it spreads from there. Everybody
orders the region's peers alike, by the same hashing, and asks one that comes before itself:

    proposer -> the first -> somebody later -> somebody later still ...      nobody waits for one that waits for it
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from consensus.election import aggregator_order
from protocol.digest import Domain, digest
from protocol.ids import Digest, PeerId, TileId

LABELS_MAX = 4_096  # peers whose region is remembered: as many as adverts are kept
GATHER_PEERS_MIN = 5  # of a region: of four, two that lie say as much as the others, and gathering saves little
PASSED_OVER_ROUNDS = 8  # how long an aggregator that lost a delta of ours is given none (a guess)
SERVED_DIRECTLY = 4  # of its own region, by a proposer: what a thin line uploads to some in seconds, to fifty it cannot
SOURCES_NEAR = 2  # neighbours that are asked for an update before its proposer: one may be slow or silent


class Regions:
    """What one node knows of regions. ``region`` is its own label; "" takes no part."""

    def __init__(self, me: PeerId, region: str) -> None:
        self._me = me
        self._region = region
        self._labels: dict[PeerId, str] = {}
        self._near_count = 0  # others with our own label
        self.members: Container[PeerId] = ()  # of the roster: everybody dials them, so neighbours agree on one
        self._passed_over: dict[PeerId, int] = {}  # until this round

    def tell(self, peer: PeerId, region: str) -> None:
        """A peer's advert says where it is."""
        self._forget(peer)
        self._labels[peer] = region
        self._near_count += region == self._region and peer != self._me
        if len(self._labels) > LABELS_MAX:
            self._forget(next(iter(self._labels)))

    def _forget(self, peer: PeerId) -> None:
        label = self._labels.pop(peer, None)
        self._near_count -= label == self._region and peer != self._me

    def is_near(self, peer: PeerId) -> bool:
        """Whether a peer is in our region; we are, if we have one."""
        return self._label(peer) == self._region != ""

    def is_far(self, peer: PeerId) -> bool:
        """Whether a peer is known to be in another region."""
        return "" not in (self._region, label := self._label(peer)) and label != self._region

    def is_together(self, peer: PeerId, other: PeerId) -> bool:
        """Whether two peers are one, or said the same region."""
        return peer == other or self._label(peer) == self._label(other) != ""

    def gathers(self) -> bool:
        """Whether our region is known to have enough peers to gather, we among them; not all need be connected to us."""
        return self._region != "" and self._near_count + 1 >= GATHER_PEERS_MIN

    def _label(self, peer: PeerId) -> str:
        return self._region if peer == self._me else self._labels.get(peer, "")

    def pass_over(self, peer: PeerId, number: int) -> None:
        """A delta was lost with this aggregator in round ``number``: others are chosen for some rounds."""
        self._passed_over = {other: until for other, until in self._passed_over.items() if until > number}
        self._passed_over[peer] = number + PASSED_OVER_ROUNDS

    def find_sources(self, seed: Digest, tile: TileId, proposer: PeerId, here: Iterable[PeerId]) -> list[PeerId]:
        """Which neighbours of ``here`` to ask for a tile's update, in this order, before its proposer; none: him at once.

        They are drawn from those before us in the order of ``seed`` and tile, members first. In a region of n nobody then gives
        it to many more than log n, and everybody has it after about as many steps.
        """
        is_near = self.is_near(proposer)
        if not is_near and not self.is_far(proposer):
            return []
        near = [self._me, *(peer for peer in here if peer not in (self._me, proposer) and self.is_near(peer))]
        order = aggregator_order(seed, self._region, tile, near, self.members)
        before = order[: order.index(self._me)]
        if is_near and len(before) < SERVED_DIRECTLY:
            return []
        before.sort(key=lambda peer: digest(Domain.AGGREGATOR, seed, tile.encode(), self._me, peer))
        return before[:SOURCES_NEAR]

    def find_aggregator(
        self,
        beacon: Digest,
        tile: TileId,
        here: Iterable[PeerId],
        members: Container[PeerId],
        tried: Container[PeerId],
        number: int,
    ) -> PeerId | None:
        """The first of ``here`` that gathers for us in a round, but for those that were ``tried``; it may be ourselves.

        None where our region is too small to gather.
        """
        if not self.gathers():
            return None
        able = [
            peer
            for peer in here
            if self.is_near(peer) and peer not in tried and self._passed_over.get(peer, number) <= number
        ]
        return next(iter(aggregator_order(beacon, self._region, tile, able, members)), None)
