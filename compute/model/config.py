"""MoEConfig: the checked sizes of one model, and what derives from them.

A `ModelShape` is what a genesis document says; a `MoEConfig` is a shape that was found to make sense. Everything else
in `compute` takes the checked one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compute.tokenizer import VOCABULARY_MIN
from protocol.limits import TILE_BYTES_MAX, TILES_MAX
from protocol.rejection import Reason, Rejected

if TYPE_CHECKING:
    from protocol.genesis import ModelShape

PARAMETERS_MAX = TILES_MAX * TILE_BYTES_MAX // 4
"""Float32 values that fit into as many tiles as a model may have: keeps a hostile shape from exhausting memory."""


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """Sizes of a model whose shape was checked by `check_config`. All in counts, none in bytes."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    experts: int
    expert_width: int
    experts_per_token: int
    context: int

    @property
    def head_width(self) -> int:
        """Values per attention head."""
        return self.width // self.heads

    @property
    def trunk_values(self) -> int:
        """Float32 values of everything that is no expert: embedding, attention, norms, routers, head."""
        layer_values = 4 * self.width * self.width + 2 * self.width + self.experts * self.width
        return 2 * self.vocabulary * self.width + self.layers * layer_values + self.width

    @property
    def expert_values(self) -> int:
        """Float32 values of one expert."""
        return 2 * self.width * self.expert_width

    @property
    def parameter_values(self) -> int:
        """Float32 values of the whole model."""
        return self.trunk_values + self.layers * self.experts * self.expert_values


def check_config(shape: ModelShape) -> MoEConfig:
    """Return the checked sizes of `shape`.

    Raises Rejected(BAD_CONFIG) when a size is not positive, heads do not divide the width into even parts (rotary
    embedding turns pairs), more experts are asked for per token than exist, the vocabulary cannot hold all bytes and
    specials, or the model is absurdly large.
    """
    config = MoEConfig(
        vocabulary=shape.vocabulary,
        layers=shape.layers,
        width=shape.width,
        heads=shape.heads,
        experts=shape.experts,
        expert_width=shape.expert_width,
        experts_per_token=shape.experts_per_token,
        context=shape.context,
    )
    for name in MoEConfig.__slots__:
        if getattr(config, name) < 1:
            raise Rejected(Reason.BAD_CONFIG, f"{name} is {getattr(config, name)}, it must be at least 1")
    if config.vocabulary < VOCABULARY_MIN:
        raise Rejected(
            Reason.BAD_CONFIG, f"vocabulary {config.vocabulary} is below {VOCABULARY_MIN}: bytes and specials need ids"
        )
    if config.width % (2 * config.heads):
        raise Rejected(
            Reason.BAD_CONFIG, f"width {config.width} is not an even number of values for each of {config.heads} heads"
        )
    if config.experts_per_token > config.experts:
        raise Rejected(
            Reason.BAD_CONFIG, f"{config.experts_per_token} experts per token asked for, only {config.experts} exist"
        )
    if config.parameter_values > PARAMETERS_MAX:
        raise Rejected(Reason.BAD_CONFIG, f"{config.parameter_values} parameters are more than {PARAMETERS_MAX}")
    if config.layers * (config.experts + 1) > TILES_MAX:  # an expert is at least one tile
        raise Rejected(
            Reason.BAD_CONFIG, f"{config.layers} layers of {config.experts} experts are over {TILES_MAX} tiles"
        )
    return config
