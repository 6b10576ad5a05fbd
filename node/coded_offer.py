"""A blob that this node offers the others to keep: coded once to name it, and tile by tile for whoever takes cells of it.

Coding makes four bytes of one. So an offer holds the data, mapped where it is a file, and its tables; cells are made again when
they are asked for, of a few tiles at a time: all holders come for the same tile within seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol.availability import AvailabilityClaim
from protocol.coded_tables import TileTable, make_tables
from protocol.erasure import CheckedManifest, make_manifest
from protocol.ids import Digest
from protocol.limits import MIB
from storage.erasure.blob import encode_blob
from storage.erasure.check import TileCheck
from storage.erasure.code import ErasureCode
from storage.erasure.kernel import Kernel
from storage.erasure.tile import CodedTile, encode_tile

CODED_BYTES_MAX: Final = 68 * MIB  # of cells and their proofs: four tiles of the largest, or all of a small network
_POINTER_BYTES: Final = 8
OFFERED_CHECKPOINT: Final = (
    "offers/checkpoint"  # the file of the state that we offer, as long as nobody asks for a newer one
)


@dataclass(frozen=True, slots=True)
class CodedOffer:
    """What an author knows of its blob."""

    claim: AvailabilityClaim
    manifest: CheckedManifest
    tables: tuple[TileTable, ...]
    data: memoryview

    def tile_data(self, tile: int) -> memoryview:
        """The data of one tile of the blob; raises ``IndexError``."""
        first = tile * self.manifest.geometry.tile_bytes
        return self.data[first : first + self.manifest.data_bytes(tile)]


ClaimOf = Callable[[CheckedManifest, Digest], AvailabilityClaim]


def code_offer(kernel: Kernel, code: ErasureCode, data: memoryview, claim_of: ClaimOf) -> CodedOffer:
    """Code a blob whole, one tile in memory at a time: 40 ms for each four MiB. ``claim_of``: the claim, from its two roots."""
    geometry = code.geometry
    roots, tables = [], []
    for tile in encode_blob(code, [data]):
        check = TileCheck(kernel, geometry, geometry.cell_bytes(tile.data.nbytes), tile.root)
        roots.append(tile.root)
        tables.append(check.table(tile))
    manifest = make_manifest(geometry, data.nbytes, tuple(roots))
    tables_root, proved = make_tables(manifest, tables)
    return CodedOffer(claim_of(manifest, tables_root), manifest, tuple(proved), data)


class CodedTiles:
    """The tiles that were coded last, by their roots; least recently used go first.

    Whoever comes for its cells of a tile comes when it has those of the tiles before: the more of them are at hand, the further
    may holders be apart that one rebuild serves.
    """

    def __init__(self, code: ErasureCode, bytes_max: int = CODED_BYTES_MAX) -> None:
        self._code = code
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: OrderedDict[Digest, CodedTile] = OrderedDict()

    def find(self, root: Digest) -> CodedTile | None:
        """A tile that is at hand."""
        if root in self._kept:
            self._kept.move_to_end(root)
        return self._kept.get(root)

    def keep(self, tile: CodedTile) -> CodedTile:
        """Keep a tile that was coded or rebuilt: the last one always, whatever it takes."""
        if tile.root not in self._kept:
            self._bytes += _size_bytes(tile)
        self._kept[tile.root] = tile
        self._kept.move_to_end(tile.root)
        while self._bytes > self._bytes_max and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= _size_bytes(gone)
        return tile

    def of(self, offer: CodedOffer, tile: int) -> CodedTile:
        """A tile of an offer, coded again where it is not at hand; raises ``IndexError``."""
        return self.find(offer.manifest.tile_root(tile)) or self.keep(
            encode_tile(self._code, tile, offer.tile_data(tile))
        )


def _size_bytes(tile: CodedTile) -> int:
    """What a tile takes in memory, about: its cells, and what points to the digests that their proofs share."""
    return sum(cell.nbytes for cell in tile.cells) + _POINTER_BYTES * sum(map(len, tile.proofs))
