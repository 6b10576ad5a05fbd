"""What one seed draws, swarm style: each run has some faults and lacks others, so that each fault also appears alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from protocol.limits import BODY_BYTES_MAX
from simnet.finality.genesis import RULE, WEIGHTS
from simnet.finality.network import SHAPES, SWIZZLE
from simnet.finality.payments import BODY_BYTES_USUAL
from simnet.finality.villains import VILLAINS

EPOCH_HEIGHTS: Final = (2, 3, 4, 6, 12)  # short, so that a run sees many boundaries


@dataclass(frozen=True, slots=True)
class Options:
    """One run's faults. Probabilities of one; counts over the whole time of faults."""

    loss: float = 0.0
    loss_of_finalize: float = (
        0.0  # of votes and certificates that finalize: what makes boundary blocks be proposed again
    )
    repeat: float = 0.0
    delay_mean_ms: float = 20.0
    tail: float = 0.0
    clogs: int = 0
    partitions: tuple[str, ...] = ()
    slow_links: float = 0.0  # links of a limited rate, each drawn by itself
    fullness: float = 0.5  # how often a leader has something to propose
    body_bytes_max: int = BODY_BYTES_USUAL  # where it is more, some bodies are as large
    crashes: int = 0
    cut: float = 0.0  # a crash between two effects of one event, for each effect
    pauses: int = 0
    lost_journals: bool = False
    bit_flips: float = 0.0  # at a restart: in the vote journal, or in a row of the database
    journal_records_max: int | None = None  # a vote journal with more is written anew at a start
    lost_renames: bool = False  # a crash is a power cut: names that were not synced are gone
    skew_ms: int = 0  # clocks are off by up to so much, each by its own
    leave_behind: bool = False  # after the heal only a random core of more than two thirds lives
    weights: str = "equal"
    epoch_heights: int = RULE.epoch_heights
    set_changes: bool = False  # members join, leave, and change their weights between epochs; some begin later
    villain: str | None = None

    @classmethod
    def draw(cls, random_: random.Random) -> Options:
        """The swarm: every field by itself."""
        shapes = (*SHAPES, SWIZZLE)
        return cls(
            loss=random_.choice((0.0, 0.05, 0.1, 0.3, 0.4)),
            loss_of_finalize=random_.choice((0.0, 0.0, 0.5, 0.9)),
            repeat=random_.choice((0.0, 0.2, 0.5)),
            delay_mean_ms=random_.choice((20.0, 60.0, 150.0)),
            tail=random_.choice((0.0, 0.02, 0.1)),
            clogs=random_.choice((0, 0, 5, 20)),
            partitions=tuple(random_.choice(shapes) for _ in range(random_.choice((0, 1, 3)))),
            slow_links=random_.choice((0.0, 0.0, 0.3, 1.0)),
            fullness=random_.choice((0.1, 0.5, 1.0)),
            body_bytes_max=random_.choice((BODY_BYTES_USUAL, BODY_BYTES_MAX)),
            crashes=random_.choice((0, 2, 5)),
            cut=random_.choice((0.0, 0.002, 0.01)),
            pauses=random_.choice((0, 0, 3)),
            lost_journals=random_.random() < 0.2,
            bit_flips=random_.choice((0.0, 0.5, 1.0)),
            journal_records_max=random_.choice((None, None, 0, 8)),
            lost_renames=random_.random() < 0.4,
            skew_ms=random_.choice((0, 0, 500, 2_000)),
            leave_behind=random_.random() < 0.3,
            weights=random_.choice(("equal", *WEIGHTS)),
            epoch_heights=random_.choice((*EPOCH_HEIGHTS, RULE.epoch_heights)),
            set_changes=random_.random() < 0.8,
            villain=random_.choice(tuple(VILLAINS)) if random_.random() < 0.5 else None,
        )

    def told(self) -> str:
        """What differs from a calm run, for people."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__ if _differs(self, name)) or "calm"


CALM: Final = Options()
# A villain and little else: what a villain does shows best when nothing else goes wrong.
ALMOST_CALM: Final = Options(loss=0.05, crashes=1, cut=0.002)
# The same across many boundaries, at which votes are lost often enough for blocks to be proposed again.
BOUNDARIES: Final = Options(loss=0.05, loss_of_finalize=0.8, crashes=2, cut=0.002, epoch_heights=2, set_changes=True)


def _differs(options: Options, name: str) -> bool:
    return bool(getattr(options, name) != getattr(CALM, name))
