"""A world in which nothing happens but what its seed says, with ``run_scenario`` as the real ones have it (see ``Parts``).

Seeds that end in 3 breach two rules, one of them often. Seed 66 is a bug. The page is one sentence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from protocol.rejection import check_invariant
from simnet.outcome import Invariant, Outcome, RegionOutcome, RoundOutcome, Sample
from simnet.run import Parts
from simnet.scenario import Scenario

FAKES = Parts(cores="tests.simnet.fake_cores", nodes="tests.simnet.fake_world", page="tests.simnet.fake_world")
BREACHES = 7


def run_scenario(
    scenario: Scenario, seed: int, *, on_progress: Callable[[float], None] | None = None, level: int = 2
) -> Outcome:
    """As many rounds as the scenario has, each a little better than the one before."""
    check_invariant(seed != 66, "planted")
    wrong = seed % 10 == 3
    rounds = []
    for number in range(scenario.rounds):
        seconds = (number + 1) * scenario.learning.round_seconds
        if on_progress is not None:
            on_progress(seconds)
        loss_plain = 2.0 if scenario.villains else None
        rounds.append(
            RoundOutcome(number, seconds, 4.0 / (number + 2), 30, 12, 1, 3_000_000, 9, 14, loss_plain, loss_plain)
        )
    return Outcome(
        scenario=scenario.name,
        says=scenario.says,
        seed=seed,
        level=level,
        repeat="",
        peers=scenario.peers,
        validators=scenario.validators,
        virtual_seconds=scenario.seconds,
        inner_steps=scenario.learning.inner_steps,
        invariants={
            "chain_agrees": Invariant("One chain.", 40, ["1.0 s: two blocks"] * BREACHES if wrong else []),
            "no_failure": Invariant("No node fails.", 14, ["2.0 s: it failed"] if wrong else []),
        },
        rounds=rounds,
        samples=[Sample(1.0, scenario.peers, 40, 100, 200, {"tiles": 300}, 1.5, 7, 3)],
        regions=[RegionOutcome(each.name, each.at, 3, {}) for each in scenario.regions],
        moves=[],
        happenings=[],
        events=1_000,
        digest=hashlib.sha256(f"{scenario!r} {seed}".encode()).hexdigest(),
    )


def render(outcome: Outcome, scenario: Scenario) -> str:
    """The page of an outcome."""
    return f"<p>{outcome.scenario} {outcome.seed}</p>"
