"""KeyValue: ordered bytes under ordered bytes, written in atomic batches.

The index of everything the node keeps. ``storage/io/rocks.py`` keeps it on disk; :class:`MemoryKeyValue` is the same
thing in memory, for tests and for ``simnet``, and can be asked to forget what was not made durable, as a disk does
when power fails.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import Final, Protocol

_SCAN_ROWS: Final = 512  # read at once: 32 MiB of the largest entries of a state


class DatabaseLocked(OSError):
    """Another process, or another object of this one, has the database open."""


class DatabaseCorrupt(OSError):
    """The database's own checksums found damage. What it held has to be fetched again from peers."""


class Batch:
    """Writes that happen together or not at all, in order: the last word on a key wins."""

    __slots__ = ("_operations",)

    def __init__(self) -> None:
        self._operations: list[tuple[bytes, bytes | None]] = []

    def put(self, key: bytes, value: bytes) -> None:
        self._operations.append((key, value))

    def delete(self, key: bytes) -> None:
        """Deleting what is not there is no error."""
        self._operations.append((key, None))

    def extend(self, other: Batch) -> None:
        self._operations.extend(other._operations)

    @property
    def operations(self) -> tuple[tuple[bytes, bytes | None], ...]:
        """``(key, value)`` in order; ``None`` deletes."""
        return tuple(self._operations)

    def __len__(self) -> int:
        return len(self._operations)


class KeyValue(Protocol):
    """What the stores need of a database. Keys are compared as unsigned bytes."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or ``None`` where there is none. Raises ``DatabaseCorrupt``."""
        ...

    def write(self, batch: Batch, *, durable: bool = True) -> None:
        """Apply the whole batch or nothing. If ``durable``, it and every write before it survive a power cut on return.

        Raises ``OSError`` (disk full, ``DatabaseCorrupt``); the batch may then have happened or not.
        """
        ...

    def scan(self, prefix: bytes, *, start: bytes = b"", limit: int) -> list[tuple[bytes, bytes]]:
        """At most ``limit`` rows whose keys begin with ``prefix`` and are not below ``start``, in order of their keys.

        One consistent moment of the database. To page on, pass the last key + ``b"\\x00"`` as ``start``.
        """
        ...

    def reclaim(self, first: bytes, stop: bytes) -> None:
        """Give back the disk that deleted rows from ``first`` up to, not including, ``stop`` still take. May take seconds.

        May be called from another thread while the database is in use. Raises ``OSError``.
        """
        ...

    def close(self) -> None:
        """Let go of the database. Closing twice is no error; anything else afterwards is ``ValueError``."""
        ...


def scan_all(index: KeyValue, prefix: bytes, *, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Every row under a prefix, not below ``start``, in order; what is written meanwhile may or may not be among them."""
    while rows := index.scan(prefix, start=start, limit=_SCAN_ROWS):
        yield from rows
        if len(rows) < _SCAN_ROWS:
            return
        start = rows[-1][0] + b"\x00"


class MemoryKeyValue:
    """A :class:`KeyValue` in memory."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []  # the keys of _rows, sorted
        self._undo: list[tuple[bytes, bytes | None]] = []  # what the keys held before writes that are not durable yet
        self._closed = False

    def get(self, key: bytes) -> bytes | None:
        self._check_open()
        return self._rows.get(key)

    def write(self, batch: Batch, *, durable: bool = True) -> None:
        self._check_open()
        for key, value in batch.operations:
            self._undo.append((key, self._rows.get(key)))
            self._set(key, value)
        if durable:
            self._undo.clear()

    def scan(self, prefix: bytes, *, start: bytes = b"", limit: int) -> list[tuple[bytes, bytes]]:
        self._check_open()
        rows: list[tuple[bytes, bytes]] = []
        for index in range(bisect.bisect_left(self._keys, max(prefix, start)), len(self._keys)):
            key = self._keys[index]
            if len(rows) >= limit or not key.startswith(prefix):
                break
            rows.append((key, self._rows[key]))
        return rows

    def reclaim(self, first: bytes, stop: bytes) -> None:
        self._check_open()

    def close(self) -> None:
        self._closed = True

    def crash(self) -> None:
        """The power fails: every write since the last durable one is lost.

        The database can be used on, as if reopened.
        """
        for key, value in reversed(self._undo):
            self._set(key, value)
        self._undo.clear()
        self._closed = False

    def _set(self, key: bytes, value: bytes | None) -> None:
        held = key in self._rows
        if value is not None:
            self._rows[key] = value
            if not held:
                bisect.insort(self._keys, key)
        elif held:
            del self._rows[key]
            del self._keys[bisect.bisect_left(self._keys, key)]

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the database is closed")
