"""The doctor: each thing that may be wrong is found, and nothing is changed by looking."""

from __future__ import annotations

import socket

from node.doctor import CHECKS, Grade, check_torch, examine, judge_device
from node.keys import create_keys
from storage.io.files import DirectoryLock
from storage.journal import MAGIC

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
