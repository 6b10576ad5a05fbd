"""Versions that rest on a base and its updates: opened bit for bit, folded, pruned, and there after any crash."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocol.ids import Digest, TileId, Version
from protocol.limits import UPDATES_PER_BASE_MAX
from protocol.rejection import Reason, Rejected
from storage.budget import KeepRule, Kind
from storage.compaction import CompactionRule, Trigger
from storage.files import MemoryFiles, PowerCut
from storage.io.blob_store import BlobStore
from storage.io.room import BlobUse, plan_removal, remove_blobs, remove_tiles
from storage.io.tile_store import COPIES_KEPT, TileStore, Updated
from storage.kv import Batch, MemoryKeyValue
from storage.tile_format import CheckedTile, tile_block, tile_file_name

TRUNK, EXPERT = TileId("trunk/0"), TileId("layer0.expert1/2")
VALUES = 40


def step(state: bytes, update: bytes) -> bytes:
    """An outer step of this test: every value depends on all of the update and on itself."""
    mask = hashlib.sha256(update).digest()
    return bytes(byte ^ mask[index % 32] for index, byte in enumerate(state))


def genesis_state(tile_id: TileId) -> bytes:
    return struct.pack(f"<{VALUES}f", *range(VALUES)) if tile_id == TRUNK else bytes(4 * VALUES)


class Node:
    """Both stores on one disk, as a process finds them; and what a store of whole files would hold."""

    def __init__(
        self,
        files: MemoryFiles,
        index: MemoryKeyValue,
        states: dict[tuple[TileId, int], bytes] | None = None,
        monotonic_ms: Callable[[], int] = lambda: 0,
        rule: CompactionRule | None = None,
    ) -> None:
        self.files, self.index = files, index
        self.states = {} if states is None else states
        self.blobs = BlobStore(files, index)
        self.tiles = TileStore(files, index, self.rebuild, monotonic_ms, rule)

    def rebuild(self, base: CheckedTile, version: Version, updates: Sequence[Digest]) -> bytes:
        state = bytes(base.state)
        for name in updates:
            update = self.blobs.read(name)
            if update is None:
                raise Rejected(Reason.NOT_FOUND, name.hex())
            state = step(state, bytes(update))
        return tile_block(base.tile_id, state, 1, VALUES)[0]

    def put_base(self, tile_id: TileId, version: int) -> None:
        state = self.states.setdefault((tile_id, version), genesis_state(tile_id))
        self.tiles.put(tile_id, Version(version), *tile_block(tile_id, state, 1, VALUES))

    def put_update(self, tile_id: TileId, update: bytes) -> int:
        """The version after the newest: the update first, as every member does before it votes."""
        newest = self.tiles.newest(tile_id)
        version = Version(newest + 1)
        state = self.states[tile_id, version] = step(self.states[tile_id, newest], update)
        name = self.blobs.put(update)
        file, root = tile_block(tile_id, state, 1, VALUES)
        self.tiles.put_updated([Updated(tile_id, version, file, root, name, len(update))])
        return version

    def state(self, tile_id: TileId, version: int) -> bytes:
        return bytes(self.tiles.open(tile_id, Version(version)).state)

    def check(self) -> None:
        """Every version that is held opens and verifies, and is what a whole file of it would be."""
        for held in self.tiles.held():
            assert self.state(held.tile_id, held.version) == self.states[held.tile_id, held.version]

    def restarted(self) -> Node:
        """kill -9: what the process wrote is there, synced or not."""
        return Node(self.files, self.index, self.states)


def node_with(updates: int, files=None, index=None, **options) -> Node:
    node = Node(files or MemoryFiles(), index or MemoryKeyValue(), **options)
    node.put_base(TRUNK, 0)
    for number in range(updates):
        node.put_update(TRUNK, b"update %d" % number)
    return node


def files_of(node: Node) -> list[str]:
    return node.files.names("tiles")


def names(*versions: int) -> list[str]:
    return sorted(tile_file_name(TRUNK, Version(version)) for version in versions)


# -- holding ----------------------------------------------------------------------------------------------------------------


def test_versions_rest_on_their_base(files, index):
    """Pruning leaves the base and the newest copies; every version kept opens, from a copy, from the base, after a restart."""
    node = node_with(7, files, index)
    file_bytes = files.size(names(0)[0])
    assert node.tiles.prune(TRUNK, 4) == [1, 2, 3]
    for again in (node, node.restarted()):
        assert again.tiles.versions(TRUNK) == [0, 4, 5, 6, 7]
        assert files_of(again) == names(0, 6, 7)
        again.check()
        said = again.tiles.statistics()
        assert (said.versions, said.resting, said.copies) == (5, 4, 2)
        assert (said.bytes_used, said.bytes_saved) == (3 * file_bytes, 2 * file_bytes)
        assert said.rebuilt == 2
        assert len(again.tiles.in_use()) == 7
    assert node.tiles.statistics().bytes_put == 8 * file_bytes
    assert node.tiles.statistics().bytes_synced == file_bytes


def test_without_a_way_to_apply_updates_every_version_is_a_file(files, index):
    """A store that cannot make a version again does not promise to."""
    node = node_with(0, files, index)
    node.tiles = TileStore(files, index)
    node.put_update(TRUNK, b"update")
    assert node.tiles.find(TRUNK, Version(1)).is_base


def test_a_version_without_a_base_becomes_one(files, index):
    """After a gap, and where the base was lost: nothing rests on what is not there."""
    node = node_with(2, files, index)
    node.states[TRUNK, 9] = genesis_state(TRUNK)
    node.put_base(TRUNK, 9)
    node.put_update(TRUNK, b"ten")
    assert node.tiles.find(TRUNK, Version(10)).base == 9
    files.remove(tile_file_name(TRUNK, Version(9)))
    with pytest.raises(Rejected, match="its file is gone"):
        node.tiles.open(TRUNK, Version(9))
    node.put_update(TRUNK, b"eleven")
    assert node.tiles.find(TRUNK, Version(11)).is_base


def test_a_version_that_is_put_again_is_a_file(files, index):
    """Whoever repairs a version puts it whole; what rests on its base goes on doing so."""
    node = node_with(3, files, index)
    node.put_base(TRUNK, 2)
    assert node.tiles.find(TRUNK, Version(2)).is_base
    assert node.tiles.find(TRUNK, Version(3)).base == 0
    node.check()
    file_bytes = files.size(names(0)[0])
    assert node.tiles.bytes_used == node.restarted().tiles.bytes_used == 4 * file_bytes


def test_a_base_never_becomes_less(files, index):
    """A decided version that is put once more, by its update, stays durable in its own file."""
    node = node_with(1, files, index)
    node.states[TRUNK, 2] = step(node.states[TRUNK, 1], b"two")
    node.put_base(TRUNK, 2)
    file, root = tile_block(TRUNK, node.states[TRUNK, 2], 1, VALUES)
    node.tiles.put_updated([Updated(TRUNK, Version(2), file, root, node.blobs.put(b"two"), 3)])
    assert node.tiles.find(TRUNK, Version(2)).is_base
    node.check()


def test_a_reader_in_another_process_gets_a_file(files, index):
    """A copy that is gone is made again, and its name is given; a base's name as it is."""
    node = node_with(3, files, index)
    node.tiles.prune(TRUNK, 4)
    assert node.tiles.ensure_file(TRUNK, Version(0)) == names(0)[0]
    name = node.tiles.ensure_file(TRUNK, Version(1))
    assert bytes(files.read(name)) == tile_block(TRUNK, node.states[TRUNK, 1], 1, VALUES)[0]
    assert [held.version for held in node.tiles.copies()] == [1, 2, 3]
    with pytest.raises(LookupError, match="version 4"):
        node.tiles.ensure_file(TRUNK, Version(4))


