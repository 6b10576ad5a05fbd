"""What the people of this world ask for: transactions drawn for a state, and what any data is as a transaction.

Mostly transfers; now and then stake is moved, evidence reported, something recorded. Some break a rule of their kind: they pay
their fee and change nothing else. Large bodies are full of parameter records of the largest kind that are refused at once: the
most bytes for the least work.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from consensus.execution import BODY_FRAME_BYTES, ENTRY_FRAME_BYTES
from consensus.state import State
from protocol.codec import encode
from protocol.digest import blob_digest, number
from protocol.finality import Vote, VoteKind, vote_text
from protocol.ids import Epoch, MemberIndex, View
from protocol.keys import KeyPair
from protocol.limits import PARENTS_PER_RECORD_MAX, PLAIN_TRANSACTION_BYTES_MAX, RECORD_NAME_CHARACTERS_MAX
from protocol.transactions import (
    DatasetRecord,
    EvidenceReport,
    Leave,
    ParameterRecord,
    Payload,
    RecordKind,
    Register,
    SemVer,
    SignedTransaction,
    Stake,
    Transfer,
    Unstake,
    check_transaction,
    sign_transaction,
)
from simnet.finality.genesis import (
    ACCOUNT_KEYS,
    ARCHIVE,
    CARDS,
    CHAIN,
    FIRST_VERSION,
    FOUNDERS,
    PEOPLE,
    STAKE_NANO,
    account_of,
    quick_verify,
    vote_seed,
)

PAYMENTS_MAX: Final = 3  # in a usual body
FEE_NANO: Final = (2_000, 9_000)  # enough for the bytes of any transaction
BODY_BYTES_USUAL: Final = PAYMENTS_MAX * PLAIN_TRANSACTION_BYTES_MAX  # no usual body is larger
LARGE: Final = 0.15  # of the bodies, where there may be large ones; executing them is a third of such a run
KNOWN_MAX: Final = 4_096  # transactions that this process has checked: some six full bodies

read_transaction = lru_cache(maxsize=KNOWN_MAX)(lambda data: check_transaction(data, CHAIN, quick_verify))


def make_transaction(key: KeyPair, nonce: int, fee_nano: int, payload: Payload) -> SignedTransaction:
    """A transaction that went over the wire."""
    return read_transaction(encode(sign_transaction(key, CHAIN, nonce, fee_nano, payload)))


def draw_transactions(random_: random.Random, state: State, body_bytes_max: int) -> list[SignedTransaction]:
    """What a body on top of ``state`` may hold, evidence first. Where bodies may be large, a few are."""
    if body_bytes_max > BODY_BYTES_USUAL and random_.random() < LARGE:
        return fill(state, random_.choice((body_bytes_max, random_.randrange(BODY_BYTES_USUAL, body_bytes_max))))
    asked = []
    for _ in range(random_.randrange(1, PAYMENTS_MAX + 1)):
        person = random_.randrange(PEOPLE)
        [draw] = random_.choices(tuple(PAYLOADS), tuple(PAYLOADS.values()))
        asked.append((person, draw(random_, state, person)))
    asked.sort(key=lambda each: not isinstance(each[1], EvidenceReport))
    nonces = [state.account(account_of(key)).nonce for key in ACCOUNT_KEYS]
    drawn = []
    for person, payload in asked:
        drawn.append(make_transaction(ACCOUNT_KEYS[person], nonces[person], random_.randrange(*FEE_NANO), payload))
        nonces[person] += 1
    return drawn


def fill(state: State, body_bytes: int) -> list[SignedTransaction]:
    """Records of the archive, as many as such a body holds."""
    nonce, left = state.account(account_of(ARCHIVE)).nonce, body_bytes - BODY_FRAME_BYTES
    filling: list[SignedTransaction] = []
    while True:
        record = _make_record(nonce)
        left -= record.size_bytes + ENTRY_FRAME_BYTES
        if left < 0:
            return filling
        filling.append(record)
        nonce += 1


@lru_cache(maxsize=KNOWN_MAX)
def _make_record(nonce: int) -> SignedTransaction:
    """The archive's transaction of this nonce: a record with as many parents as there may be, in no order."""
    parents = tuple(blob_digest(number(nonce) + number(each)) for each in range(PARENTS_PER_RECORD_MAX))
    name = f"layer4.{nonce}".ljust(RECORD_NAME_CHARACTERS_MAX, "x")
    record = ParameterRecord(RecordKind.EXPERT, name, 4, parents, parents[0], 4_096, 0)
    return make_transaction(ARCHIVE, nonce, FEE_NANO[0], record)


# -- payloads -----------------------------------------------------------------------------------------------------------


def _transfer(random_: random.Random, state: State, person: int) -> Payload:
    """To oneself too; one in eight of up to twice what is there."""
    balance = state.account(account_of(ACCOUNT_KEYS[person])).balance_nano
    most = 2 * balance + 1 if random_.random() < 0.125 else 1_000_000
    return Transfer(account_of(random_.choice(ACCOUNT_KEYS)), random_.randrange(1, most + 1))


def _stake(random_: random.Random, state: State, person: int) -> Payload:
    return Stake(CARDS[person].node, random_.randrange(1, STAKE_NANO))


def _unstake(random_: random.Random, state: State, person: int) -> Payload:
    return Unstake(CARDS[person].node, random_.randrange(1, STAKE_NANO))


def _leave(random_: random.Random, state: State, person: int) -> Payload:
    return Leave(CARDS[person].node)


def _register(random_: random.Random, state: State, person: int) -> Payload:
    return Register(CARDS[random_.choice((person, *range(FOUNDERS, PEOPLE)))], random_.randrange(1, STAKE_NANO))


def _report(random_: random.Random, state: State, person: int) -> Payload:
    return make_evidence(random_.randrange(PEOPLE), View(random_.randrange(1, 4)))


@lru_cache(maxsize=3 * PEOPLE)
def make_evidence(person: int, view: View) -> EvidenceReport:
    """Two votes of one validator in one view of the first epoch, for two blocks. The ledger verifies real signatures."""
    key = KeyPair(vote_seed(person))
    votes = []
    for block in (blob_digest(b"one"), blob_digest(b"other")):
        text = vote_text(CHAIN, Epoch(0), view, VoteKind.NOTARIZE, block)
        votes.append(Vote(Epoch(0), view, VoteKind.NOTARIZE, block, MemberIndex(person), key.sign(text)))
    return EvidenceReport(CARDS[person].node, *votes)


def _dataset(random_: random.Random, state: State, person: int) -> Payload:
    name = f"text{random_.randrange(100)}"
    return DatasetRecord(name, SemVer(1, 0, 0), "CC-BY-4.0", blob_digest(name.encode()), 1, 100, 0)


def _parameters(random_: random.Random, state: State, person: int) -> Payload:
    name = f"layer4.expert{random_.randrange(3)}"
    root = blob_digest(random_.randbytes(2))
    return ParameterRecord(RecordKind.EXPERT, name, 4, (FIRST_VERSION.version_id(),), root, 4_096, 0)


# What is asked for -> how often, in hundredths.
PAYLOADS: Final[dict[Callable[[random.Random, State, int], Payload], int]] = {
    _transfer: 64,
    _stake: 8,
    _unstake: 10,
    _leave: 2,
    _register: 5,
    _report: 3,
    _dataset: 4,
    _parameters: 4,
}
