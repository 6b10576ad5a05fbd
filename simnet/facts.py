"""What a node says of itself: the answers of its HTTP interface that we read, as types. Unknown fields are ignored.

Every field has the default of a node that has just begun, so that a node which says less is shown, not refused.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


class Lagging(msgspec.Struct, frozen=True, kw_only=True):
    """A slot in which nothing was merged or decided, and why."""

    tile: str
    version: int = 0
    round: int | None = None
    reason: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """GET /status. `rounds` counts closed rounds, `val_loss` is in nats per byte, byte counts are this process's own."""

    peer: str = ""
    short: str = ""
    network_id: str = ""
    state: str = "booting"
    detail: str = ""
    roster: int = 0
    reachable: int = 0
    quorum: int = 0
    round: int = 0
    rounds: int = 0
    tokens: int = 0
    tokens_per_second: float = 0.0
    val_loss: float | None = None
    tiles: int = 0
    tiles_owned: int = 0
    lagging: tuple[Lagging, ...] = ()
    takeovers: int = 0
    rejected: dict[str, int] = msgspec.field(default_factory=dict)
    bytes_sent: int = 0
    device: str = ""


class RoundFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of GET /rounds. Bytes are the node's own; tiles, takeovers and tokens are the network's as it knows them."""

    round: int
    opened_ms: int | None = None
    closed_ms: int | None = None
    tiles_advanced: int = 0
    tiles: int = 0
    lagging: tuple[Lagging, ...] = ()
    takeovers: int = 0
    val_loss: float | None = None
    tokens: int = 0
    delta_float32_bytes: int = 0
    delta_payload_bytes: int = 0
    bytes_sent: int = 0
    owners: dict[str, int] = msgspec.field(default_factory=dict)
    merged_deltas: int = 0


class RoundSlots(msgspec.Struct, frozen=True, kw_only=True):
    """GET /rounds/{r}: per tile the version and the root that the node itself holds after the round."""

    round: int
    slots: dict[str, tuple[int, str]]


class TileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of GET /tiles."""

    tile: str
    version: int = 0
    root: str = ""
    owner: str | None = None
    attempt: int = 0


class PeerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of GET /peers, of which we show the round-trip time."""

    short: str = ""
    connected: bool = False
    rtt_ms: float | None = None


class ApiFile(msgspec.Struct, frozen=True, kw_only=True):
    """``api.json`` in the data directory of a node that is up."""

    url: str
    pid: int = 0
    peer: str = ""
    addresses: tuple[str, ...] = ()  # where others dial it
    listening: tuple[str, ...] = ()  # its own sockets, without its id


def read(kind: type[T], text: bytes) -> T:
    """Decode JSON as `kind`; raises msgspec.DecodeError (a ValueError) where it has another shape."""
    return msgspec.json.decode(text, type=kind)