# -- damage -----------------------------------------------------------------------------------------------------------------


def test_a_damaged_copy_costs_nothing(files, index, damage):
    """It is found when it is used and put aside; the version is still held, and the next look makes it again."""
    node = node_with(3, files, index)
    damage(files, names(3)[0], 4096)
    with pytest.raises(Rejected):
        node.state(TRUNK, 3)
    assert files.names("quarantine") == ["quarantine/trunk.0.3"]
    node.check()
    damage(files, names(2)[0], 4096)
    again = node.restarted()  # from before the start: looked at whole before it is believed
    again.check()
    assert (again.tiles.statistics().torn_copies, again.tiles.statistics().corrupt_count) == (1, 0)
    assert again.tiles.versions(TRUNK) == [0, 1, 2, 3]


def test_what_rests_on_a_damaged_base_is_lost_with_it(files, index, damage):
    """But for copies. The sentence says what to do, and the version is no longer held."""
    node = node_with(4, files, index)
    node.tiles.prune(TRUNK, 4)
    damage(files, names(0)[0], 4096)
    with pytest.raises(Rejected, match=r"what it rests on is damaged .*fetch it from a peer") as caught:
        node.tiles.open(TRUNK, Version(1))
    assert caught.value.reason is Reason.TILE_CORRUPT
    assert node.tiles.versions(TRUNK) == [2, 3, 4]
    assert node.state(TRUNK, 4) == node.states[TRUNK, 4]


