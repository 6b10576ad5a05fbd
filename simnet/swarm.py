"""Whole scenarios from seeds, of the size of a test: which faults there are is drawn too, and then where, when and how much.

Swarm testing (Groce and others, ISSTA 2012): a test that always has every kind of fault finds less than many tests that each
lack most kinds, because one fault hides what another would have shown. So a seed first draws how much goes wrong at all, then
tosses for each kind, and a run with a single fault is as likely as one with everything.

What is drawn is never more than what the rules promise to survive: the first round is quiet and the last two are, so that what
must hold in the end has time to hold; what stays for ever takes less than a third of the roster; what passes may take all of
it, and has a round of its own. The places, their distances and what is checked are those of ``calm``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from protocol.limits import CLOCK_SLACK_MS
from simnet.scenario import (
    Arrivals,
    Churn,
    Crash,
    CutRegion,
    Eclipse,
    Fault,
    FillDisks,
    GenesisLiars,
    KillBootstraps,
    KillOwners,
    Region,
    Route,
    Scenario,
    SkewClocks,
    SlowRegion,
    Villains,
    check_scenario,
)
from simnet.scenario_file import VILLAIN_KINDS, find_scenario

BASE: Final = "calm"
PEERS: Final = (6, 16)
VALIDATORS: Final = (4, 10)
REGIONS: Final = (1, 5)
ROUND_SECONDS: Final = (40.0, 60.0)
QUIET_ROUNDS: Final = 3  # one to begin with, two to end with
WINDOWS_MIN: Final = 2  # rounds in which something may go wrong, when hardly anything does
APPETITES: Final = (0.1, 0.25, 0.5)  # how likely each kind is: the median run has none to one, two or three, or six
VOTES_OFF_SECONDS_MAX: Final = 0.8 * CLOCK_SLACK_MS / 1000  # whose clock is off farther finds proposals from the future
LOSS_SHARE_MAX: Final = 1.0  # few rounds, many troubles: the model must not get worse


def draw_scenario(seed: int) -> Scenario:
    """The scenario of a seed; the same in every process, as long as ``calm`` is the same."""
    base = find_scenario(BASE)
    draw = random.Random(f"swarm {seed}")  # of a text, so that the world's own generator of this seed is another one
    peers = draw.randint(*PEERS)
    validators = draw.randint(VALIDATORS[0], min(VALIDATORS[1], peers))
    appetite = draw.choice(APPETITES)
    kinds = [kind for kind in KINDS if draw.random() < appetite]  # every kind is tossed for, in the order of the table
    passing = [kind for kind in kinds if kind.passes]
    rounds = QUIET_ROUNDS + max(WINDOWS_MIN, len(passing))
    round_seconds = float(round(draw.uniform(*ROUND_SECONDS)))
    regions = _draw_regions(draw, base)
    names = [region.name for region in regions]
    slower = draw.choice((0.2, 1.0, 1.0, 2.0))  # a network that is nearer or farther than the world
    loss = draw.choice((0.0, 0.001, 0.01))
    in_round = round_seconds / base.learning.round_seconds
    scenario = Scenario(
        name=f"swarm-{seed}",
        says=f"Drawn from seed {seed}: {', '.join(kind.name for kind in kinds) or 'nothing goes wrong'}.",
        seconds=rounds * round_seconds,
        peers=peers,
        validators=validators,
        bootstraps=draw.randint(1, max(1, (validators - 1) // 3)),
        regions=regions,
        routes=tuple(_drawn_route(route, slower, loss) for route in base.routes if set(route.between) <= set(names)),
        hardware=tuple(replace(each, learn_seconds=each.learn_seconds * in_round) for each in base.hardware),
        learning=replace(
            base.learning,
            round_seconds=round_seconds,
            tiles=draw.randint(6, 8),
            aggregation=draw.random() < 0.7,
        ),
        must_hold=replace(base.must_hold, loss_share_max=LOSS_SHARE_MAX),
    )
    windows = draw.sample(range(1, rounds - 2), len(passing))
    for kind in kinds:
        begin = (windows.pop() if kind.passes else kind.round) * round_seconds
        scenario = kind.add(scenario, draw, begin + draw.uniform(0.0, 0.3) * round_seconds)
    return check_scenario(scenario)


# -- kinds of trouble ---------------------------------------------------------------------------------------------------

Add = Callable[[Scenario, random.Random, float], Scenario]
"""The scenario with something more in it, that begins at this second."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """``passes``: it is over within a round, and no other that passes is in that round. ``round``: when the others begin."""

    name: str
    passes: bool
    add: Add
    round: int = 1


def _fault(make: Callable[[Scenario, random.Random, float], Fault]) -> Add:
    return lambda scenario, draw, at: replace(scenario, faults=(*scenario.faults, make(scenario, draw, at)))


def _while(scenario: Scenario, draw: random.Random) -> float:
    return draw.uniform(0.1, 0.6) * scenario.learning.round_seconds


def _region(scenario: Scenario, draw: random.Random) -> str:
    return draw.choice(scenario.regions).name


def _cut(scenario: Scenario, draw: random.Random, at: float) -> Fault:
    return CutRegion(_region(scenario, draw), at, _while(scenario, draw))


def _slow(scenario: Scenario, draw: random.Random, at: float) -> Fault:
    return SlowRegion(_region(scenario, draw), at, _while(scenario, draw), draw.uniform(2, 8), draw.uniform(0.05, 0.5))


def _crash(scenario: Scenario, draw: random.Random, at: float) -> Fault:
    span = draw.choice((0.001, 0.2)) * scenario.learning.round_seconds  # all at once, or one after the other
    return Crash(draw.uniform(0.1, 0.5), at, span, draw.uniform(0.05, 0.3) * scenario.learning.round_seconds)


def _fill(scenario: Scenario, draw: random.Random, at: float) -> Fault:
    return FillDisks(draw.uniform(0.1, 0.3), at, _while(scenario, draw))


def _owners(scenario: Scenario, draw: random.Random, at: float) -> Fault:
    first = int(at // scenario.learning.round_seconds)
    return KillOwners(first, first + 1, draw.uniform(0.1, 0.4) * scenario.learning.round_seconds)


def _bootstraps(_scenario: Scenario, _draw: random.Random, at: float) -> Fault:
    return KillBootstraps(at)


def _clocks(scenario: Scenario, draw: random.Random, _at: float) -> Fault:
    # Up to a tenth of a round: twice what a node that proposes may be off.
    share, offset_seconds = draw.uniform(0.05, 0.2), draw.uniform(0.1, 0.1 * scenario.learning.round_seconds)
    dead = scenario.bootstraps if any(isinstance(fault, KillBootstraps) for fault in scenario.faults) else 0
    if 3 * (dead + round(share * scenario.peers)) >= scenario.validators:  # all of them must go on voting
        offset_seconds = min(offset_seconds, VOTES_OFF_SECONDS_MAX)
    return SkewClocks(share, offset_seconds)


def _liars(_scenario: Scenario, draw: random.Random, _at: float) -> Fault:
    return GenesisLiars(draw.randint(1, 4))


def _eclipse(_scenario: Scenario, draw: random.Random, at: float) -> Fault:
    return Eclipse(draw.randint(4, 80), at)


def _churn(scenario: Scenario, draw: random.Random, _at: float) -> Scenario:
    # So that during the run some part of those who may leave does.
    per_hour = draw.uniform(0.2, 1.0) * 3600 / scenario.seconds
    longest = draw.uniform(0.2, 1.0) * scenario.learning.round_seconds
    return replace(scenario, churn=Churn(per_hour, (0.1 * longest, longest)))


def _arrivals(scenario: Scenario, draw: random.Random, at: float) -> Scenario:
    """Some of those who would be there come later, all at once or over a round."""
    able = scenario.peers - scenario.validators
    if able == 0:
        return scenario
    until = at + draw.choice((0.001, 0.5)) * scenario.learning.round_seconds
    return replace(scenario, arrivals=(Arrivals(draw.randint(1, able), at, until),))


def _villains(scenario: Scenario, draw: random.Random, _at: float) -> Scenario:
    kinds = draw.sample(VILLAIN_KINDS, draw.randint(1, 2))
    total = draw.uniform(0.1, 0.3)
    return replace(
        scenario,
        villains=tuple(Villains(kind, total / len(kinds), draw.randint(0, 2)) for kind in kinds),
        learning=replace(scenario.learning, merge_rule="agreement"),  # the rule that withstands them
    )


KINDS: Final = (
    Trouble("a cut region", True, _fault(_cut)),
    Trouble("a slow region", True, _fault(_slow)),
    Trouble("crashes", True, _fault(_crash)),
    Trouble("full disks", True, _fault(_fill)),
    Trouble("killed owners", True, _fault(_owners)),
    Trouble("dead bootstraps", False, _fault(_bootstraps), round=2),  # whoever arrives has arrived
    Trouble("wrong clocks", False, _fault(_clocks)),
    Trouble("genesis liars", False, _fault(_liars)),
    Trouble("an eclipse", False, _fault(_eclipse)),
    Trouble("churn", False, _churn),
    Trouble("arrivals", False, _arrivals),
    Trouble("villains", False, _villains),
)


# -- where ---------------------------------------------------------------------------------------------------------------


def _draw_regions(draw: random.Random, base: Scenario) -> tuple[Region, ...]:
    chosen = draw.sample(base.regions, draw.randint(REGIONS[0], min(REGIONS[1], len(base.regions))))
    return tuple(replace(region, share=draw.uniform(0.5, 3.0)) for region in chosen)


def _drawn_route(route: Route, slower: float, loss: float) -> Route:
    return replace(route, latency_ms=route.latency_ms * slower, jitter_ms=route.jitter_ms * slower, loss=loss)
