"""The table of pipelines: what is kept, how it is quantised, what becomes of the rest.

    delta ----> sparsify ----> quantise ----> codec ----> payload
      ^          top k          int4, int8,    Rice
      |          non-zeros      signs, raw     bits
      +--------- residual (error feedback, decay) <---- what the payload does not say

A payload names its pipeline by number, and numbers are never given again. Measured on really trained deltas (mixture of
experts of 2.4 M parameters in 33 tiles, standard-library text, H = 30 AdamW steps, five rounds with error feedback; float32
bytes over payload bytes with the tiles' matrices known, and without; relative error of a tile of a million values):

    pipeline       ratio   without   error          pipeline       ratio   without   error
    int8            4.4      4.4     0.008          top10_int4      44.9     42.2    0.71
    int4            9.2      9.2     0.13           top10_int3      47.5     44.6    0.72
    top20_int8     14.0     13.7     0.50           top5_int4       80.1     74.7    0.82
    top20_sign     36.2     34.3     0.58           (updates, merged from four top10_int4 deltas:)
                                                    update_int4     17.3     16.8    0.11
                                                    update_int8     10.1     10.0    0.007

There is no low-rank stage: at many local steps it cost more loss than any other pipeline of its size.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from protocol.rejection import Reason, Rejected


class Keep(enum.Enum):
    """Which values of a delta travel."""

    ALL = "all"
    TOP = "top"  # the largest `fraction` in magnitude
    NONZERO = "nonzero"  # whatever does not quantise to zero


class Scale(enum.Enum):
    """How a block of values gets its scale."""

    RAW = "raw"  # none: float32 as they are
    PEAK = "peak"  # largest magnitude / levels
    MEAN = "mean"  # mean magnitude; the code is a sign


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One row: a way to make a delta small."""

    number: int  # in the payload's header
    name: str
    keep: Keep
    fraction: Fraction  # of values kept by Keep.TOP, else 1
    scale: Scale
    block: int  # kept values under one scale
    levels: int  # codes go from -levels to levels


_WHOLE = Fraction(1)

PIPELINES: Final[tuple[Pipeline, ...]] = (
    Pipeline(0, "none", Keep.ALL, _WHOLE, Scale.RAW, 1, 0),
    Pipeline(1, "int8", Keep.ALL, _WHOLE, Scale.PEAK, 256, 127),
    Pipeline(2, "int4", Keep.ALL, _WHOLE, Scale.PEAK, 128, 7),
    Pipeline(3, "top20_int8", Keep.TOP, Fraction(20, 100), Scale.PEAK, 256, 127),
    Pipeline(4, "top20_sign", Keep.TOP, Fraction(20, 100), Scale.MEAN, 128, 1),
    Pipeline(5, "top10_int4", Keep.TOP, Fraction(10, 100), Scale.PEAK, 128, 7),
    Pipeline(6, "top10_int3", Keep.TOP, Fraction(10, 100), Scale.PEAK, 128, 3),
    Pipeline(7, "top5_int4", Keep.TOP, Fraction(5, 100), Scale.PEAK, 128, 7),
    Pipeline(8, "update_int4", Keep.NONZERO, _WHOLE, Scale.PEAK, 128, 7),
    Pipeline(9, "update_int8", Keep.NONZERO, _WHOLE, Scale.PEAK, 256, 127),
)
DEFAULT: Final = "top10_int4"
DEFAULT_UPDATE: Final = "update_int4"

PIPELINE_BY_NAME: Final = {pipeline.name: pipeline for pipeline in PIPELINES}
PIPELINE_BY_NUMBER: Final = {pipeline.number: pipeline for pipeline in PIPELINES}


def get_pipeline(name: str) -> Pipeline:
    """The pipeline of that name; raises Rejected(BAD_CONFIG) with the names there are."""
    pipeline = PIPELINE_BY_NAME.get(name)
    if pipeline is None:
        raise Rejected(Reason.BAD_CONFIG, f"no delta pipeline {name!r}; there are {', '.join(PIPELINE_BY_NAME)}")
    return pipeline
