"""Transactions: what an account signs to change the state. One envelope, eleven kinds of payload.

    transaction = [chain, sender, nonce, fee_nano, payload, signature]         canonical msgpack
    payload     = [kind, fields...]                                            kind: the tag of its class below
    signature   = Ed25519(sender, digest("nock/transaction/1", every byte before the signature element))
    id          = digest("nock/transaction-id/1", every byte)

    chain  kinds
    A      MetaVersion                          B  ParameterRecord; a tile commit is a head (protocol/roster.py)
    C      Transfer, Register, Stake, Unstake, Leave, EvidenceReport
    D      DatasetRecord, AvailabilityRecord, CustodyAnswer

A transaction has a bound by its kind: a certificate has the signatures of up to a hundred members, an answer a leaf of a cell
with its path, and nothing else is long.

Money is in 10^-9 NOCK ("nano"), integers only. Nonces count up by one from 0 for each account, so a transaction takes effect
at most once; the chain in it keeps it from taking effect elsewhere.

Records of B and D carry a light proof of work, so that filling the state costs more than a fee:

    name = digest(domain of the kind, sender, encoded record with work 0)
    work = any number for which digest("nock/work/1", name, work) begins with as many zero bits as the rule asks for

The name holds the sender, so nobody can take over the work or the record of another, and not the number, so that a record has
one name however the work was done.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from protocol.availability import AvailabilityCertificate, Subject
from protocol.codec import Message, decode, encode
from protocol.digest import Domain, digest, number
from protocol.erasure import BlobBytesField, LeafProof, TilePathField
from protocol.finality import ChainId, Vote
from protocol.ids import (
    AccountField,
    AccountId,
    Digest,
    DigestField,
    EpochField,
    Natural,
    PeerField,
    Signature,
    SignatureField,
)
from protocol.keys import KeyPair
from protocol.keys import verify as verify_signature
from protocol.limits import (
    ANSWER_TRANSACTION_BYTES_MAX,
    PARENTS_PER_RECORD_MAX,
    PLAIN_TRANSACTION_BYTES_MAX,
    RECORD_NAME_CHARACTERS_MAX,
    SUPPLY_NANO_MAX,
    TRANSACTION_BYTES_MAX,
    TRANSACTIONS_PER_BUNDLE_MAX,
)
from protocol.rejection import Reason, Rejected
from protocol.roster import MemberCard

Money = Annotated[int, Meta(ge=0, le=SUPPLY_NANO_MAX)]
_Amount = Annotated[int, Meta(ge=1, le=SUPPLY_NANO_MAX)]
_Size = Annotated[int, Meta(ge=1, le=2**63 - 1)]
_Small = Annotated[int, Meta(ge=0, le=2**16 - 1)]
_RecordName = Annotated[
    str, Meta(min_length=1, max_length=RECORD_NAME_CHARACTERS_MAX, pattern=r"^[a-z0-9][a-z0-9_.-]*\Z")
]
_Licence = Annotated[str, Meta(min_length=1, max_length=64)]  # an SPDX expression; as in a data set's manifest


# -- chain C ------------------------------------------------------------------------------------------------------------


class Transfer(Message, frozen=True, tag=1):
    """Give money to another account."""

    recipient: AccountField
    amount_nano: _Amount


class Register(Message, frozen=True, tag=2):
    """Become a validator: the card binds node, vote and the sender's account key; the stake moves from the balance."""

    card: MemberCard
    stake_nano: _Amount


class Stake(Message, frozen=True, tag=3):
    """Put more at stake for one's own validator."""

    validator: PeerField
    amount_nano: _Amount


class Unstake(Message, frozen=True, tag=4):
    """Begin to take stake back; it can be slashed until the unbonding ends."""

    validator: PeerField
    amount_nano: _Amount


class Leave(Message, frozen=True, tag=5):
    """Stop being a validator: all stake begins to unbond."""

    validator: PeerField


class EvidenceReport(Message, frozen=True, tag=6):
    """Two signed votes of one validator in one view that contradict each other (E1 to E4 of chain.md 2.8)."""

    validator: PeerField
    first: Vote
    second: Vote


# -- chain B ------------------------------------------------------------------------------------------------------------


class RecordKind(enum.IntEnum):
    """What a parameter record is about."""

    EXPERT = 1
    ROUTER = 2
    TILE_SNAPSHOT = 3
    TILE_DELTA = 4


