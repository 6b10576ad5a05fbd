"""Reading one's own tiles again: each in its turn, and what is damaged is mended or looked at again."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio
from trio.testing import MockClock

from node.services.self_check import SelfCheck
from protocol.ids import TileId

TILES = [TileId(f"trunk/{number}") for number in range(4)]


@dataclass
class Disk:
    """Tiles, some of them damaged, some beyond mending; and a clock."""

    damaged: set[TileId] = field(default_factory=set)
    absent: set[TileId] = field(default_factory=set)
    failing: set[TileId] = field(default_factory=set)
    hopeless: bool = False
    read: list[TileId] = field(default_factory=list)

    async def is_whole(self, tile: TileId) -> bool | None:
        self.read.append(tile)
        if tile in self.failing:
            raise OSError(5, "Input/output error")
        return None if tile in self.absent else tile not in self.damaged

    async def mend(self, tile: TileId) -> bool:
        if not self.hopeless:
            self.damaged.discard(tile)
        return not self.hopeless

    def now_ms(self) -> int:
        return 1_000 + round(1000 * trio.current_time())

    def check(self) -> SelfCheck:
        return SelfCheck(TILES, self.is_whole, self.mend, self, 40.0)  # type: ignore[arg-type]  # a clock is what says the time


def run(disk: Disk, seconds: float) -> SelfCheck:
    check = disk.check()

    async def main() -> None:
        start = trio.current_time()
        disk.now_ms = lambda: 1_000 + round(1000 * (trio.current_time() - start))  # type: ignore[method-assign]
        with trio.move_on_after(seconds):
            await check.run()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return check


def test_all_are_read_once_in_a_period() -> None:
    """One after the other, and then again from the first."""
    disk = Disk()
    check = run(disk, 65.0)
    assert disk.read == [*TILES, *TILES[:2]]
    assert (check.tiles_read, check.read_since_ms, check.mended) == (4, 31_000, 0)


def test_a_damaged_one_is_mended() -> None:
    """It counts as read when it is whole again."""
    disk = Disk(damaged={TILES[1]})
    check = run(disk, 25.0)
    assert (check.tiles_read, check.mended, disk.damaged) == (2, 1, set())


def test_what_cannot_be_mended_or_is_not_there_was_not_read() -> None:
    """Nobody is told that it was; it has its turn again after the others."""
    disk = Disk(damaged={TILES[0]}, absent={TILES[1]}, hopeless=True)
    check = run(disk, 85.0)
    assert (check.tiles_read, check.mended, check.read_since_ms) == (2, 0, 71_000)
    assert disk.read == [*TILES, *TILES]


def test_a_disk_that_fails_ends_nothing() -> None:
    """It is only a look: whoever needs what is there says what that means. The tile was not read."""
    disk = Disk(failing={TILES[2]})
    check = run(disk, 45.0)
    assert (disk.read, check.tiles_read) == (TILES, 3)
