"""Every benchmark answers its short form with the documented object."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {"name", "unit", "ours", "peer", "peer_name", "floor", "ratio"}
PROGRAMS = [
    "codec",
    "chain",
    "storage",
    "allocation",
    "expert_calls",
    pytest.param("serve", marks=pytest.mark.slow),
    "encoding_check",
    "erasure",
    pytest.param("custody", marks=pytest.mark.slow),
    pytest.param("kill_storage", marks=pytest.mark.slow),
    pytest.param("load", marks=pytest.mark.slow),
    pytest.param("parity", marks=pytest.mark.slow),
    pytest.param("poison", marks=pytest.mark.slow),
    pytest.param("tile_round", marks=pytest.mark.slow),
    pytest.param("traffic", marks=pytest.mark.slow),
]


@pytest.mark.timeout(900)  # thirteen nodes start on two cores, while other tests run
@pytest.mark.parametrize("name", PROGRAMS)
def test_short_form_prints_rows(name: str) -> None:
    """With --quick --json the last line of stdout is one object whose rows have exactly the documented fields."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["benchmark"] == name
    assert answer["rows"]
    for row in answer["rows"]:
        assert set(row) == FIELDS
        assert row["name"]
        assert row["unit"]
        assert row["ours"] is not None
        assert (row["ratio"] is None) == (row["peer"] is None)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")))
def test_runs_as_a_plain_program_from_anywhere(name: str, tmp_path: Path) -> None:
    """A benchmark may be started by its path: its neighbour named like a package of ours does not hide that."""
    program = ROOT / "benchmarks" / f"{name}.py"
    done = subprocess.run([sys.executable, str(program), "--help"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"--quick" in done.stdout
