"""The application of this world: the node's own ledger (consensus/transition.py) under the machine of finality.

    body         protocol.finality.Body: transactions of a handful of people (``payments``), and the epoch's history where that
                 is due; no heads, no word for the beacon
    state root   of the state after the body, as every header names it
    on disk      the rows of the state, written with the block that changed them

Each member has an application: the state after its last final block, and those after its open ones. What a body makes of a
state depends on the state, the body and the header alone, so the members of one world share what they found out (``Memo``);
a replay does without.

Who votes is drawn by ``sets`` and not taken from the state, which fixes rosters of its own at each boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from consensus.beacon import due_history
from consensus.history import walk_segments
from consensus.state import State, changes_between
from consensus.transition import BlockContext, BlockRules, apply_block, build_block
from protocol.codec import decode, encode
from protocol.epochs import is_boundary
from protocol.finality import NO_BLOCK, Body, FinalizedBlock, Header
from protocol.ids import Digest, Height, MemberIndex
from protocol.limits import BODY_BYTES_MAX, HISTORY_SEGMENTS
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster
from protocol.transactions import SignedTransaction
from simnet.finality.genesis import GENESIS_ROOT, GENESIS_STATE
from simnet.finality.payments import read_transaction

OUTCOMES_MAX: Final = 64  # of a world: as many blocks as there are views open to votes; an older one is executed again

Rows = tuple[tuple[bytes, bytes | None], ...]  # key and encoded entry; None: the entry is gone
Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a block stands: what its header says of it, and the roster that the header names."""

    roster: Roster
    height: Height
    time_ms: int
    proposer: MemberIndex

    @classmethod
    def of(cls, header: Header, roster: Roster) -> Site:
        return cls(roster, header.height, header.time_ms, header.proposer)


@dataclass(slots=True)
class Outcome:
    """What a block made of its parent's state."""

    before: State
    after: State
    root: Digest
    _rows: Rows | None = None

    def rows(self) -> Rows:
        """What changed, for a database."""
        if self._rows is None:
            changes = changes_between(self.before, self.after)
            self._rows = tuple((key, None if entry is None else encode(entry)) for key, entry in changes)
        return self._rows


# -- what is known already ----------------------------------------------------------------------------------------------

Question = tuple[object, ...]


class Memo:
    """What the members of one world found out about blocks lately. The oldest is forgotten first."""

    def __init__(self) -> None:
        self._outcomes: dict[Question, Outcome | Rejected] = {}
        self._states: dict[Digest, State] = {GENESIS_ROOT: GENESIS_STATE}

    def question(self, root: Digest, body: bytes, site: Site) -> Question:
        """All that an outcome depends on: the rest of a roster follows from the height."""
        node = site.roster.members[site.proposer].node
        return root, body, site.height, site.time_ms, node

    def find(self, question: Question) -> Outcome | Rejected | None:
        return self._outcomes.get(question)

    def find_state(self, root: Digest) -> State | None:
        """A state that some block led to lately: what a villain builds on, who need not execute anything."""
        return self._states.get(root)

    def keep(self, question: Question, outcome: Outcome | Rejected) -> None:
        _keep(self._outcomes, question, outcome)
        if isinstance(outcome, Outcome):
            _keep(self._states, outcome.root, outcome.after)


def _keep(memory: dict[Key, Value], key: Key, value: Value) -> None:
    memory.pop(key, None)
    if len(memory) >= OUTCOMES_MAX:
        del memory[next(iter(memory))]
    memory[key] = value


# -- the application ----------------------------------------------------------------------------------------------------


