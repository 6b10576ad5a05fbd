"""``nocknode keys``: make keys, and print what others need to know of them."""

from __future__ import annotations

from pathlib import Path

import click

from node.commands.options import data_dir_option, json_option, print_json
from node.data_directory import DataDirectory
from node.keys import NodeKeys, card_text, create_keys, find_passphrase, load_keys


@click.group()
def keys() -> None:
    """Make keys, or print the public half."""


@keys.command()
@data_dir_option
@click.option("--encrypt", is_flag=True, help="Protect the keys by a passphrase (NOCKNODE_PASSPHRASE, or asked for).")
@json_option
def new(data_dir: Path, encrypt: bool, as_json: bool) -> None:
    """Make the three keys of a member, and print the word that a founder passes to init --member."""
    passphrase = find_passphrase()
    if passphrase is None and encrypt:
        passphrase = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    _tell(data_dir, create_keys(DataDirectory(data_dir).keys, passphrase), as_json)


@keys.command()
@data_dir_option
@json_option
def show(data_dir: Path, as_json: bool) -> None:
    """Print the peer id and the member word of keys that exist."""
    _tell(data_dir, load_keys(DataDirectory(data_dir).keys, ask_passphrase), as_json)


def ask_passphrase() -> str:
    """Ask at the terminal."""
    return str(click.prompt("Passphrase of the keys", hide_input=True, err=True))


def _tell(data_dir: Path, made: NodeKeys, as_json: bool) -> None:
    from protocol.ids import peer_text

    word = card_text(made.card())
    if as_json:
        print_json({"peer": peer_text(made.peer), "member": word, "data_dir": str(data_dir)})
        return
    click.echo(f"peer    {peer_text(made.peer)}")
    click.echo(f"member  {word}")
    click.echo("The founder of a network passes the member word to: nocknode init --new --member ...", err=True)
