"""BlobStore: bytes by their digest, on disk. What goes where is decided in ``storage/blobs.py``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.digest import blob_digest
from protocol.ids import Digest
from protocol.rejection import Rejected
from storage.blobs import BLOB_FOLDER, blob_file_name, blob_of_file_name, check_blob, is_inline
from storage.files import Files
from storage.keys import BLOB_SIZE, INLINE_BLOB, blob_key, pack_u64, unpack_u64
from storage.kv import Batch, KeyValue
from storage.tensor_block import BytesLike

_SCAN_ROWS: Final = 4096  # rows read at once at the start


@dataclass(frozen=True, slots=True)
class BlobStatistics:
    """``corrupt_count`` counts blobs that were found changed, and removed, since the start."""

    count: int
    bytes_used: int
    corrupt_count: int


class BlobStore:
    """Content-addressed bytes. One writer; safe after a crash at any moment."""

    def __init__(self, files: Files, index: KeyValue) -> None:
        """Read which blobs there are, and remove the files of puts that never returned. Raises ``OSError``."""
        self._files = files
        self._index = index
        self._sizes: dict[Digest, int] = {}
        self._verified: set[Digest] = set()
        self._corrupt_count = 0
        self._bytes_used = 0
        start = b""
        while rows := index.scan(BLOB_SIZE, start=start, limit=_SCAN_ROWS):
            for key, value in rows:
                self._remember(Digest(key[1:]), unpack_u64(value))
            start = rows[-1][0] + b"\x00"
        for file_name in files.names(BLOB_FOLDER):
            name = blob_of_file_name(file_name)
            if name is None or name not in self._sizes:
                files.remove(file_name)

    def put(self, data: BytesLike) -> Digest:
        """Keep ``data``; durable on return. Raises ``OSError``."""
        return self.put_many([data])[0]

    def put_many(self, blobs: Iterable[BytesLike]) -> list[Digest]:
        """Keep several blobs; all durable on return, with one sync for those that are rows. Raises ``OSError``.

        After a crash in the middle any of them may be there, each whole.
        """
        names: list[Digest] = []
        sizes: dict[Digest, int] = {}
        batch = Batch()
        for data in blobs:
            name, size_bytes = blob_digest(data), memoryview(data).nbytes
            names.append(name)
            if name in self._sizes or name in sizes:
                continue
            sizes[name] = size_bytes
            batch.put(blob_key(BLOB_SIZE, name), pack_u64(size_bytes))
            if is_inline(size_bytes):
                batch.put(blob_key(INLINE_BLOB, name), bytes(data))
            else:
                self._files.write(blob_file_name(name), [data])  # before its row: a row is a promise
        if batch:
            self._index.write(batch)
        for name, size_bytes in sizes.items():
            self._remember(name, size_bytes)
        return names

    def find(self, name: Digest) -> memoryview | None:
        """The blob's bytes, read-only, or ``None`` where it is not kept. The view stays valid after a delete.

        Raises ``Rejected(BLOB_CORRUPT)`` when the disk changed them: the blob is removed, and can be fetched and put
        again.
        """
        size_bytes = self._sizes.get(name)
        if size_bytes is None:
            return None
        data = self._read(name, size_bytes)
        if name not in self._verified:
            try:
                check_blob(name, data)
            except Rejected:
                self._corrupt_count += 1
                self.delete(name)
                raise
            self._verified.add(name)
        return data

    def read(self, name: Digest) -> memoryview | None:
        """As ``find``, and from any thread: it changes nothing, so that it checks the bytes each time and removes none.

        Raises ``Rejected(BLOB_CORRUPT)``.
        """
        size_bytes = self._sizes.get(name)
        if size_bytes is None:
            return None
        data = self._read(name, size_bytes)
        check_blob(name, data)
        return data

    def has(self, name: Digest) -> bool:
        return name in self._sizes

    def size(self, name: Digest) -> int | None:
        """Size in bytes, or ``None`` where it is not kept."""
        return self._sizes.get(name)

    def names(self) -> list[Digest]:
        """Every blob that is kept, in order of their digests."""
        return sorted(self._sizes)

    def delete(self, *names: Digest) -> None:
        """Forget blobs; those that are not kept are no error."""
        batch = Batch()
        held = [name for name in dict.fromkeys(names) if name in self._sizes]
        for name in held:
            batch.delete(blob_key(BLOB_SIZE, name))
            if is_inline(self._sizes[name]):
                batch.delete(blob_key(INLINE_BLOB, name))
        if batch:
            # The row first: a file without a row is swept at the next start; a row without a file breaks a promise.
            self._index.write(batch)
        for name in held:
            size_bytes = self._sizes.pop(name)
            self._bytes_used -= size_bytes
            self._verified.discard(name)
            if not is_inline(size_bytes):
                self._files.remove(blob_file_name(name))

    @property
    def bytes_used(self) -> int:
        return self._bytes_used

    def statistics(self) -> BlobStatistics:
        return BlobStatistics(len(self._sizes), self._bytes_used, self._corrupt_count)

    def _read(self, name: Digest, size_bytes: int) -> memoryview:
        """The bytes as they lie there; nothing where the file is gone, which is corrupt like any other change."""
        if is_inline(size_bytes):
            return memoryview(self._index.get(blob_key(INLINE_BLOB, name)) or b"")
        try:
            return self._files.read(blob_file_name(name)).toreadonly()
        except FileNotFoundError:
            return memoryview(b"")

    def _remember(self, name: Digest, size_bytes: int) -> None:
        self._sizes[name] = size_bytes
        self._bytes_used += size_bytes
