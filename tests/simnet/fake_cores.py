"""The same as ``fake_world``, as level one."""

from __future__ import annotations

from collections.abc import Callable

from simnet.outcome import Outcome
from simnet.scenario import Scenario
from tests.simnet import fake_world


def run_scenario(scenario: Scenario, seed: int, *, on_progress: Callable[[float], None] | None = None) -> Outcome:
    """With the other level."""
    return fake_world.run_scenario(scenario, seed, on_progress=on_progress, level=1)
