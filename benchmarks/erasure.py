"""The erasure code beside zfec and reedsolo: encoding, the worst decoding, and the memory that a tile takes.

Ours by each kernel that this machine has. Worst decoding: as many data cells are lost as there is parity, or all of them, and
only the last cells are left. What is computed is compared with what was lost; the matrix for a loss is made anew in every
call, as zfec does. Speeds are megabytes of data a second of one core, in processor time; the floor is a copy of all cells.

reedsolo codes a column of bytes in one call and stops at 255 cells; some columns of 64+191 stand for 64+192. Memory is the
peak that Python and numpy allocate (ISA-L allocates nothing), cells and data included, for each byte of all cells; ours makes
the roots too, and takes a rebuilt tile's parity to check it.
"""

from __future__ import annotations

import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import reedsolo

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, report, say, standard_options, time_calls
from protocol.erasure import Geometry, make_manifest
from storage.erasure.code import ErasureCode
from storage.erasure.kernel import Kernel
from storage.erasure.numpy_kernel import NumpyKernel
from storage.erasure.self_test import check_kernel
from storage.erasure.tile import encode_tile, rebuild_tile
from storage.io.isal import IsalKernel, find_isal

KIB: Final = 1024
GEOMETRIES: Final = (Geometry(10, 10, 1024 * KIB), Geometry(32, 32, 64 * KIB), Geometry(64, 192, 64 * KIB))
QUICK_CELL_BYTES: Final = 8 * KIB
REEDSOLO_CELLS_MAX: Final = 255
REEDSOLO_COLUMNS: Final = 16
SECONDS_EACH: Final = 1.0
WITHOUT_ZFEC: Final = (
    "zfec is not installed, so nothing stands beside ours but reedsolo: it comes with the extra `dev` "
    "(pip install -c constraints.txt -e '.[dev]'), for Python below 3.14"
)


@dataclass(frozen=True, slots=True)
class Speeds:
    """Of one codec, in MB of data a second."""

    encode: float
    decode: float


@click.command()
@standard_options
def main(as_json: bool, quick: bool) -> None:
    """Encode, decode after the worst loss, and weigh a tile: 10+10 x 1 MiB, 32+32 and 64+192 x 64 KiB."""
    timed = partial(
        time_calls, seconds=0.0 if quick else SECONDS_EACH, calls_min=1 if quick else 5, clock=time.thread_time
    )
    kernels = find_kernels()
    zfec = find_zfec()
    if zfec is None:
        say(WITHOUT_ZFEC)
    rows: list[Row] = []
    for full in GEOMETRIES:
        cell_bytes = QUICK_CELL_BYTES if quick else full.cell_bytes_max
        geometry = Geometry(full.data_cells, full.parity_cells, cell_bytes)
        cells = ready_cells(geometry)
        data_mb = geometry.tile_bytes / 1e6
        floor = 1e3 * data_mb / timed(partial(np.copy, np.concatenate(cells)))
        ours = {kernel.name: our_speeds(kernel, geometry, cells, timed) for kernel in kernels}
        peer = None if zfec is None else zfec_speeds(zfec, geometry, cells, timed)
        slow = reedsolo_speeds(geometry, 1 if quick else REEDSOLO_COLUMNS)
        rows += speed_rows(geometry, ours, peer, slow, floor)
        rows += [memory_row(kernel, geometry, zfec, direction) for kernel in kernels for direction in DIRECTIONS]
        say(f"{geometry.data_cells}+{geometry.parity_cells} cells of {cell_bytes // KIB} KiB: done")
    report("erasure", rows, as_json, {"kernels": [kernel.name for kernel in kernels], "zfec": zfec is not None})


def find_kernels() -> list[Kernel]:
    """Every kernel of this machine, the fastest first; each passed the test that a node makes at its start."""
    path = find_isal()
    kernels: list[Kernel] = [*([] if path is None else [IsalKernel(path)]), NumpyKernel()]
    if path is None:
        say("pyeclib is not installed, or this is not Linux: numpy is the only kernel")
    for kernel in kernels:
        check_kernel(kernel)
    return kernels


