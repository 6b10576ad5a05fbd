"""The pool of transactions that wait for a block: bounded, deterministic, and never silent about what it drops.

    add      signed transaction -> in its sender's queue by nonce; a higher fee replaces, a full pool evicts
    take     the transactions of the next body: evidence first, then by fee, each sender's in order of nonce
    advance  after a block: what is now used or can no longer be paid goes

Two transactions of equal fee are ordered by their ids, so pools with the same transactions propose the same body, whatever came
first. A nonce may run ahead of its account by ``MEMPOOL_PER_SENDER_MAX``; what stands behind a gap waits for it and is not
proposed. What goes first when the pool is full: whatever waits behind a gap, because its fee may never be paid; then the lowest
fee. It goes from the end of its sender's queue, so that eviction never makes a gap.

A replacement pays at least a tenth more: each is relayed by everybody, and so must cost something.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from consensus.state import State
from consensus.transition import fee_nano_min
from protocol.finality import ChainId
from protocol.genesis import LedgerRule
from protocol.ids import AccountId, Digest
from protocol.limits import (
    AVAILABILITY_BYTES_PER_BODY_MAX,
    EVIDENCE_BYTES_PER_BODY_MAX,
    MEMPOOL_BYTES_MAX,
    MEMPOOL_PER_SENDER_MAX,
    TRANSACTIONS_PER_BODY_MAX,
)
from protocol.rejection import Reason, Rejected
from protocol.transactions import AvailabilityRecord, EvidenceReport, SignedTransaction, transaction_id

REPLACEMENT_PERCENT = 10  # Bitcoin and Ethereum ask for about as much


@dataclass(frozen=True, slots=True)
class Dropped:
    """A transaction that left the pool without a block, and why."""

    id: Digest
    reason: Reason


@dataclass(frozen=True, slots=True)
class MempoolStatistics:
    """What the pool can tell about itself."""

    transactions: int
    bytes_held: int
    senders: int


@dataclass(slots=True)
class _Queue:
    """What one sender has here; ``next_nonce`` is its account's, as of the last look. ``held`` is never empty."""

    next_nonce: int
    held: dict[int, SignedTransaction] = field(default_factory=dict)  # by nonce

    @property
    def fees_nano(self) -> int:
        return sum(transaction.plain.fee_nano for transaction in self.held.values())

    def tail_below(self, nonce: int) -> _Tail | None:
        """The end of the queue when everything from ``nonce`` on is gone."""
        below = [other for other in self.held if other < nonce]
        if not below:
            return None
        last = max(below)
        return _tail_of(self.held[last], is_ready=last == self.next_nonce + len(below) - 1)


# The end of a queue in order of eviction: (is ready, fee, minus id, sender, nonce), the lowest first.
_Tail = tuple[bool, int, int, AccountId, int]
_EVERY_NONCE = 2**63


