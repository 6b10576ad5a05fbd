"""The code itself: any K cells rebuild, every kernel makes the same bytes, and a kernel that does not is not used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import pytest
import reedsolo
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.erasure import COLD, LIVE, Geometry
from protocol.rejection import InvariantBroken
from storage.erasure.code import ErasureCode
from storage.erasure.field import INVERSES, PRODUCTS, Bytes, product
from storage.erasure.kernel import Cells, Kernel, Multiply
from storage.erasure.numpy_kernel import RUN_BYTES, NumpyKernel
from storage.erasure.reed_solomon import parity_matrix, recovery_matrix
from storage.erasure.self_test import check_kernel
from storage.io.isal import INPUTS_IN_ONE_GO_MAX, STRIP_BYTES, WIDE_BYTES, IsalKernel, find_isal, open_kernel
from tests.storage.erasure.oracle import drawn_cells, kernels, parity

KERNELS = kernels()
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)


def arrays(cells: list[bytes]) -> list[Bytes]:
    return [np.frombuffer(cell, np.uint8) for cell in cells]


def coded(kernel: Kernel, data: list[bytes], parity_cells: int) -> list[Bytes]:
    """All cells, from one kernel."""
    made = np.full((parity_cells, len(data[0])), 0xEE, np.uint8)
    kernel.prepare(parity_matrix(len(data), parity_cells))(arrays(data), list(made))
    return [*arrays(data), *made]


@st.composite
def sizes(draw: st.DrawFn, cells_max: int = 256) -> tuple[int, int]:
    """Data and parity cells, up to the 256 points of the field."""
    data_cells = draw(st.integers(1, cells_max - 1))
    return data_cells, draw(st.integers(1, cells_max - data_cells))


def test_the_field_is_reedsolos() -> None:
    """All 65,536 products, and every inverse."""
    for left in range(256):
        assert bytes(PRODUCTS[left]) == bytes(reedsolo.gf_mul(left, right) for right in range(256))
    assert [int(value) for value in INVERSES[1:]] == [reedsolo.gf_inverse(value) for value in range(1, 256)]


@given(sizes(cells_max=24), st.integers(1, 40), st.integers(0, 2**32))
@settings(max_examples=40)
def test_every_kernel_makes_the_written_codes_parity(size: tuple[int, int], cell_bytes: int, seed: int) -> None:
    """Bit for bit, byte after byte, by reedsolo's arithmetic."""
    data = drawn_cells(Random(seed), size[0], cell_bytes)
    expected = parity(data, size[1])
    for kernel in KERNELS:
        assert [bytes(cell) for cell in coded(kernel, data, size[1])] == [*data, *expected], kernel.name


@every_kernel
@pytest.mark.parametrize(("data_cells", "parity_cells"), [(64, 192), (10, 10), (32, 32), (1, 255), (255, 1)])
def test_the_profiles_and_the_edges_of_the_field(kernel: Kernel, data_cells: int, parity_cells: int) -> None:
    """All 256 points are used, and each parity cell is the written one."""
    data = drawn_cells(Random(data_cells), data_cells, 5)
    assert [bytes(cell) for cell in coded(kernel, data, parity_cells)][data_cells:] == parity(data, parity_cells)


@given(sizes(), st.integers(0, 2**32), st.data())
def test_any_k_cells_rebuild_all_others(size: tuple[int, int], seed: int, drawn: st.DataObject) -> None:
    """Whichever are there; data and parity cells alike, on every kernel."""
    data_cells, parity_cells = size
    random = Random(seed)
    cells = coded(KERNELS[0], drawn_cells(random, data_cells, 33), parity_cells)
    present = sorted(random.sample(range(len(cells)), data_cells))
    wanted = drawn.draw(st.lists(st.integers(0, len(cells) - 1), min_size=1, max_size=8))
    matrix_WK = recovery_matrix(data_cells, parity_cells, present, wanted)
    for kernel in KERNELS:
        out = [np.full(33, 0xEE, np.uint8) for _ in wanted]
        kernel.prepare(matrix_WK)([cells[cell] for cell in present], out)
        for cell, rebuilt in zip(wanted, out, strict=True):
            assert (rebuilt == cells[cell]).all(), (kernel.name, present, cell)


