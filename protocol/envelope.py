"""Envelopes: who says something, to which network, until when, and only once.

    envelope  = [version, network_id, kind, sender, sequence, expires_ms, payload, signature]   canonical msgpack
    signature = Ed25519(sender, digest("nock/envelope/1", every byte before the signature element))

A receiver rejects, in this order and before the payload is decoded: foreign networks, expired or over-long lifetimes,
repeated sequences, bad signatures. Only a verified envelope marks its sequence as seen, so that a forger cannot burn
somebody's numbers.

Receivers keep a window of 1,024 bits per (sender, kind), least recently used first out. Senders reserve numbers in durable
blocks of 65,536: a node killed with -9 begins after its last reserved block and never repeats one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from protocol.codec import Message, decode, encode
from protocol.digest import Domain, digest
from protocol.ids import Natural, NetworkField, NetworkId, PeerField, PeerId, Signature, SignatureField
from protocol.keys import KeyPair, verify
from protocol.limits import (
    CLOCK_SLACK_MS,
    ENVELOPE_LIFETIME_MS_MAX,
    ENVELOPE_OVERHEAD_BYTES_MAX,
    GOSSIP_MESSAGE_BYTES_MAX,
    SEQUENCE_BLOCK,
    SEQUENCE_WINDOW_BITS,
    SEQUENCE_WINDOWS_MAX,
)
from protocol.rejection import Reason, Rejected

ENVELOPE_VERSION = 1
PAYLOAD_BYTES_MAX = GOSSIP_MESSAGE_BYTES_MAX - ENVELOPE_OVERHEAD_BYTES_MAX
_SIGNATURE_TAIL_BYTES = 66  # msgpack of 64 bytes: 0xc4 0x40 and the bytes


class Sealed(Message, frozen=True):
    """An envelope that decoded; nothing about it is checked yet."""

    version: Annotated[int, Meta(ge=ENVELOPE_VERSION, le=ENVELOPE_VERSION)]
    network: NetworkField
    kind: Annotated[int, Meta(ge=0, le=255)]
    sender: PeerField
    sequence: Natural
    expires_ms: Natural
    payload: Annotated[bytes, Meta(max_length=PAYLOAD_BYTES_MAX)]
    signature: SignatureField


@dataclass(frozen=True, slots=True)
class Envelope:
    """A verified envelope: of our network, alive, first of its sequence, signed by its sender."""

    kind: int
    sender: PeerId
    sequence: int
    expires_ms: int
    payload: bytes


def seal(key: KeyPair, network: NetworkId, kind: int, sequence: int, expires_ms: int, payload: bytes) -> bytes:
    """The bytes of an envelope."""
    unsigned = encode(
        Sealed(ENVELOPE_VERSION, network, kind, PeerId(key.public), sequence, expires_ms, payload, Signature(bytes(64)))
    )
    text = unsigned[:-_SIGNATURE_TAIL_BYTES]
    return unsigned[:-64] + key.sign(digest(Domain.ENVELOPE, text))


class SequenceWindows:
    """Which sequence numbers of each (sender, kind) were seen: a sliding bitmap each, bounded in number."""

    __slots__ = ("_limit", "_windows")

    def __init__(self, limit: int = SEQUENCE_WINDOWS_MAX) -> None:
        self._limit = limit
        self._windows: OrderedDict[tuple[PeerId, int], tuple[int, int]] = OrderedDict()  # -> (highest, bitmap below it)

    def __len__(self) -> int:
        return len(self._windows)

    def is_fresh(self, sender: PeerId, kind: int, sequence: int) -> bool:
        """Whether the number was not seen and is not too far behind the highest."""
        window = self._windows.get((sender, kind))
        if window is None:
            return True
        highest, seen = window
        behind = highest - sequence
        return behind < 0 or (behind < SEQUENCE_WINDOW_BITS and not seen >> behind & 1)

    def mark(self, sender: PeerId, kind: int, sequence: int) -> None:
        """Remember the number (bit 0 of the bitmap is the highest)."""
        highest, seen = self._windows.pop((sender, kind), (sequence, 0))
        ahead = sequence - highest
        if ahead >= SEQUENCE_WINDOW_BITS:
            highest, seen = sequence, 1  # never shift by more than the window: the number is the sender's to choose
        elif ahead > 0:
            highest, seen = sequence, (seen << ahead | 1) & ((1 << SEQUENCE_WINDOW_BITS) - 1)
        else:
            seen |= 1 << -ahead
        self._windows[sender, kind] = (highest, seen)
        if len(self._windows) > self._limit:
            self._windows.popitem(last=False)


def open_envelope(data: bytes, network: NetworkId, now_ms: int, windows: SequenceWindows) -> Envelope:
    """Check an envelope and mark its sequence; raises only ``Rejected``."""
    sealed = decode(Sealed, data, limit_bytes=GOSSIP_MESSAGE_BYTES_MAX)
    if sealed.network != network:
        raise Rejected(Reason.FOREIGN_NETWORK, f"network {sealed.network[:4].hex()}")
    if sealed.expires_ms < now_ms - CLOCK_SLACK_MS:
        raise Rejected(Reason.EXPIRED, f"{now_ms - sealed.expires_ms} ms ago")
    if sealed.expires_ms > now_ms + ENVELOPE_LIFETIME_MS_MAX + CLOCK_SLACK_MS:
        raise Rejected(Reason.EXPIRES_TOO_LATE, f"{sealed.expires_ms - now_ms} ms ahead")
    if not windows.is_fresh(sealed.sender, sealed.kind, sealed.sequence):
        raise Rejected(Reason.REPEATED, f"sequence {sealed.sequence}")
    text = bytes(data[:-_SIGNATURE_TAIL_BYTES])
    if not verify(sealed.sender, digest(Domain.ENVELOPE, text), sealed.signature):
        raise Rejected(Reason.BAD_SIGNATURE, f"envelope of kind {sealed.kind}")
    windows.mark(sealed.sender, sealed.kind, sealed.sequence)
    return Envelope(sealed.kind, sealed.sender, sealed.sequence, sealed.expires_ms, sealed.payload)


@dataclass(slots=True)
class SequenceAllocator:
    """Numbers for outgoing envelopes. ``reserved`` is the durable end of the current block.

    ``take`` returns the next number, or None when a block must first be reserved: write ``next_block()`` durably, then
    call ``reserve`` with it.
    """

    reserved: int  # what the disk says: every number below may have been used
    following: int = -1

    def __post_init__(self) -> None:
        self.following = self.reserved

    def take(self) -> int | None:
        """The next number, if one is reserved."""
        if self.following >= self.reserved:
            return None
        self.following += 1
        return self.following - 1

    def next_block(self) -> int:
        """The value to make durable before calling ``reserve`` with it."""
        return self.reserved + SEQUENCE_BLOCK

    def reserve(self, until: int) -> None:
        """Numbers below ``until`` are durable and may be used."""
        self.reserved = until
