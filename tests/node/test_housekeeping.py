"""The chain keeps within its allowance, and what pruned blocks named does not stay for ever."""

from __future__ import annotations

import dataclasses

import structlog
import trio
from trio.testing import MockClock

from node.config import Settings
from node.services.housekeeping import PRUNE_SECONDS, Housekeeping
from protocol.ids import Height
from protocol.limits import UPDATES_KEPT_MIN
from storage.budget import Kind
from storage.keys import block_key
from storage.kv import MemoryKeyValue
from tests.consensus.genesis import TILES, make_update
from tests.node.ground_samples import SETTINGS, GroundedChain, MemoryGround, here, make_ground


def allow(chain_bytes_max: int) -> Settings:
    storage = dataclasses.replace(SETTINGS.storage, chain_bytes_max=chain_bytes_max)
    return dataclasses.replace(SETTINGS, storage=storage)


def grow(ground: MemoryGround, blocks: int) -> None:
    """Blocks of a head that is applied at once, and whose update is kept."""
    chain = GroundedChain(ground)
    for _ in range(blocks):
        heads, _ = chain.add(TILES[0], payments=1)
        ground.blobs.put(make_update(reference.delta for reference in heads[0].deltas))
        chain.apply(*heads)


def test_old_blocks_go_until_the_chain_fits():
    """No more than must: one block more would not fit."""
    ground = make_ground(settings=allow(12_000))
    grow(ground, 16)
    assert ground.ledger.statistics().bytes_used > 12_000
    keeping = Housekeeping(ground, here)
    while keeping.prune_step():
        pass
    at = ground.ledger.statistics()
    assert 1 < at.oldest_height <= 9
    assert 10_500 < at.bytes_used <= 12_000


def test_a_chain_that_cannot_shrink_says_so_once():
    """The two last epochs stay: one warning, with what is needed; and again only after it had fitted."""
    ground = make_ground(settings=allow(1))
    grow(ground, 12)
    keeping = Housekeeping(ground, here)
    with structlog.testing.capture_logs() as said:
        while keeping.prune_step():
            pass
        for _ in range(3):
            assert not keeping.prune_step()
    (warning,) = [entry for entry in said if entry["log_level"] == "warning"]
    assert warning["event"] == "the chain takes more than storage.chain_bytes_max, and no block may go"
    assert (warning["oldest"], warning["needed_from"], warning["tip"]) == (5, 5, 12)


def test_blobs_of_pruned_blocks_can_still_go():
    """Updates that only a pruned block names are known by a row as long as they are held, and not longer."""
    ground = make_ground(settings=allow(1))
    grow(ground, 32)
    keeping = Housekeeping(ground, here)

    def updates() -> list[int]:
        uses = [use for use in keeping._uses() if ground.blobs.size(use.name) is not None]
        assert {(use.kind, use.group) for use in uses} == {(Kind.UPDATE, TILES[0])}
        return sorted(use.age for use in uses)

    assert updates() == [*range(1, 33)]
    while keeping.prune_step():
        pass
    assert ground.ledger.oldest() == 25
    assert updates() == [*range(1, 33)]

    crowded = ground.tiles.bytes_used + ground.blobs.bytes_used
    crowded_storage = dataclasses.replace(ground.settings.storage, storage_bytes_max=crowded)
    ground.settings = dataclasses.replace(ground.settings, storage=crowded_storage)
    trio.run(keeping.remove_tiles, keeping.prepare(99))
    assert keeping.refusal is None
    left = updates()
    removed = keeping.statistics().removed_bytes
    assert ground.tiles.bytes_used + ground.blobs.bytes_used == crowded - removed
    assert left == [*range(33 - len(left), 33)]
    assert UPDATES_KEPT_MIN <= len(left) < 32
    rows = {use.age for use in keeping._uses() if use.kind is Kind.UPDATE}
    assert rows == {*left, *range(25, 33)}


def test_a_disk_that_is_full_is_refused_with_the_remedy():
    """Whoever filled it; the sentence is said once, and gone when there is room again. The metrics tell the same."""
    ground = make_ground()
    grow(ground, 2)
    keeping = Housekeeping(ground, here)
    keeping.prepare(1)
    assert keeping.refusal is None
    roomy = keeping.statistics()
    ground.disk.is_full = True
    with structlog.testing.capture_logs() as said:
        keeping.prepare(2)
        keeping.prepare(3)
    assert [entry["event"] for entry in said] == ["storage is full"]
    assert "the disk has 0 left: make room on it" in keeping.refusal
    full = keeping.statistics()
    assert (roomy.refused, full.refused) == (0, 1)
    assert roomy.room_bytes == SETTINGS.storage.storage_bytes_max - roomy.used_bytes > full.room_bytes == 0
    assert full.allowed_bytes == SETTINGS.storage.storage_bytes_max
    ground.disk.is_full = False
    keeping.prepare(4)
    assert keeping.refusal is None


class AskedKeyValue(MemoryKeyValue):
    """Notes what it was asked to give back."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[bytes, bytes]] = []
        self.is_full = False

    def reclaim(self, first: bytes, stop: bytes) -> None:
        self.asked.append((first, stop))
        if self.is_full:
            raise OSError("no space left")


def run_for(ground: MemoryGround, seconds: float) -> None:
    """A chain of 16 blocks, and the housekeeping of a node."""

    async def main() -> None:
        grow(ground, 16)
        with trio.move_on_after(seconds):
            await Housekeeping(ground, here).run()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_it_runs_by_itself_and_has_the_disk_given_back():
    """From time to time the ledger is looked at; what was pruned is given back in one go."""
    index = AskedKeyValue()
    ground = make_ground(index, settings=allow(8_000))

    run_for(ground, 4 * PRUNE_SECONDS)
    assert ground.ledger.statistics().bytes_used <= 8_000
    oldest = ground.ledger.oldest()
    assert index.asked == [(block_key(family, Height(0)), block_key(family, oldest)) for family in (b"h", b"b", b"c")]
    assert ground.ledger.find(Height(16)) is not None


def test_a_disk_without_room_to_clean_up_does_not_stop_the_node():
    """The database needs room to give room back; that it has none is said, and everything else goes on."""
    index = AskedKeyValue()
    index.is_full = True
    ground = make_ground(index, settings=allow(8_000))
    with structlog.testing.capture_logs() as said:
        run_for(ground, 4 * PRUNE_SECONDS)
    assert [entry["why"] for entry in said if entry["log_level"] == "warning"] == ["no space left"]
    assert ground.ledger.statistics().bytes_used <= 8_000
