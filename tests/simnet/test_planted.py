"""The swarm finds the bugs that shells have: three are planted, each alone, and named by the rule that they break."""

from __future__ import annotations

import pytest

from simnet.swarm import draw_scenario
from tests.simnet.planted import RUNS

SEEDS_MAX = 200
FOUND_BY = {
    "swallowed_cancellation": {"nothing_left_behind"},
    "unawaited_close": {"nothing_left_behind"},
    "queue_without_bound": {"queues_bounded"},
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", FOUND_BY)
def test_a_planted_bug_is_found(bug: str) -> None:
    """Within two hundred seeds some rule is broken, and it is the one that tells what is wrong."""
    for seed in range(SEEDS_MAX):
        outcome = RUNS[bug](draw_scenario(seed), seed)
        broken = {name for name, each in outcome.invariants.items() if each.breaches}
        if broken:
            assert broken >= FOUND_BY[bug], f"seed {seed}: {broken}"
            return
    pytest.fail(f"{bug} was not found in {SEEDS_MAX} seeds")
