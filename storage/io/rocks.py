"""KeyValue on RocksDB: the only file that imports rocksdict.

``raw_mode`` is set on the options and on every batch, or rocksdict would pickle. Its errors are all plain
``Exception`` with RocksDB's text, so they are told apart here by the words that RocksDB documents, once, and leave as
``OSError``.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import rocksdict

from storage.files import TMP_SUFFIX
from storage.io.files import make_directory
from storage.kv import Batch, DatabaseCorrupt, DatabaseLocked

# Small, because several nodes share a laptop and what is big lies in files: guesses, not tuned.
_WRITE_BUFFER_BYTES: Final = 8 * 1024 * 1024
_BLOCK_CACHE_BYTES: Final = 16 * 1024 * 1024
_BLOOM_BITS_PER_KEY: Final = 10  # 1 % false positives (RocksDB's own documentation)
_NO_ROOM: Final = tuple(
    map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
)  # RocksDB quotes the system's words


class RocksKeyValue:
    """A :class:`storage.kv.KeyValue` in a folder."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the database in ``path``, or make one. Raises ``DatabaseLocked``, ``DatabaseCorrupt``, ``OSError``.

        ``read_only`` makes, locks and changes no row: it sees the moment of its opening, also of a database that
        another process has open, whose cleaning up may then make a read fail with ``OSError``.
        """
        self.path = path
        if not read_only:
            make_directory(path.parent)
        elif not (path / "CURRENT").exists():  # rocksdict would make the folder, and RocksDB then find nothing in it
            raise OSError(f"The database {path} failed: there is none.")
        self._durable = rocksdict.WriteOptions()
        self._durable.sync = True
        self._buffered = rocksdict.WriteOptions()
        self._has_refused = False  # a write failed, which whoever closes us has heard
        try:
            access = rocksdict.AccessType.read_only() if read_only else rocksdict.AccessType.read_write()
            self._db: rocksdict.Rdict | None = rocksdict.Rdict(str(path), _options(), access_type=access)
        except Exception as error:
            raise _translated(path, error) from error

    def get(self, key: bytes) -> bytes | None:
        db = self._open_db()
        try:
            value: bytes | None = db.get(key)
        except Exception as error:
            raise _translated(self.path, error) from error
        return value

    def write(self, batch: Batch, *, durable: bool = True) -> None:
        db = self._open_db()
        raw = rocksdict.WriteBatch(raw_mode=True)
        for key, value in batch.operations:
            if value is None:
                raw.delete(key)
            else:
                raw.put(key, value)
        try:
            db.write(raw, self._durable if durable else self._buffered)
        except Exception as error:
            self._has_refused = True
            raise _translated(self.path, error) from error

    def scan(self, prefix: bytes, *, start: bytes = b"", limit: int) -> list[tuple[bytes, bytes]]:
        # An iterator sees one moment, that of its making; a rocksdict Snapshot's iterators do not.
        db = self._open_db()
        rows: list[tuple[bytes, bytes]] = []
        try:
            iterator = db.iter()
            iterator.seek(max(prefix, start))
            while len(rows) < limit and iterator.valid() and (key := iterator.key()).startswith(prefix):
                rows.append((key, iterator.value()))
                iterator.next()
            iterator.status()  # damage ends an iterator early and quietly; this raises it
        except Exception as error:
            raise _translated(self.path, error) from error
        return rows

    def reclaim(self, first: bytes, stop: bytes) -> None:
        # Rows that were deleted stay in their files until a compaction meets them; nothing else would, where nothing is
        # written any more. Only files in the range are read, and the interpreter's lock is not held meanwhile (measured).
        db = self._open_db()
        try:
            db.compact_range(first, stop)
        except Exception as error:
            raise _translated(self.path, error) from error

    def checkpoint(self, path: Path) -> None:
        """All rows as of now, as a database in a new folder of the same disk: links to files, and a copy of what is recent.

        Opened with ``read_only`` it neither sees nor hinders what is written here later. Raises ``OSError``.
        """
        db = self._open_db()
        try:
            rocksdict.Checkpoint(db).create_checkpoint(str(path))
        except Exception as error:
            raise _translated(path, error) from error

    def ingest(self, path: Path) -> None:
        """Take all rows of a file that ``write_rows`` has written, in place of those that are here; the file is gone then.

        Durable on return, whole or not there after a crash: before what was written earlier without ``durable``. Raises
        ``OSError``.
        """
        options = rocksdict.IngestExternalFileOptions()
        options.set_move_files(True)
        db = self._open_db()
        try:
            db.ingest_external_file([str(path)], options)
        except Exception as error:
            self._has_refused = True
            raise _translated(self.path, error) from error
        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Idempotent. Raises ``OSError``, unless a write has raised it before: its sentence is the one to end with."""
        db, self._db = self._db, None
        if db is None:
            return
        try:
            db.close()
        except Exception as error:
            if not self._has_refused:
                raise _translated(self.path, error) from error

    def _open_db(self) -> rocksdict.Rdict:
        if self._db is None:
            raise ValueError("the database is closed")
        return self._db


class RowFiles:
    """Files of rows that other processes write, in a folder on the disk of the database that takes them."""

    def __init__(self, folder: Path, index: RocksKeyValue) -> None:
        self._folder = folder
        self._index = index
        self._numbers = itertools.count()

    def new_path(self) -> Path:
        """Where nothing is, and no process that outlives a dead one of ours writes. What is left is swept at the next start."""
        make_directory(self._folder)
        return self._folder / f"rows.{os.getpid()}.{next(self._numbers)}{TMP_SUFFIX}"

    def take(self, path: Path) -> None:
        """As ``RocksKeyValue.ingest``."""
        self._index.ingest(path)


def write_rows(path: Path, rows: Iterable[tuple[bytes, bytes]]) -> None:
    """Write rows, of which there is one at least, in ascending order of their keys, as a file for ``ingest``.

    Raises ``OSError``, also for rows that are not in order.
    """
    try:
        writer = rocksdict.SstFileWriter(_options())
        writer.open(str(path))
        for key, value in rows:
            writer[key] = value
        writer.finish()
    except Exception as error:
        raise _translated(path, error) from error


def _options() -> rocksdict.Options:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    # A torn last record was never acknowledged and is dropped; damage before it is an error, where the default
    # (point in time) would quietly forget acknowledged writes behind it.
    options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_paranoid_checks(True)
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_max_background_jobs(1)
    options.set_keep_log_file_num(2)
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(rocksdict.Cache(_BLOCK_CACHE_BYTES))
    table.set_bloom_filter(_BLOOM_BITS_PER_KEY, False)
    options.set_block_based_table_factory(table)
    return options


def _translated(path: Path, error: Exception) -> OSError:
    """RocksDB's error as one of ours, with a sentence that says what to do."""
    text = str(error)
    if "lock hold by current process" in text or "While lock file" in text:
        return DatabaseLocked(f"The database {path} is open in another process: stop that node first.")
    if text.startswith("Corruption") or "Corruption:" in text:
        return DatabaseCorrupt(
            f"The database {path} is damaged ({text}): "
            "run `nocknode recovery repair`, which fetches it again from peers."
        )
    if any(words in text for words in _NO_ROOM):
        return OSError(f"The database {path} cannot grow ({text}): make room on its disk, then start again.")
    return OSError(f"The database {path} failed: {text}")
