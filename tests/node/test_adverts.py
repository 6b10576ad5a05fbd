"""Who is here: adverts are kept with their envelopes, and told to whoever asks and has not heard them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.events import RegionTold
from node.adverts import Adverts, advert_seconds
from node.inbound import AuthorRejected, Inbound
from node.services.gossip import ADVERT_LIFETIME_MS
from p2p.requests import ADVERTS
from p2p.transport import GossipReceived
from protocol.codec import Message, encode
from protocol.envelope import SequenceWindows, open_envelope, seal
from protocol.ids import Height, PeerId, Round, after
from protocol.keys import KeyPair
from protocol.learning import Advert, GetAdverts, KnownAdverts, RoundAnnouncement
from protocol.limits import ADVERT_NAME_BYTES, ADVERTS_MAX, ADVERTS_PER_ANSWER_MAX, ENVELOPE_LIFETIME_MS_MAX
from protocol.messages import KIND_OF
from protocol.rejection import Reason, Rejected
from tests.protocol.samples import genesis

NETWORK = genesis().network_id()
NOW_MS = 1_000_000
KEYS = tuple(KeyPair(bytes([index]) * 32) for index in range(1, 9))
PEERS = tuple(PeerId(key.public) for key in KEYS)
ME = PeerId(bytes(32))


def advert(region: str = "europe", said_ms: int = NOW_MS) -> Advert:
    return Advert(
        ("/ip4/127.0.0.1/tcp/4001",), region, ("learner",), "cpu", 0, 1, 1, 0, 12, Round(0), Height(0), said_ms
    )


def sealed(author: int, message: Message | None = None, *, number: int = 1, lives_ms: int = 60_000) -> bytes:
    message = message or advert()
    return seal(KEYS[author], NETWORK, KIND_OF[type(message)], number, NOW_MS + lives_ms, encode(message))


def inbound() -> Inbound:
    return Inbound(NETWORK, lambda peer: False)


def hear(node: Inbound, data: bytes) -> object:
    return node.gossip(GossipReceived("a topic", PEERS[7], data), NOW_MS)


def ask(asker: Inbound, teller: Inbound, me: PeerId = ME) -> list[object]:
    """One question and its answer, as the bytes that travel."""
    question = asker.adverts.question(me, NOW_MS)
    assert len(encode(question)) <= ADVERTS.request_bytes_max
    answer = encode(teller.adverts.answer(me, question, NOW_MS))
    assert len(answer) <= ADVERTS.response_bytes_max
    return list(asker.adverts_told(answer, NOW_MS))


@given(st.sets(st.integers(0, 6)), st.sets(st.integers(0, 6)))
def test_who_asks_knows_everybody_whom_either_knew(here: set[int], there: set[int]) -> None:
    """Each advert that was missing comes once, with its region; a second question is answered by nothing."""
    asker, teller = inbound(), inbound()
    for node, known in ((asker, here), (teller, there)):
        for author in sorted(known):
            hear(node, sealed(author))
    told = ask(asker, teller)
    assert {event.peer for event in told if isinstance(event, RegionTold)} == {PEERS[each] for each in there - here}
    assert set(asker.adverts) == {PEERS[each] for each in here | there}
    assert ask(asker, teller) == []
    assert teller.adverts.answer(ME, asker.adverts.question(ME, NOW_MS), NOW_MS) == KnownAdverts(())


def test_nobody_is_told_of_itself() -> None:
    """Its name is in its question."""
    asker, teller = inbound(), inbound()
    hear(teller, sealed(0))
    assert ask(asker, teller, me=PEERS[0]) == []


def test_an_advert_dies_with_its_envelope() -> None:
    """What expired is passed on to nobody, and asked for again."""
    teller = inbound()
    hear(teller, sealed(0, lives_ms=10))
    assert teller.adverts.answer(ME, GetAdverts(b""), NOW_MS + 10).envelopes
    assert not teller.adverts.answer(ME, GetAdverts(b""), NOW_MS + 11).envelopes
    assert teller.adverts.question(ME, NOW_MS + 11) == GetAdverts(ME[:ADVERT_NAME_BYTES])


def test_the_newest_word_counts_however_it_comes() -> None:
    """A teller that is behind does not bring back what an author has since corrected."""
    node, behind = inbound(), inbound()
    hear(behind, sealed(0, advert("asia", NOW_MS - 5), number=1))
    hear(node, sealed(0, advert("europe", NOW_MS), number=2))
    told = list(node.adverts_told(encode(behind.adverts.answer(ME, GetAdverts(b""), NOW_MS)), NOW_MS))
    assert told == []
    kept = node.adverts.find(PEERS[0])
    assert kept is not None
    assert kept.region == "europe"


@pytest.mark.parametrize(
    ("envelope", "reason"),
    [
        (b"\x00", Reason.MALFORMED),
        (sealed(1)[:-1] + b"\x00", Reason.BAD_SIGNATURE),
        (sealed(1, RoundAnnouncement(Round(1), "cpu")), Reason.UNKNOWN_KIND),
    ],
)
def test_what_a_teller_could_have_checked_is_its_fault(envelope: bytes, reason: Reason) -> None:
    """What came before the bad one in its answer is kept."""
    node, told = inbound(), []
    with pytest.raises(Rejected) as caught:
        told += [*node.adverts_told(encode(KnownAdverts((sealed(0), envelope))), NOW_MS)]
    assert caught.value.reason is reason
    assert not isinstance(caught.value, AuthorRejected)
    assert list(node.adverts) == [PEERS[0]]


def test_what_an_author_sealed_is_the_authors_fault() -> None:
    """Whoever passed it on is not blamed for what is inside."""
    node = inbound()
    empty = seal(KEYS[0], NETWORK, KIND_OF[Advert], 1, NOW_MS + 1, b"no advert")
    with pytest.raises(AuthorRejected) as caught:
        list(node.adverts_told(encode(KnownAdverts((empty,))), NOW_MS))
    assert caught.value.author == PEERS[0]


def test_large_adverts_are_not_passed_on() -> None:
    """A few of them would fill an answer, and keep a newcomer from hearing of anybody else."""
    teller, long = inbound(), "x" * 200
    wide = Advert((long,) * 8, "", (), "cpu", 0, 1, 1, 0, 12, Round(0), Height(0), NOW_MS)
    hear(teller, sealed(0, wide))
    hear(teller, sealed(1))
    assert set(teller.adverts) == {PEERS[0], PEERS[1]}
    assert teller.adverts.answer(ME, GetAdverts(b""), NOW_MS) == KnownAdverts((sealed(1),))


def test_two_askers_are_told_of_others_first() -> None:
    """An answer begins behind the asker's own place: whoever speaks most does not decide whom everybody knows."""
    teller = inbound()
    for author in range(7):
        hear(teller, sealed(author))
    for asker in (ME, PEERS[3]):
        told = teller.adverts.answer(asker, GetAdverts(b""), NOW_MS).envelopes
        assert told == tuple(sealed(PEERS.index(peer)) for peer in after(asker, PEERS[:7]))


