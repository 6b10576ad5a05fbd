"""The door: every event enters here, and everything that is to be done leaves here.

The engine decides nothing itself. It asks finality, execution and rounds in turn, and carries their questions to each other,
so that a caller sees one machine: ``handle(event, now) -> effects``. One writer calls it; there are no locks. The same
engine runs in the node and in a simulated world.

What each part says to the others:

    finality   RequestBuild, RequestCheck  -> execution -> BodyBuilt, NothingToBuild, BodyChecked
    finality   Finalized                   -> execution -> decided heads -> rounds
                                              at a boundary, the rosters that follow -> finality: EpochOpened, rounds
    execution  a head became includable,
               the history is walked       -> finality: Nudge
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
    HistoryVerified,
    HistoryWalked,
    RoundEffect,
    RoundEvent,
    StoreFinalized,
    TipSeen,
    TransactionsDropped,
    TransactionsSeen,
    VerifyHeads,
    VerifyHistory,
    WalkHistory,
)
from consensus.execution import Answer, Execution, Verdict
from consensus.finality import events as finality_events
from consensus.finality.core import FinalityCore
from consensus.finality.events import (
    BodyBuilt,
    BodyChecked,
    EpochOpened,
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
from protocol.ids import PeerId
from protocol.rejection import Rejected
from protocol.roster import Head
from protocol.transactions import SignedTransaction

Event = (
    RoundEvent
    | HeadsSeen
    | HeadsVerified
    | HistoryWalked
    | HistoryVerified
    | TransactionsSeen
    | TipSeen
    | finality_events.Event
)
Effect = (
    RoundEffect
    | VerifyHeads
    | VerifyHistory
    | WalkHistory
    | StoreFinalized
    | TransactionsDropped
    | Decide
    | Persist
    | StoreBlocks
    | Send
    | SetTimer
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
        elif isinstance(event, HistoryWalked | HistoryVerified):
            self._take(self.execution.take_history(event))
            self._questions.append(Nudge())  # a leader that waits for it may be the only one that can end the epoch
        elif isinstance(event, TransactionsSeen):
            for transaction in event.transactions:
                try:
                    self._add_transaction(transaction)
                except Rejected:  # it is known, or we are further or less far than its sender: nobody is to blame
                    continue
            self._nudge()
        elif isinstance(event, TipSeen):
            self._questions.append(MessageReceived(None, event.certificate))
        elif isinstance(event, _FINALITY_EVENTS):
            self._questions.append(event)
        elif isinstance(event, BodyBuilt | NothingToBuild | BodyChecked | EpochOpened):
            raise TypeError("execution answers finality; nobody outside does")
        else:
            self._effects += self.rounds.handle(event, now)
        self._settle(now)
        effects, self._effects = self._effects, []
        return effects

    def start_rounds(self, now: int, age_ms: int = 0) -> list[Effect]:
        """Open the first round: the node is synced and connected. ``age_ms``: see ``RoundMachine.start``."""
        return list(self.rounds.start(now, age_ms))

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
            proposer = self.execution.roster.members[effect.header.proposer].node
            self._take(self.execution.check(effect.block, effect.header, effect.body, proposer))
        elif isinstance(effect, Finalized):
            self._finalize(effect, now)
        else:
            self._effects.append(effect)

    def _build(self, request: RequestBuild) -> BodyBuilt | NothingToBuild:
        self._take(self.execution.ask_history(request.parent))
        built = self.execution.build(
            request.parent, request.height, request.time_ms, request.proposer, even_empty=request.even_empty
        )
        if built is None:
            return NothingToBuild(request.epoch, request.view)
        return BodyBuilt(request.epoch, request.view, *built)

    def _finalize(self, effect: Finalized, now: int) -> None:
        """Store the blocks, then decide their heads: in this order, so that a crash between loses nothing."""
        finals = [self.execution.finalize(block) for block in effect.blocks]
        self._effects.append(StoreFinalized(tuple(final.committed for final in finals)))
        decided = [each for final in finals for each in final.decided]
        if decided:
            self._effects.append(Decide(tuple(decided)))
            self._effects += self.rounds.decide(decided, now)
        dropped = [each for final in finals for each in final.dropped]
        if dropped:
            self._effects.append(TransactionsDropped(tuple(dropped)))
        opened = finals[-1].opened  # finality waits at a boundary: it is the last of a run
        if opened is not None:
            self._questions.append(EpochOpened(*opened))
            self._effects += self.rounds.open_epoch(self.execution.head_rules, now)
        self._take(self.execution.resume())

    # -- transactions ---------------------------------------------------------------------------------------------------

    def add_transaction(self, transaction: SignedTransaction, now: int) -> list[Effect]:
        """Take one transaction of our own; raises ``Rejected`` as ``Mempool.add``, and then nothing happened."""
        self._add_transaction(transaction)
        self._nudge()
        self._settle(now)
        effects, self._effects = self._effects, []
        return effects

    def _add_transaction(self, transaction: SignedTransaction) -> None:
        dropped = self.execution.add_transaction(transaction)
        if dropped:
            self._effects.append(TransactionsDropped(tuple(dropped)))

    def _take(self, answers: Sequence[Answer]) -> None:
        """Answers of execution: verdicts go to finality, the rest outside."""
        for answer in answers:
            match answer:
                case Verdict():
                    reason = answer.refusal.reason if answer.refusal else None
                    self._questions.append(BodyChecked(answer.block, answer.accepted, answer.state_root, reason))
                case VerifyHeads() | VerifyHistory() | WalkHistory() | Blamed():
                    self._effects.append(answer)
                case _:
                    assert_never(answer)

    def proposed_by_us(self, heads: tuple[Head, ...]) -> HeadsSeen:
        """The event that hands our own signed and journaled heads back."""
        return HeadsSeen(heads, self._me)
