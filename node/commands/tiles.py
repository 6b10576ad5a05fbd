"""``nocknode tiles``: versions and owners; ``nocknode tiles verify`` derives every root again from what is on disk."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from node.commands.options import console, data_dir_option, json_option, number_text, print_json, table
from node.errors import CommandFailed

PROBLEMS_SHOWN = 20


@click.group(invoke_without_command=True)
@data_dir_option
@json_option
@click.pass_context
def tiles(context: click.Context, data_dir: Path, as_json: bool) -> None:
    """The model's tiles, their versions and owners; verify them."""
    if context.invoked_subcommand is not None:
        return
    from node.commands.client import NodeClient

    known = NodeClient(data_dir).get("/tiles")
    if as_json:
        print_json({"tiles": known})
        return
    made = table(
        "", ("tile", ">version", ">base", ">round", "owner", ">attempt", ">values", ">deltas", ">tokens", "root")
    )
    for tile in known:
        made.add_row(
            tile["tile"],
            number_text(tile["version"]),
            number_text(tile["base"]),
            number_text(tile["round"]),
            tile["owner"] or "-",
            number_text(tile["attempt"]),
            number_text(tile["values"]),
            number_text(tile["deltas"]),
            number_text(tile["tokens"]),
            tile["root"][:16],
        )
    console().print(made)


@tiles.command()
@data_dir_option
@json_option
def verify(data_dir: Path, as_json: bool) -> None:
    """Derive every root again from genesis, updates and deltas, and compare. The node must not be running."""
    from node.verify import verify_tiles

    with _Progress(shown=sys.stderr.isatty()) as progress:
        report = verify_tiles(data_dir, progress.tell)
    facts: dict[str, Any] = {"ok": not report.problems, **dataclasses.asdict(report)}
    if as_json:
        print_json(facts)
    else:
        for name, value in facts.items():
            if name not in ("ok", "problems"):
                click.echo(f"{name.replace('_', ' '):<20} {number_text(value)}")
    if report.problems:
        first, *others = report.problems
        for problem in others[:PROBLEMS_SHOWN]:
            click.echo(problem, err=True)
        more = f" (and {len(others)} more)" if others else ""
        raise CommandFailed(f"{data_dir}: {first}{more}; start the node, and it fetches what is wrong again from peers")
    if as_json:
        return
    if report.first_block == 1:
        click.echo("Every root follows from genesis.")
    else:
        click.echo(
            f"Every root that blocks from {report.first_block} on decide follows from what is here; those before were pruned."
        )


class _Progress:
    """A bar on stderr while a terminal is there."""

    def __init__(self, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True)
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> _Progress:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def tell(self, done: int, total: int, what: str) -> None:
        """``what`` is being looked at; ``done`` of ``total`` are finished."""
        self._progress.update(self._task, completed=done, total=total, description=what)
