"""Times what it says so that some believe it and others have just given up."""

from __future__ import annotations

from protocol.finality import Proposal, Vote, VoteKind
from protocol.ids import View
from simnet.finality.genesis import DELTA_MS, RULE
from simnet.finality.villains.villain import Villain

GIVES_UP_MS = max(RULE.idle_interval_ms, RULE.block_interval_ms_min) + 3 * DELTA_MS  # a view's timer, without backoff


class Splitter(Villain):
    """Proposes to one half just before the others' timers end, to the rest just after; votes as late as it can."""

    SUMMARY = "proposes just before the timers end, so that some notarize and others give up; votes late, to some"

    def on_vote(self, vote: Vote) -> None:
        mine = self.find_new_vote(vote.view, vote.kind, vote.block) if vote.kind is not VoteKind.NULLIFY else None
        if mine is not None:
            self.world.later(self.world.random.randrange(GIVES_UP_MS), self.send, self.somebody(), mine)

    def lead(self, view: View) -> None:
        grounds, random_ = self.grounds(view), self.world.random
        if not grounds:
            return
        wait_ms = GIVES_UP_MS - random_.randrange(0, 800)
        self.world.later(wait_ms, self._propose_to_half, self.propose(self.make_header(view, grounds[0]), grounds[0]))

    def _propose_to_half(self, proposal: Proposal) -> None:
        for to in self.others:
            if self.world.random.random() < 0.5:
                self.send(to, proposal)
            else:
                self.world.later(400, self.send, to, proposal)
