"""``nocknode checkpoint``: the states with which others can join, listed, written to a file, read from one, and checked."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.commands.options import console, data_dir_option, json_option, print_json, table
from node.errors import CommandFailed

if TYPE_CHECKING:
    from node.checkpoint_file import OnPart
    from node.checkpoints import CheckpointManifest
    from node.ground import Ground


@click.group()
def checkpoint() -> None:
    """Checkpoints of a data directory. The node must not be running, but for ``verify``."""


@checkpoint.command("list")
@data_dir_option
@json_option
def list_command(data_dir: Path, as_json: bool) -> None:
    """Which checkpoints are kept, newest first."""
    from node.checkpoints import list_checkpoints

    with _opened(data_dir) as ground:
        rows = [_facts(manifest) for manifest in list_checkpoints(ground.disk)]
    if as_json:
        print_json({"checkpoints": rows})
        return
    made = table("", (">height", ">epoch", "block", "state root"))
    for row in rows:
        made.add_row(str(row["height"]), str(row["epoch"]), str(row["block"])[:16], str(row["state_root"])[:16])
    console().print(made)


@checkpoint.command()
@data_dir_option
@json_option
@click.option("--height", type=int, help="Of which checkpoint; the newest if none is said.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export(data_dir: Path, as_json: bool, height: int | None, file: Path) -> None:
    """Write a checkpoint to FILE, with the proof that its block is final."""
    from node.checkpoint_file import export_checkpoint
    from node.checkpoints import list_checkpoints
    from storage.io.files import write_file

    with _opened(data_dir) as ground:
        kept = list(list_checkpoints(ground.disk))
        found = [manifest for manifest in kept if height in (None, manifest.height)]
        if not found:
            there = ", ".join(str(manifest.height) for manifest in kept) or "none yet"
            raise CommandFailed(f"There is no such checkpoint; kept are: {there}.")
        size_bytes = write_file(file.absolute(), export_checkpoint(ground, found[0], _tell("writing")))
    _print({**_facts(found[0]), "bytes": size_bytes, "file": str(file)}, as_json)


@checkpoint.command("import")
@data_dir_option
@json_option
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def import_command(data_dir: Path, as_json: bool, file: Path) -> None:
    """Begin this data directory with the checkpoint of FILE, after it has proved itself."""
    from node.checkpoint_file import import_checkpoint
    from node.clock import Clock

    with _opened(data_dir) as ground, file.open("rb") as source:
        head = import_checkpoint(ground, source, Clock().now_ms(), _tell("reading"))
    _print(_facts(head.manifest), as_json)


@checkpoint.command()
@data_dir_option
@json_option
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def verify(data_dir: Path, as_json: bool, file: Path) -> None:
    """Check all of FILE against this data directory's genesis, or recovery, and change nothing."""
    from node.checkpoint_file import read_checkpoint
    from node.clock import Clock
    from node.config import load_settings
    from node.data_directory import DataDirectory
    from node.fork_rows import find_pending, trust_of
    from node.genesis_file import read_genesis
    from storage.io.files import DirectoryFiles

    entries, genesis = 0, read_genesis(DataDirectory(data_dir).genesis, None)
    fork = find_pending(DirectoryFiles(data_dir), load_settings(data_dir).recovery.adopt, genesis, None)
    with file.open("rb") as source:
        head, parts = read_checkpoint(source, genesis, Clock().now_ms(), trust_of(fork, genesis))
        for _, part, _, _ in parts:
            entries += len(part)
    _print({**_facts(head.manifest), "entries": entries}, as_json)


def _facts(manifest: CheckpointManifest) -> dict[str, object]:
    header = manifest.block.header
    return {
        "height": header.height,
        "epoch": header.epoch,
        "block": header.digest().hex(),
        "state_root": header.state_root.hex(),
    }


def _print(facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        console().print(f"{name.replace('_', ' '):>10}  {value}", highlight=False)


@contextlib.contextmanager
def _opened(data_dir: Path) -> Iterator[Ground]:
    """The ground of a data directory, closed at the end."""
    from node.commands.keys import ask_passphrase
    from node.config import load_settings
    from node.ground import open_ground

    ground = open_ground(load_settings(data_dir), ask_passphrase)
    try:
        yield ground
    finally:
        ground.close()


def _tell(doing: str) -> OnPart:
    """A line that counts parts, where somebody watches."""

    def tell(done: int, count: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{doing}: part {done} of {count}", end="" if done < count else "\n", file=sys.stderr)

    return tell
