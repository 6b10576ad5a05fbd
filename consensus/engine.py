"""The door: every event enters here, and everything that is to be done leaves here.

The engine decides nothing itself. It asks finality, execution and rounds in turn, and carries their questions to each other,
so that a caller sees one machine: ``handle(event, now) -> effects``. One writer calls it; there are no locks. The same
engine runs in the node and in a simulated world.

What each part says to the others:

    finality   RequestBuild, RequestCheck  -> execution -> BodyBuilt, NothingToBuild, BodyChecked
    finality   Finalized                   -> execution -> decided heads -> rounds
    execution  a head became includable    -> finality: Nudge
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import assert_never

from consensus.events import (
    Blamed,
    Decide,
    HeadsSeen,
    HeadsVerified,
    RoundEffect,
    RoundEvent,
    TipSeen,
    VerifyHeads,
)
from consensus.execution import Execution, Verdict
from consensus.finality import events as finality_events
from consensus.finality.core import FinalityCore
from consensus.finality.events import (
    BodyBuilt,
    BodyChecked,
    Evidence,
    FetchBlocks,
    Finalized,
    Halt,
    MessageReceived,
    NothingToBuild,
    Nudge,
    Persist,
    RequestBuild,
    RequestCheck,
    Score,
    Send,
    SetTimer,
    Started,
    StoreBlocks,
)
from consensus.rounds import RoundMachine
from protocol.finality import EMPTY_BODY
from protocol.ids import PeerId
from protocol.roster import Decided, Head

Event = RoundEvent | HeadsSeen | HeadsVerified | TipSeen | finality_events.Event
Effect = (
    RoundEffect
    | VerifyHeads
    | Decide
    | Persist
    | StoreBlocks
    | Send
    | SetTimer
    | Finalized
    | FetchBlocks
    | Score
    | Evidence
    | Halt
)

_FINALITY_EVENTS = (
    Started,
    MessageReceived,
    finality_events.TimerFired,
    Nudge,
    finality_events.Synced,
    finality_events.EpochOpened,
)


class Engine:
    """One node's rules. ``me`` is this node's own id."""

    def __init__(self, me: PeerId, finality: FinalityCore, execution: Execution, rounds: RoundMachine) -> None:
        self.finality = finality
        self.execution = execution
        self.rounds = rounds
        self._me = me
        self._effects: list[Effect] = []
        self._questions: deque[finality_events.Event] = deque()  # what finality is still to be told

    def handle(self, event: Event, now: int) -> list[Effect]:
        """Take one event at a time ``now`` (milliseconds); return what is to be done, in order."""
        if isinstance(event, HeadsSeen):
            own = event.sender == self._me
            if own:
                self.rounds.remember_signed(event.heads)
            self._take(self.execution.add_heads(event.heads, event.sender, own=own))
            self._nudge()
        elif isinstance(event, HeadsVerified):
            self.rounds.hear(self.execution.verified(event))
            self._take(self.execution.take_verdicts(event))
            self._nudge()
        elif isinstance(event, TipSeen):
            self._questions.append(MessageReceived(None, event.certificate))
        elif isinstance(event, _FINALITY_EVENTS):
            self._questions.append(event)
        elif isinstance(event, BodyBuilt | NothingToBuild | BodyChecked):
            raise TypeError("execution answers finality; nobody outside does")
        else:
            self._effects += self.rounds.handle(event, now)
        self._settle(now)
        effects, self._effects = self._effects, []
        return effects

    def start_rounds(self, now: int) -> list[Effect]:
        """Open the first round: the node is synced and connected."""
        return list(self.rounds.start(now))

    def _nudge(self) -> None:
        if self.execution.is_ready():
            self._questions.append(Nudge())

    def _settle(self, now: int) -> None:
        """Let the parts answer each other until nothing is open."""
        while self._questions:
            for effect in self.finality.handle(self._questions.popleft(), now):
                self._route(effect, now)

    def _route(self, effect: finality_events.Effect, now: int) -> None:
        if isinstance(effect, RequestBuild):
            self._questions.append(self._build(effect))
        elif isinstance(effect, RequestCheck):
            proposer = self.execution.rules.roster.members[effect.header.proposer].node
            self._take(self.execution.check(effect.block, effect.header, effect.body, proposer))
        elif isinstance(effect, Finalized):
            self._finalize(effect, now)
        else:
            self._effects.append(effect)

    def _build(self, request: RequestBuild) -> BodyBuilt | NothingToBuild:
        built = self.execution.build(request.parent)
        if built is None or built[0] == EMPTY_BODY:
            return NothingToBuild(request.epoch, request.view)
        return BodyBuilt(request.epoch, request.view, *built)

    def _finalize(self, effect: Finalized, now: int) -> None:
        """Store the blocks, then decide their heads: in this order, so that a crash between loses nothing."""
        decided: list[Decided] = []
        for block in effect.blocks:
            decided += self.execution.finalize(block.header.digest(), block.header, block.body)
        self._effects.append(effect)
        if decided:
            self._effects.append(Decide(tuple(decided)))
            self._effects += self.rounds.decide(decided, now)
        self._take(self.execution.resume())

    def _take(self, answers: Sequence[Verdict | VerifyHeads | Blamed]) -> None:
        """Answers of execution: verdicts go to finality, the rest outside."""
        for answer in answers:
            match answer:
                case Verdict():
                    reason = answer.refusal.reason if answer.refusal else None
                    self._questions.append(BodyChecked(answer.block, answer.accepted, answer.state_root, reason))
                case VerifyHeads() | Blamed():
                    self._effects.append(answer)
                case _:
                    assert_never(answer)

    def proposed_by_us(self, heads: tuple[Head, ...]) -> HeadsSeen:
        """The event that hands our own signed and journaled heads back."""
        return HeadsSeen(heads, self._me)
