"""The disk of a node: what it weighs."""

from __future__ import annotations

from pathlib import Path

from node import disk


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
