"""Tiles and blobs: what is committed to, what is refused and who is blamed, and how much memory a blob takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.codec import decode, encode
from protocol.erasure import (
    COLD,
    LIVE,
    CheckedManifest,
    Geometry,
    LeafProof,
    Shard,
    make_manifest,
)
from protocol.limits import CELL_LEAF_BYTES, KIB, MIB, SHARD_BYTES_MAX
from protocol.merkle import leaf_digest, node_digest
from protocol.rejection import Blame, InvariantBroken, Reason
from storage.erasure.blob import cut_tiles, decode_blob, encode_blob
from storage.erasure.code import ErasureCode
from storage.erasure.numpy_kernel import NumpyKernel
from storage.erasure.tile import (
    CheckedShard,
    cell_root,
    check_leaf,
    check_shard,
    encode_tile,
    prove_leaf,
    rebuild_tile,
)
from tests.storage.erasure.samples import SMALL, blob, code, committed, refused

# -- commitment --------------------------------------------------------------------------------------------------------


def test_a_root_is_two_trees_of_prefixed_digests() -> None:
    """1 KiB leaves under 0x00, nodes under 0x01; cells of two leaves, nine cells: written out."""
    _, _, (tile,) = blob(8 * KIB)
    roots = []
    for cell in tile.cells:
        leaves = [leaf_digest(cell[:CELL_LEAF_BYTES]), leaf_digest(cell[CELL_LEAF_BYTES:])]
        roots.append(node_digest(*leaves))
        assert cell_root(cell) == roots[-1]
    pairs = [node_digest(roots[at], roots[at + 1]) for at in range(0, 8, 2)]
    left = node_digest(node_digest(pairs[0], pairs[1]), node_digest(pairs[2], pairs[3]))
    assert tile.root == node_digest(left, roots[8])


def test_a_cells_proof_has_the_size_of_the_specification() -> None:
    """256 bytes for a live cell of 64 KiB, and 14 digests for a leaf of it."""
    _, manifest, (tile,) = blob(4 * MIB, LIVE)
    checked = check_shard(manifest, tile.checked(255).shard)
    assert len(checked.shard.data) == 64 * KIB
    assert 32 * len(checked.shard.proof) == 256
    proof = prove_leaf(checked, 63)
    assert len(proof.cell_path) + len(proof.tile_path) == 14
    assert check_leaf(manifest, proof) == checked.shard.data[-CELL_LEAF_BYTES:]


@given(st.integers(1, 40 * KIB), st.integers(0, 2**32))
@settings(max_examples=25)
def test_every_cell_and_leaf_is_proved_by_the_manifest(size_bytes: int, seed: int) -> None:
    """Of full tiles and of the shorter last one."""
    _, manifest, tiles = blob(size_bytes, seed=seed)
    random = Random(seed)
    for tile in tiles:
        for checked in tile.shards():
            assert check_shard(manifest, checked.shard) == checked
        leaf = random.randrange(len(checked.shard.data) // CELL_LEAF_BYTES)
        assert check_leaf(manifest, prove_leaf(checked, leaf)) in checked.shard.data
    for leaf in (-1, len(checked.shard.data) // CELL_LEAF_BYTES):
        with pytest.raises(IndexError):
            prove_leaf(checked, leaf)


def test_cells_are_no_longer_than_their_data_needs() -> None:
    """A blob of one byte is nine cells of 1 KiB, and the last tile of a long one has as many leaves as it takes."""
    assert [len(cell) for cell in blob(1)[2][0].cells] == [KIB] * 9
    assert [len(tile.cells[0]) for tile in blob(8 * KIB + 4 * KIB + 1)[2]] == [2 * KIB, 2 * KIB]
    assert [len(tile.cells[0]) for tile in blob(8 * KIB + 4 * KIB)[2]] == [2 * KIB, KIB]
    assert [len(tile.data) for tile in blob(8 * KIB + 5)[2]] == [8 * KIB, 5]


@pytest.mark.parametrize("size_bytes", [0, SMALL.tile_bytes + 1])
def test_a_tile_is_neither_empty_nor_too_long(size_bytes: int) -> None:
    """Whoever cuts a blob cuts it rightly."""
    with pytest.raises(ValueError, match="a tile of"):
        encode_tile(code(), 0, bytes(size_bytes))


# -- hostile shards ----------------------------------------------------------------------------------------------------


def wounds(shard: Shard) -> Iterator[Shard]:
    """What a holder might send in place of a cell."""
    flipped = bytearray(shard.data)
    flipped[len(flipped) // 2] ^= 0x10
    yield replace(shard, data=bytes(flipped))
    yield replace(shard, data=shard.data[:-1])
    yield replace(shard, data=shard.data + b"\x00")
    yield replace(shard, data=b"")
    yield replace(shard, data=shard.data[CELL_LEAF_BYTES:] + shard.data[:CELL_LEAF_BYTES])
    for tile in (1 - shard.tile, 2, 10**6, -1):
        yield replace(shard, tile=tile)
    for cell in (shard.cell ^ 1, 9, 255, -1):
        yield replace(shard, cell=cell)
    yield replace(shard, proof=())
    yield replace(shard, proof=shard.proof[:-1])
    yield replace(shard, proof=(*shard.proof, shard.proof[-1]))
    yield replace(shard, proof=shard.proof[::-1])


def test_a_wounded_shard_is_its_senders_fault() -> None:
    """Other bytes, another place, another proof: none becomes a checked shard, and the sender pays."""
    _, manifest, tiles = blob(16 * KIB)
    for wounded in wounds(tiles[0].checked(3).shard):
        refused(Reason.BAD_PROOF, lambda wounded=wounded: check_shard(manifest, wounded))
    assert Reason.BAD_PROOF.blame is Blame.SENDER


def test_a_node_of_the_tree_is_no_leaf() -> None:
    """Two child digests in place of a kilobyte have another prefix; a leaf's path has the length that its place asks for."""
    _, manifest, (tile, _) = blob(16 * KIB)
    checked = tile.checked(3)
    proof = prove_leaf(checked, 1)
    for wounded in (
        replace(proof, leaf=0),
        replace(proof, leaf=2),
        replace(proof, leaf=-1),
        replace(proof, cell=4),
        replace(proof, tile=1),
        replace(proof, tile=2),
        replace(proof, data=bytes(CELL_LEAF_BYTES)),
        replace(proof, data=leaf_digest(checked.shard.data[:CELL_LEAF_BYTES]) + leaf_digest(proof.data)),
        replace(proof, cell_path=()),
        replace(proof, cell_path=proof.cell_path + proof.tile_path, tile_path=()),
        replace(proof, tile_path=proof.tile_path[1:]),
    ):
        refused(Reason.BAD_PROOF, lambda wounded=wounded: check_leaf(manifest, wounded))
    assert check_leaf(manifest, proof) == proof.data


