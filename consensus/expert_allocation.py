"""Who holds which experts. Everybody computes it alone from the adverts and the usage that it knows; the same view, one plan.

    cut        an expert that most peers have no room for is cut into slices, 2, 4, 8 ... of one size
    keep       what is held stays where it is: no copy moves because another order would be prettier
    spread     COPIES copies of each slice, one more of hot experts, in two failure domains where there are two; who takes what
               is missing is the first with room in the slice's order of peers: rendezvous hashing, weighted by tier (see
               election), so that nobody needs to ask anybody, and whoever leaves moves only its own
    balance    calls are divided among the copies (call_shares). Where somebody is more than a fifth off what its speed would
               make its share, copies are added that draw work to those who have little, one by one, as long as each pays: in
               an hour more bytes of activations would go to it than it has itself
    release    of copies beyond these that are hardly called, the last in the slice's order may go: each holder of one lets go
               of it when that has been so for an hour, and at once where the plan needs its room

Copies are added before others go, and what is there counts in the next plan: carried out, a plan gives itself again. So what
two peers who know of different things do differently is done once, and not undone.

Integers only; rooms and sizes are bytes, calls are of one usage period.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from consensus.call_shares import Shares
from consensus.election import weighted_score
from protocol.digest import Domain, digest
from protocol.experts import ExpertSlice, slices_of
from protocol.ids import PeerId
from protocol.limits import EXPERT_SLICES_MAX

COPIES: Final = 2  # any machine may be lost at any moment without its experts being gone
HOT_PERCENT: Final = 5  # 001 742: so many of the experts, the most called ones, are replicated once more
OFF_PERCENT: Final = 20  # 001 744: somebody who is so far off its share makes others move
AIM_PERCENT: Final = 10  # then all come as near as this, so that the next call more or less does not move them again
COLD_CALLS: Final = 1  # 001 749: a copy that is called no more often in a period is not needed for its calls
PERIODS_PER_HOUR: Final = 6  # DESIGN 4: usage is told every ten minutes
ADDED_MAX: Final = 256  # copies that one plan adds for balance: the next plan goes on (a guess)
OFFERS_TRIED: Final = 4  # of the copies that might draw most: each costs a division of all calls (a guess)
_FINE: Final = 1 << 32  # loads by speed are compared in such parts
TURNS_MAX: Final = 4  # what balance adds may make room elsewhere for what was missing


@dataclass(frozen=True, slots=True)
class Holder:
    """A peer that holds experts: its room for them, its part of all calls where it has the experts for it, what it holds."""

    peer: PeerId
    domain: str  # what fails at once: its region
    room_bytes: int
    tier: int  # 0 to 9 (DESIGN 7.2): how often it is chosen
    speed: int  # above 0: what it can compute, in a unit that is the same for all
    held: frozenset[ExpertSlice] = frozenset()


@dataclass(frozen=True, slots=True)
class Demand:
    """An expert: its size, how often it was called in the last period, and what one call of a remote copy sends."""

    expert: str
    size_bytes: int
    calls: int
    call_bytes: int  # activations there and back


@dataclass(frozen=True, slots=True)
class Copy:
    """One holder of a slice, and how many of the expert's calls should go to it."""

    peer: PeerId
    calls: int


