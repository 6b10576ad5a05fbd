"""Says again what others have signed elsewhere: on another fork of the chain, which is where evidence would frame them."""

from __future__ import annotations

from typing import ClassVar, Final

from protocol.finality import NO_BLOCK, ChainId, Vote, VoteKind, vote_text
from protocol.ids import Digest, MemberIndex, View
from simnet.finality.genesis import CHAIN, actor_of
from simnet.finality.villains.villain import Villain

OTHER_FORK: Final = ChainId(CHAIN.chain, CHAIN.fork + 1)
ELSEWHERE: Final = Digest(b"\xdd" * 32)


class Replayer(Villain):
    """Leads well. Every member voted on the other fork too, in the same views, for other blocks, and all of it was heard."""

    SUMMARY = "repeats votes that honest members signed on another fork of the chain, for other blocks"
    TICK_MS: ClassVar[tuple[int, int]] = (50, 300)

    def lead(self, view: View) -> None:
        self.lead_well(view)

    def tick(self) -> None:
        random_ = self.world.random
        members = self.world.sets.roster(self.epoch).members
        place = random_.randrange(len(members))
        view = View(max(1, self.view - random_.randrange(3)))
        kind = random_.choice(tuple(VoteKind))
        block = NO_BLOCK if kind is VoteKind.NULLIFY else ELSEWHERE
        key = self.world.keys[actor_of(members[place].node)]
        text = vote_text(OTHER_FORK, self.epoch, view, kind, block)
        self.broadcast(Vote(self.epoch, view, kind, block, MemberIndex(place), key.sign(text)))
