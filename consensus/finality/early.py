"""What came too early: bodies before their proposal, and what members of the next epoch say before we are in it.

Bounded by sender and in all: a leader that crossed a boundary a moment before us is heard as soon as we are across, and
whoever sends more than that is repeated by R8 like any other loss.
"""

from __future__ import annotations

from collections import OrderedDict

from protocol.finality import BodyMessage, Certificate, Proposal, Vote
from protocol.ids import Digest, PeerId

BODIES_EARLY_MAX = 8  # one a sender: 4 MiB
MESSAGES_EARLY_MAX = 8  # of each member of the next epoch: what it says in the first two views (a guess)


class EarlyBodies:
    """The last body of each sender whose block was unknown."""

    def __init__(self) -> None:
        self._held: OrderedDict[PeerId, BodyMessage] = OrderedDict()

    def keep(self, sender: PeerId, message: BodyMessage) -> None:
        self._held[sender] = message
        self._held.move_to_end(sender)
        if len(self._held) > BODIES_EARLY_MAX:
            self._held.popitem(last=False)

    def take(self, block: Digest) -> list[bytes]:
        """What came under this block's name; some of it may be another's."""
        found = [(sender, message.body) for sender, message in self._held.items() if message.block == block]
        for sender, _ in found:
            del self._held[sender]
        return [body for _, body in found]


class EarlyMessages:
    """What was said in the next epoch, in the order in which it came. The caller admits members of that epoch only."""

    def __init__(self) -> None:
        self._held: list[tuple[PeerId, Vote | Certificate | Proposal]] = []
        self._counts: dict[PeerId, int] = {}

    def keep(self, sender: PeerId, message: Vote | Certificate | Proposal) -> None:
        count = self._counts.get(sender, 0)
        heavy = isinstance(message, Proposal) and len(message.nullifications) > 1  # not of the first two views
        if count < MESSAGES_EARLY_MAX and not heavy:
            self._counts[sender] = count + 1
            self._held.append((sender, message))

    def take(self) -> list[tuple[PeerId, Vote | Certificate | Proposal]]:
        """All of it, once."""
        held, self._held, self._counts = self._held, [], {}
        return held
