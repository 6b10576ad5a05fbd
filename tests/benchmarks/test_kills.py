"""The witnesses of benchmarks/kill_storage.py: what a process left is right, and every wrong thing is found."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio

from benchmarks.kill_storage import Lives, kill_often
from benchmarks.kills import EPOCH_HEIGHTS, Witness, checkpointing, compaction, opened, repair
from benchmarks.kills.checkpointing import CheckpointingWitness
from benchmarks.kills.compaction import CompactionWitness
from benchmarks.kills.repair import RepairWitness
from benchmarks.kills.sync import Joining, SyncWitness
from consensus.state import all_rows
from node.state_rows import entries_below, keep_part, store_changes
from protocol.ids import Digest, TileId
from protocol.state_sync import EMPTY, CheckedEntries, StateEntry, children_of, leaves_of
from storage.kv import Batch, MemoryKeyValue
from tests.consensus.ledger_samples import GENESIS

WORK: dict[type[Witness], Callable[..., None]] = {
    CompactionWitness: compaction.work,
    RepairWitness: repair.work,
    CheckpointingWitness: checkpointing.work,
}


class Enough(Exception):
    """The process dies, as far as its witness knows."""


def live(witness: Witness, until: tuple[str, int], is_last_heard: bool = True) -> None:
    """Work in this process until a word was said so many times, or was about to be said for the last of them."""
    left = until[1]

    def say(*words: object) -> None:
        nonlocal left
        left -= words[0] == until[0]
        if left != 0 or is_last_heard:
            witness.hear([str(word) for word in words])
        if left == 0:
            left = -1  # another thread may say something yet
            raise Enough

    with pytest.raises(Enough):
        WORK[type(witness)](witness.folder, witness.seed, say, *witness.arguments())


def look(witness: Witness, spoil: Callable[[Path], None] = lambda left: None) -> list[str]:
    """What the witness says of what is left, after something happened to it."""
    left = witness.out / "left"
    shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(witness.folder, left)
    spoil(left)
    return witness.look(left)


async def prepare(witness: Witness) -> None:
    async with witness.prepared():
        pass


def made(kind: type[Witness], tmp_path: Path) -> Witness:
    witness = kind(tmp_path, 1)
    trio.run(prepare, witness)
    return witness


@pytest.mark.parametrize("is_last_heard", [True, False])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (CompactionWitness, [("kept", 30), ("going", 2), ("folded", 2), ("pruning", 1), ("kept", 9)]),
        (
            RepairWitness,
            [
                ("taken", 2),
                ("putting", 3),
                ("put", 2),
                ("dropped", 3),
                ("releasing", 2),
                ("taking", 1),
                ("released", 3),
            ],
        ),
        (CheckpointingWitness, [("stored", 5), ("checkpoint", 2), ("going", 7), ("checkpoint", 2)]),
    ],
)
def test_work_that_ends_anywhere_leaves_what_it_promised(tmp_path: Path, kind, words, is_last_heard):
    """Several lives, each of which goes on where the last one ended; their witness finds nothing wrong.

    That holds also where a life ended after its work and before it could say so.
    """
    witness = made(kind, tmp_path)
    for until in words:
        live(witness, until, is_last_heard)
        assert look(witness) == []
    assert all(row.ours for row in witness.rows())


def test_what_compaction_lost_is_found(tmp_path: Path):
    """A base that is gone or changed, a version without a row, an update that is gone, a fold that is none."""
    witness = made(CompactionWitness, tmp_path)
    live(witness, ("folded", 3))
    live(witness, ("kept", 40))

    def spoiled(spoil: Callable[[Path], None]) -> str:
        return "; ".join(look(witness, spoil))

    def remove_files(left: Path) -> None:
        shutil.rmtree(left / "tiles")

    def change_files(left: Path) -> None:
        for file in (left / "tiles").rglob("*.tblock"):
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)

    def forget(left: Path) -> None:
        with opened(left) as ground:
            tile = TileId(next(iter(witness.lowest)))
            ground.tiles.drop(tile, ground.tiles.versions(tile)[-1:])

    def remove_updates(left: Path) -> None:
        with opened(left) as ground:
            ground.blobs.delete(*ground.tiles.in_use())

    assert isinstance(witness, CompactionWitness)
    assert spoiled(lambda left: None) == ""
    assert "does not open" in spoiled(remove_files)
    assert "does not open" in spoiled(change_files)
    assert "was acknowledged and is gone" in spoiled(forget)
    assert "made again" in spoiled(remove_updates)
    resting = next(at for at in witness.kept if at not in witness.folded and at[1] >= witness.lowest[at[0]])
    witness.folded[resting] = None
    assert "is no base" in spoiled(lambda left: None)


def test_what_repair_lost_is_found(tmp_path: Path):
    """A file that is gone, a cell too few of a call, one that was dropped and is there, a tile that is rebuilt twice."""
    witness = made(RepairWitness, tmp_path)
    assert isinstance(witness, RepairWitness)
    live(witness, ("dropped", 9))
    held, gone = dict(witness.held), dict(witness.gone)

    def spoiled(spoil: Callable[[Path], None]) -> str:
        witness.held, witness.gone = dict(held), dict(gone)
        return "; ".join(look(witness, spoil))

    assert spoiled(lambda left: None) == ""
    assert "was acknowledged and is gone" in spoiled(lambda left: shutil.rmtree(left / "cells"))

    def drop_one(left: Path) -> None:
        blob, tile, cell = next(iter(held))
        with opened(left) as ground:
            ground.cells.drop_cells(witness.manifests[blob].root, tile, [cell])

    def put_back(left: Path) -> None:
        blob, tile, cell = next(iter(gone))
        with opened(left) as ground:
            ground.cells.put_cells(witness.manifests[blob].root, [witness.coded[blob][tile].checked(cell)])

    def drop_blobs(left: Path) -> None:
        with opened(left) as ground:
            ground.cells.release(99)

    assert "was acknowledged and is gone" in spoiled(drop_one)
    assert "was dropped and is there" in spoiled(put_back)
    assert "was to be kept" in spoiled(drop_blobs)
    witness.putting = (*held,)
    assert "of one call" in spoiled(drop_one)
    witness.hear(["rebuilding", *next(iter(witness.rebuilt))])
    assert "is rebuilt again" in spoiled(lambda left: None)


def test_what_checkpointing_lost_is_found(tmp_path: Path):
    """A checkpoint that is gone, one without its rows, one with another's; a block and a row that are gone."""
    witness = made(CheckpointingWitness, tmp_path)
    assert isinstance(witness, CheckpointingWitness)
    live(witness, ("checkpoint", 3))

    def spoiled(spoil: Callable[[Path], None]) -> str:
        return "; ".join(look(witness, spoil))

    def exchange(left: Path) -> None:
        first, second, _ = sorted((left / "checkpoints").iterdir())
        shutil.rmtree(first / "db")
        shutil.copytree(second / "db", first / "db")

    assert spoiled(lambda left: None) == ""
    newest = f"{witness.taken[-1]:012d}"
    assert "was acknowledged and is gone" in spoiled(lambda left: shutil.rmtree(left / "checkpoints" / newest))
    assert "is not whole" in spoiled(lambda left: shutil.rmtree(left / "checkpoints" / newest / "db"))
    assert "are none" in spoiled(lambda left: (left / "checkpoints" / newest / "manifest").unlink())
    assert "is not whole" in spoiled(exchange)
    witness.values[0] += 64
    assert "row 0 was" in spoiled(lambda left: None)
    witness.stored += 1
    assert "the tip is" in spoiled(lambda left: None)


