"""Records of the chain in words and as plain JSON: what a transaction does, who is meant by which field."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, NamedTuple, assert_never

import msgspec

from consensus.state import KeptEntry
from node.account_address import account_text
from node.money import nock_text
from protocol.availability import StateCheckpoint, Subject, TileSnapshot
from protocol.ids import peer_text, short, short_digest
from protocol.rejection import Reason
from protocol.roster import Head
from protocol.transactions import (
    AvailabilityRecord,
    CustodyAnswer,
    DatasetRecord,
    EvidenceReport,
    Leave,
    MetaVersion,
    ParameterRecord,
    Payload,
    Register,
    Stake,
    Transaction,
    Transfer,
    Unstake,
)


class Words(NamedTuple):
    """One kind of transaction: its name, and what one of it does."""

    kind: str
    does: Callable[[Any], str]


def printable(text: str) -> str:
    """A text of a stranger's without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def counted(count: int, noun: str) -> str:
    """``1 vote``, ``2 votes``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def head_words(head: Head) -> str:
    """What a decided head does."""
    deltas = counted(head.learners, "delta")
    return f"decides {head.slot} of round {head.round} from {deltas}, {counted(head.tokens, 'token')}"


def subject_words(subject: Subject) -> str:
    """What the bytes of a blob are."""
    match subject:
        case TileSnapshot(tile, version):
            return f"version {version} of {tile}"
        case StateCheckpoint(height):
            return f"the state after block {height}"
        case _:
            assert_never(subject)


def until_words(kept_until: int | None) -> str:
    """How long a blob is kept."""
    return "for ever" if kept_until is None else f"until the end of epoch {kept_until:,}"


def _record_words(record: AvailabilityRecord) -> str:
    certificate = record.certificate
    keepers, until = counted(len(certificate.signatures), "validator"), until_words(certificate.claim.kept_until)
    return f"records that {keepers} keep {subject_words(record.subject)}, {record.size_bytes:,} bytes, {until}"


def _answer_words(answer: CustodyAnswer) -> str:
    leaf = answer.leaf
    where = f"leaf {leaf.leaf} of cell {leaf.cell} of tile {leaf.tile} of blob {short_digest(answer.blob)}"
    return f"shows, for {peer_text(answer.validator)} in epoch {answer.epoch:,}, {where}"


WORDS: Final[dict[type, Words]] = {
    Transfer: Words("transfer", lambda it: f"gives {nock_text(it.amount_nano)} to {account_text(it.recipient)}"),
    Register: Words(
        "register", lambda it: f"registers validator {peer_text(it.card.node)} with {nock_text(it.stake_nano)} at stake"
    ),
    Stake: Words("stake", lambda it: f"adds {nock_text(it.amount_nano)} to the stake of {peer_text(it.validator)}"),
    Unstake: Words(
        "unstake", lambda it: f"begins to take {nock_text(it.amount_nano)} back from {peer_text(it.validator)}"
    ),
    Leave: Words("leave", lambda it: f"ends {peer_text(it.validator)} as a validator and unbonds its stake"),
    EvidenceReport: Words(
        "evidence", lambda it: f"shows two votes of {peer_text(it.validator)} in view {it.first.view} that contradict"
    ),
    ParameterRecord: Words(
        "parameters", lambda it: f"records {it.name}, {it.payload_bytes:,} bytes, root {short_digest(it.payload_root)}"
    ),
    MetaVersion: Words("version", lambda it: f"records version {it.version} of the model, generation {it.generation}"),
    DatasetRecord: Words(
        "dataset",
        lambda it: f"records data set {it.name} {it.version}, {it.bytes_total:,} bytes under {printable(it.licence)}",
    ),
    AvailabilityRecord: Words("kept", _record_words),
    CustodyAnswer: Words("custody", _answer_words),
}


def payload_facts(payload: Payload) -> dict[str, Any]:
    """kind, does (in words), details (field by field)."""
    words = WORDS[type(payload)]
    return {"kind": words.kind, "does": words.does(payload), "details": plain(payload)}


def transaction_facts(transaction: Transaction) -> dict[str, Any]:
    """sender, nonce, fee_nano, kind, does, details."""
    return {
        "sender": account_text(transaction.sender),
        "nonce": transaction.nonce,
        "fee_nano": transaction.fee_nano,
        **payload_facts(transaction.payload),
    }


def learners(head: Head) -> list[str]:
    """Whose deltas went in, shortened and each once; for an aggregate whoever made it."""
    return sorted({short(delta.learner) for delta in head.deltas})


def head_facts(head: Head) -> dict[str, Any]:
    """What a body says of a head: id, tile, version, round, attempt, proposer, root, deltas, learners, tokens, does."""
    return {
        "id": head.digest().hex(),
        "tile": head.tile,
        "version": head.version,
        "round": head.round,
        "attempt": head.attempt,
        "proposer": peer_text(head.proposer),
        "root": head.root.hex(),
        "deltas": head.learners,
        "learners": learners(head),
        "tokens": head.tokens,
        "does": head_words(head),
    }


def kept_blob_facts(entry: KeptEntry) -> dict[str, Any]:
    """What the state says of a blob: subject {id, is (in words), tile, version, root or height, state_root}, blob and tables
    (roots), geometry {data_cells, parity_cells, cell_bytes_max}, size_bytes, epoch (whose roster keeps it first), kept_until
    (the last epoch) or None for ever, author (who recorded it), height (in which block)."""
    subject = entry.subject
    said = {"id": subject.digest().hex(), "is": subject_words(subject), **plain(subject)}
    return {**plain(entry), "subject": said}


def refusal_facts(reason: Reason | None) -> dict[str, str] | None:
    """code, message; None where nothing was refused."""
    return None if reason is None else {"code": reason.code, "message": reason.sentence}


_ACCOUNT_FIELDS: Final = frozenset({"account", "author", "creator", "recipient", "reporter", "sender"})
_PEER_FIELDS: Final = frozenset({"door", "learner", "node", "nodes", "proposer", "validator"})


def plain(value: Any, field: str = "") -> Any:
    """A message as JSON has it: objects by field, accounts and peers by their texts, other bytes in hexadecimal."""
    match value:
        case msgspec.Struct():
            return {name: plain(getattr(value, name), name) for name in value.__struct_fields__}
        case enum.Enum():
            return value.name.lower()
        case tuple():
            return [plain(each, field) for each in value]
        case bytes() if field in _ACCOUNT_FIELDS:
            return account_text(value)  # type: ignore[arg-type]  # the field's name says what its bytes are
        case bytes() if field in _PEER_FIELDS:
            return peer_text(value)
        case bytes():
            return value.hex()
        case _:
            return value
