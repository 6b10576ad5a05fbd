"""One data directory's bytes, opened for this process alone: rows, files, journals. What a node needs of a disk.

The real one is a folder; ``simnet`` hands a node a false one, which fills up and loses power.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Final, Protocol

from node.data_directory import DataDirectory
from storage.files import Files
from storage.io.files import DirectoryFiles, DirectoryLock, make_directory, sync_directory, write_file
from storage.io.journal_file import create_journal, open_journal
from storage.io.rocks import RocksKeyValue, RowFiles
from storage.journal import Journal, OpenedJournal
from storage.kv import KeyValue

_PART: Final = ".part"  # the end of a checkpoint's name until it is whole
_ROWS: Final = "db"
_MANIFEST: Final = "manifest"


class Journals(Protocol):
    """Journals by their names. Every method raises ``OSError`` when the disk fails."""

    def open_journal(self, name: str) -> OpenedJournal: ...

    def create_journal(self, name: str, records: Sequence[bytes] = ()) -> Journal:
        """Begin a journal with these records, in place of any of this name: the old one or the new one after a crash."""
        ...


class Disk(Journals, Protocol):
    """Every method raises ``OSError`` when the disk fails."""

    @property
    def index(self) -> KeyValue: ...

    @property
    def files(self) -> Files:
        """Everything below the data directory that is no row and no journal."""
        ...

    def path(self, name: str) -> str:
        """Where the learner's process finds a file of ``files``."""
        ...

    @property
    def row_files(self) -> RowFiles | None:
        """How ``index`` takes rows that other processes wrote; None where no other process sees this disk."""
        ...

    def other_bytes(self) -> int:
        """What rows, journals, checkpoints, the learner's state and logs take."""
        ...

    def take_checkpoint(self, name: str, manifest: bytes, prefix: bytes) -> None:
        """Keep the rows below a prefix as of now, under a name, with some bytes beside them.

        Durable on return; whole or not there after a crash. A disk that does not copy may keep other rows as well.
        """
        ...

    def checkpoints(self) -> list[str]:
        """The names of those that are kept, sorted."""
        ...

    def read_manifest(self, name: str) -> bytes:
        """The bytes beside a checkpoint."""
        ...

    def open_checkpoint(self, name: str) -> KeyValue:
        """Its rows, to be read; the caller closes them."""
        ...

    def remove_checkpoint(self, name: str) -> None:
        """Of those that are not there, too. Whole or gone after a crash."""
        ...

    def free_bytes(self) -> int:
        """What may still be written before the disk is full, whoever fills it."""
        ...

    def close(self) -> None: ...


class DirectoryJournals:
    """:class:`Journals` in a real folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open_journal(self, name: str) -> OpenedJournal:
        return open_journal(self._folder / name)

    def create_journal(self, name: str, records: Sequence[bytes] = ()) -> Journal:
        return create_journal(self._folder / name, records)


class DirectoryDisk(DirectoryJournals):
    """A :class:`Disk` in a real folder, locked."""

    def __init__(self, places: DataDirectory) -> None:
        """Lock, then open. Raises ``DirectoryBusy``, ``DatabaseCorrupt``, ``OSError``."""
        super().__init__(places.journal)
        self._places = places
        with contextlib.ExitStack() as opened:
            self._lock = DirectoryLock(places.root)
            opened.callback(self._lock.close)
            self.index = RocksKeyValue(places.database)
            opened.callback(self.index.close)
            self.row_files = RowFiles(places.incoming, self.index)
            self.files = DirectoryFiles(places.root)
            self.files.sweep()
            for left in places.checkpoints.glob(f"*{_PART}"):  # by a crash
                shutil.rmtree(left)
            places.journal.mkdir(exist_ok=True)
            places.learner.mkdir(exist_ok=True)
            opened.pop_all()

    def path(self, name: str) -> str:
        return str(self._places.root / name)

    def other_bytes(self) -> int:
        places = self._places
        folders = (
            places.database,
            places.incoming,
            places.checkpoints,
            places.journal,
            places.learner,
            places.log.parent,
        )
        found = dict(_size_bytes(file) for folder in folders for file in folder.rglob("*"))
        return sum(found.values())

    def take_checkpoint(self, name: str, manifest: bytes, prefix: bytes) -> None:
        folder = self._places.checkpoints / name
        part = folder.with_name(name + _PART)
        self.remove_checkpoint(name)
        make_directory(part)
        self.index.checkpoint(part / _ROWS)
        write_file(part / _MANIFEST, [manifest])
        part.rename(folder)
        sync_directory(folder.parent)

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in self._places.checkpoints.glob("*") if path.suffix != _PART)

    def read_manifest(self, name: str) -> bytes:
        return (self._places.checkpoints / name / _MANIFEST).read_bytes()

    def open_checkpoint(self, name: str) -> KeyValue:
        return RocksKeyValue(self._places.checkpoints / name / _ROWS, read_only=True)

    def remove_checkpoint(self, name: str) -> None:
        folder = self._places.checkpoints / name
        part = folder.with_name(name + _PART)
        shutil.rmtree(part, ignore_errors=True)
        if folder.exists():  # under its own name it is whole until none of it counts any more
            folder.rename(part)
            sync_directory(folder.parent)
            shutil.rmtree(part, ignore_errors=True)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._places.root).free

    def close(self) -> None:
        self.index.close()
        self._lock.close()


def _size_bytes(path: Path) -> tuple[int, int]:
    """A file, by its number, since checkpoints have files of the database as well; and its bytes: none for a folder, and for
    a file that the database has just removed."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return (found.st_ino, found.st_size) if S_ISREG(found.st_mode) else (0, 0)
