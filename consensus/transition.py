"""The rules of change: one table from kind of transaction to handler, one way to apply a block.

    apply_block = a new epoch's mark -> what need not be kept any more -> stakes that are free again -> tile commits
                  -> each transaction -> fees shared out
                  -> the proposer's word for the beacon -> the history, where the block has it -> at a cut, the mix is sealed
                  -> at a boundary, who did not show what it keeps is jailed, the roster of the epoch after next, what
                     the members of the next epoch must show -> totals checked
    apply       = charge (chain, fee, nonce, balance) -> handler of the kind

A tile commit is a head: its proposer signed it, its slot happens once, and only a tile's owners may propose; so it has no
account's envelope, no nonce and no fee. One that breaks a rule makes its block wrong.

Nothing here looks at a clock, and nothing is changed in place: a function takes a state and returns the next one, or raises
``Rejected`` and there is none. A transaction that cannot pay makes its block wrong. One that can pay and then breaks a rule of
its kind costs its fee, uses its nonce, and changes nothing else: the receipt has the reason.

Fees: a tenth is burned, four tenths go to the block's proposer, the rest to the treasury, which holds what the source documents
give to infrastructure, development and community until there is a rule for spending.

Slashing (chain.md 2.8). An offence is one (validator, epoch, view). With S what all validators found out within seven days
had at stake, and W what everybody has at stake, before any of them paid:

    owed(validator) = had at stake * min(1, offences * 5 % + 3 * S / W), all of it when 3 S >= W, rounded up

What one owes grows when others are found out, and is collected then: whoever is found first pays no less than the last, so
nothing depends on the order of reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from consensus.beacon import apply_history, apply_word, seal_mix
from consensus.custody_answers import take_answer
from consensus.epochs import close_epoch
from consensus.finality.tally import find_contradiction
from consensus.heads import HeadRules
from consensus.kept import find_snapshot, record_kept, release_over
from consensus.state import (
    DATASETS,
    EPOCH_MARKS,
    EVIDENCE,
    EXPERT_COUNTS,
    EXPERT_VERSIONS,
    META_TIP,
    META_VERSIONS,
    PARAMETERS,
    PROGRESS,
    SLASHING_LOG,
    TILES,
    TREASURY,
    VALIDATOR_INDEX,
    VALIDATORS,
    VOTE_KEYS,
    Account,
    Count,
    DatasetEntry,
    DatasetStage,
    EpochMark,
    EvidenceEntry,
    MetaEntry,
    ParameterEntry,
    Reference,
    Slashing,
    SlashingLog,
    State,
    TileEntry,
    Unbonding,
    Validator,
    ValidatorStatus,
    evidence_key,
    expert_key,
    find_level,
    place_record,
    tile_head,
)
from protocol.digest import number
from protocol.epochs import boundary_of, cut_of, epoch_of, reveal_window_of
from protocol.finality import ChainId, OnionWord, Vote, vote_text
from protocol.genesis import Genesis, LedgerRule
from protocol.ids import AccountId, Digest, Epoch, Height, MemberIndex, PeerId
from protocol.keys import verify
from protocol.limits import (
    AVAILABILITY_BYTES_PER_BODY_MAX,
    BODY_BYTES_MAX,
    EVIDENCE_BYTES_PER_BODY_MAX,
    TRANSACTIONS_PER_BODY_MAX,
    UNBONDINGS_PER_VALIDATOR_MAX,
    VALIDATORS_MAX,
)
from protocol.rejection import Reason, Rejected, check_invariant
from protocol.roster import Head, Roster, check_member_card
from protocol.transactions import (
    AvailabilityRecord,
    CustodyAnswer,
    DatasetRecord,
    EvidenceReport,
    Leave,
    MetaVersion,
    ParameterRecord,
    RecordKind,
    Register,
    SignedTransaction,
    Stake,
    Transfer,
    Unstake,
    check_work,
)

FEE_BURNED_PERCENT = 10  # source documents, distribution of network fees
FEE_PROPOSER_PERCENT = 40  # the same: validators
PENALTY_PERCENT = 5  # chain.md 2.8
CORRELATION_FACTOR = 3  # chain.md 2.8: a third of all stake found out together loses everything


@dataclass(frozen=True, slots=True)
class BlockRules:
    """What a genesis fixes of how blocks change the state."""

    chain: ChainId
    ledger: LedgerRule
    epoch_heights: int
    delta_weight_max: int  # tokens of one learner in one round: inner steps x sequences x context
    history_segment_ticks: int

    @classmethod
    def of(cls, genesis: Genesis, fork: int = 0) -> BlockRules:
        """The rules of a network, on a fork of it."""
        learning = genesis.learning
        tokens = learning.inner_steps * learning.batch_sequences * genesis.model.context
        chain = genesis.chain
        return cls(
            ChainId.of(genesis.network_id(), fork),
            genesis.ledger,
            chain.epoch_heights,
            tokens,
            chain.history_segment_ticks,
        )

    def head_rules(self, roster: Roster) -> HeadRules:
        """The rules for heads in the epoch of a roster."""
        return HeadRules(roster, self.delta_weight_max)

    def context(
        self, state: State, heads: HeadRules, height: Height, time_ms: int, proposer: MemberIndex
    ) -> BlockContext:
        """What the transactions of a block on top of ``state`` may know; ``heads`` are the rules of its epoch."""
        node = heads.roster.members[proposer].node
        validator = state.find(VALIDATORS, node)
        return BlockContext(
            chain=self.chain,
            epoch=heads.roster.epoch,
            height=height,
            time_ms=time_ms,
            proposer=validator.card.account if validator else TREASURY,  # it may have lost all that it had at stake
            proposer_node=node,
            rule=self.ledger,
            heads=heads,
            epoch_heights=self.epoch_heights,
        )


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What a transaction may know of the block that it is in. ``time_ms`` is the header's."""

    chain: ChainId
    epoch: Epoch
    height: Height
    time_ms: int
    proposer: AccountId
    proposer_node: PeerId
    rule: LedgerRule
    heads: HeadRules
    epoch_heights: int

    @property
    def reveal_window(self) -> Epoch:
        """For which beacon the block's proposer has a word."""
        return reveal_window_of(self.height, self.epoch_heights)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a transaction in a block: ``refusal`` is None when it did what it says."""

    id: Digest
    refusal: Reason | None


# -- blocks -------------------------------------------------------------------------------------------------------------


def apply_block(
    state: State,
    heads: Sequence[Head],
    transactions: Sequence[SignedTransaction],
    context: BlockContext,
    word: OnionWord | None = None,
    history: Sequence[Digest] = (),
) -> tuple[State, tuple[Receipt, ...]]:
    """The state after a block, and a receipt for each transaction; raises ``Rejected`` when the block is wrong.

    WRONG_BODY: too many or too large, heads out of order, evidence not first or too much of it, too many certificates of
    availability, or a history that is not due or missing: whether it is true is not looked at, as with the roots of heads.
    WRONG_EPOCH: the height is of another epoch. And the reasons of ``HeadRules.check_successor``, ``charge``, ``apply_word``.
    """
    _check_sizes(transactions)
    state = _commit_heads(_begin(state, context), heads, context)
    receipts = []
    for transaction in transactions:
        state, receipt = _run(state, transaction, context)
        receipts.append(receipt)
    return _close(state, context, word, history), tuple(receipts)


def build_block(
    state: State,
    heads: Sequence[Head],
    candidates: Sequence[SignedTransaction],
    context: BlockContext,
    word: OnionWord | None = None,
    history: Sequence[Digest] = (),
) -> tuple[State, tuple[SignedTransaction, ...]]:
    """The transactions of ``candidates`` that can pay, in their order, and the state that ``apply_block`` gives for them.

    ``heads`` were checked. Raises ``Rejected`` as ``apply_block`` where not one transaction alone is at fault.
    """
    _check_sizes(candidates)
    state = _commit_heads(_begin(state, context), heads, context)
    included = []
    for transaction in candidates:
        try:
            state, _ = _run(state, transaction, context)
        except Rejected:
            continue  # it stays in the pool, which drops it when its account moves on
        included.append(transaction)
    return _close(state, context, word, history), tuple(included)


def _close(state: State, context: BlockContext, word: OnionWord | None, history: Sequence[Digest]) -> State:
    state = _share_fees(state, context)
    height, epoch_heights = context.height, context.epoch_heights
    if word is not None:
        state = apply_word(state, word, context.proposer_node, context.reveal_window)
    if history:
        state = apply_history(state, history)
    if height == cut_of(context.epoch, epoch_heights):
        state = seal_mix(state, context.epoch)
    if height == boundary_of(context.epoch, epoch_heights):
        state = close_epoch(state, context.epoch, epoch_heights)
    return state.sealed()


def _run(state: State, transaction: SignedTransaction, context: BlockContext) -> tuple[State, Receipt]:
    """One transaction in a block; raises ``Rejected`` as ``charge``."""
    charged = charge(state, transaction, context)
    try:
        return _handle(charged, transaction, context), Receipt(transaction.id, None)
    except Rejected as refusal:
        return charged, Receipt(transaction.id, refusal.reason)


def apply(state: State, transaction: SignedTransaction, context: BlockContext) -> State:
    """The state after one transaction; raises ``Rejected`` and then nothing happened, not even the fee."""
    return _handle(charge(state, transaction, context), transaction, context)


def fee_nano_min(size_bytes: int, rule: LedgerRule) -> int:
    """The least that a transaction of a size pays."""
    return size_bytes * rule.fee_nano_per_byte


def charge(state: State, transaction: SignedTransaction, context: BlockContext) -> State:
    """Take the fee and the nonce; raises ``Rejected`` (WRONG_CHAIN, FEE_TOO_LOW, WRONG_NONCE, UNFUNDED)."""
    plain = transaction.plain
    if plain.chain != context.chain:
        raise Rejected(Reason.WRONG_CHAIN)
    if plain.fee_nano < fee_nano_min(transaction.size_bytes, context.rule):
        raise Rejected(Reason.FEE_TOO_LOW, f"{plain.fee_nano} for {transaction.size_bytes} bytes")
    account = state.account(plain.sender)
    if plain.nonce != account.nonce:
        raise Rejected(Reason.WRONG_NONCE, f"{plain.nonce}, the next is {account.nonce}")
    if plain.fee_nano > account.balance_nano:
        raise Rejected(Reason.UNFUNDED, f"a fee of {plain.fee_nano}, a balance of {account.balance_nano}")
    after = Account(account.balance_nano - plain.fee_nano, account.nonce + 1)
    return state.put_account(plain.sender, account, after).collect(plain.fee_nano)


def _check_sizes(transactions: Sequence[SignedTransaction]) -> None:
    if len(transactions) > TRANSACTIONS_PER_BODY_MAX:
        raise Rejected(Reason.WRONG_BODY, f"{len(transactions)} transactions")
    if sum(transaction.size_bytes for transaction in transactions) > BODY_BYTES_MAX:
        raise Rejected(Reason.WRONG_BODY, "the transactions are larger than a body")
    reports = [isinstance(transaction.plain.payload, EvidenceReport) for transaction in transactions]
    if reports != sorted(reports, reverse=True):
        raise Rejected(Reason.WRONG_BODY, "evidence comes first")
    evidence_bytes = sum(transaction.size_bytes for transaction in transactions[: sum(reports)])
    if evidence_bytes > EVIDENCE_BYTES_PER_BODY_MAX:
        raise Rejected(Reason.WRONG_BODY, f"{evidence_bytes} bytes of evidence")
    kept = (each.size_bytes for each in transactions if isinstance(each.plain.payload, AvailabilityRecord))
    if (kept_bytes := sum(kept)) > AVAILABILITY_BYTES_PER_BODY_MAX:
        raise Rejected(Reason.WRONG_BODY, f"{kept_bytes} bytes of certificates of availability")


def _open_epoch(state: State, context: BlockContext) -> State:
    """In the first block of an epoch: mark its beginning, and forget marks of which no evidence is taken any more."""
    progress = state.get(PROGRESS)
    if context.epoch != epoch_of(context.height, context.epoch_heights):
        raise Rejected(Reason.WRONG_EPOCH, f"epoch {context.epoch} at height {context.height}")
    if context.epoch == progress.epoch:
        return state
    mark = EpochMark(context.height, context.time_ms, state.root())
    state = state.put(EPOCH_MARKS, mark, number(context.epoch))
    oldest = progress.oldest_epoch
    while oldest < context.epoch and _is_too_old(state.get(EPOCH_MARKS, number(oldest)), context):
        state = state.delete(EPOCH_MARKS, number(oldest))
        oldest += 1
    return state.put(PROGRESS, replace(progress, epoch=context.epoch, oldest_epoch=oldest))


def _is_too_old(mark: EpochMark, context: BlockContext) -> bool:
    """Whether votes of an epoch are no longer punished: too old in time and in heights, as stake is free only by both."""
    age_ms, age_heights = context.time_ms - mark.time_ms, context.height - mark.height
    return age_ms > context.rule.evidence_ms and age_heights > context.rule.evidence_heights


def _begin(state: State, context: BlockContext) -> State:
    """What time alone does, before anything of the body."""
    state = release_over(_open_epoch(state, context), context.epoch)
    return _release(state, context)


def _release(state: State, context: BlockContext) -> State:
    """Give back what has unbonded; validators that left with nothing to slash are forgotten."""
    if state.supply.unbonding_nano == 0:
        return state
    for validator in state.validators():
        held, freed = [], 0
        for entry in validator.unbonding:
            if context.time_ms >= entry.release_ms and context.height >= entry.release_height:
                freed += entry.amount_nano
            else:
                held.append(entry)
        if len(held) == len(validator.unbonding):
            continue
        after = replace(validator, unbonding=tuple(held))
        state = state.put_validator(validator, after).add_balance(validator.card.account, freed)
        state = _forget_if_empty(state, after)
    return state


def _forget_if_empty(state: State, validator: Validator) -> State:
    gone = validator.status is not ValidatorStatus.ACTIVE and not validator.unbonding and not validator.stake_nano
    return state.delete_validator(validator) if gone else state


def _share_fees(state: State, context: BlockContext) -> State:
    fees = state.supply.fees_nano
    if fees == 0:
        return state
    burned, earned = fees * FEE_BURNED_PERCENT // 100, fees * FEE_PROPOSER_PERCENT // 100
    state = state.collect(-fees).burn(burned).add_balance(context.proposer, earned)
    return state.add_balance(TREASURY, fees - burned - earned)


# -- tile commits -------------------------------------------------------------------------------------------------------


def _commit_heads(state: State, heads: Sequence[Head], context: BlockContext) -> State:
    """Move each head's tile on. All are held against the newest round before this block: none runs ahead of another."""
    tiles = [head.tile for head in heads]
    if tiles != sorted(set(tiles)):
        raise Rejected(Reason.WRONG_BODY, "the heads are not in ascending order of distinct tiles")
    progress = state.get(PROGRESS)
    for head in heads:
        context.heads.check_successor(tile_head(state, head.tile), progress.newest_round, head)
        state = state.put(TILES, TileEntry(head.version, head.root, head), head.tile.encode())
    newest = max((head.round for head in heads), default=-1)
    return state.put(PROGRESS, replace(progress, newest_round=newest)) if newest > progress.newest_round else state