def find_zfec() -> Any:
    """The module; None where it is not installed."""
    try:
        import zfec
    except ImportError:
        return None
    return zfec


def ready_cells(geometry: Geometry) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """All cells of a tile of noise, by the slowest and plainest kernel."""
    data = np.frombuffer(random.Random(0).randbytes(geometry.tile_bytes), np.uint8).reshape(geometry.data_cells, -1)
    return [*data, *ErasureCode(NumpyKernel(), geometry).parity(list(data))]


def losses(geometry: Geometry) -> tuple[list[int], list[int]]:
    """The worst: which data cells are lost, and which K cells are left."""
    lost = min(geometry.data_cells, geometry.parity_cells)
    return list(range(lost)), list(range(geometry.cells - geometry.data_cells, geometry.cells))


def our_speeds(kernel: Kernel, geometry: Geometry, cells: Sequence[Any], timed: Callable[..., float]) -> Speeds:
    code, (lost, left) = ErasureCode(kernel, geometry), losses(geometry)
    data = cells[: geometry.data_cells]
    if any((made != cell).any() for made, cell in zip(code.parity(data), cells[geometry.data_cells :], strict=True)):
        raise SystemExit(f"{kernel.name} makes other cells than numpy")
    out = list(np.empty((len(lost), geometry.cell_bytes_max), np.uint8))
    present = {cell: cells[cell] for cell in left}

    def decode() -> None:
        code.rebuild(present, lost, out)

    decode()
    if any((rebuilt != cells[cell]).any() for cell, rebuilt in zip(lost, out, strict=True)):
        raise SystemExit(f"{kernel.name} rebuilds something else")
    return _speeds(geometry, timed(lambda: code.parity(data)), timed(decode))


def zfec_speeds(zfec: Any, geometry: Geometry, cells: Sequence[Any], timed: Callable[..., float]) -> Speeds:
    """zfec's own cells: it has another matrix. What it rebuilds is compared as well."""
    encoder, decoder = (make(geometry.data_cells, geometry.cells) for make in (zfec.Encoder, zfec.Decoder))
    data = [bytes(cell) for cell in cells[: geometry.data_cells]]
    parity = list(range(geometry.data_cells, geometry.cells))
    coded = encoder.encode(data)
    _, left = losses(geometry)
    present = [coded[cell] for cell in left]
    if decoder.decode(present, left) != data:
        raise SystemExit("zfec rebuilds something else")
    return _speeds(geometry, timed(lambda: encoder.encode(data, parity)), timed(lambda: decoder.decode(present, left)))


def reedsolo_speeds(geometry: Geometry, columns: int) -> Speeds:
    """Of so many columns: it is the same work for each."""
    cells = min(geometry.cells, REEDSOLO_CELLS_MAX)
    parity_cells = cells - geometry.data_cells
    codec = reedsolo.RSCodec(parity_cells, nsize=cells)
    noise = random.Random(0)
    data = [noise.randbytes(geometry.data_cells) for _ in range(columns)]
    began = time.thread_time()
    coded = [codec.encode(column) for column in data]
    encode_seconds = time.thread_time() - began
    lost = list(range(parity_cells))
    wounded = [bytes(parity_cells) + bytes(column[parity_cells:]) for column in coded]
    began = time.thread_time()
    decoded = [codec.decode(column, erase_pos=lost)[0] for column in wounded]
    decode_seconds = time.thread_time() - began
    if [bytes(column) for column in decoded] != data:
        raise SystemExit("reedsolo rebuilds something else")
    data_mb = columns * geometry.data_cells / 1e6
    return Speeds(data_mb / encode_seconds, data_mb / decode_seconds)


def _speeds(geometry: Geometry, encode_ms: float, decode_ms: float) -> Speeds:
    return Speeds(geometry.tile_bytes / 1e3 / encode_ms, geometry.tile_bytes / 1e3 / decode_ms)


