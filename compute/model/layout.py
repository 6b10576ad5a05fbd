"""The table of parameters: every tensor of the model, its group, its size, and how it begins.

Order of the table is the layout order; tiles (`tiling`) are cut along it, and genesis weights (`genesis`) are drawn by
it. Every parameter is a matrix (rows, columns); a norm's gain is a matrix of one row. Matrices are stored (outputs,
inputs), so that one row makes one output value.

    group            parameters, in order
    trunk            embedding,
                     layer0.{attention_norm, attention_in, attention_out, expert_norm, router}, layer1..., and so on,
                     final_norm, head
    layer0.expert0   layer0.expert0.up, layer0.expert0.down
    layer0.expert1   ...
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from compute.model.config import MoEConfig

TRUNK = "trunk"


class Initial(enum.Enum):
    """How a parameter begins."""

    ONES = "ones"  # gains of norms: the norm alone at first
    EMBEDDING = "embedding"  # rows of the token table: small, the first norm makes them large enough
    INPUT = "input"  # a projection that reads the normed stream: variance 1 / inputs
    RESIDUAL = "residual"  # a projection that writes to the stream: variance 1 / (inputs * 2 * layers), as in GPT-2
    HEAD = "head"  # logits: nearly zero, so that an untrained model is close to uniform over the vocabulary


@dataclass(frozen=True, slots=True)
class Parameter:
    """One tensor: `rows` x `columns` float32 values, in the tiles of `group`."""

    name: str
    group: str
    rows: int
    columns: int
    initial: Initial

    @property
    def values(self) -> int:
        return self.rows * self.columns


def expert_group(layer: int, expert: int) -> str:
    """Name of the group (and in chain records, of the expert itself)."""
    return f"layer{layer}.expert{expert}"


def groups(config: MoEConfig) -> tuple[str, ...]:
    """All groups in layout order: the trunk, then experts by layer and number."""
    return (
        TRUNK,
        *(expert_group(layer, expert) for layer in range(config.layers) for expert in range(config.experts)),
    )


def trunk_parameters(config: MoEConfig) -> tuple[Parameter, ...]:
    """The tensors every token passes, in layout order."""
    width = config.width
    table = [Parameter("embedding", TRUNK, config.vocabulary, width, Initial.EMBEDDING)]
    for layer in range(config.layers):
        prefix = f"layer{layer}"
        table += [
            Parameter(f"{prefix}.attention_norm", TRUNK, 1, width, Initial.ONES),
            Parameter(f"{prefix}.attention_in", TRUNK, 3 * width, width, Initial.INPUT),
            Parameter(f"{prefix}.attention_out", TRUNK, width, width, Initial.RESIDUAL),
            Parameter(f"{prefix}.expert_norm", TRUNK, 1, width, Initial.ONES),
            Parameter(f"{prefix}.router", TRUNK, config.experts, width, Initial.INPUT),
        ]
    table += [
        Parameter("final_norm", TRUNK, 1, width, Initial.ONES),
        Parameter("head", TRUNK, config.vocabulary, width, Initial.HEAD),
    ]
    return tuple(table)


def expert_parameters(config: MoEConfig, layer: int, expert: int) -> tuple[Parameter, ...]:
    """The tensors of one expert, in layout order."""
    group = expert_group(layer, expert)
    return (
        Parameter(f"{group}.up", group, config.expert_width, config.width, Initial.INPUT),
        Parameter(f"{group}.down", group, config.width, config.expert_width, Initial.RESIDUAL),
    )


def parameters(config: MoEConfig) -> tuple[Parameter, ...]:
    """Every tensor of the model in layout order."""
    table = list(trunk_parameters(config))
    for layer in range(config.layers):
        for expert in range(config.experts):
            table += expert_parameters(config, layer, expert)
    return tuple(table)
