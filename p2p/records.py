"""What may stand in the distributed table, and which of two records wins.

    key    = "/nock/" + base32(first 20 bytes of digest("nock/record/1", kind, id)), lower case, 38 characters
    value  = Record: [kind, body], canonical msgpack; what body means is the row of the kind

Every record proves itself: whoever stores or reads one checks it against its key, so nobody can poison what they cannot
sign. Two facts of the table underneath shape this file (libp2p 0.8.1, `kad_dht.py`):

* keys over 50 bytes are ignored by peers: hence 20 bytes of the digest, not 32;
* an identical record that is put again is refused when the FIRST of two equals wins, and so would die after 24 h: hence
  ties go to the LAST.

Provider keys carry no value: "I have the content of this name" is a hint that is checked by fetching.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

from protocol.codec import Message, decode, encode
from protocol.digest import Domain, digest
from protocol.ids import Natural, PeerField, PeerId, SignatureField
from protocol.keys import KeyPair, verify
from protocol.limits import KIB
from protocol.rejection import Reason, Rejected

KEY_PREFIX: Final = "/nock/"
KEY_DIGEST_BYTES: Final = 20
RECORD_BYTES_MAX: Final = 4 * KIB
ADDRESSES_MAX: Final = 8
ADDRESS_BYTES_MAX: Final = 256


def record_key(kind: str, identity: bytes) -> str:
    """The key under which the record (or the providers) of one thing of this kind is found."""
    name = digest(Domain.RECORD, kind.encode(), identity)[:KEY_DIGEST_BYTES]
    return KEY_PREFIX + base64.b32encode(name).decode().lower()


def peer_key(peer: PeerId) -> str:
    """Where a peer's own record is."""
    return record_key("peer", peer)


def blob_key(blob: bytes) -> str:
    """Where the providers of content-addressed bytes are."""
    return record_key("blob", blob)


def tile_key(tile: str) -> str:
    """Where the providers of a tile's state are."""
    return record_key("tile", tile.encode())


class Record(Message, frozen=True):
    """A value of the table."""

    kind: Annotated[str, Meta(max_length=16)]
    body: bytes


class PeerClaim(Message, frozen=True):
    """What a peer says about itself; this is what it signs."""

    peer: PeerField
    sequence: Natural  # the author raises it with every change: the highest wins
    addresses: Annotated[tuple[Annotated[str, Meta(max_length=ADDRESS_BYTES_MAX)], ...], Meta(max_length=ADDRESSES_MAX)]


class PeerRecord(Message, frozen=True):
    """Body of kind ``peer``."""

    claim: PeerClaim
    signature: SignatureField


def _signed_bytes(claim: PeerClaim) -> bytes:
    return digest(Domain.RECORD, b"peer claim", encode(claim))


def build_peer_record(keys: KeyPair, sequence: int, addresses: Sequence[str]) -> bytes:
    """The value of our own peer record."""
    claim = PeerClaim(peer=PeerId(keys.public), sequence=sequence, addresses=tuple(addresses))
    body = PeerRecord(claim=claim, signature=keys.sign(_signed_bytes(claim)))
    return encode(Record(kind="peer", body=encode(body)))


def check_peer_record(key: str, value: bytes) -> PeerClaim:
    """The claim of a peer record that stands under its own key and is signed by its own peer; raises `Rejected`."""
    record = decode(Record, value, limit_bytes=RECORD_BYTES_MAX)
    if record.kind != "peer":
        raise Rejected(Reason.UNKNOWN_KIND, f"a record of kind {record.kind!r}, not peer")
    body = decode(PeerRecord, record.body, limit_bytes=RECORD_BYTES_MAX)
    if key != peer_key(body.claim.peer):
        raise Rejected(Reason.WRONG_DIGEST, "the record stands under a key that is not its own")
    if not verify(body.claim.peer, _signed_bytes(body.claim), body.signature):
        raise Rejected(Reason.BAD_SIGNATURE, "peer record")
    return body.claim


@dataclass(frozen=True, slots=True)
class RecordKind:
    """One row: how a record of this kind proves itself, and its rank among records of the same key."""

    check_rank: Callable[[str, bytes], int]  # (key, value) -> rank, higher is better; raises Rejected
    says: str


RECORD_KINDS: Final = {
    "peer": RecordKind(
        lambda key, value: check_peer_record(key, value).sequence, "signed by that peer; the highest sequence"
    ),
}


def check_record(key: str, value: bytes) -> int:
    """The rank of a record that may stand under this key; raises `Rejected`."""
    record = decode(Record, value, limit_bytes=RECORD_BYTES_MAX)
    kind = RECORD_KINDS.get(record.kind)
    if kind is None:
        raise Rejected(Reason.UNKNOWN_KIND, f"a record of kind {record.kind!r}")
    return kind.check_rank(key, value)


def choose_best(key: str, values: Sequence[bytes]) -> int:
    """The index of the best valid value, of equals the last; `Rejected` of the last one when none is valid."""
    best_index, best_rank = -1, -1
    failure = Rejected(Reason.NOT_FOUND, "no values")
    for index, value in enumerate(values):
        try:
            rank = check_record(key, value)
        except Rejected as rejected:
            failure = rejected
            continue
        if rank >= best_rank:
            best_index, best_rank = index, rank
    if best_index < 0:
        raise failure
    return best_index