DIRECTIONS: Final = ("encode", "decode")


def speed_rows(
    geometry: Geometry, ours: dict[str, Speeds], zfec: Speeds | None, slow: Speeds, floor: float
) -> list[Row]:
    """Each kernel beside zfec, the fastest beside reedsolo."""
    what, rows = _title(geometry), []
    beside = "reedsolo" if geometry.cells <= REEDSOLO_CELLS_MAX else "reedsolo, one cell less"
    for direction in DIRECTIONS:
        for name, speeds in ours.items():
            peer = None if zfec is None else getattr(zfec, direction)
            title = f"{what}, {direction}, {name}"
            rows.append(
                compare(title, "MB/s", getattr(speeds, direction), peer, zfec and "zfec", floor, more_is_better=True)
            )
        name, speeds = next(iter(ours.items()))
        title = f"{what}, {direction}, {name}"
        peer = getattr(slow, direction)
        rows.append(compare(title, "MB/s", getattr(speeds, direction), peer, beside, floor, more_is_better=True))
    return rows


def memory_row(kernel: Kernel, geometry: Geometry, zfec: Any, direction: str) -> Row:
    """Peak bytes allocated for each byte of all cells, what goes in and what comes out included."""
    ours = peak_of_encoding if direction == "encode" else peak_of_decoding
    theirs = peak_of_zfec_encoding if direction == "encode" else peak_of_zfec_decoding
    coded_bytes = geometry.cells * geometry.cell_bytes_max
    peer = None if zfec is None else theirs(zfec, geometry) / coded_bytes
    title = f"{_title(geometry)}, {direction}, {kernel.name}, peak memory"
    return compare(title, "of coded", ours(kernel, geometry) / coded_bytes, peer, zfec and "zfec", 1.0)


def peak_of_encoding(kernel: Kernel, geometry: Geometry) -> int:
    """Of a tile with its roots and proofs."""
    code = ErasureCode(kernel, geometry)
    return _peak_bytes(lambda: encode_tile(code, 0, random.Random(0).randbytes(geometry.tile_bytes)))


def peak_of_decoding(kernel: Kernel, geometry: Geometry) -> int:
    """Of a tile from the worst K cells, with its check; the cells are there before, and count."""
    code = ErasureCode(kernel, geometry)
    tile = encode_tile(code, 0, random.Random(0).randbytes(geometry.tile_bytes))
    manifest = make_manifest(geometry, geometry.tile_bytes, (tile.root,))
    _, left = losses(geometry)
    return _peak_bytes(lambda: rebuild_tile(code, manifest, 0, [tile.checked(cell) for cell in left]))


def peak_of_zfec_encoding(zfec: Any, geometry: Geometry) -> int:
    """Of the cells alone: zfec commits to nothing."""
    encoder = zfec.Encoder(geometry.data_cells, geometry.cells)
    noise = random.Random(0)
    return _peak_bytes(
        lambda: encoder.encode([noise.randbytes(geometry.cell_bytes_max) for _ in range(geometry.data_cells)])
    )


def peak_of_zfec_decoding(zfec: Any, geometry: Geometry) -> int:
    """From the worst K cells, which count; and zfec checks nothing."""
    noise = random.Random(0)
    encoder, decoder = (make(geometry.data_cells, geometry.cells) for make in (zfec.Encoder, zfec.Decoder))
    coded = encoder.encode([noise.randbytes(geometry.cell_bytes_max) for _ in range(geometry.data_cells)])
    _, left = losses(geometry)
    return _peak_bytes(lambda: decoder.decode([bytes(bytearray(coded[cell])) for cell in left], left))


def _peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _title(geometry: Geometry) -> str:
    return f"{geometry.data_cells}+{geometry.parity_cells} x {geometry.cell_bytes_max // KIB} KiB"


if __name__ == "__main__":
    main()
