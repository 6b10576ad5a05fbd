"""Kills: kill -9 at random moments of sync, compaction, repair and checkpointing, and what every disk says afterwards.

In equal parts four kinds of work run on a node's directory, each in a process of its own, which is killed at a random moment
of a few seconds after its first line, and started again on the same directory. A copy of what each dead process left is opened
as a node opens it, and

    sync           every part that was proved is there, is what was proved, and is not given again; the state ends as the
                   source's
    compaction     every version that was acknowledged opens with its root, from its copy and from its base and updates
    repair         every cell that was acknowledged is what its author coded; of one call all cells are there or none; what
                   was dropped is gone, what was rebuilt is not rebuilt again
    checkpointing  every checkpoint among the newest that were acknowledged leads from its rows to its state's root; none that
                   is listed is half of one; blocks, their state and other rows are there

What the kernel has, it keeps when a process dies: power cuts are the false disk's matter (tests/storage). A seed fixes what is
drawn, and not what the machine does at that moment.
"""

from __future__ import annotations

import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
import trio

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, find_median, report, say, standard_options
from benchmarks.common.trial import conclude_trial, trial_folder
from benchmarks.kills import Witness
from benchmarks.kills.checkpointing import CheckpointingWitness
from benchmarks.kills.compaction import CompactionWitness
from benchmarks.kills.repair import RepairWitness
from benchmarks.kills.sync import SyncWitness

WITNESSES: Final[dict[str, type[Witness]]] = {
    each.name: each for each in (SyncWitness, CompactionWitness, RepairWitness, CheckpointingWitness)
}
PROGRAM: Final = Path(__file__).resolve().parent / "programs" / "killed_work.py"
QUICK_KILLS: Final = 8
START_SECONDS_MAX: Final = 120.0  # until the first line: importing takes a second where nobody else works
ERROR_CHARACTERS_MAX: Final = 2_000
FINDINGS_TOLD: Final = 5  # of one death: the others mostly say the same


@dataclass(slots=True)
class Lives:
    """The lives and deaths of one kind of work."""

    witness: Witness
    kills: int = 0
    kills_opening: int = 0  # before its stores had read what they found
    opening_seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.witness.name


@dataclass(slots=True)
class _Life:
    """One process: when it said its first two lines, and how it ended."""

    opening: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    opening_at: float | None = None
    open_at: float | None = None


async def kill_often(lives: Lives, kills: int, draw: random.Random) -> None:
    """Let processes live and die until there were so many kills, or something is wrong; then let one live, if it ends."""
    witness = lives.witness
    async with witness.prepared():
        while lives.kills < kills and not lives.problems:
            await _live_and_look(lives, draw.random() * witness.life_seconds)
        if witness.end_seconds is not None and not lives.problems:
            await _live_and_look(lives, witness.end_seconds)
            if lives.kills > kills:
                lives.problems.append(f"{lives.name}: not at its end {witness.end_seconds:.0f} s after the last kill")


async def _live_and_look(lives: Lives, delay_seconds: float) -> None:
    witness = lives.witness
    left = witness.out / "left"
    shutil.rmtree(left, ignore_errors=True)
    wrong = await _live(lives, delay_seconds)
    # Opening a database changes it: the next process must find what this one left.
    await trio.to_thread.run_sync(shutil.copytree, witness.folder, left)
    wrong += await trio.to_thread.run_sync(witness.look, left)
    lives.problems += [f"{lives.name}, kill {lives.kills}: {sentence}" for sentence in wrong[:FINDINGS_TOLD]]


