r"""Rounds: when to learn, whom to give deltas, when to merge, when to take over. Pure: events and the time in, effects out.

Rounds pace the work and decide nothing; what is decided is a slot (tile, version), by the finality machine (learning.md 1
and 2). Each node runs this machine alone, on its own clock. Two nodes whose machines disagree about the round lose time,
never agreement.

A round at a node
-----------------
::

    open --> learner: StartLearning ... LearnDone --> DeliverDeltas to the acting owner of each tile, or to our aggregator
         |-> aggregator: collect, until its region delivered, or most of the round is over --> StartAggregation --> deliver
         \-> owner:   collect, until every expected learner delivered, or the deadline --> StartMerge --> Propose
    a slot of every tile decided and applied ----------------------------------------> close, open the next round
    patience over, something decided --> close with the rest reported as lagging ----> open the next round
    patience over, nothing decided   --> stay, say why, learn if that failed, deliver and publish again

* **Expected learners** announced themselves for this round early in it, or for the round before, and are connected; those
  outside the roster had a delta merged in one of the two rounds before. At the first round that a node sees, the connected
  members of the roster are expected.
* **Attempts.** Attempt 0 is the primary's. Attempt k opens when the k-1 before it were silent: 0.3 rounds each after the
  deadline, or after there was a delta to merge where that was later; or 0.3 rounds after their connection was lost. Learners
  then deliver to the standby too. A verified head is no silence.
* **Regions** (consensus/regions.py). A delta for an owner far away goes to the aggregator of our region, who merges what its
  region gave and sends one delta. It closes at 0.8 rounds; at 0.9 a learner asks it whether an owner has its delta so, and
  gives it to the owner directly where not. Then two ways may lead to one head: it counts once, by H2, and the
  owner leaves out what would count twice.
* **A head that nobody decides** is said again, to every member directly: a proposer among strangers who pass nothing on would
  be heard by nobody, and its slot go from silence to silence.
* **A proposer has one value for a slot in an epoch**: once signed and journaled it is only ever published again. In the next
  epoch it may have another place in the tile's order, or none: then it proposes anew, or somebody else does.
* **The fate of a delta** is sealed when a head lists it, itself or inside an aggregate (merged), or when the version after
  next of its base is decided without it (lost: the learner returns it to its residual). A learner has one delta for a tile
  and base: while the slot is open it resends the same bytes, and what it learns of the tile meanwhile waits in its residual.
* **The round number** follows the chain: a decided head of a later round moves this node to that round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from consensus.events import (
    AggregationsDone,
    Announce,
    AskCarried,
    Blamed,
    CarriedTold,
    ClockJudged,
    DeliverDeltas,
    DeliveryFailed,
    Delta,
    DeltasArrived,
    DeltasDelivered,
    Lagging,
    LearnDone,
    LearnFailed,
    MergesDone,
    PeerConnected,
    PeerLost,
    Propose,
    RegionTold,
    Republish,
    RoundAnnounced,
    RoundClosed,
    RoundEffect,
    RoundEvent,
    RoundOpened,
    RoundTimer,
    SetRoundTimer,
    Stalled,
    StartAggregation,
    StartLearning,
    StartMerge,
    TilesApplied,
)
from consensus.heads import HeadRules, TileHead
from consensus.regions import Regions
from protocol.genesis import LearningRule
from protocol.ids import Digest, PeerId, Round, Signature, TileId, Version, short
from protocol.learning import Contributor
from protocol.limits import CONTRIBUTORS_PER_AGGREGATE_MAX, UNREGISTERED_DELTAS_PER_SLOT_MAX
from protocol.rejection import Reason
from protocol.roster import Decided, DeltaRef, Head, Slot

# Shares of a round, in thousandths.
SILENCE = 300  # learning.md 2: an attempt is given 0.3 rounds
STANDBY_COLLECTS = 150  # half of that for the standby to collect what is delivered again (a guess)
ANNOUNCE_EARLY = 333  # a learner that announces itself later is not waited for (a guess)
UNHEARD = 150  # half of an attempt: a proposer whose head was not decided says it to every member (a guess)
ROUNDS_STOOD = 2  # after so many without a head a network stood: as long as any tile may be without an owner
GATHER = 800  # until when an aggregator waits for its region: a fifth of the round is left to merge and send (a guess)
ASK = 900  # when a learner asks what became of its delta: a tenth is left to give it to the owner itself (a guess)
RETRY = 500  # how often a stalled node tries again
AGAIN = 100  # after how long a failed delivery or merge is tried again: soon, but never at once (a guess)
ANNOUNCERS_MAX = 1024  # learners whose announcement is remembered: anybody can make a key and announce
STRANGERS_PER_TILE_MAX = 4 * UNREGISTERED_DELTAS_PER_SLOT_MAX  # their deltas kept for a tile: a few times their places
STRANGERS_GATHERED_MAX = 2 * CONTRIBUTORS_PER_AGGREGATE_MAX  # those of our region, on two bases
AGGREGATORS_TRIED_MAX = 3  # for one delta, before it goes to the owner directly (a guess)

_NEVER = 1 << 62  # milliseconds
_UNSIGNED = Signature(bytes(64))


def _signed(head: Head) -> bool:
    return head.signature != _UNSIGNED


@dataclass(slots=True)
class _Own:
    """One of our deltas whose fate is open, or an aggregate that we made."""

    delta: Delta
    delivered: set[PeerId] = field(default_factory=set)
    under_way: set[PeerId] = field(default_factory=set)
    again_at: dict[PeerId, int] = field(default_factory=dict)  # delivery failed: not before this time
    through: PeerId | None = None  # the aggregator that it was given, or is being given; it may be ourselves
    asked: bool = False  # ... what became of it
    taken: bool = False  # by an owner, who need not have listed it
    tried: list[PeerId] = field(default_factory=list)  # aggregators that did not do

    def forget_ways(self) -> None:
        """Begin to deliver anew."""
        self.delivered.clear()
        self.tried.clear()
        self.through, self.asked = None, False

    def give_up_aggregator(self) -> None:
        """Another one, or the owner himself."""
        if self.through is not None:
            self.tried.append(self.through)
        self.through, self.asked = None, False


@dataclass(slots=True)
class _Tile:
    """One tile as this machine sees it."""

    at: TileHead  # decided
    applied: Version  # on our disk
    candidates: dict[tuple[PeerId, Version, bool], Delta] = field(default_factory=dict)  # by their keys
    aggregates: dict[Version, _Own] = field(default_factory=dict)  # that we made, by base
    aggregating: bool = False
    merging: bool = False
    again_at: int = 0  # a merge failed: not before this time
    trouble: str = ""  # why the last merge failed
    heard: bool = False  # a head of the open slot was verified here: nobody is silent
    own_at: int | None = None  # when our own delta for the open slot was there
    say_again_at: int = 0  # our proposed head of the open slot
    _counted: frozenset[Digest] = field(init=False)  # by the decided head

    def __post_init__(self) -> None:
        self.move(self.at)

    def move(self, at: TileHead) -> None:
        """The decided version is another one."""
        self.at = at
        self._counted = frozenset(at.head.counted() if at.head else ())

    @property
    def decided_round(self) -> int:
        return self.at.head.round if self.at.head else -1

    @property
    def slot_version(self) -> Version:
        return Version(self.at.version + 1)

    def counts(self, digest: Digest) -> bool:
        """Whether the decided head lists a delta, itself or inside an aggregate."""
        return digest in self._counted

    def is_usable(self, delta: Delta) -> bool:
        """Whether the open slot, or a later one, may take a delta."""
        return delta.base >= self.at.version - 1 and self._counted.isdisjoint(delta.counted())

    def learners_of(self, head: Head) -> Iterator[PeerId]:
        """Whose deltas a head lists, as far as we have seen what is inside its aggregates."""
        inside = {each.delta: each.learner for held in self.candidates.values() for each in held.contributors}
        inside.update((held.digest, held.learner) for held in self.candidates.values())
        for reference in head.deltas:
            if reference.contributors:
                yield from (inside[name] for name in reference.contributors if name in inside)
            else:
                yield reference.learner


@dataclass(frozen=True, slots=True)
class RoundStatistics:
    """What the machine can tell about itself."""

    round: int  # the open round, or the last one when done
    rounds_closed: int
    learning: bool
    done: bool
    expected_learners: int
    outstanding_deltas: int
    candidate_deltas: int
    aggregates: int  # made here, of tiles' open slots
    takeovers: int
    stalled: str | None
    undecided: tuple[TileId, ...]


class RoundMachine:
    """The rounds of one node.

    ``tiles`` is where each tile stands to begin with, ``applied`` what is on disk, ``proposed`` the heads from the proposal
    journal (those of this epoch count), ``outstanding`` our own deltas without a fate, ``counted`` those of them that decided
    heads list, which the newest heads alone do not tell, ``learned_round`` the last round that our learner journaled.
    ``learns`` is false for a node without a learner; ``rounds_max`` stops opening rounds after that many. ``region`` is our
    label; without one every delta goes directly.
    """

    def __init__(
        self,
        me: PeerId,
        rules: HeadRules,
        learning: LearningRule,
        tiles: Mapping[TileId, TileHead],
        *,
        learns: bool,
        applied: dict[TileId, Version] | None = None,
        proposed: Iterable[Head] = (),
        outstanding: Iterable[Delta] = (),
        counted: Iterable[Digest] = (),
        learned_round: int = -1,
        rounds_max: int | None = None,
        region: str = "",
    ) -> None:
        self._me = me
        self._rules = rules
        self._rule = learning
        self._learns = learns
        self._rounds_max = rounds_max
        self.regions = Regions(me, region)
        self._contributor_of: dict[Digest, _Own] = {}  # contributor -> our aggregate of it
        self._tiles = {tile: _Tile(at, at.version if applied is None else applied[tile]) for tile, at in tiles.items()}
        self._proposed: dict[Slot, Head] = {head.slot: head for head in proposed if head.epoch == rules.roster.epoch}
        self._own: dict[Digest, _Own] = {delta.digest: _Own(delta) for delta in outstanding}
        self._merged_own: list[Digest] = []  # fates that the learner has not journaled
        self._lost_own: list[Digest] = []
        self._told: set[Digest] = set()  # those among them that it was told when it began
        self._members = self.regions.members = {member.node for member in rules.roster.members}
        self._connected: set[PeerId] = set()
        self._lost_at: dict[PeerId, int] = {}
        self._announced: dict[PeerId, int] = {}
        self._contributed: dict[PeerId, int] = {}  # strangers: the newest round whose heads list a delta of theirs
        self._first_seen_round = 0
        self._round = -1  # none is open
        self._rounds_closed = 0
        self._opened_at = 0
        self._epoch_at = 0  # when the epoch began, if that was seen
        self._retry_at = 0
        self._progress_at = 0  # when this round last decided a tile, or our learner finished
        self._learning: int | None = None
        self._learning_since = 0
        self._learning_took: int | None = None  # the last time
        self._learned = learned_round
        self._failed = -1
        self._beacon = rules.roster.beacon  # of the epoch in which the round opened: it chooses the round's aggregators
        self._started = False
        self._done = False
        self._takeovers = 0
        self._stalled: str | None = None
        self._clock_trusted = True
        self._timer_at: int | None = None
        self._handlers: dict[type, Callable[[Any, int], list[RoundEffect]]] = {
            PeerConnected: self._on_connected,
            PeerLost: self._on_lost,
            RegionTold: self._on_region,
            RoundAnnounced: self._on_announced,
            DeltasArrived: self._on_deltas,
            LearnDone: self._on_learned,
            LearnFailed: self._on_learn_failed,
            DeltasDelivered: self._on_delivered,
            DeliveryFailed: self._on_delivery_failed,
            CarriedTold: self._on_carried,
            AggregationsDone: self._on_aggregates,
            MergesDone: self._on_merges,
            TilesApplied: self._on_applied,
            RoundTimer: self._on_timer,
            ClockJudged: self._on_clock,
        }
        for own in self._own.values():
            self._tiles[own.delta.tile].own_at = 0
        for digest in counted:
            if self._own.pop(digest, None) is not None:
                self._merged_own.append(digest)
        for digest in list(self._own):
            self._seal_fate(digest)

    # -- the door -------------------------------------------------------------------------------------------------------

    def handle(self, event: RoundEvent, now: int) -> list[RoundEffect]:
        """Take one event; return what is to be done, in order."""
        effects = self._handlers[type(event)](event, now)
        if isinstance(event, RoundAnnounced):
            return effects  # one more is waited for: nothing becomes possible by that
        return effects + self._proceed(now)

    def start(self, now: int, age_ms: int = 0) -> list[RoundEffect]:
        """Open the first round. Call once, when the node is synced and connected.

        age_ms: how long ago the last head was decided, which is when the network opened its round. Whoever comes back in the
        middle has what is left of it, and at least what a standby has to collect; it would be silent else when all others wait
        for it. A network that stood begins its round anew.
        """
        self._started = True
        for member in self._rules.roster.members:
            if member.node != self._me and member.node not in self._connected:
                self._lost_at.setdefault(member.node, now)
        newest = max((tile.decided_round for tile in self._tiles.values()), default=-1)
        complete = all(tile.decided_round == newest for tile in self._tiles.values())
        self._first_seen_round = newest + 1 if complete else newest
        if age_ms > ROUNDS_STOOD * self._rule.round_ms:
            age_ms = 0
        opened_at = now - min(age_ms, self._rule.round_ms - self._share(STANDBY_COLLECTS))
        return self._open(self._first_seen_round, opened_at) + self._proceed(now)

    def decide(self, decided: Iterable[Decided], now: int) -> list[RoundEffect]:
        """Heads became final."""
        newest = self._round
        for slot, head, _ in decided:
            tile = self._tiles[slot.tile]
            tile.move(TileHead(slot.version, head.root, head))
            tile.again_at, tile.trouble, tile.heard, tile.own_at = 0, "", False, None
            self._progress_at = now
            newest = max(newest, head.round)
            self._takeovers += head.attempt > 0
            self._contributed |= {peer: head.round for peer in tile.learners_of(head) if self._is_stranger(peer)}
            self._proposed.pop(slot, None)
            tile.candidates = {key: delta for key, delta in tile.candidates.items() if tile.is_usable(delta)}
            self._forget_aggregates(tile)
            for digest in [own.delta.digest for own in self._own.values() if own.delta.tile == slot.tile]:
                self._seal_fate(digest)
        effects: list[RoundEffect] = []
        if self._started and not self._done and newest > self._round:
            effects += self._close() + self._open(newest, now)
        if newest >= self._round and self._stalled is not None:
            self._stalled = None
            effects.append(Stalled(None))
        return effects + self._proceed(now)

    def open_epoch(self, rules: HeadRules, now: int) -> list[RoundEffect]:
        """Other members, other owners. What a former owner proposed and did not get decided, a new one merges and proposes."""
        self._rules = rules
        self._epoch_at = now
        self._members = self.regions.members = {member.node for member in rules.roster.members}
        here = self._connected | {self._me}
        self._lost_at = {
            member.node: self._lost_at.get(member.node, now)
            for member in rules.roster.members
            if member.node not in here
        }
        self._proposed.clear()
        for tile in self._tiles.values():
            tile.heard = False
        for own in self._deliverables():
            own.delivered &= {own.through}  # the aggregator gives what it has to the new owners
        return self._proceed(now)

    def hear(self, heads: Iterable[Head]) -> None:
        """Heads were verified here, by whomever they are: their slots need no takeover, only time."""
        for head in heads:
            tile = self._tiles[head.tile]
            tile.heard = tile.heard or head.version == tile.slot_version

    def statistics(self) -> RoundStatistics:
        return RoundStatistics(
            round=self._round,
            rounds_closed=self._rounds_closed,
            learning=self._learning is not None,
            done=self._done,
            expected_learners=len(self._expected()),
            outstanding_deltas=len(self._own),
            candidate_deltas=sum(len(tile.candidates) for tile in self._tiles.values()),
            aggregates=sum(len(tile.aggregates) for tile in self._tiles.values()),
            takeovers=self._takeovers,
            stalled=self._stalled,
            undecided=tuple(sorted(self._undecided())),
        )

    def acting_attempt(self, tile: TileId, now: int) -> int:
        """The highest attempt at the tile's open slot that has begun, by our clock."""
        return sum(opens_at <= now for opens_at in self._attempt_times(tile)) - 1

    # -- opening and closing --------------------------------------------------------------------------------------------

    def _open(self, number: int, now: int) -> list[RoundEffect]:
        if self._rounds_max is not None and number >= self._rounds_max:
            self._round, self._rounds_closed, self._done = self._rounds_max - 1, self._rounds_max, True
            return []
        self._round, self._opened_at, self._retry_at = number, now, 0
        self._beacon = self._rules.roster.beacon
        self._rounds_closed = number
        self._announced = {peer: at for peer, at in self._announced.items() if at >= number - 1}
        self._contributed = {peer: at for peer, at in self._contributed.items() if at >= number - 2}
        if self._learns:
            self._announced[self._me] = number
        return [RoundOpened(Round(number)), *self._announce()]

    def _announce(self) -> list[RoundEffect]:
        return [Announce(Round(self._round))] if self._learns and not self._done else []

    def _close(self) -> list[RoundEffect]:
        if self._round < 0:
            return []
        return [RoundClosed(Round(self._round), self._lagging())]

    def _lagging(self) -> tuple[Lagging, ...]:
        return tuple(
            Lagging(Slot(name, self._tiles[name].slot_version), Round(self._round), self._why(name))
            for name in sorted(self._undecided())
        )

    def _undecided(self) -> list[TileId]:
        """Tiles without a decision in the open round."""
        return [name for name, tile in self._tiles.items() if tile.decided_round < self._round]

    def _why(self, name: TileId) -> str:
        """One sentence: why the tile's slot is not decided."""
        tile = self._tiles[name]
        quorum = self._why_no_quorum()
        slot = Slot(name, tile.slot_version)
        if slot in self._proposed or tile.heard:
            return quorum or "its head is proposed, but not finalized"
        if tile.trouble:
            return tile.trouble
        order = self._rules.order(name)
        if self._find_attempt(name) == 0 and not tile.candidates:
            return quorum or "no learner's delta arrived"
        owner = self._rules.roster.members[order[0]].node
        if owner != self._me and owner not in self._connected:
            return quorum or f"its owner {short(owner)} is not connected and no standby was heard"
        return quorum or f"no head came from its owner {short(owner)} or a standby"

    def _why_no_quorum(self) -> str:
        roster = self._rules.roster
        here = self._connected | {self._me}
        if roster.is_quorum(roster.weight_of(here)):
            return ""
        reachable, members = len(self._members & here), len(roster.members)
        return (
            f"{reachable} of {members} roster members are reachable, "
            f"{roster.quorum_members()} are needed to decide anything"
        )

    def _proceed(self, now: int) -> list[RoundEffect]:
        """Everything that time or the last event made possible. Called after each event."""
        if not self._started:
            return []
        effects: list[RoundEffect] = []
        while not self._done and self._is_complete():
            effects += self._close() + self._open(self._round + 1, now)
        if not self._done:
            effects += self._maybe_give_up(now)  # it may open a round, which is learned at once
        if not self._done:
            effects += self._maybe_learn(now)
        effects += self._maybe_say_again(now)
        effects += self._maybe_deliver(now)
        effects += self._maybe_ask(now)
        effects += self._maybe_aggregate(now)
        effects += self._maybe_merge(now)
        return effects + self._maybe_set_timer(now)

    def _is_complete(self) -> bool:
        return all(
            tile.decided_round >= self._round and tile.applied == tile.at.version for tile in self._tiles.values()
        )

    def _patience_at(self) -> int:
        """When a round with undecided slots is over: all attempts had their time, and once more the first one's.

        As long as something happens it is not: where learning takes longer than a round, everybody is late together.
        """
        attempts = min(len(self._rules.roster.members), 4)
        return max(self._deadline(), self._progress_at) + self._share(SILENCE) * (attempts + 1)

    def _maybe_give_up(self, now: int) -> list[RoundEffect]:
        if now < max(self._patience_at(), self._retry_at):
            return []
        undecided = self._undecided()
        self._retry_at = now + self._share(RETRY)
        if not undecided:
            return []
        if len(undecided) < len(self._tiles):
            return [*self._close(), *self._open(self._round + 1, now), *self._republish()]
        effects: list[RoundEffect] = []
        why = self._why_no_quorum() or self._why(min(undecided))
        if why != self._stalled:
            self._stalled = why
            effects.append(Stalled(why))
            effects += self._lagging()
        self._failed = -1  # a learner that failed tries again: nobody else may be there to learn
        for own in self._deliverables():
            own.forget_ways()
        effects += self._announce()
        return effects + self._republish()

    def open_proposals(self) -> tuple[Head, ...]:
        """Our signed and journaled heads of slots that are still open."""
        heads = (self._proposed[slot] for slot in sorted(self._proposed))
        return tuple(head for head in heads if head.version == self._tiles[head.tile].slot_version and _signed(head))

    def _maybe_say_again(self, now: int) -> list[RoundEffect]:
        """Our heads that were not decided for a while."""
        if not self._proposed:
            return []
        unheard = tuple(head for head in self.open_proposals() if now >= self._tiles[head.tile].say_again_at)
        for head in unheard:
            self._tiles[head.tile].say_again_at = now + self._share(SILENCE)
        return [Republish(unheard, is_direct=True)] if unheard else []

    def _republish(self) -> list[RoundEffect]:
        again = self.open_proposals()
        return [Republish(again)] if again else []

    # -- learning -------------------------------------------------------------------------------------------------------

    def _maybe_learn(self, now: int) -> list[RoundEffect]:
        if not self._learns or self._learning is not None or max(self._learned, self._failed) >= self._round:
            return []
        if self._waits_for_opening(now):
            return []
        if any(tile.applied != tile.at.version for tile in self._tiles.values()):
            return []
        spoken_for = {(own.delta.tile, own.delta.base) for own in self._own.values()}
        withheld = tuple(
            name
            for name, tile in sorted(self._tiles.items())
            if tile.decided_round >= self._round or (name, tile.at.version) in spoken_for
        )
        if len(withheld) == len(self._tiles):
            return []
        self._learning, self._learning_since = self._round, now
        merged, lost = tuple(self._merged_own), tuple(self._lost_own)
        self._told = {*merged, *lost}
        bases = tuple((name, self._tiles[name].at.version) for name in sorted(self._tiles))
        return [StartLearning(Round(self._round), bases, withheld, merged, lost)]

    def _waits_for_opening(self, now: int) -> bool:
        """Whether what a stranger would learn now is late for its region's aggregates, and from the next opening is not.

        Who came in the middle of a round would else begin each time in the middle of the next, and stand alone before owners
        that have few places for strangers.
        """
        if self._me in self._members or self._learning_took is None or not self.regions.gathers():
            return False
        return self._learning_took <= self._share(GATHER) < now - self._opened_at + self._learning_took

    def _on_learned(self, event: LearnDone, now: int) -> list[RoundEffect]:
        if self._learning is not None:
            self._learning_took = now - self._learning_since
        self._learning = None
        self._learned = max(self._learned, event.round)
        self._progress_at = now
        self._merged_own = [digest for digest in self._merged_own if digest not in self._told]
        self._lost_own = [digest for digest in self._lost_own if digest not in self._told]
        for delta in event.deltas:
            self._own[delta.digest] = _Own(delta)
            self._tiles[delta.tile].own_at = now
            self._seal_fate(delta.digest)
        return []

    def _on_learn_failed(self, event: LearnFailed, now: int) -> list[RoundEffect]:
        self._learning = None
        self._failed = max(self._failed, event.round)
        return []

    def _seal_fate(self, digest: Digest) -> None:
        """Settle one of our deltas if its fate is known."""
        delta = self._own[digest].delta
        tile = self._tiles[delta.tile]
        if tile.counts(digest):
            self._merged_own.append(digest)
        elif tile.at.version >= delta.base + 2:
            self._lost_own.append(digest)
            through = self._own[digest].through
            if through is not None and through != self._me:
                self.regions.pass_over(through, self._round)
        else:
            return
        del self._own[digest]

    # -- delivering -----------------------------------------------------------------------------------------------------

    def _deliverables(self) -> Iterator[_Own]:
        """What we give to others: our deltas, and the aggregates that we made."""
        yield from self._own.values()
        for tile in self._tiles.values():
            yield from tile.aggregates.values()

    def _maybe_deliver(self, now: int) -> list[RoundEffect]:
        bundles: dict[PeerId, list[Digest]] = {}
        for own in self._deliverables():
            for peer in self._find_takers(own, now):
                if peer in own.delivered or peer in own.under_way or own.again_at.get(peer, now) > now:
                    continue
                if peer == self._me:
                    own.delivered.add(peer)
                    own.taken = own.taken or own.through != peer
                    self._tiles[own.delta.tile].candidates[own.delta.key] = own.delta
                elif peer in self._connected or peer == own.through:
                    own.under_way.add(peer)
                    bundles.setdefault(peer, []).append(own.delta.digest)
        return [DeliverDeltas(peer, tuple(bundles[peer])) for peer in sorted(bundles)]

    def _find_takers(self, own: _Own, now: int) -> list[PeerId]:
        """Who is to have a delta of ours now: every acting owner, or in place of those far away our aggregator.

        An aggregate goes to the owners far away only: our region's deltas come to a near one directly. What an owner took and
        left out is offered to nobody far away in the slot after: of a crowd of strangers nearly all would be, each by itself.
        """
        tile = own.delta.tile
        was_left_out = own.taken and own.delta.base < self._tiles[tile].at.version
        takers: list[PeerId] = []
        for index in self._rules.order(tile)[: self.acting_attempt(tile, now) + 1]:
            owner = self._rules.roster.members[index].node
            is_far = self.regions.is_far(owner)
            if own.delta.contributors:
                taker = owner if is_far else None
            elif is_far and was_left_out:
                taker = None
            else:
                taker = (self._find_aggregator(own, now) if is_far else None) or owner
            if taker is not None and taker not in takers:
                takers.append(taker)
        return takers

    def _find_aggregator(self, own: _Own, now: int) -> PeerId | None:
        """The aggregator that has one of our deltas, or is to have it; None when it goes to the owner directly."""
        tile = self._tiles[own.delta.tile]
        gathers = now < self._gathers_until() and own.delta.base == tile.at.version
        if own.through == self._me:
            made = tile.aggregates.get(own.delta.base)
            if made is None and (gathers or tile.aggregating):
                return self._me
            inside = self._contributor_of.get(own.delta.digest)
            if inside is not None and inside is made and (inside.taken or now < self._asks_at()):
                return self._me
            own.give_up_aggregator()
        if (
            own.through is None
            and gathers
            and len(own.tried) < AGGREGATORS_TRIED_MAX
            and tile.decided_round < self._round
        ):
            own.through = self.regions.find_aggregator(
                self._beacon,
                own.delta.tile,
                dict.fromkeys((self._me, *self._connected, *self._announced)),
                self._members,
                own.tried,
                self._round,
            )
        return own.through

    def _gathers_until(self) -> int:
        return self._opened_at + self._share(GATHER)

    def _on_delivered(self, event: DeltasDelivered, now: int) -> list[RoundEffect]:
        accepted = set(event.accepted)
        for digest in [*event.accepted, *(digest for digest, _ in event.refused)]:
            own = self._find_deliverable(digest)
            if own is None:
                continue
            own.under_way.discard(event.owner)
            own.delivered.add(event.owner)
            if own.through != event.owner:
                own.taken = own.taken or digest in accepted
            elif digest not in accepted:
                own.give_up_aggregator()
        return []

    def _on_delivery_failed(self, event: DeliveryFailed, now: int) -> list[RoundEffect]:
        """Tried again soon, or when the owner connects again; not at once, or we would spin. An aggregator is replaced."""
        for digest in event.deltas:
            own = self._find_deliverable(digest)
            if own is None:
                continue
            own.under_way.discard(event.owner)
            own.again_at[event.owner] = now + self._share(AGAIN)
            if own.through == event.owner:
                own.give_up_aggregator()
        return []

    def _find_deliverable(self, digest: Digest) -> _Own | None:
        own = self._own.get(digest)
        return own or next((made for made in self._deliverables() if made.delta.digest == digest), None)

    def _maybe_ask(self, now: int) -> list[RoundEffect]:
        """Ask aggregators for the deltas that they took: late in the round, or where a head came without them."""
        asked: dict[PeerId, list[Digest]] = {}
        for digest, own in self._own.items():
            if own.asked or own.through in (None, self._me) or own.through not in own.delivered:
                continue
            if now >= self._asks_at() or own.delta.base < self._tiles[own.delta.tile].at.version:
                own.asked = True
                asked.setdefault(own.through, []).append(digest)
        return [AskCarried(peer, tuple(asked[peer])) for peer in sorted(asked)]

    def _asks_at(self) -> int:
        return self._opened_at + self._share(ASK)

    def _on_carried(self, event: CarriedTold, now: int) -> list[RoundEffect]:
        """What is carried stays where it is, as long as the aggregator is there; the rest takes the direct way."""
        for digest in event.left:
            own = self._own.get(digest)
            if own is not None and own.through == event.aggregator:
                own.give_up_aggregator()
        return []

    # -- gathering ------------------------------------------------------------------------------------------------------

    def is_carried(self, digest: Digest) -> bool:
        """Whether an owner took an aggregate of ours that has this delta inside."""
        made = self._contributor_of.get(digest)
        return made is not None and made.taken

    def _maybe_aggregate(self, now: int) -> list[RoundEffect]:
        """Merge what our region gave us for owners far away: when all of it is there, or 0.8 rounds are over."""
        effects: list[RoundEffect] = []
        if not self.regions.is_near(self._me):
            return effects
        expected: set[PeerId] | None = None
        for name in sorted(self._tiles):
            tile = self._tiles[name]
            base = tile.at.version
            if tile.aggregating or base in tile.aggregates or tile.decided_round >= self._round or now < tile.again_at:
                continue
            gathered = self._gathered(tile, base)
            if all(delta.learner == self._me for delta in gathered) or not self._has_far_owner(name, now):
                continue
            if not self.regions.gathers():
                return effects  # they gave a standby here what they gave the owner
            if expected is None:
                expected = self._expected_near()
            is_full = len(gathered) >= CONTRIBUTORS_PER_AGGREGATE_MAX
            if not is_full and not expected <= {delta.learner for delta in gathered} and now < self._gathers_until():
                continue
            chosen = self._rules.select_contributors(name, tile.slot_version, map(self._reference, gathered))
            contributors = tuple(Contributor(each.learner, each.delta, each.weight) for each in chosen)
            tile.aggregating = True
            effects.append(StartAggregation(name, base, Round(self._round), contributors))
        return effects

    def _gathered(self, tile: _Tile, base: Version) -> list[Delta]:
        """What our region gave us of a tile."""
        return [
            delta
            for delta in tile.candidates.values()
            if delta.base == base and not delta.contributors and self.regions.is_near(delta.learner)
        ]

    def _is_full(self, name: TileId, base: Version) -> bool:
        """Whether our aggregate for an owner far away has no place left, ours kept: others have, if they are told at once."""
        if not self.regions.is_far(self._rules.roster.members[self._rules.order(name)[0]].node):
            return False
        inside = {self._me, *(delta.learner for delta in self._gathered(self._tiles[name], base))}
        return len(inside) >= CONTRIBUTORS_PER_AGGREGATE_MAX

    def _has_far_owner(self, name: TileId, now: int) -> bool:
        order = self._rules.order(name)[: self.acting_attempt(name, now) + 1]
        return any(self.regions.is_far(self._rules.roster.members[index].node) for index in order)

    def _expected_near(self) -> set[PeerId]:
        """The learners of our region that announced themselves, strangers too: here they cost 0.8 rounds at most.

        Who did for this very round is expected even where it is not connected: it connects to deliver.
        """
        here = self._connected | ({self._me} if self._learns and self._failed < self._round else set())
        announced = {
            peer
            for peer, at in self._announced.items()
            if at >= self._round or (at == self._round - 1 and peer in here)
        }
        return {peer for peer in announced | self._expected() if self.regions.is_near(peer)}

    def _on_aggregates(self, event: AggregationsDone, now: int) -> list[RoundEffect]:
        unusable = set(event.unusable)
        for name, _ in event.failed:
            tile = self._tiles[name]
            tile.aggregating, tile.again_at = False, now + self._share(AGAIN)
            tile.candidates = {key: delta for key, delta in tile.candidates.items() if delta.digest not in unusable}
        for delta in event.aggregates:
            self._tiles[delta.tile].aggregating = False
            self._keep_aggregate(delta)
        return []

    def _keep_aggregate(self, delta: Delta) -> None:
        """An aggregate of ours is durable: whoever is to have it gets it."""
        tile = self._tiles[delta.tile]
        if tile.is_usable(delta) and delta.base not in tile.aggregates:
            made = tile.aggregates[delta.base] = _Own(delta)
            self._contributor_of.update((each.delta, made) for each in delta.contributors)

    def _forget_aggregates(self, tile: _Tile) -> None:
        for base, made in list(tile.aggregates.items()):
            if not tile.is_usable(made.delta):
                del tile.aggregates[base]
                for each in made.delta.contributors:
                    self._contributor_of.pop(each.delta, None)

    # -- owning ---------------------------------------------------------------------------------------------------------

    def _on_deltas(self, event: DeltasArrived, now: int) -> list[RoundEffect]:
        effects: list[RoundEffect] = []
        for delta in event.deltas:
            tile = self._tiles[delta.tile]
            if not tile.is_usable(delta):
                continue  # decided between its arrival and now, or while we were down
            if delta.contributors and delta.learner == self._me:
                self._keep_aggregate(delta)
                continue
            first = tile.candidates.setdefault(delta.key, delta)
            if first.digest != delta.digest:
                effects.append(Blamed(delta.learner, Reason.SECOND_DELTA, f"{delta.tile} on version {delta.base}"))
        return effects

    def find_refusal(self, delta: Delta) -> Reason | None:
        """Why an incoming delta would not be taken, if it would not; asked before it is stored."""
        tile = self._tiles.get(delta.tile)
        if tile is None:
            return Reason.UNKNOWN_TILE
        gathers = not delta.contributors and self.regions.is_near(delta.learner)
        if self._rules.roster.find_index(self._me) is None and not gathers:
            return Reason.WRONG_OWNER
        if not tile.at.version - 1 <= delta.base <= tile.at.version + 1:
            return Reason.STALE_BASE
        if any(each.weight > self._rules.delta_weight_max for each in delta.contributors):
            return Reason.BAD_DELTA
        first = tile.candidates.get(delta.key)
        if first is not None and first.digest != delta.digest:
            return Reason.SECOND_DELTA
        if any(tile.counts(name) for name in delta.counted()):
            return Reason.ALREADY_COUNTED
        if first is None and self._is_stranger(delta.learner):
            near = [self.regions.is_near(other) for other, _, _ in tile.candidates if self._is_stranger(other)]
            if near.count(gathers) >= (STRANGERS_GATHERED_MAX if gathers else STRANGERS_PER_TILE_MAX):
                return Reason.BUSY
            if gathers and self._is_full(delta.tile, delta.base):
                return Reason.BUSY
        return None

    def _is_stranger(self, peer: PeerId) -> bool:
        return peer not in self._members

    def _expected(self) -> set[PeerId]:
        """The learners that an owner waits for; strangers once they have contributed: announcing alone costs nothing."""
        here = self._connected | ({self._me} if self._learns and self._failed < self._round else set())
        known = self._members | self._contributed.keys()
        expected = {peer for peer, at in self._announced.items() if at >= self._round - 1} & here & known
        if self._round == self._first_seen_round:
            expected |= {member.node for member in self._rules.roster.members if member.node in self._connected}
        return expected

    def _maybe_merge(self, now: int) -> list[RoundEffect]:
        if not self._clock_trusted:
            return []
        effects: list[RoundEffect] = []
        expected = self._expected()
        for name in sorted(self._tiles):
            tile = self._tiles[name]
            slot = Slot(name, tile.slot_version)
            if tile.merging or tile.decided_round >= self._round or tile.applied != tile.at.version:
                continue
            if slot in self._proposed or tile.heard or not tile.candidates or now < tile.again_at:
                continue
            attempt = self._find_attempt(name)
            if attempt is None:
                continue
            opens_at = self._attempt_times(name)[attempt]
            if now < opens_at:
                continue
            usable = [delta for delta in tile.candidates.values() if delta.base <= tile.at.version]
            if not usable:
                continue
            delivered = {
                learner
                for delta in usable
                if delta.base == tile.at.version
                for learner in delta.learners()
                if self.regions.is_together(learner, delta.learner)  # an aggregator speaks for its own region only
            }
            if not expected <= delivered and now < self._collects_until(opens_at):
                continue
            refs = self._rules.select_deltas(name, slot.version, map(self._reference, usable))
            tile.merging = True
            effects.append(StartMerge(slot, attempt, tile.at.root, refs))
        return effects

    def _reference(self, delta: Delta) -> DeltaRef:
        contributors = tuple(sorted(each.delta for each in delta.contributors))
        weight = min(delta.tokens, self._rules.weight_max(len(contributors) or 1))
        return DeltaRef(delta.digest, delta.learner, delta.base, weight, contributors)

    def _on_merges(self, event: MergesDone, now: int) -> list[RoundEffect]:
        unusable = set(event.unusable)
        for slot, why in event.failed:
            tile = self._tiles[slot.tile]
            tile.merging, tile.trouble, tile.again_at = False, why, now + self._share(AGAIN)
            tile.candidates = {key: delta for key, delta in tile.candidates.items() if delta.digest not in unusable}
        heads = []
        for merged in event.merged:
            tile = self._tiles[merged.slot.tile]
            tile.merging = False
            if merged.slot.version != tile.slot_version or merged.slot in self._proposed:
                continue  # decided while we merged
            if merged.attempt != self._find_attempt(merged.slot.tile):
                continue  # begun in the epoch before, in which we had another place
            heads.append(
                Head(
                    tile=merged.slot.tile,
                    version=merged.slot.version,
                    epoch=self._rules.roster.epoch,
                    attempt=merged.attempt,
                    round=self._round,
                    parent_root=merged.parent_root,
                    root=merged.root,
                    update=merged.update,
                    update_bytes=merged.update_bytes,
                    deltas=merged.deltas,
                    proposer=self._me,
                    signature=_UNSIGNED,
                )
            )
            self._proposed[merged.slot] = heads[-1]
            tile.say_again_at = now + self._share(UNHEARD)
        return [Propose(tuple(heads))] if heads else []

    def remember_signed(self, heads: Iterable[Head]) -> None:
        """Our own heads, now signed and journaled: what is published again is exactly this."""
        for head in heads:
            if head.slot in self._proposed:
                self._proposed[head.slot] = head

    def _on_applied(self, event: TilesApplied, now: int) -> list[RoundEffect]:
        for slot in event.slots:
            tile = self._tiles[slot.tile]
            tile.applied = max(tile.applied, slot.version)
        return []

    # -- peers and time -------------------------------------------------------------------------------------------------

    def _on_connected(self, event: PeerConnected, now: int) -> list[RoundEffect]:
        self._connected.add(event.peer)
        self._lost_at.pop(event.peer, None)
        for own in self._deliverables():
            own.delivered.discard(event.peer)  # it may have lost what it never acknowledged
            own.again_at.pop(event.peer, None)
        return [*self._announce(), *self._republish()] if self._started else []

    def _on_lost(self, event: PeerLost, now: int) -> list[RoundEffect]:
        self._connected.discard(event.peer)
        for own in self._own.values():
            if own.through == event.peer:
                own.give_up_aggregator()
        if not self._is_stranger(event.peer):
            self._lost_at[event.peer] = now
        return []

    def _on_region(self, event: RegionTold, now: int) -> list[RoundEffect]:
        self.regions.tell(event.peer, event.region)
        return []

    def _on_announced(self, event: RoundAnnounced, now: int) -> list[RoundEffect]:
        late = event.round == self._round and now > self._opened_at + self._share(ANNOUNCE_EARLY)
        number = event.round - 2 if late else event.round  # a late one is waited for from the round after next
        if event.learner in self._announced or len(self._announced) < ANNOUNCERS_MAX:
            self._announced[event.learner] = max(number, self._announced.get(event.learner, number))
        return []

    def _on_timer(self, event: RoundTimer, now: int) -> list[RoundEffect]:
        self._timer_at = None
        return []

    def _on_clock(self, event: ClockJudged, now: int) -> list[RoundEffect]:
        self._clock_trusted = event.trusted
        return []

    def _share(self, thousandths: int) -> int:
        return self._rule.round_ms * thousandths // 1000

    def _deadline(self) -> int:
        return self._opened_at + self._rule.round_ms

    def _collects_until(self, opens_at: int) -> int:
        """Until when an attempt waits for expected learners: the deadline, also where only we lost the owner.

        A standby whose link to a living owner broke would otherwise be first, with its own delta alone; and so would an owner
        that an epoch made after the deadline, to whom nobody has delivered yet.
        """
        return max(self._deadline(), max(opens_at, self._epoch_at) + self._share(STANDBY_COLLECTS))

    def _attempt_times(self, name: TileId) -> list[int]:
        """When each attempt at the tile's open slot begins, by our clock and what we know of connections now.

        An owner is silent when it could have merged and did not: not before the deadline, and not while we have no delta
        for it ourselves, unless others, who have theirs, gave them to us.
        """
        tile = self._tiles[name]
        times = [self._opened_at]
        due_at = max(self._deadline(), tile.own_at or 0)
        if tile.own_at is None and self._learning is not None and not tile.candidates:
            due_at = _NEVER
        for index in self._rules.order(name)[:-1]:
            lost_at = self._lost_at.get(self._rules.roster.members[index].node)
            if lost_at is None:
                times.append(max(times[-1], due_at) + self._share(SILENCE))
            else:
                times.append(max(times[-1], lost_at + self._share(SILENCE)))
        return times

    def _find_attempt(self, name: TileId) -> int | None:
        """Which attempt at the tile is ours, if we are in its order."""
        me = self._rules.roster.find_index(self._me)
        order = self._rules.order(name)
        return order.index(me) if me in order else None

    def _maybe_set_timer(self, now: int) -> list[RoundEffect]:
        """One timer: the next moment at which time alone changes something."""
        moments = {max(self._patience_at(), self._retry_at)} if not self._done else set()
        undecided = self._undecided()
        if undecided:
            moments |= {self._gathers_until(), self._asks_at(), self._deadline()}
        for name in undecided:
            times = self._attempt_times(name)
            moments.update(times)
            attempt = self._find_attempt(name)
            if attempt is not None:
                moments.add(self._collects_until(times[attempt]))
            moments.add(self._tiles[name].again_at)
        for own in self._deliverables():
            moments.update(own.again_at.values())
        moments.update(self._tiles[head.tile].say_again_at for head in self.open_proposals())
        upcoming = min((moment for moment in moments if now < moment < _NEVER), default=None)
        if upcoming is None or upcoming == self._timer_at:
            return []
        self._timer_at = upcoming
        return [SetRoundTimer(upcoming)]
