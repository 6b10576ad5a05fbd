"""``nocknode api-key``: who besides this node's owner may ask it for text, and how often."""

from __future__ import annotations

from pathlib import Path

import click

from node.commands.options import console, data_dir_option, instant_text, json_option, print_json, table
from node.data_directory import DataDirectory
from node.errors import CommandFailed


@click.group("api-key")
def api_key() -> None:
    """Let others ask this node for text. What is changed holds at once, also while the node runs."""


@api_key.command()
@click.argument("name")
@data_dir_option
@click.option(
    "--per-minute", type=click.IntRange(1, 1_000_000), default=60, show_default=True, help="Requests a minute."
)
@click.option("--at-once", type=click.IntRange(1, 100_000), default=8, show_default=True, help="Answers under way.")
@json_option
def new(name: str, data_dir: Path, per_minute: int, at_once: int, as_json: bool) -> None:
    """Make a key for NAME and show it, this once."""
    from node.api_keys import add_key
    from node.clock import Clock

    if not 1 <= len(name) <= 64:
        raise click.BadParameter("a name has 1 to 64 characters", param_hint="NAME")
    made, text = add_key(_keys_file(data_dir), name, Clock().now_ms(), per_minute, at_once)
    if as_json:
        print_json({"id": made.id, "name": made.name, "key": text, "per_minute": per_minute, "at_once": at_once})
        return
    click.echo(text)
    click.echo(f"Keep it: it is not shown again. To end it: nocknode api-key remove {made.id}", err=True)


@api_key.command("list")
@data_dir_option
@json_option
def list_keys(data_dir: Path, as_json: bool) -> None:
    """Who has a key."""
    from node.api_keys import read_keys

    keys = read_keys(_keys_file(data_dir))
    if as_json:
        shown = [{name: getattr(key, name) for name in key.__struct_fields__ if name != "digest"} for key in keys]
        print_json({"keys": shown})
        return
    if not keys:
        click.echo("Nobody has a key. nocknode api-key new NAME makes one.")
        return
    made = table("", ("id", "name", ">per minute", ">at once", "made"))
    for key in keys:
        made.add_row(key.id, key.name, str(key.per_minute), str(key.at_once), instant_text(key.created_ms))
    console().print(made)


@api_key.command()
@click.argument("id")
@data_dir_option
@json_option
def remove(id: str, data_dir: Path, as_json: bool) -> None:
    """End the key with this ID: nobody gets in by it any more."""
    from node.api_keys import remove_key

    gone = remove_key(_keys_file(data_dir), id)
    if as_json:
        print_json({"removed": gone.id})
    else:
        click.echo(f"{gone.name} has no key {gone.id} any more.")


def _keys_file(data_dir: Path) -> Path:
    places = DataDirectory(data_dir)
    if not places.config.exists():
        raise CommandFailed(f"{data_dir} is no data directory; make one with nocknode init, or name it with --data-dir")
    return places.api_keys