@every_kernel
@pytest.mark.parametrize("geometry", [LIVE, COLD, Geometry(5, 2, 1024)], ids=str)
def test_the_worst_losses_are_rebuilt(kernel: Kernel, geometry: Geometry) -> None:
    """All data cells where parity is enough, the first, the last, every second: cells are longer than a kernel's run."""
    code, random = ErasureCode(kernel, geometry), Random(3)
    cell_bytes = RUN_BYTES + 1000 if geometry.cells < 256 else 1000
    data = arrays(drawn_cells(random, geometry.data_cells, cell_bytes))
    cells = dict(enumerate([*data, *code.parity(data)]))
    most = min(geometry.data_cells, geometry.parity_cells)
    every = list(cells)
    for lost in (every[:most], every[-most:], every[::2][:most], random.sample(every, geometry.parity_cells)):
        present = {cell: cells[cell] for cell in every if cell not in lost}
        out = [np.empty(cell_bytes, np.uint8) for _ in lost]
        code.rebuild(present, lost, out)
        assert all((cells[cell] == rebuilt).all() for cell, rebuilt in zip(lost, out, strict=True))


@given(sizes(), st.integers(0, 2**32))
@settings(max_examples=30)
def test_a_recovery_matrix_inverts_the_code(size: tuple[int, int], seed: int) -> None:
    """What it makes of the rows of the present cells is the rows of the wanted ones: no elimination was needed for it."""
    data_cells, parity_cells = size
    generator_CK = np.concatenate([np.eye(data_cells, dtype=np.uint8), parity_matrix(data_cells, parity_cells)])
    present = sorted(Random(seed).sample(range(len(generator_CK)), data_cells))
    wanted = range(0, len(generator_CK), 7)
    matrix_WK = recovery_matrix(data_cells, parity_cells, present, wanted)
    assert (product(matrix_WK, generator_CK[present]) == generator_CK[wanted]).all()


@pytest.mark.parametrize("inputs", [INPUTS_IN_ONE_GO_MAX, INPUTS_IN_ONE_GO_MAX + 1, 64])
def test_what_is_multiplied_in_pieces_is_the_same(inputs: int) -> None:
    """Widths about every place where a kernel begins to go another way: narrow, one run, strips and their rest."""
    edges = (0, WIDE_BYTES, STRIP_BYTES, 2 * STRIP_BYTES, 3 * STRIP_BYTES)
    for size_bytes in (edge + near for edge in edges for near in (-1, 0, 1, WIDE_BYTES) if edge + near > 0):
        data = np.stack(arrays(drawn_cells(Random(size_bytes), inputs, size_bytes)))
        matrix_RK = parity_matrix(inputs, 3)
        made = [np.full((3, size_bytes), 0xEE, np.uint8) for _ in KERNELS]
        for kernel, out in zip(KERNELS, made, strict=True):
            kernel.prepare(matrix_RK)(data, out)
        assert all((out == made[0]).all() for out in made), size_bytes


@every_kernel
@given(length=st.integers(1, 700), seed=st.integers(0, 2**32))
@settings(max_examples=30)
def test_cells_of_any_length_anywhere_in_memory(kernel: Kernel, length: int, seed: int) -> None:
    """Lengths that are no multiple of anything, addresses that are not aligned: the bytes beside a cell stay."""
    random = Random(seed)
    room_bytes = length + 70
    whole = np.frombuffer(bytearray(random.randbytes(room_bytes * 5)), np.uint8)
    rooms = whole.reshape(5, room_bytes)
    shift = random.randrange(64)
    slots = [room[shift : shift + length] for room in rooms]
    expected = rooms.copy()
    for room, cell in zip(expected[3:], parity([bytes(cell) for cell in slots[:3]], 2), strict=True):
        room[shift : shift + length] = np.frombuffer(cell, np.uint8)
    kernel.prepare(parity_matrix(3, 2))(slots[:3], slots[3:])
    assert (rooms == expected).all()


@every_kernel
def test_threads_share_a_code(kernel: Kernel) -> None:
    """A code keeps nothing between calls, and native code runs beside others."""
    code = ErasureCode(kernel, Geometry(20, 12, 64 * 1024))
    tiles = [arrays(drawn_cells(Random(seed), 20, 30_000)) for seed in range(8)]
    alone = [code.parity(tile) for tile in tiles]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(code.parity, tiles))
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))


