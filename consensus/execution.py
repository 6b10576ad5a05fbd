"""Execution: what a body holds, whether it may be voted for, and what is decided.

Between finality, which orders, and those who make what is ordered: rounds and people. It holds the decided state, the states
after blocks that are not final yet, a pool of proposed heads and a pool of transactions. Its one promise (learning.md 2):

    This node votes for a body only when it has durably stored the update of every head in it and recomputed the root.

So a finalized head has its bytes on more than a third of honest disks. The storing is a job of the shell: ``VerifyHeads``
out, ``HeadsVerified`` back. Transactions need no bytes but their own: they are checked and applied where they are met.

The history that a body tells (consensus/beacon.py) takes many hashes: it is the shell's to verify, and a vote waits for it in
the same way. ``VerifyHistory`` out, ``HistoryVerified`` back; and ``WalkHistory`` where this node is to tell one itself. A
block that is final was verified by those who made it so.

Every open block is of the epoch of the next height: finality does not go past a boundary before it is final (chain.md 2.7).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from consensus.beacon import OnionKeeper, due_history
from consensus.epochs import roster_of
from consensus.events import (
    Blamed,
    CommittedBlock,
    HeadsVerified,
    HistoryVerified,
    HistoryWalked,
    VerifyHeads,
    VerifyHistory,
    WalkHistory,
)
from consensus.heads import HeadRules, TileHead
from consensus.known_histories import KnownHistories
from consensus.mempool import Dropped, Mempool
from consensus.state import PROGRESS, State, changes_between, tile_head
from consensus.transition import BlockRules, Receipt, apply_block, build_block
from protocol.codec import decode, encode
from protocol.epochs import boundary_of, epoch_of, is_boundary
from protocol.finality import Body, FinalizedBlock, Header
from protocol.ids import AccountId, Digest, Height, MemberIndex, PeerId, TileId
from protocol.limits import BODY_BYTES_MAX, HEADS_PER_BODY_MAX, HISTORY_SEGMENTS
from protocol.rejection import InvariantBroken, Reason, Rejected
from protocol.roster import Decided, Head, Roster, Slot, check_head_signature
from protocol.transactions import SignedTransaction, check_transaction

VERSIONS_AHEAD_MAX = 2  # heads for slots further ahead than this are not kept: we are behind and will sync
VALUES_PER_PROPOSER_MAX = 4  # honest proposers sign one value for a slot; more would be a way to fill our memory
STATES_MAX = 64  # unfinalized blocks whose state is kept: finality tracks no more views than this ahead
# Somebody who is further than we are, or less far, says honest heads for which it is too early or too late here.
_BLAMELESS = (Reason.SLOT_DECIDED, Reason.REPEATED, Reason.WRONG_EPOCH)
BODY_FRAME_BYTES = 64 + 34 * HISTORY_SEGMENTS  # of the lists of a body, the word for the beacon, and a history
ENTRY_FRAME_BYTES = 5  # of one transaction in its list, at most


@dataclass(slots=True)
class _Pooled:
    head: Head
    sender: PeerId
    verdict: Reason | Literal[True] | None = None  # True: durable and right; a reason: refused; None: not known yet
    asked: bool = False
    checked: bool = False  # against the decided state that it continues


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a block makes of its parent's state."""

    height: Height
    state: State
    receipts: tuple[Receipt, ...]
    senders: tuple[AccountId, ...]
    history_start: Digest | None  # of the history that the block tells


