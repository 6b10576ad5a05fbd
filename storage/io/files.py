"""Immutable files on a real disk, memory maps of them, and the lock on a data directory.

Files are written as ``storage/files.py`` draws it. A map is private (``ACCESS_COPY``): ``torch`` wants writable
memory, and a read-only map would crash the process on a write, while a private one keeps the write to itself. A file
that shrinks under its map would crash it too (SIGBUS), which is why nothing here ever changes a file that has its
name.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final

from storage.files import TMP_SUFFIX, check_name
from storage.tensor_block import BytesLike

# macOS has no fdatasync; fsync says more and costs more.
sync_data: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)
_tmp_numbers: Final = itertools.count()  # two threads that write one name never share a temporary file


class DirectoryBusy(OSError):
    """Another process holds the data directory. The sentence names it."""


class MappedFile:
    """A file in memory. ``view`` and everything sliced from it stay valid for as long as somebody holds them.

    Closing gives up our own hold; the map itself ends with the last view or array made from it. (``torch.frombuffer``
    does not count as one: go through ``numpy.frombuffer``.)
    """

    def __init__(self, path: Path) -> None:
        """Raises ``OSError``, ``FileNotFoundError`` among them."""
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size:
                self._map: mmap.mmap | None = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                self.view = memoryview(self._map)
            else:  # an empty file cannot be mapped
                self._map = None
                self.view = memoryview(bytearray())

    def close(self) -> None:
        # BufferError: somebody still holds a view. Forgetting the map is enough, the views keep it and free it.
        with contextlib.suppress(BufferError):
            self.view.release()
            if self._map is not None:
                self._map.close()
        self._map = None

    def __enter__(self) -> MappedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def map_file(path: Path) -> MappedFile:
    """Map a whole file, without reading it; raises ``OSError``."""
    return MappedFile(path)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: a rename without this can be undone by a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory and its parents, each name durable."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def write_file(path: Path, pieces: Iterable[BytesLike], mode: int = 0o644, *, durable: bool = True) -> int:
    """Write a new file, whole and durable on return, in place of any file of this name; returns its size.

    Without ``durable`` nothing waits for the disk, and a power cut may leave any part of it. Raises ``OSError``; then
    the name holds what it held before, and no temporary file is left.
    """
    make_directory(path.parent)
    tmp = path.with_name(f"{path.name}.{next(_tmp_numbers)}{TMP_SUFFIX}")
    try:
        size_bytes = 0
        with open(os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb", buffering=0) as file:
            for piece in pieces:
                view = memoryview(piece).cast("B")
                while view.nbytes:  # a raw write may be short
                    written = file.write(view)
                    view = view[written:]
                    size_bytes += written
            if durable:
                sync_data(file.fileno())
        os.replace(tmp, path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)
    return size_bytes


def sync_file(path: Path) -> None:
    """Make a file durable that was written without; raises ``OSError``, ``FileNotFoundError`` among them."""
    with path.open("rb") as file:
        sync_data(file.fileno())
    sync_directory(path.parent)


class DirectoryFiles:
    """:class:`storage.files.Files` in a folder of a real disk."""

    def __init__(self, root: Path) -> None:
        """Makes the folder if there is none; raises ``OSError``."""
        self.root = root
        make_directory(root)

    def write(self, name: str, pieces: Iterable[BytesLike], *, durable: bool = True) -> int:
        return write_file(self._path(name), pieces, durable=durable)

    def sync(self, name: str) -> None:
        sync_file(self._path(name))

    def read(self, name: str) -> memoryview:
        return map_file(self._path(name)).view

    def size(self, name: str) -> int | None:
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        below = self._path(folder)
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in below.rglob("*")
            if path.is_file() and path.suffix != TMP_SUFFIX
        )

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def move(self, name: str, new_name: str) -> None:
        old, new = self._path(name), self._path(new_name)
        make_directory(new.parent)
        os.replace(old, new)
        # The new name first: a cut between the two leaves two names for one file, never none.
        sync_directory(new.parent)
        sync_directory(old.parent)

    def sweep(self) -> list[str]:
        left = sorted(path for path in self.root.rglob("*" + TMP_SUFFIX) if path.is_file())
        for path in left:
            path.unlink()
        return [path.relative_to(self.root).as_posix() for path in left]

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)


class DirectoryLock:
    """Holds a data directory for this process until ``close`` or the process's end, however it ends."""

    def __init__(self, directory: Path) -> None:
        """Raises ``DirectoryBusy`` when it is held, ``OSError`` when the directory cannot be made or written."""
        make_directory(directory)
        path = directory / "lock"
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            self.close()
            raise DirectoryBusy(
                f"The data directory {directory} is in use by process {holder}: "
                "stop that node, or choose another --data-dir."
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
