"""Sampling: whether a tile is there, found out with a few cells of it (chain.md 3.5).

The certificate is the guarantee; samples are the audit on top of it, which nobody has to be believed for.

Reading order:

    odds        what so many answers show
    sampler     one tile: which cells to ask whom for, what the answers prove, whom to blame
"""

from storage.custodians import Accuse, Fault, Started, Wake, Woken
from storage.sampling.sampler import (
    Absent,
    Arrived,
    AskCell,
    Concluded,
    Fetched,
    SamplingEffect,
    SamplingEvent,
    SamplingRule,
    SamplingStatistics,
    TileSampler,
    Verdict,
)

__all__ = [
    "Absent",
    "Accuse",
    "Arrived",
    "AskCell",
    "Concluded",
    "Fault",
    "Fetched",
    "SamplingEffect",
    "SamplingEvent",
    "SamplingRule",
    "SamplingStatistics",
    "Started",
    "TileSampler",
    "Verdict",
    "Wake",
    "Woken",
]
