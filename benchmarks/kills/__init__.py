"""Work on a disk that is killed and goes on: each file has both sides of one kind of it.

    work       what the process does that is to die: it says what it begins, and what calls that returned have promised
    a witness  hears that, and looks at the directory that the dead process left: all that was promised must be there

The directory is a node's, and is opened as a node opens it. What a process says are words on a line; the first line is
``opening``, and the second one, when its stores have read what they found, ``open``.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import ClassVar, Final

from benchmarks.common import Row
from benchmarks.common.network import found
from node.config import NetworkTemplate, load_settings, load_template
from node.ground import Ground, open_ground

Say = Callable[..., None]  # one line; it is with the witness when the call returns

CORPUS: Final = bytes(range(256)) * 256  # nobody learns
TILE_BYTES: Final = 65_536
EPOCH_HEIGHTS: Final = 4


class Witness(abc.ABC):
    """What one kind of work promised so far, over all its lives."""

    name: ClassVar[str]  # of the file with its ``work``
    life_seconds: ClassVar[float]  # a process is killed at a random moment of so many after its first line
    end_seconds: ClassVar[float | None] = (
        None  # in so many the last process, which nobody kills, must end; None: none does
    )

    def __init__(self, out: Path, seed: int) -> None:
        """``out``: an empty folder. Nothing is made yet."""
        self.out = out
        self.seed = seed
        self.folder = out / "node"  # where the next process works

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        """Make the directory, and whatever else is there while processes live and die."""
        found([self.folder], 1, sample_template(), [CORPUS])
        yield

    def arguments(self) -> Sequence[str]:
        """What a process is told besides its directory and the seed."""
        return ()

    @property
    def may_end(self) -> bool:
        """Whether a process may have ended by itself, because all is done."""
        return False

    @abc.abstractmethod
    def hear(self, words: Sequence[str]) -> None:
        """One line of a process, in order."""

    @abc.abstractmethod
    def look(self, left: Path) -> list[str]:
        """What is wrong with a copy of the directory that a process left: sentences, none where all is well."""

    @abc.abstractmethod
    def rows(self) -> list[Row]:
        """How much was promised and found."""


def sample_template() -> NetworkTemplate:
    """The network of tests, with epochs of a few blocks, and tiles that are worth a fold."""
    return load_template("test", overrides={"chain.epoch_heights": EPOCH_HEIGHTS, "tile_bytes": TILE_BYTES})


@contextmanager
def opened(folder: Path) -> Iterator[Ground]:
    """A node's directory, as the node opens it."""
    ground = open_ground(load_settings(folder))
    try:
        yield ground
    finally:
        ground.close()
