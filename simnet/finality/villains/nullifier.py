"""Gives up on every view as soon as it begins, and says nothing else."""

from __future__ import annotations

from protocol.finality import NO_BLOCK, Vote, VoteKind
from protocol.ids import View
from simnet.finality.villains.villain import Villain


class Nullifier(Villain):
    """NULLIFY, at once, everywhere."""

    SUMMARY = "says NULLIFY in every view, and nothing else"

    def on_view(self, view: View) -> None:
        self.broadcast(self.vote(view, VoteKind.NULLIFY))
        self.broadcast(self.vote(View(view + 1), VoteKind.NULLIFY))

    def on_vote(self, vote: Vote) -> None:
        mine = self.find_new_vote(vote.view, VoteKind.NULLIFY, NO_BLOCK)
        if mine is not None:
            self.broadcast(mine)

    def tick(self) -> None:
        self.broadcast(self.vote(self.view, VoteKind.NULLIFY))
