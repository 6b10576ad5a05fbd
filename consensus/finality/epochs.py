"""What is fixed while an epoch lasts (chain.md 2.7).

Who votes in epoch e + 1 is fixed by the state after the boundary of e - 1 (for e = 0, by the genesis), so every header of e can
name both rosters, its own and the next: whoever trusts a roster learns the one after it from a certificate of its own epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.finality.schedule import Schedule
from protocol.epochs import boundary_of, epoch_of
from protocol.genesis import ChainRule
from protocol.ids import Digest, Epoch, Height, MemberIndex, PeerId
from protocol.rejection import check_invariant
from protocol.roster import Roster


def epoch_of_child(height: Height, rule: ChainRule) -> Epoch:
    """The epoch of the block above ``height``: the one in which a chain with this tip goes on."""
    return epoch_of(height + 1, rule.epoch_heights)


@dataclass(frozen=True, slots=True)
class Term:
    """One epoch as one node sees it."""

    roster: Roster
    next_roster: Roster
    roster_digest: Digest
    next_digest: Digest
    first: Height
    boundary: Height
    schedule: Schedule
    places: dict[PeerId, MemberIndex]  # of this epoch's members
    next_members: frozenset[PeerId]  # asked only "is it in"
    me: MemberIndex | None  # None: an observer
    others: tuple[PeerId, ...]  # the members but for this node

    @classmethod
    def of(cls, roster: Roster, next_roster: Roster, peer: PeerId, rule: ChainRule) -> Term:
        """The epoch of ``roster`` for the node ``peer``."""
        check_invariant(next_roster.epoch == roster.epoch + 1, "the next roster is of the next epoch")
        return cls(
            roster=roster,
            next_roster=next_roster,
            roster_digest=roster.digest(),
            next_digest=next_roster.digest(),
            first=Height(boundary_of(roster.epoch - 1, rule.epoch_heights) + 1),
            boundary=boundary_of(roster.epoch, rule.epoch_heights),
            schedule=Schedule(roster, rule),
            places={member.node: MemberIndex(place) for place, member in enumerate(roster.members)},
            next_members=frozenset(member.node for member in next_roster.members),
            me=roster.find_index(peer),
            others=tuple(member.node for member in roster.members if member.node != peer),
        )

    @property
    def epoch(self) -> Epoch:
        return self.roster.epoch

    @property
    def newcomers(self) -> tuple[PeerId, ...]:
        """Members of the next epoch that are not of this one."""
        return tuple(member.node for member in self.next_roster.members if member.node not in self.places)

    def peer(self, member: MemberIndex) -> PeerId:
        return self.roster.members[member].node
