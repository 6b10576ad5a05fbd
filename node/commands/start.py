"""``nocknode start``: run the node of a data directory until it is told to stop."""

from __future__ import annotations

from pathlib import Path

import click

from node.commands.options import data_dir_option


@click.command()
@data_dir_option
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="Where peers reach us; repeatable.")
@click.option("--announce", multiple=True, metavar="MULTIADDR", help="What peers are told to dial instead; repeatable.")
@click.option("--bootstrap", multiple=True, metavar="MULTIADDR", help="A peer to call first; repeatable.")
@click.option("--device", metavar="auto|cpu|cuda:N", help="What learns.")
@click.option("--threads", type=int, help="Threads of the learning process.")
@click.option("--rounds", type=int, help="Stop learning after so many rounds have closed; keep serving.")
@click.option("--round-seconds", type=float, help="Deadline of a round, in place of the network's.")
@click.option(
    "--fast-sync/--from-genesis",
    default=True,
    help="A node without blocks fetches the newest checkpoint, which is the default, or every block there ever was.",
)
@click.option(
    "--resync", is_flag=True, help="Throw blocks and state away first, and fetch them anew; keys and votes stay."
)
@click.option("--no-history", is_flag=True, help="Leave the blocks below the checkpoint that the node began with.")
@click.option("--no-learn", is_flag=True, help="Keep and serve the model, but train nothing.")
@click.option(
    "--experts",
    metavar="WHERE",
    help="here, or elsewhere: generate text with the experts of peers, also with --no-learn.",
)
@click.option("--api", metavar="IP:PORT", help="Where the HTTP API listens; beyond loopback by key.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@click.option("--crash-at", multiple=True, hidden=True, metavar="POINT@ROUND", help="For tests: kill -9 of oneself.")
def start(
    data_dir: Path,
    listen: tuple[str, ...],
    announce: tuple[str, ...],
    bootstrap: tuple[str, ...],
    device: str | None,
    threads: int | None,
    rounds: int | None,
    round_seconds: float | None,
    fast_sync: bool,
    resync: bool,
    no_history: bool,
    no_learn: bool,
    experts: str | None,
    api: str | None,
    log_level: str | None,
    crash_at: tuple[str, ...],
) -> None:
    """Run the node of a data directory. Ctrl-C stops it cleanly.

    Options win over config.toml. Bootstrap peers of both are called.
    """
    from node.config import load_settings, read_run_settings
    from node.genesis_file import read_genesis
    from protocol.ids import NetworkId

    given: dict[str, object | None] = {
        "network.listen": list(listen) or None,
        "network.announce": list(announce) or None,
        "storage.history": False if no_history else None,
        "compute.device": device,
        "compute.threads": threads,
        "compute.learn": False if no_learn else None,
        "compute.experts": experts,
        "api.listen": api,
        "log.level": log_level,
    }
    overrides = {place: value for place, value in given.items() if value is not None}
    if bootstrap:
        overrides["network.bootstrap"] = [*load_settings(data_dir).network.bootstrap, *bootstrap]
    settings = load_settings(
        data_dir,
        overrides,
        read_run_settings(rounds, round_seconds, crash_at, from_genesis=not fast_sync, resync=resync),
    )
    # Before the libraries are loaded: a mistake in the data directory is told at once.
    read_genesis(
        settings.places.genesis, NetworkId(bytes.fromhex(settings.network.id)) if settings.network.id else None
    )

    from node.commands.keys import ask_passphrase
    from node.node import run_node

    run_node(settings, ask_passphrase)
