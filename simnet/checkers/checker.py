"""What a checker is: a rule in one sentence, a tally, and whatever it wants to hear."""

from __future__ import annotations

from typing import ClassVar, Final

from protocol.finality import FinalizedBlock
from protocol.ids import Digest, TileId, Version
from simnet.checkers.facts import DecidedHead, Facts, KnownBlock, Peer
from simnet.outcome import Invariant

BREACHES_MAX: Final = 1_000  # a rule that is broken everywhere fills no memory


class Checker:
    """Overrides what it wants to hear. ``Watch`` calls no method that is not overridden: a hundred thousand calls are cheap."""

    says: ClassVar[str]

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.tally = Invariant(self.says)

    def breach(self, seconds: float, sentence: str) -> None:
        """The rule was broken then."""
        if len(self.tally.breaches) < BREACHES_MAX:
            self.tally.breaches.append(f"{seconds:.1f} s: {sentence}")

    def arrived(self, peer: Peer, now: float) -> None:
        """A peer's process runs, maybe again."""

    def left(self, peer: Peer, now: float) -> None:
        """It is gone."""

    def began(self, peer: Peer, oldest: int, height: int, state_root: Digest, now: float) -> None:
        """A peer's node begins: with blocks of these heights (0, 0: none), and after the last of them with such a state."""

    def finalized(self, peer: Peer, block: FinalizedBlock, name: Digest, first: KnownBlock, now: float) -> None:
        """A peer stored a final block; ``first`` is what anybody finalized first at that height (maybe this one)."""

    def decided(self, decided: DecidedHead, now: float) -> None:
        """The first peer stored the block that holds this head. Told once, in the order of blocks."""

    def applied(self, peer: Peer, tile: TileId, version: Version, root: Digest, now: float) -> None:
        """A peer wrote a version of a tile."""

    def closed(self, round_number: int, now: float) -> None:
        """The first peer closed a round."""

    def sampled(self, peer: Peer, name: str, length: int, length_max: int, now: float) -> None:
        """How long a queue is."""

    def kept(self, what: str, tile: int, cells: int, needed: int, now: float) -> None:
        """How many cells of a tile are on the disks of those that run."""

    def left_behind(self, peer: Peer, what: str, now: float) -> None:
        """A stopped node left something open."""

    def failed(self, peer: Peer, why: str, now: float) -> None:
        """A node ended with an exception."""

    def quorum(self, possible: bool, now: float) -> None:
        """Whether enough members run and reach each other to decide anything."""

    def finish(self, now: float) -> None:
        """The run is over. ``peer.runs`` says who runs at the end."""
