"""Reading one's own tiles again, one after the other, so that what rots on the disk is found and mended before it is needed.

Applying and serving read only what is asked for: a page that nobody used since it was written may be wrong for long. Each
tile's newest version is read again once in ``PERIOD_SECONDS``, by the tile thread, and made again where it is damaged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
import trio

from node.clock import Clock
from protocol.ids import TileId

log = structlog.get_logger()

PERIOD_SECONDS: Final = 3_600.0  # for all of them (a guess: a model of a gigabyte costs a second of a core in it)


class SelfCheck:
    """The tiles of one node."""

    def __init__(
        self,
        tiles: Sequence[TileId],
        is_whole: Callable[[TileId], Awaitable[bool | None]],
        mend: Callable[[TileId], Awaitable[bool]],
        clock: Clock,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        """``is_whole``: reads the newest version of a tile, None where there is none; ``mend``: makes it again, if it can."""
        self._is_whole, self._mend, self._clock = is_whole, mend, clock
        self._pause_seconds = period_seconds / max(1, len(tiles))
        self._read_ms: dict[TileId, int] = dict.fromkeys(tiles, 0)  # the one that was read longest ago comes first
        self.mended = 0

    @property
    def tiles_read(self) -> int:
        """How many were read since the start."""
        return sum(at_ms > 0 for at_ms in self._read_ms.values())

    @property
    def read_since_ms(self) -> int:
        """When the first of them was, the last time; 0 where none was."""
        return min((at_ms for at_ms in self._read_ms.values() if at_ms), default=0)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(self._pause_seconds)
            await self.check_next()

    async def check_next(self) -> None:
        """The tile that was read longest ago."""
        tile = next(iter(self._read_ms))
        try:
            is_whole = await self._look(tile)
        except OSError as error:  # whoever needs the disk says what that means; this is only a look
            log.warning("a tile could not be read again", tile=tile, why=str(error))
            is_whole = None
        del self._read_ms[tile]
        # What could not be read or mended now is looked at again in its turn.
        self._read_ms[tile] = self._clock.now_ms() if is_whole else 0

    async def _look(self, tile: TileId) -> bool | None:
        is_whole = await self._is_whole(tile)
        if is_whole is False:
            log.warning("a tile is damaged on the disk", tile=tile)
            is_whole = await self._mend(tile)
            self.mended += is_whole
        return is_whole
