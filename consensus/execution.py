"""Execution: which heads may enter a body, whether a body may be voted for, and what is decided.

Between the rounds, which produce heads, and finality, which orders them. It holds the decided state, the states after
blocks that are not final yet, and a pool of proposed heads. Its one promise (learning.md 2):

    This node votes for a body only when it has durably stored the update of every head in it and recomputed the root.

So a finalized head has its bytes on more than a third of honest disks. The storing is a job of the shell: ``VerifyHeads``
out, ``HeadsVerified`` back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from consensus.events import Blamed, HeadsVerified, VerifyHeads
from consensus.heads import HeadRules, HeadState
from protocol.codec import decode, encode
from protocol.finality import EMPTY_BODY, Body, Header
from protocol.ids import Digest, Height, PeerId, TileId
from protocol.limits import BODY_BYTES_MAX, HEADS_PER_BODY_MAX
from protocol.rejection import InvariantBroken, Reason, Rejected
from protocol.roster import Decided, Head, Slot, check_head_signature

VERSIONS_AHEAD_MAX = 2  # heads for slots further ahead than this are not kept: we are behind and will sync
VALUES_PER_PROPOSER_MAX = 4  # honest proposers sign one value for a slot; more would be a way to fill our memory
STATES_MAX = 64  # unfinalized blocks whose state is kept: finality tracks no more views than this ahead


@dataclass(slots=True)
class _Pooled:
    head: Head
    sender: PeerId
    verdict: Reason | Literal[True] | None = None  # True: durable and right; a reason: refused; None: not known yet
    asked: bool = False
    checked: bool = False  # against the decided state that it continues


@dataclass(slots=True)
class _Check:
    """A block that waits for its parent's state or its heads' verdicts."""

    block: Digest
    header: Header
    body: Body
    sender: PeerId
    state: HeadState | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a check: accepted, refused for a reason, or (``accepted`` None) not to be had now: ask again."""

    block: Digest
    accepted: bool | None
    state_root: Digest | None = None
    refusal: Rejected | None = None


@dataclass(frozen=True, slots=True)
class ExecutionStatistics:
    """What execution can tell about itself."""

    heads_pooled: int
    heads_verified: int
    blocks_waiting: int