class Application:
    """Runs bodies on states. ``memo`` None: it executes everything itself."""

    def __init__(
        self, rules: BlockRules, memo: Memo | None, state: State = GENESIS_STATE, anchor: Digest = NO_BLOCK
    ) -> None:
        """``anchor`` is the block after which ``state`` holds."""
        self.rules = rules
        self.state = state
        self.anchor = anchor
        self._memo = memo
        self._open: dict[Digest, tuple[Height, Outcome]] = {}

    # -- the two functions that know what a body holds ------------------------------------------------------------------

    def _build(self, state: State, site: Site, candidates: Sequence[SignedTransaction]) -> tuple[bytes, State]:
        """A body of those candidates that can pay, and the state after it."""
        history = self._walk(state) if self._tells_history(site) else ()
        after, included = build_block(state, (), candidates, self._context(state, site), None, history)
        return encode(Body((), tuple(encode(transaction.plain) for transaction in included), None, history)), after

    def _apply(self, state: State, site: Site, body: bytes) -> State:
        """The state after a body; raises ``Rejected``."""
        decoded = decode(Body, body, limit_bytes=BODY_BYTES_MAX)
        transactions = tuple(read_transaction(data) for data in decoded.transactions)
        context = self._context(state, site)
        after, _ = apply_block(state, decoded.heads, transactions, context, decoded.word, decoded.history)
        if decoded.history and decoded.history != self._walk(state):
            raise Rejected(Reason.BAD_PROOF, "another history")
        return after

    def _tells_history(self, site: Site) -> bool:
        """In every other block, and in the boundary's, which is wrong without."""
        return site.height % 2 == 0 or is_boundary(site.height, self.rules.epoch_heights)

    def _walk(self, state: State) -> tuple[Digest, ...]:
        """The history that is due, if one is: here it is short enough to be no job for anybody."""
        start = due_history(state)
        return () if start is None else walk_segments(start, self.rules.history_segment_ticks, HISTORY_SEGMENTS)

    def _context(self, state: State, site: Site) -> BlockContext:
        """What transactions on top of ``state`` may know of their block."""
        heads = self.rules.head_rules(site.roster)
        return self.rules.context(state, heads, site.height, site.time_ms, site.proposer)

    # -- what finality asks ---------------------------------------------------------------------------------------------

    def find_state(self, block: Digest) -> State | None:
        """The state after the last final block, or after an open one that was executed."""
        if block == self.anchor:
            return self.state
        _, outcome = self._open.get(block, (None, None))
        return outcome.after if outcome else None

    def build(self, state: State, site: Site, candidates: Sequence[SignedTransaction]) -> tuple[bytes, Digest]:
        """A body on top of ``state`` and the state root after it."""
        body, after = self._build(state, site, candidates)
        outcome = Outcome(state, after, after.root())
        if self._memo is not None:
            self._memo.keep(self._memo.question(state.root(), body, site), outcome)
        return body, outcome.root

    def check(self, parent: State, header: Header, roster: Roster, body: bytes) -> Digest:
        """The root after an open block, of whose parent this is the state; raises ``Rejected``: WRONG_STATE where the header
        names another root."""
        outcome = self._execute(parent, header, roster, body)
        self._open[header.digest()] = header.height, outcome
        return outcome.root

    def finalize(self, final: FinalizedBlock, roster: Roster) -> Outcome:
        """Go on to the next final block; raises ``Rejected`` as ``check``."""
        header, block = final.header, final.header.digest()
        _, outcome = self._open.get(block, (None, None))
        outcome = outcome or self._execute(self.state, header, roster, final.body)
        self.state, self.anchor = outcome.after, block
        self._open = {name: each for name, each in self._open.items() if each[0] > header.height}
        return outcome

    def _execute(self, parent: State, header: Header, roster: Roster, body: bytes) -> Outcome:
        outcome = self._ask(parent, Site.of(header, roster), body)
        if isinstance(outcome, Rejected):
            raise Rejected(outcome.reason, outcome.detail)
        if outcome.root != header.state_root:
            raise Rejected(Reason.WRONG_STATE, f"height {header.height}")
        return outcome

    def _ask(self, state: State, site: Site, body: bytes) -> Outcome | Rejected:
        if self._memo is None:
            return self._run(state, site, body)
        question = self._memo.question(state.root(), body, site)
        outcome = self._memo.find(question)
        if outcome is None:
            outcome = self._run(state, site, body)
            self._memo.keep(question, outcome)
        return outcome

    def _run(self, state: State, site: Site, body: bytes) -> Outcome | Rejected:
        try:
            after = self._apply(state, site, body)
        except Rejected as refusal:
            return Rejected(refusal.reason, refusal.detail)  # without the frames that it came through
        return Outcome(state, after, after.root())


# -- on disk ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Commit:
    """One write: final blocks in ascending order, and for each the rows that it changed."""

    blocks: tuple[FinalizedBlock, ...]
    rows: tuple[Rows, ...]