@dataclass(slots=True)
class _Check:
    """A block that waits for its parent's state, or for verdicts on its heads and its history."""

    block: Digest
    header: Header
    body: Body
    sender: PeerId
    outcome: _Outcome | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a check: accepted, refused for a reason, or (``accepted`` None) not to be had now: ask again."""

    block: Digest
    accepted: bool | None
    state_root: Digest | None = None
    refusal: Rejected | None = None


Answer = Verdict | VerifyHeads | VerifyHistory | WalkHistory | Blamed


@dataclass(frozen=True, slots=True)
class FinalBlock:
    """What a block did by becoming final. ``opened``: at a boundary, the rosters of the epoch that begins and of the next."""

    committed: CommittedBlock
    decided: tuple[Decided, ...]
    dropped: tuple[Dropped, ...]
    opened: tuple[Roster, Roster] | None


class StateDisagreement(InvariantBroken):
    """A final block that this node executes to another state than everybody else: its software or its memory is at fault.

    ``after`` is the state that it has here; None where it does not execute at all.
    """

    def __init__(self, block: FinalizedBlock, before: State, after: State | None, refusal: Rejected) -> None:
        height = block.header.height
        super().__init__(f"block {height} is final, and this machine computes another state for it ({refusal})")
        self.block = block
        self.before = before
        self.after = after
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class ExecutionStatistics:
    """What execution can tell about itself."""

    heads_pooled: int
    heads_verified: int
    blocks_waiting: int


class Execution:
    """Runs bodies on states. ``anchor`` is the block after which ``state`` holds, at ``height``."""

    def __init__(
        self, rules: BlockRules, state: State, anchor: Digest, height: Height, onions: OnionKeeper | None = None
    ) -> None:
        """``onions``: with what this node's own blocks contribute to the beacon."""
        self.rules = rules
        self._onions = onions
        self.state = state
        self.anchor = anchor
        self.height = height
        self.mempool = Mempool(rules.chain, rules.ledger)
        self.head_rules = self._rules_of_next()
        self._histories = KnownHistories(rules.history_segment_ticks)
        self._pool: dict[Digest, _Pooled] = {}
        self._slots: dict[Slot, dict[PeerId, list[Digest]]] = {}
        self._outcomes: dict[Digest, _Outcome] = {}  # of open blocks
        self._checks: dict[Digest, _Check] = {}
        self._verdicts: dict[Digest, Verdict] = {}  # of blocks not yet final

    def _rules_of_next(self) -> HeadRules:
        epoch = epoch_of(self.height + 1, self.rules.epoch_heights)
        return self.rules.head_rules(roster_of(self.state, epoch))

    @property
    def roster(self) -> Roster:
        """Who votes about the next height."""
        return self.head_rules.roster

    @property
    def next_roster(self) -> Roster:
        """Who votes in the epoch after that of the next height."""
        return roster_of(self.state, self.roster.epoch + 1)

    # -- heads ----------------------------------------------------------------------------------------------------------

    def add_heads(self, heads: Iterable[Head], sender: PeerId, *, own: bool = False) -> list[VerifyHeads | Blamed]:
        """Take proposed heads into the pool; ask to verify those that can be verified now."""
        return self._add_all(heads, sender, values_max=1, own=own)

    def _add_all(
        self, heads: Iterable[Head], sender: PeerId, *, values_max: int, own: bool = False
    ) -> list[VerifyHeads | Blamed]:
        effects: list[VerifyHeads | Blamed] = []
        for head in heads:
            try:
                self._add(head, sender, values_max, own)
            except Rejected as refusal:
                if refusal.reason not in _BLAMELESS:
                    effects.append(Blamed(sender, refusal.reason, refusal.detail))
        return effects + self._ask()

    def _add(self, head: Head, sender: PeerId, values_max: int, own: bool) -> None:
        name = head.digest()
        if name in self._pool:
            raise Rejected(Reason.REPEATED, str(head.slot))
        at = tile_head(self.state, head.tile)
        if at is None:
            raise Rejected(Reason.UNKNOWN_TILE, head.tile)
        if head.version <= at.version or head.version > at.version + VERSIONS_AHEAD_MAX:
            raise Rejected(Reason.SLOT_DECIDED, str(head.slot))
        current = self._is_current(at, head)
        if current:
            self.head_rules.check_successor(at, self._newest_round, head)
        else:  # the whole rule is for when it has become current
            self.head_rules.check_proposer(head)
            check_head_signature(head)
        values = self._slots.setdefault(head.slot, {}).setdefault(head.proposer, [])
        if len(values) >= values_max:
            raise Rejected(Reason.SECOND_VALUE, f"{head.slot} by {head.proposer[:4].hex()}")
        values.append(name)
        # Our own heads were merged from bytes that we hold: the merge stored the update and computed the root.
        self._pool[name] = _Pooled(head, sender, verdict=True if own and current else None, checked=current)

    @property
    def _newest_round(self) -> int:
        return self.state.get(PROGRESS).newest_round

    def _at(self, head: Head, state: State | None = None) -> TileHead:
        """Where the tile of a pooled head stands."""
        at = tile_head(state or self.state, head.tile)
        if at is None:
            raise InvariantBroken(f"a head of {head.tile} is in the pool, which has no such tile")
        return at

    def _is_current(self, at: TileHead, head: Head) -> bool:
        """Whether a head continues the decided state, in a round that may follow it."""
        return head.version == at.version + 1 and head.round <= self._newest_round + 1

    def _ask(self) -> list[VerifyHeads | Blamed]:
        """Ask the shell to verify every pooled head whose parent is the decided version."""
        refused: list[VerifyHeads | Blamed] = []
        wanted = []
        for pooled in self._pool.values():
            if pooled.verdict is not None or pooled.asked:
                continue
            at = self._at(pooled.head)
            if not self._is_current(at, pooled.head):
                continue
            try:
                if not pooled.checked:
                    self.head_rules.check_successor(at, self._newest_round, pooled.head)
            except Rejected as refusal:  # it came too early to be seen through
                pooled.verdict = refusal.reason
                refused.append(Blamed(pooled.head.proposer, refusal.reason, refusal.detail))
                continue
            pooled.asked = pooled.checked = True
            wanted.append(pooled.head)
        return [*refused, VerifyHeads(tuple(wanted))] if wanted else refused

    def verified(self, event: HeadsVerified) -> list[Head]:
        """The pooled heads that an event declares good."""
        good = [self._pool[name] for name, reason in event.verdicts if reason is None and name in self._pool]
        return [pooled.head for pooled in good if pooled.asked]

    def take_verdicts(self, event: HeadsVerified) -> list[Answer]:
        """Verdicts of the shell; returns what this settles."""
        settled: list[Answer] = []
        for name, reason in event.verdicts:
            pooled = self._pool.get(name)
            if pooled is None or not pooled.asked:
                continue
            pooled.verdict = True if reason is None else reason
            if reason is not None:
                settled.append(Blamed(pooled.head.proposer, reason, str(pooled.head.slot)))
        missing = {name for name in event.unavailable if name in self._pool}
        for name in missing:
            self._pool[name].asked = False
        settled += self._settle()
        for check in [check for check in self._checks.values() if missing & {h.digest() for h in check.body.heads}]:
            del self._checks[check.block]
            settled.append(Verdict(check.block, None))
        return settled

    # -- history --------------------------------------------------------------------------------------------------------

    def ask_history(self, parent: Digest) -> list[WalkHistory]:
        """The walk without which a body on top of ``parent`` cannot tell the history that is due; asked for once."""
        state = self.find_state(parent)
        start = due_history(state) if state else None
        return [] if start is None else self._histories.ask_walk(start)

    def take_history(self, event: HistoryWalked | HistoryVerified) -> list[Answer]:
        """What the shell walked or verified; returns what this settles. A body that was not built for want of it can be now."""
        self._histories.take(event)
        return self._settle()

    # -- transactions ---------------------------------------------------------------------------------------------------

    def add_transaction(self, transaction: SignedTransaction) -> list[Dropped]:
        """Take a transaction into the pool; raises ``Rejected`` as ``Mempool.add``."""
        return self.mempool.add(transaction, self.state)

    def _read_body(self, body: bytes) -> Body:
        """A body's checked form; raises ``Rejected``. Where one process plays many nodes, they read it once."""
        return decode(Body, body, limit_bytes=BODY_BYTES_MAX)

    def _read_transactions(self, body: Body) -> tuple[SignedTransaction, ...]:
        """The transactions of a body; raises ``Rejected`` as ``check_transaction``. Those in the pool were checked."""
        return tuple(self.mempool.find(data) or check_transaction(data, self.rules.chain) for data in body.transactions)

    # -- bodies ---------------------------------------------------------------------------------------------------------

    def is_ready(self) -> bool:
        """Whether a body built now on the decided state would carry something."""
        heads = (pooled.head for pooled in self._pool.values() if pooled.verdict is True)
        return self.mempool.has_ready() or any(head.version == self._at(head).version + 1 for head in heads)

    def find_state(self, block: Digest) -> State | None:
        """The state after a block that was executed, if it is kept."""
        if block == self.anchor:
            return self.state
        outcome = self._outcomes.get(block)
        return outcome.state if outcome else None

    def build(
        self, parent: Digest, height: Height, time_ms: int, proposer: MemberIndex, *, even_empty: bool = True
    ) -> tuple[bytes, Digest] | None:
        """A body on top of ``parent`` and the state root after it; None when the parent was not executed here.

        For each tile the verified head of the lowest attempt, then what the pool has, and the history that is due, if it is
        known here; None when there is nothing of all that, unless ``even_empty``. Our word for the beacon goes along. None also
        at a boundary whose history is still unknown: without it the block would be wrong.
        """
        state = self.find_state(parent)
        if state is None:
            return None
        heads, size = self._choose_heads(state)
        candidates = list(self._choose_transactions(state, size))
        start = due_history(state)
        history = (self._histories.find(start) or ()) if start is not None else ()
        if start is not None and not history and is_boundary(height, self.rules.epoch_heights):
            return None
        if not (heads or candidates or history or even_empty):
            return None
        context = self.rules.context(state, self.head_rules, height, time_ms, proposer)
        word = self._onions.next_word(state, context.reveal_window) if self._onions else None
        after, included = build_block(state, heads, candidates, context, word, history)
        transactions = tuple(encode(transaction.plain) for transaction in included)
        return encode(Body(heads, transactions, word, history)), after.root()

    def _choose_heads(self, state: State) -> tuple[tuple[Head, ...], int]:
        """The heads of a body, and how many bytes of it they take."""
        best: dict[TileId, Head] = {}
        newest_round = state.get(PROGRESS).newest_round
        for pooled in self._pool.values():
            head = pooled.head
            at = self._at(head, state)
            if pooled.verdict is not True or head.version != at.version + 1 or head.parent_root != at.root:
                continue
            if head.round <= newest_round + 1 and (head.tile not in best or head.attempt < best[head.tile].attempt):
                best[head.tile] = head
        heads: list[Head] = []
        size = BODY_FRAME_BYTES
        for tile in sorted(best):
            head_bytes = len(encode(best[tile]))
            if size + head_bytes > BODY_BYTES_MAX or len(heads) == HEADS_PER_BODY_MAX:
                break
            size += head_bytes
            heads.append(best[tile])
        return tuple(heads), size

    def _choose_transactions(self, state: State, size: int) -> Iterator[SignedTransaction]:
        for transaction in self.mempool.take(BODY_BYTES_MAX - size, state):
            size += transaction.size_bytes + ENTRY_FRAME_BYTES
            if size <= BODY_BYTES_MAX:
                yield transaction

    def check(self, block: Digest, header: Header, body: bytes, sender: PeerId) -> list[Answer]:
        """Whether this node may vote for a block. The verdict comes now or with a later call."""
        if block in self._verdicts:
            return [self._verdicts[block]]
        try:
            decoded = self._read_body(body)
        except Rejected as refusal:
            return [self._conclude(Verdict(block, False, refusal=refusal))]
        evicted: list[Answer] = []
        if block not in self._checks and len(self._checks) >= STATES_MAX:
            oldest = next(iter(self._checks))
            del self._checks[oldest]
            evicted.append(Verdict(oldest, None))  # every question is answered: it may be asked again
        self._checks[block] = check = _Check(block, header, decoded, sender)
        return [*evicted, *self._pool_body(check), *self._settle()]

    def _pool_body(self, check: _Check) -> list[VerifyHeads | Blamed]:
        """Verify a body's heads too, second values of a proposer among them: which one counts, finality decides."""
        missing = (head for head in check.body.heads if head.digest() not in self._pool)
        return self._add_all(missing, check.sender, values_max=VALUES_PER_PROPOSER_MAX)

    def resume(self) -> list[Answer]:
        """After blocks became final: heads and checks that waited for their parents."""
        asks = [ask for check in self._checks.values() for ask in self._pool_body(check)]
        return [*asks, *self._ask(), *self._settle()]

    def _settle(self) -> list[Answer]:
        """Conclude every check that can be concluded; one may free its children. Ask for the histories of those that cannot."""
        answers: list[Answer] = []
        progress = True
        while progress:
            progress = False
            for check in list(self._checks.values()):
                verdict = self._try(check)
                if verdict is not None:
                    del self._checks[check.block]
                    answers.append(self._conclude(verdict))
                    progress = True
        for check in self._checks.values():
            if check.outcome is not None and check.outcome.history_start is not None:
                start, ends = check.outcome.history_start, check.body.history
                if self._histories.judge(start, ends) is None:
                    answers += self._histories.ask_verification(start, ends)
        return answers

    def _try(self, check: _Check) -> Verdict | None:
        if check.outcome is None:
            parent = self.find_state(check.header.parent)
            if parent is None:
                return None
            try:
                check.outcome = self._execute(parent, check.header, check.body)
            except Rejected as refusal:
                return Verdict(check.block, False, refusal=refusal)
        for head in check.body.heads:
            pooled = self._pool.get(head.digest())
            if pooled is None or pooled.verdict is None:
                return None
            if isinstance(pooled.verdict, Reason):
                return Verdict(check.block, False, refusal=Rejected(pooled.verdict, str(head.slot)))
        if check.outcome.history_start is not None:
            right = self._histories.judge(check.outcome.history_start, check.body.history)
            if right is None:
                return None
            if not right:
                return Verdict(check.block, False, refusal=Rejected(Reason.BAD_PROOF, "the history has another end"))
        if len(self._outcomes) >= STATES_MAX:
            self._outcomes.pop(next(iter(self._outcomes)))
        self._outcomes[check.block] = check.outcome
        return Verdict(check.block, True, check.header.state_root)

    def _execute(self, state: State, header: Header, body: Body) -> _Outcome:
        """What a block makes of its parent's state; raises ``Rejected``, WRONG_STATE where its header says something else."""
        outcome = self._apply(state, header, body)
        if outcome.state.root() != header.state_root:
            raise Rejected(Reason.WRONG_STATE, f"height {header.height}")
        return outcome

    def _apply(self, state: State, header: Header, body: Body) -> _Outcome:
        """As ``_execute``, whatever state the header names."""
        if header.proposer >= len(self.roster.members):
            raise Rejected(Reason.NOT_A_MEMBER, f"proposer {header.proposer}")
        context = self.rules.context(state, self.head_rules, header.height, header.time_ms, header.proposer)
        if header.epoch != context.epoch:
            raise Rejected(Reason.WRONG_EPOCH, f"epoch {header.epoch} at height {header.height}")
        transactions = self._read_transactions(body)
        after, receipts = apply_block(state, body.heads, transactions, context, body.word, body.history)
        senders = tuple(each.plain.sender for each in transactions)
        return _Outcome(header.height, after, receipts, senders, due_history(state) if body.history else None)

    def _conclude(self, verdict: Verdict) -> Verdict:
        if len(self._verdicts) >= 4 * STATES_MAX:
            self._verdicts.pop(next(iter(self._verdicts)))
        self._verdicts[verdict.block] = verdict
        return verdict

    # -- finality -------------------------------------------------------------------------------------------------------

    def finalize(self, final: FinalizedBlock) -> FinalBlock:
        """A block is final: its heads are decided, its transactions done. Blocks come in order of height.

        Raises ``StateDisagreement`` where a finalized block does not execute here, or gives another root: this node stops.
        """
        try:
            return self.replay(final)
        except Rejected as refusal:
            raise StateDisagreement(final, self.state, self._find_state_here(final), refusal) from None

    def _find_state_here(self, final: FinalizedBlock) -> State | None:
        """The state that a block has on this machine, whatever its header says; None where it does not execute."""
        try:
            return self._apply(self.state, final.header, self._read_body(final.body)).state
        except Rejected:
            return None

    def replay(self, final: FinalizedBlock) -> FinalBlock:
        """As ``finalize``, for who only looks back: raises ``Rejected`` where a block does not execute."""
        header, block = final.header, final.header.digest()
        body = self._read_body(final.body)
        outcome = self._outcomes.get(block) or self._execute(self.state, header, body)
        changes = tuple(changes_between(self.state, outcome.state))
        committed = CommittedBlock(final, changes, outcome.receipts, self.roster, outcome.state)
        self.state, self.anchor, self.height = outcome.state, block, header.height
        self._outcomes = {name: kept for name, kept in self._outcomes.items() if kept.height > header.height}
        self._checks = {name: check for name, check in self._checks.items() if check.header.height > header.height}
        opened = None
        if header.height == boundary_of(header.epoch, self.rules.epoch_heights):
            opened = self._open_epoch()
        self._prune()
        dropped = tuple(self.mempool.advance(outcome.senders, self.state))
        decided = tuple(Decided(head.slot, head, header.height) for head in body.heads)
        return FinalBlock(committed, decided, dropped, opened)

    def _open_epoch(self) -> tuple[Roster, Roster]:
        """Other members, other owners: heads of the epoch before are nobody's now, its open blocks can never be final."""
        self.head_rules = self._rules_of_next()
        for memory in (self._checks, self._outcomes, self._pool, self._slots):
            memory.clear()
        self._histories.clear()
        return self.roster, self.next_roster

    def _prune(self) -> None:
        """Forget heads of decided slots."""
        for name in [name for name, pooled in self._pool.items() if self._is_past(pooled.head.slot)]:
            del self._pool[name]
        for slot in [slot for slot in self._slots if self._is_past(slot)]:
            del self._slots[slot]

    def _is_past(self, slot: Slot) -> bool:
        at = tile_head(self.state, slot.tile)
        return at is not None and slot.version <= at.version

    def statistics(self) -> ExecutionStatistics:
        return ExecutionStatistics(
            heads_pooled=len(self._pool),
            heads_verified=sum(pooled.verdict is True for pooled in self._pool.values()),
            blocks_waiting=len(self._checks),
        )
