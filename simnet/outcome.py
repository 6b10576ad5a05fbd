"""What a run of a scenario showed: every number of the report, for people (``simnet/page/``) and for programs (``--json``).

Made by the world that ran; the same for every run of one command. Times are seconds of the run's own clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from msgspec import to_builtins


@dataclass(slots=True)
class Invariant:
    """One checker's tally. ``says``: the rule in one sentence. ``breaches``: each with its time and what was seen."""

    says: str
    checks: int = 0
    breaches: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """One round of the network. ``seconds``: when the first peer closed it. Losses are the model's on the decided tiles."""

    round: int
    seconds: float
    loss: float
    deltas: int  # counted in decided heads, those inside aggregates too
    tiles_advanced: int
    takeovers: int  # decided heads that a standby proposed
    wan_bytes: int  # that crossed regions since the round before
    local_bytes: int
    learners: int  # that gave at least one counted delta
    loss_plain: float | None = None  # had the same deltas been averaged without clipping or robust rule
    loss_honest: float | None = None  # had there been no villains


@dataclass(frozen=True, slots=True)
class Sample:
    """What was there at one moment, taken at even steps. Byte counts are since the sample before."""

    seconds: float
    peers: int  # whose process runs
    connections: int
    wan_bytes: int
    local_bytes: int
    by_kind: dict[str, int]  # topic or protocol -> payload bytes
    finality_lag_seconds: float  # from a block's time to its being final at two thirds of the running peers; the latest
    height: int  # the highest final block
    queue_max: int  # the longest queue of anybody


@dataclass(frozen=True, slots=True)
class RegionOutcome:
    """One region: ``at`` is longitude and latitude."""

    name: str
    at: tuple[float, float]
    peers: int
    sent_to: dict[str, int]  # region -> bytes, this region's own among them


@dataclass(frozen=True, slots=True)
class OwnerMove:
    """A tile's decided head came from another proposer than the one before."""

    seconds: float
    tile: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Happening:
    """Something of the scenario took place: a region was cut, a peer was killed."""

    seconds: float
    says: str


@dataclass(slots=True)
class Outcome:
    """One run. ``passed`` is the sum of it: no invariant was breached."""

    scenario: str
    says: str
    seed: int
    level: int
    repeat: str  # the command that gives this run again
    peers: int
    validators: int
    virtual_seconds: float
    inner_steps: int
    invariants: dict[str, Invariant]
    rounds: list[RoundOutcome]
    samples: list[Sample]
    regions: list[RegionOutcome]
    moves: list[OwnerMove]
    happenings: list[Happening]
    events: int = 0
    digest: str = ""

    @property
    def passed(self) -> bool:
        return not any(each.breaches for each in self.invariants.values())

    @property
    def wan_bytes_per_round(self) -> int:
        """Of the rounds that were decided, on the average."""
        return sum(each.wan_bytes for each in self.rounds) // max(1, len(self.rounds))

    @property
    def wan_bytes_per_step(self) -> int:
        """The same for each of a round's local steps."""
        return self.wan_bytes_per_round // max(1, self.inner_steps)

    def facts(self) -> dict[str, Any]:
        """Everything as one object of JSON's types."""
        return {
            **to_builtins(self),
            "passed": self.passed,
            "invariants": {
                name: {"says": each.says, "checks": each.checks, "breaches": len(each.breaches), "seen": each.breaches}
                for name, each in self.invariants.items()
            },
            "loss": [each.loss for each in self.rounds],
            "wan_bytes_per_round": self.wan_bytes_per_round,
            "wan_bytes_per_step": self.wan_bytes_per_step,
        }
