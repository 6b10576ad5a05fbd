"""What goes first when the disk allowance (``storage_bytes_max``) would be exceeded, and what never goes.

    class      goes, in this order                          never goes
    low        0  copies of tile versions beyond the newest that of each tile's newest: learning maps it
    normal     1  deltas older than the challenge window    deltas inside it: an audit may ask for them
    normal     2  updates beyond the newest of each tile    the newest UPDATES_KEPT_MIN of each tile: others catch up with
                                                            them; and those on which a version rests
    high       3  tile versions beyond the newest           the newest TILE_VERSIONS_KEPT of each tile: the model itself; and
                                                            the bases on which they rest
    critical   4  shards of data sets nobody here learns    shards of data sets in use: learning would stop
                                                            anything the caller pins: open, being sent, not yet decided

The classes are those that say how long the network keeps something (``protocol.erasure.ReplicationClass``): what can be made
again goes before history, history before snapshots, and last what only a checkpoint could replace. Within a kind the oldest
goes first; larger first among equals, so that fewer things go. A plan is a list; the shell that holds the stores carries it
out. When nothing more may go, the answer is :class:`StorageFull`, before anything was removed or written.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.erasure import ReplicationClass
from protocol.limits import TILE_VERSIONS_KEPT, UPDATES_KEPT_MIN


class Kind(enum.IntEnum):
    """What a stored thing is; the number is the order in which kinds go."""

    TILE_COPY = 0
    DELTA = 1
    UPDATE = 2
    TILE_VERSION = 3
    DATASET_SHARD = 4


RETENTION: Final[Mapping[Kind, ReplicationClass]] = {
    Kind.TILE_COPY: ReplicationClass.LOW,  # made again from a base and updates
    Kind.DELTA: ReplicationClass.NORMAL,
    Kind.UPDATE: ReplicationClass.NORMAL,
    Kind.TILE_VERSION: ReplicationClass.HIGH,
    Kind.DATASET_SHARD: ReplicationClass.CRITICAL,  # genesis names it, and nothing else gives it back
}


@dataclass(frozen=True, slots=True)
class Held:
    """One stored thing. ``name`` is for the caller to find it again.

    ``group`` is the tile or data set to which it belongs; ``age`` orders things of one kind, smaller is older: the
    round of a delta, the version of an update, tile or copy, the round in which a data set was last used.
    """

    kind: Kind
    name: str
    group: str
    age: int
    size_bytes: int
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class KeepRule:
    """What stays whatever happens. ``first_challenged`` is the oldest round whose deltas an audit may still ask for."""

    first_challenged: int
    datasets_in_use: frozenset[str] = frozenset()
    tile_versions_kept: int = TILE_VERSIONS_KEPT
    updates_kept: int = UPDATES_KEPT_MIN
    tile_copies_kept: int = 1


class StorageFull(OSError):
    """The allowance, or the disk, is used up by things that must stay. Nothing was removed or written.

    ``free_bytes``: what the disk has left, if that is less than the allowance leaves.
    """

    def __init__(self, used_bytes: int, needed_bytes: int, bytes_max: int, free_bytes: int | None = None) -> None:
        limit = (
            f"storage_bytes_max allows {bytes_max:,}: raise storage_bytes_max in the config, or hold fewer tiles."
            if free_bytes is None
            else f"the disk has {free_bytes:,} left: make room on it, or move the data directory to a larger one."
        )
        super().__init__(
            errno.ENOSPC,
            f"Storage is full: {used_bytes:,} bytes are used and must stay, {needed_bytes:,} more are needed, and {limit}",
        )
        self.used_bytes = used_bytes
        self.needed_bytes = needed_bytes
        self.bytes_max = bytes_max

    def __str__(self) -> str:
        return str(self.strerror)


def room_bytes(used_bytes: int, bytes_max: int, free_bytes: int | None = None) -> int:
    """How many more may be written: what the allowance leaves, and the disk, where that is known. Below 0 over it."""
    allowed = bytes_max - used_bytes
    return allowed if free_bytes is None else min(allowed, free_bytes)


def plan_room(
    held: Sequence[Held],
    rule: KeepRule,
    *,
    used_bytes: int,
    needed_bytes: int,
    bytes_max: int,
    free_bytes: int | None = None,
) -> tuple[Held, ...]:
    """What to remove, in order, so that ``needed_bytes`` more fit; nothing when they fit already.

    ``used_bytes`` counts everything, including what is not in ``held`` (index, journals); ``free_bytes`` is what the disk
    has left, whoever else fills it. Raises ``StorageFull``.
    """
    excess_bytes = needed_bytes - room_bytes(used_bytes, bytes_max, free_bytes)
    going: list[Held] = []
    for thing in removable(held, rule):
        if excess_bytes <= 0:
            break
        going.append(thing)
        excess_bytes -= thing.size_bytes
    if excess_bytes > 0:
        gone_bytes = sum(thing.size_bytes for thing in going)
        is_disk_short = free_bytes is not None and free_bytes < bytes_max - used_bytes
        left_bytes = free_bytes + gone_bytes if is_disk_short and free_bytes is not None else None
        raise StorageFull(used_bytes - gone_bytes, needed_bytes, bytes_max, left_bytes)
    return tuple(going)


def removable(held: Iterable[Held], rule: KeepRule) -> list[Held]:
    """Everything that may go, in the order in which it goes."""
    things = list(held)
    newest = _newest(things, rule)
    free = [thing for thing in things if not (thing.pinned or thing in newest or _is_needed(thing, rule))]
    return sorted(free, key=lambda thing: (thing.kind, thing.age, -thing.size_bytes, thing.name))


def _newest(things: Sequence[Held], rule: KeepRule) -> set[Held]:
    """The newest versions, copies and updates of each tile: as many as the rule keeps."""
    kept_by_kind = {
        Kind.TILE_COPY: rule.tile_copies_kept,
        Kind.UPDATE: rule.updates_kept,
        Kind.TILE_VERSION: rule.tile_versions_kept,
    }
    groups: dict[tuple[Kind, str], list[Held]] = {}
    for thing in things:
        if thing.kind in kept_by_kind:
            groups.setdefault((thing.kind, thing.group), []).append(thing)
    newest: set[Held] = set()
    for (kind, _), members in groups.items():
        members.sort(key=lambda thing: thing.age, reverse=True)
        newest.update(members[: kept_by_kind[kind]])
    return newest


def _is_needed(thing: Held, rule: KeepRule) -> bool:
    if thing.kind is Kind.DELTA:
        return thing.age >= rule.first_challenged
    return thing.kind is Kind.DATASET_SHARD and thing.group in rule.datasets_in_use
