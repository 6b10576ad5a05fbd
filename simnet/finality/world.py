"""The world: one heap of events, virtual milliseconds, one generator from the seed, and the members above them.

    faults for 25 s of its time -> the heal: every link works, a core of more than two thirds lives
                                -> each of the core finalizes ten blocks in 60 Delta, longer if silent members lead

Actors are whoever holds a key: the members of the first epoch, and some who may join later. Each epoch's roster is drawn when
the epoch before it begins (``sets``), and a core is more than two thirds of every set that is then fixed.

Nothing here reads a clock, iterates over a set or calls ``hash``: one seed is one log, under any PYTHONHASHSEED.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Final

from msgspec.structs import replace as replace_rule

from consensus.finality.signer import EPOCHS_REFUSED
from consensus.state import State
from consensus.transition import BlockRules
from protocol.finality import NO_BLOCK, FinalizedBlock
from protocol.ids import Digest, Epoch, View
from protocol.limits import VIEW_TIMEOUT_MS_MAX
from protocol.roster import Roster
from simnet.finality.checkers import FINALIZATIONS_MIN, Checkers, check_memory, find_stall
from simnet.finality.genesis import (
    CHAIN,
    DELTA_MS,
    GENESIS_MS,
    GENESIS_STATE,
    LEDGER_RULE,
    RULE,
    WEIGHTS,
    ActorId,
    choose_byzantine,
    make_keys,
)
from simnet.finality.ledger import Application, Memo
from simnet.finality.members import PAUSE_MS, RIGHT, Machine, Member
from simnet.finality.network import Network
from simnet.finality.options import Options
from simnet.finality.sets import Sets, Weights
from simnet.finality.villains import VILLAINS, Actor
from simnet.finality.watch import Broken, Rule

START_MS: Final = GENESIS_MS + 1_000
CHAOS_MS: Final = 25_000
SPARES_SHARE: Final = 4  # one actor for so many members of the first set is not in it, and one more perhaps
LIVE_MS: Final = 60 * DELTA_MS
# A view whose leader is a villain or gone may cost its whole timer, at its longest: with an unlucky beacon such views come
# twelve in a row (seven members, --villain lunatic, seed 184), which says nothing against the machine.
SILENT_VIEW_MS: Final = RULE.idle_interval_ms + 3 * VIEW_TIMEOUT_MS_MAX
CALLS_MAX: Final = 3_000_000  # a world that needs more is spinning; thirty-one members need some 200 000
AWAY_MS: Final = (4_000, 15_000)  # long enough to be some epochs behind
FORKERS: Final = ("equivocator", "twins")  # too many Byzantine members, and the seed drew none: these
AFTER_FORK_MS: Final = 10 * DELTA_MS  # with too many Byzantine members nothing is live: evidence may still arrive


class World:
    """``run`` it. Raises ``Broken`` as soon as a rule is broken."""

    finalizations_min: ClassVar[int] = FINALIZATIONS_MIN  # by each of the core, after the heal
    look_ms: ClassVar[int] = DELTA_MS  # how often somebody asks whether they are done

    def __init__(
        self,
        seed: int,
        count: int,
        options: Options | None = None,
        machine: Machine = RIGHT,
        *,
        villain: str | None = None,
        over: bool = False,
        chaos_ms: int = CHAOS_MS,
        cut_at: tuple[int, int] | None = None,
    ) -> None:
        """``options`` None: drawn, but for the ``villain`` if one is named.

        ``over``: Byzantine members hold more than a third of the weight. None named and none drawn: one that forks.

        ``cut_at`` (event, position): member 0 crashes there, counting its events that have effects.
        """
        self.random = random.Random(seed)
        self.options = options or self._draw_options(villain, over)
        self.machine = machine
        spares = max(1, count // SPARES_SHARE) + self.random.randrange(2) if self.options.set_changes else 0
        self.count = count + spares
        self.over = over
        self.chaos_ms = chaos_ms
        self.cut_at = cut_at
        self.keys = make_keys(self.count)
        self.rule = replace_rule(RULE, epoch_heights=self.options.epoch_heights)
        weights = (*WEIGHTS[self.options.weights](self.random, count), *(0,) * spares)
        self.byzantine = self._choose_byzantine(weights[:count])
        self.sets = self._make_sets(weights)
        self.epoch = Epoch(0)  # the highest that anybody honest is in
        self._refusing: dict[ActorId, int] = {}  # lost their journal -> vote again from this epoch on
        self._lacking: dict[ActorId, int] = {}  # lost a row of their database -> whole again from this epoch on
        self.now_ms = START_MS
        self.heal_ms = START_MS + chaos_ms
        self.end_ms = self.heal_ms  # later, once it is known who lives
        self.heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self.sequence = 0
        self.events = 0
        self.log = hashlib.sha256()
        self.forked = False  # only where ``over`` allows it
        self.settled = False
        self._passed: set[tuple[int, int]] = set()  # (epoch, view) left since the heal; asked only "is it in"
        self._silent_views = 0  # of them, whose leader could not lead
        self.block_rules = BlockRules(
            CHAIN, LEDGER_RULE, self.rule.epoch_heights, delta_weight_max=1, history_segment_ticks=1
        )
        self.memo = Memo()
        self.network = self._make_network()
        self.checkers = Checkers(self)
        self.members: list[Member] = []
        self.actors: list[Actor] = [self._make_actor(ActorId(index)) for index in range(self.count)]
        self.core: list[Member] = self.members  # whoever must be live after the heal
        self.network.plan_faults()
        self._plan_faults()
        self._first_count = count

    def _draw_options(self, villain: str | None, over: bool) -> Options:
        drawn = Options.draw(self.random)
        fallback = self.random.choice(FORKERS) if over else None
        return replace(drawn, villain=villain or drawn.villain or fallback)

    def _choose_byzantine(self, weights: tuple[int, ...]) -> tuple[ActorId, ...]:
        if self.options.villain is None:
            return ()
        return choose_byzantine(self.random, weights, over=self.over)

    def _make_network(self) -> Network:
        return Network(self)

    def _make_sets(self, weights: Weights) -> Sets:
        return Sets(
            random.Random(self.random.getrandbits(64)),
            self.keys,
            self.machine.roster,
            self.rule,
            weights,
            self.byzantine,
            changes=self.options.set_changes,
            over=self.over,
        )

    def _make_actor(self, me: ActorId) -> Actor:
        if me in self.byzantine and self.options.villain is not None:
            return VILLAINS[self.options.villain](self, me)
        skew_ms = self.options.skew_ms
        member = Member(self, me, self.checkers, self.machine, self.random.randrange(-skew_ms, skew_ms + 1))
        self.members.append(member)
        return member

    def _plan_start(self, actor: Actor, *, spare: bool) -> None:
        """Whoever is in the first set is there from the beginning; others begin later, or go away for a while."""
        if not spare or not isinstance(actor, Member):
            actor.start()
            return
        match self.random.randrange(3):
            case 0:
                actor.start()
            case 1:  # from genesis
                self.later(self.random.randrange(self.chaos_ms), actor.start)
            case _:  # with an old disk
                actor.start()
                self.later(self.random.randrange(self.chaos_ms), actor.go_away, self.random.randrange(*AWAY_MS))

    def told(self) -> str:
        """What was drawn, for people."""
        return self.options.told()

    def get_member(self, me: ActorId) -> Member:
        return next(member for member in self.members if member.me == me)

    def make_application(
        self, memo: Memo | None, state: State = GENESIS_STATE, anchor: Digest = NO_BLOCK
    ) -> Application:
        """The application under test; ``anchor`` is the block after which ``state`` holds."""
        return self.machine.application(self.block_rules, memo, state, anchor)

    # -- epochs -------------------------------------------------------------------------------------------------------

    @property
    def roster(self) -> Roster:
        """Of the first epoch."""
        return self.sets.roster(0)

    def rosters(self, epoch: Epoch) -> tuple[Roster, Roster]:
        """What the application takes from the state as an epoch is opened: its roster and the next one."""
        return self.sets.roster(epoch), self.sets.roster(epoch + 1)

    def take_note_of_epoch(self, member: ActorId, epoch: Epoch) -> None:
        """What a villain knows and keeps to itself moves nobody: the honest must do without it."""
        if member not in self.byzantine:
            self.epoch = max(self.epoch, epoch)

    def boundary(self, epoch: Epoch) -> FinalizedBlock | None:
        """The block before an epoch's first, out of somebody's ledger; None for the first epoch."""
        height = epoch * self.rule.epoch_heights
        if height == 0:
            return None
        return next(member.disk.ledger[height - 1] for member in self.members if len(member.disk.ledger) >= height)

    def _refuses(self, actor: ActorId, epoch: int) -> bool:
        return epoch < self._refusing.get(actor, 0)

    # -- time ---------------------------------------------------------------------------------------------------------

    @property
    def chaos(self) -> bool:
        return self.now_ms < self.heal_ms

    def later(self, delay_ms: int, call: Callable[..., None], *arguments: Any) -> None:
        self.sequence += 1
        heapq.heappush(self.heap, (self.now_ms + max(0, delay_ms), self.sequence, call, arguments))

    def note(self, *words: object) -> None:
        """One line of the log, which only its digest outlives."""
        self.events += 1
        self.log.update(f"{self.now_ms} {words}\n".encode())

    def run(self) -> World:
        """Through the faults and until the core is live again; raises ``Broken``."""
        for actor in self.actors:
            self._plan_start(actor, spare=actor.me >= self._first_count)
        while self.heap and self.heap[0][0] <= self.end_ms and not self.settled:
            if self.sequence > CALLS_MAX:
                raise Broken(Rule.BROKEN, "the members keep each other busy without end")
            self.now_ms, _, call, arguments = heapq.heappop(self.heap)
            call(*arguments)
        if self.forked:
            self.check_attribution()
        self.checkers.replay.check()
        if not self.over:
            stall = find_stall(self.core, self.finalizations_min)
            if stall is not None:
                raise Broken(Rule.NOT_LIVE, stall)
            check_memory(self.core)
        return self

    def check_attribution(self) -> None:
        """At the fork, and again in the end: raises ``Broken`` if it convicts too little, or an honest member."""
        if self.checkers.attribution is not None:
            self.checkers.attribution.check()

    def take_note_of_view(self, epoch: Epoch, view: View) -> None:
        """A view was left. After the heal the core is given the time of every view that could only be waited for."""
        if self.chaos or self.over or (epoch, view) in self._passed:
            return
        self._passed.add((epoch, view))
        self._silent_views += self._is_silent(epoch, view)
        following = self._is_silent(epoch, View(view + 1))  # it may be waited for now
        self.end_ms = self.heal_ms + LIVE_MS + (self._silent_views + following) * SILENT_VIEW_MS

    def _is_silent(self, epoch: Epoch, view: View) -> bool:
        leader = self.sets.leader(epoch, view)
        return self._refuses(leader, epoch) or leader not in [member.me for member in self.core]

    def deliver(self, source: ActorId, to: ActorId, message: Any) -> None:
        self.actors[to].hear(source, message)

    # -- faults -------------------------------------------------------------------------------------------------------

    def _plan_faults(self) -> None:
        for _ in range(self.options.crashes):
            member = self.random.choice(self.members)
            self.later(self.random.randrange(self.chaos_ms), member.crash)
        for _ in range(self.options.pauses):
            member = self.random.choice(self.members)
            self.later(self.random.randrange(self.chaos_ms), member.pause, self.random.randrange(*PAUSE_MS))
        self.later(self.chaos_ms, self._heal)

    def may_lose_journal(self, member: Member) -> bool:
        """Losing a journal costs a voter for two epochs: with the villains, less than a third of the weight in each."""
        until = member.disk.epoch + EPOCHS_REFUSED
        if not self._can_do_without(member.me, lambda epoch: epoch < until):
            return False
        self._refusing[member.me] = max(until, self._refusing.get(member.me, 0))
        return True

    def may_lose_rows(self, member: Member) -> bool:
        """What a quorum wrote must stay on honest disks of more than a third: this one counts again when its epoch is over."""
        until = member.disk.epoch + 1
        if not self._can_do_without(member.me, lambda epoch: epoch < until):
            return False
        self._lacking[member.me] = max(until, self._lacking.get(member.me, 0))
        return True

    def _can_do_without(self, actor: ActorId, is_away: Callable[[int], bool]) -> bool:
        """Whether every set that votes now or is fixed is more than two thirds without this one too."""
        for epoch in (self.epoch, self.epoch + 1):
            weights = self.sets.weights(epoch)
            away = [each.me for each in self.members if self._is_missed(each, epoch)]
            if is_away(epoch) and actor not in away:
                away.append(actor)
            if 3 * (self.sets.byzantine_weight(epoch) + sum(weights[each] for each in away)) >= sum(weights):
                return False
        return True

    def _is_missed(self, member: Member, epoch: int) -> bool:
        return self._refuses(member.me, epoch) or epoch < self._lacking.get(member.me, 0) or member.left_behind

    def _heal(self) -> None:
        self._choose_core()
        self.end_ms = self.heal_ms + (AFTER_FORK_MS if self.over else LIVE_MS + SILENT_VIEW_MS)
        for member in self.members:
            member.height_at_heal = len(member.disk.ledger)
            if member.core is None:
                member.start()
        self.later(self.look_ms, self._look)

    def _choose_core(self) -> None:
        """Who must be live: everybody, or what is left when as many as possible, in a random order, stop for ever."""
        if not self.options.leave_behind:
            return
        order = list(self.members)
        self.random.shuffle(order)
        for member in order:
            if self._can_do_without(member.me, lambda epoch: True):
                self.sets.gone.append(member.me)
                member.stop()
        self.core = [member for member in self.members if not member.left_behind]

    def _look(self) -> None:
        """Now and then after the heal: are we there?"""
        self.settled = not self.over and find_stall(self.core, self.finalizations_min) is None
        self.later(self.look_ms, self._look)