@dataclass(slots=True)
class Mempool:
    """``add`` and ``advance`` take the newest decided state: the pool keeps none.

    Not everything that ``take`` returns must be able to pay, because what stands before it may empty the account:
    ``transition.build_block`` leaves that out.
    """

    chain: ChainId
    rule: LedgerRule
    bytes_max: int = MEMPOOL_BYTES_MAX
    _queues: dict[AccountId, _Queue] = field(default_factory=dict)
    _tails: list[_Tail] = field(default_factory=list)  # a heap; entries that are no longer a tail are skipped
    _by_id: dict[Digest, SignedTransaction] = field(default_factory=dict)
    _bytes: int = 0

    def add(self, transaction: SignedTransaction, state: State) -> list[Dropped]:
        """Take a transaction; returns those that had to go for it. Raises ``Rejected``, and then nothing changed.

        WRONG_CHAIN, FEE_TOO_LOW, WRONG_NONCE (used, or too far ahead), ALREADY_RECORDED (held), UNDERPRICED (to replace),
        UNFUNDED (the balance does not pay the fees of all that the sender has here), OUTBID (full of better ones).
        """
        plain = transaction.plain
        if plain.chain != self.chain:
            raise Rejected(Reason.WRONG_CHAIN)
        if plain.fee_nano < fee_nano_min(transaction.size_bytes, self.rule):
            raise Rejected(Reason.FEE_TOO_LOW, f"{plain.fee_nano} for {transaction.size_bytes} bytes")
        account = state.account(plain.sender)
        if not account.nonce <= plain.nonce < account.nonce + MEMPOOL_PER_SENDER_MAX:
            raise Rejected(Reason.WRONG_NONCE, f"{plain.nonce}, the next is {account.nonce}")
        queue = self._queues.get(plain.sender) or _Queue(account.nonce)
        replaced = queue.held.get(plain.nonce)
        if replaced is not None:
            _check_replacement(replaced, transaction)
        fees = queue.fees_nano + plain.fee_nano - (replaced.plain.fee_nano if replaced else 0)
        if fees > account.balance_nano:
            raise Rejected(Reason.UNFUNDED, f"fees of {fees}, a balance of {account.balance_nano}")
        before = sum(nonce < plain.nonce for nonce in queue.held)
        is_ready = plain.nonce == queue.next_nonce + before
        room = transaction.size_bytes - (replaced.size_bytes if replaced else 0)
        dropped = [self._drop(victim, Reason.OUTBID) for victim in self._find_victims(transaction, is_ready, room)]
        if replaced is not None:
            dropped.append(self._drop(replaced, Reason.REPLACED))
        self._insert(transaction, account.nonce)
        return dropped

    def take(self, limit_bytes: int, state: State) -> list[SignedTransaction]:
        """What a proposer on top of ``state`` puts in a body of at most so many bytes. Nothing leaves the pool."""
        following = {sender: state.account(sender).nonce for sender in self._queues}
        evidence = self._ready(following, is_evidence=True)
        taken = _fill(evidence, min(limit_bytes, EVIDENCE_BYTES_PER_BODY_MAX), TRANSACTIONS_PER_BODY_MAX)
        following.update((held.plain.sender, held.plain.nonce + 1) for held in taken)
        room = limit_bytes - sum(held.size_bytes for held in taken)
        others = self._ready(following, is_evidence=False)
        return taken + _fill(others, room, TRANSACTIONS_PER_BODY_MAX - len(taken))

    def next_nonce(self, sender: AccountId, state: State) -> int:
        """The nonce with which ``sender`` goes on behind what waits here without a gap."""
        nonce, queue = state.account(sender).nonce, self._queues.get(sender)
        while queue is not None and nonce in queue.held:
            nonce += 1
        return nonce

    def advance(self, senders: Iterable[AccountId], state: State) -> list[Dropped]:
        """After a block of these senders' transactions: drop what is used, then from the end what can no longer be paid."""
        dropped = []
        for sender in dict.fromkeys(senders):
            queue = self._queues.get(sender)
            if queue is None:
                continue
            account = state.account(sender)
            queue.next_nonce = account.nonce
            used = sorted(nonce for nonce in queue.held if nonce < account.nonce)
            dropped += [self._drop(queue.held[nonce], Reason.WRONG_NONCE) for nonce in used]
            while queue.fees_nano > account.balance_nano:
                dropped.append(self._drop(queue.held[max(queue.held)], Reason.UNFUNDED))
            if queue.held:
                self._note_tail(queue)
        return dropped

    def holds(self, transaction: SignedTransaction) -> bool:
        """Whether exactly this transaction waits here."""
        return transaction.id in self._by_id

    def find(self, data: bytes) -> SignedTransaction | None:
        """The transaction of these bytes, if it waits here: its signature was checked."""
        return self._by_id.get(transaction_id(data))

    def find_id(self, name: Digest) -> SignedTransaction | None:
        """The transaction of this id, if it waits here."""
        return self._by_id.get(name)

    def has_ready(self) -> bool:
        """Whether there is a transaction that does not wait for another one."""
        return any(queue.next_nonce in queue.held for queue in self._queues.values())

    def statistics(self) -> MempoolStatistics:
        return MempoolStatistics(len(self._by_id), self._bytes, len(self._queues))

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _find_victims(self, offered: SignedTransaction, is_ready: bool, room: int) -> list[SignedTransaction]:
        """Who must go so that there is room for ``room`` more bytes; raises ``Rejected(OUTBID)``.

        The ends of queues, the worst first, as long as they are worse than what is offered. The sender's own queue gives
        nothing: a gap before what is offered would make it useless.
        """
        need = self._bytes + room - self.bytes_max
        mine = _tail_of(offered, is_ready=is_ready)
        victims: list[SignedTransaction] = []
        passed: list[_Tail] = []
        ends: dict[AccountId, _Tail | None] = {}  # of queues that lose something: what is then their end
        while need > 0 and self._tails:
            tail = heapq.heappop(self._tails)
            sender, nonce = tail[3:]
            queue = self._queues.get(sender)
            if queue is None or tail != (ends[sender] if sender in ends else queue.tail_below(_EVERY_NONCE)):
                continue  # no longer the end of its queue
            passed.append(tail)
            if sender == offered.plain.sender:
                continue
            if tail >= mine:
                break
            victims.append(queue.held[nonce])
            need -= victims[-1].size_bytes
            ends[sender] = queue.tail_below(nonce)
            if (end := ends[sender]) is not None:
                heapq.heappush(self._tails, end)
        for tail in passed:
            heapq.heappush(self._tails, tail)
        self._trim_tails()
        if need > 0:
            raise Rejected(Reason.OUTBID, f"the pool holds {self._bytes} bytes")
        return victims

    def _insert(self, transaction: SignedTransaction, next_nonce: int) -> None:
        queue = self._queues.setdefault(transaction.plain.sender, _Queue(next_nonce))
        queue.held[transaction.plain.nonce] = transaction
        self._bytes += transaction.size_bytes
        self._by_id[transaction.id] = transaction
        self._note_tail(queue)

    def _drop(self, transaction: SignedTransaction, reason: Reason) -> Dropped:
        queue = self._queues[transaction.plain.sender]
        del queue.held[transaction.plain.nonce]
        self._bytes -= transaction.size_bytes
        del self._by_id[transaction.id]
        if queue.held:
            self._note_tail(queue)
        else:
            del self._queues[transaction.plain.sender]
        return Dropped(transaction.id, reason)

    def _note_tail(self, queue: _Queue) -> None:
        tail = queue.tail_below(_EVERY_NONCE)
        if tail is not None:
            heapq.heappush(self._tails, tail)
        self._trim_tails()

    def _trim_tails(self) -> None:
        """Make the heap anew when most of it is no longer the end of anything."""
        if len(self._tails) > 4 * len(self._queues) + 64:
            tails = (queue.tail_below(_EVERY_NONCE) for queue in self._queues.values())
            self._tails = [tail for tail in tails if tail is not None]
            heapq.heapify(self._tails)

    def _ready(self, following: Mapping[AccountId, int], *, is_evidence: bool) -> Iterator[SignedTransaction]:
        """The best first, each after its sender's earlier ones; ``following`` has the nonce with which each sender goes on."""
        heads: list[tuple[int, Digest, SignedTransaction]] = []

        def offer(sender: AccountId, nonce: int) -> None:
            held = self._queues[sender].held.get(nonce)
            if held is not None and isinstance(held.plain.payload, EvidenceReport) == is_evidence:
                heapq.heappush(heads, (-held.plain.fee_nano, held.id, held))

        for sender in self._queues:
            offer(sender, following[sender])
        while heads:
            best = heapq.heappop(heads)[2]
            yield best
            offer(best.plain.sender, best.plain.nonce + 1)


