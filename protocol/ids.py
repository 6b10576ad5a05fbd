"""Identifiers: typed, ordered, short to print.

A peer is named by the 32-byte Ed25519 public key of its node key. Its text is the libp2p peer id (base58 of the identity
multihash of the protobuf-encoded key), so that addresses, logs and the command line all show the same name; the two forms
are in one-to-one correspondence.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, NewType

from msgspec import Meta

from protocol.limits import TILE_ID_CHARACTERS_MAX
from protocol.rejection import Reason, Rejected

PeerId = NewType("PeerId", bytes)  # 32-byte Ed25519 public key of the node key
VoteKey = NewType("VoteKey", bytes)  # 32-byte Ed25519 public key of the vote key
AccountId = NewType("AccountId", bytes)  # 32-byte Ed25519 public key of the account key
Digest = NewType("Digest", bytes)  # 32-byte SHA-256 with a domain word (protocol/digest.py)
Signature = NewType("Signature", bytes)  # 64-byte Ed25519 signature
NetworkId = NewType("NetworkId", bytes)  # 32-byte digest of the genesis document
TileId = NewType("TileId", str)  # "<group>/<index>", e.g. "layer3.expert7/0"
ShardId = NewType("ShardId", int)  # which gossip topic carries a tile's heads
Round = NewType("Round", int)
Version = NewType("Version", int)  # of a tile; 0 is genesis
Height = NewType("Height", int)
View = NewType("View", int)
Epoch = NewType("Epoch", int)
MemberIndex = NewType("MemberIndex", int)  # position in the roster's member list

# The same types with their bounds, for fields of messages: msgspec checks them while decoding.
_bytes32 = Meta(min_length=32, max_length=32)
_natural = Meta(ge=0, le=2**63 - 1)
PeerField = Annotated[PeerId, _bytes32]
VoteKeyField = Annotated[VoteKey, _bytes32]
AccountField = Annotated[AccountId, _bytes32]
DigestField = Annotated[Digest, _bytes32]
NetworkField = Annotated[NetworkId, _bytes32]
SignatureField = Annotated[Signature, Meta(min_length=64, max_length=64)]
TileField = Annotated[
    TileId, Meta(min_length=3, max_length=TILE_ID_CHARACTERS_MAX, pattern=r"^[a-z0-9][a-z0-9.]*/[0-9]+\Z")
]
RoundField = Annotated[Round, _natural]
VersionField = Annotated[Version, _natural]
HeightField = Annotated[Height, _natural]
ViewField = Annotated[View, _natural]
EpochField = Annotated[Epoch, _natural]
MemberField = Annotated[MemberIndex, Meta(ge=0, le=2**16 - 1)]
Natural = Annotated[int, _natural]

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"  # base58, Bitcoin's order
TEXTS_REMEMBERED_MAX = 4096  # of peer ids and addresses: some hundred bytes each
_PEER_PREFIX = bytes.fromhex("002408011220")  # identity multihash of 36 bytes; protobuf: type Ed25519, 32 bytes of data


@lru_cache(TEXTS_REMEMBERED_MAX)
def peer_text(peer: PeerId) -> str:
    """The libp2p peer id of an Ed25519 key: ``12D3KooW...``. Remembered: peers are told of all the time."""
    number = int.from_bytes(_PEER_PREFIX + peer, "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    return "1" + text  # the prefix begins with one zero byte, which base58 writes as one "1"


def parse_peer(text: str) -> PeerId:
    """The inverse of :func:`peer_text`; raises ``Rejected(BAD_ADDRESS)``."""
    number = 0
    for character in text[:64]:
        digit = _ALPHABET.find(character)
        if digit < 0:
            break
        number = number * 58 + digit
    raw = number.to_bytes(48, "big")[-38:]
    peer = PeerId(raw[6:])
    if raw[:6] != _PEER_PREFIX or peer_text(peer) != text:
        raise Rejected(Reason.BAD_ADDRESS, f"{text[:60]!r} is not an Ed25519 peer id (they begin with 12D3KooW)")
    return peer


def short(peer: PeerId) -> str:
    """The last six characters of a peer's text: enough to tell peers apart in a log."""
    return peer_text(peer)[-6:]


def after(me: PeerId, peers: Iterable[PeerId]) -> list[PeerId]:
    """Other peers in the order of a ring, beginning behind our own place: so that many askers do not all ask the same first."""
    others = sorted(peer for peer in peers if peer != me)
    at = bisect(others, me)
    return others[at:] + others[:at]


def short_digest(value: bytes) -> str:
    """The first eight hexadecimal digits of a digest or key."""
    return value[:4].hex()


def parse_hex32(text: str, what: str) -> bytes:
    """32 bytes from 64 hexadecimal digits; raises ``Rejected(BAD_ARGUMENT)`` naming ``what``."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != 32 or len(text) != 64:  # `fromhex` skips spaces
        raise Rejected(Reason.BAD_ARGUMENT, f"{what} must be 64 hexadecimal digits")
    return value
