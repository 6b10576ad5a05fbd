"""``nocknode badge``: what a node verified about itself, and when; and whether a badge that somebody shows is that node's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from node.commands.options import console, data_dir_option, instant_text, json_option, print_json
from node.errors import CommandFailed


@click.command()
@click.option(
    "--check",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What `badge --json` of a node said.",
)
@data_dir_option
@json_option
def badge(file: Path | None, data_dir: Path, as_json: bool) -> None:
    """What the running node verified about itself; or whether a saved badge is its node's."""
    from node.commands.client import NodeClient

    facts = NodeClient(data_dir).get("/security/badge") if file is None else _checked(file)
    if as_json:
        print_json(facts)
        return
    read = f"{facts['tiles_read']:,} of {facts['tiles']:,}"
    since = f" since {instant_text(facts['read_since_ms'])}" if facts["tiles_read"] else ""
    rows = (
        ("node", facts["node"]),
        ("software", facts["software"]),
        ("made", f"{instant_text(facts['made_ms'])}, started {instant_text(facts['started_ms'])}"),
        ("state", f"{facts['state_root'][:16]} at height {facts['height']:,}, which it executed itself"),
        ("weights", facts["model"][:16]),
        ("tiles", f"{read} read again from the disk{since}, {facts['tiles_mended']:,} mended"),
        ("rows of peers", f"{facts['answers_checked']:,} computed again, {facts['answers_wrong']:,} wrong"),
        ("answers", f"{facts['audits']:,} computed again, {facts['audits_wrong']:,} wrong"),
    )
    out = console()
    for what, said in rows:
        out.print(f"[bold]{what:14}[/bold] {said}")


def _checked(file: Path) -> dict[str, Any]:
    """The fields of a saved badge, by the bytes that were signed."""
    from node.chain_words import plain
    from protocol.badges import check_badge, read_badge
    from protocol.rejection import Rejected

    try:
        badge = read_badge(msgspec.json.decode(file.read_bytes(), type=dict[str, Any])["badge"])
        check_badge(badge)
    except (msgspec.DecodeError, KeyError, Rejected) as error:
        raise CommandFailed(f"{file} holds no badge that its node signed: {error}") from None
    return {**plain(badge), "badge": "checked"}
