"""Every Twins scenario of four members: who leads, and who hears whom, in each of the first four views (chain.md 5).

    members      three honest ones and one pair of twins: five programs, 0 1 2 | 3 4
    each view    one of the 15 ways to cut five programs into two sides, and one of 4 leaders
    one script   four views: 60^4, thirteen million

What is left of them, and why nothing is lost:

* A view that no side can leave (no quorum on either) is the last: 6.7 million. What would come after it never begins.
* Honest members that were on one side in every view so far have heard the same: which of them leads is only a name. (Not so of
  others: a leader that is a view behind the rest of its side proposes nothing.)
* Honest members differ by their names only, and so do the twins: of scripts that a renaming (3! x 2) makes equal there is one.

That leaves 320,213. The enumeration is a tree: below each prefix only what the renamings that keep the prefix tell apart. Then
they are shuffled, always alike, so that the first thousands are a fair sample.
(Shehar Bano et al., "Twins: BFT Systems Made Robust", 2021.)
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from simnet.finality.genesis import ActorId

HONEST: Final = (ActorId(0), ActorId(1), ActorId(2))
TWINS: Final = ActorId(3)  # the member; its programs are 3 and 4
PROGRAMS: Final = 5
VIEWS: Final = 4
SCRIPTS: Final = 320_213  # as many as ``scripts`` gives, known without asking it
_ALL: Final = (1 << PROGRAMS) - 1
_TWINS: Final = 0b11000

Renaming = tuple[int, ...]  # program -> program
Alike = tuple[ActorId, ...]  # honest member -> the lowest that has heard the same


class Round(NamedTuple):
    """One view. ``side``: the programs, as bits, that hear program 0 and each other; the others hear each other."""

    side: int
    leader: ActorId

    def hears(self, program: int, other: int) -> bool:
        return (self.side >> program & 1) == (self.side >> other & 1)

    def can_be_left(self) -> bool:
        """Whether a side has a quorum: three members, of whom the twins are one."""
        sides = (self.side, _ALL ^ self.side)
        return any(sum(side >> each & 1 for each in HONEST) + bool(side & _TWINS) >= 3 for side in sides)

    def told(self) -> str:
        """For people: ``012|34 led by 3``."""
        sides = (
            "".join(str(each) for each in range(PROGRAMS) if self.hears(0, each) is same) for same in (True, False)
        )
        return f"{'|'.join(sides)} led by {self.leader}"


Script = tuple[Round, ...]


@functools.cache
def scripts() -> tuple[Script, ...]:
    """All of them, each time in the same order."""
    found = list(_below((), (HONEST[0],) * len(HONEST), _renamings()))
    random.Random(0).shuffle(found)
    return tuple(found)


def _renamings() -> list[Renaming]:
    return [(*honest, *twins) for honest in itertools.permutations(HONEST) for twins in ((3, 4), (4, 3))]


def _below(prefix: Script, alike: Alike, renamings: list[Renaming]) -> Iterator[Script]:
    """Every script that begins so, but for ``renamings``, which keep the beginning."""
    for each in _rounds(alike):
        renamed = [_renamed(renaming, each, alike) for renaming in renamings]
        if min(renamed) != each:
            continue
        script = (*prefix, each)
        if len(script) == VIEWS or not each.can_be_left():
            yield script
        else:
            kept = [renaming for renaming, other in zip(renamings, renamed, strict=True) if other == each]
            yield from _below(script, _still_alike(alike, each.side), kept)


@functools.cache
def _rounds(alike: Alike) -> list[Round]:
    cuts = range(1, _ALL, 2)  # program 0 is always in it
    return sorted({_plain(side, leader, alike) for side in cuts for leader in (*HONEST, TWINS)})


def _still_alike(alike: Alike, side: int) -> Alike:
    """For each honest member the lowest that was on its side in every view, this one included."""
    ways = [(alike[each], side >> each & 1) for each in HONEST]
    return tuple(ActorId(ways.index(way)) for way in ways)


@functools.cache
def _plain(side: int, leader: int, alike: Alike) -> Round:
    """The round that stands for all that are equal to it: program 0 in ``side``, the lowest of those alike leads."""
    side = side if side & 1 else _ALL ^ side
    return Round(side, TWINS if leader == TWINS else _still_alike(alike, side)[leader])


@functools.cache
def _renamed(renaming: Renaming, given: Round, alike: Alike) -> Round:
    """``renaming`` keeps the views before, and so ``alike``."""
    side = sum(1 << renaming[program] for program in range(PROGRAMS) if given.side >> program & 1)
    return _plain(side, given.leader if given.leader == TWINS else renaming[given.leader], alike)
