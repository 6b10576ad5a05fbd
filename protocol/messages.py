"""The table of gossip: kind of envelope -> payload type."""

from __future__ import annotations

import enum

from protocol.codec import Message, decode
from protocol.envelope import PAYLOAD_BYTES_MAX, Envelope
from protocol.learning import Advert, FinalizedTip, HeadProposals, RoundAnnouncement
from protocol.rejection import Reason, Rejected
from protocol.transactions import TransactionBundle


class Kind(enum.IntEnum):
    """What an envelope carries."""

    ADVERT = 1
    ROUND_ANNOUNCEMENT = 2
    HEAD_PROPOSALS = 3
    FINALIZED_TIP = 4
    TRANSACTIONS = 5


PAYLOADS: dict[int, type[Message]] = {
    Kind.ADVERT: Advert,
    Kind.ROUND_ANNOUNCEMENT: RoundAnnouncement,
    Kind.HEAD_PROPOSALS: HeadProposals,
    Kind.FINALIZED_TIP: FinalizedTip,
    Kind.TRANSACTIONS: TransactionBundle,
}
KIND_OF: dict[type[Message], Kind] = {payload: Kind(kind) for kind, payload in PAYLOADS.items()}


def decode_payload(envelope: Envelope) -> Message:
    """The checked payload of a verified envelope; raises ``Rejected``."""
    payload = PAYLOADS.get(envelope.kind)
    if payload is None:
        raise Rejected(Reason.UNKNOWN_KIND, f"kind {envelope.kind}")
    return decode(payload, envelope.payload, limit_bytes=PAYLOAD_BYTES_MAX)