# -- rebuilding --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 30 * KIB), st.integers(0, 2**32))
@settings(max_examples=40)
def test_any_k_cells_of_each_tile_give_the_blob_back(size_bytes: int, seed: int) -> None:
    """In any order and with repetitions; and all other cells with it, the same as the author's."""
    data, manifest, tiles = blob(size_bytes, seed=seed)
    random = Random(seed)
    chosen = []
    for tile in tiles:
        some = random.sample(range(SMALL.cells), SMALL.data_cells + random.randrange(3))
        chosen.append([tile.checked(cell) for cell in [*some, some[0]]])
    assert b"".join(decode_blob(code(), manifest, chosen)) == data
    for tile, shards in zip(tiles, chosen, strict=True):
        rebuilt = rebuild_tile(code(), manifest, tile.index, shards)
        assert rebuilt == tile


@pytest.mark.parametrize("geometry", [LIVE, COLD], ids=["live", "cold"])
def test_the_profiles_rebuild_from_parity_alone(geometry: Geometry) -> None:
    """A tile of each, two leaves a cell, without one of its data cells."""
    data, manifest, (tile,) = blob(geometry.data_cells * 2 * KIB - 77, geometry)
    last = [tile.checked(cell) for cell in range(geometry.cells - geometry.data_cells, geometry.cells)]
    assert bytes(rebuild_tile(code(geometry), manifest, 0, last).data) == data


def test_one_cell_too_few_is_nobodys_fault() -> None:
    """Repeating one does not make it two."""
    _, manifest, (tile,) = blob(8 * KIB)
    shards = [tile.checked(cell) for cell in (0, 5, 8)]
    refused(Reason.TOO_FEW_CELLS, lambda: rebuild_tile(code(), manifest, 0, shards * 2))
    refused(Reason.TOO_FEW_CELLS, lambda: rebuild_tile(code(), manifest, 0, []))
    assert Reason.TOO_FEW_CELLS.blame is Blame.NOBODY


@given(st.integers(0, 8), st.integers(0, 2 * KIB - 1), st.integers(1, 255), st.integers(0, 2**32))
def test_cells_that_are_no_codeword_are_their_authors_fault(cell: int, at: int, bits: int, seed: int) -> None:
    """One wrong byte in one cell, rightly committed to: whichever cells one reads it from, the tile is refused."""
    _, _, (tile,) = blob(8 * KIB)
    cells = [bytearray(each) for each in tile.cells]
    cells[cell][at] ^= bits
    manifest, shards = committed([bytes(each) for each in cells], 8 * KIB)
    some = Random(seed).sample(shards, SMALL.data_cells)
    refused(Reason.BAD_ENCODING, lambda: rebuild_tile(code(), manifest, 0, some))
    assert Reason.BAD_ENCODING.blame is Blame.AUTHOR


