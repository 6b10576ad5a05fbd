"""Whole runs: four, seven members, faults of every kind, a villain; safety always, liveness after the heal.

A seed decides everything. Another range than the default: ``FINALITY_SEEDS=1000:1100``.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from consensus.finality.signer import JournalState
from protocol.codec import decode, encode
from protocol.finality import ValidatorMessage
from protocol.ids import MemberIndex
from protocol.limits import FRAME_BYTES_MAX
from tests.consensus.finality.mutants import MUTANTS
from tests.consensus.finality.world import CALM, HEAL_MS, Broken, Options, World

HERE = "tests/consensus/finality/test_world.py"
FIRST, _, LAST = os.environ.get("FINALITY_SEEDS", "0:60").partition(":")
SEEDS = range(int(FIRST), int(LAST))
SEEDS_OF_SEVEN = range(int(FIRST), int(FIRST) + max(1, len(SEEDS) // 6))
MUTANT_SEEDS_MAX = 60
# A villain and little else: what a villain does shows best when nothing else goes wrong.
VILLAIN = Options(0.05, 0.0, 20.0, 0.0, 1, 0.002, 0, lost_journals=False, villain=True)


def run(seed: int, count: int, test: str) -> World:
    try:
        return World(seed, count).run()
    except Broken as broken:
        command = f"FINALITY_SEEDS={seed}:{seed + 1} python -m pytest -n 0 '{HERE}::{test}[{seed}]'"
        pytest.fail(f"{broken}\nrepeat: {command}")


@pytest.mark.parametrize("seed", SEEDS)
def test_four_members(seed):
    """Four members agree through any faults, none is framed, and after the heal all finalize ten blocks in 60 Delta."""
    run(seed, 4, "test_four_members")


@pytest.mark.parametrize("seed", SEEDS_OF_SEVEN)
def test_seven_members(seed):
    """Seven members, two of whom may be villains."""
    run(seed, 7, "test_seven_members")


def test_faults_are_really_drawn():
    """Among the seeds there are lost and torn journals, villains, partitions, and crashes between two effects."""
    worlds = [World(seed, 4) for seed in range(20)]
    for world in worlds:
        world.run()
    drawn = [world.options for world in worlds]
    assert sum(options.villain for options in drawn) >= 4
    assert any(options.partitions for options in drawn)
    assert any(node.disk.state is JournalState.MISSING for world in worlds for node in world.nodes)
    assert sum(world.torn for world in worlds) >= 2
    assert sum(len(world.oracle.evidence) for world in worlds) >= 5


@pytest.mark.parametrize("first", range(0, 16, 8))
def test_crash_between_any_two_effects(first):
    """Member 0 dies before each effect of each of its first events, and comes back: nobody is framed, all are live."""
    for event in range(first + 1, first + 9):
        for position in range(6):
            World(event, 4, CALM, chaos_ms=4_000, cut_at=(event, position)).run()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_than_four(count):
    """Networks too small to bear a fault work while nobody fails, and through crashes once all are back."""
    quiet = replace(CALM, crashes=3, cut=0.002)
    for seed in range(3):
        World(seed, count, quiet).run()


class WiredWorld(World):
    """Every message travels as bytes."""

    def _deliver(self, source: MemberIndex, to: MemberIndex, message: ValidatorMessage) -> None:
        data = encode(message)
        super()._deliver(source, to, decode(ValidatorMessage, data, limit_bytes=FRAME_BYTES_MAX))  # type: ignore[arg-type]


def test_messages_survive_the_wire():
    """Whatever the machine sends decodes strictly, and a run over bytes is the same run."""
    assert WiredWorld(7, 4).run().log.hexdigest() == World(7, 4).run().log.hexdigest()


def test_calm_network_finalizes_every_view():
    """Without faults no view is nullified, and every block is final before the next one but one."""
    world = World(1, 4, CALM).run()
    for node in world.nodes:
        assert node.core is not None
        numbers = node.core.statistics()
        assert numbers.views_nullified == 0
        assert numbers.rejections == 0
        assert numbers.blocks_finalized >= HEAL_MS // 1_000
        assert numbers.view - numbers.finalized_view <= 2


def test_villains_are_exposed():
    """An active equivocator leaves evidence at the members it lied to."""
    world = World(3, 4, VILLAIN).run()
    assert {member for member, _ in world.oracle.evidence} == {3}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_machines_are_noticed(name):
    """Each rule that is removed breaks safety, frames somebody or stops the chain, within a bounded number of seeds."""
    for seed in range(MUTANT_SEEDS_MAX):
        options = VILLAIN if seed % 2 else Options.draw(random.Random(seed))
        if is_noticed(World(seed, 4, options, MUTANTS[name])):
            return
    pytest.fail(f"{name} survived {MUTANT_SEEDS_MAX} seeds")


def is_noticed(world: World) -> bool:
    try:
        world.run()
    except Broken:
        return True
    return False


def test_same_seed_same_log():
    """The log of a run does not depend on the hash seed of the interpreter."""
    code = "from tests.consensus.finality.world import World; print(World(7, 4).run().log.hexdigest())"
    root = Path(__file__).parents[3]
    logs = []
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        logs.append(done.stdout)
    assert logs[0] == logs[1]
    assert len(logs[0].strip()) == 64
