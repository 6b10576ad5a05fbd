"""An expert several times larger than its memory limit computes, and says what it held."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from compute.model.moe import relu_squared
from compute.row_scales import dequantize_rows, quantize_rows
from node.expert_stream import StreamedExpert, write_expert_stream
from protocol.rejection import Reason, Rejected

WIDTH, EXPERT_WIDTH, TILE_VALUES = 192, 700, 8_192
LIMIT_BYTES = 64 * 1024


@pytest.fixture
def expert():
    generator = np.random.default_rng(11)
    return [generator.standard_normal(shape, np.float32) for shape in ((EXPERT_WIDTH, WIDTH), (WIDTH, EXPERT_WIDTH))]


def resident(x_PD, matrices):
    """Of the dequantised weights, by the same rows at a time."""
    for matrix_RC, middle in zip(matrices, (True, False), strict=True):
        out_RC = np.empty_like(matrix_RC)
        dequantize_rows(*quantize_rows(matrix_RC), out_RC)
        rows = TILE_VALUES // matrix_RC.shape[1]
        parts = torch.from_numpy(out_RC).split(rows)
        x_PD = torch.cat([functional.linear(x_PD, part.clone()) for part in parts], dim=1)
        x_PD = relu_squared(x_PD) if middle else x_PD
    return x_PD


def test_an_expert_larger_than_its_limit_runs(expert, tmp_path):
    """Sixteen times larger as float32, four times as int8: the same bits as resident, and the counted bytes stay below."""
    path = tmp_path / "expert.stream"
    root = write_expert_stream(path, *expert, TILE_VALUES)
    assert root == write_expert_stream(tmp_path / "again.stream", *expert, TILE_VALUES)
    assert sum(matrix_RC.nbytes for matrix_RC in expert) > 16 * LIMIT_BYTES
    assert path.stat().st_size > 3 * LIMIT_BYTES
    x_PD = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    with StreamedExpert(path, root, LIMIT_BYTES) as streamed:
        assert streamed.statistics is None
        passes = []
        for _ in range(2):
            assert torch.equal(streamed.forward(x_PD), resident(x_PD, expert))
            passes.append(streamed.statistics)
    facts = passes[0]
    assert facts is not None
    assert passes == [facts, facts]
    assert LIMIT_BYTES // 2 < facts.held_bytes_peak <= LIMIT_BYTES
    assert facts.tiles_read == 35


def test_a_limit_below_one_tile_is_refused(expert, tmp_path):
    """When it is known what a tile takes: the sentence says how much."""
    path = tmp_path / "expert.stream"
    root = write_expert_stream(path, *expert, TILE_VALUES)
    with StreamedExpert(path, root, 4 * TILE_VALUES) as streamed, pytest.raises(Rejected) as caught:
        streamed.forward(torch.zeros(1, WIDTH))
    assert caught.value.reason is Reason.BAD_CONFIG


def test_weights_that_are_not_finite_are_not_written(expert, tmp_path):
    """And no file is left."""
    expert[1][3, 5] = np.nan
    with pytest.raises(Rejected) as caught:
        write_expert_stream(tmp_path / "expert.stream", *expert, TILE_VALUES)
    assert caught.value.reason is Reason.BAD_WEIGHTS
    assert not list(tmp_path.iterdir())


def test_tokens_of_another_width_are_refused(expert, tmp_path):
    """The file is an expert of another model; reading stops at once, and the next pass begins anew."""
    path = tmp_path / "expert.stream"
    root = write_expert_stream(path, *expert, TILE_VALUES)
    with StreamedExpert(path, root, LIMIT_BYTES) as streamed:
        with pytest.raises(Rejected) as caught:
            streamed.forward(torch.zeros(1, WIDTH + 1))
        assert caught.value.reason is Reason.BAD_SHAPE
        assert streamed.forward(torch.zeros(1, WIDTH)).shape == (1, WIDTH)


def test_rows_that_fit_no_tile_are_refused(tmp_path):
    """A row is the smallest piece of a stream."""
    wide = np.zeros((2, 2**20 + 1), np.float32)
    with pytest.raises(Rejected) as caught:
        write_expert_stream(tmp_path / "expert.stream", wide, np.zeros((2**20 + 1, 2), np.float32))
    assert caught.value.reason is Reason.BAD_SHAPE
