"""Votes in views that will not come for years, more than anybody can keep."""

from __future__ import annotations

from typing import ClassVar

from msgspec.structs import replace

from protocol.finality import Status, VoteKind
from protocol.ids import Digest, Epoch, Height, View
from simnet.finality.villains.villain import Villain

VOTES_A_TICK = 20


class FarViewSpammer(Villain):
    """Leads well, so that nobody wishes it away."""

    SUMMARY = "votes in views up to a million ahead, dozens a second, for blocks that do not exist"
    TICK_MS: ClassVar[tuple[int, int]] = (100, 400)

    def lead(self, view: View) -> None:
        self.lead_well(view)

    def tick(self) -> None:
        random_ = self.world.random
        to = self.somebody()
        for _ in range(VOTES_A_TICK):
            far = View(self.view + random_.choice((1, 2, 60, 63, 64, 65, 1_000, 10**6)))
            kind = random_.choice((VoteKind.NOTARIZE, VoteKind.FINALIZE, VoteKind.NULLIFY))
            vote = (
                self.vote(far, kind)
                if kind is VoteKind.NULLIFY
                else self.vote(far, kind, Digest(random_.randbytes(32)))
            )
            self.send(to, vote)
        epoch = random_.choice((self.epoch, Epoch(self.epoch + 1), Epoch(10**6)))
        self.broadcast(Status(epoch, View(10**6), Height(10**6), View(10**6)))
        self.broadcast(replace(self.vote(self.view, VoteKind.NULLIFY), epoch=Epoch(10**6)))
