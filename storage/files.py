"""Files: immutable bytes under names, whole or not there. The verbs, and a false disk that loses what was not synced.

Writing a file durably takes four steps, and a power cut may come between any two:

    1 write     bytes into NAME.n.tmp                     after a cut: absent, empty, torn or whole
    2 sync      fdatasync of it                           whole, under the wrong name: swept at the next start
    3 rename    NAME.n.tmp -> NAME                        either name
    4 sync      the directory                             NAME, for good: only now may anybody hear of it

``storage/io/files.py`` does this on a real disk. A file is never changed after step 3, so a mapping of it never changes
either, and a reader needs no lock.

What can be made again need not survive a power cut: ``durable=False`` leaves out steps 2 and 4, and whoever reads such a
file after a cut believes nothing of it. ``sync`` makes up for them later.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Final, Protocol

from storage.tensor_block import BytesLike

TMP_SUFFIX: Final = ".tmp"
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", re.ASCII)


class Files(Protocol):
    """A folder of immutable files. Names are relative, with ``/`` between folders; no part begins with a dot.

    Every method raises ``OSError`` when the disk fails, and ``ValueError`` for a name that could leave the folder.
    """

    def write(self, name: str, pieces: Iterable[BytesLike], *, durable: bool = True) -> int:
        """Write the concatenation of ``pieces`` as one new file. Replaces a file of this name whole.

        If ``durable``, it survives a power cut on return; if not, a cut may leave it whole, cut short or not at all, and
        with it goes what it replaced. Returns the size in bytes.
        """
        ...

    def sync(self, name: str) -> None:
        """Make a file durable that was written without. Raises ``FileNotFoundError``."""
        ...

    def read(self, name: str) -> memoryview:
        """The file's bytes, mapped where possible; writable, private to this process, valid while the view is held.

        Raises ``FileNotFoundError``.
        """
        ...

    def size(self, name: str) -> int | None:
        """Size in bytes, or ``None`` where there is no such file."""
        ...

    def names(self, folder: str) -> list[str]:
        """Names of all files below ``folder``, however deep, sorted; nothing where there is no such folder."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; no error where there is none. Views of it stay valid. Not synced: a power cut may undo it."""
        ...

    def move(self, name: str, new_name: str) -> None:
        """Give a file another name; durable on return. Raises ``FileNotFoundError``."""
        ...

    def sweep(self) -> list[str]:
        """Remove the temporary files that a crash left; returns their names.

        For the start, before anything is written.
        """
        ...


def check_name(name: str) -> str:
    """``name``, if it stays inside the folder and is no temporary file's; raises ``ValueError``."""
    if not _NAME.fullmatch(name) or name.endswith(TMP_SUFFIX):
        raise ValueError(f"{name!r} cannot be the name of a stored file")
    return name


class PowerCut(OSError):
    """The false disk has lost power: nothing happens on it any more."""


class MemoryFiles:
    """:class:`Files` in memory. ``cut_power_after`` makes it fail in the middle; ``after_power_cut`` is the disk then."""

    def __init__(self) -> None:
        self._files: dict[str, bytearray] = {}  # as a process sees them
        self._synced: dict[str, bytearray] = {}  # as the disk has them for certain
        self._unsynced: list[tuple[str, bytearray | None]] = []  # changes to names since then, in order; None removes
        self._torn: list[bytearray] = []  # written, but their bytes are not synced
        self._steps_left: int | None = None
        self._tmp_count = 0

    def write(self, name: str, pieces: Iterable[BytesLike], *, durable: bool = True) -> int:
        check_name(name)
        self._tmp_count += 1
        tmp = f"{name}.{self._tmp_count}{TMP_SUFFIX}"
        data = bytearray(b"".join(pieces))
        self._step()
        self._torn.append(data)
        self._set(tmp, data)
        if durable:
            self._step()
            self._torn.pop()
        self._step()
        self._rename(tmp, name)
        if durable:
            self._step()
            self._sync_names()
        return len(data)

    def sync(self, name: str) -> None:
        data = self._files.get(check_name(name))
        if data is None:
            raise FileNotFoundError(name)
        self._step()
        self._torn = [torn for torn in self._torn if torn is not data]
        self._step()
        self._sync_names()

    def read(self, name: str) -> memoryview:
        self._check_power()
        data = self._files.get(check_name(name))
        if data is None:
            raise FileNotFoundError(name)
        return memoryview(bytearray(data))  # a copy: private, as a mapping is

    def size(self, name: str) -> int | None:
        self._check_power()
        data = self._files.get(check_name(name))
        return None if data is None else len(data)

    def names(self, folder: str) -> list[str]:
        self._check_power()
        below = check_name(folder) + "/"
        return sorted(name for name in self._files if name.startswith(below) and not name.endswith(TMP_SUFFIX))

    def remove(self, name: str) -> None:
        self._step()
        if check_name(name) in self._files:
            self._set(name, None)

    def move(self, name: str, new_name: str) -> None:
        if check_name(name) not in self._files:
            raise FileNotFoundError(name)
        self._step()
        self._rename(name, check_name(new_name))
        self._step()
        self._sync_names()

    def sweep(self) -> list[str]:
        self._check_power()
        left = sorted(name for name in self._files if name.endswith(TMP_SUFFIX))
        for name in left:
            self._set(name, None)
        return left

    def cut_power_after(self, steps: int) -> None:
        """After ``steps`` more steps nothing happens any more: everything raises ``PowerCut``."""
        self._steps_left = steps

    def after_power_cut(self, generator: random.Random) -> MemoryFiles:
        """A disk such as this one may be when power returns.

        Changes to names that were not synced survive up to some point in their order, as a journalling file system
        keeps them; bytes that were not synced survive up to some length.
        """
        disk = MemoryFiles()
        disk._files = dict(self._synced)
        for name, data in self._unsynced[: generator.randint(0, len(self._unsynced))]:
            disk._set(name, data)
        for name, data in disk._files.items():
            torn = any(data is written for written in self._torn)
            disk._files[name] = bytearray(data[: generator.randint(0, len(data))] if torn else data)
        disk._sync_names()
        return disk

    def damage(self, name: str, offset: int, mask: int = 1) -> None:
        """The disk flips the bits ``mask`` of one byte."""
        self._files[name][offset] ^= mask

    def cut_short(self, name: str, size_bytes: int) -> None:
        """The disk loses everything after ``size_bytes`` of a file."""
        del self._files[name][size_bytes:]

    def _set(self, name: str, data: bytearray | None) -> None:
        self._unsynced.append((name, data))
        if data is None:
            self._files.pop(name, None)
        else:
            self._files[name] = data

    def _rename(self, name: str, new_name: str) -> None:
        self._set(new_name, self._files[name])
        self._set(name, None)

    def _sync_names(self) -> None:
        self._synced = dict(self._files)
        self._unsynced.clear()

    def _step(self) -> None:
        self._check_power()
        if self._steps_left is not None:
            self._steps_left -= 1

    def _check_power(self) -> None:
        if self._steps_left == 0:
            raise PowerCut("the power is cut")
