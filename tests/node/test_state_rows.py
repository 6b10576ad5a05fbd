"""A state on a disk: opened by digests, read and proved when it is looked at, and found out where it is damaged."""

from __future__ import annotations

import pytest

from consensus.state import ACCOUNTS, PARAMETERS, State, all_rows
from node.recovery_repair import repair_chain
from node.state_rows import STATE, count_buckets, open_rows, state_key, store_changes
from protocol.state_proof import SubChain
from storage.keys import own_key
from storage.kv import Batch, DatabaseCorrupt, MemoryKeyValue, scan_all
from tests.consensus.ledger_samples import ACCOUNT_IDS, GENESIS
from tests.node.ground_samples import GroundedChain, make_ground


class WatchedKeyValue(MemoryKeyValue):
    """Says which rows of entries were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.scans: list[bytes] = []

    def scan(self, prefix: bytes, *, start: bytes = b"", limit: int) -> list[tuple[bytes, bytes]]:
        if prefix.startswith(STATE):
            self.scans.append(prefix)
        return super().scan(prefix, start=start, limit=limit)


def written() -> WatchedKeyValue:
    index, batch = WatchedKeyValue(), Batch()
    store_changes(batch, all_rows(GENESIS), GENESIS)
    index.write(batch)
    return index


def account_row(number: int = 0) -> bytes:
    return state_key(bytes([ACCOUNTS.chain]) + ACCOUNTS.prefix + ACCOUNT_IDS[number])


def spoil(index: MemoryKeyValue, row: bytes) -> None:
    """Bytes that nobody wrote."""
    batch = Batch()
    batch.put(row, b"a bit that flipped")
    index.write(batch)


def drop_digests(index: MemoryKeyValue) -> None:
    batch = Batch()
    for key, _ in scan_all(index, own_key("bucket")):
        batch.delete(key)
    index.write(batch)


def opened(index: MemoryKeyValue) -> State:
    state = open_rows(index, GENESIS.root())
    assert state is not None
    return state


def test_a_state_is_opened_without_reading_its_entries():
    """But for the one that says where all money is; then the bucket of each that is asked for, once."""
    index = written()
    state = opened(index)
    assert len(index.scans) == 1
    for _ in range(2):
        assert state.account(ACCOUNT_IDS[0]) == GENESIS.account(ACCOUNT_IDS[0])
    assert len(index.scans) == 2
    assert state.find(PARAMETERS, b"nobody") is None
    assert len(index.scans) == 2  # an empty bucket needs no reading
    assert dict(all_rows(state)) == dict(all_rows(GENESIS))
    assert state.supply == GENESIS.supply


def test_a_proof_from_an_opened_state_is_the_same():
    """Of what is there and of what is not, and the digests below any name."""
    state = opened(written())
    for key in (ACCOUNT_IDS[0], bytes(32)):
        assert state.prove(ACCOUNTS, key) == GENESIS.prove(ACCOUNTS, key)
    for chain in SubChain:
        assert state.trees[chain].digests_below(b"") == GENESIS.trees[chain].digests_below(b"")


def test_an_entry_that_the_disk_changed_is_found_out_when_it_is_looked_at():
    """With the remedy in the sentence; what stands elsewhere can still be read."""
    index = written()
    spoil(index, account_row())
    state = opened(index)
    with pytest.raises(DatabaseCorrupt, match="nocknode recovery repair"):
        state.account(ACCOUNT_IDS[0])
    assert state.account(ACCOUNT_IDS[1]) == GENESIS.account(ACCOUNT_IDS[1])


def test_digests_that_are_missing_are_counted_anew():
    """As in a directory from before there were any: the entries lead to the root by themselves."""
    index = written()
    before = dict(scan_all(index, own_key("bucket")))
    drop_digests(index)
    assert open_rows(index, GENESIS.root()) is None
    count_buckets(index)
    assert dict(scan_all(index, own_key("bucket"))) == before
    opened(index)


def test_a_ground_counts_digests_where_it_has_none():
    """Whoever opens it gets the state, and the next one does not count again."""
    ground = make_ground()
    chain = GroundedChain(ground)
    chain.add(payments=3)
    drop_digests(ground.index)
    assert make_ground(ground.index).load_state().root() == chain.execution.state.root()
    assert open_rows(ground.index, chain.execution.state.root()) is not None


def test_repair_reads_what_nobody_has_looked_at():
    """A state is opened although an entry of it is damaged; a check is not deceived, and repair forgets the chain."""
    ground = make_ground()
    chain = GroundedChain(ground)
    chain.add(payments=1)
    ground.check_state()
    spoil(ground.index, account_row(1))
    again = make_ground(ground.index)
    again.load_state()
    with pytest.raises(DatabaseCorrupt, match="nocknode recovery repair"):
        again.check_state()
    assert [damage.part for damage in repair_chain(make_ground(ground.index))] == ["chain"]
