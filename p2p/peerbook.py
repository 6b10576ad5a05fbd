"""Whom we know, whom we dial, whom we drop: `handle(event, now) -> [decision]`. Pure; the host performs the decisions.

                     AddressesLearned                    Admitted
      (unknown) ---------------------->  known, apart  ------------->  connected
                                          |    ^   ^                      |
                                  Dial    v    |   |   Lost               |  Ping after PING_SECONDS of silence
                                        dialling   +----------------------+  Drop after SILENCE_SECONDS of silence
                                           |
                                           +-- DialFailed: wait BACKOFF_FIRST * 2^failures, at most BACKOFF_MAX, then
                                               dial again, for ever, with jitter so that two peers do not dial each
                                               other in the same instant for ever

Rules:

* A peer that somebody wants (a bootstrap address, or any address learned) is dialled until it answers or is forgotten
  with `Forgotten`. Bootstrap peers are never evicted to make room, and their backoff has a lower ceiling.
* Each peer has a score: 0 at best, lowered by `Misbehaved`, healing with a half-life. At SCORE_FLOOR the peer is banned for
  BAN_SECONDS: dropped, refused, not dialled.
* A peer that was heard within PING_SECONDS is not asked whether it is there; but everybody's clock is asked for now and then.
* Silence: a stopped process (SIGSTOP) keeps its sockets open and answers nothing; TCP alone takes minutes to notice. Any
  message counts as a sign of life, so a peer that is busy but talking is never dropped.
* Clock: each ping's answer says how far the other clock is ahead of ours (see `Pong`); the median over peers is robust
  against a minority of liars.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, assert_never

from protocol.ids import PeerId

PING_SECONDS: Final = 5.0  # two pings, and time for their answers, before silence is over
SECOND_SECONDS: Final = 1.0  # of two ends that hear nothing of each other, one asks first
LATE_SECONDS: Final = 0.1  # after the end of somebody's patience, so that it is certainly over
CLOCK_SECONDS: Final = 30.0  # how old a peer's clock reading may become
SILENCE_SECONDS: Final = 12.0  # required: a stopped peer is dropped within 15 s; this leaves 3 s for a late tick
BACKOFF_FIRST_SECONDS: Final = 0.25
BACKOFF_MAX_SECONDS: Final = 30.0
BOOTSTRAP_BACKOFF_MAX_SECONDS: Final = 5.0  # a restarted bootstrap peer is how a split network finds itself again
REFUSED_BACKOFF_SECONDS: Final = 60.0  # another genesis does not change by asking again soon
BAN_SECONDS: Final = 3600.0
SCORE_FLOOR: Final = -90.0  # five misbehaviours of 20 points within a minute and a half
SCORE_HALF_LIFE_SECONDS: Final = 600.0  # a guess: an honest peer with a bad disk heals within the hour
PEERS_MAX: Final = 1024
CONNECTIONS_WANTED: Final = 64  # dialling stops here; inbound connections may exceed it
ADDRESSES_PER_PEER_MAX: Final = 8


# -- events -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class AddressesLearned:
    """Somebody said where a peer lives. Newest first; old addresses fall off the end."""

    peer: PeerId
    addresses: tuple[str, ...]
    is_bootstrap: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """A connection to the peer is up and both sides accepted the other's hello."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Lost:
    """The last connection is gone."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class DialFailed:
    """A `Dial` did not lead to admission."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Refused:
    """One side refused the other: try again much later."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The node no longer wants this peer: do not dial it until an address is learned again."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Heard:
    """Any bytes of the peer that we understood."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping, with its clock reading and ours before and after, in milliseconds."""

    peer: PeerId
    sent_milliseconds: int
    answered_milliseconds: int | None  # the other clock; None when one of us has none
    received_milliseconds: int


