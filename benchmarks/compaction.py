"""What a round's decided updates cost the disk: versions that rest on their updates, beside a whole file for each.

The same rounds go into two stores on one disk: every tile gets an update of random values (which compress less than learned
ones), is applied, pruned to the four newest versions and folded when the rule says so. Updates are durable before, in both,
as they are in a node. The kernel's own account of what it wrote (``/proc/self/io``) tells how many copies reached the disk
before they went: rounds here follow each other within seconds. Where rounds are longer than the kernel waits (30 s by
default on Linux), each copy is written once, in the background, and the second row is what a file each costs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, median, report, say, standard_options
from compute.delta.codec import decode, encode
from compute.outer import OuterRule, apply_update, initial_state
from protocol.digest import blob_digest
from protocol.ids import Digest, TileId, Version
from protocol.limits import TILE_VERSIONS_KEPT, UPDATES_KEPT_MIN
from storage.io.blob_store import BlobStore
from storage.io.files import DirectoryFiles
from storage.io.rocks import RocksKeyValue
from storage.io.tile_store import TileStore, Updated
from storage.tile_format import CheckedTile, tile_block

MB: Final = 1e6
TILE_BYTES: Final = 4 << 20
QUICK_TILE_BYTES: Final = 1 << 18
PIPELINE: Final = "update_int4"
LOADS: Final = 9


@dataclass(slots=True)
class Kept:
    """One of the two stores, and what its rounds took."""

    name: str
    folder: Path
    index: RocksKeyValue
    blobs: BlobStore
    tiles: TileStore
    apply_ms: list[float]
    fold_ms: list[float]
    written_bytes: int = 0


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="On which disk. [default: temporary]")
@click.option("--rule", type=click.Choice(["average", "nesterov", "adamw"]), default="average", show_default=True)
@click.option("--tiles", "tile_count", type=click.IntRange(1), default=8, show_default=True)
@click.option("--rounds", type=click.IntRange(12), default=24, show_default=True)
@standard_options
def main(folder: Path | None, rule: str, tile_count: int, rounds: int, as_json: bool, quick: bool) -> None:
    """Rounds of decided updates into a store of whole files and into one of bases and updates."""
    tile_bytes = QUICK_TILE_BYTES if quick else TILE_BYTES
    if quick:
        tile_count, rounds = 2, 12
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nock-", dir=folder) as inside:
        bench = Bench(Path(inside), OuterRule(name=rule), tile_count, tile_bytes)
        for number in range(1, rounds + 1):
            say(f"round {number} of {rounds}")
            bench.round(number)
        rows = bench.rows(rounds)
        bench.close()
    facts = {"tile_mib": tile_bytes / (1 << 20), "tiles": tile_count, "rounds": rounds, "rule": rule}
    report("compaction", rows, as_json, facts)


class Bench:
    """Both stores, and the model as it goes on."""

    def __init__(self, folder: Path, rule: OuterRule, tile_count: int, tile_bytes: int) -> None:
        self._rule = rule
        self._values = tile_bytes // 4
        self._draw = np.random.default_rng(0)
        self._ids = [TileId(f"trunk/{index}") for index in range(tile_count)]
        self._states = {
            tile_id: initial_state(self._draw.normal(0, 0.02, self._values).astype(np.float32), rule)
            for tile_id in self._ids
        }
        self._update_names: dict[TileId, list[Digest]] = {tile_id: [] for tile_id in self._ids}
        self._update_bytes = 0
        self.ours = self._make(folder / "updates", rests=True)
        self.whole = self._make(folder / "whole", rests=False)
        for kept in (self.ours, self.whole):
            kept.tiles.put_many((tile_id, Version(0), *self._file(tile_id)) for tile_id in self._ids)
        self._genesis_bytes = self.ours.tiles.bytes_used

    def _make(self, folder: Path, *, rests: bool) -> Kept:
        files, index = DirectoryFiles(folder), RocksKeyValue(folder / "index")
        blobs = BlobStore(files, index)

        def rebuild(base: CheckedTile, version: Version, updates: Sequence[Digest]) -> bytes:
            state = np.frombuffer(base.state, np.float32).reshape(base.planes, base.values)
            for number, name in enumerate(updates, version + 1):
                update = blobs.read(name)
                assert update is not None
                state = apply_update(state, decode(bytes(update), base.values), self._rule, Version(number))
            return tile_block(base.tile_id, state.data.cast("B"), *state.shape)[0]

        tiles = TileStore(files, index, rebuild if rests else None, lambda: time.monotonic_ns() // 1_000_000)
        return Kept(folder.name, folder, index, blobs, tiles, [], [])

    def _file(self, tile_id: TileId) -> tuple[bytes, Digest]:
        state = self._states[tile_id]
        return tile_block(tile_id, state.data.cast("B"), *state.shape)

    def round(self, number: int) -> None:
        """Every tile's next version, into both."""
        updates: dict[TileId, bytes] = {}
        for tile_id in self._ids:
            change_N = self._draw.normal(0, 1e-3, self._values).astype(np.float32)
            updates[tile_id] = encode(change_N, PIPELINE)
            said = decode(updates[tile_id], self._values)
            self._states[tile_id] = apply_update(self._states[tile_id], said, self._rule, Version(number))
            self._update_names[tile_id].append(blob_digest(updates[tile_id]))
            self._update_bytes += len(updates[tile_id])
        files = {tile_id: self._file(tile_id) for tile_id in self._ids}
        for kept in (self.ours, self.whole):
            before = _written_bytes()
            kept.blobs.put_many(updates.values())
            updated = [
                Updated(tile_id, Version(number), *files[tile_id], blob_digest(update), len(update))
                for tile_id, update in updates.items()
            ]
            kept.apply_ms.append(_milliseconds(lambda: self._apply(kept, updated)))  # noqa: B023 - called at once
            kept.fold_ms.append(_milliseconds(lambda: [kept.tiles.fold(tile_id) for tile_id in self._ids]))  # noqa: B023 - called at once
            for tile_id in self._ids:
                kept.blobs.delete(*self._update_names[tile_id][:-UPDATES_KEPT_MIN])
            kept.written_bytes += _written_bytes() - before

    def _apply(self, kept: Kept, updated: Sequence[Updated]) -> None:
        kept.tiles.put_updated(updated)
        for tile_id in self._ids:
            kept.tiles.prune(tile_id, TILE_VERSIONS_KEPT)

    def rows(self, rounds: int) -> list[Row]:
        ours, whole = self.ours, self.whole

        def synced(kept: Kept) -> float:
            return (kept.tiles.statistics().bytes_synced - self._genesis_bytes + self._update_bytes) / rounds / MB

        update_mb = self._update_bytes / rounds / MB
        said = ours.tiles.statistics()
        folds = said.folds_for_length + said.folds_for_bytes + said.folds_for_load
        say(f"folds: {folds} of {rounds * len(self._ids)} versions; an update is {self._share():.1%} of its tile")
        peer = "a file each"
        return [
            compare("made durable a round", "MB", synced(ours), synced(whole), peer, update_mb),
            compare(
                "written a round, as the kernel counts",
                "MB",
                ours.written_bytes / rounds / MB,
                whole.written_bytes / rounds / MB,
                peer,
                update_mb,
            ),
            compare("apply a round, durable", "ms", median(ours.apply_ms), median(whole.apply_ms), peer),
            compare("fold a round, behind it: mean", "ms", sum(ours.fold_ms) / rounds),
            compare("fold a round, behind it: longest", "ms", max(ours.fold_ms)),
            compare("disk of all tiles and updates", "MB", _folder_mb(ours), _folder_mb(whole), peer),
            *self._load_rows(),
        ]

    def _share(self) -> float:
        held = self.ours.tiles.held()[0]
        names = [name for names in self._update_names.values() for name in names[-1:]]
        sizes = [self.ours.blobs.size(name) or 0 for name in names]
        return median(sizes) / held.size_bytes

    def _load_rows(self) -> list[Row]:
        """The newest from its copy; older ones from so many updates, made again each time."""
        tile_id = self._ids[0]
        newest = self.ours.tiles.newest(tile_id)
        assert newest is not None
        rows = [
            compare(
                "load the newest version, verified",
                "ms",
                self._load_ms(self.ours, tile_id, newest),
                self._load_ms(self.whole, tile_id, newest),
                "a file each",
            )
        ]
        for held in self.ours.tiles.held():
            if held.tile_id == tile_id and not held.is_base:
                self.ours.tiles.drop_copies(tile_id, [held.version])
                rows.append(
                    compare(
                        f"load a version {len(held.updates)} updates above its base, without a copy",
                        "ms",
                        self._load_ms(self.ours, tile_id, held.version),
                        self._load_ms(self.whole, tile_id, held.version),
                        "a file each",
                    )
                )
        return rows

    def _load_ms(self, kept: Kept, tile_id: TileId, version: Version) -> float:
        def load() -> None:
            kept.tiles._rebuilt.clear()  # what was made again is remembered for the next reader: not here
            kept.tiles.open(tile_id, version).verify()

        load()
        return median([_milliseconds(load) for _ in range(LOADS)])

    def close(self) -> None:
        for kept in (self.ours, self.whole):
            kept.index.close()


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def _folder_mb(kept: Kept) -> float:
    return (kept.tiles.bytes_used + kept.blobs.bytes_used) / MB


def _written_bytes() -> int:
    """What this process gave the kernel to write, less what it took back before that happened; 0 where it does not tell."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except FileNotFoundError:
        return 0
    facts = dict(line.split(": ") for line in lines)
    return int(facts["write_bytes"]) - int(facts["cancelled_write_bytes"])


if __name__ == "__main__":
    main()
