"""``nocknode validators``: who votes, with what stake, and who is on the way in or out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from node.commands.options import console, data_dir_option, json_option, number_text, print_json, table


@click.command()
@data_dir_option
@json_option
def validators(data_dir: Path, as_json: bool) -> None:
    """Who votes, with what stake. A star marks this node."""
    from node.commands.client import NodeClient
    from node.money import nock_text

    known = NodeClient(data_dir).get("/consensus/validators")
    if as_json:
        print_json({"validators": known})
        return
    columns = ("validator", "status", ">stake", ">unbonding", ">weight", "votes", "next", "connected", ">proposed")
    made = table("", (*columns, "account"))
    for validator in known:
        made.add_row(
            validator["short"] + ("*" if validator["is_self"] else ""),
            validator["status"],
            nock_text(validator["stake_nano"]),
            nock_text(sum(entry["amount_nano"] for entry in validator["unbonding"])),
            f"{100 * validator['weight_share']:.2f} %",
            _votes_text(validator),
            number_text(validator["in_next_roster"]),
            number_text(validator["connected"]),
            number_text(validator["proposed"]),
            validator["account"][:16],
        )
    console().print(made)


def _votes_text(validator: Mapping[str, Any]) -> str:
    """Whether it votes now; of who has just registered, from which block on it may; of who is in jail, until when."""
    if validator["in_roster"] or validator["status"] != "active" or validator["votes_from_height"] is None:
        is_out = validator["jailed_until"] is not None and not validator["in_roster"]
        return f"jailed until epoch {validator['jailed_until']:,}" if is_out else number_text(validator["in_roster"])
    return f"from block {validator['votes_from_height']:,}"
