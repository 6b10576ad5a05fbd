"""After a crash between any two writes the ledger, the state's rows and the transactions' rows tell one story."""

from __future__ import annotations

import dataclasses

import pytest

from consensus.state import all_rows
from node.chain_index import find_transaction
from node.services.housekeeping import Housekeeping
from node.state_rows import STATE, open_rows, scan_state
from protocol.codec import encode
from protocol.ids import Digest
from storage.files import MemoryFiles
from storage.keys import BLOCK_ROW, own_key
from storage.kv import Batch, DatabaseCorrupt, KeyValue, MemoryKeyValue, scan_all
from storage.ledger import count_bytes
from tests.consensus.genesis import TILES
from tests.node.ground_samples import SETTINGS, GroundedChain, MemoryGround, here, make_ground

SMALL = dataclasses.replace(SETTINGS, storage=dataclasses.replace(SETTINGS.storage, chain_bytes_max=6_000))


class PowerCut(Exception):
    """The machine stops."""


class CuttingKeyValue(MemoryKeyValue):
    """Fails at one of its writes, having done it or not; what was not durable is gone when it is used again."""

    def __init__(self, write: int, *, done: bool) -> None:
        super().__init__()
        self.writes_left, self._done = write, done

    def write(self, batch: Batch, *, durable: bool = True) -> None:
        self.writes_left -= 1
        if self.writes_left == 0:
            if self._done:
                super().write(batch, durable=durable)
            self.crash()
            raise PowerCut
        super().write(batch, durable=durable)


def live(ground: MemoryGround) -> None:
    """Blocks of heads and payments, each with what unfinalized blocks leave, and pruning between them."""
    chain, housekeeping = GroundedChain(ground), Housekeeping(ground, here)
    while chain.execution.height < 14:
        heads, _ = chain.add(*TILES[:2], payments=2)
        chain.apply(*heads)
        housekeeping.prune_step()


def check(index: KeyValue, files: MemoryFiles) -> None:
    """What a new process finds agrees, and it can go on."""
    ground = make_ground(index, files, SMALL)
    if index.scan(STATE, limit=1):
        assert (
            open_rows(index, ground.anchor().state_root) is not None
        )  # the digests of its buckets were written with it
    state = ground.load_state()  # raises where rows and tip differ
    assert dict(scan_state(index)) == {key: encode(entry) for key, entry in all_rows(state) if entry is not None}
    at = ground.ledger.statistics()
    assert at.bytes_used == count_bytes(index)
    rows_kept = {key[1:] for key, _ in scan_all(index, BLOCK_ROW)}
    assert len(rows_kept) == (at.tip_height - at.oldest_height + 1) * 4 * (at.tip_height > 0)
    for name in sorted(rows_kept):
        found = find_transaction(index, Digest(name))
        assert found is not None
        assert at.oldest_height <= found.height <= at.tip_height
    live(ground)
    assert ground.ledger.tip() == 14
    assert (ground.ledger.oldest() or 0) > 1


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_a_crash_at_any_write_leaves_one_story(done):
    """Ledger, state and rows agree after a power cut at each write in turn, and the node goes on from there."""
    write, cuts = 0, 0
    while True:
        write += 1
        index, files = CuttingKeyValue(write, done=done), MemoryFiles()
        try:
            live(make_ground(index, files, SMALL))
        except PowerCut:
            cuts += 1
            check(index, files)
        else:
            break
    assert cuts > 14  # every block, and prunings between them


def test_rows_of_another_block_are_refused():
    """A state that is not the one of the tip's header is a corrupt database, with the remedy."""
    ground = make_ground()
    chain = GroundedChain(ground)
    chain.add(payments=1)
    rows = list(scan_all(ground.index, own_key("state")))
    chain.add(payments=1)
    batch = Batch()
    for key, value in rows:
        batch.put(key, value)
    ground.index.write(batch)
    with pytest.raises(DatabaseCorrupt, match="nocknode recovery repair"):
        make_ground(ground.index).load_state()
