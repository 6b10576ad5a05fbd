"""A journal in a file: append, sync, and only then return. The format and its theory are in ``storage/journal.py``.

    opened = open_journal(path)
    match opened.state:
        case CLEAN | TORN_TAIL:   opened.records, opened.journal to go on
        case MISSING | DAMAGED:   what this means is the caller's to decide; then create_journal(path, first records)

A journal that is begun anew after damage must say so in its first record, or the next start would take it for the
whole past: ``create_journal`` writes that record in the same step that makes the file. It is also how a journal is
made shorter.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from storage.io.files import sync_data, sync_directory, write_file
from storage.journal import MAGIC, JournalState, OpenedJournal, frame, read_journal


class JournalFile:
    """A :class:`storage.journal.Journal` in a file. Made by :func:`open_journal` and :func:`create_journal`."""

    def __init__(self, path: Path, size_bytes: int, sequence: int) -> None:
        """Go on at ``size_bytes``, cutting off what lies after it, with frame number ``sequence``."""
        self.path = path
        self._size_bytes = size_bytes
        self._sequence = sequence
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        if os.fstat(self._descriptor).st_size != size_bytes:
            os.ftruncate(self._descriptor, size_bytes)
            os.fsync(self._descriptor)  # the length too: a torn frame must not come back after the next one

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def append(self, *payloads: bytes) -> None:
        """Append records; returns once all of them are on the disk. A crash before that keeps all or none.

        Raises ``OSError``, and then closes the journal: after a failed sync nobody knows what the disk has, and asking
        again would be answered with a yes that means nothing. ``ValueError`` when closed or when the records are too
        large.
        """
        if self._descriptor is None:
            raise ValueError(f"the journal {self.path} is closed")
        rest = memoryview(frame(self._sequence, payloads))
        try:
            while rest.nbytes:
                written = os.pwrite(self._descriptor, rest, self._size_bytes)
                rest = rest[written:]
                self._size_bytes += written
            sync_data(self._descriptor)
        except OSError:
            self.close()
            raise
        self._sequence += 1

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_journal(path: Path) -> OpenedJournal:
    """Read a journal; cut off a torn tail. A damaged file is left as it is. Raises ``OSError`` when the disk fails."""
    try:
        image = path.read_bytes()
    except FileNotFoundError:
        return OpenedJournal(JournalState.MISSING, (), None)
    contents = read_journal(image)
    if contents.state is JournalState.DAMAGED:
        return OpenedJournal(contents.state, contents.records, None)
    journal = JournalFile(path, contents.good_bytes, contents.frame_count)
    return OpenedJournal(contents.state, contents.records, journal)


def create_journal(path: Path, first: Sequence[bytes] = ()) -> JournalFile:
    """Begin a journal whose first records are ``first``, in place of any that is there: one or the other after a crash.

    The old file is kept beside it as ``NAME.old``, for whoever wants to know what happened. Raises ``OSError``.
    """
    old = path.with_name(path.name + ".old")
    if path.exists():
        old.unlink(missing_ok=True)
        os.link(path, old)  # not a rename: the name never stands for nothing
        sync_directory(path.parent)
    # An empty frame behind: damage of the last frame is read as a torn write, which loses it, and this one must not be lost.
    image = MAGIC + (frame(0, first) + frame(1, ()) if first else b"")
    write_file(path, [image], mode=0o600)
    return JournalFile(path, len(image), 2 if first else 0)