def test_a_checkpoint_that_was_taken_in_silence_makes_older_ones_go(tmp_path: Path):
    """Its process died before it could say so: the oldest of those that were acknowledged is gone for a good reason."""
    witness = made(CheckpointingWitness, tmp_path)
    live(witness, ("checkpoint", 2))
    live(witness, ("stored", EPOCH_HEIGHTS))
    assert isinstance(witness, CheckpointingWitness)
    assert witness.stored == 3 * EPOCH_HEIGHTS > witness.taken[-1]
    assert look(witness) == []
    live(witness, ("checkpoint", 2))
    assert look(witness) == []


def keep(index: MemoryKeyValue, name: bytes, entries: Sequence[StateEntry], digest: Digest) -> None:
    """One part, in a batch of its own."""
    batch = Batch()
    keep_part(batch, index, name, entries, CheckedEntries(tuple(leaves_of(entries))), digest)
    index.write(batch)


def test_parts_that_sync_lost_are_found(tmp_path: Path):
    """One that was kept and is gone, fewer than were acknowledged, one whose entries are others."""
    source, index, batch = MemoryKeyValue(), MemoryKeyValue(), Batch()
    store_changes(batch, all_rows(GENESIS), GENESIS)
    source.write(batch)
    digests = dict(zip(children_of(b"\x02"), GENESIS.trees[2].digests_below(b""), strict=True))
    name = next(name for name, digest in digests.items() if digest != EMPTY[1])
    entries = tuple(entries_below(source, name))
    witness, at = SyncWitness(tmp_path, 1), Joining(parts_said=1)
    keep(index, name, entries, digests[name])
    assert witness._wrong_parts(at, index) == []
    keep(index, name, entries[1:], digests[name])
    assert "is not what was proved" in "; ".join(witness._wrong_parts(at, index))
    keep(index, name, entries, digests[name])
    at.parts[b"\x02\xff"] = Digest(EMPTY[1])
    at.parts_said = 2
    assert witness._wrong_parts(at, index) == [
        "1 parts were kept and are gone",
        "2 parts were acknowledged, 1 are there",
    ]


class Mistaken(CompactionWitness):
    """Of a kind of work that nobody wrote."""

    name = "mistaken"


def test_a_process_that_ends_by_itself_is_a_finding(tmp_path: Path):
    """It was to be killed: its last words are told."""
    lives = Lives(Mistaken(tmp_path, 1))
    trio.run(kill_often, lives, 3, random.Random(1))
    assert lives.kills == 0
    assert len(lives.problems) == 1
    assert "No module named 'benchmarks.kills.mistaken'" in lives.problems[0]
