"""Epochs: runs of as many heights as the chain's rule says. Who votes changes only between two (chain.md 2.7).

heights   0 | 1 ... L | L+1 ... 2L | 2L+1 ...          L = ChainRule.epoch_heights
epoch     g |    0    |     1      |    2              the last height of an epoch is its boundary

What members reveal for a beacon is closed somewhat before the boundary, at the cut, so that there is time for the history that
is made of it (consensus/beacon.py). From one cut to the next is a reveal window, with the number of the epoch in which it ends:

window    0      | 1       | 2         | 3               the cut of an epoch is an eighth of it, but at least one block, before
"""

from __future__ import annotations

from protocol.ids import Epoch, Height


def epoch_of(height: int, epoch_heights: int) -> Epoch:
    """The epoch of a block; heights begin at 1."""
    return Epoch((height - 1) // epoch_heights)


def boundary_of(epoch: int, epoch_heights: int) -> Height:
    """The last height of an epoch; of epoch -1, genesis."""
    return Height((epoch + 1) * epoch_heights)


def is_boundary(height: int, epoch_heights: int) -> bool:
    """Whether an epoch ends with this height. Genesis, at height 0, counts as the end of what was before epoch 0."""
    return height % epoch_heights == 0


def cut_of(epoch: int, epoch_heights: int) -> Height:
    """The last height of a reveal window, of window -1 genesis. ``epoch_heights`` is at least 2."""
    return Height(max(0, boundary_of(epoch, epoch_heights) - _lead(epoch_heights)))


def reveal_window_of(height: int, epoch_heights: int) -> Epoch:
    """The reveal window of a block."""
    return epoch_of(height + _lead(epoch_heights), epoch_heights)


def _lead(epoch_heights: int) -> int:
    """How many blocks the history of an epoch has time for, the boundary included."""
    return max(1, epoch_heights // 8)
