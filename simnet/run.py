"""Scenarios run: one seed or many, in this process or in several, with the same result in the same order.

A world is a module with a function ``run_scenario`` (see ``RunScenario``), found by its name when it is needed, so that
reading scenarios imports no node. A run of many seeds keeps a ``SeedResult`` of each; the command in it tells all of it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import multiprocessing
import shlex
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from simnet.outcome import Outcome
from simnet.scenario import Scenario
from simnet.swarm import draw_scenario

BREACHES_KEPT = 3  # of one rule in one seed: what is told; the command that repeats it tells all


class RunScenario(Protocol):
    """Runs a scenario to its end. ``on_progress`` hears how many virtual seconds have gone."""

    def __call__(
        self, scenario: Scenario, seed: int, *, on_progress: Callable[[float], None] | None = None
    ) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The modules that a run is put together from. Tests hand in others."""

    cores: str = "simnet.cores.world"  # level 1
    nodes: str = "simnet.virtual.world"  # level 2
    page: str = "simnet.page"

    def world(self, level: int) -> RunScenario:
        """The world of a level; imports it."""
        return cast(RunScenario, importlib.import_module(self.cores if level == 1 else self.nodes).run_scenario)

    def render(self, outcome: Outcome, scenario: Scenario) -> str:
        """A run as one page of HTML."""
        return cast(str, importlib.import_module(self.page).render(outcome, scenario))


@dataclass(frozen=True, slots=True)
class Plan:
    """What every seed of a command has in common."""

    asked: str  # the scenario as it was asked for: a name or a path
    scenario: Scenario | None  # None: each seed draws its own
    level: int = 2
    options: str = ""  # what else the command said, as it is typed again
    parts: Parts = field(default_factory=Parts)

    def scenario_of(self, seed: int) -> Scenario:
        return self.scenario or draw_scenario(seed)

    def command(self, seed: int) -> str:
        """What repeats one seed, and tells all of it."""
        if self.scenario is None:
            return f"nocknode simnet swarm --seeds {seed}..{seed}{self.options}"
        return f"nocknode simnet run {shlex.quote(self.asked)} --seed {seed}{self.options}"


@dataclass(frozen=True, slots=True)
class SeedResult:
    """One seed: whether every rule held, and what was seen where one did not."""

    seed: int
    scenario: str
    says: str
    breaches: dict[str, int]  # rule -> how often it was broken; only those that were
    seen: tuple[str, ...]  # some of them, each a sentence
    virtual_seconds: float
    events: int
    digest: str
    repeat: str

    @property
    def passed(self) -> bool:
        return not self.breaches


@dataclass
class Totals:
    """What many seeds come to. No clock was asked: two runs of one command have equal totals."""

    results: list[SeedResult] = field(default_factory=list)

    def add(self, result: SeedResult) -> None:
        """In the order of the seeds."""
        self.results.append(result)

    @property
    def failures(self) -> list[SeedResult]:
        return [result for result in self.results if not result.passed]

    @property
    def virtual_seconds(self) -> float:
        return sum(result.virtual_seconds for result in self.results)

    @property
    def events(self) -> int:
        return sum(result.events for result in self.results)

    @property
    def digest(self) -> str:
        """Of all their digests."""
        log = hashlib.sha256()
        for result in self.results:
            log.update(bytes.fromhex(result.digest))
        return log.hexdigest()

    def facts(self) -> dict[str, Any]:
        """Everything as one object of JSON's types."""
        return {
            "seeds": len(self.results),
            "passed": len(self.results) - len(self.failures),
            "failed": len(self.failures),
            "virtual_seconds": self.virtual_seconds,
            "events": self.events,
            "digest": self.digest,
            "runs": [
                {
                    "seed": result.seed,
                    "scenario": result.scenario,
                    "passed": result.passed,
                    "breaches": result.breaches,
                    "seen": list(result.seen),
                    "digest": result.digest,
                    "repeat": result.repeat,
                }
                for result in self.results
            ],
        }


def run_seed(plan: Plan, seed: int, on_progress: Callable[[float], None] | None = None) -> Outcome:
    """One world to its end. What is not a checker's finding is raised, with the command that repeats it as a note."""
    try:
        outcome = plan.parts.world(plan.level)(plan.scenario_of(seed), seed, on_progress=on_progress)
    except BaseException as error:
        error.add_note(f"repeat: {plan.command(seed)}")
        raise
    outcome.repeat = plan.command(seed)  # a world knows the scenario, not how it was asked for
    return outcome


def run_many(plan: Plan, seeds: range, jobs: int, on_result: Callable[[Totals], None]) -> Totals:
    """All seeds in ascending order; ``on_result`` hears the totals after each."""
    totals = Totals()
    for result in _results(plan, seeds, jobs):
        totals.add(result)
        on_result(totals)
    return totals


def _results(plan: Plan, seeds: range, jobs: int) -> Iterator[SeedResult]:
    if jobs == 1:
        yield from (_run_for_result(plan, seed) for seed in seeds)
        return
    # Started afresh, not forked: a forked child would share this process's terminal and locks.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(functools.partial(_run_for_result, plan), seeds)


def _run_for_result(plan: Plan, seed: int) -> SeedResult:
    outcome = run_seed(plan, seed)
    broken = {name: rule for name, rule in outcome.invariants.items() if rule.breaches}
    return SeedResult(
        seed=seed,
        scenario=outcome.scenario,
        says=outcome.says,
        breaches={name: len(rule.breaches) for name, rule in broken.items()},
        seen=tuple(f"{name}: {breach}" for name, rule in broken.items() for breach in rule.breaches[:BREACHES_KEPT]),
        virtual_seconds=outcome.virtual_seconds,
        events=outcome.events,
        digest=outcome.digest,
        repeat=outcome.repeat,
    )
