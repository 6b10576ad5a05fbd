"""Members that break the rules on purpose, each in one way; the table is what ``--villain`` and a seed choose from.

Each holds a real key of the roster and nothing more: it can sign what it likes in its own name, and forge nothing. Read
``villain`` first: what all of them can do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from simnet.finality.genesis import ActorId
from simnet.finality.villains.changer import Changer
from simnet.finality.villains.equivocator import Equivocator
from simnet.finality.villains.forger import Forger
from simnet.finality.villains.garbler import Garbler
from simnet.finality.villains.lunatic import Lunatic
from simnet.finality.villains.nullifier import Nullifier
from simnet.finality.villains.replayer import Replayer
from simnet.finality.villains.skipper import Skipper
from simnet.finality.villains.spammer import FarViewSpammer
from simnet.finality.villains.splitter import Splitter
from simnet.finality.villains.stale import StaleLiar
from simnet.finality.villains.twins import Twins
from simnet.finality.villains.villain import Actor
from simnet.finality.villains.withholder import Withholder

if TYPE_CHECKING:
    from simnet.finality.world import World


class Kind(Protocol):
    """Makes one villain; ``SUMMARY`` is its line in ``--help``."""

    SUMMARY: str

    def __call__(self, world: World, me: ActorId) -> Actor:
        """An actor that has not started."""


VILLAINS: Final[dict[str, Kind]] = {
    "equivocator": Equivocator,
    "twins": Twins,
    "withholder": Withholder,
    "lunatic": Lunatic,
    "skipper": Skipper,
    "stale": StaleLiar,
    "nullifier": Nullifier,
    "spammer": FarViewSpammer,
    "garbler": Garbler,
    "splitter": Splitter,
    "changer": Changer,
    "replayer": Replayer,
    "forger": Forger,
}

SUMMARIES: Final[dict[str, str]] = {name: kind.SUMMARY for name, kind in VILLAINS.items()}

__all__ = ["SUMMARIES", "VILLAINS", "Actor"]
