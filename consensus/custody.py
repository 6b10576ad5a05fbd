"""Who keeps which cells of a coded tile, and what of them it must show (chain.md 3.4). Everybody computes it alone.

Members of a roster keep cells by their weight. The cells lie on a line in an order that tile root and beacon give, and the
members divide it as their weights divide the whole:

    member with weights [a, b) of W before and up to it    positions  floor(n * a / W) ... ceil(n * b / W) - 1  of n

A set of members with more than a third of W divides among itself more than n / 3 of the line, and each keeps every cell that
its part touches: more than n / 3 different cells, 86 of 256, for any weights in any order. Rounding up on both sides costs
each member less than two cells.

Everybody else keeps cells by its peer id: the first so many different values of H(peer | tile root | i) mod n. Whoever keeps
more keeps what it kept before; and a peer id that was searched for with one tile in mind has other cells of the next.

An audit asks a holder for one leaf of one of its cells, drawn by a beacon that was not known when the cells were stored.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from protocol.digest import Domain, digest, number
from protocol.erasure import CheckedManifest
from protocol.ids import Digest, MemberIndex, PeerId
from protocol.limits import CELL_LEAF_BYTES
from protocol.roster import Roster

ORDERS_REMEMBERED: Final = 1_024  # of tiles: one order takes 256 digests, and is asked for by every look at the tile


@dataclass(frozen=True, slots=True)
class TileRing:
    """The cells of one tile as a roster keeps them. ``order``: cells by position; ``parts``: positions by member."""

    order: tuple[int, ...]
    parts: tuple[range, ...]

    def cells_of(self, member: MemberIndex) -> tuple[int, ...]:
        """What a member keeps, ascending; nothing where it weighs nothing."""
        return tuple(sorted(self.order[position] for position in self.parts[member]))

    def holders_of(self, cell: int) -> tuple[MemberIndex, ...]:
        """Who keeps a cell, ascending: one at least. Raises ``ValueError`` where the tile has no such cell."""
        position = self.order.index(cell)
        return tuple(MemberIndex(member) for member, part in enumerate(self.parts) if position in part)

    def holders(self) -> tuple[tuple[MemberIndex, ...], ...]:
        """Who keeps each cell, by cell."""
        by_cell: list[list[MemberIndex]] = [[] for _ in self.order]
        for member, part in enumerate(self.parts):
            for position in part:
                by_cell[self.order[position]].append(MemberIndex(member))
        return tuple(map(tuple, by_cell))


def tile_ring(roster: Roster, manifest: CheckedManifest, tile: int, beacon: Digest) -> TileRing:
    """The ring of a tile in the roster's epoch. Raises ``IndexError`` where the blob has no such tile.

    ``beacon`` is that of the epoch in which the blob was certified, for as long as it is kept. With an order that is drawn anew
    for each epoch nearly all cells would change hands each time; so only those do that other weights move.
    """
    cells = manifest.geometry.cells
    return TileRing(ring_order(beacon, manifest.tile_root(tile), cells), ring_parts(roster.weights, cells))


@lru_cache(maxsize=ORDERS_REMEMBERED)
def ring_order(beacon: Digest, tile_root: Digest, cells: int) -> tuple[int, ...]:
    """The cells by position: in ascending order of their digests."""

    def place(cell: int) -> Digest:
        return digest(Domain.CUSTODY_RING, tile_root, beacon, number(cell))

    return tuple(sorted(range(cells), key=place))


def ring_parts(weights: Sequence[int], cells: int) -> tuple[range, ...]:
    """The positions of each member. Raises ``ValueError`` where nobody weighs anything."""
    total = sum(weights)
    if total <= 0:
        raise ValueError("a roster without weight keeps nothing")
    ends = list(itertools.accumulate(weights))
    return tuple(
        # The end is rounded up: what a part touches it keeps. Nothing touches nothing.
        range(cells * (end - weight) // total, -(-cells * end // total)) if weight else range(0)
        for end, weight in zip(ends, weights, strict=True)
    )


def repair_order(roster: Roster, manifest: CheckedManifest, tile: int, beacon: Digest) -> tuple[MemberIndex, ...]:
    """Who repairs a tile: the first of these who is there. Who keeps cell 0, then who keeps cell 1, each member once.

    Another order for each tile, in which the heavy are early more often; who keeps nothing is not in it. Raises
    ``IndexError`` where the blob has no such tile.
    """
    ring = tile_ring(roster, manifest, tile, beacon)
    return tuple(dict.fromkeys(member for holders in ring.holders() for member in holders))


def peer_cells(peer: PeerId, tile_root: Digest, cells: int, count: int) -> tuple[int, ...]:
    """The first ``count`` cells that a peer keeps of a tile, in its order. Raises ``ValueError`` for more than there are."""
    if not 0 <= count <= cells:
        raise ValueError(f"{count} cells of {cells}")
    kept: dict[int, None] = {}  # in order of insertion
    for step in itertools.count():
        if len(kept) == count:
            break
        drawn = digest(Domain.CUSTODY_PEER, peer, tile_root, number(step))
        kept.setdefault(int.from_bytes(drawn[:8], "big") % cells)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class Audit:
    """What a holder must show: answered with a ``LeafProof`` of exactly this place."""

    blob: Digest
    tile: int
    cell: int
    leaf: int


CellsOf = Callable[[CheckedManifest, int], Sequence[int]]  # what the holder keeps of a tile of a blob


def draw_audits(
    beacon: Digest, holder: PeerId, blobs: Sequence[CheckedManifest], cells_of: CellsOf, count: int
) -> list[Audit]:
    """``count`` audits of a holder in the epoch of ``beacon``: a tile of all blobs, then one of its cells, then a leaf.

    The order of ``blobs`` does not matter. Tiles of which the holder keeps nothing are passed over, so there are fewer
    audits than ``count``, and none where it keeps nothing at all. The same leaf may be drawn twice.
    """
    ordered = sorted(blobs, key=lambda each: each.root)
    ends = list(itertools.accumulate(manifest.tile_count for manifest in ordered))
    audits = []
    for index in range(count if ends else 0):
        drawn = digest(Domain.CUSTODY_AUDIT, beacon, holder, number(index))
        at, by_cell, by_leaf = (int.from_bytes(drawn[start : start + 8], "big") for start in (0, 8, 16))
        at %= ends[-1]
        place = bisect_right(ends, at)
        manifest, tile = ordered[place], at - (ends[place] - ordered[place].tile_count)
        cells = cells_of(manifest, tile)
        if cells:
            leaves = manifest.cell_bytes(tile) // CELL_LEAF_BYTES
            audits.append(Audit(manifest.root, tile, cells[by_cell % len(cells)], by_leaf % leaves))
    return audits
