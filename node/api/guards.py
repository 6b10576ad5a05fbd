"""Who may call the API, and how often. Every request goes through here before anything else of it is looked at.

    from where                                  reads            text             changes
    the unix socket (mode 0600)                 yes              yes              yes
    this machine, by loopback                   yes              token or key     token
    elsewhere, if the node listens there        token or key     token or key     never

The token is the data directory's own, for its owner; keys (``node/api_keys.py``) are for others, each with its rate. A web page
in the user's browser can reach loopback too, so a request without either must name a loopback host (no rebinding of names),
and a page of another origin is refused unless the configuration lets it in.
"""

from __future__ import annotations

import enum
import hmac
import ipaddress
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from starlette.requests import HTTPConnection

from node.api.responses import ApiError
from node.api_keys import KEYS_MAX, ApiKey, KeyRing
from p2p.token_buckets import TokenBuckets

LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


class Access(enum.Enum):
    """What a route does, as far as it matters who calls it."""

    READ = "read"
    ASK = "ask"  # it costs work
    CHANGE = "change"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. ``key``: None for the owner of the node, and for whoever reads on this machine."""

    key: ApiKey | None = None

    @property
    def name(self) -> str:
        return self.key.id if self.key is not None else ""


class Doorkeeper:
    """Lets callers in, and counts what those with keys ask."""

    def __init__(self, token: str, keys: KeyRing, origins: frozenset[str], now_seconds: Callable[[], float]) -> None:
        """``token``: the data directory's own. ``origins``: whose pages may call, such as ``https://chat.example.org``."""
        self._token = token.encode()
        self._keys = keys
        self._origins = origins
        self._now_seconds = now_seconds
        self._buckets = TokenBuckets[str](KEYS_MAX)
        self._at_once: Counter[str] = Counter()

    def admit(self, connection: HTTPConnection, access: Access) -> Caller:
        """Who calls; raises ``ApiError`` where it may not."""
        if is_unix_socket(connection):
            return Caller()
        self._check_origin(connection)
        given = connection.headers.get("authorization", "").removeprefix("Bearer ")
        is_near = is_this_machine(connection)
        is_owner = hmac.compare_digest(given.encode(), self._token)
        if access is Access.CHANGE:
            if is_owner and is_near and names_this_machine(connection):
                return Caller()
            message = (
                "This needs 'Authorization: Bearer TOKEN' with the content of api.token, or the unix socket api.sock"
            )
            raise ApiError(403, "forbidden", f"{message}, on the machine of the node.")
        if is_owner:
            return Caller()
        key = self._keys.find(given)
        if key is not None:
            return Caller(key)
        if access is Access.READ and is_near:
            if not names_this_machine(connection):
                message = "The Host header must name this machine: 127.0.0.1 or localhost."
                raise ApiError(403, "forbidden", message)
            return Caller()
        message = "This needs 'Authorization: Bearer KEY': a key from `nocknode api-key new NAME`, or the content of api.token."
        raise ApiError(401, "invalid_api_key", message, headers={"www-authenticate": "Bearer"})

    def charge(self, caller: Caller) -> dict[str, str]:
        """Count one request for text; the headers that say what is left. Raises ``ApiError(429)``."""
        key = caller.key
        if key is None:
            return {}
        wait_seconds = self._buckets.take(key.id, key.per_minute, key.per_minute / 60, self._now_seconds())
        told = {
            "x-ratelimit-limit-requests": str(key.per_minute),
            "x-ratelimit-remaining-requests": str(int(self._buckets.left(key.id))),
        }
        if wait_seconds:
            told["retry-after"] = str(math.ceil(wait_seconds))
            message = f"This key may ask {key.per_minute} times a minute; try again in {math.ceil(wait_seconds)} s."
            raise ApiError(429, "rate_limit_exceeded", message, headers=told)
        return told

    @contextmanager
    def place(self, caller: Caller) -> Iterator[None]:
        """One answer under way for this caller. Raises ``ApiError(429)`` where it has as many as it may."""
        key = caller.key
        if key is None:
            yield
            return
        if self._at_once[key.id] >= key.at_once:
            message = f"This key may have {key.at_once} answers under way; wait for one to end."
            raise ApiError(429, "too_many_at_once", message, headers={"retry-after": "1"})
        self._at_once[key.id] += 1
        try:
            yield
        finally:
            self._at_once[key.id] -= 1
            if not self._at_once[key.id]:
                del self._at_once[key.id]

    def _check_origin(self, connection: HTTPConnection) -> None:
        origin = connection.headers.get("origin")
        host = connection.headers.get("host", "")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}") and origin not in self._origins:
            message = "A page of another origin may not call this API; api.allow_origins in config.toml lets it in."
            raise ApiError(403, "forbidden", message)


def is_unix_socket(connection: HTTPConnection) -> bool:
    """Whether a request came through the unix socket: only there the server has no address."""
    return connection.scope.get("server") is None


def is_this_machine(connection: HTTPConnection) -> bool:
    """Whether the caller is on this machine, as far as its address says so."""
    client = connection.client
    try:
        return client is not None and ipaddress.ip_address(client.host).is_loopback
    except ValueError:
        return False


def names_this_machine(connection: HTTPConnection) -> bool:
    """Whether the Host header is a name of loopback, whose pages nobody else can make."""
    host = connection.headers.get("host", "")
    name, _, port = host.rpartition(":")
    return (name if port.isdigit() else host) in LOOPBACK_NAMES
