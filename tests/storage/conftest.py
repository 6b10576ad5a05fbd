"""Every store is tested on the real disk and on the false one: whatever holds for one holds for the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

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


@pytest.fixture(params=["memory", "rocks"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    kv: KeyValue = MemoryKeyValue() if request.param == "memory" else RocksKeyValue(tmp_path / "index")
    yield kv
    kv.close()


@pytest.fixture(params=["memory", "disk"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return MemoryFiles() if request.param == "memory" else DirectoryFiles(tmp_path / "files")


@pytest.fixture
def damage(tmp_path: Path) -> Callable[[Files, str, int], None]:
    """Flips a bit of a stored file, on either kind of disk."""

    def flip(files: Files, name: str, offset: int) -> None:
        if isinstance(files, MemoryFiles):
            files.damage(name, offset)
            return
        path = tmp_path / "files" / name
        raw = bytearray(path.read_bytes())
        raw[offset] ^= 1
        path.write_bytes(raw)

    return flip


@pytest.fixture
def cut_short(tmp_path: Path) -> Callable[[Files, str, int], None]:
    """Shortens a stored file, on either kind of disk."""

    def cut(files: Files, name: str, size_bytes: int) -> None:
        if isinstance(files, MemoryFiles):
            files.cut_short(name, size_bytes)
        else:
            path = tmp_path / "files" / name
            path.write_bytes(path.read_bytes()[:size_bytes])

    return cut
