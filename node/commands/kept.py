"""``nocknode kept``: what this node keeps for everybody; ``nocknode kept read`` puts a blob together from its cells."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from node.commands.options import bytes_text, console, data_dir_option, json_option, number_text, print_json, table
from node.errors import CommandFailed


@click.group(invoke_without_command=True)
@data_dir_option
@json_option
@click.pass_context
def kept(context: click.Context, data_dir: Path, as_json: bool) -> None:
    """What the network keeps as coded cells, and this node's share of it; read it back."""
    if context.invoked_subcommand is not None:
        return
    from node.chain_words import counted
    from node.commands.client import NodeClient

    facts = NodeClient(data_dir).get("/kept")
    if as_json:
        print_json(facts)
        return
    made = table("", ("what", ">size", ">cells here", ">missing", ">until epoch", "blob"))
    for blob in facts["blobs"]:
        until = "for ever" if blob["kept_until"] is None else number_text(blob["kept_until"])
        missing = number_text(blob["missing"]) if blob["missing"] else "-"
        size = bytes_text(blob["size_bytes"])
        made.add_row(blob["what"], size, number_text(blob["cells"]), missing, until, blob["blob"][:16])
    console().print(made)
    click.echo(
        f"{number_text(facts['cells'])} cells, {bytes_text(facts['bytes'])}; {bytes_text(facts['fetched_bytes'])} fetched, "
        f"{bytes_text(facts['given_bytes'])} given, {counted(facts['rebuilt_tiles'], 'tile')} made again"
    )
    click.echo(
        f"{number_text(facts['answered'])} questions of the chain answered; "
        f"{number_text(facts['audits'])} audits, {number_text(facts['audits_failed'])} failed; "
        f"{number_text(facts['samples'])} tiles sampled, {number_text(facts['samples_lost'])} looked lost"
    )
    for peer, count in facts["faults"].items():
        click.echo(f"{peer} did not show what it is to keep, {count} times")


@kept.command()
@data_dir_option
@json_option
@click.argument("blob")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def read(data_dir: Path, as_json: bool, blob: str, file: Path) -> None:
    """Put BLOB (its root, or the first digits) together from the cells of whoever has them, and write it to FILE."""
    from node.commands.client import NodeClient
    from storage.io.files import write_file

    client = NodeClient(data_dir)
    chosen = [each for each in client.get("/kept")["blobs"] if each["blob"].startswith(blob.lower())]
    if len(chosen) != 1:
        found = "no blob" if not chosen else f"{len(chosen)} blobs"
        raise CommandFailed(f"{found} of root {blob}...; `nocknode kept` shows which there are")
    write_file(file, _tiles(client, chosen[0]))
    facts = {"what": chosen[0]["what"], "blob": chosen[0]["blob"], "bytes": file.stat().st_size, "file": str(file)}
    if as_json:
        print_json(facts)
    else:
        click.echo(f"{facts['what']}: {bytes_text(file.stat().st_size)} in {file}")


def _tiles(client: Any, blob: dict[str, Any]) -> Iterator[bytes]:
    with click.progressbar(range(blob["tiles"]), label=blob["what"], file=sys.stderr) as tiles:
        for tile in tiles:
            yield client.read(f"/kept/{blob['blob']}/{tile}")
