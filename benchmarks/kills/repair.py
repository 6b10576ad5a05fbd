"""Repair: cells of tiles, rebuilt from any that are enough of them, put, and dropped when they are another's, epoch by epoch.

taking EPOCH BLOB, taken       manifest and tables are kept for this epoch and the next
rebuilding EPOCH BLOB TILE     cells that became ours are missing: never again in this epoch, once they were put
putting BLOB TILE CELLS, put   all of them or none; found as the author coded them from ``put`` on
dropping BLOB TILE CELLS       they may go
dropped BLOB TILE CELLS        they are gone
releasing EPOCH, released      blobs of before the epoch before may go; they are gone
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.common import Row
from benchmarks.kills import Say, Witness, opened
from protocol.cells import Cells, Tables
from protocol.codec import decode, encode
from protocol.coded_tables import make_tables
from protocol.erasure import LIVE, CheckedManifest, Geometry, check_manifest, make_manifest
from protocol.ids import Digest
from protocol.limits import FRAME_BYTES_MAX, KIB
from storage.erasure.blob import encode_blob
from storage.erasure.check import TileCheck
from storage.erasure.code import ErasureCode
from storage.erasure.tile import CodedTile, check_shard, rebuild_tile
from storage.io.cell_store import CellStore
from storage.io.isal import open_kernel

GEOMETRY: Final = Geometry(LIVE.data_cells, LIVE.parity_cells, 4 * KIB)  # tiles of 256 KiB, of which a MiB of cells
BLOBS, TILES = 4, 4
RING: Final = 48  # cells of a tile that are ours at some time, in a drawn order
DUTY, DUTY_STEP = 16, 8  # how many are in an epoch, and how many of them are others' in the next

Place = tuple[int, int, int]  # blob, tile, cell


def duty(seed: int, epoch: int, blob: int, tile: int) -> list[int]:
    """The cells that are to be kept."""
    ring = random.Random(f"{seed}/{blob}/{tile}").sample(range(GEOMETRY.cells), RING)
    first = epoch * DUTY_STEP % RING
    return sorted((ring + ring)[first : first + DUTY])


# -- the process --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offered:
    """What others give of a blob: enough cells of each tile, and no more."""

    manifest: CheckedManifest
    tables_root: Digest
    tables: Tables
    tiles: tuple[Cells, ...]

    @classmethod
    def read(cls, folder: Path) -> Offered:
        root, tables_root = map(Digest, ((folder / name).read_bytes() for name in ("root", "tables_root")))
        return cls(
            check_manifest((folder / "manifest").read_bytes(), root),
            tables_root,
            decode(Tables, (folder / "tables").read_bytes(), limit_bytes=FRAME_BYTES_MAX),
            tuple(
                decode(Cells, (folder / f"tile-{tile}").read_bytes(), limit_bytes=FRAME_BYTES_MAX)
                for tile in range(TILES)
            ),
        )

    def rebuild(self, code: ErasureCode, tile: int) -> CodedTile:
        shards = [check_shard(self.manifest, shard) for shard in self.tiles[tile].shards]
        return rebuild_tile(code, self.manifest, tile, shards)


def work(folder: Path, seed: int, say: Say, author: str) -> None:
    """Epoch after epoch, for ever: one more blob, the cells that became ours, and those that no longer are."""
    code, offers = ErasureCode(open_kernel(), GEOMETRY), [Offered.read(Path(author) / str(at)) for at in range(BLOBS)]
    say("opening")
    with opened(folder) as ground:
        store = ground.cells
        epoch = max((kept.kept_until or 1 for kept in store.blobs()), default=1) - 1
        say("open")
        while True:
            newest = epoch % BLOBS
            _take(store, offers[newest], epoch, newest, say)
            places = [(at % BLOBS, tile) for at in (epoch, epoch - 1) if at >= 0 for tile in range(TILES)]
            for blob, tile in places:
                root = offers[blob].manifest.root
                held = store.cells_held(root, tile)
                missing = [cell for cell in duty(seed, epoch, blob, tile) if cell not in held]
                if missing:
                    say("rebuilding", epoch, blob, tile)
                    coded = offers[blob].rebuild(code, tile)
                    say("putting", blob, tile, *missing)
                    store.put_cells(root, map(coded.checked, missing))
                    say("put", epoch, blob, tile, *missing)
            for blob, tile in places:
                root, ours = offers[blob].manifest.root, duty(seed, epoch, blob, tile)
                gone = [cell for cell in store.cells_held(root, tile) if cell not in ours]
                say("dropping", blob, tile, *gone)
                store.drop_cells(root, tile, gone)
                say("dropped", blob, tile, *gone)
            say("releasing", epoch)
            store.release(epoch)
            say("released", epoch)
            epoch += 1


def _take(store: CellStore, offer: Offered, epoch: int, blob: int, say: Say) -> None:
    held = store.find_blob(offer.manifest.root)
    if held is None or (held.kept_until or 0) <= epoch:
        say("taking", epoch, blob)
        store.put_blob(offer.manifest, offer.tables_root, offer.tables.tables, epoch + 1)
        say("taken", epoch, blob)


# -- the witness --------------------------------------------------------------------------------------------------------


class RepairWitness(Witness):
    """Which cells there must be, and which must not."""

    name = "repair"
    life_seconds = 2.0

    def __init__(self, out: Path, seed: int) -> None:
        super().__init__(out, seed)
        self.manifests: list[CheckedManifest] = []
        self.tables_roots: list[Digest] = []
        self.coded: list[list[CodedTile]] = []
        self.until: dict[int, int] = {}  # of blobs that are kept
        self.held: dict[Place, None] = {}  # acknowledged
        self.gone: dict[Place, None] = {}  # their going was acknowledged
        self.putting: tuple[Place, ...] = ()  # not acknowledged: all or none
        self.dropping: tuple[Place, ...] = ()  # there or not
        self.releasing: list[int] = []  # blobs that are there or not
        self.released: dict[int, None] = {}
        self.rebuilt: dict[tuple[str, ...], None] = {}  # epoch, blob, tile
        self.wrong: list[str] = []
        self.put_count = self.drop_count = self.rebuild_count = 0

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        """Code the blobs, and lay out what others give of them."""
        kernel, draw = open_kernel(), random.Random(self.seed)
        code, data_cells = ErasureCode(kernel, GEOMETRY), GEOMETRY.data_cells
        for blob in range(BLOBS):
            data = draw.randbytes(TILES * GEOMETRY.tile_bytes - 7)
            coded = list(encode_blob(code, [data]))
            manifest = make_manifest(GEOMETRY, len(data), tuple(tile.root for tile in coded))
            tables_root, tables = make_tables(
                manifest, [TileCheck.of(kernel, manifest, tile.index).table(tile) for tile in coded]
            )
            folder = self.out / "author" / str(blob)
            folder.mkdir(parents=True)
            files = {
                "root": manifest.root,
                "manifest": encode(manifest.manifest),
                "tables_root": tables_root,
                "tables": encode(Tables(tuple(tables))),
            }
            for tile in coded:
                survivors = draw.sample(range(GEOMETRY.cells), data_cells)
                files[f"tile-{tile.index}"] = encode(Cells(tuple(tile.checked(cell).shard for cell in survivors)))
            for name, content in files.items():
                (folder / name).write_bytes(content)
            self.manifests.append(manifest)
            self.tables_roots.append(tables_root)
            self.coded.append(coded)
        async with super().prepared():
            yield

    def arguments(self) -> Sequence[str]:
        return [str(self.out / "author")]

    def hear(self, words: Sequence[str]) -> None:
        match words:
            case ["taken", epoch, blob]:
                self.until[int(blob)] = int(epoch) + 1
                self.released.pop(int(blob), None)
            case ["taking", _, blob]:
                self.released.pop(int(blob), None)
            case ["rebuilding", *place]:
                self.rebuild_count += 1
                if tuple(place) in self.rebuilt:
                    self.wrong.append(f"epoch, blob, tile {' '.join(place)} was whole and is rebuilt again")
            case ["putting", blob, tile, *cells]:
                self.putting = _places(blob, tile, cells)
                self._remove(self.gone, self.putting)
            case ["put", epoch, blob, tile, *cells]:
                self.rebuilt[epoch, blob, tile] = None
                self.held.update(dict.fromkeys(self.putting))
                self.putting = ()
                self.put_count += len(cells)
            case ["dropping", blob, tile, *cells]:
                self.dropping = _places(blob, tile, cells)
                self._remove(self.held, self.dropping)
            case ["dropped", *_]:
                self.gone.update(dict.fromkeys(self.dropping))
                self.drop_count += len(self.dropping)
                self.dropping = ()
            case ["releasing", epoch]:
                self.releasing = [number for number, until in self.until.items() if until < int(epoch)]
                for number in self.releasing:
                    del self.until[number]
                self._remove(self.held, [held for held in self.held if held[0] in self.releasing])
            case ["released", _]:
                self.released.update(dict.fromkeys(self.releasing))
                self.releasing = []

    @staticmethod
    def _remove(places: dict[Place, None], gone: Sequence[Place]) -> None:
        for place in gone:
            places.pop(place, None)

    def look(self, left: Path) -> list[str]:
        with opened(left) as ground:
            store = ground.cells
            there = dict.fromkeys(
                (blob, tile, cell)
                for blob, manifest in enumerate(self.manifests)
                for tile in range(TILES)
                for cell in store.cells_held(manifest.root, tile)
            )
            wrong = self.wrong + self._wrong_blobs(store)
            wrong += [f"{_named(place)} was acknowledged and is gone" for place in self.held if place not in there]
            wrong += [f"{_named(place)} was dropped and is there" for place in self.gone if place in there]
            half = [place for place in self.putting if place in there]
            if half and len(half) < len(self.putting):
                wrong.append(f"{len(half)} of {len(self.putting)} cells of one call are there")
            for blob, tile, cell in there:
                found, right = store.find(self.manifests[blob].root, tile, cell), self.coded[blob][tile].checked(cell)
                if found != right:
                    wrong.append(f"{_named((blob, tile, cell))} is not what its author coded")
            if store.statistics().corrupt_count:
                wrong.append(f"{store.statistics().corrupt_count} cells were found changed")
            found_blobs = {blob: store.find_blob(manifest.root) for blob, manifest in enumerate(self.manifests)}
        # What is there stays there from now on, also a blob that was taken by a process that died before it could say so.
        self.until = {blob: kept.kept_until or 0 for blob, kept in found_blobs.items() if kept is not None}
        self.held, self.putting, self.dropping, self.releasing = there, (), (), []
        return wrong

    def _wrong_blobs(self, store: CellStore) -> list[str]:
        wrong = []
        for blob, until in self.until.items():
            root, tables_root = self.manifests[blob].root, self.tables_roots[blob]
            held, tables = store.find_blob(root), store.find_tables(root, tables_root)
            if held is None or tables is None or len(tables) < TILES or (held.kept_until or 0) < until:
                wrong.append(f"blob {blob} was to be kept until epoch {until}: {held}")
        wrong += [
            f"blob {blob} was released and is there"
            for blob in self.released
            if store.find_blob(self.manifests[blob].root) is not None
        ]
        return wrong

    def rows(self) -> list[Row]:
        return [
            Row("cells that were acknowledged", "cells", self.put_count),
            Row("cells whose dropping was acknowledged", "cells", self.drop_count),
            Row("tiles that were rebuilt", "tiles", self.rebuild_count),
        ]


def _places(blob: str, tile: str, cells: Sequence[str]) -> tuple[Place, ...]:
    return tuple((int(blob), int(tile), int(cell)) for cell in cells)


def _named(place: Place) -> str:
    return "cell {2} of tile {1} of blob {0}".format(*place)
