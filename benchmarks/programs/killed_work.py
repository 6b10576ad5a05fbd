"""A process that works on a directory until it is killed: KIND FOLDER SEED, and what else the work is told."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started by its path


def say(*words: object) -> None:
    """One line, in one write: a reader has all of it, or nothing."""
    os.write(sys.stdout.fileno(), (" ".join(map(str, words)) + "\n").encode())


def main() -> None:
    """Work."""
    kind, folder, seed, *arguments = sys.argv[1:]
    work = importlib.import_module(f"benchmarks.kills.{kind}").work
    work(Path(folder), int(seed), say, *arguments)


if __name__ == "__main__":
    main()
