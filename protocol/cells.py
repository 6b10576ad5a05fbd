"""Coded blobs between nodes: what is asked over ``/nock/cells/1``, and what is answered.

    GetManifest   -> Manifest     checked by the blob's root       ``protocol/erasure.py``, check_manifest
    GetTables     -> Tables       each by the tables' root         ``protocol/coded_tables.py``, check_table
    GetCells      -> Cells        each by its tile's root          ``storage/erasure/tile.py``, check_shard
    GetLeaf       -> Leaf         by its tile's root: an audit     ``storage/erasure/tile.py``, check_leaf
    AskToKeep     -> KeepAnswer   a vote, checked as any other     ``consensus/availability.py``

Whoever asks has the digest by which the answer is proved, so that it does not matter who answers. Only ``AskToKeep`` makes work
for the one who is asked: it fetches its cells, from whoever asks among others, and its vote says that they are on its disk
(store before sign). So it is asked again until it has them.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from protocol.availability import AvailabilityClaim, AvailabilityVote
from protocol.codec import Message
from protocol.coded_tables import TileTable
from protocol.erasure import CellIndexField, CheckedManifest, LeafIndexField, LeafProof, Shard, TileIndexField
from protocol.ids import DigestField, Natural
from protocol.limits import CELLS_ANSWER_BYTES_MAX, CELLS_PER_TILE_MAX, MANIFEST_BYTES_MAX, TABLES_PER_REQUEST_MAX

# -- questions ------------------------------------------------------------------------------------------------------------


class GetManifest(Message, frozen=True, tag=1):
    """Ask for the manifest of a blob."""

    blob: DigestField


class GetTables(Message, frozen=True, tag=2):
    """Ask for the tables of some tiles, under one of the tables' roots that a blob may have."""

    blob: DigestField
    tables: DigestField
    tiles: Annotated[tuple[TileIndexField, ...], Meta(min_length=1, max_length=TABLES_PER_REQUEST_MAX)]


class GetCells(Message, frozen=True, tag=3):
    """Ask for cells of one tile. ``rebuild``: those that are not held are to be made again from others, if that is possible.

    Of more than :func:`cells_per_answer` the first so many are looked for.
    """

    blob: DigestField
    tile: TileIndexField
    cells: Annotated[tuple[CellIndexField, ...], Meta(min_length=1, max_length=CELLS_PER_TILE_MAX)]
    rebuild: bool


class GetLeaf(Message, frozen=True, tag=4):
    """Ask for one leaf of a cell that the one who is asked is to keep: an audit."""

    blob: DigestField
    tile: TileIndexField
    cell: CellIndexField
    leaf: LeafIndexField


class AskToKeep(Message, frozen=True, tag=5):
    """Ask a member to keep its cells of a blob, and to say so. ``size_bytes`` is the blob's: what it takes is known before
    anything is fetched; the manifest says the same, or the answer is a refusal."""

    claim: AvailabilityClaim
    size_bytes: Natural


CellRequest = GetManifest | GetTables | GetCells | GetLeaf | AskToKeep

# -- answers --------------------------------------------------------------------------------------------------------------


class Manifest(Message, frozen=True):
    """The bytes of a ``BlobManifest``, to be checked before they are decoded further."""

    data: Annotated[bytes, Meta(min_length=1, max_length=MANIFEST_BYTES_MAX)]


class Tables(Message, frozen=True):
    """Tables in the order in which they were asked for; as many as there is room for, one at least."""

    tables: Annotated[tuple[TileTable, ...], Meta(min_length=1, max_length=TABLES_PER_REQUEST_MAX)]


class Cells(Message, frozen=True):
    """Those that are held, in the order in which they were asked for. None is an answer too."""

    shards: Annotated[tuple[Shard, ...], Meta(max_length=CELLS_PER_TILE_MAX)]


class Leaf(Message, frozen=True):
    """The leaf that was asked for."""

    proof: LeafProof


class KeepAnswer(Message, frozen=True):
    """The vote for the claim that was asked about. None: the cells are not all here yet, ask again."""

    vote: AvailabilityVote | None


def cells_per_answer(manifest: CheckedManifest, tile: int) -> int:
    """How many cells of a tile one answer holds: of so many, what is not in it is not held.

    Raises ``IndexError`` where the blob has no such tile.
    """
    return min(CELLS_PER_TILE_MAX, CELLS_ANSWER_BYTES_MAX // manifest.cell_bytes(tile))
