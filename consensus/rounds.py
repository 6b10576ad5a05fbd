r"""Rounds: when to learn, whom to give deltas, when to merge, when to take over. Pure: events and the time in, effects out.

Rounds pace the work and decide nothing; what is decided is a slot (tile, version), by the finality machine (learning.md 1
and 2). Each node runs this machine alone, on its own clock. Two nodes whose machines disagree about the round lose time,
never agreement.

A round at a node
-----------------
::

    open --> learner: StartLearning ... LearnDone --> DeliverDeltas to the acting owner of each tile
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
* **A proposer has one value for a slot in an epoch**: once signed and journaled it is only ever published again. In the next
  epoch it may have another place in the tile's order, or none: then it proposes anew, or somebody else does.
* **The fate of a delta** is sealed when a head lists it (merged), or when the version after next of its base is decided
  without it (lost: the learner returns it to its residual). A learner has one delta for a tile and base: while the
  slot is open it resends the same bytes, and what it learns of the tile meanwhile waits in its residual.
* **The round number** follows the chain: a decided head of a later round moves this node to that round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from consensus.events import (
    Announce,
    Blamed,
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
    Republish,
    RoundAnnounced,
    RoundClosed,
    RoundEffect,
    RoundEvent,
    RoundOpened,
    RoundTimer,
    SetRoundTimer,
    Stalled,
    StartLearning,
    StartMerge,
    TilesApplied,
)
from consensus.heads import HeadRules, TileHead
from protocol.genesis import LearningRule
from protocol.ids import Digest, PeerId, Round, Signature, TileId, Version, short
from protocol.limits import UNREGISTERED_DELTAS_PER_SLOT_MAX
from protocol.rejection import Reason
from protocol.roster import Decided, DeltaRef, Head, Slot

# Shares of a round, in thousandths.
SILENCE = 300  # learning.md 2: an attempt is given 0.3 rounds
STANDBY_COLLECTS = 150  # half of that for the standby to collect what is delivered again (a guess)
ANNOUNCE_EARLY = 333  # a learner that announces itself later is not waited for (a guess)
RETRY = 500  # how often a stalled node tries again
AGAIN = 100  # after how long a failed delivery or merge is tried again: soon, but never at once (a guess)
ANNOUNCERS_MAX = 1024  # learners whose announcement is remembered: anybody can make a key and announce
STRANGERS_PER_TILE_MAX = 4 * UNREGISTERED_DELTAS_PER_SLOT_MAX  # their deltas kept for a tile: a few times their places

_NEVER = 1 << 62  # milliseconds
_UNSIGNED = Signature(bytes(64))


def _signed(head: Head) -> bool:
    return head.signature != _UNSIGNED


@dataclass(slots=True)
class _Own:
    """One of our deltas whose fate is open."""

    delta: Delta
    delivered: set[PeerId] = field(default_factory=set)
    under_way: set[PeerId] = field(default_factory=set)
    again_at: dict[PeerId, int] = field(default_factory=dict)  # delivery failed: not before this time


@dataclass(slots=True)
class _Tile:
    """One tile as this machine sees it."""

    at: TileHead  # decided
    applied: Version  # on our disk
    candidates: dict[tuple[PeerId, Version], Delta] = field(default_factory=dict)
    merging: bool = False
    again_at: int = 0  # a merge failed: not before this time
    trouble: str = ""  # why the last merge failed
    heard: bool = False  # a head of the open slot was verified here: nobody is silent
    own_at: int | None = None  # when our own delta for the open slot was there

    @property
    def decided_round(self) -> int:
        return self.at.head.round if self.at.head else -1

    @property
    def slot_version(self) -> Version:
        return Version(self.at.version + 1)

    def counts(self, digest: Digest) -> bool:
        """Whether the decided head lists a delta."""
        return self.at.head is not None and any(reference.delta == digest for reference in self.at.head.deltas)

    def is_usable(self, delta: Delta) -> bool:
        """Whether the open slot, or a later one, may take a delta."""
        return delta.base >= self.at.version - 1 and not self.counts(delta.digest)


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
    takeovers: int
    stalled: str | None
    undecided: tuple[TileId, ...]


class RoundMachine:
    """The rounds of one node.

    ``tiles`` is where each tile stands to begin with, ``applied`` what is on disk, ``proposed`` the heads from the proposal
    journal (those of this epoch count), ``outstanding`` our own deltas without a fate, ``counted`` those of them that decided
    heads list, which the newest heads alone do not tell, ``learned_round`` the last round that our learner journaled.
    ``learns`` is false for a node without a learner; ``rounds_max`` stops opening rounds after that many.
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
    ) -> None:
        self._me = me
        self._rules = rules
        self._rule = learning
        self._learns = learns
        self._rounds_max = rounds_max
        self._tiles = {tile: _Tile(at, at.version if applied is None else applied[tile]) for tile, at in tiles.items()}
        self._proposed: dict[Slot, Head] = {head.slot: head for head in proposed if head.epoch == rules.roster.epoch}
        self._own: dict[Digest, _Own] = {delta.digest: _Own(delta) for delta in outstanding}
        self._merged_own: list[Digest] = []  # fates that the learner has not journaled
        self._lost_own: list[Digest] = []
        self._told: set[Digest] = set()  # those among them that it was told when it began
        self._members = {member.node for member in rules.roster.members}
        self._connected: set[PeerId] = set()
        self._lost_at: dict[PeerId, int] = {}
        self._announced: dict[PeerId, int] = {}
        self._contributed: dict[PeerId, int] = {}  # strangers: the newest round whose heads list a delta of theirs
        self._first_seen_round = 0
        self._round = -1  # none is open
        self._rounds_closed = 0
        self._opened_at = 0
        self._retry_at = 0
        self._progress_at = 0  # when this round last decided a tile, or our learner finished
        self._learning: int | None = None
        self._learned = learned_round
        self._failed = -1
        self._started = False
        self._done = False
        self._takeovers = 0
        self._stalled: str | None = None
        self._clock_trusted = True
        self._timer_at: int | None = None
        self._handlers: dict[type, Callable[[Any, int], list[RoundEffect]]] = {
            PeerConnected: self._on_connected,
            PeerLost: self._on_lost,
            RoundAnnounced: self._on_announced,
            DeltasArrived: self._on_deltas,
            LearnDone: self._on_learned,
            LearnFailed: self._on_learn_failed,
            DeltasDelivered: self._on_delivered,
            DeliveryFailed: self._on_delivery_failed,
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
        return effects + self._proceed(now)

    def start(self, now: int) -> list[RoundEffect]:
        """Open the first round. Call once, when the node is synced and connected."""
        self._started = True
        for member in self._rules.roster.members:
            if member.node != self._me and member.node not in self._connected:
                self._lost_at.setdefault(member.node, now)
        newest = max((tile.decided_round for tile in self._tiles.values()), default=-1)
        complete = all(tile.decided_round == newest for tile in self._tiles.values())
        self._first_seen_round = newest + 1 if complete else newest
        return self._open(self._first_seen_round, now) + self._proceed(now)

    def decide(self, decided: Iterable[Decided], now: int) -> list[RoundEffect]:
        """Heads became final."""
        newest = self._round
        for slot, head, _ in decided:
            tile = self._tiles[slot.tile]
            tile.at = TileHead(slot.version, head.root, head)
            tile.again_at, tile.trouble, tile.heard, tile.own_at = 0, "", False, None
            self._progress_at = now
            newest = max(newest, head.round)
            self._takeovers += head.attempt > 0
            self._contributed |= {ref.learner: head.round for ref in head.deltas if self._is_stranger(ref.learner)}
            self._proposed.pop(slot, None)
            tile.candidates = {key: delta for key, delta in tile.candidates.items() if tile.is_usable(delta)}
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
        self._members = {member.node for member in rules.roster.members}
        here = self._connected | {self._me}
        self._lost_at = {
            member.node: self._lost_at.get(member.node, now)
            for member in rules.roster.members
            if member.node not in here
        }
        self._proposed.clear()
        for tile in self._tiles.values():
            tile.heard = False
        for own in self._own.values():
            own.delivered.clear()
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
            effects += self._maybe_learn()
        effects += self._maybe_deliver(now)
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
        for own in self._own.values():
            own.delivered.clear()
        effects += self._announce()
        return effects + self._republish()

    def open_proposals(self) -> tuple[Head, ...]:
        """Our signed and journaled heads of slots that are still open."""
        heads = (self._proposed[slot] for slot in sorted(self._proposed))
        return tuple(head for head in heads if head.version == self._tiles[head.tile].slot_version and _signed(head))

    def _republish(self) -> list[RoundEffect]:
        again = self.open_proposals()
        return [Republish(again)] if again else []

    # -- learning -------------------------------------------------------------------------------------------------------

    def _maybe_learn(self) -> list[RoundEffect]:
        if not self._learns or self._learning is not None or max(self._learned, self._failed) >= self._round:
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
        self._learning = self._round
        merged, lost = tuple(self._merged_own), tuple(self._lost_own)
        self._told = {*merged, *lost}
        bases = tuple((name, self._tiles[name].at.version) for name in sorted(self._tiles))
        return [StartLearning(Round(self._round), bases, withheld, merged, lost)]

    def _on_learned(self, event: LearnDone, now: int) -> list[RoundEffect]:
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
        else:
            return
        del self._own[digest]

    # -- delivering -----------------------------------------------------------------------------------------------------

    def _maybe_deliver(self, now: int) -> list[RoundEffect]:
        bundles: dict[PeerId, list[Digest]] = {}
        for digest, own in self._own.items():
            tile = self._tiles[own.delta.tile]
            acting = self.acting_attempt(own.delta.tile, now)
            for index in self._rules.order(own.delta.tile)[: acting + 1]:
                owner = self._rules.roster.members[index].node
                if owner in own.delivered or owner in own.under_way or own.again_at.get(owner, now) > now:
                    continue
                if owner == self._me:
                    own.delivered.add(owner)
                    tile.candidates[self._me, own.delta.base] = own.delta
                elif owner in self._connected:
                    own.under_way.add(owner)
                    bundles.setdefault(owner, []).append(digest)
        return [DeliverDeltas(owner, tuple(bundles[owner])) for owner in sorted(bundles)]

    def _on_delivered(self, event: DeltasDelivered, now: int) -> list[RoundEffect]:
        for digest in [*event.accepted, *(digest for digest, _ in event.refused)]:
            if digest in self._own:
                self._own[digest].under_way.discard(event.owner)
                self._own[digest].delivered.add(event.owner)
        return []

    def _on_delivery_failed(self, event: DeliveryFailed, now: int) -> list[RoundEffect]:
        """Tried again soon, or when the owner connects again; not at once, or we would spin."""
        for digest in event.deltas:
            if digest in self._own:
                self._own[digest].under_way.discard(event.owner)
                self._own[digest].again_at[event.owner] = now + self._share(AGAIN)
        return []

    # -- owning ---------------------------------------------------------------------------------------------------------

    def _on_deltas(self, event: DeltasArrived, now: int) -> list[RoundEffect]:
        effects: list[RoundEffect] = []
        for delta in event.deltas:
            tile = self._tiles[delta.tile]
            if not tile.is_usable(delta):
                continue  # decided between its arrival and now, or while we were down
            first = tile.candidates.setdefault((delta.learner, delta.base), delta)
            if first.digest != delta.digest:
                effects.append(Blamed(delta.learner, Reason.SECOND_DELTA, f"{delta.tile} on version {delta.base}"))
        return effects

    def find_refusal(self, delta: Delta) -> Reason | None:
        """Why an incoming delta would not be taken, if it would not; asked before it is stored."""
        tile = self._tiles.get(delta.tile)
        if tile is None:
            return Reason.UNKNOWN_TILE
        if self._rules.roster.find_index(self._me) is None:
            return Reason.WRONG_OWNER
        if not tile.at.version - 1 <= delta.base <= tile.at.version + 1:
            return Reason.STALE_BASE
        first = tile.candidates.get((delta.learner, delta.base))
        if first is not None and first.digest != delta.digest:
            return Reason.SECOND_DELTA
        if tile.counts(delta.digest):
            return Reason.ALREADY_COUNTED
        if first is None and self._is_stranger(delta.learner):
            strangers = sum(self._is_stranger(learner) for learner, _ in tile.candidates)
            if strangers >= STRANGERS_PER_TILE_MAX:
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
            delivered = {delta.learner for delta in usable if delta.base == tile.at.version}
            if not expected <= delivered and now < self._collects_until(opens_at):
                continue
            refs = self._rules.select_deltas(name, slot.version, map(self._reference, usable))
            tile.merging = True
            effects.append(StartMerge(slot, attempt, tile.at.root, refs))
        return effects

    def _reference(self, delta: Delta) -> DeltaRef:
        return DeltaRef(delta.digest, delta.learner, delta.base, min(delta.tokens, self._rules.delta_weight_max))

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
        for own in self._own.values():
            own.delivered.discard(event.peer)  # it may have lost what it never acknowledged
            own.again_at.pop(event.peer, None)
        return [*self._announce(), *self._republish()] if self._started else []

    def _on_lost(self, event: PeerLost, now: int) -> list[RoundEffect]:
        self._connected.discard(event.peer)
        if not self._is_stranger(event.peer):
            self._lost_at[event.peer] = now
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

        A standby whose link to a living owner broke would otherwise be first, with its own delta alone.
        """
        return max(self._deadline(), opens_at + self._share(STANDBY_COLLECTS))

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
            moments.add(self._deadline())
        for name in undecided:
            times = self._attempt_times(name)
            moments.update(times)
            attempt = self._find_attempt(name)
            if attempt is not None:
                moments.add(self._collects_until(times[attempt]))
            moments.add(self._tiles[name].again_at)
        for own in self._own.values():
            moments.update(own.again_at.values())
        upcoming = min((moment for moment in moments if now < moment < _NEVER), default=None)
        if upcoming is None or upcoming == self._timer_at:
            return []
        self._timer_at = upcoming
        return [SetRoundTimer(upcoming)]
