"""Steps over views without right: builds on an older block, with a skip list that does not hold."""

from __future__ import annotations

from msgspec.structs import replace

from protocol.finality import NO_BLOCK, Certificate, Proposal, Vote, VoteKind
from protocol.ids import View
from simnet.finality.villains.villain import Villain


class Skipper(Villain):
    """Votes for whatever is proposed, so that its own blocks get as far as others let them."""

    SUMMARY = "builds on older blocks, with nullifications that are missing, of other views, or of another kind"

    def on_vote(self, vote: Vote) -> None:
        self.second(vote)

    def lead(self, view: View) -> None:
        grounds, random_ = self.grounds(view), self.world.random
        if not grounds:
            return
        ground = random_.choice(grounds[1:] or grounds)
        proposal = self.propose(self.make_header(view, ground), ground)
        match random_.randrange(5):
            case 0:  # of views that are not between
                others = [held[VoteKind.NULLIFY] for held in self.certificates.values() if VoteKind.NULLIFY in held]
                proposal = replace(proposal, nullifications=tuple(others[-3:]))
            case 1:  # notarizations that call themselves nullifications
                proposal = replace(proposal, nullifications=tuple(self._relabelled(proposal)))
            case 2 if self.certificates:  # the parent's certificate is another's
                held = random_.choice(list(self.certificates.values()))
                proposal = replace(proposal, parent_certificate=random_.choice(list(held.values())))
            case _:  # what there is: some are missing
                pass
        self.broadcast(proposal)

    def _relabelled(self, proposal: Proposal) -> list[Certificate]:
        between = range(proposal.header.parent_view + 1, proposal.header.view)
        held = [next(iter(self.certificates.get(View(at), {}).values()), None) for at in between]
        return [replace(each, kind=VoteKind.NULLIFY, block=NO_BLOCK) for each in held if each is not None]
