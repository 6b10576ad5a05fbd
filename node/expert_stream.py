"""Where a stream of tiles meets the expert that computes with it: written once, run in as much memory as is allowed.

For the worker process: running a forward pass imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from compute.delta.quantize import Codes, Scales
from compute.exact import Float32
from compute.row_scales import quantize_rows
from protocol.ids import Digest
from protocol.limits import STREAMED_TILE_VALUES_MAX
from protocol.rejection import Reason, Rejected
from storage.io.files import write_file
from storage.io.tile_reader import ReaderStatistics, StreamFile
from storage.tile_stream import StreamBuilder, StreamedMatrix, StreamShape

if TYPE_CHECKING:
    from compute.streamed_expert import Activations


def write_expert_stream(
    path: Path, up_FD: Float32, down_DF: Float32, tile_values: int = STREAMED_TILE_VALUES_MAX
) -> Digest:
    """Quantise an expert, tile by tile, into a new file; durable on return. Returns the stream's root.

    `tile_values`: a tile has as many whole rows as have so many values, and at least one. Raises `OSError`, and
    `Rejected(BAD_WEIGHTS)` or `Rejected(BAD_SHAPE)` for weights that cannot be streamed.
    """
    matrices = (up_FD, down_DF)
    try:
        shape = StreamShape(tuple(_cut(matrix, tile_values) for matrix in matrices))
    except ValueError as error:
        raise Rejected(Reason.BAD_SHAPE, str(error)) from error

    def tiles() -> Iterator[tuple[Codes, Scales]]:
        for place in shape.places():
            yield quantize_rows(matrices[place.matrix][place.first_row : place.first_row + place.shape.rows])

    builder = StreamBuilder(shape)
    write_file(path, builder.pieces(tiles()))
    return builder.root


class StreamedExpert:
    """An expert on disk that computes in at most ``memory_bytes_max`` bytes of its weights, however large it is.

    Activations and the fixed cost of a decompressor (0.2 MB) come on top: they do not grow with the expert.
    """

    def __init__(self, path: Path, root: Digest, memory_bytes_max: int) -> None:
        """Raises `OSError`; `Rejected(TILE_CORRUPT)` when the file is not the expert of this root."""
        self._memory_bytes_max = memory_bytes_max
        self._statistics: ReaderStatistics | None = None
        self._stream = StreamFile(path, root)

    def forward(self, x_PD: Activations) -> Activations:
        """The expert's output for (tokens, width), read from the disk once more.

        Raises `Rejected(TILE_CORRUPT)`, `OSError`, `Rejected(BAD_SHAPE)` where the file is another kind of expert than the
        tokens', and `Rejected(BAD_CONFIG)` where the limit is too small for one tile.
        """
        from compute.streamed_expert import ExpertShape, forward_blocks, working_bytes

        shape = self._stream.checked.shape
        block_values = shape.largest_tile.values
        expert = ExpertShape(x_PD.shape[1], shape.matrices[0].rows)
        with self._stream.read(self._memory_bytes_max, working_bytes(block_values)) as reader:
            y_PD = forward_blocks(x_PD, expert, reader, block_values)
            self._statistics = reader.statistics()
        return y_PD

    @property
    def statistics(self) -> ReaderStatistics | None:
        """Of the last whole pass; `None` before the first."""
        return self._statistics

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> StreamedExpert:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _cut(matrix_RC: Float32, tile_values: int) -> StreamedMatrix:
    rows, columns = matrix_RC.shape
    return StreamedMatrix(rows, columns, max(1, min(rows, tile_values // max(1, columns))))
