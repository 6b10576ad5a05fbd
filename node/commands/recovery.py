"""``nocknode recovery``: what to do when something went wrong that a node does not mend by itself (docs/recovery.md).

of this machine     repair, resync
of the chain        propose, combine, sign, show, adopt: files that operators pass to each other
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.commands.options import console, data_dir_option, json_option, print_json
from node.errors import CommandFailed

if TYPE_CHECKING:
    from node.config import Settings
    from node.recovery_repair import Damage
    from protocol.genesis import Genesis
    from protocol.recovery import SignedRecovery


@click.group()
def recovery() -> None:
    """After a disaster: of this machine (repair, resync), of the chain (propose, combine, sign, show, adopt).

    The node must not be running, but for ``show``.
    """


_sync_option = click.option(
    "--sync/--no-sync",
    default=True,
    help="Fetch everything now, which is the default, or leave it to `nocknode start`.",
)
_bootstrap_option = click.option(
    "--bootstrap", multiple=True, metavar="MULTIADDR", help="A peer to call first; repeatable."
)


@recovery.command()
@data_dir_option
@json_option
@_sync_option
@_bootstrap_option
def resync(data_dir: Path, as_json: bool, sync: bool, bootstrap: tuple[str, ...]) -> None:
    """Throw blocks and state away and fetch them anew. Keys, votes, tiles and data sets stay."""
    from dataclasses import replace

    from node.clock import Clock
    from node.commands.keys import ask_passphrase
    from node.ground import open_ground
    from node.recovery_catch_up import own_trust
    from node.recovery_disagreement import find_halt, forget_chain

    settings = _settings(data_dir, bootstrap)
    ground = open_ground(settings, ask_passphrase)
    try:
        halted, tip = find_halt(ground.index), ground.ledger.tip()
        trusted = settings.network.trusted_block or own_trust(ground, Clock().now_ms())
        forget_chain(ground)
    finally:
        ground.close()
    facts = {"forgotten_height": tip or 0, "disagreed_height": halted.height if halted else None, "trusted": trusted}
    settings = replace(settings, network=replace(settings.network, trusted_block=trusted))
    _catch_up(settings, facts, as_json, sync)


@recovery.command()
@data_dir_option
@json_option
@_sync_option
@_bootstrap_option
@click.option("--join", "join_address", metavar="MULTIADDR", help="Where genesis.bin is lost: a peer of the network.")
@click.option("--network-id", metavar="HEX", help="With --join: the network's id.")
def repair(
    data_dir: Path,
    as_json: bool,
    sync: bool,
    bootstrap: tuple[str, ...],
    join_address: str | None,
    network_id: str | None,
) -> None:
    """Put aside what is damaged in a data directory, or lost, and fetch it from peers. Keys and votes stay.

    For a lost disk: copy the keys back into DATA_DIR/keys, and say --join and --network-id. A node whose vote journal is gone
    does not vote for two epochs, so that it cannot contradict what it said before.
    """
    from node.clock import Clock
    from node.commands.init import join_network
    from node.commands.keys import ask_passphrase
    from node.data_directory import DataDirectory
    from node.genesis_file import read_genesis
    from node.ground import open_ground
    from node.recovery_repair import check_keys_are_back, forbid_votes, repair_chain, repair_directory

    places = DataDirectory(data_dir)
    check_keys_are_back(places)
    if not places.genesis.exists() and join_address is not None:
        forbid_votes(places)  # before there is anything with which to vote
        join_network(data_dir, join_address, network_id)
    settings = _settings(data_dir, bootstrap)
    read_genesis(places.genesis, None)
    found = repair_directory(places, Clock().now_ms(), _tell_rows, _wanted_fork(settings))
    ground = open_ground(settings, ask_passphrase)
    try:
        found += repair_chain(ground)
    finally:
        ground.close()
    facts = {"found": [{"part": each.part, "why": each.why, "aside": each.aside} for each in found]}
    if not as_json:
        _tell_damage(found)
    _catch_up(settings, facts, as_json, sync)


# -- of the chain ------------------------------------------------------------------------------------------------------

_file = click.Path(path_type=Path, exists=True, dir_okay=False)
_out = click.Path(path_type=Path, dir_okay=False)


@recovery.command()
@data_dir_option
@json_option
@click.option("--reason", required=True, help="A sentence: why the chain cannot go on.")
@click.argument("file", type=_out)
def propose(data_dir: Path, as_json: bool, reason: str, file: Path) -> None:
    """Write this node's last final block to FILE, signed: what every operator sends to whoever combines."""
    from node.ground import open_ground
    from node.recovery_documents import make_proposal
    from protocol.codec import encode

    ground = open_ground(_settings(data_dir, ()), _ask())
    try:
        proposal = make_proposal(ground, reason)
    finally:
        ground.close()
    _write(file, encode(proposal))
    header = proposal.block.header
    _tell({"height": header.height, "block": header.digest().hex(), "reason": reason, "file": str(file)}, as_json)


