"""Causal self-attention with rotary positions (RoFormer, arXiv 2104.09864), and the cache that makes generation linear.

Legend: B sequences, T new tokens of each, S tokens attended to (cached and new), D width, H heads, C values per head (D
= H C).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from compute.model.config import MoEConfig

ROTARY_BASE = 10_000.0
"""Longest wave in tokens / 2 pi; RoFormer's value."""


@dataclass(slots=True)
class KeyValueCache:
    """Keys and values of the tokens that one layer has seen, (B, H, S, C) each; empty before the first."""

    keys_BHSC: Tensor | None = None
    values_BHSC: Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens cached."""
        return 0 if self.keys_BHSC is None else self.keys_BHSC.shape[2]

    def extend(self, keys_BHTC: Tensor, values_BHTC: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of T new tokens and return those of all S."""
        if self.keys_BHSC is not None and self.values_BHSC is not None:
            keys_BHTC = torch.cat([self.keys_BHSC, keys_BHTC], dim=2)
            values_BHTC = torch.cat([self.values_BHSC, values_BHTC], dim=2)
        self.keys_BHSC, self.values_BHSC = keys_BHTC, values_BHTC
        return keys_BHTC, values_BHTC

    def truncate(self, length: int) -> None:
        """Forget all but the first tokens."""
        if self.keys_BHSC is not None and self.values_BHSC is not None:
            self.keys_BHSC, self.values_BHSC = self.keys_BHSC[:, :, :length], self.values_BHSC[:, :, :length]


def rotary_table(context: int, head_width: int) -> tuple[Tensor, Tensor]:
    """(cosines, sines), each (context, head_width / 2): the turn of every pair at every position. Float32."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angles = torch.outer(torch.arange(context, dtype=torch.float64), frequencies)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn the pairs (i, i + C/2) of every head of `x` (..., T, C) by their position's angles, tables (T, C/2)."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cosines - right * sines, right * cosines + left * sines], dim=-1)


class Attention(nn.Module):
    """(B, T, D) -> (B, T, D). Weights are (outputs, inputs): `weight_in` makes queries, keys and values, in this order."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_width = config.head_width
        self.weight_in = nn.Parameter(torch.zeros(3 * config.width, config.width))
        self.weight_out = nn.Parameter(torch.zeros(config.width, config.width))

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], cache: KeyValueCache | None = None) -> Tensor:
        """`rotary` holds the tables of the T positions of `x_BTD`; with a cache, T > 1 is allowed only while it is empty."""
        batch, tokens, width = x_BTD.shape
        heads_3BHTC = (
            functional.linear(x_BTD, self.weight_in)
            .view(batch, tokens, 3, self.heads, self.head_width)
            .permute(2, 0, 3, 1, 4)
        )
        # Split and unbind, because their gradient is one concatenation; that of indexing is a tensor of zeros for each.
        queries_keys_2BHTC, values_1BHTC = heads_3BHTC.split_with_sizes([2, 1])
        queries_BHTC, keys_BHSC = rotate(queries_keys_2BHTC, *rotary).unbind(0)
        values_BHSC = values_1BHTC.squeeze(0)
        if cache is not None:
            keys_BHSC, values_BHSC = cache.extend(keys_BHSC, values_BHSC)
        mixed_BHTC = functional.scaled_dot_product_attention(queries_BHTC, keys_BHSC, values_BHSC, is_causal=tokens > 1)
        return functional.linear(mixed_BHTC.transpose(1, 2).reshape(batch, tokens, width), self.weight_out)

    def forward_each(
        self, x_ND: Tensor, rotary: tuple[Tensor, Tensor], lengths: Sequence[int], caches: Sequence[KeyValueCache]
    ) -> Tensor:
        """Several sequences at once, (N, D) -> (N, D): the new tokens of one after those of the other, so many of each.

        `rotary` holds the tables of the N positions. More than one new token is allowed only while a cache is empty.
        """
        heads_3HNC = (
            functional.linear(x_ND, self.weight_in).view(-1, 3, self.heads, self.head_width).permute(1, 2, 0, 3)
        )
        queries_keys_2HNC, values_1HNC = heads_3HNC.split_with_sizes([2, 1])
        rotated_2HNC = rotate(queries_keys_2HNC, *rotary)
        mixed = []
        for queries_keys_2HTC, values_1HTC, cache in zip(
            rotated_2HNC.split_with_sizes(list(lengths), dim=2),
            values_1HNC.split_with_sizes(list(lengths), dim=2),
            caches,
            strict=True,
        ):
            queries_1HTC, keys_1HTC = queries_keys_2HTC.split_with_sizes([1, 1])
            keys_1HSC, values_1HSC = cache.extend(keys_1HTC, values_1HTC)
            is_causal = queries_1HTC.shape[2] > 1
            mixed.append(
                functional.scaled_dot_product_attention(queries_1HTC, keys_1HSC, values_1HSC, is_causal=is_causal)
            )
        mixed_ND = torch.cat(mixed, dim=2).squeeze(0).transpose(0, 1).reshape(x_ND.shape)
        return functional.linear(mixed_ND, self.weight_out)