async def _live(lives: Lives, delay_seconds: float) -> list[str]:
    """One process, from its start to its death; returns what is wrong with how it ended."""
    witness, life = lives.witness, _Life()
    command = [sys.executable, str(PROGRAM), witness.name, str(witness.folder), str(witness.seed), *witness.arguments()]
    errors = witness.out / "errors.txt"
    with errors.open("wb") as stderr:
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=stderr)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_listen, process, witness, life)
                with trio.move_on_after(START_SECONDS_MAX):
                    await life.opening.wait()
                with trio.move_on_after(delay_seconds):
                    await life.ended.wait()
                process.kill()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
    if life.opening_at is not None and life.open_at is not None:
        lives.opening_seconds.append(life.open_at - life.opening_at)
    if process.returncode == 0 and witness.may_end:
        return []
    if process.returncode != -signal.SIGKILL or life.opening_at is None:
        return [f"a process ended by itself, {process.returncode}: {errors.read_text()[-ERROR_CHARACTERS_MAX:]}"]
    lives.kills += 1
    lives.kills_opening += life.open_at is None
    return []


async def _listen(process: trio.Process, witness: Witness, life: _Life) -> None:
    """Hear all that a process says, up to the last whole line."""
    assert process.stdout is not None
    rest = b""
    async with process.stdout as stdout:
        async for data in stdout:
            *lines, rest = (rest + data).split(b"\n")
            for words in (line.decode().split() for line in lines):
                match words:
                    case ["opening"]:
                        life.opening_at = time.monotonic()
                        life.opening.set()
                    case ["open"]:
                        life.open_at = time.monotonic()
                    case _:
                        witness.hear(words)
    life.opening.set()
    life.ended.set()


def rows_of(lives: Lives) -> list[Row]:
    """The numbers of one kind of work."""
    median = find_median(lives.opening_seconds)
    rows = [
        Row("kills", "kills", lives.kills),
        Row("kills while it was opened", "kills", lives.kills_opening),
        compare("a directory is open again, median", "ms", None if median is None else 1000 * median),
        *lives.witness.rows(),
        Row("what was wrong", "findings", len(lives.problems)),
    ]
    return [
        Row(f"{lives.name}: {row.name}", row.unit, row.ours, floor=row.floor) for row in rows if row.ours is not None
    ]


def run(out: Path, kinds: Sequence[str], kills: int, seed: int) -> list[Lives]:
    """Each kind of work after the other, with so many kills in equal parts."""
    all_lives, began = [], time.monotonic()
    for number, kind in enumerate(kinds):
        folder = out / kind
        folder.mkdir()
        lives = Lives(WITNESSES[kind](folder, seed))
        share = kills // len(kinds) + (number < kills % len(kinds))
        trio.run(kill_often, lives, share, random.Random(f"{seed}/{kind}"))
        say(f"{time.monotonic() - began:7.1f} s  {kind}: {lives.kills} kills, {len(lives.problems)} findings")
        all_lives.append(lives)
    return all_lives


@click.command()
@standard_options
@click.option("--kills", type=click.IntRange(min=1), default=100, show_default=True, help="In all, in equal parts.")
@click.option("--seed", type=click.IntRange(min=0), help="What is written, and when it dies; else drawn and told.")
@click.option("--only", type=click.Choice(list(WITNESSES)), help="One kind of work.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep directories here. [default: removed]")
def main(kills: int, seed: int | None, only: str | None, out: Path | None, as_json: bool, quick: bool) -> None:
    """Kill work on a node's directory, and read what it left. --quick: 8 kills."""
    kills = min(kills, QUICK_KILLS) if quick else kills
    seed = secrets.randbits(32) if seed is None else seed
    kinds = list(WITNESSES) if only is None else [only]
    folder = trial_folder(out, "kill-storage")
    again = f"python -m benchmarks.kill_storage --kills {kills} --seed {seed}" + (f" --only {only}" if only else "")
    say(f"seed {seed}; the same again: {again}")
    all_lives = run(folder, kinds, kills, seed)
    problems = [sentence for lives in all_lives for sentence in lives.problems]
    rows = [row for lives in all_lives for row in rows_of(lives)]
    report("kill_storage", rows, as_json, {"seed": seed, "problems": problems})
    conclude_trial(problems, again, folder, keep=out is not None)


if __name__ == "__main__":
    main()
