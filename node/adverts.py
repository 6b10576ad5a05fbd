"""What peers say that they are: the newest advert of each, with the envelope that proves it, so that it can be passed on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from protocol.envelope import Envelope
from protocol.ids import PeerId
from protocol.learning import ADVERT_NAME_BYTES, Advert, GetAdverts, KnownAdverts
from protocol.limits import ADVERTS_MAX, ADVERTS_PER_ANSWER_MAX

ANSWER_BYTES_MAX: Final = 240 * 1024  # of envelopes: some six hundred ordinary ones


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

    def answer(self, question: GetAdverts, now_ms: int) -> KnownAdverts:
        """The newest that the asker does not have, as many as fit."""
        size = ADVERT_NAME_BYTES
        known = {question.known[at : at + size] for at in range(0, len(question.known), size)}
        envelopes: list[bytes] = []
        room = ANSWER_BYTES_MAX
        for peer, heard in reversed(self._heard.items()):
            if peer[:size] in known or heard.expires_ms < now_ms:
                continue
            room -= len(heard.envelope)
            if room < 0 or len(envelopes) == ADVERTS_PER_ANSWER_MAX:
                break
            envelopes.append(heard.envelope)
        return KnownAdverts(tuple(envelopes))
