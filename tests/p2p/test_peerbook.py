"""The peer book, told what happened and asked what to do; no network, no clock but the one passed in."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from p2p.peerbook import (
    ADDRESSES_PER_PEER_MAX,
    BACKOFF_MAX_SECONDS,
    BAN_SECONDS,
    BOOTSTRAP_BACKOFF_MAX_SECONDS,
    CONNECTIONS_WANTED,
    PING_SECONDS,
    SCORE_HALF_LIFE_SECONDS,
    SECOND_SECONDS,
    SILENCE_SECONDS,
    AddressesLearned,
    Admitted,
    Ban,
    Dial,
    DialFailed,
    Drop,
    Forgotten,
    Heard,
    Lost,
    Misbehaved,
    PeerBook,
    Ping,
    Pong,
    Refused,
    Tick,
)
from protocol.ids import PeerId

ME = PeerId(b"m" * 32)
A = PeerId(b"a" * 32)
HERE = ("/ip4/127.0.0.1/tcp/1",)


def peer(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def book() -> PeerBook:
    return PeerBook(ME, random.Random(1))


def test_a_learned_peer_is_dialled_once():
    """A new address is dialled at once, and not again while that dial runs; our own never is."""
    known = book()
    assert known.handle(AddressesLearned(A, HERE), 0.0) == [Dial(A, HERE)]
    assert known.handle(AddressesLearned(A, HERE), 0.1) == []
    assert known.handle(Tick(), 1.0) == []
    assert known.handle(AddressesLearned(ME, HERE), 0.0) == []
    assert known.known_peers() == (A,)


def test_a_peer_is_dialled_for_ever_with_growing_pauses():
    """Failures double the pause up to a ceiling; after years of them the peer is still dialled."""
    known = book()
    known.handle(AddressesLearned(A, HERE), 0.0)
    now, pauses = 0.0, []
    for _ in range(40):
        known.handle(DialFailed(A), now)
        began = now
        while not known.handle(Tick(), now):
            now += 0.05
        pauses.append(now - began)
    assert pauses[0] < 0.5
    assert pauses[3] > 2 * pauses[0]
    assert all(0.7 * BACKOFF_MAX_SECONDS < pause < 1.3 * BACKOFF_MAX_SECONDS for pause in pauses[10:])


def test_a_bootstrap_peer_is_tried_more_often_and_never_evicted():
    """Its pauses have a lower ceiling, and a book full of strangers keeps it."""
    known = PeerBook(ME, random.Random(1), peers_max=50)
    known.handle(AddressesLearned(A, HERE, is_bootstrap=True), 0.0)
    for _ in range(20):
        known.handle(DialFailed(A), 0.0)
    assert Dial(A, HERE) in known.handle(Tick(), 1.3 * BOOTSTRAP_BACKOFF_MAX_SECONDS)
    known.handle(DialFailed(A), 10.0)
    for number in range(1000):
        known.handle(AddressesLearned(peer(number), HERE), 10.0)
        known.handle(DialFailed(peer(number)), 10.0)
    assert A in known.known_peers()
    assert len(known.known_peers()) <= 50


def test_a_lost_peer_is_dialled_again_unless_forgotten():
    """Losing a connection starts the dialling; being forgotten ends it."""
    known = book()
    known.handle(AddressesLearned(A, HERE), 0.0)
    known.handle(Admitted(A), 0.0)
    known.handle(Lost(A), 1.0)
    assert known.handle(Tick(), 2.0) == [Dial(A, HERE)]
    known.handle(DialFailed(A), 2.0)
    known.handle(Forgotten(A), 2.0)
    assert known.handle(Tick(), 1000.0) == []
    assert known.handle(AddressesLearned(A, HERE), 1000.0) == [Dial(A, HERE)]


def test_a_refused_peer_is_left_alone_for_long():
    """A peer of another network is not dialled again soon, but some day."""
    known = book()
    known.handle(AddressesLearned(A, HERE), 0.0)
    known.handle(Refused(A), 0.0)
    assert known.handle(Tick(), 30.0) == []
    assert known.handle(Tick(), 80.0) == [Dial(A, HERE)]


def test_a_silent_peer_is_pinged_and_dropped_in_time():
    """A peer that answers nothing is dropped within fifteen seconds; one that talks is not, though it answers no ping."""
    known = book()
    known.handle(Admitted(A), 0.0)
    decisions = [(0.5 * step, known.handle(Tick(), 0.5 * step)) for step in range(31)]
    pings = [now for now, made in decisions if made == [Ping(A)]]
    drops = [now for now, made in decisions if any(isinstance(decision, Drop) for decision in made)]
    first = pings[0]  # the other end asks a second earlier, if its name is the greater
    assert first == (SECOND_SECONDS if A < ME else 0.0)
    assert pings[:3] == [first, first + PING_SECONDS, first + 2 * PING_SECONDS]
    assert SILENCE_SECONDS < drops[0] <= 15.0

    talking = book()
    talking.handle(Admitted(A), 0.0)
    for step in range(100):
        talking.handle(Heard(A), float(step))
        assert not any(isinstance(decision, Drop) for decision in talking.handle(Tick(), float(step)))


def test_bad_behaviour_is_banned_for_an_hour():
    """At the floor of its score a peer is banned and dropped, and not dialled before the ban is over."""
    known = book()
    known.handle(AddressesLearned(A, HERE), 0.0)
    known.handle(Admitted(A), 0.0)
    for _ in range(4):
        assert known.handle(Misbehaved(A, 20.0), 0.0) == []
    ban, drop = known.handle(Misbehaved(A, 20.0), 0.0)
    assert ban == Ban(A, BAN_SECONDS)
    assert isinstance(drop, Drop)
    known.handle(Lost(A), 0.0)
    assert known.is_banned(A, BAN_SECONDS - 1)
    assert known.handle(Tick(), BAN_SECONDS - 1) == []
    assert known.handle(Tick(), BAN_SECONDS + 1) == [Dial(A, HERE)]


def test_scores_heal():
    """Half of a bad score is forgiven in each half-life."""
    known = book()
    known.handle(Misbehaved(A, 40.0), 0.0)
    assert known.score(A, 0.0) == -40.0
    assert known.score(A, SCORE_HALF_LIFE_SECONDS) == -20.0
    assert known.score(peer(1), 0.0) == 0.0


def test_the_clock_offset_is_the_median():
    """Two honest clocks and one liar: the liar is ignored. Lost peers no longer count."""
    known = book()
    assert known.clock_offset_milliseconds() is None
    for number, offset in ((1, 10), (2, 14), (3, 10**12)):
        known.handle(Admitted(peer(number)), 0.0)
        known.handle(Pong(peer(number), 1000, 1010 + offset, 1020), 0.0)
    assert known.clock_offset_milliseconds() == 14
    assert known.round_trip_milliseconds()[peer(1)] == 20
    known.handle(Lost(peer(3)), 0.0)
    assert known.clock_offset_milliseconds() == 12
    known.handle(Admitted(peer(4)), 0.0)
    known.handle(Pong(peer(4), 0, None, 7), 0.0)
    assert known.clock_offset_milliseconds() == 12
    assert known.round_trip_milliseconds()[peer(4)] == 7


def test_dialling_stops_at_enough_connections():
    """Beyond so many connections strangers are not dialled any more, bootstrap peers are."""
    known = book()
    for number in range(CONNECTIONS_WANTED):
        known.handle(Admitted(peer(number)), 0.0)
    assert known.handle(AddressesLearned(peer(999), HERE), 0.0) == []
    assert known.handle(AddressesLearned(peer(998), HERE, is_bootstrap=True), 0.0) == [Dial(peer(998), HERE)]


def test_addresses_are_bounded_newest_first():
    """A peer that moves often keeps its newest addresses."""
    known = book()
    for number in range(20):
        known.handle(AddressesLearned(A, (f"/ip4/127.0.0.1/tcp/{number}",)), 0.0)
    assert len(known.known_addresses(A)) == ADDRESSES_PER_PEER_MAX
    assert known.known_addresses(A)[0].endswith("/19")


_EVENTS = st.one_of(
    st.builds(AddressesLearned, st.builds(peer, st.integers(0, 5)), st.just(HERE), st.booleans()),
    *(
        st.builds(kind, st.builds(peer, st.integers(0, 5)))
        for kind in (Admitted, Lost, DialFailed, Refused, Forgotten, Heard)
    ),
    st.builds(Pong, st.builds(peer, st.integers(0, 5)), *(st.integers(0, 10**6) for _ in range(3))),
    st.builds(Misbehaved, st.builds(peer, st.integers(0, 5)), st.floats(0, 200)),
    st.just(Tick()),
)


@given(st.lists(st.tuples(_EVENTS, st.floats(0, 100)), max_size=80), st.integers(0, 2**32))
def test_any_history_is_survived_and_repeatable(history, seed):
    """No order of events breaks the book; a peer is never dialled while connected or banned; same seed, same decisions."""

    def play() -> list:
        known = PeerBook(ME, random.Random(seed), peers_max=4)
        now, decisions, connected = 0.0, [], set()
        for event, gap in history:
            now += gap
            if isinstance(event, Admitted):
                connected.add(event.peer)
            elif isinstance(event, Lost):
                connected.discard(event.peer)
            made = known.handle(event, now)
            for decision in made:
                if isinstance(decision, Dial):
                    assert decision.peer not in connected
                    assert not known.is_banned(decision.peer, now)
            decisions += made
        return decisions

    assert play() == play()
