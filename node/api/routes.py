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
    ApiRoute("GET", "/kept", handlers.get_custody, Access.READ),
    ApiRoute("GET", "/kept/{blob}/{tile:int}", handlers.get_kept_tile, Access.CHANGE),  # others are asked for it
    ApiRoute("GET", "/health", handlers.get_health, Access.READ),
    ApiRoute("GET", "/metrics", handlers.get_metrics, Access.READ),
    ApiRoute("GET", "/consensus/status", handlers.get_chain_status, Access.READ),
    ApiRoute("GET", "/consensus/blocks/{height}", handlers.get_block, Access.READ),
    ApiRoute("GET", "/consensus/transactions/{id}", handlers.get_transaction, Access.READ),
    ApiRoute("GET", "/consensus/accounts/{address}", handlers.get_account, Access.READ),
    ApiRoute("GET", "/consensus/proof", handlers.get_proof, Access.READ),
    ApiRoute("GET", "/consensus/validators", handlers.get_validators, Access.READ),
    ApiRoute("GET", "/consensus/validators/{id}", handlers.get_validator, Access.READ),
    ApiRoute("GET", "/consensus/epochs/current", handlers.get_epoch, Access.READ),
    ApiRoute("GET", "/consensus/kept", handlers.get_kept, Access.READ),
    ApiRoute("GET", "/consensus/state_sync/status", handlers.get_state_sync, Access.READ),
    ApiRoute("GET", "/consensus/state_sync/checkpoints", handlers.get_checkpoints, Access.READ),
    ApiRoute("POST", "/consensus/transactions", handlers.post_transaction, Access.CHANGE),
    ApiRoute("POST", "/consensus/validators/register", handlers.post_register, Access.CHANGE),
    ApiRoute("POST", "/generate", handlers.post_generate, Access.CHANGE),
    ApiRoute("POST", "/stop", handlers.post_stop, Access.CHANGE),
)
