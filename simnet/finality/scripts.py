"""Every Twins scenario of four members: who leads, and who hears whom, in each of the first four views (chain.md 5).

    members      three honest ones and one pair of twins: five programs, 0 1 2 | 3 4
    each view    one of the 15 ways to cut five programs into two sides, and one of 4 leaders
    one script   four views: 60^4, thirteen million

What is left of them, and why nothing is lost:

* A view that no side can leave (no quorum on either) is the last: 6.7 million. What would come after it never begins.
* Programs on one side hear the same of a view. Which honest one of them leads it changes nothing but a name: the lowest does.
* Honest members differ by their names only, and so do the twins: of scripts that a renaming (3! x 2) makes equal there is one.

That leaves 144 800. The enumeration is a tree: below each prefix only what the renamings that keep the prefix tell apart.
(Shehar Bano et al., "Twins: BFT Systems Made Robust", 2021.)
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Final, NamedTuple

from simnet.finality.genesis import ActorId

HONEST: Final = (ActorId(0), ActorId(1), ActorId(2))
TWINS: Final = ActorId(3)  # the member; its programs are 3 and 4
PROGRAMS: Final = 5
VIEWS: Final = 4
SCRIPTS: Final = 144_800  # as many as ``scripts`` gives, known without asking it
_ALL: Final = (1 << PROGRAMS) - 1
_TWINS: Final = 0b11000

Renaming = tuple[int, ...]  # program -> program


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
    return tuple(_below((), list(_renamings()), sorted(set(_rounds()))))


def _rounds() -> Iterator[Round]:
    for side in range(1, _ALL, 2):  # program 0 is always in it
        for leader in (*HONEST, TWINS):
            yield _plain(side, leader)


def _renamings() -> Iterator[Renaming]:
    for honest in itertools.permutations(HONEST):
        yield (*honest, 3, 4)
        yield (*honest, 4, 3)


def _plain(side: int, leader: int) -> Round:
    """The round that stands for all that are equal to it: program 0 in ``side``, the lowest of its side leads."""
    side = side if side & 1 else _ALL ^ side
    if leader == TWINS:
        return Round(side, TWINS)
    return Round(side, next(each for each in HONEST if (side >> each & 1) == (side >> leader & 1)))


@functools.cache
def _renamed(renaming: Renaming, given: Round) -> Round:
    side = sum(1 << renaming[program] for program in range(PROGRAMS) if given.side >> program & 1)
    return _plain(side, given.leader if given.leader == TWINS else renaming[given.leader])


def _below(prefix: Script, renamings: list[Renaming], rounds: list[Round]) -> Iterator[Script]:
    """Every script that begins so, but for renamings that keep the beginning."""
    for each in rounds:
        if min(_renamed(renaming, each) for renaming in renamings) != each:
            continue
        script = (*prefix, each)
        if len(script) == VIEWS or not each.can_be_left():
            yield script
        else:
            yield from _below(script, [renaming for renaming in renamings if _renamed(renaming, each) == each], rounds)
