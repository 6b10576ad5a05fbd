"""TensorBlock: one tensor in a file that can be mapped and used where it lies.

    offset            bytes  field                                                        (all numbers little-endian)
    0                     8  magic "TBLOCK01"
    8                     4  version, 1
    12                    4  dtype: 1 float16, 2 int8, 3 float8_e4m3, 4 float32, 5 bfloat16, 6 uint8
    16                   16  shape [M, N], two u64, both at least 1
    32                    4  layout: 0 row-major, 1 column-major
    36                    4  quantisation: 0 none, 1 one float32 scale per row
    40                    8  scale offset: 128 with scales, 0 without
    48                    8  data offset: the first multiple of 4096 after the scales
    56                    8  Merkle root offset: where the data ends
    64                   64  reserved, zero
    128             0 or 4M  scales
                             zeros up to the data offset
    data offset     M N size data, contiguous
    Merkle root offset   32  root over the leaves
                    32 each  one leaf digest for each 64 KiB page of [0, Merkle root offset); the last page may be short

A block has one encoding: every offset follows from dtype, shape and quantisation, padding is zero, and nothing follows
the last leaf. So two blocks with one root are the same bytes, and checking a header is comparing it with the one we
would have written: a wrong offset, an overlap or an overflow has no other way to show itself.

The pages cover the header too, so the root pins shape and dtype along with the values. Structure is checked before any
view is taken (:func:`check_block`); contents are checked page by page when they are first used, or all at once, by a
:class:`PageVerifier`, which trusts only the root it is given.

From the source documents we keep the header's fields and their order; the numbers of dtypes above 3 and of
quantisation, the byte order, and the order root-then-leaves are ours.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.ids import Digest
from protocol.limits import PAGE_BYTES
from protocol.merkle import leaf_digest, merkle_root
from protocol.rejection import Reason, Rejected

BytesLike = bytes | bytearray | memoryview

MAGIC: Final = b"TBLOCK01"
VERSION: Final = 1
HEADER_BYTES: Final = 128
DATA_ALIGNMENT_BYTES: Final = 4096  # a page of memory on every machine we know: a mapped tensor begins aligned
DIGEST_BYTES: Final = 32
_HEADER: Final = struct.Struct("<8sII2QIIQQQ64x")
_RESERVED: Final = slice(64, 128)


class Dtype(enum.Enum):
    """Kind of number: ``(code in the header, bytes each)``. Codes 1 to 3 are the source documents'."""

    FLOAT16 = (1, 2)
    INT8 = (2, 1)
    FLOAT8_E4M3 = (3, 1)
    FLOAT32 = (4, 4)
    BFLOAT16 = (5, 2)
    UINT8 = (6, 1)

    def __init__(self, code: int, item_bytes: int) -> None:
        self.code = code
        self.item_bytes = item_bytes


class Layout(enum.Enum):
    """In which order the elements of ``[M, N]`` lie."""

    ROW_MAJOR = 0
    COLUMN_MAJOR = 1


class Quantisation(enum.Enum):
    """What the stored numbers have to be multiplied with."""

    NONE = 0
    ROW_SCALES = 1  # value = stored number x scale of its row


_DTYPE_BY_CODE: Final = {dtype.code: dtype for dtype in Dtype}
_LAYOUT_BY_CODE: Final = {layout.value: layout for layout in Layout}
_QUANTISATION_BY_CODE: Final = {quantisation.value: quantisation for quantisation in Quantisation}


