"""The disk of a node: what it weighs."""

from __future__ import annotations

from pathlib import Path

from node import disk


def test_a_file_that_the_database_just_removed_weighs_nothing(tmp_path: Path):
    """The database cleans up while files are counted."""
    (tmp_path / "file").write_bytes(b"four")
    sizes = [disk._size_bytes(tmp_path / name) for name in ("file", "gone", ".")]
    assert sizes == [4, 0, 0]
