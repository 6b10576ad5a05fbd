"""A real node, but for its worker: that has its deltas ready. Called as `nocknode start` is."""

from __future__ import annotations

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started by its path

WORKER = Path(__file__).with_name("ready_worker.py")


@click.group()
def program() -> None:
    """As the node's command line."""


@program.command()
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--listen", multiple=True)
@click.option("--bootstrap", multiple=True)
@click.option("--device")
@click.option("--threads", type=int)
@click.option("--rounds", type=int)
def start(
    data_dir: Path,
    listen: tuple[str, ...],
    bootstrap: tuple[str, ...],
    device: str | None,
    threads: int | None,
    rounds: int | None,
) -> None:
    """Run the node of a data directory until SIGTERM."""
    from node.config import load_settings, read_run_settings
    from node.node import run_node

    overrides = {"network.listen": list(listen), "network.bootstrap": list(bootstrap), "log.level": "info"}
    settings = load_settings(data_dir, overrides, read_run_settings(rounds))
    seed = int(data_dir.name.rpartition("-")[2])  # simnet's names: peer-0, peer-1, ...
    run_node(settings, worker_command=(sys.executable, str(WORKER), str(seed)))


if __name__ == "__main__":
    program()