# -- ledger -------------------------------------------------------------------------------------------------------------


def _pay(state: State, sender: AccountId, amount_nano: int) -> State:
    """The state in which ``sender`` has so much less; raises ``Rejected(UNFUNDED)``."""
    balance = state.account(sender).balance_nano
    if amount_nano > balance:
        raise Rejected(Reason.UNFUNDED, f"{amount_nano}, the balance is {balance}")
    return state.add_balance(sender, -amount_nano)


def _transfer(state: State, sender: AccountId, payload: Transfer, context: BlockContext) -> State:
    return _pay(state, sender, payload.amount_nano).add_balance(payload.recipient, payload.amount_nano)


def _register(state: State, sender: AccountId, payload: Register, context: BlockContext) -> State:
    card = payload.card
    if card.account != sender:
        raise Rejected(Reason.NOT_AUTHORISED, "the card is of another account")
    if state.find(VALIDATORS, card.node) is not None or state.find(VOTE_KEYS, card.vote) is not None:
        raise Rejected(Reason.ALREADY_RECORDED, "a validator with this node or vote key")
    if payload.stake_nano < context.rule.stake_nano_min:
        raise Rejected(Reason.STAKE_TOO_LOW, f"{payload.stake_nano}")
    if len(state.get(VALIDATOR_INDEX).nodes) >= VALIDATORS_MAX:
        raise Rejected(Reason.LIST_FULL, "validators")
    state = _pay(state, sender, payload.stake_nano)
    check_member_card(card)
    entry = Validator(card, ValidatorStatus.ACTIVE, payload.stake_nano, registered_height=context.height)
    return state.put_validator(None, entry)


