"""The doctor: each thing that may be wrong is found, and nothing is changed by looking."""

from __future__ import annotations

import socket

from node.doctor import (
    CHECKS,
    LEDGER_SLACK_BYTES,
    Grade,
    check_ledger,
    check_torch,
    examine,
    judge_device,
    judge_ledger,
)
from node.keys import create_keys
from protocol.ids import Height
from storage.io.files import DirectoryLock
from storage.io.rocks import RocksKeyValue
from storage.journal import MAGIC
from storage.ledger import FinalizedBlock, Ledger, Statistics

QUICK = [check for check in CHECKS if check is not check_torch]  # torch takes seconds; the commands' tests ask for it


def grades(root) -> dict[str, Grade]:
    return {finding.subject: finding.grade for finding in examine(root, QUICK)}


def test_a_sick_directory(tmp_path):
    """Wide keys, a damaged genesis, a wrong configuration and a damaged vote journal are bad; looking makes no lock."""
    create_keys(tmp_path / "keys")
    (tmp_path / "keys" / "vote.key").chmod(0o644)
    (tmp_path / "genesis.bin").write_bytes(b"damaged")
    (tmp_path / "config.toml").write_text("[compute]\nthreds = 1\n")
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "votes.journal").write_bytes(b"not a journal at all")
    found = examine(tmp_path, QUICK)
    assert {finding.subject for finding in found if finding.grade is Grade.BAD} == {
        "config",
        "keys",
        "genesis",
        "journal",
    }
    assert not (tmp_path / "lock").exists()


def test_an_empty_directory(tmp_path):
    """Without keys and genesis a node cannot start, and what to run is said."""
    found = {finding.subject: finding for finding in examine(tmp_path, QUICK)}
    assert found["keys"].grade is Grade.BAD
    assert "init --new" in found["keys"].remedy
    assert found["genesis"].grade is Grade.BAD
    assert found["config"].grade is Grade.WARNING


def test_a_directory_that_is_held(tmp_path):
    """A process that holds the directory without an API is worth a look; its ports are not tried."""
    with DirectoryLock(tmp_path):
        found = grades(tmp_path)
    assert found["lock"] is Grade.WARNING
    assert "ports" not in found
    assert grades(tmp_path)["lock"] is Grade.GOOD


def test_a_busy_port(tmp_path):
    """A port that somebody else listens on is bad."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (tmp_path / "config.toml").write_text(f'[network]\nlisten = ["/ip4/127.0.0.1/tcp/{port}"]\n')
        assert grades(tmp_path)["ports"] is Grade.BAD
    assert grades(tmp_path)["ports"] is Grade.GOOD


def test_journals(tmp_path):
    """A whole journal is good."""
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "votes.journal").write_bytes(MAGIC)
    assert grades(tmp_path)["journal"] is Grade.GOOD


def test_devices():
    """CUDA that was asked for and is not there is bad; a GPU that lies idle is a warning; the rest is good."""

    def grade(asked, cuda_build, devices, gpu_is_present):
        (finding,) = judge_device(asked, cuda_build, devices, gpu_is_present)
        return finding.grade

    assert grade("cuda", None, [], True) is Grade.BAD
    assert grade("cuda:1", "12.8", ["H200"], True) is Grade.BAD
    assert grade("auto", None, [], True) is Grade.WARNING
    assert grade("auto", "12.8", [], True) is Grade.WARNING
    assert grade("auto", None, [], False) is Grade.GOOD
    assert grade("cuda:0", "12.8", ["H200"], True) is Grade.GOOD
    assert grade("cpu", "12.8", ["H200"], True) is Grade.GOOD


def ledger_findings(root) -> list[tuple[Grade, str]]:
    return [(found.grade, found.sentence) for found in examine(root, [check_ledger])]


def test_the_ledger(tmp_path):
    """Oldest and newest height and the bytes, also beside a running node; a warning when they are far over the allowance."""
    assert ledger_findings(tmp_path) == []
    index = RocksKeyValue(tmp_path / "db")
    assert ledger_findings(tmp_path) == [(Grade.GOOD, "No block is kept yet.")]
    ledger = Ledger(index)
    for height in (3, 4):
        ledger.append(FinalizedBlock(Height(height), b"header", bytes(100_000), b"certificate"))
    used = ledger.statistics().bytes_used
    assert ledger_findings(tmp_path) == [(Grade.GOOD, f"Blocks 3 to 4 take {used:,} bytes.")]
    index.close()


def test_a_ledger_far_over_its_allowance():
    """As much as may come between two looks of the node is none of the doctor's business; more is, with both numbers."""
    kept = Statistics(bytes_used=LEDGER_SLACK_BYTES + 65_537, oldest_height=3, tip_height=4)
    assert judge_ledger(kept, 65_537).grade is Grade.GOOD
    found = judge_ledger(kept, 65_536)
    assert found.grade is Grade.WARNING
    assert "storage.chain_bytes_max allows 65,536." in found.sentence


def test_a_damaged_database(tmp_path):
    """It is bad, with the remedy; of one that a node has open, only the node can tell."""
    RocksKeyValue(tmp_path / "db").close()
    (manifest,) = (tmp_path / "db").glob("MANIFEST-*")
    manifest.write_bytes(b"damaged" + manifest.read_bytes())
    ((grade, sentence),) = ledger_findings(tmp_path)
    assert grade is Grade.BAD
    assert "nocknode recovery repair" in sentence
    with DirectoryLock(tmp_path):
        ((grade, sentence),) = ledger_findings(tmp_path)
    assert grade is Grade.GOOD
    assert "nocknode chain status" in sentence
