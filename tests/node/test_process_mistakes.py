"""Bad input meets one sentence and exit code 2, from the real program."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.io.files import DirectoryLock
from tests.node.processes import Network, NodeProcess, run_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    """A founded network of one, not running."""
    with Network(tmp_path, 1) as network:
        yield network.nodes[0]


def complaint(*arguments: str) -> str:
    """The one sentence with which a command ends in code 2."""
    ended = run_command(*arguments)
    assert ended.returncode == 2, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("nocknode: ")]
    assert len(lines) == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return lines[0]


def start_complaint(node: NodeProcess, *options: str) -> str:
    return complaint("start", "--data-dir", str(node.directory), "--no-learn", *options)


def test_a_locked_data_directory_names_the_holder(node: NodeProcess) -> None:
    """A second node on one directory is refused with the number of the first."""
    lock = DirectoryLock(node.directory)
    try:
        assert "process" in start_complaint(node)
    finally:
        lock.close()


def test_a_corrupt_database_says_what_to_do(node: NodeProcess) -> None:
    """A database whose manifest is not one is told apart from a bug, with the remedy."""
    manifests = list(node.places.database.glob("MANIFEST-*"))
    assert manifests
    for manifest in manifests:
        manifest.write_bytes(b"\xff" * manifest.stat().st_size)
    assert "database" in start_complaint(node)


def test_a_busy_port_is_named(node: NodeProcess) -> None:
    """Neither the peers' port nor the interface's may be in use."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in start_complaint(node, "--listen", f"/ip4/127.0.0.1/tcp/{port}")
        assert str(port) in start_complaint(node, "--api", f"127.0.0.1:{port}")


def test_a_wrong_network_id_is_refused(node: NodeProcess) -> None:
    """A genesis document that is not the one that config.toml names is not used."""
    text = node.places.config.read_text()
    at = text.index('\nid = "') + len('\nid = "')
    node.places.config.write_text(text[:at] + "ab" * 32 + text[at + 64 :])
    assert "network.id" in start_complaint(node)


def test_a_damaged_genesis_document_is_refused(node: NodeProcess) -> None:
    """One flipped bit in genesis.bin is found before anything is served."""
    data = bytearray(node.places.genesis.read_bytes())
    data[len(data) // 2] ^= 1
    node.places.genesis.write_bytes(data)
    start_complaint(node)


@pytest.mark.parametrize("option", ["--listen", "--bootstrap"])
def test_a_bad_multiaddr_is_quoted(node: NodeProcess, option: str) -> None:
    """An address that is none is repeated to whoever typed it."""
    assert "/ip4/nowhere" in start_complaint(node, option, "/ip4/nowhere")


def test_a_corpus_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """A corpus that is not there, or holds no text, founds no network and leaves no directory half made."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").write_bytes(b"\x00\xff" * 1000)
    for name in ("missing", "empty", "binary"):
        directory = tmp_path / f"node-{name}"
        said = complaint(
            *("init", "--new", "--network", "test", "--corpus", str(tmp_path / name), "--data-dir", str(directory))
        )
        assert name in said
        assert not (directory / "genesis.bin").exists()


def test_a_peer_that_is_not_there_cannot_be_joined(tmp_path: Path) -> None:
    """Joining says that nobody answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"/ip4/127.0.0.1/tcp/{port}/p2p/12D3KooWCJFazMChEnEkaVixnUhjUskW9yLqgtynekEF13VJ28wW"
    assert "127.0.0.1" in complaint(
        *("init", "--join", address, "--network-id", "ab" * 32, "--data-dir", str(tmp_path / "node"))
    )