def test_an_update_that_the_disk_changed_is_named(files, index):
    """A version that rests on it is not made up of something else."""
    node = node_with(3, files, index)
    node.tiles.prune(TRUNK, 4)
    node.blobs.delete(node.tiles.find(TRUNK, Version(1)).updates[0])
    with pytest.raises(Rejected, match="fetch it from a peer"):
        node.tiles.open(TRUNK, Version(1))
    wrong = node.restarted()
    wrong.rebuild = lambda base, version, updates: tile_block(base.tile_id, bytes(4 * VALUES), 1, VALUES)[0]
    wrong.tiles = TileStore(files, index, lambda *arguments: wrong.rebuild(*arguments))
    wrong.tiles.drop_copies(TRUNK, [Version(2)])
    with pytest.raises(Rejected, match="does not lead to root"):
        wrong.tiles.open(TRUNK, Version(2))
    assert wrong.tiles.versions(TRUNK) == [0, 3]


# -- folding ----------------------------------------------------------------------------------------------------------------


def test_the_eleventh_update_is_folded(files, index):
    """The newest becomes a base; what rests on the old one goes on, whoever had it open too; then the old one goes."""
    node = node_with(UPDATES_PER_BASE_MAX, files, index, rule=CompactionRule(tile_divisor=1))
    node.tiles.prune(TRUNK, 4)
    assert node.tiles.fold(TRUNK) is None
    node.put_update(TRUNK, b"one more")
    opened = [node.tiles.open(TRUNK, Version(version)) for version in (9, 11)]
    assert node.tiles.fold(TRUNK) is Trigger.LENGTH
    assert node.tiles.fold(TRUNK) is None
    assert [bytes(tile.state) for tile in opened] == [node.states[TRUNK, 9], node.states[TRUNK, 11]]
    node.check()
    node.tiles.prune(TRUNK, 4)
    assert node.tiles.versions(TRUNK) == [0, 8, 9, 10, 11]
    for number in range(3):
        node.put_update(TRUNK, b"later %d" % number)
        node.tiles.prune(TRUNK, 4)
    for again in (node, node.restarted()):
        assert again.tiles.versions(TRUNK) == [11, 12, 13, 14]
        assert files_of(again) == names(11, 13, 14)
        again.check()
    assert node.tiles.statistics().folds_for_length == 1


def test_a_slow_load_calls_for_a_fold(files, index):
    """51 ms to make a version again; a fold makes the newest quick, and an older one that stays slow asks for no other."""
    times = iter([0, 50, 100, 151, 200, 300])
    node = node_with(3, files, index, monotonic_ms=lambda: next(times))
    node.tiles.prune(TRUNK, 4)
    node.state(TRUNK, 1)
    assert node.tiles.fold(TRUNK) is None
    node.tiles.drop_copies(TRUNK, [Version(2)])
    node.state(TRUNK, 2)
    assert node.tiles.fold(TRUNK) is Trigger.LOAD
    node.put_update(TRUNK, b"four")
    node.put_update(TRUNK, b"five")
    node.tiles.prune(TRUNK, 4)
    node.tiles.drop_copies(TRUNK, [Version(5)])
    node.state(TRUNK, 2)  # as it was made before
    assert node.tiles.fold(TRUNK) is None


