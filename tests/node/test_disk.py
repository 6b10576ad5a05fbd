"""The disk of a node: what it weighs, and what a process that dies leaves of a checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from node import disk

# Dies at one step of the file system after the other, each time in a process of its own; prints what is found after each.
DYING = """
import os, shutil, signal, sys
from pathlib import Path
from node.data_directory import DataDirectory
from node.disk import DirectoryDisk
from storage.kv import Batch
act, root = sys.argv[1], Path(sys.argv[2])
STEPS = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "open")
def apart(work):
    child = os.fork()
    if not child:
        work()
        sys.stdout.flush()
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
def prepare():
    disk, batch = DirectoryDisk(DataDirectory(root)), Batch()
    batch.put(b"key", b"value")
    disk.index.write(batch)
    disk.take_checkpoint("1", b"first", b"")
    disk.close()
def die(number):
    disk, left = DirectoryDisk(DataDirectory(root)), [number]
    def step(event, arguments):
        if event in STEPS:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(step)
    if act == "remove":
        disk.remove_checkpoint("1")
    else:
        disk.take_checkpoint("1", b"second", b"")
def look():
    disk = DirectoryDisk(DataDirectory(root))
    for name in disk.checkpoints():
        rows = disk.open_checkpoint(name)
        print(disk.read_manifest(name).decode(), rows.get(b"key").decode())
        rows.close()
    print("looked", len(list((root / "checkpoints").iterdir())), flush=True)
    disk.close()
number, done = 0, False
while not done:
    number += 1
    shutil.rmtree(root)
    assert apart(prepare)
    done = apart(lambda: die(number))
    assert apart(look)
"""


@pytest.mark.parametrize(("act", "after"), [("remove", []), ("take", ["second value"])])
def test_a_checkpoint_is_whole_or_gone_at_every_step(tmp_path: Path, act: str, after: list[str]):
    """Killed while one is removed, or taken in place of another, a node finds the old one, the new one or none."""
    root = tmp_path / "node"
    root.mkdir()
    done = subprocess.run([sys.executable, "-c", DYING, act, str(root)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = [[]]
    for line in done.stdout.splitlines():
        if line.startswith("looked"):
            assert line == f"looked {len(found[-1])}"  # nothing is left beside what is listed
            found.append([])
        else:
            found[-1].append(line)
    assert found.pop() == []
    assert len(found) > 8  # steps, and the act that was left alone
    assert all(each in ([], ["first value"], after) for each in found)
    assert found[0] == ["first value"]
    assert found[-1] == after


def test_a_file_that_the_database_just_removed_weighs_nothing(tmp_path: Path):
    """The database cleans up while files are counted."""
    (tmp_path / "file").write_bytes(b"four")
    sizes = [disk._size_bytes(tmp_path / name)[1] for name in ("file", "gone", ".")]
    assert sizes == [4, 0, 0]


def test_a_file_with_two_names_takes_its_room_once(tmp_path: Path):
    """Checkpoints are links to the database's files."""
    (tmp_path / "file").write_bytes(b"four")
    (tmp_path / "link").hardlink_to(tmp_path / "file")
    assert disk._size_bytes(tmp_path / "file") == disk._size_bytes(tmp_path / "link")
