"""An expert from its file to a used tensor, beside pickle, torch.load and safetensors; and in eight bits, streamed.

An expert of 128 MiB of float32, two matrices. Each way of loading is a process of its own
(benchmarks/programs/load_expert.py); they take turns, so that what else this machine does befalls all alike, and a
ratio is the median of the rounds' ratios.

What "usable" means is in the rows. *One page*: the sum of 64 KiB in the middle of a matrix was computed. *All*: the
sum of every value. *A pass*: the expert's output for eight tokens. The clock runs from before the files are opened.

    verified      ours, a TensorBlock mapped: its Merkle index is checked against the root, pages when they are used
    unverified    the same without either, as all the others do
    streamed      ours in int8, decompressed and verified tile by tile in 32 MiB; one page is one tile of 1 MiB there

Cold: the file was dropped from the page cache by posix_fadvise(DONTNEED) just before; what the disk itself has cached
is its own affair. The floor maps the bare bytes. Memory is ru_maxrss of a process that has loaded the whole expert
once; its floor is the same process before, with torch imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Final

import click

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, median, report, say, standard_options

ROOT: Final = Path(__file__).resolve().parents[1]
PROGRAM: Final = (sys.executable, "-m", "benchmarks.programs.load_expert")
EXPERT_MIB: Final = 128
QUICK_MIB: Final = 4
ROUNDS: Final = 11
QUICK_ROUNDS: Final = 2
USES: Final = {"page": "one page", "all": "all", "pass": "a pass"}
TEMPERATURES: Final = ("warm", "cold")
FLOOR: Final = "bare map"
OURS: Final = ("verified", "unverified", "stream")
PEERS: Final = ("pickle", "torch.load", "torch.load, mapped", "safetensors")
TITLES: Final = {"verified": "verified", "unverified": "unverified", "stream": "streamed int8"}
# Beside whom each of ours stands; for a pass the peers need their tensors as a whole, as ours does in one process.
BESIDE: Final = {"verified": PEERS, "unverified": PEERS, "stream": ("pickle", "safetensors")}
WITHOUT_SAFETENSORS: Final = (
    "safetensors is not installed, so it is left out: it comes with the extra `dev` "
    "(pip install -c constraints.txt -e '.[dev]')"
)
Times = Mapping[str, Sequence[float]]


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="On which disk. [default: temporary]")
@standard_options
def main(folder: Path | None, as_json: bool, quick: bool) -> None:
    """Load an expert of 128 MiB, warm and cold, verified and not, to one page, to all of it, and to its output."""
    mib, rounds = (QUICK_MIB, QUICK_ROUNDS) if quick else (EXPERT_MIB, ROUNDS)
    ways = [*OURS, *PEERS, FLOOR]
    if find_spec("safetensors") is None:
        say(WITHOUT_SAFETENSORS)
        ways.remove("safetensors")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        inside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nock-", dir=folder)))
        # Not here: a child's ru_maxrss begins with the size of the process that started it.
        subprocess.run([*PROGRAM, "make", str(inside), str(mib)], cwd=ROOT, check=True)
        loaders = {way: stack.enter_context(Loader(inside, way)) for way in ways}
        memory = memory_rows(loaders)
        rows: list[Row] = []
        cached: list[float] = []
        for temperature in TEMPERATURES:
            for use in USES:
                times, shares = rounds_of(loaders, temperature, use, rounds)
                rows += time_rows(temperature, use, times, mib)
                cached += shares
                say(f"{temperature}, {USES[use]}: done")
        facts = json.loads((inside / "facts.json").read_text())
    report(
        "load",
        [*rows, *memory],
        as_json,
        {
            "expert_mib": mib,
            "rounds": rounds,
            "file_bytes": facts["bytes"],
            "safetensors": "safetensors" in ways,
            "cold_by": "posix_fadvise(POSIX_FADV_DONTNEED) before each load",
            "cold_share_still_cached": max(cached),
        },
    )


class Loader:
    """A process that loads in one way. It is there from ``with`` on, idle until it is asked."""

    def __init__(self, folder: Path, way: str) -> None:
        self.way = way
        self._process = subprocess.Popen(
            [*PROGRAM, "serve", str(folder), way], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.imported_mb: float = self._answer()["maxrss_mb"]

    def load(self, temperature: str, use: str) -> dict[str, Any]:
        """One load; see the program for the answer."""
        stdin = _pipe(self._process.stdin)
        stdin.write(f"{temperature} {use}\n")
        stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise click.ClickException(f"the process of {self.way!r} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_error: object) -> None:
        _pipe(self._process.stdin).close()
        self._process.wait()
        _pipe(self._process.stdout).close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise ValueError("the process was started without pipes")
    return pipe


def memory_rows(loaders: Mapping[str, Loader]) -> list[Row]:
    """Peak resident memory after everything was loaded and summed once, in a process that did nothing else."""
    peaks = {way: loader.load("warm", "all")["maxrss_mb"] for way, loader in loaders.items()}
    floor = loaders["verified"].imported_mb
    return [
        compare(f"peak memory, {TITLES[ours]}", "MB", peaks[ours], peaks.get(peer), peer, floor)
        for ours in OURS
        for peer in BESIDE[ours]
        if peer in loaders
    ]


def rounds_of(loaders: Mapping[str, Loader], temperature: str, use: str, rounds: int) -> tuple[Times, list[float]]:
    """Milliseconds of each way in each round, and how much was cached when it should not have been.

    Raises ``click.ClickException`` where two ways compute different numbers.
    """
    times: dict[str, list[float]] = {way: [] for way in loaders}
    shares: list[float] = []
    order = list(loaders)
    for number in range(rounds + 1):
        order = [*order[1:], order[0]]  # or the same one would always come after the one that empties the caches
        answers = {way: loaders[way].load(temperature, use) for way in order}
        check_numbers({way: answer["number"] for way, answer in answers.items()})
        if number:  # the first fills the caches
            for way, answer in answers.items():
                times[way].append(answer["ms"])
            if temperature == "cold":
                shares += [answer["cached"] for answer in answers.values()]
    return times, shares


def check_numbers(numbers: Mapping[str, float]) -> None:
    """All who load float32 have the same sum, up to the order of its terms; eight bits have another."""
    expected = numbers[FLOOR]
    for way, number in numbers.items():
        if way != "stream" and abs(number - expected) > 1e-3 * max(1.0, abs(expected)):
            raise click.ClickException(f"{way!r} computes {number}, the bare bytes give {expected}")


def time_rows(temperature: str, use: str, times: Times, mib: int) -> list[Row]:
    """Each of ours beside each of its peers that is there."""
    return [
        replace(
            compare(
                f"{mib} MiB, {temperature}, {USES[use]}, {TITLES[ours]}",
                "ms",
                median(times[ours]),
                median(times[peer]),
                peer,
                median(times[FLOOR]),
            ),
            ratio=float(f"{median(b / a for a, b in zip(times[ours], times[peer], strict=True)):.4g}"),
        )
        for ours in OURS
        for peer in BESIDE[ours]
        if peer in times
    ]


if __name__ == "__main__":
    main()
