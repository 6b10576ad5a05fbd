"""Manifests of coded blobs: who is blamed for which, and what geometry promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.codec import encode
from protocol.digest import blob_digest
from protocol.erasure import COLD, LIVE, BlobManifest, Geometry, ReplicationClass, check_manifest, make_manifest
from protocol.ids import Digest
from protocol.limits import (
    CELL_BYTES_MAX,
    CODED_TILE_BYTES_MAX,
    KIB,
    MANIFEST_BYTES_MAX,
    MIB,
    SHARD_BYTES_MAX,
    TILES_PER_BLOB_MAX,
)
from protocol.rejection import Blame, Reason, Rejected

ROOTS = tuple(blob_digest(bytes([index])) for index in range(3))
MANIFEST = BlobManifest(COLD, 2 * COLD.tile_bytes + 1, ROOTS)


def refusal(manifest: BlobManifest, root: Digest | None = None) -> Reason:
    with pytest.raises(Rejected) as caught:
        check_manifest(encode(manifest), manifest.root() if root is None else root)
    return caught.value.reason


def test_a_manifest_is_checked_against_the_root_that_names_its_blob() -> None:
    """What its author made is what its reader gets."""
    made = make_manifest(MANIFEST.geometry, MANIFEST.size_bytes, MANIFEST.tile_roots)
    checked = check_manifest(encode(MANIFEST), MANIFEST.root())
    assert checked == made
    assert [checked.data_bytes(tile) for tile in range(3)] == [10 * MIB, 10 * MIB, 1]
    assert [checked.cell_bytes(tile) for tile in range(3)] == [MIB, MIB, KIB]
    for tile in (-1, 3):
        with pytest.raises(IndexError):
            checked.data_bytes(tile)


def test_everything_in_a_manifest_is_in_its_root() -> None:
    """Another size, geometry, root or order of roots is another blob's manifest, and whoever sent it pays."""
    others = (
        replace(MANIFEST, size_bytes=MANIFEST.size_bytes + 1),
        replace(MANIFEST, geometry=replace(COLD, data_cells=11)),
        replace(MANIFEST, geometry=replace(COLD, parity_cells=11)),
        replace(MANIFEST, geometry=replace(COLD, cell_bytes_max=MIB - KIB)),
        replace(MANIFEST, tile_roots=ROOTS[::-1]),
        replace(MANIFEST, tile_roots=ROOTS[:2]),
        replace(MANIFEST, tile_roots=(*ROOTS, ROOTS[2])),
    )
    for other in others:
        assert refusal(other, MANIFEST.root()) is Reason.WRONG_DIGEST
    assert Reason.WRONG_DIGEST.blame is Blame.SENDER
    with pytest.raises(Rejected, match="at most"):
        check_manifest(bytes(MANIFEST_BYTES_MAX + 1), MANIFEST.root())


@pytest.mark.parametrize(
    "manifest",
    [
        replace(MANIFEST, size_bytes=1),
        replace(MANIFEST, size_bytes=3 * COLD.tile_bytes + 1),
        replace(MANIFEST, size_bytes=2 * COLD.tile_bytes),
        BlobManifest(Geometry(65, 192, KIB), KIB, ROOTS[:1]),
        BlobManifest(Geometry(2, 2, KIB + 1), KIB, ROOTS[:1]),
        BlobManifest(Geometry(1, 255, CELL_BYTES_MAX), KIB, ROOTS[:1]),
    ],
    ids=str,
)
def test_a_manifest_that_contradicts_itself_is_its_authors_fault(manifest: BlobManifest) -> None:
    """Its root is what the author committed to, so whoever passed it on is not blamed; an author here is stopped too."""
    assert refusal(manifest) is Reason.BAD_MANIFEST
    assert Reason.BAD_MANIFEST.blame is Blame.AUTHOR
    with pytest.raises(Rejected) as caught:
        make_manifest(manifest.geometry, manifest.size_bytes, manifest.tile_roots)
    assert caught.value.reason is Reason.BAD_MANIFEST


@pytest.mark.parametrize(
    ("geometry", "size_bytes", "roots"),
    [
        (COLD, 0, 0),
        (COLD, (TILES_PER_BLOB_MAX + 1) * COLD.tile_bytes, TILES_PER_BLOB_MAX + 1),
        (Geometry(2, 2, 2 * CELL_BYTES_MAX), 1, 1),
        (Geometry(2, 2, 0), 1, 1),
        (Geometry(0, 2, KIB), 1, 1),
        (Geometry(2, 0, KIB), 1, 1),
    ],
    ids=str,
)
def test_nobody_makes_a_manifest_that_nobody_could_read(geometry: Geometry, size_bytes: int, roots: int) -> None:
    """Nothing at all, more than a manifest holds, cells that no message carries."""
    with pytest.raises(Rejected) as caught:
        make_manifest(geometry, size_bytes, (ROOTS[0],) * roots)
    assert caught.value.reason is Reason.BAD_MANIFEST


def test_the_largest_manifest_and_cell_fit_their_bounds() -> None:
    """With the longest numbers."""
    size_bytes = TILES_PER_BLOB_MAX * LIVE.tile_bytes
    largest = BlobManifest(LIVE, size_bytes, (ROOTS[0],) * TILES_PER_BLOB_MAX)
    assert size_bytes == 64 * 2**30
    assert len(encode(largest)) <= MANIFEST_BYTES_MAX
    assert SHARD_BYTES_MAX > CELL_BYTES_MAX + 34 * 8 + 16
    assert all(not list(geometry.faults()) for geometry in (LIVE, COLD))
    assert max(geometry.cells * geometry.cell_bytes_max for geometry in (LIVE, COLD)) <= CODED_TILE_BYTES_MAX


@given(st.integers(1, 255), st.integers(1, 255), st.integers(1, 64), st.integers(1, 2**40))
def test_sizes_follow_from_geometry_and_size(data_cells: int, parity_cells: int, leaves: int, size_bytes: int) -> None:
    """Full tiles have the longest cells; the last has the shortest whole leaves that hold the rest."""
    geometry = Geometry(data_cells, parity_cells, leaves * KIB)
    tiles = geometry.tile_count(size_bytes)
    last_bytes = size_bytes - (tiles - 1) * geometry.tile_bytes
    assert 0 < last_bytes <= geometry.tile_bytes
    assert geometry.cell_bytes(geometry.tile_bytes) == geometry.cell_bytes_max
    cell_bytes = geometry.cell_bytes(last_bytes)
    assert (cell_bytes - KIB) * data_cells < last_bytes <= cell_bytes * data_cells
    assert cell_bytes % KIB == 0


def test_the_classes_are_the_source_documents() -> None:
    """Five, three, two and one holders; and what must outlive liars is coded so that any third of the cells rebuilds it."""
    assert {each.code: each.holders_per_cell for each in ReplicationClass} == {
        "critical": 5,
        "high": 3,
        "normal": 2,
        "low": 1,
    }
    assert [each.geometry for each in ReplicationClass] == [LIVE, LIVE, COLD, COLD]
    assert ReplicationClass.CRITICAL.kept_until(7) is None
    assert ReplicationClass.NORMAL.kept_until(7) == 1_779
    kept = [each.retention_epochs or 2**63 for each in ReplicationClass]
    assert kept == sorted(kept, reverse=True)
    assert LIVE.any_third_rebuilds
    assert not COLD.any_third_rebuilds
    assert not Geometry(64, 127, KIB).any_third_rebuilds
    assert Geometry(64, 128, KIB).any_third_rebuilds
