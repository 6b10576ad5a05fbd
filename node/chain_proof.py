"""A proof of one entry of the state as a file: made by a node, checked by anybody who knows the state root, without a node.

key           table and name, as people type them: account:ADDRESS, tile:layer0.expert0/0, supply (``KEYS`` has all)
value         canonical bytes of the entry, hexadecimal; null: the proof shows that there is none
facts         the same in words; not to be trusted before it is checked against ``value``, which ``check_proof`` does
proof         canonical bytes of protocol.state_proof.StateProof, hexadecimal
state_root    of the block at ``height``
header        its header's canonical bytes; null at height 0, which is the genesis document's
certificate   what finalized it, canonical bytes; null where a later block's certificate did
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from consensus.state import (
    ACCOUNTS,
    CUSTODY_QUESTIONS,
    DATASETS,
    EPOCH_MARKS,
    EVIDENCE,
    EXPERT_COUNTS,
    KEPT,
    META_TIP,
    META_VERSIONS,
    ONLY,
    PARAMETERS,
    PROGRESS,
    ROSTERS,
    SLASHING_LOG,
    SUPPLY,
    TILES,
    VALIDATOR_INDEX,
    VALIDATORS,
    State,
    Table,
    evidence_key,
)
from node.account_address import parse_account
from node.chain_words import plain
from protocol.codec import decode, encode
from protocol.digest import number
from protocol.finality import Certificate, Header
from protocol.ids import Digest, parse_hex32, parse_peer
from protocol.limits import KIB, RECORD_NAME_CHARACTERS_MAX, STATE_ENTRY_BYTES_MAX, TILE_ID_CHARACTERS_MAX
from protocol.rejection import Reason, Rejected
from protocol.state_proof import StateProof, check_state_proof

PROOF_BYTES_MAX: Final = (
    8 * STATE_ENTRY_BYTES_MAX
)  # an entry takes twice its size in hexadecimal, and less than four times in words
HEADER_BYTES_MAX: Final = 4 * KIB
CERTIFICATE_BYTES_MAX: Final = 64 * KIB
_KEY_CHARACTERS_MAX: Final = 256
_NAME_CHARACTERS_MAX: Final = max(TILE_ID_CHARACTERS_MAX, RECORD_NAME_CHARACTERS_MAX)


class ProvableKey(NamedTuple):
    """One row: how the rest of a key is read, and what it looks like."""

    table: Table[Any]
    read: Callable[[str], bytes]
    example: str


def _read_name(text: str) -> bytes:
    if not re.fullmatch(rf"[a-z0-9_./-]{{1,{_NAME_CHARACTERS_MAX}}}", text):
        raise Rejected(Reason.BAD_ARGUMENT, f"{text[:40]!r} is no name of a tile or expert")
    return text.encode()


def _read_natural(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise Rejected(Reason.BAD_ARGUMENT, f"{text[:40]!r} must be a number")
    return int(text)


def _read_digest(text: str) -> bytes:
    return parse_hex32(text, "what follows the colon")


def _read_evidence(text: str) -> bytes:
    epoch, _, rest = text.partition("/")
    view, _, peer = rest.partition("/")
    return evidence_key(_read_natural(epoch), _read_natural(view), parse_peer(peer))


def _read_nothing(text: str) -> bytes:
    if text:
        raise Rejected(Reason.BAD_ARGUMENT, f"there is one entry of this kind, so {text[:40]!r} has no meaning")
    return ONLY


KEYS: Final[dict[str, ProvableKey]] = {
    "account": ProvableKey(ACCOUNTS, parse_account, "account:ADDRESS"),
    "validator": ProvableKey(VALIDATORS, parse_peer, "validator:PEER"),
    "evidence": ProvableKey(EVIDENCE, _read_evidence, "evidence:EPOCH/VIEW/PEER"),
    "tile": ProvableKey(TILES, _read_name, "tile:layer0.expert0/0"),
    "expert": ProvableKey(EXPERT_COUNTS, _read_name, "expert:layer0.expert0"),
    "parameters": ProvableKey(PARAMETERS, _read_digest, "parameters:ID"),
    "version": ProvableKey(META_VERSIONS, _read_digest, "version:ID"),
    "dataset": ProvableKey(DATASETS, _read_digest, "dataset:ID"),
    "kept": ProvableKey(KEPT, _read_digest, "kept:SUBJECT"),
    "custody": ProvableKey(CUSTODY_QUESTIONS, parse_peer, "custody:PEER"),
    "epoch": ProvableKey(EPOCH_MARKS, lambda text: number(_read_natural(text)), "epoch:NUMBER"),
    "roster": ProvableKey(ROSTERS, lambda text: number(_read_natural(text)), "roster:EPOCH"),
    "newest-version": ProvableKey(META_TIP, _read_nothing, "newest-version"),
    "progress": ProvableKey(PROGRESS, _read_nothing, "progress"),
    "slashings": ProvableKey(SLASHING_LOG, _read_nothing, "slashings"),
    "supply": ProvableKey(SUPPLY, _read_nothing, "supply"),
    "validators": ProvableKey(VALIDATOR_INDEX, _read_nothing, "validators"),
}


def parse_key(text: str) -> tuple[Table[Any], bytes]:
    """The table and the key in it that a text names; raises ``Rejected`` (BAD_ARGUMENT, BAD_ADDRESS) with what there is."""
    word, _, rest = text[:_KEY_CHARACTERS_MAX].partition(":")
    row = KEYS.get(word)
    if row is None:
        examples = ", ".join(known.example for known in KEYS.values())
        raise Rejected(Reason.BAD_ARGUMENT, f"there is no key {word[:40]!r}; there are {examples}")
    return row.table, row.read(rest)


_Hex = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{2})*\Z")]


class ProofDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file, and the answer of the API: one JSON object."""

    key: Annotated[str, Meta(max_length=_KEY_CHARACTERS_MAX)]
    value: _Hex | None
    facts: dict[str, Any] | None
    proof: _Hex
    state_root: _Hex
    height: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    header: _Hex | None
    certificate: _Hex | None


