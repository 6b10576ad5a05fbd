"""The main job with real nodes: processes, sockets, databases, torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 4


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_four_nodes_learn_agree_and_survive_the_loss_of_an_owner(tmp_path):
    """Four processes train on text; an owner is killed with -9 and returns; all roots agree and derive from genesis."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"def function_{n}(value):\n    return value * {n} + {n % 7}\n\n" for n in range(6000)))
    command = [
        *(sys.executable, "-m", "node", "simnet", "up", "--json"),
        *("--peers", "4", "--rounds", str(ROUNDS), "--round-seconds", "10", "--device", "cpu"),
        *("--model", str(ROOT / "configs/model/nano.toml"), "--corpus", str(corpus), "--out", str(tmp_path / "run")),
        *("--kill", "owner:trunk/0@1", "--restart", "killed@2"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=270, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["roots_agree"]
    assert facts["rounds_agreed"] == ROUNDS
    assert sum(facts["tiles_advanced"]) >= 0.9 * ROUNDS * facts["tiles"], facts["lagging"]
    assert facts["val_loss"][-1] < facts["val_loss"][0]
    assert all(report["ok"] for report in facts["verify"].values()), facts["verify"]
    assert (tmp_path / "run" / "report.png").stat().st_size > 10_000