def _own_validator(state: State, sender: AccountId, node: PeerId, *statuses: ValidatorStatus) -> Validator:
    """The sender's validator, in one of these statuses; raises ``Rejected``."""
    validator = state.find(VALIDATORS, node)
    if validator is None or validator.status not in statuses:
        raise Rejected(Reason.UNKNOWN_VALIDATOR, node[:4].hex())
    if validator.card.account != sender:
        raise Rejected(Reason.NOT_AUTHORISED, "the validator is of another account")
    return validator


def _stake(state: State, sender: AccountId, payload: Stake, context: BlockContext) -> State:
    before = _own_validator(state, sender, payload.validator, ValidatorStatus.ACTIVE)
    after = replace(before, stake_nano=before.stake_nano + payload.amount_nano)
    return _pay(state, sender, payload.amount_nano).put_validator(before, after)


def _unbond(validator: Validator, amount_nano: int, context: BlockContext) -> Validator:
    """The validator with so much less stake and so much more on its way back; raises ``Rejected``."""
    if amount_nano > validator.stake_nano:
        raise Rejected(Reason.UNFUNDED, f"{amount_nano}, the stake is {validator.stake_nano}")
    if len(validator.unbonding) >= UNBONDINGS_PER_VALIDATOR_MAX:
        raise Rejected(Reason.LIST_FULL, "withdrawals under way")
    rule = context.rule
    entry = Unbonding(amount_nano, context.time_ms + rule.unbonding_ms, context.height + rule.unbonding_heights)
    return replace(validator, stake_nano=validator.stake_nano - amount_nano, unbonding=(*validator.unbonding, entry))


