"""Histories on as many cores as there are: the caller's side of ``node.history_worker``.

    walk     one process: each hash needs the one before it
    verify   segments in runs that follow each other, a process for each core; the first wrong one ends the others

Whoever cancels a call ends its processes. Histories of a few ticks, as networks of an hour have them, are not worth a process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import trio

from consensus.history import walk_segments
from node.history_worker import RIGHT, are_right
from node.threads import InThread, in_thread
from protocol.ids import Digest
from protocol.limits import HISTORY_SEGMENTS

COMMAND: Final = (sys.executable, "-m", "node.history_worker")
IN_THREAD_TICKS_MAX: Final = 65_536  # of a whole history: 16 ms, less than a process takes to start


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_out(start: Digest, ends: Sequence[Digest], shares: int) -> list[tuple[Digest, Sequence[Digest]]]:
    """Runs of segments, each as (where it starts, its ends), as equal as can be; at most ``shares``, none empty."""
    size, larger = divmod(len(ends), min(shares, len(ends)))
    runs: list[tuple[Digest, Sequence[Digest]]] = []
    at = 0
    while at < len(ends):
        upto = at + size + (len(runs) < larger)
        runs.append((ends[at - 1] if at else start, ends[at:upto]))
        at = upto
    return runs


class HistoryWork:
    """``cores`` processes run at once, whatever is asked for together."""

    def __init__(self, cores: int | None = None, in_thread: InThread = in_thread) -> None:
        self._in_thread = in_thread
        self.cores = cores or usable_cores()
        self._limiter = trio.CapacityLimiter(self.cores)

    async def walk(self, start: Digest, ticks: int) -> tuple[Digest, ...]:
        """The ends of the ``HISTORY_SEGMENTS`` segments of a history; raises ``OSError`` as ``_run``."""
        if HISTORY_SEGMENTS * ticks <= IN_THREAD_TICKS_MAX:
            return await self._in_thread(lambda: walk_segments(start, ticks, HISTORY_SEGMENTS))
        said = await self._run("walk", str(ticks), start.hex(), str(HISTORY_SEGMENTS))
        return tuple(Digest(bytes.fromhex(line)) for line in said.split())

    async def verify(self, start: Digest, ends: Sequence[Digest], ticks: int) -> bool:
        """Whether every segment is right; raises ``OSError`` as ``_run``."""
        if len(ends) * ticks <= IN_THREAD_TICKS_MAX:
            return await self._in_thread(lambda: are_right(start, ends, ticks))
        verdicts: list[bool] = []
        failures: list[OSError] = []

        async def check(first: Digest, run: Sequence[Digest]) -> None:
            try:
                said = await self._run("check", str(ticks), first.hex(), *(end.hex() for end in run))
            except OSError as failure:
                failures.append(failure)
            else:
                verdicts.append(said == RIGHT)
            if failures or not verdicts[-1]:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for first, run in share_out(start, ends, self.cores):
                nursery.start_soon(check, first, run)
        if failures and all(verdicts):
            raise failures[0]
        return all(verdicts)

    async def _run(self, *arguments: str) -> str:
        """One child to its end; raises ``OSError`` when it cannot be started, or was ended by somebody else."""
        async with self._limiter:
            done = await trio.run_process(
                [*COMMAND, *arguments],
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                check=False,
                start_new_session=True,  # a Ctrl-C in the terminal is the parent's to handle
            )
        if done.returncode:
            raise OSError(f"a history process ended with {done.returncode}")
        return done.stdout.decode("ascii").strip()
