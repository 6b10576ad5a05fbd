"""Many seeds, one world each: in this process or in several, with the same result in the same order."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from simnet.finality.members import RIGHT, Machine
from simnet.finality.scripted import ScriptedWorld
from simnet.finality.watch import Broken, Rule
from simnet.finality.world import START_MS, World

SEEDS_AT_ONCE = 4  # handed to a process together: a seed takes some 20 ms with four members


@dataclass(frozen=True, slots=True)
class Plan:
    """What every seed of a run has in common; the seed draws the rest."""

    count: int = 4
    villain: str | None = None  # None: the seed draws one, or none
    over: bool = False
    twins: bool = False  # a seed is the number of a script, and draws delays and bodies only

    def make_world(self, seed: int, machine: Machine) -> World:
        """The world of one seed, not run yet."""
        if self.twins:
            return ScriptedWorld(seed, machine)
        return World(seed, self.count, None, machine, villain=self.villain, over=self.over)

    def command(self, seed: int) -> str:
        """What repeats one seed."""
        if self.twins:
            return f"nocknode simnet run finality --twins --seeds {seed}..{seed}"
        villain = f" --villain {self.villain}" if self.villain else ""
        over = " --byzantine over" if self.over else ""
        return f"nocknode simnet run finality --seeds {seed}..{seed} --n {self.count}{villain}{over}"


@dataclass(frozen=True, slots=True)
class Result:
    """One seed: what broke, if anything did, and what happened."""

    seed: int
    rule: Rule | None
    sentence: str
    faults: str  # what the seed drew
    forked: bool
    exposed: bool  # forked, and the evidence that members reported convicts more than a third of the weight
    simulated_ms: int
    events: int
    epochs: int  # that somebody honest opened, the first included
    set_changes: int  # epochs whose members or weights are not those of the one before
    re_proposals: int  # views in which somebody honest proposed a boundary block again
    digest: str  # of the whole log


@dataclass
class Totals:
    """What many seeds come to. No clock was asked: two runs of one command have equal totals."""

    seeds: int = 0
    forked: int = 0
    exposed: int = 0
    simulated_ms: int = 0
    events: int = 0
    epochs: int = 0
    set_changes: int = 0
    re_proposals: int = 0
    broken: Counter[Rule] = field(default_factory=Counter)
    failures: list[Result] = field(default_factory=list)
    _log: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, result: Result) -> None:
        """In the order of the seeds."""
        self.seeds += 1
        self.forked += result.forked
        self.exposed += result.exposed
        self.simulated_ms += result.simulated_ms
        self.events += result.events
        self.epochs += result.epochs
        self.set_changes += result.set_changes
        self.re_proposals += result.re_proposals
        self._log.update(bytes.fromhex(result.digest))
        if result.rule is not None:
            self.broken[result.rule] += 1
            self.failures.append(result)

    @property
    def digest(self) -> str:
        """Of all logs."""
        return self._log.hexdigest()


def run_seed(plan: Plan, machine: Machine, seed: int) -> Result:
    """One world to its end. What is not a checker's finding (an invariant of the machine, say) is raised, with the command."""
    world = plan.make_world(seed, machine)
    rule, sentence = None, ""
    try:
        world.run()
    except Broken as broken:
        rule, sentence = broken.rule, broken.sentence
    except BaseException as error:
        error.add_note(f"repeat: {plan.command(seed)}")
        raise
    return Result(
        seed=seed,
        rule=rule,
        sentence=sentence,
        faults=world.told(),
        forked=world.forked,
        exposed=world.forked and world.checkers.framing.convicts_a_third(),
        simulated_ms=world.now_ms - START_MS,
        events=world.events,
        epochs=world.epoch + 1,
        set_changes=world.sets.changes_through(world.epoch),
        re_proposals=len(world.checkers.framing.re_proposals),
        digest=world.log.hexdigest(),
    )


def run_many(
    plan: Plan, seeds: range, jobs: int, on_result: Callable[[Totals], None], machine: Machine = RIGHT
) -> Totals:
    """All seeds in ascending order; ``on_result`` hears the totals after each."""
    totals = Totals()
    for result in _results(plan, seeds, jobs, machine):
        totals.add(result)
        on_result(totals)
    return totals


def _results(plan: Plan, seeds: range, jobs: int, machine: Machine) -> Iterator[Result]:
    if jobs == 1:
        yield from (run_seed(plan, machine, seed) for seed in seeds)
        return
    # Started afresh, not forked: a forked child would share this process's terminal and locks.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(partial(run_seed, plan, machine), seeds, chunksize=SEEDS_AT_ONCE)
