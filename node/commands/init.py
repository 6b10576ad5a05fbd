"""``nocknode init``: make a data directory, by founding a network or by joining one.

The genesis document is written last but one, the configuration last: whatever is interrupted before can be run again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.commands.keys import ask_passphrase
from node.commands.options import bytes_text, data_dir_option, json_option, print_json
from node.data_directory import DataDirectory
from node.errors import CommandFailed

if TYPE_CHECKING:
    from node.keys import NodeKeys


@click.command()
@click.option("--new", "is_new", is_flag=True, help="Found a network.")
@click.option("--join", "join_address", metavar="MULTIADDR", help="Join the network of this peer.")
@click.option("--network-id", metavar="HEX", help="With --join: the id that the founder told you.")
@click.option("--network", default="devnet", show_default=True, help="With --new: template, by name or path.")
@click.option("--model", type=click.Path(path_type=Path), help="With --new: model in place of the template's.")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    help="With --new: file or folder of text to learn. [default: the text of the Python standard library]",
)
@click.option("--round-seconds", type=float, help="With --new: deadline of a round, in place of the template's.")
@click.option("--member", "members", multiple=True, metavar="WORD", help="With --new: another founder; repeatable.")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="With --new: of the weights."
)
@data_dir_option
@json_option
def init(
    is_new: bool,
    join_address: str | None,
    network_id: str | None,
    network: str,
    model: Path | None,
    corpus: Path | None,
    round_seconds: float | None,
    members: tuple[str, ...],
    seed: int,
    data_dir: Path,
    as_json: bool,
) -> None:
    """Make a data directory: found a network (--new), or join one (--join MULTIADDR --network-id HEX)."""
    if is_new == (join_address is not None):
        raise click.UsageError("say either --new, or --join MULTIADDR --network-id HEX")
    if join_address is not None:
        facts = join_network(data_dir, join_address, network_id)
    else:
        overrides: dict[str, object] = {} if round_seconds is None else {"learning.round_seconds": round_seconds}
        facts = _found(data_dir, network, model, corpus, overrides, members, seed)
    if as_json:
        print_json(facts)
        return
    click.echo(f"network     {facts['network']}")
    click.echo(f"network id  {facts['network_id']}")
    click.echo(f"peer        {facts['peer']}")
    role = "a member" if facts["is_member"] else "a learner without a vote"
    click.echo(f"roster      {facts['roster']}; this node is {role}")
    if "corpus_bytes" in facts:
        click.echo(f"corpus      {bytes_text(facts['corpus_bytes'])} in {facts['shards']} shards")
    click.echo(f"Start it with: nocknode start --data-dir {data_dir}", err=True)


def _found(
    data_dir: Path,
    network: str,
    model: Path | None,
    corpus: Path | None,
    overrides: dict[str, object],
    members: tuple[str, ...],
    seed: int,
) -> dict[str, Any]:
    from node.clock import Clock
    from node.config import load_template
    from node.genesis_file import check_rules, found_network, read_shards
    from node.keys import parse_card
    from protocol.codec import encode
    from storage.io.blob_store import BlobStore
    from storage.io.files import DirectoryFiles, DirectoryLock
    from storage.io.rocks import RocksKeyValue

    # Everything that may be refused is looked at before anything is written.
    template = load_template(network, model_path=model, overrides=overrides)
    check_rules(template)
    others = [parse_card(word) for word in members]
    _check_unused(data_dir)
    shards = read_shards(corpus)
    with DirectoryLock(data_dir):
        keys = _keys(data_dir)
        genesis = found_network(template, [keys.card(), *others], shards, seed, Clock().now_ms())
        index = RocksKeyValue(DataDirectory(data_dir).database)
        try:
            BlobStore(DirectoryFiles(data_dir), index).put_many(shards)
        finally:
            index.close()
        facts = _write(data_dir, keys, encode(genesis), {})
    return facts | {"shards": len(shards), "corpus_bytes": sum(map(len, shards))}


def join_network(data_dir: Path, address: str, network_id: str | None) -> dict[str, Any]:
    """Make a data directory of the network of a peer, with the keys that are there, or new ones; what init tells of it."""
    from node.addresses import check_peer_address
    from protocol.genesis import check_genesis
    from protocol.ids import NetworkId, parse_hex32
    from storage.io.files import DirectoryLock

    address = check_peer_address(address)
    if network_id is None:
        raise click.UsageError("--join needs --network-id HEX: `nocknode init --new` printed it to the founder")
    expected = NetworkId(parse_hex32(network_id, "--network-id"))
    _check_unused(data_dir)
    from node.join import fetch_genesis

    data = fetch_genesis(address, expected)
    check_genesis(data, expected)
    with DirectoryLock(data_dir):
        return _write(data_dir, _keys(data_dir), data, {"network.bootstrap": [address]})


def _keys(data_dir: Path) -> NodeKeys:
    """The keys that are there, or new ones."""
    from node.keys import create_keys, find_passphrase, have_keys, load_keys

    directory = DataDirectory(data_dir).keys
    if have_keys(directory):
        return load_keys(directory, ask_passphrase)
    return create_keys(directory, find_passphrase())


def _check_unused(data_dir: Path) -> None:
    if DataDirectory(data_dir).genesis.exists():
        raise CommandFailed(f"{data_dir} belongs to a network already; choose another --data-dir")


def _write(data_dir: Path, keys: NodeKeys, genesis_data: bytes, values: dict[str, object]) -> dict[str, Any]:
    """Write genesis and configuration; what init tells of them."""
    from node.config import default_config_text
    from node.genesis_file import write_genesis
    from protocol.genesis import check_genesis
    from protocol.ids import peer_text
    from storage.io.files import write_file

    places = DataDirectory(data_dir)
    genesis = check_genesis(genesis_data)
    write_genesis(places.genesis, genesis_data)
    if places.config.exists():
        places.config.rename(places.config.with_suffix(".toml.before-init"))
    text = default_config_text({"network.id": genesis.network_id().hex(), **values})
    write_file(places.config, [text.encode()])
    return {
        "network": genesis.network_name,
        "network_id": genesis.network_id().hex(),
        "peer": peer_text(keys.peer),
        "data_dir": str(data_dir),
        "roster": len(genesis.founders),
        "is_member": any(founder.card.node == keys.peer for founder in genesis.founders),
    }
