"""Bytes from a peer become events, or a ``Rejected`` with its blame. The only way in for what peers say.

    gossip       bytes -> envelope -> payload   -> event
    validators   bytes -> ValidatorMessage      -> event   (signed inside; the stream says which member it is)

The host has already checked size and rate (p2p/admission.py). What is refused is counted by reason, and whoever is to blame
is reported; nothing here is trusted because of where it came from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from consensus.engine import Event
from consensus.events import HeadsSeen, RegionTold, RoundAnnounced, TipSeen, TransactionsSeen
from consensus.finality.events import MessageReceived
from p2p.transport import GossipReceived
from protocol.codec import decode
from protocol.envelope import Envelope, SequenceWindows, open_envelope
from protocol.finality import ChainId, ValidatorMessage
from protocol.ids import NetworkId, PeerId
from protocol.learning import Advert, FinalizedTip, HeadProposals, RoundAnnouncement
from protocol.limits import FRAME_BYTES_MAX
from protocol.messages import decode_payload
from protocol.rejection import Reason, Rejected
from protocol.transactions import TransactionBundle, check_transaction


class AuthorRejected(Rejected):
    """What a sealed envelope holds was refused. Its author answers for that: whoever passed it on could not look inside."""

    def __init__(self, author: PeerId, refusal: Rejected) -> None:
        super().__init__(refusal.reason, refusal.detail)
        self.author = author


class Inbound:
    """Decodes for one network. ``rejected`` counts refusals by the code of their reason."""

    def __init__(self, network: NetworkId, is_validator: Callable[[PeerId], bool]) -> None:
        """``is_validator``: whether a peer votes in this epoch, or in one beside it."""
        self._network = network
        self._chain = ChainId.of(network)
        self._is_validator = is_validator
        self._windows = SequenceWindows()
        self.rejected: Counter[str] = Counter()
        self.adverts: dict[PeerId, Advert] = {}  # newest by author; bounded by ADVERTS_MAX

    def refuse(self, refusal: Rejected) -> None:
        """Count a refusal."""
        self.rejected[refusal.reason.code] += 1

    def gossip(self, message: GossipReceived, now_ms: int) -> Event | None:
        """The event of a gossip message; None for soft state that changes nothing: it is kept here.

        Raises ``Rejected`` for an envelope that whoever handed it over should have refused, else ``AuthorRejected``.
        """
        envelope = open_envelope(message.data, self._network, now_ms, self._windows)
        try:
            return self._open_payload(envelope)
        except Rejected as refusal:
            raise AuthorRejected(envelope.sender, refusal) from None

    def _open_payload(self, envelope: Envelope) -> Event | None:
        payload = decode_payload(envelope)
        match payload:
            case HeadProposals():
                return HeadsSeen(payload.heads, envelope.sender)
            case RoundAnnouncement():
                return RoundAnnounced(envelope.sender, payload.round)
            case TransactionBundle():
                checked = tuple(check_transaction(data, self._chain) for data in payload.transactions)
                return TransactionsSeen(checked, envelope.sender)
            case FinalizedTip():
                return TipSeen(payload.header, payload.certificate)
            case Advert():
                earlier = self.adverts.pop(envelope.sender, None)
                self.adverts[envelope.sender] = payload
                if len(self.adverts) > ADVERTS_MAX:
                    del self.adverts[next(iter(self.adverts))]
                is_known = earlier is not None and earlier.region == payload.region
                return None if is_known else RegionTold(envelope.sender, payload.region)
            case _:
                raise Rejected(Reason.UNKNOWN_KIND, f"kind {envelope.kind}")

    def validator(self, peer: PeerId, data: bytes) -> MessageReceived | None:
        """The event of a message on a validator stream; None from who is no validator as far as we know. Raises ``Rejected``.

        Nobody is blamed for that: whoever speaks may be in a roster that we have not heard of yet.
        """
        if not self._is_validator(peer):
            self.rejected[Reason.NOT_A_MEMBER.code] += 1
            return None
        return MessageReceived(peer, _decode_validator(data))


ADVERTS_MAX = 4096  # peers whose adverts are kept: about 1 KiB each


def _decode_validator(data: bytes) -> ValidatorMessage:
    return decode(ValidatorMessage, data, limit_bytes=FRAME_BYTES_MAX)  # type: ignore[arg-type]  # a union
