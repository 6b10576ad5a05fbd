"""The main job with real nodes: processes, sockets, databases, torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


def run(tmp_path: Path, rounds: int, *faults: str) -> dict[str, Any]:
    """The facts of a network of four that learned so many rounds of the smallest model, and passed."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"def function_{n}(value):\n    return value * {n} + {n % 7}\n\n" for n in range(6000)))
    command = [
        *(sys.executable, "-m", "node", "simnet", "up", "--json"),
        *("--peers", "4", "--rounds", str(rounds), "--round-seconds", "10", "--device", "cpu"),
        *("--model", str(ROOT / "configs/model/nano.toml"), "--corpus", str(corpus), "--out", str(tmp_path / "run")),
        *faults,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=270, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert facts["roots_agree"]
    assert facts["rounds_agreed"] == rounds
    assert facts["val_loss"][-1] < facts["val_loss"][0]
    assert all(report["ok"] for report in facts["verify"].values()), facts["verify"]
    return facts


def test_four_nodes_learn_agree_and_survive_the_loss_of_an_owner(tmp_path):
    """Four processes train on text; an owner is killed with -9 and returns; all roots agree and derive from genesis."""
    facts = run(tmp_path, 4, "--kill", "owner:trunk/0@1", "--restart", "killed@2")
    assert sum(facts["tiles_advanced"]) >= 0.9 * 4 * facts["tiles"], facts["lagging"]
    assert (tmp_path / "run" / "report.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("fault", "began", "over"),
    [
        (("--pause", "owner:trunk/0@1+4"), "paused (SIGSTOP), the owner", "goes on (SIGCONT)"),
        (("--slow-link", "1@1+4"), "peer 1 has a slow link", "peer 1 has its usual link again"),
    ],
)
def test_four_nodes_agree_after_a_fault_that_passes(tmp_path, fault, began, over):
    """A node that hung for some seconds, or was hard to reach, takes part again and holds what the others hold."""
    facts = run(tmp_path, 6, *fault)
    said = [fault["what"] for fault in facts["faults"]]
    assert len(said) == 2
    assert began in said[0]
    assert over in said[1]


@pytest.mark.skipif(sys.platform != "linux", reason="taking the room from a running process is Linux's")
def test_a_node_on_a_full_disk_stops_in_order_and_loses_nothing(tmp_path):
    """It ends with one sentence and code 2, comes back when there is room, and holds what the others hold."""
    facts = run(tmp_path, 6, "--fill-disk", "1@1+4")
    assert facts["ended"] == []
    assert facts["faults"][-1]["what"] == "peer 1 started again"
    (stop,) = [
        line
        for line in (tmp_path / "run" / "logs" / "peer-1.log").read_text().splitlines()
        if line.startswith("nocknode: ")
    ]
    assert "make room" in stop
