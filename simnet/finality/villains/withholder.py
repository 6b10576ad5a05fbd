"""Follows every rule but one: what others need from it, it keeps, or gives to one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocol.finality import BodyMessage, Certificate, FinalizedBlock, ValidatorMessage
from protocol.ids import Height
from simnet.finality.genesis import ActorId
from simnet.finality.members import Member
from simnet.finality.watch import Watch

if TYPE_CHECKING:
    from simnet.finality.world import World

KEPT: Final = (Certificate, BodyMessage)


class Withholder(Member):
    """An honest program whose certificates and bodies reach one member, if any; it answers no question for blocks."""

    SUMMARY = "honest but for its certificates and bodies, which reach one member at most"

    def __init__(self, world: World, me: ActorId) -> None:
        super().__init__(world, me, Watch(), world.machine)

    def say(self, to: tuple[ActorId, ...], message: ValidatorMessage) -> None:
        random_ = self.world.random
        if not isinstance(message, KEPT):
            super().say(to, message)
        elif len(to) > 1 and random_.random() < 0.5:
            super().say((random_.choice(to),), message)

    def serve(self, from_height: Height, target: Certificate | None) -> list[FinalizedBlock]:
        return []
