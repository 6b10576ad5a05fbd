"""How far a virtual world has come, on stderr: a bar on a terminal, a line now and then elsewhere.

How fast it went is said here only: results know no clock.
"""

from __future__ import annotations

import sys
import time
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from simnet.text import count_text, duration_text

LINES: Final = 10  # without a terminal: one for each tenth


class ProgressLine:
    """Of something that comes to a whole. ``close`` leaves the terminal as it was."""

    def __init__(self, what: str, whole: float) -> None:
        console = Console(stderr=True)
        self._whole = whole
        self._told = 0
        self._began = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            columns = (TextColumn(what), BarColumn(), TextColumn("{task.fields[said]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
            self._task = self._bar.add_task(what, total=whole, said="")
            self._bar.start()

    @property
    def elapsed_seconds(self) -> float:
        """Of the clock on the wall; never nothing."""
        return max(0.001, time.monotonic() - self._began)

    def tell(self, done: float, said: str) -> None:
        """So much of the whole, and what there is to say about it."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, said=said)
            return
        tenths = int(done * LINES / self._whole)
        if tenths > self._told:
            self._told = tenths
            print(said, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class SeedProgress(ProgressLine):
    """Many worlds, one for each seed."""

    def __init__(self, seeds: int) -> None:
        super().__init__("seeds", seeds)
        self._seeds = seeds

    def update(self, done: int, events: int, failures: int) -> None:
        said = f"{done} of {count_text(self._seeds, 'seed')}, {events / self.elapsed_seconds:,.0f} events/s"
        self.tell(done, said + (f", {count_text(failures, 'failure')}" if failures else ""))


class TimeProgress(ProgressLine):
    """One world, by its own clock."""

    def __init__(self, seconds: float) -> None:
        super().__init__("virtual time", seconds)
        self._seconds = seconds

    def update(self, done: float) -> None:
        faster = done / self.elapsed_seconds
        self.tell(done, f"{duration_text(done)} of {duration_text(self._seconds)}, {faster:,.1f} times as fast as real")
