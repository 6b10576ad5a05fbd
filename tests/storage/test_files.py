"""Immutable files: whole or not there, on the real disk and on the false one."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simnet.virtual.disk import VirtualFiles
from storage.files import MemoryFiles, PowerCut, check_name
from storage.io.files import DirectoryBusy, DirectoryFiles, DirectoryLock, map_file, write_file

STEPS_OF_A_WRITE = 4


def test_what_is_written_is_read(files):
    """Pieces are joined, a new file replaces the old one whole, and a view of the old one stays what it was."""
    assert files.write("a/b/c", [b"one", bytearray(b"two"), memoryview(b"three")]) == 11
    old = files.read("a/b/c")
    files.write("a/b/c", [b"new"])
    assert (old, files.read("a/b/c"), files.size("a/b/c")) == (b"onetwothree", b"new", 3)


def test_empty_files_are_files(files):
    """No pieces make an empty file, which reads as nothing."""
    files.write("empty", [])
    assert (files.size("empty"), files.read("empty")) == (0, b"")


def test_views_are_private(files):
    """Memory of a file can be written to, as torch wants, and the file does not change."""
    files.write("f", [b"abc"])
    view = files.read("f")
    if isinstance(files, VirtualFiles):  # shared by hundreds of nodes: its memory refuses instead
        assert view.readonly
        return
    view[0] = ord("x")
    assert (view, files.read("f")) == (b"xbc", b"abc")


def test_absent_files(files):
    """What is not there has no size, cannot be read or moved, and can be removed."""
    assert files.size("no") is None
    assert files.names("no") == []
    files.remove("no")
    for use in (lambda: files.read("no"), lambda: files.move("no", "other")):
        with pytest.raises(FileNotFoundError):
            use()


def test_names_moves_and_removals(files):
    """Names are those below a folder, in order; a view survives the file's move and removal."""
    for name in ["t/2/b", "t/1/c", "t/a", "u/x", "tt"]:
        files.write(name, [name.encode()])
    assert files.names("t") == ["t/1/c", "t/2/b", "t/a"]
    view = files.read("t/a")
    files.move("t/a", "away/a")
    files.remove("away/a")
    assert files.names("t") == ["t/1/c", "t/2/b"]
    assert files.names("away") == []
    assert view == b"t/a"


@pytest.mark.parametrize(
    "name", ["", "/etc", "../x", "a/../b", "a//b", "./a", ".a", "a/", "a\n", "a b", "ä", "a.3.tmp"]
)
def test_names_that_could_leave_the_folder(files, name):
    """A name is refused before anything is opened."""
    for use in (files.read, files.size, lambda bad: files.write(bad, [b""])):
        with pytest.raises(ValueError, match="cannot be the name"):
            use(name)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b/c"]), st.binary(max_size=20)), min_size=1, max_size=4),
    st.integers(0, STEPS_OF_A_WRITE * 4),
    st.integers(0, 2**32),
)
def test_power_cut_in_the_middle_of_writes(writes, steps, seed):
    """Wherever power fails: what was acknowledged is there, whole; a name never stands for a torn file; tmp files go."""
    disk = MemoryFiles()
    disk.cut_power_after(steps)
    acknowledged, attempted = {}, {}
    try:
        for name, data in writes:
            attempted[name] = data
            disk.write(name, [data])
            acknowledged[name] = data
    except PowerCut:
        with pytest.raises(PowerCut):
            disk.size("a")
    disk = disk.after_power_cut(random.Random(seed))
    disk.sweep()
    assert disk.sweep() == []
    for name in ("a", "b/c"):
        found = None if disk.size(name) is None else bytes(disk.read(name))
        assert found in (acknowledged.get(name), attempted.get(name))


def test_a_file_may_be_written_without_waiting(files):
    """It is there at once, whole; synced later, or replaced by one that is durable."""
    assert files.write("a/b", [b"one", b"two"], durable=False) == 6
    assert files.read("a/b") == b"onetwo"
    files.sync("a/b")
    files.write("a/b", [b"three"])
    assert files.read("a/b") == b"three"
    with pytest.raises(FileNotFoundError):
        files.sync("a/c")


def test_power_takes_what_was_not_waited_for():
    """Whole, torn, or with its name: all are found. After a sync only the whole."""
    found = {False: set(), True: set()}
    for seed in range(200):
        for is_synced in (False, True):
            disk = MemoryFiles()
            disk.write("f", [b"data"], durable=False)
            if is_synced:
                disk.sync("f")
            after = disk.after_power_cut(random.Random(seed))
            found[is_synced].add(None if after.size("f") is None else bytes(after.read("f")))
    assert found == {False: {None, b"", b"d", b"da", b"dat", b"data"}, True: {b"data"}}


def test_the_false_disk_does_tear_and_forget():
    """Over many seeds an unfinished write is found absent, torn and whole: the test above tests something."""
    found = set()
    for seed in range(200):
        disk = MemoryFiles()
        disk.cut_power_after(1 + seed % 3)
        with pytest.raises(PowerCut):
            disk.write("f", [b"data"])
        after = disk.after_power_cut(random.Random(seed))
        lengths = {len(data) for data in after._files.values()}
        found.add(("named" if after.size("f") is not None else "unnamed", *lengths))
    assert {("unnamed",), ("unnamed", 2), ("unnamed", 4), ("named", 4)} <= found
    assert ("named", 2) not in found


def test_sweep_removes_what_a_crash_left(tmp_path: Path):
    """Temporary files go at the start; named files stay."""
    files = DirectoryFiles(tmp_path)
    files.write("d/kept", [b"x"])
    (tmp_path / "d" / "kept.7.tmp").write_bytes(b"half")
    assert files.names("d") == ["d/kept"]
    assert files.sweep() == ["d/kept.7.tmp"]
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["kept"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path):
    """When the source of the bytes breaks, the name holds what it held, and nothing else is left."""
    path = tmp_path / "f"
    write_file(path, [b"old"], mode=0o600)

    def broken():
        yield b"new"
        raise OSError("source gone")

    with pytest.raises(OSError, match="source gone"):
        write_file(path, broken())
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["f"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_map_lives_as_long_as_its_views(tmp_path: Path):
    """Closing a map under an array is harmless: the array still reads the file."""
    path = tmp_path / "f"
    write_file(path, [np.arange(5000, dtype=np.float32).tobytes()])
    with map_file(path) as mapped:
        array = np.frombuffer(mapped.view[4000:], dtype=np.float32)
    path.unlink()
    assert array[0] == 1000
    assert array[-1] == 4999
    mapped.close()
    unused = map_file(Path(__file__))
    unused.close()
    with pytest.raises(ValueError, match="released"):
        unused.view.tobytes()


def test_a_locked_directory_names_its_holder(tmp_path: Path):
    """A second process is refused with the process id of the first, and gets the lock when that one is killed."""
    program = (
        "import sys, pathlib, storage.io.files as f; "
        "lock = f.DirectoryLock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(DirectoryBusy, match=f"in use by process {child.pid}:"):
            DirectoryLock(tmp_path)
        child.kill()
    with DirectoryLock(tmp_path), pytest.raises(DirectoryBusy):
        DirectoryLock(tmp_path)
    DirectoryLock(tmp_path).close()


def test_check_name():
    """Ordinary names pass unchanged."""
    assert check_name("tiles/layer0.expert3/1/7.tblock") == "tiles/layer0.expert3/1/7.tblock"
