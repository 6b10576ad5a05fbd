"""Two honest programs with one key that know nothing of each other: each member sees one, the other, or both.

Who sees whom changes all the time, for all twins alike: first halves hear first halves. Neither breaks a rule by itself;
together they say everything twice. (Shehar Bano et al., "Twins: BFT Systems Made Robust", 2021.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from protocol.finality import Certificate, FinalizedBlock, ValidatorMessage
from protocol.ids import Height
from simnet.finality.genesis import ActorId
from simnet.finality.members import Member
from simnet.finality.network import FromTwin
from simnet.finality.watch import Watch

if TYPE_CHECKING:
    from simnet.finality.world import World

MASK_MS: Final = (500, 6_000)  # how long a mask holds: a view or a few
FIRST, SECOND, BOTH = 1, 2, 3


class Twin(Member):
    """One of the two."""

    def __init__(self, world: World, twins: Twins, bit: int) -> None:
        super().__init__(world, twins.me, Watch(), world.machine)
        self._twins = twins
        self._bit = bit

    def say(self, to: tuple[ActorId, ...], message: ValidatorMessage) -> None:
        for member in to:
            if member in self.world.byzantine and member != self.me:
                self.world.network.send(self.me, member, FromTwin(self._bit, message))
            elif member != self.me and self._twins.mask_of(member, message) & self._bit:
                self.world.network.send(self.me, member, message)


class Twins:
    """The pair as one actor."""

    SUMMARY = "two honest programs with one key; each member sees one of them, the other, or both"

    def __init__(self, world: World, me: ActorId) -> None:
        self.me = me
        self._world = world
        self._mask = [BOTH] * world.count
        self._pair = (Twin(world, self, FIRST), Twin(world, self, SECOND))

    def start(self) -> None:
        self._draw_mask()
        for twin in self._pair:
            twin.start()

    def hear(self, source: ActorId, message: Any) -> None:
        if isinstance(message, FromTwin):
            seen, message = message
        else:
            seen = self.mask_of(source, message)
        for bit, twin in zip((FIRST, SECOND), self._pair, strict=True):
            if seen & bit:
                twin.hear(source, message)

    def serve(self, from_height: Height, target: Certificate | None) -> list[FinalizedBlock]:
        return self._pair[0].serve(from_height, target)

    def mask_of(self, member: ActorId, message: Any) -> int:
        """Which halves this member sees and is seen by: the mask of the first twins holds for all."""
        leader = self._world.actors[self._world.byzantine[0]]
        return leader._mask[member] if isinstance(leader, Twins) else BOTH

    def _draw_mask(self) -> None:
        random_ = self._world.random
        choices = random_.choice(((FIRST, SECOND), (FIRST, SECOND, BOTH)))
        self._mask = [random_.choice(choices) for _ in self._mask]
        self._world.later(random_.randrange(*MASK_MS), self._draw_mask)


class ScriptedTwins(Twins):
    """Twins of whom each message says who hears it (``simnet/finality/scripted.py``)."""

    def __init__(self, world: World, me: ActorId, mask_of: Callable[[ActorId, Any], int]) -> None:
        super().__init__(world, me)
        self._ask = mask_of

    def mask_of(self, member: ActorId, message: Any) -> int:
        return self._ask(member, message)

    def _draw_mask(self) -> None:
        pass
