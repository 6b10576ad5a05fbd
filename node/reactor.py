"""The reactor: takes one event, asks the engine, performs the effects in order. The engine's only writer.

Events wait in one bounded channel, so that whoever produces them too fast has to wait. An effect that gives an event at once
(our own heads, signed and journaled) puts it before those that wait: between the effects of one event nothing else is
handled.

What an effect means outside is one row of the table that the node hands over. A performer must not wait for anything but
the disk: whatever takes longer is started in the background and comes back as an event.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from consensus.engine import Effect, Engine, Event
from node.clock import Clock

INBOX_MAX = 4096  # events; a round of a hundred peers and a thousand tiles stays far below
Perform = Callable[[Any], Awaitable[None]]


class Reactor:
    """One engine and the world's side of its effects."""

    def __init__(self, engine: Engine, clock: Clock, performers: Mapping[type, Perform]) -> None:
        self.engine = engine
        self._clock = clock
        self._performers = performers
        self._send, self._receive = trio.open_memory_channel[Event | Callable[[int], list[Effect]]](INBOX_MAX)
        self._next: deque[Event] = deque()
        self.events: Counter[str] = Counter()

    async def post(self, event: Event) -> None:
        """Put an event at the end of the queue."""
        await self._send.send(event)

    async def post_call(self, call: Callable[[int], list[Effect]]) -> None:
        """Put a call of the engine that is no event at the end of the queue: opening the first round."""
        await self._send.send(call)

    def put_next(self, event: Event) -> None:
        """Handle an event before all others, from inside a performer."""
        self._next.append(event)

    def waiting(self) -> int:
        """How many events wait."""
        return self._receive.statistics().current_buffer_used + len(self._next)

    async def run(self) -> None:
        """Handle events until cancelled."""
        async for event in self._receive:
            if callable(event):
                await self._perform(event(self._clock.now_ms()))
            else:
                await self._handle(event)
            while self._next:
                await self._handle(self._next.popleft())

    async def _handle(self, event: Event) -> None:
        self.events[type(event).__name__] += 1
        await self._perform(self.engine.handle(event, self._clock.now_ms()))

    async def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            await self._performers[type(effect)](effect)