def _unstake(state: State, sender: AccountId, payload: Unstake, context: BlockContext) -> State:
    before = _own_validator(state, sender, payload.validator, ValidatorStatus.ACTIVE, ValidatorStatus.EXPELLED)
    after = _unbond(before, payload.amount_nano, context)
    if after.status is ValidatorStatus.ACTIVE and after.stake_nano < context.rule.stake_nano_min:
        raise Rejected(Reason.STAKE_TOO_LOW, f"{after.stake_nano} would remain")
    return state.put_validator(before, after)


def _leave(state: State, sender: AccountId, payload: Leave, context: BlockContext) -> State:
    before = _own_validator(state, sender, payload.validator, ValidatorStatus.ACTIVE)
    after = _unbond(before, before.stake_nano, context) if before.stake_nano else before
    after = replace(after, status=ValidatorStatus.LEFT)
    return _forget_if_empty(state.put_validator(before, after), after)


# -- evidence -----------------------------------------------------------------------------------------------------------


def report_evidence(state: State, sender: AccountId, payload: EvidenceReport, context: BlockContext) -> State:
    """The state in which a validator is punished for one view; raises ``Rejected``."""
    first, second = payload.first, payload.second
    validator = state.find(VALIDATORS, payload.validator)
    if validator is None:
        raise Rejected(Reason.UNKNOWN_VALIDATOR, payload.validator[:4].hex())
    if find_contradiction(first, second) is None:
        raise Rejected(Reason.NO_EVIDENCE)
    if first.epoch > context.epoch:
        raise Rejected(Reason.WRONG_EPOCH, f"epoch {first.epoch} has not begun")
    mark = state.find(EPOCH_MARKS, number(first.epoch))
    if mark is None or _is_too_old(mark, context):
        raise Rejected(Reason.TOO_OLD, f"epoch {first.epoch}")
    key = evidence_key(first.epoch, first.view, payload.validator)
    if state.find(EVIDENCE, key) is not None:
        raise Rejected(Reason.ALREADY_RECORDED, f"view {first.view}")
    for vote in (first, second):
        _check_vote_of(validator, vote, context.chain)
    state = state.put(EVIDENCE, EvidenceEntry(sender, context.height), key)
    return _punish(state, validator, context)


