"""One data directory's bytes, opened for this process alone: rows, files, journals. What a node needs of a disk.

The real one is a folder; ``simnet`` hands a node a false one, which fills up and loses power.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Protocol

from node.data_directory import DataDirectory
from storage.files import Files
from storage.io.files import DirectoryFiles, DirectoryLock
from storage.io.journal_file import create_journal, open_journal
from storage.io.rocks import RocksKeyValue
from storage.journal import Journal, OpenedJournal
from storage.kv import KeyValue


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

    def other_bytes(self) -> int:
        """What rows, journals, the learner's state and logs take."""
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
            self.files = DirectoryFiles(places.root)
            self.files.sweep()
            places.journal.mkdir(exist_ok=True)
            places.learner.mkdir(exist_ok=True)
            opened.pop_all()

    def path(self, name: str) -> str:
        return str(self._places.root / name)

    def other_bytes(self) -> int:
        places = self._places
        folders = (places.database, places.journal, places.learner, places.log.parent)
        return sum(_size_bytes(file) for folder in folders for file in folder.rglob("*"))

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._places.root).free

    def close(self) -> None:
        self.index.close()
        self._lock.close()


def _size_bytes(path: Path) -> int:
    """Of a file; 0 for a folder, and for a file that the database has just removed."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    return found.st_size if S_ISREG(found.st_mode) else 0