@recovery.command()
@data_dir_option
@json_option
@click.option("--reason", help="A sentence: why the chain cannot go on. [default: that of the first proposal]")
@click.option(
    "--remaining", multiple=True, metavar="PEER", help="Who votes from there; repeatable. [default: who proposed]"
)
@click.option("--anchor", metavar="HEX", help="Where two blocks of one height are final: which of them to go on from.")
@click.option("--out", type=_out, required=True, help="Where the recovery is written.")
@click.argument("files", type=_file, nargs=-1, required=True)
def combine(
    data_dir: Path,
    as_json: bool,
    reason: str | None,
    remaining: tuple[str, ...],
    anchor: str | None,
    out: Path,
    files: tuple[Path, ...],
) -> None:
    """Make one recovery of the FILES of `propose`, from the highest final block; or one of several signed copies of it."""
    from consensus.recovery import combine_proposals, merge_signatures
    from node.recovery_documents import read_documents, read_proposals, unsigned
    from protocol.codec import encode
    from protocol.ids import Digest, parse_hex32, parse_peer
    from protocol.recovery import check_reason

    genesis = _genesis(data_dir)
    heights = genesis.chain.epoch_heights
    documents = read_documents(files)
    if documents is not None:
        made = merge_signatures(documents, heights)
    else:
        proposals = read_proposals(files, genesis)
        made = unsigned(
            combine_proposals(
                proposals,
                [parse_peer(peer) for peer in remaining] or None,
                check_reason(reason or proposals[0].reason),
                heights,
                Digest(parse_hex32(anchor, "--anchor")) if anchor else None,
            )
        )
    _write(out, encode(made))
    _tell(_facts_of(made, genesis) | {"file": str(out)}, as_json)


@recovery.command()
@data_dir_option
@json_option
@click.argument("file", type=_file)
def sign(data_dir: Path, as_json: bool, file: Path) -> None:
    """Add this node's signature to the recovery in FILE: more than two thirds of those who remain must. Read `show` first."""
    from node.ground import open_ground
    from node.recovery_documents import read_document, sign_document
    from protocol.codec import encode

    ground = open_ground(_settings(data_dir, ()), _ask())
    try:
        signed = sign_document(ground, read_document(file))
        genesis = ground.genesis
    finally:
        ground.close()
    _write(file, encode(signed))
    _tell(_facts_of(signed, genesis) | {"file": str(file)}, as_json)


@recovery.command()
@data_dir_option
@json_option
@click.argument("file", type=_file)
def show(data_dir: Path, as_json: bool, file: Path) -> None:
    """What the recovery in FILE says, whether it is complete, and its digest."""
    from node.recovery_documents import read_document

    _tell(_facts_of(read_document(file), _genesis(data_dir)), as_json)