def make_proof(state: State, key: str, height: int, header: bytes | None, certificate: bytes | None) -> ProofDocument:
    """The proof of what ``key`` has in the state of a block; raises ``Rejected`` when there is no such kind of key."""
    table, name = parse_key(key)
    entry = state.find(table, name)
    return ProofDocument(
        key=key,
        value=None if entry is None else encode(entry).hex(),
        facts=None if entry is None else plain(entry),
        proof=encode(state.prove(table, name)).hex(),
        state_root=state.root().hex(),
        height=height,
        header=header.hex() if header is not None else None,
        certificate=certificate.hex() if certificate else None,
    )


def check_proof(data: bytes, root: Digest) -> ProofDocument:
    """Check a proof file against a state root that the caller trusts: every field follows from it, or from the key.

    The certificate's signatures are not checked: whose they must be is known by who knows the roster, not by a root. Raises
    ``Rejected`` (TOO_LARGE, MALFORMED, NOT_CANONICAL, BAD_PROOF, and as ``parse_key``).
    """
    if len(data) > PROOF_BYTES_MAX:
        raise Rejected(Reason.TOO_LARGE, f"a proof has at most {PROOF_BYTES_MAX} bytes")
    try:
        document = msgspec.json.decode(data, type=ProofDocument)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(Reason.MALFORMED, f"no proof: {error}") from None
    if document.state_root != root.hex():
        raise Rejected(Reason.BAD_PROOF, f"it is of the state {document.state_root[:16]}, not of {root.hex()[:16]}")
    table, name = parse_key(document.key)
    value = None if document.value is None else bytes.fromhex(document.value)
    proof = decode(StateProof, bytes.fromhex(document.proof), limit_bytes=PROOF_BYTES_MAX)
    check_state_proof(proof, root, table.chain, table.prefix + name, value)
    entry = None if value is None else decode(table.kind, value, limit_bytes=STATE_ENTRY_BYTES_MAX)
    if document.facts != (None if entry is None else plain(entry)):
        raise Rejected(Reason.BAD_PROOF, "its words say something else than its bytes")
    _check_block(document, root)
    return document


def _check_block(document: ProofDocument, root: Digest) -> None:
    """Header and certificate, where they are shown, are of a block with this state; raises ``Rejected``."""
    if document.header is None:
        if document.certificate is not None or document.height:
            raise Rejected(Reason.BAD_PROOF, "only the genesis has no header")
        return
    header = decode(Header, bytes.fromhex(document.header), limit_bytes=HEADER_BYTES_MAX)
    if header.state_root != root or header.height != document.height:
        raise Rejected(Reason.BAD_PROOF, "the header is of another state or height")
    if document.certificate is None:
        return
    certificate = decode(Certificate, bytes.fromhex(document.certificate), limit_bytes=CERTIFICATE_BYTES_MAX)
    if certificate.block != header.digest():
        raise Rejected(Reason.BAD_PROOF, "the certificate is of another block")