@dataclass(frozen=True, slots=True)
class Move:
    """A copy that is to be made."""

    slice: ExpertSlice
    peer: PeerId
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The copies of each slice, in the slice's order of peers; and what is to change for that.

    ``moves``: what is not held yet; ``evicted``: by peer, what it holds and is not to hold, which goes first, for its room;
    ``surplus``: by peer, what may go when it was surplus for an hour; ``homeless``: slices that nobody has room for.
    """

    copies: dict[ExpertSlice, tuple[Copy, ...]]
    moves: tuple[Move, ...]
    evicted: dict[PeerId, tuple[ExpertSlice, ...]]
    surplus: dict[PeerId, tuple[ExpertSlice, ...]]
    homeless: tuple[ExpertSlice, ...]

    def held(self, peer: PeerId) -> frozenset[ExpertSlice]:
        """What a peer holds when all is done."""
        return frozenset(name for name, copies in self.copies.items() if any(copy.peer == peer for copy in copies))


def plan_allocation(holders: Iterable[Holder], demands: Iterable[Demand]) -> Plan:
    """The plan of everybody who knows these holders and demands, in whatever order; each peer and expert once."""
    with_room = sorted((each for each in holders if each.room_bytes > 0), key=lambda each: each.peer)
    return _Draft(with_room, sorted(demands, key=lambda each: each.expert)).plan()


def count_slices(demand: Demand, rooms: Sequence[int]) -> int:
    """Into how many slices an expert is cut: one of them fits into half of the peers' rooms, and no fewer slices would do.

    Where nobody has any room there is one, which nobody holds.
    """
    middle = sorted(rooms)[len(rooms) // 2] if rooms else 0
    count = 1
    while count < EXPERT_SLICES_MAX and _slice_bytes(demand, count) > middle > 0:
        count *= 2
    return count


def _slice_bytes(demand: Demand, count: int) -> int:
    return -(-demand.size_bytes // count)


@dataclass(slots=True, eq=False)
class _Slice:
    """A slice while the plan is made. ``having``: numbers of its holders, in the order in which they came to it."""

    name: ExpertSlice
    demand: Demand
    size_bytes: int
    copies_wanted: int
    having: list[int] = field(default_factory=list)
    scores: dict[int, tuple[int, PeerId]] = field(default_factory=dict)  # of holders who were asked for theirs

    @property
    def work(self) -> int:
        """Of all copies together."""
        return self.demand.calls * self.size_bytes

    def pays(self, work: int) -> bool:
        """Whether the calls that are so much work send more bytes in an hour than a copy has."""
        return work * self.demand.call_bytes * PERIODS_PER_HOUR >= self.size_bytes * self.size_bytes > 0 < work


class _Draft:
    """A plan while it is made."""

    def __init__(self, holders: Sequence[Holder], demands: Sequence[Demand]) -> None:
        self._holders = holders
        self._speeds = [holder.speed for holder in holders]
        self._evictions = 0
        rooms = [holder.room_bytes for holder in holders]
        hot = _find_hot(demands)
        self._slices = [
            _Slice(name, demand, _slice_bytes(demand, count), min(COPIES + (demand.expert in hot), len(holders)))
            for demand in demands
            for count in [count_slices(demand, rooms)]
            for name in slices_of(demand.expert, count)
        ]
        self._room = rooms
        by_name = {each.name: each for each in self._slices}
        for number, holder in enumerate(holders):
            # What is too much, because the room became less, is not counted: the most called is kept.
            held = [by_name[name] for name in sorted(holder.held) if name in by_name]
            for each in sorted(held, key=lambda each: -each.demand.calls):
                if each.size_bytes <= self._room[number]:
                    self._take(each, number)

    def plan(self) -> Plan:
        for _ in range(TURNS_MAX):
            before = [tuple(each.having) for each in self._slices]
            self._fill()
            for each in self._slices:
                self._spread(each)
            self._balance()
            if [tuple(each.having) for each in self._slices] == before:
                break
        return self._result()

    def _fill(self) -> None:
        """First one copy of each slice, then the second ones; the largest first: what is small finds room anywhere."""
        for nth in range(COPIES + 1):
            for each in sorted(self._slices, key=lambda each: -each.size_bytes):
                if len(each.having) == nth < each.copies_wanted:
                    self._add_copy(each)

    # -- copies ---------------------------------------------------------------------------------------------------------

    def _order(self, each: _Slice, numbers: Iterable[int]) -> list[int]:
        """Holders in the slice's order of peers."""
        return sorted(numbers, key=lambda number: self._score(each, number))

    def _score(self, each: _Slice, number: int) -> tuple[int, PeerId]:
        score = each.scores.get(number)
        if score is None:
            holder = self._holders[number]
            drawn = digest(Domain.ALLOCATION, str(each.name).encode(), holder.peer)
            score = each.scores[number] = weighted_score(drawn, holder.tier + 1), holder.peer
        return score

    def _take(self, each: _Slice, number: int) -> None:
        each.having.append(number)
        self._room[number] -= each.size_bytes

    def _domains(self, each: _Slice) -> set[str]:
        return {self._holders[number].domain for number in each.having}

    def _add_copy(self, each: _Slice) -> None:
        """Where none of its copies is lost together with it, or else anywhere."""
        taken = self._domains(each)  # asked only "is it in"
        others = self._order(each, set(range(len(self._holders))) - set(each.having))
        for number in sorted(others, key=lambda number: self._holders[number].domain in taken):
            if self._make_room(each, number):
                self._take(each, number)
                return

    def _spread(self, each: _Slice) -> None:
        """All copies in one domain: one more in another."""
        if len(self._domains(each)) == 1 and len({holder.domain for holder in self._holders}) > 1:
            taken = self._domains(each)
            others = [number for number, holder in enumerate(self._holders) if holder.domain not in taken]
            for number in self._order(each, others):
                if self._make_room(each, number):
                    self._take(each, number)
                    return

    def _make_room(self, each: _Slice, number: int) -> bool:
        """Whether there is room for a slice at a holder, when copies beyond what is wanted go that are less called."""
        if each.size_bytes > self._holders[number].room_bytes:
            return False
        spare = [other for other in self._slices if number in other.having and self._is_spare(other, number)]
        spare = [other for other in spare if other.demand.calls < each.demand.calls or len(each.having) < COPIES]
        gone: list[_Slice] = []
        room = self._room[number]
        for other in sorted(spare, key=lambda other: other.demand.calls):
            if room >= each.size_bytes:
                break
            gone.append(other)
            room += other.size_bytes
        if room < each.size_bytes:
            return False
        for other in gone:
            other.having.remove(number)
        self._evictions += len(gone)
        self._room[number] = room
        return True

    def _is_spare(self, each: _Slice, number: int) -> bool:
        """Whether the others are enough without this holder's copy."""
        return number not in self._staying(each)

    def _staying(self, each: _Slice) -> list[int]:
        """Those of its holders who keep it whatever the calls are: as many as are wanted, in two domains where they are."""
        order = self._order(each, each.having)
        apart = [number for number in order if self._holders[number].domain != self._holders[order[0]].domain]
        return list(dict.fromkeys([*order[:1], *apart[:1], *order]))[: each.copies_wanted]

    # -- calls ----------------------------------------------------------------------------------------------------------

    def _shared(self) -> Shares:
        return Shares([each.work for each in self._slices], [each.having for each in self._slices], self._speeds)

    def _worst_percent(self, loads: Sequence[int]) -> int:
        """How far off its share the one is that is farthest off."""
        work, speed = sum(loads), sum(self._speeds)
        if not work:
            return 0
        return max(abs(100 * load * speed // (work * own) - 100) for load, own in zip(loads, self._speeds, strict=True))

    def _balance(self) -> None:
        """Add copies until nobody is far off its share, or no copy would pay."""
        shares = self._shared()
        if self._worst_percent(shares.loads) <= OFF_PERCENT:
            return
        for _ in range(ADDED_MAX):
            drawn = self._draw_work(shares) if self._worst_percent(shares.loads) > AIM_PERCENT else None
            if drawn is None:
                return
            shares = drawn

    def _draw_work(self, shares: Shares) -> Shares | None:
        """Give whoever does least for its speed a copy of what would bring it most; how work is divided then.

        None where nobody can be given anything that pays.
        """
        loads = shares.loads
        work, speed = sum(loads), sum(self._speeds)
        idlest = sorted(range(len(loads)), key=lambda number: (loads[number] * _FINE // self._speeds[number], number))
        for number in idlest:
            lacking = work * self._speeds[number] // speed - loads[number]
            if lacking <= 0:
                return None
            offers = [
                (-min(drawn, lacking), self._score(each, number), at)
                for at, each in enumerate(self._slices)
                if number not in each.having
                for drawn in [self._drawn(each, shares.parts[at], number, loads)]
                if each.pays(drawn)
            ]
            for _, _, at in sorted(offers)[:OFFERS_TRIED]:
                each, after, evictions = self._slices[at], shares.with_copy(at, number), self._evictions
                if each.pays(after.loads[number] - loads[number]) and self._make_room(each, number):
                    self._take(each, number)
                    return after if self._evictions == evictions else self._shared()
        return None

    def _drawn(self, each: _Slice, parts: Sequence[int], number: int, loads: Sequence[int]) -> int:
        """At most so much work a copy takes from those who have the slice now: what brings each of them to its own level."""
        own, drawn = self._speeds[number], 0
        for other, part in zip(each.having, parts, strict=True):
            level = (loads[number] + loads[other]) * own // (own + self._speeds[other])
            drawn += min(part, max(0, level - loads[number]))
        return drawn

    # -- what comes of it -----------------------------------------------------------------------------------------------

    def _result(self) -> Plan:
        copies: dict[ExpertSlice, tuple[Copy, ...]] = {}
        surplus: dict[PeerId, list[ExpertSlice]] = {}
        moves: list[Move] = []
        going = {holder.peer: dict.fromkeys(sorted(holder.held)) for holder in self._holders}
        for each, parts in zip(self._slices, self._shared().parts, strict=True):
            calls = {number: part // each.size_bytes for number, part in zip(each.having, parts, strict=True)}
            order = self._order(each, each.having)
            copies[each.name] = tuple(Copy(self._holders[number].peer, calls[number]) for number in order)
            staying = self._staying(each)
            for number in order:
                holder = self._holders[number]
                going[holder.peer].pop(each.name, None)
                if each.name not in holder.held:
                    moves.append(Move(each.name, holder.peer, each.size_bytes))
                elif number not in staying and calls[number] <= COLD_CALLS:
                    surplus.setdefault(holder.peer, []).append(each.name)
        return Plan(
            copies,
            tuple(moves),
            {peer: tuple(names) for peer, names in going.items() if names},
            {peer: tuple(names) for peer, names in surplus.items()},
            tuple(each.name for each in self._slices if not each.having),
        )


def _find_hot(demands: Sequence[Demand]) -> set[str]:
    """The experts that are called most, where they are called twice as often as experts are; asked only "is it in"."""
    if not demands:
        return set()
    mean = sum(demand.calls for demand in demands) // len(demands)
    count = -(-len(demands) * HOT_PERCENT // 100)
    order = sorted(demands, key=lambda demand: (-demand.calls, demand.expert))
    return {demand.expert for demand in order[:count] if demand.calls > 2 * mean}
