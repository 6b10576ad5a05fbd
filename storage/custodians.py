"""What cores that ask custodians for cells say in the same words: begin, wake, who did not give what it is to keep."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from protocol.ids import PeerId


@dataclass(frozen=True, slots=True)
class Started:
    """Begin."""


@dataclass(frozen=True, slots=True)
class Woken:
    """It is as late as the last ``Wake`` said, or later."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Send ``Woken`` at this time. The last one counts."""

    at_ms: int


class Fault(enum.Enum):
    """What a custodian did."""

    SILENT = "silent"  # no answer in time
    ABSENT = "absent"  # does not hold, or does not give, what it is to keep
    WRONG = "wrong"  # another cell, or one that does not lead to the root


@dataclass(frozen=True, slots=True)
class Accuse:
    """A custodian did not give what it is to keep: ``cell``, or several of which that is the first."""

    peer: PeerId
    cell: int
    fault: Fault
