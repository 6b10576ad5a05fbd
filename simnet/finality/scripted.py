"""A world that plays one script of ``scripts``: four views with given leaders and sides, then everybody hears everybody.

What is said of a view reaches the speaker's side of that view alone, however often it is said again; a proposal may carry
certificates of earlier views to whoever it reaches. The sides are lifted when the last scripted view was left, or when nobody
gets on any more. After that the honest must go on, as in any other world.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, Final, assert_never

from consensus.finality.schedule import Schedule
from protocol.finality import BodyMessage, Certificate, Proposal, Status, ValidatorMessage, Vote, Want
from protocol.ids import Digest, Epoch, View
from protocol.roster import Roster
from simnet.finality.genesis import RULE, ActorId, actor_of, make_keys, make_roster
from simnet.finality.members import RIGHT, Machine
from simnet.finality.network import Network
from simnet.finality.options import Options
from simnet.finality.scripts import HONEST, TWINS, VIEWS, scripts
from simnet.finality.sets import Sets, Weights
from simnet.finality.villains import Actor
from simnet.finality.villains.twins import FIRST, SECOND, ScriptedTwins
from simnet.finality.world import START_MS, World

MEMBERS: Final = 4
LULL_MS: Final = 12_000  # longer than the timer of the fourth view, after three that were nullified
SCRIPT_MS_MAX: Final = 600_000
HALVES: Final = ((FIRST, 3), (SECOND, 4))  # mask -> program
OPTIONS: Final = Options(villain="twins", fullness=1.0)  # with nothing to propose both twins would propose the same


class ScriptedWorld(World):
    """``run`` it. ``number``: of the script, which is also the seed of delays and bodies."""

    finalizations_min = 2
    look_ms = 50

    def __init__(self, number: int, machine: Machine = RIGHT) -> None:
        self.script = scripts()[number]
        self._block_views: dict[Digest, View] = {}
        self._progress_ms = START_MS
        super().__init__(number, MEMBERS, OPTIONS, machine, chaos_ms=SCRIPT_MS_MAX)

    def told(self) -> str:
        return "; ".join(each.told() for each in self.script)

    def hears(self, program: int, other: int, message: Any) -> bool:
        """Whether what one says reaches the other."""
        view = self._view_of(message) if self.chaos else None
        if view is None or not 1 <= view <= len(self.script):
            return True
        return self.script[view - 1].hears(program, other)

    def _view_of(self, message: ValidatorMessage) -> View | None:
        match message:
            case Proposal():
                self._block_views[message.vote.block] = message.vote.view
                return message.vote.view
            case Vote() | Certificate():
                return message.view
            case Status():
                return message.current_view
            case BodyMessage():
                return self._block_views.get(message.block)
            case Want():
                return self._block_views.get(message.blocks[0])
            case _:
                assert_never(message)

    # -- what another world draws -------------------------------------------------------------------------------------

    def _choose_byzantine(self, weights: Weights) -> tuple[ActorId, ...]:
        return (TWINS,)

    def _make_network(self) -> Network:
        return ScriptedNetwork(self)

    def _make_sets(self, weights: Weights) -> Sets:
        sets = super()._make_sets(weights)
        leaders = (*(each.leader for each in self.script), *HONEST)[:VIEWS]
        sets.replace_first(beacons()[leaders])
        return sets

    def _make_actor(self, me: ActorId) -> Actor:
        return ScriptedTwins(self, me, self._mask_of) if me == TWINS else super()._make_actor(me)

    def _mask_of(self, member: ActorId, message: Any) -> int:
        return sum(half for half, program in HALVES if self.hears(program, member, message))

    def _plan_faults(self) -> None:
        self.later(LULL_MS, self._maybe_heal)

    # -- the heal -----------------------------------------------------------------------------------------------------

    def take_note_of_view(self, epoch: Epoch, view: View) -> None:
        self._progress_ms = self.now_ms
        if self.chaos and view > VIEWS:
            self._heal()
        super().take_note_of_view(epoch, view)

    def _maybe_heal(self) -> None:
        if not self.chaos:
            return
        if self.now_ms < self._progress_ms + LULL_MS:
            self.later(self._progress_ms + LULL_MS - self.now_ms, self._maybe_heal)
        else:
            self._heal()

    def _heal(self) -> None:
        self.heal_ms = self.now_ms
        super()._heal()


class ScriptedNetwork(Network):
    """Between honest members here; what twins hear and say passes by their masks."""

    def __init__(self, world: ScriptedWorld) -> None:
        super().__init__(world)
        self._scripted = world

    def send(self, source: ActorId, to: ActorId, message: Any) -> None:
        if TWINS in (source, to) or self._scripted.hears(source, to, message):
            super().send(source, to, message)

    def reaches(self, source: ActorId, to: ActorId) -> bool:
        return not self._scripted.chaos


@functools.cache
def beacons() -> dict[tuple[ActorId, ...], bytes]:
    """For each four leaders a beacon that gives them the first four views."""
    keys, found = make_keys(MEMBERS), dict[tuple[ActorId, ...], bytes]()
    for number in itertools.count():
        beacon = number.to_bytes(4, "big")
        found.setdefault(_leaders(make_roster(keys, beacon=beacon)), beacon)
        if len(found) == MEMBERS**VIEWS:
            break
    return found


def _leaders(roster: Roster) -> tuple[ActorId, ...]:
    schedule = Schedule(roster, RULE)
    return tuple(actor_of(roster.members[schedule.leader(View(view))].node) for view in range(1, VIEWS + 1))
