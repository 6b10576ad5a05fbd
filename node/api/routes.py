"""The table of the API: method and path -> handler, and who may call it."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from node.api import handlers


class Access(enum.Enum):
    """Who may call a route. Host and Origin are checked for all of them."""

    READ = "read"  # whoever can reach loopback on this machine
    CHANGE = "change"  # the bearer token of the data directory, or the unix socket (mode 0600)


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """One row."""

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    access: Access


ROUTES: Final = (
    ApiRoute("GET", "/status", handlers.get_status, Access.READ),
    ApiRoute("GET", "/rounds", handlers.get_rounds, Access.READ),
    ApiRoute("GET", "/rounds/{round:int}", handlers.get_round_slots, Access.READ),
    ApiRoute("GET", "/tiles", handlers.get_tiles, Access.READ),
    ApiRoute("GET", "/peers", handlers.get_peers, Access.READ),
    ApiRoute("GET", "/health", handlers.get_health, Access.READ),
    ApiRoute("GET", "/metrics", handlers.get_metrics, Access.READ),
    ApiRoute("POST", "/generate", handlers.post_generate, Access.CHANGE),
    ApiRoute("POST", "/stop", handlers.post_stop, Access.CHANGE),
)
