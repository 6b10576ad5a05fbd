"""The disk of one simulated machine: rows, files and journals in memory, under the node's own stores.

It keeps the promises of a real one and no more: what was not synced may be lost with the power, a write that is cut leaves a
torn tail, and a full disk refuses. Equal bytes are kept once in the whole world (``Pool``), because two hundred nodes hold the
same tiles.

A process opens it (``open``), and what it opened ends with ``close`` or with ``lose_power``; the bytes stay.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

from protocol.digest import blob_digest
from protocol.ids import Digest
from storage.files import check_name
from storage.journal import MAGIC, Journal, JournalState, OpenedJournal, frame, read_journal
from storage.keys import INLINE_BLOB
from storage.kv import Batch, KeyValue, MemoryKeyValue, scan_all
from storage.tensor_block import BytesLike

POOLED_BYTES_MIN: Final = 64  # of a row that is no blob: smaller things are not worth a look

FREE_BYTES: Final = 1 << 50  # of a disk that is not full
OWN_FOLDER: Final = "learner/"  # the learner's state is like nobody else's, and the next one takes its place


class Pool:
    """Bytes of a world, each once. ``find`` gives whatever anybody ever kept."""

    def __init__(self) -> None:
        self._kept: dict[Digest, bytes] = {}

    def keep(self, data: bytes) -> bytes:
        """The same bytes, from the pool if they are there already."""
        return self._kept.setdefault(blob_digest(data), data)

    def find(self, name: Digest) -> bytes | None:
        return self._kept.get(name)

    @property
    def bytes_used(self) -> int:
        return sum(map(len, self._kept.values()))


class VirtualDisk:
    """A :class:`node.disk.Disk` that outlives the processes which open it."""

    def __init__(self, name: str, pool: Pool) -> None:
        self.name = name
        self.files = VirtualFiles(pool, self)
        self.index = VirtualRows(pool, self)
        self.is_full = False
        self.images: dict[str, bytes] = {}  # of journals, by name
        self._checkpoints: dict[str, tuple[bytes, MemoryKeyValue]] = {}

    def open(self) -> VirtualDisk:
        """As a process finds it that begins now."""
        self.index.reopen()
        return self

    def open_journal(self, name: str) -> OpenedJournal:
        image = self.images.get(name)
        if image is None:
            return OpenedJournal(JournalState.MISSING, (), None)
        found = read_journal(image)
        if found.state is JournalState.DAMAGED:
            return OpenedJournal(found.state, found.records, None)
        self.images[name] = image[: found.good_bytes]
        return OpenedJournal(found.state, found.records, _VirtualJournal(self, name, found.frame_count))

    def create_journal(self, name: str, records: Sequence[bytes] = ()) -> Journal:
        self.check_room()
        # As storage/io/journal_file.py: an empty frame behind the first, whose damage would read as a torn write.
        self.images[name] = MAGIC + (frame(0, records) + frame(1, ()) if records else b"")
        return _VirtualJournal(self, name, 2 if records else 0)

    def path(self, name: str) -> str:
        return f"{self.name}/{name}"

    @property
    def row_files(self) -> None:
        """Nobody else is here."""

    def name_of(self, path: str) -> str:
        """The other way round: what a path of ours is called in ``files``."""
        return str(PurePosixPath(path).relative_to(self.name))

    def other_bytes(self) -> int:
        return self.index.bytes_used + sum(map(len, self.images.values())) + self.files.bytes_below(OWN_FOLDER)

    def take_checkpoint(self, name: str, manifest: bytes, prefix: bytes) -> None:
        self.check_room()
        rows, batch = MemoryKeyValue(), Batch()
        for key, value in scan_all(self.index, prefix):
            batch.put(key, value)
        rows.write(batch)
        self._checkpoints[name] = manifest, rows

    def checkpoints(self) -> list[str]:
        return sorted(self._checkpoints)

    def read_manifest(self, name: str) -> bytes:
        return self._find_checkpoint(name)[0]

    def open_checkpoint(self, name: str) -> KeyValue:
        rows = self._find_checkpoint(name)[1]
        rows.crash()  # nothing is lost: it is open again
        return rows

    def remove_checkpoint(self, name: str) -> None:
        self._checkpoints.pop(name, None)

    def _find_checkpoint(self, name: str) -> tuple[bytes, MemoryKeyValue]:
        if name not in self._checkpoints:
            raise FileNotFoundError(name)
        return self._checkpoints[name]

    def free_bytes(self) -> int:
        return 0 if self.is_full else FREE_BYTES

    def check_room(self) -> None:
        """Raises ``OSError(ENOSPC)`` while the disk is full."""
        if self.is_full:
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")

    def lose_power(self, draw: random.Random) -> None:
        """The machine goes dark: what was not synced is gone or cut short, and a journal's last write may be torn."""
        self.index.crash()
        for name in sorted(self.images):
            if draw.random() < 0.5:
                torn = frame(read_journal(self.images[name]).frame_count, [b"never acknowledged"])
                self.images[name] += torn[: draw.randrange(1, len(torn))]
        self.files.lose_power(draw)

    def close(self) -> None:
        self.index.close()


