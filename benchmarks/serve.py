"""Serving: calls of an expert that a peer holds, a second, and how long they take, over real sockets on loopback.

A holder (host, service and worker process of a node) has one expert of two matrices; callers are processes of their own, each
with one call open at a time. The floor is the worker's own work without any of that: the same rows through the same expert, in
one process that does nothing else. All processes share the cores of this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import click

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, median, report, say, standard_options, time_calls

PROGRAM: Final = Path(__file__).resolve().parent / "programs" / "expert_peer.py"
WIDTH, EXPERT_WIDTH = 1_024, 4_096  # as wide as the expert of hivemind's own benchmark
QUICK_WIDTH, QUICK_EXPERT_WIDTH = 64, 128
BATCHES: Final = (1, 32)
CALLERS: Final = (1, 4)
SECONDS, QUICK_SECONDS = 8.0, 1.0
END_SECONDS_MAX: Final = 60.0


class Peer:
    """One process of ``expert_peer.py``."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, str(PROGRAM), *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def hear(self) -> dict[str, Any]:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a peer ended by itself, {self._process.wait()}")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def start(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Whatever its state."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def peer(*arguments: object) -> Iterator[Peer]:
    started = Peer(*arguments)
    try:
        yield started
    finally:
        started.end()


def call(address: str, width: int, expert_width: int, batch: int, callers: int, seconds: float) -> list[float]:
    """How long each call took, of all callers, in milliseconds."""
    with ExitStack() as stack:
        arguments = ("call", address, width, expert_width, batch, seconds)
        peers = [stack.enter_context(peer(*arguments)) for _ in range(callers)]
        for each in peers:
            each.hear()
        for each in peers:
            each.start()
        return [taken for each in peers for taken in each.hear()["milliseconds"]]


def alone(folder: Path, width: int, expert_width: int, batch: int, seconds: float) -> float:
    """Milliseconds of the same work in a process that does nothing else."""
    from benchmarks.programs.expert_peer import EXPERT, greeting_of, tile_map_of, write_expert
    from compute.io.torch_device import TorchDevice
    from compute.jobs import ComputeExpert
    from compute.trainer import run_to_end
    from node.worker import DiskFiles, WorkerMain

    files = write_expert(folder, tile_map_of(width, expert_width))
    worker = WorkerMain(TorchDevice(), DiskFiles(), lambda: 0, process=1)
    run_to_end(worker.hello(greeting_of(width, expert_width)))
    job = ComputeExpert(tuple(files.values()), EXPERT, 0, 1, bytes(4 * width * batch))
    return time_calls(lambda: run_to_end(worker.compute_expert(job)), seconds=seconds)


@click.command()
@standard_options
def main(as_json: bool, quick: bool) -> None:
    """Calls a second of one expert, by rows in a call and callers."""
    width, expert_width, seconds = (
        (QUICK_WIDTH, QUICK_EXPERT_WIDTH, QUICK_SECONDS) if quick else (WIDTH, EXPERT_WIDTH, SECONDS)
    )
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="nocknode-serve-") as made:
        folder = Path(made)
        (folder / "alone").mkdir()
        floors = {batch: alone(folder / "alone", width, expert_width, batch, seconds / 4) for batch in BATCHES}
        with peer("hold", folder, width, expert_width) as holder:
            address = holder.hear()["address"]
            for batch in BATCHES:
                for callers in CALLERS:
                    name = f"batch {batch}, {callers} caller{'s' * (callers > 1)}"
                    taken = call(address, width, expert_width, batch, callers, seconds)
                    rows += [
                        compare(
                            f"{name}: calls",
                            "calls/s",
                            len(taken) / seconds,
                            floor=1000 / floors[batch],
                            more_is_better=True,
                        ),
                        compare(f"{name}: a call, median", "ms", median(taken), floor=floors[batch]),
                        compare(
                            f"{name}: a call, p95", "ms", sorted(taken)[int(0.95 * len(taken))], floor=floors[batch]
                        ),
                    ]
                    say(f"{name}: {len(taken)} calls")
    report("serve", rows, as_json, {"width": width, "expert_width": expert_width})


if __name__ == "__main__":
    main()
