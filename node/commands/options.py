"""What the commands share: their common options, and how they print facts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Command = TypeVar("Command", bound=Callable[..., Any])


def data_dir_option(command: Command) -> Command:
    """``--data-dir``, the same everywhere."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("nocknode-data"),
        envvar="NOCKNODE_DATA_DIR",
        show_default=True,
        show_envvar=True,
        help="Where the node keeps its keys, configuration and data.",
    )(command)


def json_option(command: Command) -> Command:
    """``--json``: facts as one JSON object on the last line of stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print one line of JSON instead of text.")(command)


def print_json(facts: Mapping[str, Any]) -> None:
    """One object on one line."""
    import msgspec

    click.echo(msgspec.json.encode(facts).decode())


def console() -> Console:
    """Where people read. Without a terminal, lines are not cut at 80 characters."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, highlight=False, soft_wrap=not sys.stdout.isatty())


def table(title: str, columns: Sequence[str]) -> Table:
    """An empty table; columns whose name begins with '>' are numbers and stand to the right."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return made


def number_text(value: object, unit: str = "") -> str:
    """A number as people read it: 12,345 or 2.561; a dash for what is not known."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}{unit}"
        case float():
            return f"{value:,.3g}{unit}" if abs(value) < 10 else f"{value:,.0f}{unit}"
        case _:
            return f"{value}{unit}"


def bytes_text(value: object) -> str:
    """A number of bytes: 1.2 MB."""
    if not isinstance(value, int | float):
        return "-"
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration_text(milliseconds: int) -> str:
    """A time to wait in its two largest units: 20 d 23 h."""
    seconds = -(-milliseconds // 1000)
    units = (("d", seconds // 86_400), ("h", seconds // 3600 % 24), ("min", seconds // 60 % 60), ("s", seconds % 60))
    first = next((place for place, (_, count) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count} {unit}" for unit, count in units[first : first + 2] if count) or "0 s"


def instant_text(time_ms: int) -> str:
    """A moment on the clock of the headers: 2026-11-21 15:00:18 UTC."""
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(time_ms // 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
