"""The rule for heads: how one moves a tile from its decided version to the next.

A body begins with a list of heads, at most one a tile (consensus/transition.py). This file is the whole rule for one, apart
from a thing that no pure function can know: that applying the update to the parent gives the claimed root. A validator checks
that with the bytes in its hand, durably stored, before it votes (consensus/execution.py).

Invariants
----------
H1  A tile's version rises by exactly one a head; the first finalized head of a slot is the slot's head for ever. Its round is
    later than its parent's, and at most one later than the newest decided round of any tile: nobody can run ahead of all.
H2  A delta counts once: its base is the parent or the grandparent of the version that takes it, and it is in neither that
    version's own list twice nor in the list of the version before. Older lists need no look: their deltas' bases are too
    old to be taken again. Being in a list is one thing, whether as a delta that came directly or inside an aggregate.
    Nobody speaks loudly: a delta weighs at most ``delta_weight_max``, an aggregate at most as much as its contributors may
    and never more than eight deltas, and those of strangers together no more than eight either.
H3  Each proposer is in the tile's order of the epoch at the place that its attempt says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec.structs import replace

from consensus.election import election_order
from protocol.digest import Domain, digest, number
from protocol.ids import Digest, MemberIndex, PeerId, TileId, Version
from protocol.limits import (
    AGGREGATE_WEIGHT_DELTAS_MAX,
    CONTRIBUTORS_PER_AGGREGATE_MAX,
    CONTRIBUTORS_PER_HEAD_MAX,
    DELTAS_PER_SLOT_MAX,
    TILE_BYTES_MAX,
    UNREGISTERED_DELTAS_PER_SLOT_MAX,
)
from protocol.rejection import Reason, Rejected
from protocol.roster import DeltaRef, Head, Roster, check_head_signature


@dataclass(frozen=True, slots=True)
class TileHead:
    """Where one tile stands. ``head`` is None at genesis."""

    version: Version
    root: Digest
    head: Head | None = None


@dataclass(frozen=True, slots=True)
class HeadRules:
    """The rules of heads for one epoch: orders are computed once a tile."""

    roster: Roster
    delta_weight_max: int  # tokens: inner steps x sequences x context
    _orders: dict[TileId, tuple[MemberIndex, ...]] = field(default_factory=dict, repr=False)

    def order(self, tile: TileId) -> tuple[MemberIndex, ...]:
        """The tile's primary and standbys."""
        order = self._orders.get(tile)
        if order is None:
            order = self._orders[tile] = election_order(self.roster.beacon, tile, self.roster)
        return order

    def check_successor(self, at: TileHead | None, newest_round: int, head: Head) -> None:
        """Check one head against where its tile stands; raises ``Rejected``. Signature last: it costs most."""
        if at is None:
            raise Rejected(Reason.UNKNOWN_TILE, head.tile)
        if head.version <= at.version:
            raise Rejected(Reason.SLOT_DECIDED, str(head.slot))
        if head.version != at.version + 1 or head.parent_root != at.root:
            raise Rejected(Reason.WRONG_PARENT, str(head.slot))
        if at.head is not None and head.round <= at.head.round:
            raise Rejected(Reason.WRONG_PARENT, f"{head.slot} is of round {head.round}, its parent of {at.head.round}")
        if head.round > newest_round + 1:
            raise Rejected(Reason.WRONG_PARENT, f"{head.slot} is of round {head.round}, the newest is {newest_round}")
        self.check_proposer(head)
        if not 0 < head.update_bytes <= 2 * TILE_BYTES_MAX:
            raise Rejected(Reason.BAD_DELTA, f"an update of {head.update_bytes} bytes")
        self._check_deltas(at, head)
        check_head_signature(head)

    def check_proposer(self, head: Head) -> None:
        """H3; raises ``Rejected`` (WRONG_EPOCH, WRONG_OWNER)."""
        if head.epoch != self.roster.epoch:
            raise Rejected(Reason.WRONG_EPOCH, f"{head.slot} of epoch {head.epoch}")
        order = self.order(head.tile)
        if head.attempt >= len(order) or self.roster.members[order[head.attempt]].node != head.proposer:
            raise Rejected(Reason.WRONG_OWNER, f"attempt {head.attempt} at {head.slot}")

    def _check_deltas(self, at: TileHead, head: Head) -> None:
        """H2; raises ``Rejected``."""
        if not 0 < len(head.deltas) <= DELTAS_PER_SLOT_MAX:
            raise Rejected(Reason.WRONG_BODY, f"{head.slot} merges {len(head.deltas)} deltas")
        keys = [(reference.learner, reference.base) for reference in head.deltas]
        if keys != sorted(set(keys)):
            raise Rejected(Reason.NOT_CANONICAL, f"the deltas of {head.slot} are not in ascending order")
        counted = set(at.head.counted()) if at.head else set()
        for reference in head.deltas:
            if not head.version - 2 <= reference.base <= head.version - 1:
                raise Rejected(Reason.STALE_BASE, f"base {reference.base} in {head.slot}")
            if list(reference.contributors) != sorted(set(reference.contributors)):
                raise Rejected(Reason.NOT_CANONICAL, f"the contributors of an aggregate in {head.slot}")
            for name in reference.counted():
                if name in counted:
                    raise Rejected(Reason.ALREADY_COUNTED, f"delta {name[:4].hex()} in {head.slot}")
                counted.add(name)
            if not 0 < reference.weight <= self.weight_max(reference.learners):
                raise Rejected(Reason.WRONG_BODY, f"a weight of {reference.weight} in {head.slot}")
        contributors = sum(len(reference.contributors) for reference in head.deltas)
        if contributors > CONTRIBUTORS_PER_HEAD_MAX:
            raise Rejected(Reason.WRONG_BODY, f"{contributors} contributors in {head.slot}")
        strangers = [reference for reference in head.deltas if self._is_stranger(reference)]
        if len(strangers) > UNREGISTERED_DELTAS_PER_SLOT_MAX:
            raise Rejected(Reason.WRONG_BODY, f"{len(strangers)} unregistered learners in {head.slot}")
        weight = sum(reference.weight for reference in strangers)
        if weight > self.weight_max(AGGREGATE_WEIGHT_DELTAS_MAX):
            raise Rejected(Reason.WRONG_BODY, f"unregistered learners weigh {weight} in {head.slot}")

    def weight_max(self, learners: int) -> int:
        """What the merge of so many learners' deltas weighs at most, in tokens."""
        return min(learners, AGGREGATE_WEIGHT_DELTAS_MAX) * self.delta_weight_max

    def _is_stranger(self, reference: DeltaRef) -> bool:
        return self.roster.find_index(reference.learner) is None

    def select_deltas(self, tile: TileId, version: Version, candidates: Iterable[DeltaRef]) -> tuple[DeltaRef, ...]:
        """Which deltas of a slot are merged: the lowest by ``digest(beacon, tile, version, learner)``, aggregates first.

        Nobody can grind a learner's luck without another identity, and strangers share few places. What would count twice is
        left out: an aggregate that shares a delta with a luckier one, and a delta that came directly and in an aggregate.
        """

        def luck(reference: DeltaRef) -> tuple[bool, bytes, int]:
            return not reference.contributors, self._luck(tile, version, reference.learner), reference.base

        chosen: dict[tuple[PeerId, Version], DeltaRef] = {}
        counted: set[Digest] = set()
        strangers = contributors = 0
        for reference in sorted(candidates, key=luck):
            key, names = (reference.learner, reference.base), reference.counted()
            if key in chosen or not counted.isdisjoint(names):
                continue
            if contributors + len(reference.contributors) > CONTRIBUTORS_PER_HEAD_MAX:
                continue
            if self._is_stranger(reference):
                if strangers == UNREGISTERED_DELTAS_PER_SLOT_MAX:
                    continue
                strangers += 1
            chosen[key] = reference
            counted.update(names)
            contributors += len(reference.contributors)
            if len(chosen) == DELTAS_PER_SLOT_MAX:
                break
        return tuple(self._limit_weight(chosen[key], strangers) for key in sorted(chosen))

    def select_contributors(
        self, tile: TileId, version: Version, candidates: Iterable[DeltaRef]
    ) -> tuple[DeltaRef, ...]:
        """Which deltas of a region an aggregate is made of: the luckiest, in ascending order of learner."""
        chosen = sorted(candidates, key=lambda reference: self._luck(tile, version, reference.learner))
        return tuple(sorted(chosen[:CONTRIBUTORS_PER_AGGREGATE_MAX], key=lambda reference: reference.learner))

    def _luck(self, tile: TileId, version: Version, learner: PeerId) -> Digest:
        return digest(Domain.SELECTION, self.roster.beacon, tile.encode(), number(version), learner)

    def _limit_weight(self, reference: DeltaRef, strangers: int) -> DeltaRef:
        """Strangers divide what they may weigh together: one aggregate all of it, eight of them or eight deltas one each."""
        weight_max = self.weight_max(reference.learners)
        if self._is_stranger(reference):
            weight_max = min(weight_max, self.weight_max(AGGREGATE_WEIGHT_DELTAS_MAX) // strangers)
        return reference if reference.weight <= weight_max else replace(reference, weight=weight_max)
