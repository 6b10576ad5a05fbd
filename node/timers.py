"""Timers by token: setting one again moves it. One task waits for the earliest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable

import trio

from node.clock import Clock


class Timers:
    """``fire(token)`` is awaited once the clock has passed the token's time."""

    def __init__(self, clock: Clock, fire: Callable[[Hashable], Awaitable[None]]) -> None:
        self._clock = clock
        self._fire = fire
        self._deadlines: dict[Hashable, int] = {}
        self._changed = trio.Event()

    def set(self, token: Hashable, at_ms: int) -> None:
        """Fire ``token`` at ``at_ms``, in place of an earlier setting of an equal token."""
        self._deadlines[token] = at_ms
        self._changed.set()

    async def run(self) -> None:
        """Wait and fire until cancelled."""
        while True:
            self._changed = trio.Event()
            token = min(self._deadlines, key=self._deadlines.__getitem__, default=None)
            if token is None:
                await self._changed.wait()
                continue
            wait_ms = self._deadlines[token] - self._clock.now_ms()
            if wait_ms > 0:
                with trio.move_on_after(wait_ms / 1000):
                    await self._changed.wait()
                continue
            del self._deadlines[token]
            await self._fire(token)
