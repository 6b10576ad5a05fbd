"""What trials with real processes share: a folder of their own, a model small enough to be beside the point, and its text."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from benchmarks.common import say
from simnet.options import ROUNDS_MAX, Settings

MODEL: Final = """\
vocabulary = 258
layers = 2
width = 32
heads = 2
experts = 4
expert_width = 32
experts_per_token = 2
context = 32
"""


def trial_folder(out: Path | None, name: str) -> Path:
    """An empty folder: the one that was asked for, or one that goes in the end. Raises ``click.UsageError``."""
    folder = (out or Path(tempfile.mkdtemp(prefix=f"nocknode-{name}-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise click.UsageError(f"--out {folder}: the directory is not empty")
    return folder


def trial_settings(out: Path, network: str, peers: int, round_seconds: float | None = None) -> Settings:
    """A network of the template ``network`` on the small model, with a part of Python's library as its text."""
    paths = {name: out / name for name in ("model.toml", "network.toml", "corpus.txt")}
    paths["model.toml"].write_text(MODEL)
    paths["network.toml"].write_text(network)
    library = Path(json.__file__).parent.parent
    paths["corpus.txt"].write_bytes(b"".join(path.read_bytes() for path in sorted(library.glob("[a-h]*.py"))))
    return Settings(
        out=out,
        network=paths["network.toml"],
        model=paths["model.toml"],
        peers=peers,
        rounds=ROUNDS_MAX,
        corpus=paths["corpus.txt"],
        round_seconds=round_seconds,
        device="cpu",
    )


def conclude_trial(problems: Sequence[str], again: str, folder: Path, *, keep: bool) -> None:
    """Say what failed and how to repeat it, and end the program with 1; where nothing did, remove what nobody wants to keep."""
    for sentence in problems:
        say(f"FAILED: {sentence}")
    if problems:
        say(f"again: {again}; the directories are in {folder}")
        sys.exit(1)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
