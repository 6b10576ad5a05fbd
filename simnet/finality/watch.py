"""What a checker can see, and what it says when a rule is broken. Read ``checkers`` for the rules."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from consensus.finality.events import Evidence
from consensus.state import State
from protocol.finality import Certificate, FinalizedBlock
from protocol.rejection import Reason
from simnet.finality.genesis import ActorId

if TYPE_CHECKING:
    from simnet.finality.members import Member


class Rule(enum.Enum):
    """What kind of rule was broken; the value is its column in the report."""

    UNSAFE = "unsafe"
    FRAMED = "framed"
    NOT_LIVE = "not_live"
    NOT_DURABLE = "not_durable"
    NOT_CONSERVED = "not_conserved"
    NOT_REPLAYED = "not_replayed"
    UNATTRIBUTED = "unattributed"
    BROKEN = "broken"


class Broken(Exception):
    """A checker saw a rule broken."""

    def __init__(self, rule: Rule, sentence: str) -> None:
        super().__init__(f"{rule.value}: {sentence}")
        self.rule = rule
        self.sentence = sentence


class Watch:
    """Sees everything and says nothing: what a member that nobody trusts is watched by."""

    def heard(self, member: ActorId, message: object) -> None:
        """A message reached a member."""

    def sent(self, member: ActorId, message: object) -> None:
        """A message left a member."""

    def stored(self, member: ActorId, certificate: Certificate) -> None:
        """A certificate was written."""

    def finalized(self, member: ActorId, block: FinalizedBlock) -> None:
        """A block is about to enter a member's ledger."""

    def executed(self, member: ActorId, block: FinalizedBlock, state: State) -> None:
        """What a member's application made of a final block."""

    def opened(self, member: Member) -> None:
        """A member begins with what its disk holds."""

    def accused(self, member: ActorId, evidence: Evidence) -> None:
        """A member reports evidence."""

    def blamed(self, member: ActorId, whom: ActorId, reason: Reason) -> None:
        """A member says that another broke a rule."""

    def halted(self, member: ActorId, sentence: str) -> None:
        """A member saw proof that the chain is forked."""