@dataclass(slots=True)
class Execution:
    """Runs bodies on states. ``anchor`` is the block after which ``state`` holds."""

    rules: HeadRules
    state: HeadState
    anchor: Digest
    _pool: dict[Digest, _Pooled] = field(default_factory=dict)
    _slots: dict[Slot, dict[PeerId, list[Digest]]] = field(default_factory=dict)
    _states: dict[Digest, tuple[Height, HeadState]] = field(default_factory=dict)
    _checks: dict[Digest, _Check] = field(default_factory=dict)
    _verdicts: dict[Digest, Verdict] = field(default_factory=dict)  # of blocks not yet final

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
                if refusal.reason not in (Reason.SLOT_DECIDED, Reason.REPEATED):
                    effects.append(Blamed(sender, refusal.reason, refusal.detail))
        return effects + self._ask()

    def _add(self, head: Head, sender: PeerId, values_max: int, own: bool) -> None:
        name = head.digest()
        if name in self._pool:
            raise Rejected(Reason.REPEATED, str(head.slot))
        at = self.state.tiles.get(head.tile)
        if at is None:
            raise Rejected(Reason.UNKNOWN_TILE, head.tile)
        if head.version <= at.version or head.version > at.version + VERSIONS_AHEAD_MAX:
            raise Rejected(Reason.SLOT_DECIDED, str(head.slot))
        current = self._is_current(head)
        if current:
            self.rules.check_head(self.state, head)
        else:  # the whole rule is for when it has become current
            self.rules.check_proposer(head)
            check_head_signature(head)
        values = self._slots.setdefault(head.slot, {}).setdefault(head.proposer, [])
        if len(values) >= values_max:
            raise Rejected(Reason.SECOND_VALUE, f"{head.slot} by {head.proposer[:4].hex()}")
        values.append(name)
        # Our own heads were merged from bytes that we hold: the merge stored the update and computed the root.
        self._pool[name] = _Pooled(head, sender, verdict=True if own and current else None, checked=current)

    def _is_current(self, head: Head) -> bool:
        """Whether a head continues the decided state, in a round that may follow it."""
        version = self.state.tiles[head.tile].version + 1
        return head.version == version and head.round <= self.state.newest_round + 1

    def _ask(self) -> list[VerifyHeads | Blamed]:
        """Ask the shell to verify every pooled head whose parent is the decided version."""
        refused: list[VerifyHeads | Blamed] = []
        wanted = []
        for pooled in self._pool.values():
            if pooled.verdict is not None or pooled.asked or not self._is_current(pooled.head):
                continue
            try:
                if not pooled.checked:
                    self.rules.check_head(self.state, pooled.head)
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

    def take_verdicts(self, event: HeadsVerified) -> list[Verdict | Blamed]:
        """Verdicts of the shell; returns what this settles."""
        settled: list[Verdict | Blamed] = []
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

    def is_ready(self) -> bool:
        """Whether a body built now on the decided state would carry a head."""
        return any(
            pooled.verdict is True and pooled.head.version == self.state.tiles[pooled.head.tile].version + 1
            for pooled in self._pool.values()
        )

    # -- bodies ---------------------------------------------------------------------------------------------------------

    def find_state(self, block: Digest) -> HeadState | None:
        """The state after a block that was executed, if it is kept."""
        if block == self.anchor:
            return self.state
        kept = self._states.get(block)
        return kept[1] if kept else None

    def build(self, parent: Digest) -> tuple[bytes, Digest] | None:
        """A body on top of ``parent`` and the state root after it; None when the parent was not executed here.

        For each tile the verified head of the lowest attempt. Empty when there is nothing to propose.
        """
        state = self.find_state(parent)
        if state is None:
            return None
        best: dict[TileId, Head] = {}
        for pooled in self._pool.values():
            head = pooled.head
            at = state.tiles[head.tile]
            if pooled.verdict is not True or head.version != at.version + 1 or head.parent_root != at.root:
                continue
            if head.tile not in best or head.attempt < best[head.tile].attempt:
                best[head.tile] = head
        heads: list[Head] = []
        size = 16
        for tile in sorted(best):
            size += len(encode(best[tile]))
            if size > BODY_BYTES_MAX or len(heads) == HEADS_PER_BODY_MAX:
                break
            heads.append(best[tile])
        if not heads:
            return EMPTY_BODY, state.root()
        return encode(Body(tuple(heads))), state.extended(heads).root()

    def check(self, block: Digest, header: Header, body: bytes, sender: PeerId) -> list[Verdict | VerifyHeads | Blamed]:
        """Whether this node may vote for a block. The verdict comes now or with a later call."""
        if block in self._verdicts:
            return [self._verdicts[block]]
        try:
            decoded = decode(Body, body, limit_bytes=BODY_BYTES_MAX)
        except Rejected as refusal:
            return [self._conclude(Verdict(block, False, refusal=refusal))]
        evicted: list[Verdict | VerifyHeads | Blamed] = []
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

    def resume(self) -> list[Verdict | VerifyHeads | Blamed]:
        """After blocks became final: heads and checks that waited for their parents."""
        asks = [ask for check in self._checks.values() for ask in self._pool_body(check)]
        return [*asks, *self._ask(), *self._settle()]

    def _settle(self) -> list[Verdict | Blamed]:
        """Conclude every check that can be concluded; one may free its children."""
        concluded: list[Verdict | Blamed] = []
        progress = True
        while progress:
            progress = False
            for check in list(self._checks.values()):
                verdict = self._try(check)
                if verdict is not None:
                    del self._checks[check.block]
                    concluded.append(self._conclude(verdict))
                    progress = True
        return concluded

    def _try(self, check: _Check) -> Verdict | None:
        if check.state is None:
            parent = self.find_state(check.header.parent)
            if parent is None:
                return None
            try:
                state = self.rules.apply_body(parent, check.body)
                if state.root() != check.header.state_root:
                    raise Rejected(Reason.WRONG_STATE, f"height {check.header.height}")
            except Rejected as refusal:
                return Verdict(check.block, False, refusal=refusal)
            check.state = state
        for head in check.body.heads:
            pooled = self._pool.get(head.digest())
            if pooled is None or pooled.verdict is None:
                return None
            if isinstance(pooled.verdict, Reason):
                return Verdict(check.block, False, refusal=Rejected(pooled.verdict, str(head.slot)))
        if len(self._states) >= STATES_MAX:
            self._states.pop(next(iter(self._states)))
        self._states[check.block] = (check.header.height, check.state)
        return Verdict(check.block, True, check.header.state_root)

    def _conclude(self, verdict: Verdict) -> Verdict:
        if len(self._verdicts) >= 4 * STATES_MAX:
            self._verdicts.pop(next(iter(self._verdicts)))
        self._verdicts[verdict.block] = verdict
        return verdict

    # -- finality -------------------------------------------------------------------------------------------------------

    def finalize(self, block: Digest, header: Header, body: bytes) -> tuple[Decided, ...]:
        """A block is final: its heads are decided. Blocks come in order of height.

        A finalized block that does not execute here, or gives another root, breaks the agreement: this node stops.
        """
        decoded = decode(Body, body, limit_bytes=BODY_BYTES_MAX)
        state = self.find_state(block)
        if state is None:
            try:
                state = self.rules.apply_body(self.state, decoded)
            except Rejected as refusal:
                raise InvariantBroken(
                    f"finalized block at height {header.height} does not execute: {refusal}"
                ) from None
        if state.root() != header.state_root:
            raise InvariantBroken(f"finalized block at height {header.height} gives another state root than its header")
        self.state, self.anchor = state, block
        self._states = {name: kept for name, kept in self._states.items() if kept[0] > header.height}
        self._checks = {name: check for name, check in self._checks.items() if check.header.height > header.height}
        self._prune()
        return tuple(Decided(head.slot, head, header.height) for head in decoded.heads)

    def _prune(self) -> None:
        """Forget heads of decided slots, and blocks that can no longer be final."""
        for name in [name for name, pooled in self._pool.items() if self._is_past(pooled.head.slot)]:
            del self._pool[name]
        for slot in [slot for slot in self._slots if self._is_past(slot)]:
            del self._slots[slot]

    def _is_past(self, slot: Slot) -> bool:
        return slot.version <= self.state.tiles[slot.tile].version

    def statistics(self) -> ExecutionStatistics:
        return ExecutionStatistics(
            heads_pooled=len(self._pool),
            heads_verified=sum(pooled.verdict is True for pooled in self._pool.values()),
            blocks_waiting=len(self._checks),
        )
