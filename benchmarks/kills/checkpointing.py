"""Checkpointing: blocks that make the state grow, and a checkpoint at each epoch's end; other rows are written beside it.

going HEIGHT ROOT      a block is about to be stored, with this state after it
stored HEIGHT          it was, with its state
checkpoint HEIGHT      one of this height was taken, and is kept until newer ones make it go
row NUMBER VALUE       written by another thread, in turns
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.common import Row
from benchmarks.kills import EPOCH_HEIGHTS, Say, Witness, opened
from benchmarks.kills.blocks import finalized_block
from consensus.events import CommittedBlock
from consensus.state import Account, State, changes_between
from node.checkpoints import (
    CHECKPOINTS_KEPT,
    CheckpointManifest,
    branch_digest,
    checkpoint_name,
    list_checkpoints,
)
from node.ground import Ground
from node.state_rows import entries_below, scan_state
from protocol.codec import decode
from protocol.epochs import epoch_of
from protocol.finality import Header
from protocol.genesis import genesis_roster
from protocol.ids import AccountId, Digest
from protocol.limits import KIB
from protocol.rejection import Rejected
from protocol.state_proof import SubChain
from protocol.state_sync import check_entries, children_of
from storage.keys import own_key, pack_u64
from storage.kv import Batch, DatabaseCorrupt

PAID: Final = 30  # accounts that are new in a block
ROWS: Final = 64  # that another thread writes in turns
ROW_BYTES: Final = 4 * KIB


def work(folder: Path, seed: int, say: Say) -> None:
    """Block after block, for ever."""
    say("opening")
    with opened(folder) as ground:
        state, tip = ground.load_state(), ground.ledger.tip()
        header = decode(Header, ground.ledger.get(tip).header, limit_bytes=4 * KIB) if tip is not None else None
        say("open")
        with _rows_beside(ground, say):
            for height in itertools.count((tip or 0) + 1):
                after = _paid(state, random.Random(f"{seed}/{height}"), ground.keys.card().account)
                block = finalized_block(ground.genesis, ground.keys.vote, height, header, after)
                roster = genesis_roster(ground.genesis, epoch_of(height, EPOCH_HEIGHTS))
                say("going", height, after.root().hex())
                ground.store_finalized(CommittedBlock(block, tuple(changes_between(state, after)), (), roster, after))
                say("stored", height)
                if checkpoint_name(height) in ground.disk.checkpoints():
                    say("checkpoint", height)
                state, header = after, block.header


def _paid(state: State, draw: random.Random, payer: AccountId) -> State:
    """The state after a member paid strangers."""
    for _ in range(PAID):
        stranger = AccountId(draw.randbytes(32))
        for account, change in ((payer, -1), (stranger, 1)):
            before = state.account(account)
            state = state.put_account(account, before, Account(before.balance_nano + change, before.nonce))
    return state.sealed()


def _row_key(number: int) -> bytes:
    return own_key("round", pack_u64(number))


@contextmanager
def _rows_beside(ground: Ground, say: Say) -> Iterator[None]:
    """Rows written by another thread, as the tile thread writes them while a block is stored."""
    is_over = threading.Event()

    def write() -> None:
        for value in itertools.count(_newest_row(ground) + 1):
            if is_over.is_set():
                return
            batch = Batch()
            batch.put(_row_key(value % ROWS), pack_u64(value) * (ROW_BYTES // 8))
            ground.index.write(batch)
            say("row", value % ROWS, value)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _newest_row(ground: Ground) -> int:
    found = (ground.index.get(_row_key(number)) for number in range(ROWS))
    return max((int.from_bytes(row[:8], "big") for row in found if row is not None), default=0)


class CheckpointingWitness(Witness):
    """Which checkpoints there must be."""

    name = "checkpointing"
    life_seconds = 4.0

    def __init__(self, out: Path, seed: int) -> None:
        super().__init__(out, seed)
        self.roots: dict[int, Digest] = {}
        self.stored = 0
        self.taken: list[int] = []  # acknowledged, or found
        self.values: dict[int, int] = {}
        self.checked = 0

    def hear(self, words: Sequence[str]) -> None:
        match words:
            case ["going", height, root]:
                self.roots[int(height)] = Digest(bytes.fromhex(root))
            case ["stored", height]:
                self.stored = int(height)
            case ["checkpoint", height]:
                self.taken.append(int(height))
            case ["row", number, value]:
                self.values[int(number)] = int(value)

    def look(self, left: Path) -> list[str]:
        with opened(left) as ground:
            wrong = self._wrong_state(ground)
            listed, names = list(list_checkpoints(ground.disk)), ground.disk.checkpoints()
            if [checkpoint_name(manifest.height) for manifest in reversed(listed)] != names:
                wrong.append(f"what is listed as checkpoints are none: {names}")
            expected = sorted({*self.taken, *(manifest.height for manifest in listed)})[-CHECKPOINTS_KEPT:]
            for height in self.taken:
                if height in expected and checkpoint_name(height) not in names:
                    wrong.append(f"the checkpoint of height {height} was acknowledged and is gone")
            # One that was taken and not said any more stays like the others, and makes older ones go.
            self.taken = sorted({*self.taken, *(manifest.height for manifest in listed)})
            for manifest in listed:
                wrong += self._wrong_checkpoint(ground, manifest)
        return wrong

    def _wrong_state(self, ground: Ground) -> list[str]:
        wrong, tip = [], ground.ledger.tip() or 0
        if tip < self.stored:
            wrong.append(f"block {self.stored} was acknowledged, and the tip is {tip}")
        try:
            if tip and ground.load_state().root() != self.roots[tip]:
                wrong.append(f"another state than that of block {tip}")
        except DatabaseCorrupt as damage:
            wrong.append(str(damage))
        for number, value in self.values.items():
            row = ground.index.get(_row_key(number))
            if row is None or row != row[:8] * (ROW_BYTES // 8) or int.from_bytes(row[:8], "big") < value:
                wrong.append(f"row {number} was {value}, and is {row and row[:8]!r}")
        return wrong

    def _wrong_checkpoint(self, ground: Ground, manifest: CheckpointManifest) -> list[str]:
        """Every branch of its rows must lead to its manifest, and that to the state's root."""
        height, rows = manifest.height, None
        if manifest.block.header.state_root != self.roots[height]:
            return [f"the checkpoint of height {height} has another root"]
        try:
            rows = ground.disk.open_checkpoint(checkpoint_name(height))
            for chain in SubChain:
                for name in children_of(bytes([chain])):
                    check_entries(name, tuple(entries_below(rows, name)), branch_digest(manifest, name))
            self.checked += sum(1 for _ in scan_state(rows))
        except (OSError, Rejected) as trouble:
            return [f"the checkpoint of height {height} is not whole: {trouble}"]
        finally:
            if rows is not None:
                rows.close()
        return []

    def rows(self) -> list[Row]:
        return [
            Row("blocks that were acknowledged", "blocks", self.stored),
            Row("checkpoints that were taken", "checkpoints", len(self.taken)),
            Row("entries proved in checkpoints that dead processes left", "entries", self.checked),
        ]