@dataclass(frozen=True, slots=True)
class BlockShape:
    """What a header says; everything else about the file follows from it."""

    dtype: Dtype
    rows: int
    columns: int
    layout: Layout = Layout.ROW_MAJOR
    quantisation: Quantisation = Quantisation.NONE

    @property
    def scale_bytes(self) -> int:
        return 4 * self.rows if self.quantisation is Quantisation.ROW_SCALES else 0

    @property
    def data_bytes(self) -> int:
        return self.rows * self.columns * self.dtype.item_bytes

    @property
    def data_offset(self) -> int:
        return -(-(HEADER_BYTES + self.scale_bytes) // DATA_ALIGNMENT_BYTES) * DATA_ALIGNMENT_BYTES

    @property
    def root_offset(self) -> int:
        """Where the data ends and the Merkle index begins."""
        return self.data_offset + self.data_bytes

    @property
    def page_count(self) -> int:
        return -(-self.root_offset // PAGE_BYTES)

    @property
    def file_bytes(self) -> int:
        return self.root_offset + DIGEST_BYTES * (1 + self.page_count)

    def header(self) -> bytes:
        """The 128 bytes that say this."""
        return _HEADER.pack(
            MAGIC,
            VERSION,
            self.dtype.code,
            self.rows,
            self.columns,
            self.layout.value,
            self.quantisation.value,
            HEADER_BYTES if self.scale_bytes else 0,
            self.data_offset,
            self.root_offset,
        )


@dataclass(frozen=True, slots=True)
class CheckedBlock:
    """A block whose header agrees with itself and with the file's length. Its contents are not yet verified.

    ``memory`` is the whole file; the views share it, and keep a mapping below it alive.
    """

    shape: BlockShape
    memory: memoryview

    @property
    def scales(self) -> memoryview:
        """``rows`` little-endian float32, or nothing."""
        return self.memory[HEADER_BYTES : HEADER_BYTES + self.shape.scale_bytes]

    @property
    def data(self) -> memoryview:
        return self.memory[self.shape.data_offset : self.shape.root_offset]

    @property
    def root(self) -> Digest:
        """The root that the file claims; only a :class:`PageVerifier` can say whether it holds."""
        return Digest(bytes(self.memory[self.shape.root_offset : self.shape.root_offset + DIGEST_BYTES]))

    def page(self, index: int) -> memoryview:
        start = index * PAGE_BYTES
        return self.memory[start : min(start + PAGE_BYTES, self.shape.root_offset)]

    def leaves(self) -> list[Digest]:
        """The leaf digests that the file claims."""
        start = self.shape.root_offset + DIGEST_BYTES
        raw = bytes(self.memory[start:])
        return [Digest(raw[at : at + DIGEST_BYTES]) for at in range(0, len(raw), DIGEST_BYTES)]


def build_block(
    shape: BlockShape, data: Sequence[BytesLike], scales: BytesLike = b""
) -> tuple[list[BytesLike], Digest]:
    """The file of a tensor, as pieces to be written one after the other, and its root. Copies no data.

    ``data`` is the tensor's bytes in one or more contiguous pieces; ``scales`` the float32 scales if the shape has
    them. Raises ``ValueError`` when the sizes are not those of ``shape``.
    """
    front = _front(shape, data, scales)
    leaves = [leaf_digest(page) for page in _pages([front, *data])]
    root = merkle_root(leaves)
    return [front, *data, root + b"".join(leaves)], root


def block_root(shape: BlockShape, data: Sequence[BytesLike], scales: BytesLike = b"") -> Digest:
    """The root of the block that :func:`build_block` would make, without making it."""
    return merkle_root([leaf_digest(page) for page in _pages([_front(shape, data, scales), *data])])


def check_block(memory: memoryview, what: str = "tensor block", reason: Reason = Reason.BAD_BLOCK) -> CheckedBlock:
    """Check a block's structure: magic, version, codes, shape, offsets, alignment, padding, length.

    ``memory`` is the whole file; it comes from a stranger or a failing disk, so nothing in it is believed. Raises
    ``Rejected(reason)``; ``what`` names the block in the sentence.
    """
    memory = memory.cast("B")
    if memory.nbytes < HEADER_BYTES:
        raise Rejected(reason, f"{what}: cut short, {memory.nbytes} bytes are less than a header")
    header = bytes(memory[:HEADER_BYTES])
    magic, version, dtype_code, rows, columns, layout_code, quantisation_code, *offsets = _HEADER.unpack(header)
    if magic != MAGIC or version != VERSION:
        raise Rejected(reason, f"{what}: not a TBLOCK01 of version {VERSION}")
    dtype = _DTYPE_BY_CODE.get(dtype_code)
    layout = _LAYOUT_BY_CODE.get(layout_code)
    quantisation = _QUANTISATION_BY_CODE.get(quantisation_code)
    if dtype is None or layout is None or quantisation is None:
        raise Rejected(
            reason, f"{what}: dtype {dtype_code}, layout {layout_code} or quantisation {quantisation_code} unknown"
        )
    if rows < 1 or columns < 1:
        raise Rejected(reason, f"{what}: empty shape [{rows}, {columns}]")
    shape = BlockShape(dtype, rows, columns, layout, quantisation)
    if shape.file_bytes != memory.nbytes:
        raise Rejected(reason, f"{what}: {memory.nbytes} bytes where its shape needs {shape.file_bytes}")
    if any(header[_RESERVED]):
        raise Rejected(reason, f"{what}: reserved bytes are not zero")
    if header != shape.header():
        raise Rejected(reason, f"{what}: offsets {offsets} do not follow from its shape")
    padding = bytes(memory[HEADER_BYTES + shape.scale_bytes : shape.data_offset])
    if padding.strip(b"\x00"):  # any() would make a number of each byte: half the time of this function
        raise Rejected(reason, f"{what}: padding is not zero")
    return CheckedBlock(shape, memory)


class PageVerifier:
    """Checks pages of a block against a root, each once, when it is first asked for.

    Nothing is believed but ``root``: the leaves in the file are first checked against it (32 bytes for each 64 KiB),
    then each page against its leaf. The memory must not change under it.
    """

    __slots__ = ("_block", "_leaves", "_pending", "_reason", "_what")

    def __init__(self, block: CheckedBlock, root: Digest, what: str, reason: Reason = Reason.BAD_BLOCK) -> None:
        """Raises ``Rejected(reason)`` when the leaves in the file do not lead to ``root``."""
        self._block = block
        self._leaves = block.leaves()
        self._what = what
        self._reason = reason
        self._pending = set(range(block.shape.page_count))
        if block.root != root or merkle_root(self._leaves) != root:
            raise Rejected(reason, f"{what}: its Merkle index does not lead to root {root.hex()[:16]}")

    @property
    def pending_count(self) -> int:
        """How many pages have not been checked yet."""
        return len(self._pending)

    def check_bytes(self, start: int, stop: int) -> None:
        """Check the pages that hold file bytes ``[start, stop)``; raises ``Rejected`` naming the page."""
        if self._pending:
            self._check_pages(range(start // PAGE_BYTES, -(-stop // PAGE_BYTES)))

    def check_all(self) -> None:
        """Check every page that has not been checked yet; raises ``Rejected`` naming the first wrong one."""
        self._check_pages(sorted(self._pending))

    def _check_pages(self, pages: Iterable[int]) -> None:
        for index in pages:
            if index not in self._pending:
                continue
            if leaf_digest(self._block.page(index)) != self._leaves[index]:
                raise Rejected(self._reason, f"{self._what}: page {index} of {len(self._leaves)} has the wrong digest")
            self._pending.discard(index)


def _front(shape: BlockShape, data: Sequence[BytesLike], scales: BytesLike) -> bytes:
    """Header, scales and padding, once the sizes are found right."""
    if shape.rows < 1 or shape.columns < 1:
        raise ValueError(f"a block of shape [{shape.rows}, {shape.columns}] would be empty")
    data_bytes, scale_bytes = sum(memoryview(piece).nbytes for piece in data), memoryview(scales).nbytes
    if (data_bytes, scale_bytes) != (shape.data_bytes, shape.scale_bytes):
        raise ValueError(f"{data_bytes} + {scale_bytes} bytes of data + scales do not fill {shape}")
    return (shape.header() + bytes(scales)).ljust(shape.data_offset, b"\x00")


def _pages(pieces: Iterable[BytesLike]) -> Iterator[BytesLike]:
    """Cut the concatenation of ``pieces`` in pages; copies only pages that span two pieces."""
    rest = b""
    for piece in pieces:
        view = memoryview(piece).cast("B")
        at = 0
        if rest:
            at = min(PAGE_BYTES - len(rest), view.nbytes)
            rest += bytes(view[:at])
            if len(rest) < PAGE_BYTES:
                continue
            yield rest
            rest = b""
        whole = at + (view.nbytes - at) // PAGE_BYTES * PAGE_BYTES
        for start in range(at, whole, PAGE_BYTES):
            yield view[start : start + PAGE_BYTES]
        rest = bytes(view[whole:])
    if rest:
        yield rest
