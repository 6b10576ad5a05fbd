"""What peers say that they are: the newest advert of each, with the envelope that proves it, so that it can be passed on.

Everybody hears an advert by gossip; whoever comes later asks a neighbour for those that it missed (docs/decisions/0020).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from p2p.requests import ADVERTS
from protocol.envelope import Envelope
from protocol.ids import PeerId, after
from protocol.learning import Advert, GetAdverts, KnownAdverts
from protocol.limits import ADVERT_NAME_BYTES, ADVERTS_MAX, ADVERTS_PER_ANSWER_MAX, KIB

ADVERT_SECONDS: Final = 30.0  # DESIGN 4
ADVERT_SECONDS_MAX: Final = 450.0  # a living peer's advert is always alive
CROWD_PEERS: Final = 16  # so many adverts in that time are heard; with more peers each speaks less often (a guess)
ANSWER_BYTES_MAX: Final = ADVERTS.response_bytes_max - 16 * KIB  # of envelopes: some six hundred ordinary ones
PASSED_ON_BYTES_MAX: Final = 1 * KIB  # an ordinary one has 330 bytes: a few large ones must not fill an answer


def advert_seconds(peers: int) -> float:
    """Between two adverts of one of so many peers: what each hears does not grow, as with RTCP's reports (RFC 3550, 6.2)."""
    return min(ADVERT_SECONDS * max(1.0, peers / CROWD_PEERS), ADVERT_SECONDS_MAX)


@dataclass(frozen=True, slots=True)
class _Heard:
    advert: Advert
    envelope: bytes
    expires_ms: int


class Adverts:
    """By author, in the order in which they were heard; the oldest goes when there are too many."""

    def __init__(self) -> None:
        self._heard: dict[PeerId, _Heard] = {}

    def __len__(self) -> int:
        return len(self._heard)

    def __iter__(self) -> Iterator[PeerId]:
        return iter(self._heard)

    def __contains__(self, peer: object) -> bool:
        return peer in self._heard

    def find(self, peer: PeerId) -> Advert | None:
        heard = self._heard.get(peer)
        return heard.advert if heard else None

    def take(self, advert: Advert, envelope: Envelope, sealed: bytes) -> bool:
        """Keep an advert unless its author said another one later; whether it says another region than before.

        ``sealed``: the bytes that ``envelope`` was opened from.
        """
        earlier = self._heard.get(envelope.sender)
        if earlier is not None and earlier.advert.time_ms > advert.time_ms:
            return False
        self._heard.pop(envelope.sender, None)
        self._heard[envelope.sender] = _Heard(advert, bytes(sealed), envelope.expires_ms)
        if len(self._heard) > ADVERTS_MAX:
            del self._heard[next(iter(self._heard))]
        return earlier is None or earlier.advert.region != advert.region

    def forget(self, peer: PeerId) -> None:
        self._heard.pop(peer, None)

    def question(self, me: PeerId, now_ms: int) -> GetAdverts:
        """What to ask another peer: whom it knows beside ``me`` and those whose adverts are here."""
        fresh = (peer for peer, heard in self._heard.items() if heard.expires_ms >= now_ms)
        return GetAdverts(
            b"".join(peer[:ADVERT_NAME_BYTES] for peer in (me, *fresh))[: ADVERT_NAME_BYTES * ADVERTS_MAX]
        )

    def answer(self, asker: PeerId, question: GetAdverts, now_ms: int) -> KnownAdverts:
        """Those that the asker does not have, as many as fit, beginning behind its own place in the ring of ids.

        The newest first would let whoever speaks most decide whom a newcomer knows.
        """
        size = ADVERT_NAME_BYTES
        known = {question.known[at : at + size] for at in range(0, len(question.known), size)}
        envelopes: list[bytes] = []
        room = ANSWER_BYTES_MAX
        for peer in after(asker, self._heard):
            heard = self._heard[peer]
            if peer[:size] in known or heard.expires_ms < now_ms or len(heard.envelope) > PASSED_ON_BYTES_MAX:
                continue
            room -= len(heard.envelope)
            if room < 0 or len(envelopes) == ADVERTS_PER_ANSWER_MAX:
                break
            envelopes.append(heard.envelope)
        return KnownAdverts(tuple(envelopes))