@every_kernel
def test_a_kernel_refuses_arrays_that_are_not_plain_bytes(kernel: Kernel) -> None:
    """Native code believes an address: a slice with gaps once gave silently wrong bytes."""
    multiply = kernel.prepare(parity_matrix(2, 1))
    whole, out = np.zeros((4, 64), np.uint8), np.zeros(64, np.uint8)
    frozen = np.zeros(64, np.uint8)
    frozen.flags.writeable = False
    bad_inputs: list[Cells] = [
        [whole[0]],
        [whole[0], whole[1], whole[2]],
        [whole[0], whole[1][:63]],
        [whole[0], whole[:, :16][0].repeat(8)[::2]],
        [whole[0], whole[:2]],
        [whole[0], whole[1].astype(np.uint16)],
    ]
    for cells in bad_inputs:
        with pytest.raises(ValueError, match=r"cell|bytes"):
            multiply(cells, [out])
    for bad_out in ([frozen], [out[:63]], [np.zeros(128, np.uint8)[::2]], [out, out]):
        with pytest.raises(ValueError, match=r"cell|bytes|read-only"):
            multiply([whole[0], whole[1]], bad_out)


def test_a_code_beyond_the_field_cannot_be() -> None:
    """257 cells have no 257 points, and no cells make no code."""
    for data_cells, parity_cells in ((65, 192), (0, 5), (5, 0), (256, 1)):
        with pytest.raises(ValueError, match="no code"):
            parity_matrix(data_cells, parity_cells)
    for present, wanted in (([0, 1], [0]), ([0, 0, 1], [2]), ([2, 1, 0], [2]), ([0, 1, 5], [2]), ([0, 1, 2], [5])):
        with pytest.raises(ValueError, match="cell"):
            recovery_matrix(3, 2, present, wanted)
    with pytest.raises(ValueError, match="cells"):
        ErasureCode(NumpyKernel(), Geometry(200, 100, 1024))


class BrokenKernel:
    """A right kernel, but for what ``spoil`` does to each output."""

    name = "broken"

    def __init__(self, spoil: str) -> None:
        self._spoil = spoil

    def prepare(self, matrix_RK: Bytes) -> Multiply:
        if self._spoil == "matrix":  # Vandermonde-like: some other code
            matrix_RK = PRODUCTS[matrix_RK, matrix_RK]
        if self._spoil == "transposed" and matrix_RK.shape[0] == matrix_RK.shape[1]:
            matrix_RK = matrix_RK[::-1].T.copy()
        right = NumpyKernel().prepare(matrix_RK)

        def multiply(cells_K: Cells, out_R: Cells) -> None:
            right(cells_K, out_R)
            if self._spoil == "last byte":
                out_R[-1][-1] ^= 1
            elif self._spoil == "tail" and out_R[0].size % 32:
                out_R[0][-(out_R[0].size % 32) :] = 0
            elif self._spoil == "rows above 128" and len(out_R) > 128:
                out_R[150][:] = 0
            elif self._spoil == "inputs above 256" and len(cells_K) > 256:
                out_R[0][:] ^= cells_K[256]

        return multiply


@pytest.mark.parametrize("spoil", ["matrix", "transposed", "last byte", "tail", "rows above 128", "inputs above 256"])
def test_the_self_test_refuses_a_kernel_that_is_wrong_anywhere(spoil: str) -> None:
    """Another matrix, one bit, the rest behind the last vector, a row or an input of the large ones: the node stops."""
    with pytest.raises(InvariantBroken, match="broken"):
        check_kernel(BrokenKernel(spoil))


def test_the_self_test_accepts_what_this_machine_has() -> None:
    """And the fastest of it is what is opened."""
    for kernel in KERNELS:
        check_kernel(kernel)
    assert open_kernel().name == KERNELS[-1].name


def test_without_the_wheel_numpy_does_the_work() -> None:
    """As on macOS and Windows, for which there is none; an installed package without the library is no wheel either."""
    assert find_isal("no-such-package") is None
    assert find_isal("numpy") is None
    assert open_kernel("no-such-package").name == "numpy"


def test_another_library_is_not_taken_for_isal() -> None:
    """A file that does not load is the world's failure, and one without the functions is another library."""
    with pytest.raises(OSError, match="reedsolo"):
        IsalKernel(Path(reedsolo.__file__))
