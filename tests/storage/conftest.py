"""Every store is tested on the real disk and on the false ones: whatever holds for one holds for the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from simnet.virtual.disk import Pool, VirtualDisk, VirtualFiles
from storage.files import Files, MemoryFiles
from storage.io.files import DirectoryFiles
from storage.io.rocks import RocksKeyValue
from storage.kv import KeyValue, MemoryKeyValue

# Hypothesis measures wall-clock time per example by default; on a busy machine that fails for no reason.
settings.register_profile("storage", deadline=None, max_examples=60)
settings.load_profile("storage")


@pytest.fixture
def vector() -> Callable[[str], Any]:
    """Reads golden bytes by name."""
    folder = Path(__file__).parents[1] / "vectors" / "storage"
    return lambda name: json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(params=["memory", "rocks", "simulated"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    make: dict[str, Callable[[], KeyValue]] = {
        "memory": MemoryKeyValue,
        "rocks": lambda: RocksKeyValue(tmp_path / "index"),
        "simulated": lambda: VirtualDisk("simulated", Pool()).index,
    }
    kv = make[request.param]()
    yield kv
    kv.close()


@pytest.fixture(params=["memory", "disk", "simulated"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    make: dict[str, Callable[[], Files]] = {
        "memory": MemoryFiles,
        "disk": lambda: DirectoryFiles(tmp_path / "files"),
        "simulated": lambda: VirtualDisk("simulated", Pool()).files,
    }
    return make[request.param]()


@pytest.fixture
def damage(tmp_path: Path) -> Callable[[Files, str, int], None]:
    """Flips a bit of a stored file, on any kind of disk."""

    def flip(files: Files, name: str, offset: int) -> None:
        if isinstance(files, MemoryFiles):
            files.damage(name, offset)
            return
        raw = bytearray(files.read(name))
        raw[offset] ^= 1
        _replace(tmp_path, files, name, bytes(raw))

    return flip


@pytest.fixture
def cut_short(tmp_path: Path) -> Callable[[Files, str, int], None]:
    """Shortens a stored file, on any kind of disk."""

    def cut(files: Files, name: str, size_bytes: int) -> None:
        if isinstance(files, MemoryFiles):
            files.cut_short(name, size_bytes)
        else:
            _replace(tmp_path, files, name, bytes(files.read(name)[:size_bytes]))

    return cut


def _replace(folder: Path, files: Files, name: str, data: bytes) -> None:
    """Other bytes in a stored file, written by nobody who knows the store."""
    if isinstance(files, VirtualFiles):
        files._files[name] = data
    else:
        (folder / "files" / name).write_bytes(data)
