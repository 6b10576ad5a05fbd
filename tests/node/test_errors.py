"""Errors become one sentence and an exit code: 2 for the user's mistakes and the world's, 1 for ours."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from node.errors import CommandFailed, explain
from p2p.transport import PeerUnreachable
from protocol.rejection import InvariantBroken, Reason, Rejected
from storage.budget import StorageFull
from storage.io.files import DirectoryBusy
from storage.kv import DatabaseCorrupt
from tests.room import no_room


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.code)
def test_every_rejection_is_a_sentence_with_its_detail(reason):
    """Whoever is to blame, the person at this machine reads one sentence."""
    failure = explain(Rejected(reason, "what to do"))
    assert failure.exit_code == 2
    assert failure.sentence.endswith(": what to do")
    assert "\n" not in failure.sentence


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (CommandFailed("no node runs"), "no node runs"),
        (DirectoryBusy("The data directory is in use."), "in use"),
        (DatabaseCorrupt("The database is damaged."), "damaged"),
        (PeerUnreachable("Nobody answers at that address."), "Nobody answers"),
        (StorageFull(5, 6, 10), "storage"),
        (OSError(errno.EADDRINUSE, "Address already in use"), "choose another address"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "x: the disk is full"),
        (OSError(errno.EFBIG, "File too large"), "make room"),
        (PermissionError(errno.EACCES, "Permission denied", "y"), "y: permission denied"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "torch is not installed"),
        (ExceptionGroup("a nursery", [Rejected(Reason.BAD_DEVICE, "cuda")]), "compute device cannot be used: cuda"),
    ],
)
def test_the_worlds_failures_have_a_remedy(error, words):
    """Locks, disks, ports, peers and missing libraries are told in a sentence; exit code 2."""
    failure = explain(error)
    assert failure.exit_code == 2
    assert words in failure.sentence


@pytest.mark.parametrize(
    "error",
    [
        KeyError("round"),
        InvariantBroken("two roots for one slot"),
        ModuleNotFoundError("No module named 'nodde'", name="nodde"),
        OSError(errno.EBADF, "Bad file descriptor"),
        BaseExceptionGroup("a nursery", [Rejected(Reason.BUSY), InvariantBroken("two roots for one slot")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_our_own_bugs_leave_their_traceback_in_a_file(error, tmp_path):
    """A bug is one sentence that names a file with the traceback; exit code 1."""
    failure = explain(error, tmp_path)
    assert failure.exit_code == 1
    path = Path(failure.sentence.rpartition(" ")[2])
    assert path.parent == tmp_path
    assert type(error).__name__ in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_a_bug_on_a_full_disk_is_told_all_the_same(capsys, tmp_path):
    """Where no file takes the traceback, it goes to stderr and none is left: the sentence and the exit code stay."""
    with no_room():
        failure = explain(KeyError("round"), tmp_path)
    assert failure.exit_code == 1
    assert "bug of ours" in failure.sentence
    assert "traceback above" in failure.sentence
    assert "KeyError: 'round'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_says_nothing():
    """Ctrl-C needs no explanation."""
    assert (explain(KeyboardInterrupt()).sentence, explain(KeyboardInterrupt()).exit_code) == ("", 130)