def _check_vote_of(validator: Validator, vote: Vote, chain: ChainId) -> None:
    """The text that a vote signs does not hold the signer's place in the roster, so the key alone says whose it is."""
    text = vote_text(chain, vote.epoch, vote.view, vote.kind, vote.block)
    if not verify(validator.card.vote, text, vote.signature):
        raise Rejected(Reason.BAD_SIGNATURE, f"a vote in view {vote.view}")


def _punish(state: State, offender: Validator, context: BlockContext) -> State:
    """Enter an offence, expel its author, and collect from everybody found out lately what each now owes."""
    node = offender.card.node
    earliest_ms = context.time_ms - context.rule.correlation_ms
    log = [entry for entry in state.get(SLASHING_LOG).entries if entry.since_ms >= earliest_ms]
    known = [entry for entry in log if entry.validator == node]
    if known:  # it may have put more at stake since
        exposed = max(known[0].exposed_nano, offender.exposed_nano + known[0].paid_nano)
        log[log.index(known[0])] = replace(known[0], exposed_nano=exposed, offences=known[0].offences + 1)
    else:
        log = log[-(VALIDATORS_MAX - 1) :]  # more within the window have lost a stake each: the oldest is let go
        log.append(Slashing(node, context.time_ms, offender.exposed_nano, 1, 0))
    state = state.put_validator(offender, replace(offender, status=ValidatorStatus.EXPELLED))
    found_nano = sum(entry.exposed_nano for entry in log)
    at_stake_nano = state.supply.staked_nano + state.supply.unbonding_nano + sum(entry.paid_nano for entry in log)
    entries = []
    for entry in log:
        owed = penalty_nano(entry.exposed_nano, entry.offences, found_nano, at_stake_nano)
        state, paid = _collect(state, entry.validator, owed - entry.paid_nano)
        entries.append(replace(entry, paid_nano=entry.paid_nano + paid))
    return state.put(SLASHING_LOG, SlashingLog(tuple(entries)))


