"""Says one thing to some and the opposite to others: votes for everything it sees, proposes twice.

In a two-faced view the members are two sides, the same for every equivocator: each side hears of its own block only, and
hears FINALIZE for it before it is notarized. With too many equivocators both sides finalize. In the other views every vote
is echoed to some, and all its contradictions to others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.finality import NO_BLOCK, Proposal, Vote, VoteKind
from protocol.ids import Digest, View
from simnet.finality.genesis import ActorId
from simnet.finality.villains.villain import Villain

if TYPE_CHECKING:
    from simnet.finality.world import World

HEARD = 0.6  # by how many an echo is heard
SIDES = 2


class Equivocator(Villain):
    """Echoes, contradicts, and tells each side what it wants to hear."""

    SUMMARY = "votes for everything, each vote to some members only; proposes two blocks in a view"

    def __init__(self, world: World, me: ActorId) -> None:
        super().__init__(world, me)
        self._encouraged: set[tuple[Digest, int]] = set()  # asked only "is it in"

    def on_vote(self, vote: Vote) -> None:
        if not self._is_two_faced(vote.view):
            self._contradict(vote)
        elif vote.kind is VoteKind.NOTARIZE:
            signer = self.world.sets.find_actor(vote.signer, vote.epoch)
            if signer is not None and vote.epoch == self.epoch:
                self._encourage(vote, self._side(signer, vote.view))

    def lead(self, view: View) -> None:
        grounds = self.grounds(view)
        if not grounds:
            return
        copies = SIDES if self._is_two_faced(view) else self.world.random.choice((1, 2, 3))
        proposals = [self.propose(self.make_header(view, grounds[0], copy), grounds[0]) for copy in range(copies)]
        for to in self.others:
            self.send(to, proposals[self._side(to, view, copies)])
        for side, proposal in enumerate(proposals):
            self._tell_friends(proposal)
            if self._is_two_faced(view):
                self._encourage(proposal.vote, side)
            else:
                self._contradict(proposal.vote)

    def _is_two_faced(self, view: View) -> bool:
        return view % 3 != 0

    def _side(self, member: ActorId, view: View, sides: int = SIDES) -> int:
        """Alternating among the honest, so that neither side is larger by more than one."""
        weights = self.world.sets.weights(self.epoch)
        honest = [other for other in range(member) if weights[other] and other not in self.world.byzantine]
        return (len(honest) + view) % sides

    def _tell_friends(self, proposal: Proposal) -> None:
        for to in self.world.byzantine:
            if to != self.me:
                self.send(to, proposal)

    def _encourage(self, vote: Vote, side: int) -> None:
        """This side gets everything that it needs for this block but its own votes."""
        signer = self.world.sets.find_actor(vote.signer, vote.epoch)
        if signer in self.world.byzantine and signer != self.me:
            return
        if (vote.block, side) in self._encouraged:
            return
        self._encouraged.add((vote.block, side))
        for kind in (VoteKind.NOTARIZE, VoteKind.FINALIZE):
            mine = self.vote(vote.view, kind, vote.block)
            for to in self.others:
                if self._side(to, vote.view) == side:
                    self.send(to, mine)

    def _contradict(self, vote: Vote) -> None:
        for kind in VoteKind:
            mine = self.find_new_vote(vote.view, kind, NO_BLOCK if kind is VoteKind.NULLIFY else vote.block)
            if mine is not None:
                for to in self.others:
                    if self.world.random.random() < HEARD:
                        self.send(to, mine)
