"""When a tile's updates are folded into a new base: a rule, not an act.

    base             one version's whole file, durable
    updates          what was decided since, one for each version above the base; blobs, durable before they were decided
    version          base + updates, bit for bit, so that none of the versions between needs a file of its own

    trigger   folds when                                            source
    LENGTH    more than 10 updates rest on the base                 001 1138-1146
    BYTES     they take more than half of what the tile takes       001 1138-1146
    LOAD      making a version from them took more than 50 ms       001 1138-1146, 1190

The source compares with the constant size of a tile; a tile of ours may be smaller, and holds the outer optimiser's
state, so we compare with the file that the fold would save. It prunes and quantises what it folds; ours must have the decided
root, so it stays as it is.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from protocol.limits import UPDATES_PER_BASE_MAX

LOAD_MS_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class Chain:
    """What rests on a base. ``load_ms``: the longest that making a version of it has taken, 0 where nobody asked."""

    updates: int
    update_bytes: int
    tile_bytes: int
    load_ms: int = 0


@dataclass(frozen=True, slots=True)
class CompactionRule:
    """How far a chain may grow."""

    updates_max: int = UPDATES_PER_BASE_MAX
    tile_divisor: int = 2  # updates may take this part of the tile
    load_ms_max: int = LOAD_MS_MAX


class Trigger(enum.Enum):
    """Why a chain is folded."""

    LENGTH = "length"
    BYTES = "bytes"
    LOAD = "load"


TRIGGERS: Final[Mapping[Trigger, Callable[[Chain, CompactionRule], bool]]] = {
    Trigger.LENGTH: lambda chain, rule: chain.updates > rule.updates_max,
    Trigger.BYTES: lambda chain, rule: chain.update_bytes * rule.tile_divisor > chain.tile_bytes,
    Trigger.LOAD: lambda chain, rule: chain.load_ms > rule.load_ms_max,
}


def find_trigger(chain: Chain, rule: CompactionRule) -> Trigger | None:
    """The first reason to fold, or ``None``; an empty chain has none."""
    if not chain.updates:
        return None
    return next((trigger for trigger, fires in TRIGGERS.items() if fires(chain, rule)), None)
