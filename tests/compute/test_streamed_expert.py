"""An expert in blocks of rows is the resident expert of the same weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from compute.delta.quantize import Codes, Scales
from compute.model.config import MoEConfig
from compute.model.moe import Experts, relu_squared
from compute.row_scales import dequantize_rows, quantize_rows
from compute.streamed_expert import DOWN, FLOAT32_BYTES, UP, ExpertShape, forward_blocks, working_bytes
from protocol.rejection import Reason, Rejected

shapes = st.builds(ExpertShape, st.integers(1, 48), st.integers(1, 64))
seeds = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Block:
    matrix: int
    first_row: int
    codes_RC: Codes
    scales_R: Scales


def weights(shape, seed):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape.matrix(number), np.float32) for number in (UP, DOWN)]


def dequantized(weights_RC):
    out_RC = np.empty_like(weights_RC)
    dequantize_rows(*quantize_rows(weights_RC), out_RC)
    return out_RC


def blocks_of(matrices, block_rows):
    return [
        Block(number, first, *quantize_rows(matrix_RC[first : first + block_rows[number]]))
        for number, matrix_RC in enumerate(matrices)
        for first in range(0, len(matrix_RC), block_rows[number])
    ]


def tokens(count, width, seed):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def values_max(blocks):
    return max(block.codes_RC.size for block in blocks)


def resident(x_PD, up_FD, down_DF):
    """In one call a matrix."""
    return functional.linear(relu_squared(functional.linear(x_PD, up_FD)), down_DF)


def resident_in_blocks(x_PD, up_FD, down_DF, block_rows):
    """The same rows at a time, of matrices that are there as a whole."""

    def product(inputs, matrix_RC, rows):
        return torch.cat([functional.linear(inputs, part.clone()) for part in matrix_RC.split(rows)], dim=1)

    return product(relu_squared(product(x_PD, up_FD, block_rows[UP])), down_DF, block_rows[DOWN])


@given(shapes, st.integers(1, 9), st.integers(1, 64), st.integers(1, 64), seeds)
@settings(deadline=None)
def test_streamed_is_resident_bit_for_bit(shape, count, up_rows, down_rows, seed):
    """Of the dequantised weights, block by block, for any shape and any cut."""
    matrices = weights(shape, seed)
    blocks = blocks_of(matrices, (up_rows, down_rows))
    x_PD = tokens(count, shape.width, seed)
    up_FD, down_DF = (torch.from_numpy(dequantized(matrix_RC)) for matrix_RC in matrices)
    streamed = forward_blocks(x_PD, shape, iter(blocks), values_max(blocks))
    assert torch.equal(streamed, resident_in_blocks(x_PD, up_FD, down_DF, (up_rows, down_rows)))


@given(shapes, st.integers(1, 9), st.integers(1, 64), st.integers(1, 64), seeds)
@settings(deadline=None)
def test_the_cut_changes_only_the_last_bits(shape, count, up_rows, down_rows, seed):
    """Against products in one call: within the bound of any order of float32 sums. One block a matrix: equal."""
    matrices = weights(shape, seed)
    x_PD = tokens(count, shape.width, seed)
    up_FD, down_DF = (torch.from_numpy(dequantized(matrix_RC)) for matrix_RC in matrices)
    whole = resident(x_PD, up_FD, down_DF)
    blocks = blocks_of(matrices, (shape.expert_width, shape.width))
    assert torch.equal(forward_blocks(x_PD, shape, blocks, values_max(blocks)), whole)
    blocks = blocks_of(matrices, (up_rows, down_rows))
    streamed = forward_blocks(x_PD, shape, blocks, values_max(blocks))
    # |sum - exact| <= n u / (1 - n u) of the sum of magnitudes (Higham, Accuracy and Stability, 3.1), squared in between.
    terms = 2 * shape.width + shape.expert_width + 4
    magnitude = functional.linear(functional.linear(x_PD.abs(), up_FD.abs()).square(), down_DF.abs())
    assert ((streamed - whole).abs() <= 2 * terms * 2.0**-24 * 1.01 * magnitude).all()


@given(shapes, st.integers(1, 9), seeds)
@settings(deadline=None)
def test_streamed_is_near_the_unquantised_expert(shape, count, seed):
    """Within what half a scale a weight can make of it, worked through both products."""
    up_FD, down_DF = (torch.from_numpy(matrix_RC).double() for matrix_RC in weights(shape, seed))
    x_PD = tokens(count, shape.width, seed)
    blocks = blocks_of(weights(shape, seed), (7, 5))
    streamed = forward_blocks(x_PD, shape, blocks, values_max(blocks)).double()
    x, half_F, half_D = x_PD.double(), half_scales(up_FD), half_scales(down_DF)
    before_PF = functional.linear(x, up_FD)
    off_PF = x.abs().sum(1, keepdim=True) * half_F
    middle_PF = before_PF.clamp_min(0).square()
    middle_off_PF = 2 * before_PF.abs() * off_PF + off_PF.square()
    exact_PD = functional.linear(middle_PF, down_DF)
    bound_PD = (
        functional.linear(middle_off_PF, down_DF.abs() + half_D[:, None]) + middle_PF.sum(1, keepdim=True) * half_D
    )
    assert ((streamed - exact_PD).abs() <= bound_PD * (1 + 1e-3) + 1e-3 * 2.0**-10).all()


def half_scales(matrix_RC):
    """At most: peak / 127, a 128th more for its rounding to eight bits, halved."""
    return matrix_RC.abs().amax(1) / 127 * (1 + 2.0**-7) / 2


def test_it_is_what_the_model_computes():
    """One expert of a layer with a single one, router included, gives the same bits."""
    shape = ExpertShape(32, 48)
    config = MoEConfig(
        vocabulary=258, layers=1, width=32, heads=2, experts=1, expert_width=48, experts_per_token=1, context=32
    )
    layer = Experts(config, [0])
    matrices = weights(shape, 5)
    with torch.no_grad():
        layer.up_GFD[0] = torch.from_numpy(dequantized(matrices[UP]))
        layer.down_GDF[0] = torch.from_numpy(dequantized(matrices[DOWN]))
        x_ND = tokens(9, 32, 5)
        expected_ND, _ = layer(x_ND)
    blocks = [Block(number, 0, *quantize_rows(matrix_RC)) for number, matrix_RC in enumerate(matrices)]
    assert torch.equal(forward_blocks(x_ND, shape, blocks, values_max(blocks)), expected_ND)


def test_a_block_is_used_before_the_next_is_asked_for():
    """So whoever hands them out may take each back; and what is held beside is one block of float32."""
    shape = ExpertShape(8, 12)
    blocks = blocks_of(weights(shape, 1), (5, 3))

    def lent():
        for block in blocks:
            codes_RC = block.codes_RC.copy()
            yield Block(block.matrix, block.first_row, codes_RC, block.scales_R)
            codes_RC[:] = 99

    x_PD = tokens(4, 8, 1)
    assert torch.equal(
        forward_blocks(x_PD, shape, lent(), values_max(blocks)), forward_blocks(x_PD, shape, blocks, values_max(blocks))
    )
    assert working_bytes(values_max(blocks)) == FLOAT32_BYTES * 40


@pytest.mark.parametrize(
    "wrong", ["missing", "repeated", "swapped", "end", "more", "narrow", "scales", "large", "none"]
)
def test_other_rows_than_the_expert_has_are_refused(wrong):
    """A stream of another expert, or with a hole, gives no output."""
    shape = ExpertShape(8, 12)
    blocks = blocks_of(weights(shape, 2), (5, 3))
    limit = values_max(blocks)
    changed = {
        "missing": blocks[1:],
        "repeated": [blocks[0], *blocks],
        "swapped": [blocks[1], blocks[0], *blocks[2:]],
        "end": blocks[:-1],
        "more": [*blocks, blocks[-1]],
        "narrow": blocks_of(weights(ExpertShape(7, 12), 2), (5, 3)),
        "scales": [Block(UP, 0, blocks[0].codes_RC, blocks[0].scales_R[:2]), *blocks[1:]],
        "large": blocks,
        "none": [],
    }
    with pytest.raises(Rejected) as caught:
        forward_blocks(tokens(2, 8, 2), shape, changed[wrong], limit - 1 if wrong == "large" else limit)
    assert caught.value.reason is Reason.BAD_SHAPE


def test_no_tokens_are_no_work():
    """An expert to which no token was sent answers with nothing."""
    shape = ExpertShape(8, 12)
    blocks = blocks_of(weights(shape, 3), (5, 3))
    assert forward_blocks(tokens(0, 8, 3), shape, blocks, values_max(blocks)).shape == (0, 8)