class ParameterRecord(Message, frozen=True, tag=7):
    """A node of the parameter DAG: bytes by root and size, and what they build on.

    ``depends_on`` names parameter records and meta versions, in ascending order. ``work`` is the proof of work.
    """

    kind: RecordKind
    name: _RecordName  # "layer4.expert7"
    layer: _Small
    depends_on: Annotated[tuple[DigestField, ...], Meta(min_length=1, max_length=PARENTS_PER_RECORD_MAX)]
    payload_root: DigestField
    payload_bytes: _Size
    work: Natural

    def record_id(self, sender: AccountId) -> Digest:
        """The record's name in the DAG."""
        return digest(Domain.PARAMETER, sender, encode(replace(self, work=0)))


# -- chain A ------------------------------------------------------------------------------------------------------------


class SemVer(Message, frozen=True, order=True):
    """MAJOR.MINOR.PATCH."""

    major: _Small
    minor: _Small
    patch: _Small

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    def successors(self) -> tuple[SemVer, SemVer, SemVer]:
        """The three versions that may follow: weights only, a structure that includes the old one, an incompatible one.

        Beyond 65,535 a number does not encode, so such a version is never met.
        """
        return (
            SemVer(self.major, self.minor, self.patch + 1),
            SemVer(self.major, self.minor + 1, 0),
            SemVer(self.major + 1, 0, 0),
        )


class MetaVersion(Message, frozen=True, tag=9):
    """A version of the model's architecture and routing rules; its configuration is a blob."""

    parent: DigestField  # the version before it; zeros for the first
    version: SemVer
    generation: Natural
    configuration: DigestField
    configuration_bytes: _Size

    def version_id(self) -> Digest:
        return digest(Domain.META_VERSION, encode(self))


# -- chain D ------------------------------------------------------------------------------------------------------------


class DatasetRecord(Message, frozen=True, tag=10):
    """A data set by the root of its manifest (``protocol.genesis.DatasetManifest``)."""

    name: _RecordName
    version: SemVer
    licence: _Licence
    root: DigestField
    files_total: _Size
    bytes_total: _Size
    work: Natural

    def record_id(self, sender: AccountId) -> Digest:
        return digest(Domain.DATASET_RECORD, sender, encode(replace(self, work=0)))


class AvailabilityRecord(Message, frozen=True, tag=11):
    """That a blob is kept: more than two thirds of a roster said so, about bytes that are ``subject``.

    ``tiles_root`` is the Merkle root over the blob's tile roots: with it the claim's ``blob`` shows that the size is true. The
    record has no name of its own: the chain keeps one for each subject, the first.
    """

    subject: Subject
    size_bytes: BlobBytesField
    tiles_root: DigestField
    certificate: AvailabilityCertificate


class CustodyAnswer(Message, frozen=True, tag=12):
    """The leaf that the chain asks a member of an epoch's roster for, with its path to the blob's root.

    ``blob_path`` leads from the tile's root to the Merkle root over the blob's tile roots. Who sends it does not matter.
    """

    validator: PeerField
    epoch: EpochField
    blob: DigestField
    leaf: LeafProof
    blob_path: TilePathField


Payload = (
    Transfer
    | Register
    | Stake
    | Unstake
    | Leave
    | EvidenceReport
    | ParameterRecord
    | MetaVersion
    | DatasetRecord
    | AvailabilityRecord
    | CustodyAnswer
)

# How long a transaction of a kind may be where that is more than ``PLAIN_TRANSACTION_BYTES_MAX``.
LONG_KINDS: Final[dict[type[Message], int]] = {
    AvailabilityRecord: TRANSACTION_BYTES_MAX,
    CustodyAnswer: ANSWER_TRANSACTION_BYTES_MAX,
}


# -- the envelope -------------------------------------------------------------------------------------------------------


