"""What a data directory says of forks: nothing is adopted but what its operator named, and nothing that is not whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.fork_rows import RECOVERY_FILE, Fork, find_fork, find_pending, forget_fork, put_fork, trust_of
from protocol.digest import blob_digest
from protocol.recovery import SignedRecovery, decode_recovery
from protocol.rejection import Reason, Rejected
from storage.files import MemoryFiles
from storage.kv import Batch, MemoryKeyValue
from tests.protocol.samples import genesis

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "protocol" / "recovery.json").read_text())
DATA, NAME = bytes.fromhex(VECTORS["signed"]), VECTORS["digest"]
SIGNED: SignedRecovery = decode_recovery(DATA)


def files(data: bytes | None = DATA) -> MemoryFiles:
    made = MemoryFiles()
    if data is not None:
        made.write(RECOVERY_FILE, [data])
    return made


def reason_of(made: MemoryFiles, adopt: str = NAME, adopted: Fork | None = None) -> Reason:
    with pytest.raises(Rejected) as caught:
        find_pending(made, adopt, genesis(), adopted)
    return caught.value.reason


def test_the_file_alone_does_nothing() -> None:
    """Its digest is in the configuration, or it is not looked at."""
    assert find_pending(files(b"anything"), "", genesis(), None) is None
    pending = find_pending(files(), NAME, genesis(), None)
    assert pending is not None
    assert (pending.chain.fork, pending.signed) == (1, SIGNED)
    assert trust_of(pending, genesis())[0].height == pending.height
    assert trust_of(None, genesis())[0].height == 0


def test_what_is_named_is_there_and_whole() -> None:
    """No file, another one, or one that more than two thirds did not sign: the node does not start."""
    assert reason_of(files(None)) is Reason.BAD_DATA_DIRECTORY
    assert reason_of(files(), "00" * 32) is Reason.BAD_DATA_DIRECTORY
    assert reason_of(files(DATA[:-1])) is Reason.MALFORMED


def test_what_was_adopted_is_not_adopted_again() -> None:
    """The row lasts, whatever the configuration says later; a fork that does not follow it is refused."""
    index, batch = MemoryKeyValue(), Batch()
    assert find_fork(index, genesis()) is None
    put_fork(batch, SIGNED, blob_digest(b"state"))
    index.write(batch)
    adopted = find_fork(index, genesis())
    assert adopted is not None
    assert (adopted.chain.fork, adopted.state_root) == (1, blob_digest(b"state"))
    assert find_pending(files(None), NAME, genesis(), adopted) is None
    assert reason_of(files(), "11" * 32, adopted) is Reason.BAD_DATA_DIRECTORY
    batch = Batch()
    forget_fork(batch)
    index.write(batch)
    assert find_fork(index, genesis()) is None
