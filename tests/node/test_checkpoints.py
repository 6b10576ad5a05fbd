"""Checkpoints on a real disk, and the moment in which a fetched one becomes the state of a node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from consensus.state import Account, State, all_rows, changes_between
from node.checkpoints import (
    CHECKPOINTS_KEPT,
    branch_digest,
    check_checkpoint_manifest,
    checkpoint_name,
    list_checkpoints,
    take_checkpoint,
)
from node.data_directory import DataDirectory
from node.disk import DirectoryDisk
from node.state_rows import (
    FetchRow,
    begin_fetch,
    digests_below,
    entries_below,
    fetched_parts,
    find_fetch,
    keep_part,
    keep_split,
    scan_state,
    store_changes,
)
from protocol.codec import encode
from protocol.ids import Digest, Height
from protocol.light_client import LightBlock
from protocol.rejection import Rejected
from protocol.state_proof import SubChain
from protocol.state_sync import EMPTY, StateEntry, check_entries, children_of
from storage.files import MemoryFiles
from storage.kv import Batch, DatabaseCorrupt, KeyValue, MemoryKeyValue
from storage.ledger import FinalizedBlock
from tests.consensus.ledger_samples import ACCOUNT_IDS, GENESIS
from tests.consensus.light_chain import LightChain
from tests.node.ground_samples import make_ground
from tests.node.test_ground_crashes import CuttingKeyValue, PowerCut

LIGHT = LightChain([{0: 1, 1: 2, 2: 1}, {0: 1, 1: 2, 2: 1}])


def light_block(height: int, state: State) -> LightBlock:
    """A certified block of a height that a state is after; nobody looks at the certificate here."""
    block = LIGHT.boundary(1)
    return replace(block, header=replace(block.header, height=Height(height), state_root=state.root()))


def write(index: KeyValue, before: State | None, after: State) -> None:
    batch = Batch()
    store_changes(batch, all_rows(after) if before is None else changes_between(before, after), after)
    index.write(batch)


def rows_of(state: State) -> dict[bytes, bytes]:
    return {key: encode(entry) for key, entry in all_rows(state) if entry is not None}


def paid(state: State, amount_nano: int) -> State:
    """A state in which somebody moved money: from one account to another."""
    for account, change in ((ACCOUNT_IDS[0], -amount_nano), (ACCOUNT_IDS[1], amount_nano)):
        before = state.account(account)
        state = state.put_account(account, before, Account(before.balance_nano + change, before.nonce))
    return state.sealed()


def test_a_checkpoint_stays_as_it_was_while_the_chain_goes_on(tmp_path: Path) -> None:
    """Each part of it proves itself against the manifest, after later blocks and after a restart; the oldest go."""
    places = DataDirectory(tmp_path)
    disk, states = DirectoryDisk(places), [GENESIS]
    write(disk.index, None, GENESIS)
    for epoch in range(1, CHECKPOINTS_KEPT + 2):
        states.append(paid(states[-1], epoch))
        write(disk.index, states[-2], states[-1])
        take_checkpoint(disk, light_block(4 * epoch, states[-1]), states[-1])
    disk.close()
    (places.checkpoints / "000000000099.part").mkdir()
    disk = DirectoryDisk(places)
    kept = list(list_checkpoints(disk))
    assert [each.height for each in kept] == [4 * epoch for epoch in range(CHECKPOINTS_KEPT + 1, 1, -1)]
    for manifest in kept:
        state = states[manifest.height // 4]
        rows = disk.open_checkpoint(checkpoint_name(manifest.height))
        assert dict(scan_state(rows)) == rows_of(state)
        for chain in SubChain:
            for branch in children_of(bytes([chain])):
                check_entries(branch, tuple(entries_below(rows, branch)), branch_digest(manifest, branch))
        rows.close()
    assert dict(scan_state(disk.index)) == rows_of(states[-1])
    assert disk.other_bytes() > 0
    disk.close()


def test_a_manifest_that_was_changed_is_no_checkpoint(tmp_path: Path) -> None:
    """A flipped bit in what it says of the state is found before anybody is told."""
    disk = DirectoryDisk(DataDirectory(tmp_path))
    write(disk.index, None, GENESIS)
    take_checkpoint(disk, light_block(4, GENESIS), GENESIS)
    path = tmp_path / "checkpoints" / checkpoint_name(4) / "manifest"
    good = path.read_bytes()
    check_checkpoint_manifest(good)
    at = good.index(GENESIS.sub_roots()[SubChain.C])
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    with pytest.raises(Rejected):
        check_checkpoint_manifest(path.read_bytes())
    assert not list(list_checkpoints(disk))
    disk.close()


def test_digests_from_rows_are_those_of_the_tree() -> None:
    """What a node computes from its disk is what the state in memory says."""
    index = MemoryKeyValue()
    write(index, None, GENESIS)
    tree = GENESIS.trees[SubChain.C]
    assert digests_below(index, bytes([SubChain.C])) == tree.digests_below(b"")
    full = next(at for at, digest in enumerate(tree.digests_below(b"")) if digest != EMPTY[1])
    assert digests_below(index, bytes([SubChain.C, full])) == tree.digests_below(bytes([full]))


def keep(index: KeyValue, name: bytes, entries: Sequence[StateEntry], digest: Digest) -> None:
    """One part, in a batch of its own."""
    batch = Batch()
    keep_part(batch, index, name, entries, check_entries(name, entries, digest), digest)
    index.write(batch, durable=False)


def fetch_and_adopt(index: KeyValue, files: MemoryFiles) -> None:
    """As a process does that may have begun before: fetch every branch, then begin after the block."""
    ground, state = make_ground(index, files), paid(GENESIS, 7)
    block = light_block(8, state)
    if find_fetch(index) is None:
        if ground.ledger.tip() is not None:
            return
        begin_fetch(index, FetchRow(block, (block,), state.sub_roots()))
    with pytest.raises(DatabaseCorrupt, match="only a part"):
        ground.load_state()
    source = MemoryKeyValue()
    write(source, None, state)
    done = fetched_parts(index)
    for chain in SubChain:
        for name, digest in zip(children_of(bytes([chain])), state.trees[chain].digests_below(b""), strict=True):
            if digest != EMPTY[1] and done.get(name) != digest:
                keep(index, name, tuple(entries_below(source, name)), digest)
    row = find_fetch(index)
    assert row is not None
    ground.adopt_checkpoint(row, FinalizedBlock(Height(8), encode(block.header), b"", encode(block.certificate)))


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_a_power_cut_at_any_write_of_joining_loses_nothing(done: bool) -> None:
    """The state is a part of one, and is known to be, or it is whole, with the ledger that belongs to it."""
    write_number, cuts = 0, 0
    while True:
        write_number += 1
        index, files = CuttingKeyValue(write_number, done=done), MemoryFiles()
        try:
            write(index, None, GENESIS)  # an older state of its own
            fetch_and_adopt(index, files)
        except PowerCut:
            cuts += 1
            fetch_and_adopt(index, files)
        ground = make_ground(index, files)
        assert find_fetch(index) is None
        assert ground.load_state().root() == paid(GENESIS, 7).root()
        assert (ground.ledger.oldest(), ground.ledger.tip()) == (8, 8)
        assert not fetched_parts(index)
        if write_number > cuts:
            break
    assert cuts >= 6  # the state, the row, each part that differs, each family of the ledger, and the end


def test_an_older_state_is_parts_of_a_newer_one() -> None:
    """What a node has already counts as fetched, by its digests, so that what is no longer there is removed as well."""
    index, newer = MemoryKeyValue(), paid(GENESIS, 7)
    write(index, None, GENESIS)
    block = light_block(8, newer)
    begin_fetch(index, FetchRow(block, (block,), newer.sub_roots()))
    kept = fetched_parts(index)
    for chain in SubChain:
        for name, digest in zip(children_of(bytes([chain])), GENESIS.trees[chain].digests_below(b""), strict=True):
            assert kept.pop(name, EMPTY[1]) == digest
    assert not kept


def test_a_part_that_is_split_is_known_by_its_parts() -> None:
    """In place of one digest there are 256, and the entries stay."""
    index = MemoryKeyValue()
    name = bytes([SubChain.C, 3])
    keep(index, name, (), EMPTY[1])
    batch = Batch()
    keep_split(batch, name, [Digest(EMPTY[2])] * 256)
    index.write(batch)
    assert fetched_parts(index) == dict.fromkeys(children_of(name), EMPTY[2])
