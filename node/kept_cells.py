"""The cells of one node, and the thread that codes, checks and stores them: one writer, and the event loop goes on."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeVar

import trio

from consensus.custody import peer_cells, repair_order, tile_ring
from consensus.state import KeptEntry
from node.coded_offer import CodedTiles
from node.threads import InThread
from protocol.coded_tables import check_table
from protocol.erasure import LIVE, CheckedManifest, Geometry
from protocol.ids import Digest, PeerId
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster
from storage.erasure.check import TileCheck
from storage.erasure.code import ErasureCode
from storage.erasure.kernel import Kernel
from storage.gathering import Agreement
from storage.io.cell_store import CellStore
from storage.io.isal import open_kernel

T = TypeVar("T")

# Of each tile, that whoever does not vote keeps: twelve such peers rebuild every tile (chain.md 3.4).
PEER_CELLS: Final = 8
TILE_CHECKS_REMEMBERED: Final = 4


@dataclass(frozen=True, slots=True)
class Custody:
    """A blob, by what it takes to know who keeps what of it.

    ``beacons``: of the epochs in which it was certified. The same bytes may be on the record more than once, as two versions of
    a tile that did not change: each certificate gives a ring, and whoever signed both keeps what both give it.
    """

    manifest: CheckedManifest
    tables: Digest  # the root of its tables
    beacons: tuple[Digest, ...]

    @classmethod
    def of(cls, manifest: CheckedManifest, entries: Sequence[KeptEntry]) -> Custody:
        """By what the record says of one blob, of which the first entry counts; others with its tables give rings too."""
        tables = entries[0].tables
        return cls(manifest, tables, tuple(dict.fromkeys(each.beacon for each in entries if each.tables == tables)))

    def duty(self, peer: PeerId, roster: Roster, tile: int) -> tuple[int, ...]:
        """The cells that a peer is to keep of a tile: by its weight where it votes, by its name where it does not."""
        member = roster.find_index(peer)
        if member is not None:
            rings = (tile_ring(roster, self.manifest, tile, beacon) for beacon in self.beacons)
            return tuple(sorted({cell: None for ring in rings for cell in ring.cells_of(member)}))
        return peer_cells(peer, self.manifest.tile_root(tile), self.manifest.geometry.cells, PEER_CELLS)

    def custodians(
        self, tile: int, rosters: Sequence[Roster], peers: Sequence[PeerId]
    ) -> Mapping[int, Sequence[PeerId]]:
        """Who of ``peers`` is to have each cell: by the rosters, the first of them first, and then by its name."""
        holders: dict[int, dict[PeerId, None]] = {}
        within = frozenset(peers)  # asked only "is it in"
        for roster, beacon in itertools.product(rosters, self.beacons):
            for cell, members in enumerate(tile_ring(roster, self.manifest, tile, beacon).holders()):
                for node in (roster.members[member].node for member in members):
                    if node in within:
                        holders.setdefault(cell, {})[node] = None
        for peer in peers:
            if all(roster.find_index(peer) is None for roster in rosters):
                for cell in self.duty(peer, rosters[0], tile):
                    holders.setdefault(cell, {})[peer] = None
        return {cell: tuple(holders[cell]) for cell in sorted(holders)}

    def repairers(self, roster: Roster, tile: int) -> tuple[PeerId, ...]:
        """Who makes lost cells of a tile again: the first of these who is there."""
        order = repair_order(roster, self.manifest, tile, self.beacons[0])
        return tuple(roster.members[member].node for member in order)


class KeptCells:
    """What this node keeps of coded blobs. ``store`` is for its thread; :meth:`in_thread` is the way there."""

    def __init__(self, store: CellStore, kernel: Kernel, in_thread: InThread) -> None:
        self.store = store
        self.kernel = kernel
        self._codes: dict[Geometry, ErasureCode] = {}
        self.coded = CodedTiles(self.code(LIVE))
        self.thread = trio.CapacityLimiter(1)
        self._in_thread = in_thread

    def code(self, geometry: Geometry) -> ErasureCode:
        """The code of a geometry; there are as many as classes of replication."""
        if geometry not in self._codes:
            self._codes[geometry] = ErasureCode(self.kernel, geometry)
        return self._codes[geometry]

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await self._in_thread(work, self.thread)

    def agreement(self, custody: Custody, tile: int) -> Agreement:
        """What cells of a tile of a blob that was put must agree with; for the thread. Raises ``Rejected(NOT_FOUND)``."""
        manifest = custody.manifest
        table = self.store.find_table(manifest.root, custody.tables, tile)
        if table is None:
            raise Rejected(Reason.NOT_FOUND, "the blob was dropped meanwhile")
        return Agreement(TILE_CHECKS.of(manifest, tile), check_table(manifest, custody.tables, table))


@cache
def open_kernel_once() -> Kernel:
    """The kernel of this process, compared with the field at its first use: a node does not run with one that is wrong."""
    return open_kernel()


class TileChecks:
    """The checks of this process that were needed last: five megabytes and more each, for whoever fills a tile in two steps.

    A process that plays many nodes raises ``count_max``: all of them check cells of the same tiles.
    """

    def __init__(self, count_max: int) -> None:
        self.count_max = count_max
        self._checks: OrderedDict[tuple[Geometry, int, Digest], TileCheck] = OrderedDict()

    def of(self, manifest: CheckedManifest, tile: int) -> TileCheck:
        """The check of a tile; for a thread."""
        # A manifest may name a root of another's, and lie about the first two.
        name = (manifest.geometry, manifest.cell_bytes(tile), manifest.tile_root(tile))
        check = self._checks.pop(name, None) or TileCheck(open_kernel_once(), *name)
        self._checks[name] = check
        while len(self._checks) > self.count_max:
            self._checks.popitem(last=False)
        return check


TILE_CHECKS: Final = TileChecks(TILE_CHECKS_REMEMBERED)


def check_size(manifest: CheckedManifest, size_bytes: int) -> None:
    """Raises ``Rejected(MALFORMED)`` where a blob is of another size than was said."""
    if manifest.size_bytes != size_bytes:
        raise Rejected(Reason.MALFORMED, f"a blob of {manifest.size_bytes} bytes, said to be {size_bytes}")
