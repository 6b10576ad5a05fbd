"""``nocknode bench``: the programs in benchmarks/, each beside a peer and a floor."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import click

from node.commands.options import json_option, print_json
from node.errors import CommandFailed

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@json_option
@click.argument("name", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(as_json: bool, name: str | None, arguments: tuple[str, ...]) -> None:
    """List the benchmarks, or run NAME with its ARGUMENTS (all know --json and --quick)."""
    programs = {path.stem: path for path in sorted(BENCHMARKS.glob("[!_]*.py"))}
    if not programs:
        raise CommandFailed(f"there are no benchmarks in {BENCHMARKS}; run this from a checkout of the repository")
    if name is None:
        summaries = {stem: _summary(path) for stem, path in programs.items()}
        if as_json:
            print_json({"benchmarks": summaries})
            return
        for stem, summary in summaries.items():
            click.echo(f"{stem:<16} {summary}")
        return
    if name not in programs:
        raise CommandFailed(f"there is no benchmark {name!r}; there are {', '.join(programs)}")
    json_flag = ["--json"] if as_json else []
    # -m from the repository's root: a benchmark may import its neighbours.
    command = [sys.executable, "-m", f"benchmarks.{name}", *json_flag, *arguments]
    sys.exit(subprocess.run(command, check=False, cwd=BENCHMARKS.parent).returncode)


def _summary(path: Path) -> str:
    """The first line of a program's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
