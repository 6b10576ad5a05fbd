"""Loads an expert from files in one way, again and again, and says how long it took: one process for each way.

    python -m benchmarks.programs.load_expert make FOLDER MIB      write the expert in every form
    python -m benchmarks.programs.load_expert serve FOLDER WAY     one line of JSON for each line on stdin

A line on stdin is ``warm`` or ``cold``, and what is then used: ``page`` (the sum of one 64 KiB of the first matrix),
``all`` (the sum of each matrix) or ``pass`` (the expert's output for eight tokens). The answer has the milliseconds
from opening the file to that number, the number, the peak of resident memory until now (``ru_maxrss``), and for a
cold load how much of the file was in the page cache after it was dropped.

Cold means that the kernel was told to drop the file from the page cache (``posix_fadvise``, ``DONTNEED``) just
before. Nothing of an earlier load is left in memory then, or its pages would stay.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import os
import pickle
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional

from compute.model.moe import relu_squared
from compute.row_scales import dequantize_rows
from compute.streamed_expert import working_bytes
from node.expert_stream import StreamedExpert, write_expert_stream
from protocol.ids import Digest
from storage.io.files import map_file, write_file
from storage.io.tile_reader import StreamFile
from storage.tensor_block import BlockShape, CheckedBlock, Dtype, PageVerifier, build_block, check_block

MATRICES: Final = ("up", "down")
WIDTH_RATIO: Final = 4  # how many times wider an expert is than the model
PAGE_VALUES: Final = 64 * 1024 // 4
TOKENS: Final = 8
STREAM_LIMIT_BYTES: Final = 32 << 20
Expert = dict[str, torch.Tensor]
Verify = Callable[[PageVerifier, CheckedBlock, str], None]


@dataclass(frozen=True, slots=True)
class Way:
    """Which files are read, and what is done for each use: ``page``, ``all``, ``pass``."""

    files: tuple[str, ...]
    use: Callable[[Path, str], float]


def make(folder: Path, mib: int) -> None:
    """Write all forms of an expert of so many MiB of float32, with their roots."""
    values = mib * (1 << 20) // 4 // 2
    width = 1 << ((values // WIDTH_RATIO).bit_length() - 1) // 2
    generator = np.random.default_rng(0)
    shapes = {"up": (values // width, width), "down": (width, values // width)}
    expert = {name: 0.02 * generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    roots = {}
    for name, matrix_RC in expert.items():
        pieces, root = build_block(BlockShape(Dtype.FLOAT32, *matrix_RC.shape), [matrix_RC.data.cast("B")])
        write_file(folder / f"{name}.tblock", pieces)
        write_file(folder / f"{name}.bare", [matrix_RC.data.cast("B")])
        roots[name] = root.hex()
    roots["stream"] = write_expert_stream(folder / "expert.stream", expert["up"], expert["down"]).hex()
    tensors = {name: torch.from_numpy(matrix_RC) for name, matrix_RC in expert.items()}
    with (folder / "expert.pickle").open("wb") as file:
        pickle.dump(expert, file, protocol=5)
    torch.save(tensors, folder / "expert.pt")
    safetensors = find_safetensors()
    if safetensors is not None:
        safetensors.save_file(tensors, folder / "expert.safetensors")
    facts = {"roots": roots, "shapes": shapes, "bytes": {path.name: path.stat().st_size for path in folder.iterdir()}}
    (folder / "facts.json").write_text(json.dumps(facts))
    os.sync()  # dirty pages would not be dropped
    for path in sorted(folder.iterdir()):
        drop(path)
        path.read_bytes()  # as a reader leaves it in the cache: how it was written makes its pages cheaper or dearer to map


def find_safetensors() -> Any:
    """The module for torch; None where it is not installed."""
    try:
        import safetensors.torch
    except ImportError:
        return None
    return safetensors.torch


@functools.cache
def facts_of(folder: Path) -> Any:
    """What :func:`make` said, kept: a node knows its roots and shapes."""
    return json.loads((folder / "facts.json").read_text())


def root_of(folder: Path, name: str) -> Digest:
    return Digest(bytes.fromhex(facts_of(folder)["roots"][name]))


def used(expert: Expert, use: str) -> float:
    """The number that shows that the tensors are there."""
    if use == "page":
        return float(page_of(expert["up"]).sum())
    if use == "all":
        return float(sum(matrix.sum() for matrix in expert.values()))
    middle_PF = relu_squared(functional.linear(tokens(expert["up"].shape[1]), expert["up"]))
    return float(functional.linear(middle_PF, expert["down"]).sum())


def page_of(matrix_RC: torch.Tensor) -> torch.Tensor:
    """64 KiB in the middle."""
    flat = matrix_RC.reshape(-1)
    return flat[flat.numel() // 2 : flat.numel() // 2 + PAGE_VALUES]


def tokens(width: int) -> torch.Tensor:
    return torch.randn(TOKENS, width, generator=torch.Generator().manual_seed(1))


def tensor_block(verified: bool) -> Callable[[Path, str], float]:
    """Ours: mapped, and a view. Verified: the index against the root at once, then the pages that are used."""

    def use_block(folder: Path, use: str) -> float:
        expert = {}
        for name in MATRICES:
            block = check_block(map_file(folder / f"{name}.tblock").view)
            if verified:
                verifier = PageVerifier(block, root_of(folder, name), name)
                if use != "page":
                    verifier.check_all()
                elif name == "up":
                    start = block.shape.data_offset + block.shape.data_bytes // 2
                    verifier.check_bytes(start, start + 4 * PAGE_VALUES)
            shape = (block.shape.rows, block.shape.columns)
            expert[name] = torch.from_numpy(np.frombuffer(block.data, np.float32)).view(shape)
        return used(expert, use)

    return use_block


def use_stream(folder: Path, use: str) -> float:
    """Ours, in eight bits: one tile, or all of them one after another, in 32 MiB; verified always."""
    root = root_of(folder, "stream")
    if use == "pass":
        with StreamedExpert(folder / "expert.stream", root, STREAM_LIMIT_BYTES) as expert:
            return float(expert.forward(tokens(facts_of(folder)["shapes"]["up"][1])).sum())
    with StreamFile(folder / "expert.stream", root) as stream:
        tiles = stream.checked.tiles
        first = tiles[sum(tile.place.matrix == 0 for tile in tiles) // 2]
        values = stream.checked.shape.largest_tile.values
        out = np.empty(values, np.float32)
        if use == "page":
            rows = stream.load(first)
            rows_RC = out[: rows.codes_RC.size].reshape(rows.codes_RC.shape)
            dequantize_rows(rows.codes_RC, rows.scales_R, rows_RC)
            return float(torch.from_numpy(out[:PAGE_VALUES]).sum())
        total = 0.0
        with stream.read(STREAM_LIMIT_BYTES, working_bytes(values)) as reader:
            for block in reader:
                block_RC = out[: block.codes_RC.size].reshape(block.codes_RC.shape)
                dequantize_rows(block.codes_RC, block.scales_R, block_RC)
                total += float(torch.from_numpy(block_RC).sum())
        return total


def use_bare(folder: Path, use: str) -> float:
    """The floor: the bytes mapped, with neither shape nor check."""
    shapes = facts_of(folder)["shapes"]
    expert = {
        name: torch.from_numpy(np.frombuffer(map_file(folder / f"{name}.bare").view, np.float32)).view(shapes[name])
        for name in MATRICES
    }
    return used(expert, use)


def use_pickle(folder: Path, use: str) -> float:
    """Of numpy arrays, protocol 5: faster than a pickle of tensors."""
    with (folder / "expert.pickle").open("rb") as file:
        return used({name: torch.from_numpy(matrix_RC) for name, matrix_RC in pickle.load(file).items()}, use)


def use_torch(folder: Path, use: str) -> float:
    return used(torch.load(folder / "expert.pt"), use)


def use_torch_mapped(folder: Path, use: str) -> float:
    return used(torch.load(folder / "expert.pt", mmap=True), use)


def use_safetensors(folder: Path, use: str) -> float:
    return used(find_safetensors().load_file(folder / "expert.safetensors"), use)


BLOCK_FILES: Final = ("up.tblock", "down.tblock")
WAYS: Final = {
    "verified": Way(BLOCK_FILES, tensor_block(verified=True)),
    "unverified": Way(BLOCK_FILES, tensor_block(verified=False)),
    "stream": Way(("expert.stream",), use_stream),
    "pickle": Way(("expert.pickle",), use_pickle),
    "torch.load": Way(("expert.pt",), use_torch),
    "torch.load, mapped": Way(("expert.pt",), use_torch_mapped),
    "safetensors": Way(("expert.safetensors",), use_safetensors),
    "bare map": Way(("up.bare", "down.bare"), use_bare),
}


def drop(path: Path) -> float:
    """Ask the kernel to forget a file; the share of its pages that is in the cache all the same, by ``mincore``."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    mapped = np.frombuffer(map_file(path).view, np.uint8)
    cached = np.zeros(-(-mapped.size // os.sysconf("SC_PAGE_SIZE")), np.uint8)
    arguments = (ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(mapped.size), ctypes.c_void_p(cached.ctypes.data))
    if ctypes.CDLL(None, use_errno=True).mincore(*arguments):
        raise OSError(ctypes.get_errno(), "mincore", str(path))
    return float((cached & 1).mean())


def answers(folder: Path, way: Way, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """What was imported, then one answer for each line."""
    yield {"maxrss_mb": maxrss_mb()}
    for line in lines:
        temperature, use = line.split()
        gc.collect()
        cached = [drop(folder / name) for name in way.files] if temperature == "cold" else []
        began = time.perf_counter()
        number = way.use(folder, use)
        taken_ms = 1000 * (time.perf_counter() - began)
        yield {"ms": taken_ms, "number": number, "maxrss_mb": maxrss_mb(), "cached": max(cached, default=0.0)}


def maxrss_mb() -> float:
    """Of this process since it began. Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    torch.set_num_threads(1)
    command, folder, what = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if command == "make":
        make(folder, int(what))
        return
    if what == "safetensors":
        find_safetensors()
    for answer in answers(folder, WAYS[what], iter(sys.stdin)):
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
