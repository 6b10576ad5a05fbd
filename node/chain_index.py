"""Where a transaction is: one row for each, written in one batch with its finalized block; and why others never got there.

    block_row_key(id) -> TransactionRow         id: of a transaction, or the digest of a head

About 50 bytes a transaction, kept as long as the block is: they are pruned with its body.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final

from msgspec import Meta

from consensus.mempool import Dropped
from consensus.transition import Receipt
from protocol.codec import Message, decode, encode
from protocol.finality import Body
from protocol.ids import Digest, Height, HeightField, Natural
from protocol.rejection import REASON_BY_CODE, Reason
from protocol.roster import Head
from protocol.transactions import transaction_id
from storage.keys import block_row_key
from storage.kv import Batch, KeyValue

_ROW_BYTES_MAX: Final = 128
DROPPED_KEPT: Final = 4096  # ids with their reasons: half a MiB, and hours of one user's transactions (a guess)


class TransactionRow(Message, frozen=True):
    """The ``index``-th transaction, or head, of the body at a height. ``refusal`` is the code of what it met, if anything."""

    height: HeightField
    index: Natural
    is_head: bool
    refusal: Annotated[str, Meta(max_length=64)] | None

    @property
    def reason(self) -> Reason | None:
        """Why it did nothing but pay its fee; None when it did what it says."""
        return None if self.refusal is None else REASON_BY_CODE[self.refusal]


def transaction_rows(height: Height, receipts: Sequence[Receipt], heads: Iterable[Head] = ()) -> Batch:
    """The rows of one finalized block: ``receipts`` and ``heads`` in the order of its body."""
    batch = Batch()
    for index, head in enumerate(heads):
        batch.put(block_row_key(head.digest()), encode(TransactionRow(height, index, True, None)))
    for index, receipt in enumerate(receipts):
        refusal = receipt.refusal.code if receipt.refusal is not None else None
        batch.put(block_row_key(receipt.id), encode(TransactionRow(height, index, False, refusal)))
    return batch


def forget_rows(body: Body) -> Batch:
    """What removes the rows of a block, to go in one batch with it."""
    batch = Batch()
    for head in body.heads:
        batch.delete(block_row_key(head.digest()))
    for data in body.transactions:
        batch.delete(block_row_key(transaction_id(data)))
    return batch


def find_transaction(index: KeyValue, name: Digest) -> TransactionRow | None:
    """Where a transaction is; None when no finalized block that this node executed holds it."""
    value = index.get(block_row_key(name))
    return None if value is None else decode(TransactionRow, value, limit_bytes=_ROW_BYTES_MAX)


class DroppedTransactions:
    """Why transactions left the pool without a block, the latest of them, for whoever asks what became of his."""

    def __init__(self, kept: int = DROPPED_KEPT) -> None:
        self._kept = kept
        self._reasons: dict[Digest, Reason] = {}

    def note(self, dropped: Iterable[Dropped]) -> None:
        """Remember these; forget the oldest."""
        for each in dropped:
            self._reasons.pop(each.id, None)
            self._reasons[each.id] = each.reason
            if len(self._reasons) > self._kept:
                del self._reasons[next(iter(self._reasons))]

    def find(self, name: Digest) -> Reason | None:
        """Why a transaction was dropped, if it is known that it was."""
        return self._reasons.get(name)