def test_padding_is_zero_or_the_author_pays() -> None:
    """Else one blob would have many roots, and the rest of a tile would be a place to hide something."""
    _, _, (tile,) = blob(8 * KIB)
    manifest, shards = committed([bytes(cell) for cell in tile.cells], 8 * KIB - 1)
    refused(Reason.BAD_ENCODING, lambda: rebuild_tile(code(), manifest, 0, shards))


def test_cells_of_another_tile_are_our_own_mistake() -> None:
    """A checked shard says whose it is: mixing them up stops the node, and so does another code than the manifest's."""
    _, manifest, (one, other) = blob(16 * KIB)
    with pytest.raises(InvariantBroken):
        rebuild_tile(code(), manifest, 0, other.shards())
    with pytest.raises(InvariantBroken):
        rebuild_tile(code(Geometry(4, 6, 2 * KIB)), manifest, 0, one.shards())


# -- blobs -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 30))
def test_a_blob_is_cut_the_same_however_it_comes(pieces: list[bytes], tile_bytes: int) -> None:
    """Pieces of any sizes give full tiles and one shorter one, and together the same bytes."""
    whole = b"".join(pieces)
    tiles = [bytes(tile) for tile in cut_tiles(tile_bytes, pieces)]
    assert tiles == [whole[at : at + tile_bytes] for at in range(0, len(whole), tile_bytes)]


def test_a_tile_that_was_taken_stays_as_it_is() -> None:
    """Small pieces are gathered in a new buffer for each tile."""
    tiles = list(cut_tiles(4, [b"ab", b"cdef", b"gh", b"i"]))
    assert [bytes(tile) for tile in tiles] == [b"abcd", b"efgh", b"i"]


def test_a_source_is_read_no_further_than_was_asked() -> None:
    """Nothing is coded or decoded before somebody takes it."""
    read = []

    def source() -> Iterator[bytes]:
        for at in range(100):
            read.append(at)
            yield bytes(SMALL.tile_bytes)

    coded = encode_blob(code(), source())
    assert read == []
    next(coded)
    assert read == [0]
    _, manifest, tiles = blob(24 * KIB)
    asked = []

    def shards() -> Iterator[list[CheckedShard]]:
        for tile in tiles:
            asked.append(tile.index)
            yield list(tile.shards())

    decoded = decode_blob(code(), manifest, shards())
    next(decoded)
    assert asked == [0]
    with pytest.raises(ValueError, match="shorter"):
        list(decode_blob(code(), manifest, [list(tiles[0].shards())]))


def test_a_long_blob_takes_the_memory_of_one_coded_tile() -> None:
    """Coding or decoding forty tiles holds no more than two and a half of them at once, cells included."""
    geometry = Geometry(16, 16, 64 * KIB)
    coder = ErasureCode(NumpyKernel(), geometry)
    coded_bytes = geometry.cells * geometry.cell_bytes_max
    tile_count = 40
    pieces = [bytes([1]) * geometry.tile_bytes] * tile_count
    (tile,) = encode_blob(coder, pieces[:1])
    manifest = make_manifest(geometry, tile_count * geometry.tile_bytes, (tile.root,) * tile_count)

    def shards() -> Iterator[list[CheckedShard]]:
        for _ in range(tile_count):
            yield [tile.checked(cell) for cell in range(geometry.parity_cells, geometry.cells)]

    for work in (lambda: encode_blob(coder, pieces), lambda: decode_blob(coder, manifest, shards())):
        tracemalloc.start()
        assert sum(1 for _ in work()) == tile_count
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 2.5 * coded_bytes


def test_coding_is_a_name() -> None:
    """The same bytes have one blob root, and other bytes, sizes or geometries have another."""
    data, manifest, _ = blob(20 * KIB)
    again = make_manifest(SMALL, len(data), tuple(tile.root for tile in encode_blob(code(), [data[:7], data[7:]])))
    assert again == manifest
    other = blob(20 * KIB, Geometry(4, 4, 2 * KIB))[1]
    assert len({manifest.root, other.root, blob(20 * KIB, seed=1)[1].root}) == 3
    zeros = [blob_of_zeros(size_bytes).root for size_bytes in (1, 2, 1024)]
    assert len(set(zeros)) == 3  # the same cells: the size is in the root


def blob_of_zeros(size_bytes: int) -> CheckedManifest:
    (tile,) = encode_blob(code(), [bytes(size_bytes)])
    return make_manifest(SMALL, size_bytes, (tile.root,))


def test_a_shard_and_a_leaf_travel() -> None:
    """As messages of the vocabulary, within their bounds."""
    _, manifest, (tile,) = blob(8 * KIB)
    shard = tile.checked(8).shard
    assert decode(Shard, encode(shard), limit_bytes=SHARD_BYTES_MAX) == shard
    leaf = prove_leaf(tile.checked(8), 1)
    assert check_leaf(manifest, decode(LeafProof, encode(leaf), limit_bytes=4 * KIB)) == leaf.data
