"""An expert whose weights never lie in memory as a whole: its two products, one block of rows after another.

    P  tokens         D  width of the model         F  width of the expert         R  rows of a block

    x_PD --> relu_squared(x @ up_FD.T) --> y_PF --> y @ down_DF.T --> y_PD

    up     rows [a, b) of up_FD     give columns [a, b) of the middle
    down   rows [a, b) of down_DF   give columns [a, b) of the output

A block is a part of a product by itself, so blocks are computed in the order in which they come and then forgotten.
What stays is the middle and the output, whose size is the tokens' business, and one block of float32.

It is what ``compute.model.moe.Experts`` computes. With one block a matrix the bits are the same. With more blocks
they are those of the same blocks of a resident matrix, and a product in one call may differ from them in its last
bits: a BLAS chooses the order of its sums by the shape of what it is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from compute.delta.quantize import Codes, Scales
from compute.model.moe import relu_squared
from compute.row_scales import dequantize_rows
from protocol.rejection import Reason, Rejected

UP, DOWN = 0, 1  # numbers of the matrices
FLOAT32_BYTES = 4

Activations = Tensor


class RowBlock(Protocol):
    """Rows [first_row, first_row + R) of one of the two matrices, quantised as ``compute.row_scales`` says."""

    @property
    def matrix(self) -> int: ...
    @property
    def first_row(self) -> int: ...
    @property
    def codes_RC(self) -> Codes: ...
    @property
    def scales_R(self) -> Scales: ...


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """D and F of one expert."""

    width: int
    expert_width: int

    def matrix(self, number: int) -> tuple[int, int]:
        """Rows and columns of UP or DOWN."""
        return (self.expert_width, self.width) if number == UP else (self.width, self.expert_width)


def working_bytes(block_values_max: int) -> int:
    """What :func:`forward_blocks` holds of the weights beside the block that it is given: one block as float32."""
    return FLOAT32_BYTES * block_values_max


def forward_blocks(x_PD: Tensor, shape: ExpertShape, blocks: Iterable[RowBlock], block_values_max: int) -> Tensor:
    """The expert's output, on the device of `x_PD`, without gradients.

    `blocks`: all rows of the one matrix in order, then all of the other; each is used before the next is asked for. Raises
    Rejected(BAD_SHAPE) for rows that are missing, repeated, out of order or of another width, and whatever `blocks` raises.
    """
    device = x_PD.device
    buffer = torch.empty(block_values_max, dtype=torch.float32)
    inputs, outputs = x_PD, x_PD.new_empty(x_PD.shape[0], shape.expert_width)
    matrix, next_row = UP, 0
    with torch.no_grad():
        for block in blocks:
            rows, columns = block.codes_RC.shape
            _check_next(block, shape, matrix, next_row)
            if rows * columns > block_values_max:
                raise Rejected(Reason.BAD_SHAPE, f"a block of {rows} x {columns}, at most {block_values_max} values")
            weights_RC = buffer[: rows * columns].view(rows, columns)
            dequantize_rows(block.codes_RC, block.scales_R, weights_RC.numpy())
            product_PR = functional.linear(inputs, weights_RC.to(device))
            outputs[:, next_row : next_row + rows] = relu_squared(product_PR) if matrix == UP else product_PR
            next_row += rows
            if (matrix, next_row) == (UP, shape.expert_width):
                inputs, outputs = outputs, x_PD.new_empty(x_PD.shape[0], shape.width)
                matrix, next_row = DOWN, 0
    if (matrix, next_row) != (DOWN, shape.width):
        raise Rejected(Reason.BAD_SHAPE, f"the blocks end at row {next_row} of matrix {matrix}")
    return outputs


def _check_next(block: RowBlock, shape: ExpertShape, matrix: int, next_row: int) -> None:
    rows, columns = block.codes_RC.shape
    matrix_rows, matrix_columns = shape.matrix(matrix)
    if (block.matrix, block.first_row) != (matrix, next_row) or not 1 <= rows <= matrix_rows - next_row:
        found = f"rows {block.first_row} to {block.first_row + rows} of matrix {block.matrix}"
        raise Rejected(Reason.BAD_SHAPE, f"{found}, where row {next_row} of matrix {matrix} comes")
    if columns != matrix_columns or block.scales_R.shape != (rows,):
        raise Rejected(Reason.BAD_SHAPE, f"rows of {columns} values in matrix {matrix}, which has {matrix_columns}")
