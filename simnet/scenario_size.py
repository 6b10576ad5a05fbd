"""The same scenario with another number of peers, or small and short: what it is about stays.

What happens at a time keeps its place in the run, what happens within a round keeps its part of it, and what depends on the
crowd (who arrives, how many attack) keeps its share. Nothing that happens stops happening.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Final

from simnet.scenario import (
    Arrivals,
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
    check_scenario,
)

VALIDATORS_MIN: Final = 7  # the smallest roster that survives two: one that the scenario takes, and one by accident
CI_PEERS: Final = 14  # 30 % of them are four, one for each of the four kinds in poison.toml
CI_ROUND_SECONDS: Final = 60.0  # a leader's timeouts and two silent standbys fit into it
CI_ROUNDS_MAX: Final = 8
CI_TILES_MAX: Final = 8  # five of the trunk and three experts


def resize(scenario: Scenario, peers: int) -> Scenario:
    """The same with so many peers; raises ``Rejected(BAD_CONFIG)`` when it cannot be run with them.

    More peers do not make a larger roster, fewer make a smaller one. Those who are there at the beginning and those who arrive
    keep their shares, but for the roster, which is there.
    """
    part = peers / scenario.peers
    validators = scenario.validators
    if part < 1:
        validators = min(peers, validators, max(VALIDATORS_MIN, round(validators * part)))
    late = sum(each.peers for each in scenario.arrivals)
    arriving = min(round(late * part), peers - validators)
    return check_scenario(
        replace(
            scenario,
            peers=peers,
            validators=validators,
            bootstraps=_bootstraps(scenario, validators),
            arrivals=_shared_out(scenario.arrivals, arriving),
            faults=tuple(_of_crowd(fault, part, peers) for fault in scenario.faults),
            villains=tuple(replace(each, share=_somebody(each.share, peers)) for each in scenario.villains),
        )
    )


def ci_sized(scenario: Scenario) -> Scenario:
    """At most 14 peers, 8 rounds of a minute and 8 tiles; every fault still happens, to somebody, at its part of the run."""
    small = resize(scenario, min(scenario.peers, CI_PEERS))
    rounds = min(scenario.rounds, CI_ROUNDS_MAX)
    round_seconds = min(scenario.learning.round_seconds, CI_ROUND_SECONDS)
    pace = _Pace(
        run=rounds * round_seconds / scenario.seconds,
        within_round=round_seconds / scenario.learning.round_seconds,
        rounds=rounds / scenario.rounds,
    )
    churn = scenario.churn and replace(
        scenario.churn,
        share_per_hour=scenario.churn.share_per_hour / pace.run,  # as many leave during the run
        away_seconds=(scenario.churn.away_seconds[0] * pace.run, scenario.churn.away_seconds[1] * pace.run),
    )
    tiles = min(scenario.learning.tiles, CI_TILES_MAX)
    return check_scenario(
        replace(
            small,
            seconds=rounds * round_seconds,
            learning=replace(scenario.learning, round_seconds=round_seconds, tiles=tiles),
            hardware=tuple(
                replace(each, learn_seconds=each.learn_seconds * pace.within_round) for each in scenario.hardware
            ),
            arrivals=tuple(
                replace(each, from_seconds=each.from_seconds * pace.run, until_seconds=each.until_seconds * pace.run)
                for each in small.arrivals
            ),
            churn=churn,
            faults=tuple(_at_pace(fault, pace) for fault in small.faults),
            villains=tuple(replace(each, from_round=int(each.from_round * pace.rounds)) for each in small.villains),
        )
    )


# -- inside ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pace:
    """By how much the times shrink: of the run, within a round, and the numbers of rounds."""

    run: float
    within_round: float
    rounds: float


def _bootstraps(scenario: Scenario, validators: int) -> int:
    """Where they die, the rest of a smaller roster must be a quorum; see ``check_scenario``."""
    if any(isinstance(fault, KillBootstraps) for fault in scenario.faults):
        return max(1, min(scenario.bootstraps, (validators - 1) // 3))
    return min(scenario.bootstraps, validators)


def _somebody(share: float, peers: int) -> float:
    """The share, but at least one peer."""
    return max(share, 1 / peers) if share > 0 else 0.0


def _shared_out(arrivals: tuple[Arrivals, ...], peers: int) -> tuple[Arrivals, ...]:
    """So many in place of those that these were, in the same proportions; nobody arrives where there are too few."""
    late = sum(each.peers for each in arrivals)
    bounds = [0]
    for each in arrivals:
        bounds.append(bounds[-1] + each.peers)
    counts = [peers * end // late - peers * begin // late for begin, end in itertools.pairwise(bounds)]
    return tuple(replace(each, peers=count) for each, count in zip(arrivals, counts, strict=True) if count)


def _of_crowd(fault: Fault, part: float, peers: int) -> Fault:
    match fault:
        case Crash() | FillDisks() | SkewClocks() | StateLiars():
            return replace(fault, share=_somebody(fault.share, peers))
        case GenesisLiars():
            return replace(fault, peers=max(1, round(fault.peers * part)))
        case Eclipse():  # a victim has so many connections, however large the network is; they are always more than it
            return replace(fault, attackers=min(fault.attackers, max(peers, round(fault.attackers * part))))
        case CutRegion() | SlowRegion() | KillBootstraps() | KillOwners():
            return fault


def _at_pace(fault: Fault, pace: _Pace) -> Fault:
    match fault:
        case CutRegion() | SlowRegion() | FillDisks():
            return replace(fault, at_seconds=fault.at_seconds * pace.run, for_seconds=fault.for_seconds * pace.run)
        case Crash():
            return replace(
                fault,
                at_seconds=fault.at_seconds * pace.run,
                for_seconds=fault.for_seconds * pace.run,
                back_seconds=fault.back_seconds * pace.run,
            )
        case KillBootstraps() | Eclipse():
            return replace(fault, at_seconds=fault.at_seconds * pace.run)
        case KillOwners():
            first = int(fault.from_round * pace.rounds)
            return replace(
                fault,
                from_round=first,
                until_round=max(first + 1, int(fault.until_round * pace.rounds)),
                back_seconds=fault.back_seconds * pace.within_round,
            )
        case SkewClocks():
            return replace(fault, offset_seconds=fault.offset_seconds * pace.within_round)
        case GenesisLiars() | StateLiars():
            return fault