class Transaction(Message, frozen=True):
    """A payload with who pays for it. Nothing about it is checked but its form."""

    chain: ChainId
    sender: AccountField
    nonce: Natural
    fee_nano: Money
    payload: Payload
    signature: SignatureField


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A transaction of this chain whose signature was verified; ``size_bytes`` is what it takes in a body."""

    plain: Transaction
    id: Digest
    size_bytes: int


_SIGNATURE_TAIL_BYTES = 66  # msgpack of 64 bytes: 0xc4 0x40 and the bytes


def sign_transaction(key: KeyPair, chain: ChainId, nonce: int, fee_nano: int, payload: Payload) -> Transaction:
    """A transaction from the account of ``key``."""
    unsigned = Transaction(chain, AccountId(key.public), nonce, fee_nano, payload, Signature(bytes(64)))
    return replace(unsigned, signature=key.sign(_text(encode(unsigned))))


def _text(data: bytes) -> bytes:
    return digest(Domain.TRANSACTION, memoryview(data)[:-_SIGNATURE_TAIL_BYTES])


def transaction_id(data: bytes) -> Digest:
    """What a transaction of these bytes is called."""
    return digest(Domain.TRANSACTION_ID, data)


class _Outline(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A transaction whose payload was not read."""

    chain: ChainId
    sender: AccountField
    nonce: Natural
    fee_nano: Money
    payload: msgspec.Raw
    signature: SignatureField


def _first_bytes(kind: type[Message]) -> bytes:
    """With which a payload of a kind begins: a short array, then its tag."""
    return bytes([0x90 + 1 + len(kind.__struct_fields__)]) + encode(kind.__struct_config__.tag)


_LONG_FIRST_BYTES: Final = {_first_bytes(kind): bytes_max for kind, bytes_max in LONG_KINDS.items()}


def read_transaction(data: bytes) -> Transaction:
    """Decode, and verify nothing; raises ``Rejected`` as ``decode``: TOO_LARGE before a payload of its kind is read."""
    if PLAIN_TRANSACTION_BYTES_MAX < len(data) <= TRANSACTION_BYTES_MAX:
        payload = bytes(decode(_Outline, data, limit_bytes=TRANSACTION_BYTES_MAX).payload)
        largest = _LONG_FIRST_BYTES.get(payload[:2], PLAIN_TRANSACTION_BYTES_MAX)
        if len(data) > largest:
            raise Rejected(Reason.TOO_LARGE, f"{len(data)} bytes, at most {largest} of its kind")
    return decode(Transaction, data, limit_bytes=TRANSACTION_BYTES_MAX)


def check_transaction(
    data: bytes, chain: ChainId, verify: Callable[[bytes, bytes, bytes], bool] = verify_signature
) -> SignedTransaction:
    """Decode and verify; raises ``Rejected`` (as ``decode``, then WRONG_CHAIN, OTHER_FORK, BAD_SIGNATURE), the dearest last.

    ``verify`` (key, text, signature) is another one where the signatures were verified elsewhere: on another core, say.
    """
    transaction = read_transaction(data)
    if transaction.chain.chain != chain.chain:
        raise Rejected(Reason.WRONG_CHAIN, f"a transaction for {transaction.chain.chain.hex()}")
    if transaction.chain.fork != chain.fork:
        raise Rejected(Reason.OTHER_FORK, f"a transaction for fork {transaction.chain.fork}")
    if not verify(transaction.sender, _text(data), transaction.signature):
        raise Rejected(Reason.BAD_SIGNATURE, f"transaction {transaction.nonce} of {transaction.sender[:4].hex()}")
    return SignedTransaction(transaction, transaction_id(data), len(data))


class TransactionBundle(Message, frozen=True):
    """Signed transactions by gossip, each as its own bytes. Whoever relays them answers for their signatures."""

    transactions: Annotated[
        tuple[Annotated[bytes, Meta(max_length=TRANSACTION_BYTES_MAX)], ...],
        Meta(min_length=1, max_length=TRANSACTIONS_PER_BUNDLE_MAX),
    ]


# -- light proof of work ------------------------------------------------------------------------------------------------


def work_bits(name: Digest, work: int) -> int:
    """How many zero bits the digest of a record's name and ``work`` begins with."""
    return 256 - int.from_bytes(digest(Domain.WORK, name, number(work)), "big").bit_length()


def check_work(name: Digest, work: int, bits: int) -> None:
    """Raises ``Rejected(BAD_WORK)`` when there are fewer than ``bits`` leading zero bits."""
    found = work_bits(name, work)
    if found < bits:
        raise Rejected(Reason.BAD_WORK, f"{found} zero bits, {bits} are asked for")


def find_work(name: Digest, bits: int, first: int, attempts: int) -> int | None:
    """The lowest number from ``first`` on that is work enough, or None after so many attempts.

    Expect 2^bits attempts; a caller that must stay responsive asks in pieces.
    """
    return next((work for work in range(first, first + attempts) if work_bits(name, work) >= bits), None)
