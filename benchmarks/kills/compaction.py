"""Compaction: every tile gets a version after the other; old ones are pruned, long chains folded, updates removed.

going TILE VERSION ROOT    it is about to be stored
kept TILE VERSION          it was: it opens with this root, from its copy and without it, until it is pruned
pruning TILE VERSION       from now on older ones may go
folded TILE VERSION        it rests on nothing any more
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.common import Row
from benchmarks.kills import Say, Witness, opened
from compute.delta.codec import decode, encode
from compute.outer import apply_update
from node.tile_work import outer_rule
from protocol.digest import blob_digest
from protocol.ids import Digest, TileId, Version
from protocol.limits import TILE_VERSIONS_KEPT
from protocol.rejection import Rejected
from storage.io.tile_store import TileStore, Updated
from storage.tile_format import tile_block

PIPELINE: Final = "update_int4"


def work(folder: Path, seed: int, say: Say) -> None:
    """One version of every tile after the other, for ever."""
    say("opening")
    with opened(folder) as ground:
        tiles, blobs, rule = ground.tiles, ground.blobs, outer_rule(ground.genesis.learning)
        corpus = set(ground.genesis.datasets[0].shards)  # asked only "is it in"
        at = {tile: _newest(tiles, tile) for tile in sorted(ground.genesis_roots)}
        say("open")
        while True:
            updates, updated = [], []
            for number, (tile, (version, state)) in enumerate(at.items()):
                after = Version(version + 1)
                update = _update(seed, number, after, state.shape[1])
                new = apply_update(state, decode(update, state.shape[1]), rule, after)
                block, root = tile_block(tile, new.data.cast("B"), *new.shape)
                say("going", tile, after, root.hex())
                updates.append(update)
                updated.append(Updated(tile, after, block, root, blob_digest(update), len(update)))
                at[tile] = after, new
            blobs.put_many(updates)
            tiles.put_updated(updated)
            for each in updated:
                say("kept", each.tile_id, each.version)
            for each in updated:
                say("pruning", each.tile_id, each.version - TILE_VERSIONS_KEPT + 1)
                tiles.prune(each.tile_id, TILE_VERSIONS_KEPT)
                if tiles.fold(each.tile_id) is not None:
                    say("folded", each.tile_id, each.version)
            in_use = tiles.in_use() | corpus
            blobs.delete(*(name for name in blobs.names() if name not in in_use))


def _newest(tiles: TileStore, tile_id: TileId) -> tuple[Version, np.ndarray[Any, np.dtype[np.float32]]]:
    version = tiles.versions(tile_id)[-1]
    tile = tiles.open(tile_id, version)
    return version, np.frombuffer(tile.state, np.float32).reshape(tile.planes, tile.values)


def _update(seed: int, tile: int, version: Version, values: int) -> bytes:
    """That of a version is the same in each life."""
    change_N = np.random.default_rng([seed, tile, version]).normal(0, 1e-3, values).astype(np.float32)
    return encode(change_N, PIPELINE)


class CompactionWitness(Witness):
    """Which versions there must be."""

    name = "compaction"
    life_seconds = 2.0

    def __init__(self, out: Path, seed: int) -> None:
        super().__init__(out, seed)
        self.roots: dict[tuple[str, int], Digest] = {}
        self.kept: dict[tuple[str, int], None] = {}
        self.folded: dict[tuple[str, int], None] = {}
        self.lowest: dict[str, int] = {}

    def hear(self, words: Sequence[str]) -> None:
        match words:
            case ["going", tile, version, root]:
                self.roots[tile, int(version)] = Digest(bytes.fromhex(root))
            case ["kept", tile, version]:
                self.kept[tile, int(version)] = None
            case ["folded", tile, version]:
                self.folded[tile, int(version)] = None
            case ["pruning", tile, version]:
                self.lowest[tile] = int(version)

    def look(self, left: Path) -> list[str]:
        with opened(left) as ground:
            tiles, wrong = ground.tiles, []
            for tile, version in self.kept:
                if version >= self.lowest.get(tile, 0) and tiles.find(TileId(tile), Version(version)) is None:
                    wrong.append(f"{tile}@{version} was acknowledged and is gone")
            for how in ("as it lies there", "made again"):
                for held in tiles.held():
                    at = held.tile_id, held.version
                    if held.root != (ground.genesis_roots[held.tile_id] if not held.version else self.roots[at]):
                        wrong.append(f"{held.tile_id}@{held.version} has another root")
                    if at in self.folded and not held.is_base:
                        wrong.append(f"{held.tile_id}@{held.version} was folded and is no base")
                    try:
                        tiles.open(*at).verify()
                    except Rejected as refusal:
                        wrong.append(f"{held.tile_id}@{held.version} does not open, {how}: {refusal}")
                    tiles.drop_copies(held.tile_id, [held.version])
        return wrong

    def rows(self) -> list[Row]:
        return [
            Row("versions that were acknowledged", "versions", len(self.kept)),
            Row("folds that were acknowledged", "folds", len(self.folded)),
        ]
