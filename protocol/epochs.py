"""Epochs: runs of as many heights as the chain's rule says. Who votes changes only between two (chain.md 2.7).

heights   0 | 1 ... L | L+1 ... 2L | 2L+1 ...          L = ChainRule.epoch_heights
epoch     g |    0    |     1      |    2              the last height of an epoch is its boundary
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
