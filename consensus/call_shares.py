"""How the calls of experts are divided among those who hold copies, so that everybody works in proportion to its speed.

Work flows from experts to their holders. The best division makes the busiest holder as little busy as can be, then the next
one, and so on; it is the one that minimizes the sum of ``work**2 / speed``, which is convex. One expert's best division beside
what its holders do for others is found at once: fill the least busy up to the level of the next, as water fills a basin
(``_fill``). Doing that for one expert after the other descends to the best for all: block coordinate descent on a smooth convex
function (Bertsekas, Nonlinear Programming, 2.7). An expert is looked at again when what its holders do for others changed,
until nobody would feel it.

Integers only. Holders are given by number; work is calls times bytes, because a call through more bytes takes longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

LOOKS_MAX: Final = 64  # at each expert, in the mean: near the best long before; samples take three to ten
STILL: Final = (
    1_024  # what changed by less than one part in so many of an expert's part of all work is not felt by anybody
)
_FINE: Final = 1 << 32  # levels are compared in such parts of one unit of work by speed


class Shares:
    """What each holder does of each expert's work (``parts``, in the order of ``holders``), and in all (``loads``)."""

    def __init__(self, works: Sequence[int], holders: Sequence[Sequence[int]], speeds: Sequence[int]) -> None:
        """Divide all of it.

        ``works``: of each expert, at least 0; ``holders``: the numbers of those who have it, each once; ``speeds``: above 0, by
        number. The work of an expert that nobody holds is not done.
        """
        self.parts = [[0] * len(each) for each in holders]
        self.loads = [0] * len(speeds)
        self._works = works
        self._holders = [list(each) for each in holders]
        self._speeds = speeds
        self._experts_of: list[list[int]] = [[] for _ in speeds]
        for expert, having in enumerate(holders):
            for holder in having:
                self._experts_of[holder].append(expert)
        self._settle(range(len(works)))

    def with_copy(self, expert: int, holder: int) -> Shares:
        """The division when one more holds an expert. This one stays as it is."""
        after = Shares.__new__(Shares)  # what follows is all that there is of it
        after._works, after._speeds = self._works, self._speeds
        after.loads, after.parts = list(self.loads), list(self.parts)
        after._holders, after._experts_of = list(self._holders), list(self._experts_of)
        after.parts[expert] = [*self.parts[expert], 0]
        after._holders[expert] = [*self._holders[expert], holder]
        after._experts_of[holder] = [*self._experts_of[holder], expert]
        after._settle([expert])
        return after

    def _settle(self, experts: Sequence[int]) -> None:
        """Divide the work of these experts anew, and of all whose holders have less or more to do by that."""
        still = sum(self._works) // (STILL * len(self._works) or 1)
        waiting, left = deque(experts), LOOKS_MAX * len(self._works)
        is_waiting = [False] * len(self._works)
        for expert in experts:
            is_waiting[expert] = True
        while waiting and left:
            left -= 1
            expert = waiting.popleft()
            is_waiting[expert] = False
            having, parts = self._holders[expert], self.parts[expert]
            if not having or not self._works[expert]:
                continue
            others = [self.loads[holder] - part for holder, part in zip(having, parts, strict=True)]
            filled = _fill(self._works[expert], others, [self._speeds[holder] for holder in having])
            for holder, other, part, now in zip(having, others, parts, filled, strict=True):
                self.loads[holder] = other + now
                if abs(now - part) > still:
                    for neighbour in self._experts_of[holder]:
                        if not is_waiting[neighbour] and neighbour != expert:
                            is_waiting[neighbour] = True
                            waiting.append(neighbour)
            self.parts[expert] = filled


def _fill(work: int, loads: Sequence[int], speeds: Sequence[int]) -> list[int]:
    """Divide ``work`` so that whoever gets some ends at one level of load by speed, and the others are above it already."""
    order = sorted(range(len(loads)), key=lambda at: (loads[at] * _FINE // speeds[at], at))
    load = speed = taken = 0
    for at in order:
        # Whether the level that those before reach with all the work is below where this one stands.
        if taken and (work + load) * speeds[at] <= loads[at] * speed:
            break
        load, speed, taken = load + loads[at], speed + speeds[at], taken + 1
    parts = [0] * len(loads)
    left = work
    for at in order[:taken]:
        parts[at] = min(left, max(0, speeds[at] * (work + load) // speed - loads[at]))
        left -= parts[at]
    parts[order[0]] += left  # what rounding down left over: less than one unit for each
    return parts