def _tail_of(transaction: SignedTransaction, *, is_ready: bool) -> _Tail:
    plain = transaction.plain
    return is_ready, plain.fee_nano, -int.from_bytes(transaction.id, "big"), plain.sender, plain.nonce


def _check_replacement(held: SignedTransaction, offered: SignedTransaction) -> None:
    """Raises ``Rejected`` (ALREADY_RECORDED, UNDERPRICED) unless ``offered`` pays enough to take the place of ``held``."""
    if held.id == offered.id:
        raise Rejected(Reason.ALREADY_RECORDED, "the transaction waits here")
    least = max(held.plain.fee_nano + 1, -(-held.plain.fee_nano * (100 + REPLACEMENT_PERCENT) // 100))
    if offered.plain.fee_nano < least:
        raise Rejected(Reason.UNDERPRICED, f"{offered.plain.fee_nano}, at least {least} replaces it")


def _fill(candidates: Iterator[SignedTransaction], limit_bytes: int, count_max: int) -> list[SignedTransaction]:
    """The first of ``candidates`` that fit; after one that does not, nothing more of its sender.

    Certificates of availability have a part of the body, however much of it is free.
    """
    kept_bytes = AVAILABILITY_BYTES_PER_BODY_MAX
    taken: list[SignedTransaction] = []
    skipped: dict[AccountId, None] = {}
    for candidate in candidates:
        if len(taken) == count_max:
            break
        if candidate.plain.sender in skipped:
            continue
        is_kept = isinstance(candidate.plain.payload, AvailabilityRecord)
        if candidate.size_bytes > (min(limit_bytes, kept_bytes) if is_kept else limit_bytes):
            skipped[candidate.plain.sender] = None
            continue
        taken.append(candidate)
        kept_bytes -= candidate.size_bytes if is_kept else 0
        limit_bytes -= candidate.size_bytes
    return taken