class VirtualRows(MemoryKeyValue):
    """Rows in memory, whose disk may be full."""

    def __init__(self, pool: Pool, disk: VirtualDisk) -> None:
        super().__init__()
        self._pool = pool
        self._disk = disk
        self.bytes_used = 0

    def write(self, batch: Batch, *, durable: bool = True) -> None:
        operations = batch.operations
        if any(value is not None for _, value in operations):
            self._disk.check_room()
        pooled = Batch()
        for key, value in operations:
            if value is None:
                pooled.delete(key)
            else:
                is_shared = len(value) >= POOLED_BYTES_MIN or key.startswith(INLINE_BLOB)
                pooled.put(key, self._pool.keep(value) if is_shared else value)
        super().write(pooled, durable=durable)

    def reopen(self) -> None:
        self._closed = False

    def _set(self, key: bytes, value: bytes | None) -> None:
        held = self._rows.get(key)
        self.bytes_used += (0 if value is None else len(key) + len(value)) - (
            0 if held is None else len(key) + len(held)
        )
        super()._set(key, value)


class VirtualFiles:
    """:class:`storage.files.Files`: every durable write is whole and synced, as ``storage/io/files.py`` makes it."""

    def __init__(self, pool: Pool, disk: VirtualDisk) -> None:
        self._pool = pool
        self._disk = disk
        self._files: dict[str, bytes] = {}
        self._unsynced: dict[str, None] = {}  # names, in the order in which they were written

    def write(self, name: str, pieces: Iterable[BytesLike], *, durable: bool = True) -> int:
        self._disk.check_room()
        data = b"".join(pieces)
        if not name.startswith(OWN_FOLDER):
            data = self._pool.keep(data)
        self._files[check_name(name)] = data
        self._unsynced.pop(name, None)
        if not durable:
            self._unsynced[name] = None
        return len(data)

    def sync(self, name: str) -> None:
        if check_name(name) not in self._files:
            raise FileNotFoundError(name)
        self._disk.check_room()
        self._unsynced.pop(name, None)

    def read(self, name: str) -> memoryview:
        data = self._files.get(check_name(name))
        if data is None:
            raise FileNotFoundError(name)
        return memoryview(data)  # not writable: nothing in this world writes into a mapped file

    def size(self, name: str) -> int | None:
        data = self._files.get(check_name(name))
        return None if data is None else len(data)

    def names(self, folder: str) -> list[str]:
        below = check_name(folder) + "/"
        return sorted(name for name in self._files if name.startswith(below))

    def remove(self, name: str) -> None:
        self._files.pop(check_name(name), None)
        self._unsynced.pop(name, None)

    def move(self, name: str, new_name: str) -> None:
        data = self._files.pop(check_name(name), None)
        if data is None:
            raise FileNotFoundError(name)
        self._files[check_name(new_name)] = data
        if name in self._unsynced:
            del self._unsynced[name]
            self._unsynced[new_name] = None

    def sweep(self) -> list[str]:
        return []

    def lose_power(self, draw: random.Random) -> None:
        """Files that were not synced are there whole, in part or not at all."""
        for name in self._unsynced:
            data = self._files.pop(name)
            left = draw.randrange(-1, len(data) + 1)
            if left >= 0:
                self._files[name] = data[:left]
        self._unsynced.clear()

    def bytes_below(self, folder: str) -> int:
        return sum(len(data) for name, data in self._files.items() if name.startswith(folder))


class _VirtualJournal:
    """A :class:`storage.journal.Journal` on a simulated disk."""

    def __init__(self, disk: VirtualDisk, name: str, sequence: int) -> None:
        self._disk = disk
        self._name = name
        self._sequence = sequence
        self._closed = False

    def append(self, *payloads: bytes) -> None:
        if self._closed:
            raise ValueError(f"the journal {self._name} is closed")
        try:
            self._disk.check_room()
        except OSError:
            self._closed = True  # after a failed write nobody knows what the disk has
            raise
        self._disk.images[self._name] += frame(self._sequence, payloads)
        self._sequence += 1

    def close(self) -> None:
        self._closed = True
