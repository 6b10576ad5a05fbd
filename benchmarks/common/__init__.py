"""What all benchmarks share: the row, the table, the facts of the machine, medians and timers.

A row says what was measured, ours beside a peer's, and the floor: what the machine itself takes for the unavoidable part.
``ratio`` above 1 means that we are better, whether small or large numbers are good.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, TypeVar

import click
from rich.console import Console
from rich.table import Table

LIBRARIES: Final = ("nocknode", "torch", "numpy", "libp2p", "trio", "zstandard", "rocksdict", "safetensors")
SIGNIFICANT_DIGITS: Final = 4

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. ``floor`` is in the unit of ``ours`` and ``peer``; None where there is none."""

    name: str
    unit: str
    ours: float | None
    peer: float | None = None
    peer_name: str | None = None
    floor: float | None = None
    ratio: float | None = None


def compare(
    name: str,
    unit: str,
    ours: float | None,
    peer: float | None = None,
    peer_name: str | None = None,
    floor: float | None = None,
    *,
    more_is_better: bool = False,
) -> Row:
    """A row with its ratio: above 1 when ours is better."""
    ratio = None
    if ours is not None and peer is not None and ours > 0 and peer > 0:
        ratio = ours / peer if more_is_better else peer / ours
    return Row(name, unit, _rounded(ours), _rounded(peer), peer_name, _rounded(floor), _rounded(ratio))


def standard_options(command: Command) -> Command:
    """The options that every program takes: --json and --quick."""
    command = click.option(
        "--quick", is_flag=True, help="A shortened form: seconds, not minutes; its numbers are rough."
    )(command)
    return click.option(
        "--json", "as_json", is_flag=True, help="Progress on stderr; the last line of stdout is one object with rows."
    )(command)


def report(name: str, rows: Sequence[Row], as_json: bool, facts: Mapping[str, Any] | None = None) -> None:
    """Print the rows: a table, or one JSON object on the last line of stdout. ``facts`` go beside the rows."""
    where = environment()
    if as_json:
        described = {"benchmark": name, "environment": where, **(facts or {}), "rows": [asdict(row) for row in rows]}
        print(json.dumps(described), flush=True)
        return
    table = Table("", "unit", "ours", "peer", "", "floor", "ratio", title=name, title_justify="left")
    for column in (2, 3, 5, 6):
        table.columns[column].justify = "right"
    for row in rows:
        table.add_row(
            row.name,
            row.unit,
            _text(row.ours),
            _text(row.peer),
            row.peer_name or "",
            _text(row.floor),
            _text(row.ratio),
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    load = ", ".join(f"{value:.1f}" for value in where["load"])
    console.print(
        f"ratio above 1: we are better. {where['cores']} cores, load {load}, Python {where['python']}", style="dim"
    )


def environment() -> dict[str, Any]:
    """The machine and the versions: numbers mean nothing without them. ``load`` over 1, 5 and 15 minutes."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {library: found for library in LIBRARIES if (found := _find_version(library)) is not None},
    }


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def median(values: Iterable[float]) -> float:
    """The median; raises ValueError for none."""
    return statistics.median(list(values))


def find_median(values: Iterable[float | None]) -> float | None:
    """The median of those that are there; None for none."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def time_calls(
    work: Callable[[], object],
    *,
    seconds: float,
    calls_min: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Median milliseconds of a call: after one for the caches, as many as fit into ``seconds`` and at least ``calls_min``.

    With ``time.thread_time`` as clock it is processor time, which hardly depends on what else runs here.
    """
    work()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < calls_min or time.perf_counter() < until:
        started = clock()
        work()
        taken.append(1000 * (clock() - started))
    return median(taken)


def _find_version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{SIGNIFICANT_DIGITS + 1}g}")


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 10 ** (SIGNIFICANT_DIGITS - 1) else f"{value:.{SIGNIFICANT_DIGITS}g}"
