"""Learners that spoil the model on purpose, each in one way; the table is what scenarios choose from by name.

Read ``villain`` first: what all of them know and can do. What merges them away is ``compute/merge.py``.
"""

from __future__ import annotations

from typing import Final

from simnet.villains.colluding import Colluding
from simnet.villains.free_rider import FreeRider
from simnet.villains.label_flip import LabelFlip
from simnet.villains.lazy import Lazy
from simnet.villains.noise import Noise
from simnet.villains.scaled import Scaled
from simnet.villains.sign_flipped import SignFlipped
from simnet.villains.stale import Stale
from simnet.villains.subtle import Subtle
from simnet.villains.villain import Conspiracy, Villain

VILLAINS: Final[dict[str, type[Villain]]] = {
    "scaled": Scaled,
    "sign_flipped": SignFlipped,
    "noise": Noise,
    "stale": Stale,
    "lazy": Lazy,
    "free_rider": FreeRider,
    "label_flip": LabelFlip,
    "colluding": Colluding,
    "subtle": Subtle,
}

SUMMARIES: Final[dict[str, str]] = {name: kind.SUMMARY for name, kind in VILLAINS.items()}

__all__ = ["SUMMARIES", "VILLAINS", "Conspiracy", "Villain"]
