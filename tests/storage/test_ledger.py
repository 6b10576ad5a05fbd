"""The finalized log: in order, once, all of a block or nothing."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant
from hypothesis.stateful import rule as rule_

from protocol.ids import Height
from protocol.rejection import InvariantBroken
from storage.io.rocks import RocksKeyValue
from storage.keys import (
    BLOCK_ROW,
    BODY,
    CERTIFICATE,
    HEADER,
    LEDGER_BYTES,
    OLDEST,
    block_key,
    block_row_key,
    own_key,
    pack_u64,
)
from storage.kv import Batch, DatabaseCorrupt, KeyValue, MemoryKeyValue, scan_all
from storage.ledger import FinalizedBlock, Ledger, PruneRule, Statistics, count_bytes


def block(height: int) -> FinalizedBlock:
    return FinalizedBlock(Height(height), b"header%d" % height, b"", b"certificate%d" % height)


def test_append_and_read(index):
    """Blocks come back as the bytes that were given, with the rows written beside them, also after a restart."""
    ledger = Ledger(index)
    assert (ledger.tip(), ledger.range(Height(0), Height(9))) == (None, [])
    for height in range(5, 9):
        extra = Batch()
        extra.put(own_key("consensus", b"applied"), b"%d" % height)
        ledger.append(block(height), extra)
    for again in (ledger, Ledger(index)):
        assert again.tip() == 8
        assert again.get(Height(6)) == block(6)
        assert again.range(Height(0), Height(2**60)) == [block(height) for height in range(5, 9)]
        assert again.range(Height(6), Height(7)) == [block(6), block(7)]
        assert again.find(Height(4)) is None
        with pytest.raises(LookupError, match="the tip is 8"):
            again.get(Height(9))
    assert index.get(own_key("consensus", b"applied")) == b"8"


@pytest.mark.parametrize("height", [6, 7, 9, 0])
def test_a_height_out_of_turn_breaks_an_invariant(height):
    """A finalized height is never written twice, skipped or taken back."""
    ledger = Ledger(MemoryKeyValue())
    ledger.append(block(6))
    ledger.append(block(7))
    with pytest.raises(InvariantBroken, match="does not follow 7"):
        ledger.append(block(height))
    assert ledger.tip() == 7


def test_a_block_in_part_is_a_corrupt_database(index):
    """Rows of one batch cannot be there in part unless the database lost some."""
    ledger = Ledger(index)
    ledger.append(block(1))
    batch = Batch()
    batch.delete(block_key(BODY, Height(1)))
    index.write(batch)
    with pytest.raises(DatabaseCorrupt, match="block 1"):
        ledger.find(Height(1))


def test_blocks_are_written_downwards_too():
    """Right below the oldest, in steps; counted, there after a restart, and with the certificate that was there before."""
    index = MemoryKeyValue()
    ledger = Ledger(index)
    ledger.append(block(9))
    kept = Batch()
    kept.put(block_key(CERTIFICATE, Height(6)), b"of a boundary")
    index.write(kept)
    ledger = Ledger(index)
    bare = FinalizedBlock(Height(6), b"header6", b"", b"")
    for blocks in ([block(7), block(8)], [block(5), bare]):
        ledger.extend_down(blocks)
    for again in (ledger, Ledger(index)):
        assert (again.oldest(), again.tip()) == (5, 9)
        assert [each.height for each in again.range(Height(0), Height(99))] == [5, 6, 7, 8, 9]
        assert again.get(Height(6)).certificate == b"of a boundary"
    for wrong in ([], [block(3)], [block(4), block(5)], [block(4), block(4)]):
        with pytest.raises(InvariantBroken):
            ledger.extend_down(wrong)
    ledger.extend_down([block(height) for height in range(1, 5)])
    with pytest.raises(InvariantBroken, match="below the first"):
        ledger.extend_down([block(0)])
    with pytest.raises(InvariantBroken):
        Ledger(MemoryKeyValue()).extend_down([block(1)])


# -- pruning ------------------------------------------------------------------------------------------------------------


def rows_of(block: FinalizedBlock) -> Batch:
    """What goes with a block of :func:`grown`: two rows of its own."""
    batch = Batch()
    for name in (b"one", b"two"):
        batch.delete(block_row_key(name + block.header))
    return batch


def grown(index: KeyValue, tip: int) -> Ledger:
    """Blocks 1 to ``tip`` of 100 bytes and more, each with two rows of its own and one of the state."""
    ledger = Ledger(index)
    for height in range((ledger.tip() or 0) + 1, tip + 1):
        extra = Batch()
        for name in (b"one", b"two"):
            extra.put(block_row_key(name + b"header%d" % height), b"at %d" % height)
        extra.put(own_key("state"), b"%d" % height)
        ledger.append(
            FinalizedBlock(Height(height), b"header%d" % height, bytes(100), b"certificate%d" % height), extra
        )
    return ledger


def rule(bytes_max: int = 0, first_needed: int = 2**60, boundary_heights: int = 4) -> PruneRule:
    return PruneRule(bytes_max, Height(first_needed), boundary_heights)


def prune(ledger: Ledger, by: PruneRule, *, blocks_max: int = 100) -> int:
    return ledger.prune(by, rows_of, blocks_max=blocks_max, bytes_max=2**20)


def test_the_oldest_blocks_go_with_their_rows(index):
    """Bodies, headers, certificates and rows go together, up to what is needed; at boundaries headers and certificates stay."""
    ledger = grown(index, 10)
    before = ledger.statistics()
    assert before == Statistics(count_bytes(index), 1, 10)
    freed = prune(ledger, rule(first_needed=7))
    assert ledger.statistics() == Statistics(before.bytes_used - freed, 7, 10) == Statistics(count_bytes(index), 7, 10)
    assert [key[1:] for key, _ in index.scan(HEADER, limit=99)] == [pack_u64(height) for height in (4, 7, 8, 9, 10)]
    assert index.get(block_key(CERTIFICATE, Height(4))) == b"certificate4"
    assert [key[1:] for key, _ in index.scan(BODY, limit=99)] == [pack_u64(height) for height in (7, 8, 9, 10)]
    assert len(index.scan(BLOCK_ROW, limit=99)) == 2 * 4
    assert [ledger.find(Height(height)) for height in (1, 4, 6)] == [None] * 3
    assert [kept.height for kept in ledger.range(Height(0), Height(99))] == [7, 8, 9, 10]
    with pytest.raises(LookupError, match="the oldest is 7"):
        ledger.get(Height(4))


def test_pruning_ends_at_the_allowance(index):
    """No block more goes than must, a step is bounded, and where all fits or nothing may go the answer is 0."""
    ledger = grown(index, 20)
    used = ledger.statistics().bytes_used
    assert prune(ledger, rule(used)) == 0
    assert 0 < prune(ledger, rule(used - 1)) < 300
    assert ledger.oldest() == 2
    assert prune(ledger, rule(), blocks_max=3) > 0
    assert ledger.oldest() == 5
    assert ledger.prune(rule(), rows_of, blocks_max=100, bytes_max=1) > 0
    assert ledger.oldest() == 6
    assert prune(ledger, rule(first_needed=6)) == 0
    assert Ledger(MemoryKeyValue()).prune(rule(), rows_of, blocks_max=1, bytes_max=1) == 0


def test_the_tip_stays_whatever_is_said(index):
    """The next block builds on it, and so does a start."""
    ledger = grown(index, 9)
    prune(ledger, rule())
    assert (ledger.oldest(), ledger.tip()) == (9, 9)
    assert prune(ledger, rule()) == 0
    assert ledger.get(Height(9)).header == b"header9"
    grown(index, 12)
    assert Ledger(index).statistics() == Statistics(count_bytes(index), 9, 12)


def test_rows_that_are_written_twice_are_counted_once(index):
    """The count is of what the database holds: an overwritten row weighs what it weighs now."""
    ledger = Ledger(index)
    for height, value in ((1, b"long value"), (2, b"short")):
        extra = Batch()
        extra.put(block_row_key(b"same"), b"")
        extra.put(block_row_key(b"same"), value)
        ledger.append(block(height), extra)
        assert ledger.statistics().bytes_used == count_bytes(index)
    ledger.append(block(3))

    def release(_: FinalizedBlock) -> Batch:
        batch = Batch()
        batch.delete(block_row_key(b"same"))
        return batch

    ledger.prune(rule(), release, blocks_max=9, bytes_max=2**20)
    assert ledger.statistics() == Statistics(count_bytes(index), 3, 3)


@pytest.mark.parametrize("tip", [0, 1, 9])
def test_a_ledger_begins_anew_above_its_tip(tip):
    """What was below goes, but for boundaries; the block comes with its rows, and the next one follows it."""
    index = MemoryKeyValue()
    ledger, extra = grown(index, tip), Batch()
    extra.put(own_key("state"), b"new")
    ledger.begin_at(block(20), extra, 4)
    for each in (ledger, Ledger(index)):
        assert (each.oldest(), each.tip()) == (20, 20)
        assert each.get(20) == block(20)
        assert each.find(Height(9)) is None
        assert each.statistics().bytes_used == count_bytes(index)
    kept = [height for height in range(1, 20) if ledger.find_header(Height(height)) is not None]
    assert kept == [height for height in (4, 8) if height <= tip]
    assert kept == [height for height in range(1, 20) if ledger.find_certificate(Height(height)) is not None]
    assert index.get(own_key("state")) == b"new"
    assert not [key for key, _ in scan_all(index, BLOCK_ROW)]
    ledger.append(block(21))
    with pytest.raises(InvariantBroken):
        ledger.begin_at(block(21), Batch(), 4)


def test_a_ledger_that_is_forgotten_is_a_new_one():
    """Nothing is left of it, and it may begin with any block."""
    index = MemoryKeyValue()
    ledger = grown(index, 9)
    ledger.forget()
    assert (ledger.tip(), ledger.oldest(), count_bytes(index)) == (None, None, 0)
    assert Ledger(index).tip() is None
    ledger.append(block(3))


def test_a_database_from_before_blocks_were_counted_is_counted(index):
    """Without the two rows everything is read once, and the next block writes them."""
    grown(index, 5)
    batch = Batch()
    batch.delete(OLDEST)
    batch.delete(LEDGER_BYTES)
    index.write(batch)
    assert Ledger(index).statistics() == Statistics(count_bytes(index), 1, 5)
    grown(index, 6)
    assert index.get(OLDEST) == pack_u64(1)
    assert Ledger(index).statistics() == Statistics(count_bytes(index), 1, 6)


class Crashes(RuleBasedStateMachine):
    """Whenever the power fails, blocks, rows, heights and count agree, and no acknowledged block is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.index = MemoryKeyValue()
        self.ledger = Ledger(self.index)
        self.durable_tip = 0
        self.oldest = 0

    @rule_(blocks=st.integers(1, 5))
    def append(self, blocks):
        self.durable_tip += blocks
        grown(self.index, self.durable_tip)
        self.ledger = Ledger(self.index)

    @rule_(bytes_max=st.integers(0, 3000), first_needed=st.integers(0, 40), blocks_max=st.integers(1, 8))
    def prune(self, bytes_max, first_needed, blocks_max):
        used, oldest = self.ledger.statistics().bytes_used, self.ledger.oldest() or 0
        freed = prune(self.ledger, rule(bytes_max, first_needed), blocks_max=blocks_max)
        assert (freed > 0) == (used > bytes_max and 0 < oldest < min(first_needed, self.durable_tip))

    @rule_(blocks=st.integers(1, 4))
    def extend_down(self, blocks):
        oldest, extra = self.ledger.oldest() or 1, Batch()
        heights = range(max(1, oldest - blocks), oldest)
        if not heights:
            return
        for height in heights:
            for name in (b"one", b"two"):
                extra.put(block_row_key(name + b"header%d" % height), b"at %d" % height)
        found = [
            FinalizedBlock(Height(height), b"header%d" % height, bytes(100), b"certificate%d" % height)
            for height in heights
        ]
        self.ledger.extend_down(found, extra)

    @rule_()
    def crash(self):
        self.index.crash()
        self.ledger = Ledger(self.index)

    @invariant()
    def agree(self):
        at = self.ledger.statistics()
        assert at == Ledger(self.index).statistics()
        assert (at.bytes_used, at.tip_height) == (count_bytes(self.index), self.durable_tip)
        heights = range(at.oldest_height, at.tip_height + 1) if at.tip_height else range(0)
        assert [kept.height for kept in self.ledger.range(Height(0), Height(2**40))] == list(heights)
        names = {name + b"header%d" % height for height in heights for name in (b"one", b"two")}
        assert {key[1:] for key, _ in self.index.scan(BLOCK_ROW, limit=999)} == names
        if self.durable_tip:
            assert self.index.get(own_key("state")) == b"%d" % self.durable_tip


