"""Seeds of the swarm that found something: they hold now."""

from __future__ import annotations

import pytest

from simnet.swarm import draw_scenario
from simnet.virtual.world import run_scenario


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed",
    [
        # Owners are killed while 32 attackers are connected with everybody and pass nothing on. Members that came back met
        # attackers alone and waited for their roster for ever; heads were heard by nobody; and who came back in the middle
        # of a round began a whole one.
        4,
        # Liars about the genesis, and attackers: both had the addresses and the keys of the others.
        13,
    ],
)
def test_a_seed_that_found_something_finds_it_no_more(seed: int) -> None:
    """Every rule holds in the whole of its drawn scenario."""
    outcome = run_scenario(draw_scenario(seed), seed)
    assert outcome.passed, f"nocknode simnet swarm --seeds {seed}..{seed}"
