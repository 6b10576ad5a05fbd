"""One expert by itself: what a holder computes for others. Rows in, rows out, as bytes.

A slice of an expert is cut along its hidden units: rows [a, b) of ``up``, columns [a, b) of ``down``. The slices together have
each unit once, so what they give adds up to what the whole expert gives, but for the order of the sums.

    slice i of c of F units     [ floor(F i / c), floor(F (i + 1) / c) )

Legend: P rows, D width of the model, F width of the expert.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy
import torch

from compute.model.moe import apply_expert
from compute.model.tiling import Float32Array
from protocol.rejection import Reason, Rejected

ROW_TYPE = numpy.dtype("<f4")


class RowsExpert:
    """An expert whose matrices stay where they are: mapped files on a CPU, copies on another device."""

    def __init__(self, weights: Mapping[str, Float32Array], group: str, device: str) -> None:
        """Raises Rejected(BAD_SHAPE) where a matrix of the group is missing."""
        try:
            up_FD, down_DF = (weights[f"{group}.{name}"] for name in ("up", "down"))
        except KeyError as missing:
            raise Rejected(Reason.BAD_SHAPE, f"the weights of {group} lack {missing}") from None
        self._up_FD, self._down_DF = (_as_tensor(matrix).to(device) for matrix in (up_FD, down_DF))

    @property
    def width(self) -> int:
        return self._up_FD.shape[1]

    @torch.inference_mode()
    def compute(self, rows: bytes, index: int, count: int) -> bytes:
        """What slice `index` of `count` makes of float32 rows.

        Raises Rejected(BAD_SHAPE) for bytes that are no whole rows, and for a slice that is none or has no unit.
        """
        row_bytes = ROW_TYPE.itemsize * self.width
        units = self._up_FD.shape[0]
        if not rows or len(rows) % row_bytes:
            raise Rejected(Reason.BAD_SHAPE, f"{len(rows)} bytes are no rows of {row_bytes}")
        if not 0 <= index < count <= units:
            raise Rejected(Reason.BAD_SHAPE, f"there is no slice {index} of {count} of {units} units")
        first, end = units * index // count, units * (index + 1) // count
        x_PD = torch.from_numpy(numpy.frombuffer(rows, ROW_TYPE).reshape(-1, self.width).copy())
        y_PD = apply_expert(x_PD.to(self._up_FD.device), self._up_FD[first:end], self._down_DF[:, first:end])
        given: bytes = y_PD.cpu().numpy().astype(ROW_TYPE, copy=False).tobytes()
        return given


def _as_tensor(matrix_RC: Float32Array) -> torch.Tensor:
    """A view, where torch may have one: of a private mapping, but of nothing that must not be written."""
    return torch.from_numpy(matrix_RC if matrix_RC.flags.writeable else matrix_RC.copy())
