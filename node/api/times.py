"""How long this API waits for callers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ApiTimes:
    """All in seconds; whoever needs longer for so little keeps a connection open for nothing.

    idle: between two requests on a connection, and for the head of one. body: for all of a request's body. read: in which a
    caller takes nothing of what there is for it.
    """

    idle_seconds: float = 5.0
    body_seconds: float = 30.0
    read_seconds: float = 30.0
