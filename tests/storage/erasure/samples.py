"""Coded blobs, honest and committed to by somebody who should not have."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from random import Random

import pytest

from protocol.codec import encode
from protocol.erasure import CheckedManifest, Geometry, Shard, check_manifest, make_manifest
from protocol.limits import KIB
from protocol.merkle import merkle_proofs, merkle_root
from protocol.rejection import Reason, Rejected
from storage.erasure.blob import encode_blob
from storage.erasure.code import ErasureCode
from storage.erasure.kernel import Kernel
from storage.erasure.tile import CheckedShard, CodedTile, cell_root, check_shard
from storage.io.isal import open_kernel

SMALL = Geometry(4, 5, 2 * KIB)  # tiles of 8 KiB


@functools.cache
def kernel() -> Kernel:
    return open_kernel()


@functools.cache
def code(geometry: Geometry = SMALL) -> ErasureCode:
    return ErasureCode(kernel(), geometry)


def blob(size_bytes: int, geometry: Geometry = SMALL, seed: int = 0) -> tuple[bytes, CheckedManifest, list[CodedTile]]:
    """Bytes, their manifest as a stranger reads it, and their tiles."""
    data = Random(seed).randbytes(size_bytes)
    tiles = list(encode_blob(code(geometry), [data]))
    manifest = make_manifest(geometry, size_bytes, tuple(tile.root for tile in tiles))
    return data, check_manifest(encode(manifest.manifest), manifest.root), tiles


def refused(reason: Reason, act: Callable[[], object]) -> None:
    with pytest.raises(Rejected) as caught:
        act()
    assert caught.value.reason is reason


def committed(
    cells: Sequence[bytes], data_bytes: int, geometry: Geometry = SMALL
) -> tuple[CheckedManifest, list[CheckedShard]]:
    """An author who commits to any cells that it likes."""
    roots = [cell_root(cell) for cell in cells]
    manifest = make_manifest(geometry, data_bytes, (merkle_root(roots),))
    proofs = merkle_proofs(roots)
    shards = [Shard(0, at, cell, proofs[at]) for at, cell in enumerate(cells)]
    return manifest, [check_shard(manifest, shard) for shard in shards]