@pytest.mark.parametrize(("peers", "seconds"), [(0, 30.0), (16, 30.0), (64, 120.0), (10_000, 450.0)])
def test_what_each_hears_does_not_grow(peers: int, seconds: float) -> None:
    """The more there are, the less often each speaks; yet before its last advert has expired."""
    assert advert_seconds(peers) == seconds
    assert 1_000 * advert_seconds(peers) < ADVERT_LIFETIME_MS < ENVELOPE_LIFETIME_MS_MAX


def test_adverts_and_answers_are_bounded() -> None:
    """The oldest go when there are too many; an answer holds so many, in so many bytes."""
    adverts, windows = Adverts(), SequenceWindows()
    data = sealed(0)
    envelope = open_envelope(data, NETWORK, NOW_MS, windows)
    for number in range(ADVERTS_MAX + 10):
        author = PeerId(number.to_bytes(8, "big") + bytes(24))
        adverts.take(advert(), type(envelope)(envelope.kind, author, number, envelope.expires_ms, b""), data)
    assert len(adverts) == ADVERTS_MAX
    assert next(iter(adverts)) == PeerId((10).to_bytes(8, "big") + bytes(24))
    answer = adverts.answer(ME, GetAdverts(b""), NOW_MS)
    assert len(answer.envelopes) <= ADVERTS_PER_ANSWER_MAX
    assert len(encode(answer)) <= ADVERTS.response_bytes_max
    assert len(encode(adverts.question(ME, NOW_MS))) <= ADVERTS.request_bytes_max
