"""The world: one heap of events, virtual milliseconds, one generator from the seed, and the members above them.

    faults for 25 s of its time -> the heal: every link works, a core of more than two thirds lives
                                -> each of the core finalizes ten blocks in 60 Delta, longer if silent members lead

Nothing here reads a clock, iterates over a set or calls ``hash``: one seed is one log, under any PYTHONHASHSEED.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from consensus.finality.schedule import Schedule
from protocol.ids import MemberIndex, View
from protocol.limits import VIEW_TIMEOUT_MS_MAX
from simnet.finality.checkers import FINALIZATIONS_MIN, Broken, Checkers, Rule, check_memory, find_stall
from simnet.finality.genesis import DELTA_MS, GENESIS_MS, RULE, WEIGHTS, choose_byzantine, make_keys, make_roster
from simnet.finality.members import PAUSE_MS, RIGHT, Machine, Member
from simnet.finality.network import Network
from simnet.finality.options import Options
from simnet.finality.villains import VILLAINS, Actor

START_MS: Final = GENESIS_MS + 1_000
CHAOS_MS: Final = 25_000
LIVE_MS: Final = 60 * DELTA_MS
# A view whose leader is a villain or gone may cost its whole timer, at its longest: with an unlucky beacon such views come
# twelve in a row (seven members, --villain lunatic, seed 184), which says nothing against the machine.
SILENT_VIEW_MS: Final = RULE.idle_interval_ms + 3 * VIEW_TIMEOUT_MS_MAX
CALLS_MAX: Final = 3_000_000  # a world that needs more is spinning; thirty-one members need some 200 000
FORKERS: Final = ("equivocator", "twins")  # too many Byzantine members, and the seed drew none: these
AFTER_FORK_MS: Final = 10 * DELTA_MS  # with too many Byzantine members nothing is live: evidence may still arrive


class World:
    """``run`` it. Raises ``Broken`` as soon as a rule is broken."""

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
        self.count = count
        self.over = over
        self.chaos_ms = chaos_ms
        self.cut_at = cut_at
        self.keys = make_keys(count)
        weights = WEIGHTS[self.options.weights](self.random, count)
        self.roster = make_roster(self.keys, machine.roster, weights, self.random.randbytes(8))
        self.schedule = Schedule(self.roster, RULE)
        self.byzantine = self._choose_byzantine(weights)
        self.byzantine_weight = sum(weights[member] for member in self.byzantine)
        self.now_ms = START_MS
        self.heal_ms = START_MS + chaos_ms
        self.end_ms = self.heal_ms  # later, once it is known who lives
        self.heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self.sequence = 0
        self.events = 0
        self.log = hashlib.sha256()
        self.forked = False  # only where ``over`` allows it
        self.settled = False
        self.journals_lost: list[MemberIndex] = []
        self.network = Network(self)
        self.checkers = Checkers(self)
        self.members: list[Member] = []
        self.actors: list[Actor] = [self._make_actor(MemberIndex(index)) for index in range(count)]
        self.core: list[Member] = self.members  # whoever must be live after the heal
        self.network.plan_faults()
        self._plan_faults()
        for actor in self.actors:
            actor.start()

    def _draw_options(self, villain: str | None, over: bool) -> Options:
        drawn = Options.draw(self.random)
        fallback = self.random.choice(FORKERS) if over else None
        return replace(drawn, villain=villain or drawn.villain or fallback)

    def _choose_byzantine(self, weights: tuple[int, ...]) -> tuple[MemberIndex, ...]:
        if self.options.villain is None:
            return ()
        return choose_byzantine(self.random, weights, over=self.over)

    def _make_actor(self, me: MemberIndex) -> Actor:
        if me in self.byzantine and self.options.villain is not None:
            return VILLAINS[self.options.villain](self, me)
        skew_ms = self.options.skew_ms
        member = Member(self, me, self.checkers, self.machine, self.random.randrange(-skew_ms, skew_ms + 1))
        self.members.append(member)
        return member

    def get_member(self, me: MemberIndex) -> Member:
        return next(member for member in self.members if member.me == me)

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
        while self.heap and self.heap[0][0] <= self.end_ms and not self.settled:
            if self.sequence > CALLS_MAX:
                raise Broken(Rule.BROKEN, "the members keep each other busy without end")
            self.now_ms, _, call, arguments = heapq.heappop(self.heap)
            call(*arguments)
        if self.forked:
            self.check_attribution()
        if not self.over:
            stall = find_stall(self.core)
            if stall is not None:
                raise Broken(Rule.NOT_LIVE, stall)
            check_memory(self.core)
        return self

    def check_attribution(self) -> None:
        """At the fork, and again in the end: raises ``Broken`` if it convicts too little, or an honest member."""
        if self.checkers.attribution is not None:
            self.checkers.attribution.check()

    def _live_ms(self) -> int:
        """How long after the heal the core may take: the next ten leaders of the core, and whoever leads between them."""
        if self.over:
            return AFTER_FORK_MS
        voters = [member.me for member in self.core if member.me not in self.journals_lost]
        view, led, silent = self.checkers.highest_view + 1, 0, 0
        while led < FINALIZATIONS_MIN:
            votes = self.schedule.leader(View(view)) in voters
            view, led, silent = view + 1, led + votes, silent + (not votes)
        return LIVE_MS + silent * SILENT_VIEW_MS

    def deliver(self, source: MemberIndex, to: MemberIndex, message: Any) -> None:
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

    def may_lose_journal(self, member: MemberIndex) -> bool:
        """Losing a journal costs a voter: with the villains, less than a third of the weight."""
        lost = list(dict.fromkeys((*self.journals_lost, member)))
        if not self._can_do_without(lost):
            return False
        self.journals_lost = lost
        return True

    def _can_do_without(self, members: list[MemberIndex]) -> bool:
        weights = self.roster.weights
        return 3 * (self.byzantine_weight + sum(weights[member] for member in members)) < sum(weights)

    def _heal(self) -> None:
        self._choose_core()
        self.end_ms = self.heal_ms + self._live_ms()
        for member in self.members:
            member.height_at_heal = len(member.disk.ledger)
            if member.core is None:
                member.start()
        self.later(DELTA_MS, self._look)

    def _choose_core(self) -> None:
        """Who must be live: everybody, or what is left when as many as possible, in a random order, stop for ever."""
        if not self.options.leave_behind:
            return
        order = [member for member in self.members if member.me not in self.journals_lost]
        self.random.shuffle(order)
        gone: list[MemberIndex] = []
        for member in order:
            if self._can_do_without([*self.journals_lost, *gone, member.me]):
                gone.append(member.me)
                member.stop()
        self.core = [member for member in self.members if not member.left_behind]

    def _look(self) -> None:
        """Once a Delta after the heal: are we there?"""
        self.settled = not self.over and find_stall(self.core) is None
        self.later(DELTA_MS, self._look)