@dataclass(frozen=True, slots=True)
class Misbehaved:
    """The peer did what only a broken or hostile peer does; `points` are taken from its score."""

    peer: PeerId
    points: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed. At least once a second."""


Event = AddressesLearned | Admitted | Lost | DialFailed | Refused | Forgotten | Heard | Pong | Misbehaved | Tick


# -- decisions --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Dial:
    """Try these addresses in order; answer with `Admitted`, `Refused` or `DialFailed`."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask the peer for its time; answer with `Pong`, or not at all."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Drop:
    """Close every connection to the peer."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Ban:
    """Refuse the peer until then. A `Drop` follows when it is connected."""

    peer: PeerId
    until_seconds: float


Decision = Dial | Ping | Drop | Ban


@dataclass(slots=True)
class _Entry:
    addresses: tuple[str, ...] = ()
    is_bootstrap: bool = False
    is_wanted: bool = True
    is_connected: bool = False
    is_dialling: bool = False
    failures: int = 0
    dial_at: float = 0.0
    score: float = 0.0
    score_at: float = 0.0
    banned_until: float = 0.0
    heard_at: float = 0.0
    ping_at: float = 0.0
    clock_at: float = 0.0  # when its clock was last asked for
    round_trip_milliseconds: int | None = None
    clock_offset_milliseconds: int | None = None


@dataclass(slots=True)
class PeerBook:
    """Everything one host remembers about other peers."""

    me: PeerId
    generator: random.Random  # for jitter only
    peers_max: int = PEERS_MAX
    connections_wanted: int = CONNECTIONS_WANTED
    _entries: dict[PeerId, _Entry] = field(default_factory=dict)
    _connected: dict[PeerId, _Entry] = field(default_factory=dict)
    _bootstraps: dict[PeerId, _Entry] = field(default_factory=dict)
    _dialling_count: int = 0

    def handle(self, event: Event, now: float) -> list[Decision]:
        """Take one event; say what should be done. `now` is in seconds of a clock that does not go back."""
        match event:
            case AddressesLearned():
                return self._learn(event, now)
            case Admitted(peer):
                entry = self._entry(peer)
                self._end_dial(entry)
                entry.is_connected, entry.is_wanted = True, True
                self._connected[peer] = entry
                entry.failures = 0
                entry.heard_at = now
                entry.ping_at = now
                entry.clock_at = now - CLOCK_SECONDS
                return []
            case Lost(peer):
                entry = self._entry(peer)
                entry.is_connected = False
                self._connected.pop(peer, None)
                entry.round_trip_milliseconds = entry.clock_offset_milliseconds = None
                entry.dial_at = now + self._jittered(BACKOFF_FIRST_SECONDS)
                return []
            case DialFailed(peer):
                entry = self._entry(peer)
                self._end_dial(entry)
                entry.dial_at = now + self._backoff(entry)
                entry.failures += 1
                return []
            case Refused(peer):
                entry = self._entry(peer)
                self._end_dial(entry)
                entry.dial_at = now + self._jittered(REFUSED_BACKOFF_SECONDS)
                return []
            case Forgotten(peer):
                if peer in self._entries:
                    self._entries[peer].is_wanted = False
                return []
            case Heard(peer):
                if peer in self._entries:
                    self._entries[peer].heard_at = now
                return []
            case Pong():
                return self._take_pong(event, now)
            case Misbehaved():
                return self._take_misbehaviour(event, now)
            case Tick():
                return self._tick(now)
            case _:
                assert_never(event)

    # -- what others may read -----------------------------------------------------------------------------------------
    def known_addresses(self, peer: PeerId) -> tuple[str, ...]:
        entry = self._entries.get(peer)
        return entry.addresses if entry else ()

    def known_peers(self) -> tuple[PeerId, ...]:
        """Peers with at least one address, sorted."""
        return tuple(sorted(peer for peer, entry in self._entries.items() if entry.addresses))

    @property
    def is_sated(self) -> bool:
        """Whether there are as many connections as are wanted, or soon will be."""
        return len(self._connected) + self._dialling_count >= self.connections_wanted

    def is_banned(self, peer: PeerId, now: float) -> bool:
        entry = self._entries.get(peer)
        return entry is not None and now < entry.banned_until

    def score(self, peer: PeerId, now: float) -> float:
        entry = self._entries.get(peer)
        return 0.0 if entry is None else _healed(entry, now)

    def round_trip_milliseconds(self) -> dict[PeerId, int]:
        """Last ping of each connected peer that answered one."""
        return {
            peer: entry.round_trip_milliseconds
            for peer, entry in self._connected.items()
            if entry.round_trip_milliseconds is not None
        }

    def clock_offset_milliseconds(self) -> int | None:
        """Median over connected peers of (their clock - ours); None before any answer."""
        offsets = [
            entry.clock_offset_milliseconds
            for entry in self._connected.values()
            if entry.clock_offset_milliseconds is not None
        ]
        return round(statistics.median(offsets)) if offsets else None

    # -- rules --------------------------------------------------------------------------------------------------------
    def _learn(self, event: AddressesLearned, now: float) -> list[Decision]:
        if event.peer == self.me or not event.addresses:
            return []
        is_new = event.peer not in self._entries
        entry = self._entry(event.peer)
        entry.addresses = _merge(event.addresses, entry.addresses)
        if event.is_bootstrap:
            entry.is_bootstrap = True
            self._bootstraps[event.peer] = entry
        entry.is_wanted = True
        if is_new:
            entry.dial_at = now
        return self._dial_if_due(event.peer, entry, now)

    def _take_pong(self, event: Pong, now: float) -> list[Decision]:
        entry = self._entries.get(event.peer)
        if entry is None or not entry.is_connected:
            return []
        entry.heard_at = now
        entry.round_trip_milliseconds = max(0, event.received_milliseconds - event.sent_milliseconds)
        if event.answered_milliseconds is not None:
            middle = (event.sent_milliseconds + event.received_milliseconds) // 2
            entry.clock_offset_milliseconds = event.answered_milliseconds - middle
        return []

    def _take_misbehaviour(self, event: Misbehaved, now: float) -> list[Decision]:
        entry = self._entry(event.peer)
        entry.score = _healed(entry, now) - event.points
        entry.score_at = now
        if entry.score > SCORE_FLOOR or now < entry.banned_until:
            return []
        entry.banned_until = now + BAN_SECONDS
        entry.score = 0.0  # the ban is the punishment; afterwards the peer begins anew
        decisions: list[Decision] = [Ban(event.peer, entry.banned_until)]
        if entry.is_connected:
            decisions.append(Drop(event.peer, "it misbehaved too often and is banned for an hour"))
        return decisions

    def _tick(self, now: float) -> list[Decision]:
        decisions: list[Decision] = []
        for peer, entry in self._connected.items():
            if now < entry.ping_at:
                continue
            if now - entry.heard_at > SILENCE_SECONDS:
                decisions.append(Drop(peer, f"it was silent for {SILENCE_SECONDS:.0f} seconds"))
                continue
            ask_at = min(entry.heard_at + PING_SECONDS, entry.clock_at + CLOCK_SECONDS)
            ask_at += SECOND_SECONDS if peer < self.me else 0.0
            if now >= ask_at:
                dropped_at = entry.heard_at + SILENCE_SECONDS + LATE_SECONDS
                entry.ping_at, entry.clock_at = min(now + PING_SECONDS, max(dropped_at, now + LATE_SECONDS)), now
                decisions.append(Ping(peer))
            else:
                entry.ping_at = ask_at
        for peer, entry in (self._bootstraps if self.is_sated else self._entries).items():
            decisions += self._dial_if_due(peer, entry, now)
        return decisions

    def _end_dial(self, entry: _Entry) -> None:
        self._dialling_count -= entry.is_dialling
        entry.is_dialling = False

    def _dial_if_due(self, peer: PeerId, entry: _Entry, now: float) -> list[Decision]:
        is_idle = not (entry.is_connected or entry.is_dialling)
        if not (is_idle and entry.is_wanted and entry.addresses and now >= entry.dial_at and now >= entry.banned_until):
            return []
        if self.is_sated and not entry.is_bootstrap:
            return []
        entry.is_dialling = True
        self._dialling_count += 1
        return [Dial(peer, entry.addresses)]

    def _entry(self, peer: PeerId) -> _Entry:
        entry = self._entries.get(peer)
        if entry is None:
            if len(self._entries) >= self.peers_max:
                self._evict()
            entry = self._entries[peer] = _Entry()
        return entry

    def _evict(self) -> None:
        """Forget the peer that failed most; never a bootstrap peer, a connected one, or one whose ban still counts."""
        candidates: Iterable[PeerId] = (
            peer
            for peer, entry in self._entries.items()
            if not (entry.is_bootstrap or entry.is_connected or entry.is_dialling)
        )
        victim = max(
            candidates,
            key=lambda peer: (self._entries[peer].banned_until == 0.0, self._entries[peer].failures, peer),
            default=None,
        )
        if victim is not None:
            del self._entries[victim]

    def _backoff(self, entry: _Entry) -> float:
        ceiling = BOOTSTRAP_BACKOFF_MAX_SECONDS if entry.is_bootstrap else BACKOFF_MAX_SECONDS
        return self._jittered(min(ceiling, BACKOFF_FIRST_SECONDS * 2 ** min(entry.failures, 16)))

    def _jittered(self, seconds: float) -> float:
        return seconds * self.generator.uniform(0.75, 1.25)


def _healed(entry: _Entry, now: float) -> float:
    return float(entry.score * 0.5 ** ((now - entry.score_at) / SCORE_HALF_LIFE_SECONDS))


def _merge(newest: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*newest, *known)))[:ADDRESSES_PER_PEER_MAX]
