"""The answers that this door gave, so that they can be audited after a restart too.

    own_key("answer", number:u64)  -> AnswerRecord      in the order in which they ended
    own_key("answer-name", name)   -> AnswerRow         name: its claim's digest

Prompts and texts are in it, so it is the owner's to say how many bytes of it are kept (``api.answers_kept_mib``); the oldest go
first. Answers that end at the same moment are written together: one sync of the disk for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

import trio

from node.threads import InThread
from protocol.answers import AnswerRecord
from protocol.codec import Message, decode, encode
from protocol.ids import Digest, Natural
from protocol.limits import ANSWER_RECORD_BYTES_MAX
from storage.keys import own_key, pack_u64
from storage.kv import Batch, KeyValue

_NAMES: Final = own_key("answer-name")
_ROW_BYTES_MAX: Final = 64
_SCAN_ROWS: Final = 1024


class AnswerRow(Message, frozen=True):
    """Where a record is, and what it takes."""

    number: Natural
    size_bytes: Natural


class AnswerBook:
    """Records of answers, the newest of them as far as there is room."""

    def __init__(self, index: KeyValue, in_thread: InThread, kept_bytes: int) -> None:
        self._index, self._in_thread, self._kept_bytes = index, in_thread, kept_bytes
        self._rows: dict[Digest, AnswerRow] = {}  # oldest first
        self._bytes = 0
        self._next = 1
        self._waiting: list[AnswerRecord] = []
        self._writing = trio.Lock()
        self._read_rows()
        self._make_room()

    def __len__(self) -> int:
        return len(self._rows)

    def _read_rows(self) -> None:
        rows = [
            (Digest(key[len(_NAMES) :]), decode(AnswerRow, row, limit_bytes=_ROW_BYTES_MAX))
            for key, row in self._scan()
        ]
        self._rows = dict(sorted(rows, key=lambda item: item[1].number))
        self._bytes = sum(row.size_bytes for _, row in rows)
        self._next = 1 + max((row.number for _, row in rows), default=0)

    def _make_room(self) -> None:
        """The owner may want less than before, or nothing."""
        batch = Batch()
        self._drop_oldest(batch, least=1 if self._kept_bytes else 0)
        if len(batch):
            self._index.write(batch)

    def _scan(self) -> Iterator[tuple[bytes, bytes]]:
        start = b""
        while rows := self._index.scan(_NAMES, start=start, limit=_SCAN_ROWS):
            yield from rows
            start = rows[-1][0] + b"\x00"

    async def keep(self, record: AnswerRecord) -> None:
        """Returns when the record is on the disk, or at once where none are kept. Raises ``OSError``."""
        if not self._kept_bytes:
            return
        self._waiting.append(record)
        async with self._writing:
            if record not in self._waiting:
                return  # written with one that came before
            records, self._waiting = self._waiting, []
            batch = Batch()
            for each in records:
                self._put(batch, each)
            self._drop_oldest(batch)
            try:
                await self._in_thread(lambda: self._index.write(batch))
            except BaseException:
                self._read_rows()
                # Who wait for the others hear it themselves.
                self._waiting[:0] = [each for each in records if each is not record]
                raise

    def _put(self, batch: Batch, record: AnswerRecord) -> None:
        name, data = record.receipt.claim.digest(), encode(record)
        row = AnswerRow(self._next, len(data))
        self._next += 1
        self._rows[name] = row
        self._bytes += row.size_bytes
        batch.put(own_key("answer", pack_u64(row.number)), data)
        batch.put(own_key("answer-name", name), encode(row))

    def _drop_oldest(self, batch: Batch, least: int = 1) -> None:
        while self._bytes > self._kept_bytes and len(self._rows) > least:
            name = next(iter(self._rows))
            row = self._rows.pop(name)
            self._bytes -= row.size_bytes
            batch.delete(own_key("answer", pack_u64(row.number)))
            batch.delete(own_key("answer-name", name))

    def find(self, name: Digest) -> AnswerRecord | None:
        """The record of an answer, while it is kept."""
        row = self._rows.get(name)
        data = None if row is None else self._index.get(own_key("answer", pack_u64(row.number)))
        return None if data is None else decode(AnswerRecord, data, limit_bytes=ANSWER_RECORD_BYTES_MAX)

    def newest(self, first: int, count: int) -> list[AnswerRecord]:
        """So many, from the ``first`` newest on."""
        names = islice(reversed(self._rows), first, first + count)
        return [record for name in names if (record := self.find(name)) is not None]
