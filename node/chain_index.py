"""Where a transaction is: one row for each, written in one batch with its finalized block.

    own_key("tx", id) -> TransactionRow         id: of a transaction, or the digest of a head

About 60 bytes a transaction, kept as long as the database is: a body may be pruned before its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final

from msgspec import Meta

from consensus.transition import Receipt
from protocol.codec import Message, decode, encode
from protocol.ids import Digest, Height, HeightField, Natural
from protocol.rejection import REASON_BY_CODE, Reason
from protocol.roster import Head
from storage.keys import own_key
from storage.kv import Batch, KeyValue

_OWNER: Final = "tx"
_ROW_BYTES_MAX: Final = 128


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
        batch.put(own_key(_OWNER, head.digest()), encode(TransactionRow(height, index, True, None)))
    for index, receipt in enumerate(receipts):
        refusal = receipt.refusal.code if receipt.refusal is not None else None
        batch.put(own_key(_OWNER, receipt.id), encode(TransactionRow(height, index, False, refusal)))
    return batch


def find_transaction(index: KeyValue, name: Digest) -> TransactionRow | None:
    """Where a transaction is; None when no finalized block that this node executed holds it."""
    value = index.get(own_key(_OWNER, name))
    return None if value is None else decode(TransactionRow, value, limit_bytes=_ROW_BYTES_MAX)
