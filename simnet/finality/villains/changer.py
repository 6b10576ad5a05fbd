"""Spoils the end of an epoch: whatever a leader can do wrong with a boundary block, and votes that keep it from being final."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from protocol.finality import BodyMessage, Proposal, Vote, VoteKind
from protocol.ids import View
from simnet.finality.genesis import ActorId
from simnet.finality.villains.villain import Ground, Villain


class Changer(Villain):
    """Leads well everywhere else; it notarizes whatever it sees, and finalizes for one member only."""

    SUMMARY = (
        "changes an epoch's last block, builds on it, or proposes it again without right; finalizes for one member only"
    )

    def hear(self, source: ActorId, message: Any) -> None:
        """It keeps the bodies of others: an epoch's last block is never empty, and nobody votes for what it cannot read."""
        if isinstance(message, BodyMessage):
            self.keep_body(message.body)
        super().hear(source, message)

    def on_vote(self, vote: Vote) -> None:
        if vote.kind is VoteKind.NULLIFY or vote.epoch != self.epoch:
            return
        mine = self.find_new_vote(vote.view, vote.kind, vote.block)
        if mine is not None and vote.kind is VoteKind.NOTARIZE:
            self.broadcast(mine)
        elif mine is not None:
            self.send(self.somebody(), mine)

    def lead(self, view: View) -> None:
        grounds, random_ = self.grounds(view), self.world.random
        again = self.propose_again(view, grounds[0]) if grounds and self.is_boundary(grounds[0]) else None
        if again is None:
            self.lead_well(view)
            return
        below = next((ground for ground in grounds if not self.is_boundary(ground)), Ground(None, None))
        another = self.propose(self.make_header(view, below), below)
        match random_.randrange(7):
            case 0:  # another header under the old one's certificate
                header = replace(again.header, time_ms=again.header.time_ms + 1)
                self._remember(header)
                self.broadcast(replace(again, header=header, vote=self.vote(view, VoteKind.NOTARIZE, header.digest())))
            case 1:  # another block beside it
                self.broadcast(another)
            case 2:  # a block above it
                self.broadcast(self.propose(self.make_header(view, grounds[0]), grounds[0]))
            case 3:  # over views that were not nullified
                self.broadcast(replace(again, nullifications=()))
            case 4:  # as another block's certificate would have it
                self.broadcast(replace(again, parent_certificate=below.certificate))
            case 5:
                self._to_each_half(again, another)
            case _:
                self.broadcast(again)

    def _to_each_half(self, one: Proposal, other: Proposal) -> None:
        for to in self.others:
            self.send(to, one if self.world.random.random() < 0.5 else other)
