"""Work that would hold the event loop up, done in a thread. Handed to whoever needs it, because virtual time has no threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

T = TypeVar("T")


class InThread(Protocol):
    """Runs ``work`` beside the event loop and returns its result; what it raises comes out."""

    async def __call__(self, work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T: ...


async def in_thread(work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
    """In a thread of this process; ``limiter`` bounds how many run at once."""
    return await trio.to_thread.run_sync(work, limiter=limiter)
