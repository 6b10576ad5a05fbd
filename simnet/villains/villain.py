"""What every villain among the learners can do: see what is public, remember it, conspire, and send what it did not find.

    N  values of a tile

A villain replaces the change of its local steps, nothing after it: what it sends goes through the real compression,
journal, delivery and merge. It knows what any learner knows: the decided weights, its own honest change, and the deltas of
this round that were sent before its own. It holds its own key, and so speaks in nobody else's name.

Like everybody it begins its steps ahead of the decided weights by a share of its residual (``begin_ahead``), which holds
what it said before and not what it found. So its honest change answers its own lies, and whoever is too loud must bound
that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np

from compute.exact import Float32
from protocol.digest import number
from protocol.ids import PeerId, TileId, Version
from simnet.compute import generator_of

SEEN_MAX: Final = (
    16  # changes of one tile and round that are remembered: enough for a mean, little enough for a thousand learners
)
ROUNDS_SEEN_MAX: Final = 2  # this round's and the last one's

_Seen = list[tuple[PeerId, Float32]]


class Conspiracy:
    """What the villains of one world share: what they saw of the honest, and one random direction for each tile."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._seen: dict[tuple[TileId, int], _Seen] = {}
        self._newest: dict[TileId, list[int]] = {}

    def saw(self, learner: PeerId, tile: TileId, round_number: int, change_N: Float32) -> None:
        """An honest learner sends this change; the world tells it."""
        seen = self._seen.get((tile, round_number))
        if seen is None:
            seen = self._seen[tile, round_number] = []
            rounds = self._newest.setdefault(tile, [])
            rounds.append(round_number)
            if len(rounds) > ROUNDS_SEEN_MAX:
                del self._seen[tile, rounds.pop(0)]
        if len(seen) < SEEN_MAX:
            seen.append((learner, change_N))

    def seen(self, tile: TileId, round_number: int) -> Sequence[tuple[PeerId, Float32]]:
        """Changes of this tile and round that were sent so far, in that order."""
        return self._seen.get((tile, round_number), ())

    def seen_lately(self, tile: TileId, round_number: int) -> Sequence[tuple[PeerId, Float32]]:
        """Those of the newest round of which anything was seen, up to this one."""
        rounds = [each for each in self._newest.get(tile, ()) if each <= round_number]
        return self.seen(tile, max(rounds)) if rounds else ()

    def direction(self, tile: TileId, values: int) -> Float32:
        """A direction of length one that says nothing about the model, the same for everybody and in all rounds."""
        drawn_N = generator_of(b"conspiracy", number(self._seed), tile.encode()).standard_normal(values, np.float32)
        return of_norm(drawn_N, 1.0)


class Villain:
    """A learner that learns honestly as it is; its kinds override ``change``."""

    SUMMARY: ClassVar[str] = ""
    FLIPS_LABELS: ClassVar[bool] = False  # the world gives it as honest what learning from wrong labels found

    def __init__(self, me: PeerId, seed: int, conspiracy: Conspiracy) -> None:
        self.me = me
        self.conspiracy = conspiracy
        self._seed = seed

    def change(
        self, tile: TileId, round_number: int, base: Version, weights_N: Float32, honest_N: Float32
    ) -> Float32 | None:
        """What it sends as its change in place of the honest one; None: nothing for this tile.

        ``weights_N``, from which ``honest_N`` was found, are the decided ones of version ``base``, or a little ahead of them.
        """
        return honest_N

    def drawn(self, tile: TileId, round_number: int, values: int) -> Float32:
        """Standard normal values of its own for this tile and round."""
        parts = (b"villain", number(self._seed), self.me, tile.encode(), number(round_number))
        return generator_of(*parts).standard_normal(values, np.float32)


def norm_of(vector_N: Float32) -> float:
    """The Euclidean norm."""
    return float(np.sqrt(np.sum(np.square(vector_N, dtype=np.float64))))


def of_norm(vector_N: Float32, norm: float) -> Float32:
    """The same direction with that norm; zeros stay zeros."""
    length = norm_of(vector_N)
    return vector_N * np.float32(norm / length if length else 0.0)
