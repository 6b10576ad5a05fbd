"""Scenarios from seeds: the same everywhere, each with some faults and without others, and none that cannot be survived."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from protocol.limits import CLOCK_SLACK_MS
from simnet.network import make_template, plan_peers
from simnet.scenario import KillBootstraps, KillOwners, Scenario, end_seconds
from simnet.swarm import KINDS, draw_scenario

ROOT = Path(__file__).parents[2]
SEEDS = range(300)
DIGEST = """
import hashlib
from simnet.swarm import draw_scenario
print(hashlib.sha256(repr([draw_scenario(seed) for seed in range(300)]).encode()).hexdigest())
"""


def troubles(scenario: Scenario) -> set[str]:
    """What its sentence says that it has."""
    return {kind.name for kind in KINDS if kind.name in scenario.says}


def test_a_seed_is_the_same_scenario_in_every_process():
    """Under any seed of Python's hashes."""
    here = hashlib.sha256(repr([draw_scenario(seed) for seed in SEEDS]).encode()).hexdigest()
    for hash_seed in ("0", "4711"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == here


def test_each_kind_is_in_some_runs_and_not_in_others():
    """And so is each pair of kinds; some days are calm."""
    drawn = [troubles(draw_scenario(seed)) for seed in SEEDS]
    for kind in KINDS:
        with_it = [each for each in drawn if kind.name in each]
        assert 0.1 * len(SEEDS) < len(with_it) < 0.5 * len(SEEDS), kind.name
        assert {kind.name} in with_it, f"{kind.name} is never alone"
        assert set().union(*with_it) == {each.name for each in KINDS}
    assert set() in drawn


def test_what_a_sentence_says_is_in_the_scenario():
    """One fault or part for each word."""
    for seed in SEEDS:
        scenario = draw_scenario(seed)
        parts = len(scenario.faults) + (scenario.churn is not None) + bool(scenario.arrivals) + bool(scenario.villains)
        able = scenario.peers > scenario.validators  # else nobody is left who could arrive
        assert parts == len(troubles(scenario)) - ("arrivals" in troubles(scenario) and not able)


@given(seed=st.integers(0, 10**9))
@example(seed=14)  # two dead bootstraps and a clock that voted no more: three of eight
def test_nothing_is_drawn_that_the_rules_do_not_promise_to_survive(seed):
    """It can be founded; the first round and the last two are quiet; no two that pass are in one round."""
    scenario = draw_scenario(seed)
    round_seconds = scenario.learning.round_seconds
    assert make_template(scenario).learning.round_ms == 1000 * round_seconds
    assert len(plan_peers(scenario, seed)) == scenario.peers
    busy = []
    for fault in scenario.faults:
        ends = end_seconds(fault, round_seconds)
        assert ends <= scenario.seconds - 2 * round_seconds
        at = fault.from_round * round_seconds if isinstance(fault, KillOwners) else getattr(fault, "at_seconds", None)
        if at is not None:
            assert at >= round_seconds
        if at is not None and ends > at:
            busy.append(int(at // round_seconds))
            assert ends <= (busy[-1] + 1) * round_seconds
        if isinstance(fault, KillBootstraps):
            assert scenario.bootstraps * 3 < scenario.validators
    gone = {index for index in range(scenario.bootstraps) if "dead bootstraps" in troubles(scenario)}
    gone |= {plan.index for plan in plan_peers(scenario, seed) if abs(plan.clock_offset_ms) > CLOCK_SLACK_MS}
    assert 3 * sum(index < scenario.validators for index in gone) < scenario.validators
    assert len(set(busy)) == len(busy)
    assert all(each.until_seconds < 2 * round_seconds for each in scenario.arrivals)