def test_large_updates_are_folded_before_they_are_many(files, index):
    """More than half of the tile; a version whose copy is gone is made again and written."""
    node = node_with(1, files, index)
    node.put_update(TRUNK, bytes(files.size(names(0)[0]) // 2))
    node.tiles.drop_copies(TRUNK, [Version(2)])
    assert node.tiles.fold(TRUNK) is Trigger.BYTES
    assert files_of(node) == names(0, 1, 2)
    node.blobs.delete(*node.blobs.names())
    assert node.restarted().state(TRUNK, 2) == node.states[TRUNK, 2]


def test_a_chain_that_nobody_folds_ends(files, index):
    """Rows stay small, and no more updates are needed than are always kept."""
    node = node_with(3 * UPDATES_PER_BASE_MAX, files, index)
    assert max(len(held.updates) for held in node.tiles.held()) == UPDATES_PER_BASE_MAX + 1
    node.check()


def test_a_damaged_copy_is_not_folded(files, index, damage):
    """What becomes a base was checked first."""
    node = node_with(UPDATES_PER_BASE_MAX + 1, files, index)
    damage(files, names(11)[0], 4096)
    with pytest.raises(Rejected):
        node.tiles.fold(TRUNK)
    assert node.tiles.fold(TRUNK) is not None
    assert node.restarted().state(TRUNK, 11) == node.states[TRUNK, 11]


# -- room -------------------------------------------------------------------------------------------------------------------


def test_what_a_version_rests_on_is_never_removed(files, index):
    """The copy before the newest goes first; updates in use and their base stay, whatever the rule would let go."""
    node = node_with(5, files, index)
    node.put_base(EXPERT, 0)
    node.tiles.prune(TRUNK, 2)
    unused = node.blobs.put(b"update of a version that nobody holds")
    uses = [BlobUse(name, Kind.UPDATE, TRUNK, age) for age, name in enumerate(node.blobs.names())]
    used_bytes = node.tiles.bytes_used + node.blobs.bytes_used
    limits = {
        "rule": KeepRule(first_challenged=0, tile_versions_kept=0, updates_kept=0),
        "needed_bytes": files.size(names(0)[0]) + node.blobs.size(unused),
        "bytes_max": used_bytes,
        "pinned": [(EXPERT, Version(0))],
    }
    plan = plan_removal(node.tiles, node.blobs, uses, **limits)
    assert [(gone.kind, gone.name) for gone in plan] == [
        (Kind.TILE_COPY, "trunk/0@4"),
        (Kind.UPDATE, unused.hex()),
    ]
    remove_blobs(node.blobs, plan)
    remove_tiles(node.tiles, plan)
    assert node.tiles.bytes_used + node.blobs.bytes_used == used_bytes - limits["needed_bytes"]
    node.check()
    node.restarted().check()


# -- crashes ----------------------------------------------------------------------------------------------------------------


class OnePower(MemoryKeyValue):
    """Rows on the same power as the files: a cut may come before a write and after it."""

    def __init__(self, files: MemoryFiles) -> None:
        super().__init__()
        self.files = files

    def write(self, batch: Batch, *, durable: bool = True) -> None:
        self.files.remove("nothing")
        super().write(batch, durable=durable)
        self.files.remove("nothing")


def begin() -> Node:
    """A disk on which a fold is due: ten updates on a base, an eleventh to come."""
    files = MemoryFiles()
    return node_with(UPDATES_PER_BASE_MAX, files, OnePower(files), rule=CompactionRule(tile_divisor=1))


def round_of(node: Node, acknowledged: list[int]) -> None:
    """What a node does with a decided update, noting what it may tell others."""
    acknowledged.append(node.put_update(TRUNK, b"the eleventh"))
    node.tiles.prune(TRUNK, 4)
    node.tiles.fold(TRUNK)
    acknowledged.append(node.put_update(TRUNK, b"the twelfth"))
    node.tiles.prune(TRUNK, 1)


@pytest.mark.parametrize("seed", range(8))
def test_a_power_cut_at_every_step_of_a_round(seed):
    """Put, prune, fold, put, prune: wherever it is cut, what was acknowledged is held, and whatever is held opens."""
    for steps in range(200):
        node, acknowledged = begin(), [UPDATES_PER_BASE_MAX]
        node.files.cut_power_after(steps)
        try:
            round_of(node, acknowledged)
            finished = True
        except PowerCut:
            finished = False
        node.index.crash()
        disk = node.files.after_power_cut(random.Random(1000 * seed + steps))
        disk.sweep()
        node.index.files = disk
        again = Node(disk, node.index, node.states)
        assert again.tiles.newest(TRUNK) >= acknowledged[-1]
        again.check()
        # and goes on
        again.put_update(TRUNK, b"after the cut")
        again.tiles.fold(TRUNK)
        again.tiles.prune(TRUNK, 4)
        again.restarted().check()
        if finished:
            return
    pytest.fail("a round has fewer steps than that")


def test_a_kill_at_every_step_of_a_round():
    """kill -9 instead: what was written is there, and nothing else is lost."""
    for steps in range(200):
        node, acknowledged = begin(), [UPDATES_PER_BASE_MAX]
        node.files.cut_power_after(steps)
        try:
            round_of(node, acknowledged)
            finished = True
        except PowerCut:
            finished = False
        node.files.cut_power_after(10**9)  # the machine runs on, only the process is gone
        node.files.sweep()
        again = node.restarted()
        assert again.tiles.newest(TRUNK) >= acknowledged[-1]
        again.check()
        if finished:
            return
    pytest.fail("a round has fewer steps than that")


class AgainstWholeFiles(RuleBasedStateMachine):
    """Any order of puts, opens, folds, prunes, damage and crashes, beside a model that keeps every version whole."""

    @initialize()
    def begin(self) -> None:
        files = MemoryFiles()
        self.node = Node(files, OnePower(files))
        for tile_id in (TRUNK, EXPERT):
            self.node.put_base(tile_id, 0)
        self.must_hold = {(TRUNK, 0), (EXPERT, 0)}

    tiles = st.sampled_from([TRUNK, EXPERT])

    @rule(tile_id=tiles, update=st.binary(min_size=1, max_size=900))
    def put_update(self, tile_id: TileId, update: bytes) -> None:
        version = self.node.put_update(tile_id, update)
        self.must_hold.add((tile_id, version))

    @rule(tile_id=tiles, ahead=st.integers(0, 2))
    def put_base(self, tile_id: TileId, ahead: int) -> None:
        """A tile that was fetched whole: the newest again, or a later one."""
        newest = self.node.tiles.newest(tile_id)
        self.node.states.setdefault((tile_id, newest + ahead), self.node.states[tile_id, newest])
        self.node.put_base(tile_id, newest + ahead)
        self.must_hold.add((tile_id, newest + ahead))

    @rule(tile_id=tiles)
    def fold(self, tile_id: TileId) -> None:
        self.node.tiles.fold(tile_id)

    @rule(tile_id=tiles, keep=st.integers(1, 4))
    def prune(self, tile_id: TileId, keep: int) -> None:
        before = self.node.tiles.versions(tile_id)
        gone = self.node.tiles.prune(tile_id, keep)
        assert not set(gone) & set(before[-keep:])
        assert sum(held.tile_id == tile_id for held in self.node.tiles.copies()) <= COPIES_KEPT
        self.must_hold -= {(tile_id, version) for version in gone}

    @rule(tile_id=tiles)
    def drop_copies(self, tile_id: TileId) -> None:
        self.node.tiles.drop_copies(tile_id, self.node.tiles.versions(tile_id))

    @rule()
    def remove_unused_blobs(self) -> None:
        """The worst that room-making may do."""
        in_use = self.node.tiles.in_use()
        self.node.blobs.delete(*(name for name in self.node.blobs.names() if name not in in_use))

    @rule()
    def kill(self) -> None:
        self.node = self.node.restarted()

    @rule(tile_id=tiles, update=st.binary(min_size=1, max_size=900), steps=st.integers(0, 25), seed=st.integers())
    def lose_power(self, tile_id: TileId, update: bytes, steps: int, seed: int) -> None:
        """In the middle of a put, a prune, a fold and a prune."""
        node = self.node
        node.files.cut_power_after(steps)
        try:
            self.put_update(tile_id, update)
            newest = node.tiles.newest(tile_id)
            self.must_hold = {held for held in self.must_hold if held[0] != tile_id or held[1] == newest}
            node.tiles.prune(tile_id, 1)
            node.tiles.fold(tile_id)
            node.tiles.prune(tile_id, 1)
        except PowerCut:
            pass
        node.index.crash()
        disk = node.files.after_power_cut(random.Random(seed))
        disk.sweep()
        node.index.files = disk
        self.node = Node(disk, node.index, node.states)

    @invariant()
    def everything_held_opens(self) -> None:
        """Bit for bit; nothing that must be held is missing; the bytes are counted right."""
        held = {(each.tile_id, each.version) for each in self.node.tiles.held()}
        assert self.must_hold <= held
        for tile_id, version in sorted(held):
            assert self.node.state(tile_id, version) == self.node.states[tile_id, version]
        sizes = sum(self.node.files.size(name) for name in self.node.files.names("tiles"))
        assert self.node.tiles.bytes_used == sizes
        assert self.node.tiles.statistics().corrupt_count == 0


AgainstWholeFiles.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestAgainstWholeFiles = AgainstWholeFiles.TestCase