def penalty_nano(exposed_nano: int, offences: int, found_nano: int, at_stake_nano: int) -> int:
    """What a validator that had ``exposed_nano`` at stake owes, rounded up; never more than that.

    ``found_nano`` is what all who were found out in the window had at stake, of ``at_stake_nano`` altogether (at least 1).
    """
    if CORRELATION_FACTOR * found_nano >= at_stake_nano:
        return exposed_nano
    hundredths = offences * PENALTY_PERCENT * at_stake_nano + 100 * CORRELATION_FACTOR * found_nano
    return min(exposed_nano, -(-exposed_nano * hundredths // (100 * at_stake_nano)))


def _collect(state: State, node: PeerId, amount_nano: int) -> tuple[State, int]:
    """Burn up to so much of a validator's stake, then of what is on its way back, the latest first; and how much it was."""
    before = state.find(VALIDATORS, node)
    if before is None or amount_nano <= 0:
        return state, 0
    left = amount_nano - min(amount_nano, before.stake_nano)
    stake = before.stake_nano - (amount_nano - left)
    unbonding = []
    for entry in reversed(before.unbonding):
        taken = min(left, entry.amount_nano)
        left -= taken
        if entry.amount_nano > taken:
            unbonding.append(replace(entry, amount_nano=entry.amount_nano - taken))
    after = replace(before, stake_nano=stake, unbonding=tuple(reversed(unbonding)))
    paid = before.exposed_nano - after.exposed_nano
    check_invariant(paid == amount_nano - left, "what is burned is what was taken")
    return _forget_if_empty(state.put_validator(before, after).burn(paid), after), paid


# -- records ------------------------------------------------------------------------------------------------------------


def _record_parameters(state: State, sender: AccountId, payload: ParameterRecord, context: BlockContext) -> State:
    name = payload.record_id(sender)
    if state.find(PARAMETERS, name) is not None:
        raise Rejected(Reason.ALREADY_RECORDED, payload.name)
    if list(payload.depends_on) != sorted(set(payload.depends_on)):
        raise Rejected(Reason.NOT_CANONICAL, "parents are in ascending order, each once")
    is_part = payload.kind in (RecordKind.EXPERT, RecordKind.ROUTER)
    if is_part and not payload.name.startswith(f"layer{payload.layer}."):
        raise Rejected(Reason.MALFORMED, f"{payload.name} is not in layer {payload.layer}")
    check_work(name, payload.work, context.rule.parameter_work_bits)
    level = place_record(find_level(state, parent) for parent in payload.depends_on)
    _check_available(state, payload, context)
    for parent in payload.depends_on:
        entry = state.find(PARAMETERS, parent)
        if entry is not None:
            _check_available(state, entry.record, context)
    index = state.find(EXPERT_COUNTS, payload.name.encode()) or Count(0)
    state = state.put(PARAMETERS, ParameterEntry(sender, payload, level, context.height), name)
    state = state.put(EXPERT_VERSIONS, Reference(name), expert_key(payload.name, index.value))
    return state.put(EXPERT_COUNTS, Count(index.value + 1), payload.name.encode())


def _check_available(state: State, record: ParameterRecord, context: BlockContext) -> None:
    """Nothing is built on a snapshot that is not kept; raises ``Rejected(NOT_AVAILABLE)``.

    What a round decided is no snapshot: whoever voted for it has stored it.
    """
    if record.kind is not RecordKind.TILE_SNAPSHOT:
        return
    entry = find_snapshot(state, record.payload_root)
    if entry is None or entry.size_bytes != record.payload_bytes or entry.is_over(context.epoch):
        raise Rejected(Reason.NOT_AVAILABLE, f"{record.name}, {record.payload_bytes} bytes")


def _record_version(state: State, sender: AccountId, payload: MetaVersion, context: BlockContext) -> State:
    if sender != context.rule.meta_author:
        raise Rejected(Reason.NOT_AUTHORISED, "another account records versions of the model")
    tip = state.get(META_TIP).id
    newest = state.get(META_VERSIONS, tip).version
    if payload.parent != tip or payload.generation != newest.generation + 1:
        raise Rejected(Reason.WRONG_VERSION, f"generation {payload.generation} after {newest.generation}")
    if payload.version not in newest.version.successors():
        raise Rejected(Reason.WRONG_VERSION, f"{payload.version} after {newest.version}")
    state = state.put(META_VERSIONS, MetaEntry(sender, payload, context.height), payload.version_id())
    return state.put(META_TIP, Reference(payload.version_id()))


def _record_dataset(state: State, sender: AccountId, payload: DatasetRecord, context: BlockContext) -> State:
    name = payload.record_id(sender)
    if state.find(DATASETS, name) is not None:
        raise Rejected(Reason.ALREADY_RECORDED, payload.name)
    check_work(name, payload.work, context.rule.dataset_work_bits)
    return state.put(DATASETS, DatasetEntry(sender, payload, DatasetStage.PENDING, context.height), name)


def _record_availability(state: State, sender: AccountId, payload: AvailabilityRecord, context: BlockContext) -> State:
    return record_kept(state, sender, payload, context.chain, context.height, context.epoch_heights)


def _answer(state: State, sender: AccountId, payload: CustodyAnswer, context: BlockContext) -> State:
    return take_answer(state, payload, context.epoch, context.height)


# -- the table ----------------------------------------------------------------------------------------------------------

Handler = Callable[[State, AccountId, Any, BlockContext], State]
HANDLERS: dict[type, Handler] = {
    Transfer: _transfer,
    Register: _register,
    Stake: _stake,
    Unstake: _unstake,
    Leave: _leave,
    EvidenceReport: report_evidence,
    ParameterRecord: _record_parameters,
    MetaVersion: _record_version,
    DatasetRecord: _record_dataset,
    AvailabilityRecord: _record_availability,
    CustodyAnswer: _answer,
}


def _handle(state: State, transaction: SignedTransaction, context: BlockContext) -> State:
    plain = transaction.plain
    return HANDLERS[type(plain.payload)](state, plain.sender, plain.payload, context)
