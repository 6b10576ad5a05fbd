"""``nocknode wallet``: the account of a data directory. Its address needs no node; what it holds is asked of one that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from node.commands.options import console, data_dir_option, duration_text, json_option, print_json, table
from node.data_directory import DataDirectory


@click.command()
@data_dir_option
@json_option
def wallet(data_dir: Path, as_json: bool) -> None:
    """This data directory's account: address, balance, stake, what unbonds and when."""
    from node.account_address import account_text
    from node.commands.client import NodeClient
    from node.commands.keys import ask_passphrase
    from node.errors import CommandFailed
    from node.keys import load_keys
    from protocol.ids import AccountId

    keys = load_keys(DataDirectory(data_dir).keys, ask_passphrase)
    address = account_text(AccountId(keys.account.public))
    facts: Any = None
    silence = ""
    try:
        facts = NodeClient(data_dir).get(f"/consensus/accounts/{address}")
    except CommandFailed as error:
        silence = str(error)
    if as_json:
        print_json({"address": address, "account": facts})
        return
    click.echo(f"address    {address}")
    if facts is None:
        click.echo(f"What it holds is not known: {silence}", err=True)
        return
    _tell(facts)


def _tell(facts: Any) -> None:
    from node.money import nock_text

    waiting = facts["next_nonce"] - facts["nonce"]
    click.echo(f"balance    {nock_text(facts['balance_nano'])}")
    click.echo(f"sent       {facts['nonce']:,} transactions" + (f", {waiting} more wait" if waiting else ""))
    click.echo(f"as of      block {facts['height']:,}")
    if not facts["validators"]:
        return
    made = table("", ("validator", "status", ">stake", ">unbonding", "free in"))
    for validator in facts["validators"]:
        stake = nock_text(validator["stake_nano"])
        made.add_row(validator["short"], validator["status"], stake, "", "")
        for entry in validator["unbonding"]:
            when = f"{duration_text(entry['milliseconds_left'])} and {entry['blocks_left']:,} blocks"
            made.add_row("", "", "", nock_text(entry["amount_nano"]), when)
    console().print(made)
