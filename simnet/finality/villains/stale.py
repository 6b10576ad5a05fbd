"""Lies about where it stands: behind, to be sent everything; ahead, to be asked; and serves chains that end too early."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from protocol.finality import Certificate, FinalizedBlock, Status, Want
from protocol.ids import Epoch, Height, View
from simnet.finality.genesis import ActorId
from simnet.finality.villains.villain import Ground, Villain

if TYPE_CHECKING:
    from simnet.finality.world import World

FAR = 10**6


class StaleLiar(Villain):
    """Leads on old ground, and talks of heights that are not."""

    SUMMARY = (
        "says it is far behind or far ahead, proposes on old blocks, repeats old certificates, serves stale chains"
    )
    TICK_MS: ClassVar[tuple[int, int]] = (100, 500)

    def __init__(self, world: World, me: ActorId) -> None:
        super().__init__(world, me)
        self.of_old: list[Certificate] = []  # of the epoch before

    def leave_epoch(self) -> None:
        self.of_old = [certificate for held in self.certificates.values() for certificate in held.values()]

    def lead(self, view: View) -> None:
        grounds = self.grounds(view)
        if grounds:
            ground: Ground = grounds[-1]
            self.broadcast(self.propose(self.make_header(view, ground), ground))

    def tick(self) -> None:
        random_ = self.world.random
        view, height = random_.choice(((0, 0), (1, 1), (int(self.view), 1), (FAR, FAR), (FAR, 0), (0, FAR)))
        epoch = random_.choice((self.epoch, self.epoch, Epoch(max(0, self.epoch - 1)), Epoch(self.epoch + 1), Epoch(0)))
        self.send(self.somebody(), Status(epoch, View(view), Height(height), View(random_.choice((0, view, FAR)))))
        if self.of_old and random_.random() < 0.3:
            self.broadcast(random_.choice(self.of_old))
        if self.certificates:
            held = self.certificates[random_.choice(list(self.certificates))]
            self.broadcast(random_.choice(list(held.values())))
        if self.headers:
            names = list(self.headers)
            self.send(self.somebody(), Want(tuple(random_.choice(names) for _ in range(min(64, len(names))))))

    def serve(self, from_height: Height, target: Certificate | None) -> list[FinalizedBlock]:
        """Another member's chain, cut, shifted or without its end."""
        random_ = self.world.random
        ledger = random_.choice(self.world.members).disk.ledger
        first = random_.choice((0, int(from_height) - 1, int(from_height)))
        return ledger[first : first + random_.randrange(1, 6)]
