"""From when to when something was done to the network: the scenario knows it, an outcome knows moments only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from simnet.charts import Times
from simnet.outcome import Outcome
from simnet.page.words import percent
from simnet.scenario import (
    Crash,
    CutRegion,
    Eclipse,
    Fault,
    FillDisks,
    GenesisLiars,
    KillBootstraps,
    KillOwners,
    Scenario,
    SkewClocks,
    SlowRegion,
    StateLiars,
)
from simnet.text import count_text

MOMENTS_MAX: Final = 40  # drawn through every plot: more would be a curtain
SPANS_MAX: Final = 8  # of the scenario's faults


@dataclass(frozen=True, slots=True)
class FaultSpan:
    """Something of the scenario lasts from one moment to another."""

    begins: float
    ends: float
    says: str


def spans_of(scenario: Scenario) -> list[FaultSpan]:
    """From when to when each of its faults lasts, and who comes and goes meanwhile; the earliest first."""
    spans = [_span_of(fault, scenario) for fault in scenario.faults]
    if scenario.churn is not None:
        says = f"{percent(scenario.churn.share_per_hour)} of the peers an hour leave and come back"
        spans.append(FaultSpan(0.0, scenario.seconds, says))
    spans += [
        FaultSpan(each.from_seconds, each.until_seconds, f"{count_text(each.peers, 'peer')} arrive")
        for each in scenario.arrivals
    ]
    for from_round in sorted({each.from_round for each in scenario.villains}):
        villains = [each for each in scenario.villains if each.from_round == from_round]
        kinds = ", ".join(each.kind.replace("_", " ") for each in villains)
        says = f"{percent(sum(each.share for each in villains))} villains among the learners: {kinds}"
        spans.append(FaultSpan(from_round * scenario.learning.round_seconds, scenario.seconds, says))
    return sorted(spans, key=lambda span: (span.begins, span.ends, span.says))


def _span_of(fault: Fault, scenario: Scenario) -> FaultSpan:
    match fault:
        case CutRegion(region, at, seconds):
            return FaultSpan(at, at + seconds, f"{region} is cut off")
        case SlowRegion(region, at, seconds, factor, share):
            return FaultSpan(
                at, at + seconds, f"{region} is slow: {factor:g}× the latency, {percent(share)} of the rate"
            )
        case KillBootstraps(at):
            return FaultSpan(at, scenario.seconds, "the bootstrap peers are dead")
        case KillOwners(first, last, _):
            pace = scenario.learning.round_seconds
            return FaultSpan(first * pace, last * pace, "the owner of every tile dies in every round")
        case Crash(share, at, seconds, back):
            return FaultSpan(at, at + seconds + back, f"{percent(share)} of the peers crash and come back")
        case FillDisks(share, at, seconds):
            return FaultSpan(at, at + seconds, f"the disks of {percent(share)} of the peers are full")
        case Eclipse(attackers, at):
            return FaultSpan(at, scenario.seconds, f"{count_text(attackers, 'attacker')} eclipse one peer")
        case SkewClocks(share, offset):
            says = f"the clocks of {percent(share)} of the peers are off by {offset:g} s"
            return FaultSpan(0.0, scenario.seconds, says)
        case GenesisLiars(peers):
            return FaultSpan(0.0, scenario.seconds, f"{count_text(peers, 'peer')} of another network dial everybody")
        case StateLiars(share):
            return FaultSpan(0.0, scenario.seconds, f"{percent(share)} of the peers lie about the state")
        case _:
            assert_never(fault)


def times_of(outcome: Outcome, faults: Sequence[FaultSpan]) -> Times:
    """The time axis, as long as anything that is drawn on it."""
    ends = [
        outcome.virtual_seconds,
        *(each.seconds for each in outcome.samples),
        *(each.seconds for each in outcome.rounds),
    ]
    seconds = max((end for end in ends if math.isfinite(end)), default=0.0)
    moments = sorted({each.seconds for each in outcome.happenings})
    # A fault that lasts to the end from near the beginning would colour everything: its bar says it.
    bands = [span for span in faults if span.ends - span.begins < 0.6 * seconds]
    return Times(
        max(seconds, 1.0),
        tuple((span.begins, span.ends) for span in bands[:SPANS_MAX]),
        tuple(moments) if len(moments) <= MOMENTS_MAX else (),
    )