TestCrashes = Crashes.TestCase


def test_a_torn_batch_is_never_half_visible(tmp_path: Path):
    """Wherever the database's log is cut, it opens on whole batches: a block with all its rows, a pruning whole, or neither."""
    index = RocksKeyValue(tmp_path / "db")
    ledger = grown(index, 6)
    prune(ledger, rule(first_needed=3))
    grown(index, 7)
    shutil.copytree(tmp_path / "db", tmp_path / "whole")
    index.close()
    (name,) = (path.name for path in (tmp_path / "whole").glob("*.log") if path.stat().st_size)
    image = (tmp_path / "whole" / name).read_bytes()
    seen = set()
    for cut in (*range(0, len(image), 37), len(image)):
        folder = tmp_path / f"cut{cut}"
        shutil.copytree(tmp_path / "whole", folder)
        (folder / name).write_bytes(image[:cut])
        torn = RocksKeyValue(folder)
        at = Ledger(torn).statistics()
        assert at.bytes_used == count_bytes(torn)
        kept = [height for height in range(at.oldest_height, at.tip_height + 1) if height]
        assert [block.height for block in Ledger(torn).range(Height(0), Height(99))] == kept
        assert len(torn.scan(BLOCK_ROW, limit=99)) == 2 * len(kept)
        assert (torn.get(own_key("state")) or b"0") == b"%d" % at.tip_height
        seen.add((at.oldest_height, at.tip_height))
        torn.close()
    assert seen == {(0, 0), *((1, tip) for tip in range(1, 7)), (3, 6), (3, 7)}


def test_the_folder_shrinks(tmp_path: Path):
    """What pruned blocks took is given back to the disk, not only marked."""
    index = RocksKeyValue(tmp_path / "db")
    ledger = Ledger(index)
    generator = random.Random(1)
    for height in range(1, 101):
        ledger.append(FinalizedBlock(Height(height), b"header", generator.randbytes(200_000), b"certificate"))

    def folder_bytes() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "db").iterdir())

    before = folder_bytes()
    assert before > 20_000_000
    while ledger.prune(rule(5_000_000), lambda _: Batch(), blocks_max=64, bytes_max=2**23):
        pass
    ledger.reclaim()
    assert ledger.statistics().bytes_used <= 5_000_000
    index.close()
    assert folder_bytes() < 6_000_000
