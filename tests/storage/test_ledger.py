"""The finalized log: in order, once, all of a block or nothing."""

from __future__ import annotations

import pytest

from protocol.ids import Height
from protocol.rejection import InvariantBroken
from storage.keys import BODY, block_key, own_key
from storage.kv import Batch, DatabaseCorrupt, MemoryKeyValue
from storage.ledger import FinalizedBlock, Ledger


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
