"""The same bits everywhere: pinned, under different processor features and hash seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden_deltas.py"
VECTORS = Path(__file__).parent.parent / "vectors" / "compute" / "deltas.json"


def _dispatched_features() -> list[str]:
    """Instruction sets that this numpy would use on this processor beyond its baseline; empty where it cannot say."""
    module = getattr(np, "_core", None)
    umath = getattr(module, "_multiarray_umath", None)
    dispatched = getattr(umath, "__cpu_dispatch__", [])
    present = getattr(umath, "__cpu_features__", {})
    return [name for name in dispatched if present.get(name)]


FEATURES = _dispatched_features()


@pytest.mark.parametrize(
    ("disabled", "hash_seed"),
    [([], "1"), (FEATURES, "2"), (FEATURES[1:], "3")],
    ids=["every feature", "baseline only", "lowest dispatched feature"],
)
def test_results_are_the_pinned_bits(disabled: list[str], hash_seed: str) -> None:
    """Payloads, merges and outer steps have the pinned bits, whatever the instruction set and the hash seed."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "NPY_DISABLE_CPU_FEATURES": " ".join(disabled),
        "PYTHONPATH": str(GOLDEN.parent.parent.parent),
    }
    done = subprocess.run(
        [sys.executable, str(GOLDEN)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(VECTORS.read_text())
