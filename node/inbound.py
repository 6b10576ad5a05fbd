"""Bytes from a peer become events, or a ``Rejected`` with its blame. The only way in for what peers say.

    gossip       bytes -> envelope -> payload   -> event
    validators   bytes -> ValidatorFrame        -> event   (signed inside; the stream says which member it is)
    proposers    bytes -> HeadProposals         -> event   (signed inside)
    adverts      bytes -> envelopes -> payloads -> events  (what gossip brought to somebody else)

The host has already checked size and rate (p2p/admission.py). What is refused is counted by reason, and whoever is to blame
is reported; nothing here is trusted because of where it came from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from consensus.engine import Event
from consensus.events import HeadsSeen, RegionTold, RoundAnnounced, TipSeen, TransactionsSeen
from consensus.finality.events import MessageReceived
from node.adverts import Adverts
from p2p import transport as wire
from p2p.requests import ADVERTS, HEADS
from p2p.transport import GossipReceived
from protocol.codec import decode
from protocol.envelope import Envelope, SequenceWindows, open_envelope
from protocol.finality import ChainId, ValidatorFrame
from protocol.ids import NetworkId, PeerId
from protocol.learning import Advert, FinalizedTip, HeadProposals, KnownAdverts, RoundAnnouncement
from protocol.limits import FRAME_BYTES_MAX
from protocol.messages import Kind, decode_payload
from protocol.rejection import Reason, Rejected
from protocol.transactions import TransactionBundle, check_transaction


class AuthorRejected(Rejected):
    """What a sealed envelope holds was refused. Its author answers for that: whoever passed it on could not look inside."""

    def __init__(self, author: PeerId, refusal: Rejected) -> None:
        super().__init__(refusal.reason, refusal.detail)
        self.author = author


class Inbound:
    """Decodes for one network. ``rejected`` counts refusals by the code of their reason."""

    def __init__(
        self, network: NetworkId, is_validator: Callable[[PeerId], bool], chain: ChainId | None = None
    ) -> None:
        """``is_validator``: whether a peer votes in this epoch, or in one beside it. ``chain``: None for the first fork."""
        self._network = network
        self._chain = chain or ChainId.of(network)
        self._is_validator = is_validator
        self._windows = SequenceWindows()
        self.rejected: Counter[str] = Counter()
        self.adverts = Adverts()

    def refuse(self, refusal: Rejected) -> None:
        """Count a refusal."""
        self.rejected[refusal.reason.code] += 1

    def gossip(self, message: GossipReceived, now_ms: int) -> Event | None:
        """The event of a gossip message; None for soft state that changes nothing: it is kept here.

        Raises ``Rejected`` for an envelope that whoever handed it over should have refused, else ``AuthorRejected``.
        """
        envelope = open_envelope(message.data, self._network, now_ms, self._windows)
        return self._open_payload(envelope, message.data)

    def adverts_told(self, data: bytes, now_ms: int) -> Iterator[Event]:
        """The events of adverts that a peer passed on when it was asked (``KnownAdverts``).

        Raises ``Rejected`` for what it should have refused itself, else ``AuthorRejected``.
        """
        for sealed in decode(KnownAdverts, data, limit_bytes=ADVERTS.response_bytes_max).envelopes:
            try:
                envelope = open_envelope(sealed, self._network, now_ms, self._windows)
            except Rejected as refusal:
                if refusal.reason in (Reason.REPEATED, Reason.EXPIRED):
                    continue  # gossip was faster, or clocks differ
                raise
            if envelope.kind != Kind.ADVERT:
                raise Rejected(Reason.UNKNOWN_KIND, f"kind {envelope.kind} among adverts")
            event = self._open_payload(envelope, sealed)
            if event is not None:
                yield event

    def _open_payload(self, envelope: Envelope, sealed: bytes) -> Event | None:
        try:
            return self._decode(envelope, sealed)
        except Rejected as refusal:
            raise AuthorRejected(envelope.sender, refusal) from None

    def _decode(self, envelope: Envelope, sealed: bytes) -> Event | None:
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
                is_news = self.adverts.take(payload, envelope, sealed)
                return RegionTold(envelope.sender, payload.region) if is_news else None
            case _:
                raise Rejected(Reason.UNKNOWN_KIND, f"kind {envelope.kind}")

    def message(self, message: wire.MessageReceived) -> Event | None:
        """The event of a one-way message; None for one that says nothing to us. Raises ``Rejected``."""
        if message.protocol == HEADS.protocol:
            heads = decode(HeadProposals, message.data, limit_bytes=HEADS.request_bytes_max).heads
            return HeadsSeen(heads, message.peer)
        return self.validator(message.peer, message.data)

    def validator(self, peer: PeerId, data: bytes) -> MessageReceived | None:
        """The event of a message on a validator stream; None where it is not for us. Raises ``Rejected``.

        Nobody is blamed for being no validator, as far as we know: whoever speaks may be in a roster that we have not heard of
        yet. Nor for another fork: who has not reached a recovery's anchor must fetch what it lacks from those who have.
        """
        if not self._is_validator(peer):
            self.rejected[Reason.NOT_A_MEMBER.code] += 1
            return None
        frame = decode(ValidatorFrame, data, limit_bytes=FRAME_BYTES_MAX)
        if frame.fork != self._chain.fork:
            self.rejected[Reason.OTHER_FORK.code] += 1
            return None
        return MessageReceived(peer, frame.message)