@recovery.command()
@data_dir_option
@json_option
@click.argument("file", type=_file)
@click.argument("digest")
def adopt(data_dir: Path, as_json: bool, file: Path, digest: str) -> None:
    """Take the recovery in FILE, whose DIGEST you were told by people whom you trust. The configuration is yours to change."""
    from node.data_directory import DataDirectory
    from node.fork_rows import RECOVERY_FILE, check_signed
    from node.ground import open_ground
    from node.recovery_documents import check_not_below
    from storage.io.files import write_file

    settings = _settings(data_dir, ())
    data = file.read_bytes()
    fork = check_signed(data, _genesis(data_dir))
    name = fork.signed.recovery.digest().hex()
    if name != digest:
        raise CommandFailed(f"{file} is the recovery {name}, not the one that you name: ask where you have it from")
    ground = open_ground(settings, _ask())
    try:
        check_not_below(ground, fork.signed)
    finally:
        ground.close()
    write_file(DataDirectory(data_dir).root / RECOVERY_FILE, [data])
    _tell(_facts_of(fork.signed, _genesis(data_dir)), as_json)
    if settings.recovery.adopt != name:
        click.echo(f'Now set in {settings.places.config}, under [recovery]: adopt = "{name}"', err=True)


def _ask() -> Any:
    from node.commands.keys import ask_passphrase

    return ask_passphrase


def _genesis(data_dir: Path) -> Genesis:
    from node.data_directory import DataDirectory
    from node.genesis_file import read_genesis

    return read_genesis(DataDirectory(data_dir).genesis, None)


def _write(file: Path, data: bytes) -> None:
    from storage.io.files import write_file

    write_file(file.absolute(), [data])


def _facts_of(signed: SignedRecovery, genesis: Genesis) -> dict[str, Any]:
    from node.recovery_documents import describe

    return describe(signed, genesis)


def _tell(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    out = console()
    for name, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        out.print(f"[bold]{name:<18}[/bold] ", end="")
        out.print(str(text), markup=False)


# -- both --------------------------------------------------------------------------------------------------------------


def _settings(data_dir: Path, bootstrap: tuple[str, ...]) -> Settings:
    from node.config import load_settings

    settings = load_settings(data_dir)
    if not bootstrap:
        return settings
    return load_settings(data_dir, {"network.bootstrap": [*settings.network.bootstrap, *bootstrap]})


def _wanted_fork(settings: Settings) -> int:
    """The fork that the configuration says to adopt; 0 for none, or where recovery.bin is lost, too."""
    from node.fork_rows import RECOVERY_FILE
    from node.recovery_documents import read_document

    file = settings.places.root / RECOVERY_FILE
    return read_document(file).recovery.fork if settings.recovery.adopt and file.exists() else 0


def _tell_rows(rows: int) -> None:
    if rows % 100_000 == 0:
        click.echo(f"{rows:,} rows of the database read", err=True)


def _tell_damage(found: list[Damage]) -> None:
    out = console()
    for each in found:
        where = f"; now in {each.aside}" if each.aside else ""
        out.print(f"[bold]{each.part:<14}[/bold] ", end="")
        out.print(f"{each.why}{where}", markup=False)
    if not found:
        out.print("Nothing is damaged.")


def _catch_up(settings: Settings, facts: dict[str, Any], as_json: bool, sync: bool) -> None:
    """Fetch what is missing, or say how; print what came of it."""
    from node.commands.keys import ask_passphrase

    facts["caught_up"] = False
    if sync:
        from node.recovery_catch_up import catch_up

        facts |= catch_up(settings, ask_passphrase)
    if facts.get("why"):
        raise CommandFailed(facts["why"])
    if as_json:
        print_json(facts)
    elif facts["caught_up"]:
        click.echo(f"Caught up: block {facts['height']:,}, state {facts['state_root']}.")
        if facts["refusal"]:
            click.echo(f"This node does not vote yet: {facts['refusal']}.")
    start = f"nocknode start --data-dir {settings.data_dir}"
    click.echo(f"Go on with: {start}" if facts["caught_up"] or not sync else f"It was not finished: {start}", err=True)
