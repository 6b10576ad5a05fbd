"""One streamed tile: rows of a matrix as int8 with a scale each, compressed.

    offset   bytes  field                                                                (all numbers little-endian)
    0            8  magic "STILE001"
    8            4  version, 1
    12           4  dtype: 2 int8, as in a TensorBlock
    16           4  quantisation: 2, one bfloat16 scale a row
    20           4  compression: 1, one zstd frame that tells its size and has no checksum
    24           4  rows R, at least 1
    28           4  columns C, at least 1
    32           4  raw bytes, R C
    36           4  bytes of the frame
    40          24  reserved, zero
    64          32  digest of the content: dtype, quantisation, rows, columns, scales, values
    96         2 R  scales
    96 + 2 R        the frame, to the end

    value = code x scale of its row        code -127 ... 127        scale 0, or from 2^-96 to 2^32

A row is an output feature: a run of rows with their scales is a part of the product by itself, whatever the other tiles
hold. A scale has 8 significant bits and a code 7, so that the product is exact in float32: what was decoded is the same
on every machine, in whatever order it was multiplied.

**A tile is named by its content**, not by its bytes: zstd's output depends on its version and level, while the digest
does not. So frames of equal content may differ, and content is checked after it was decompressed. That is safe,
because it is bounded before: whoever reads a tile knows its shape already, the header must be the one of that shape,
and the frame must declare exactly so many bytes and no larger window. A row of scale 0 holds zeros, so that a content
has one digest.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from protocol.digest import Domain, digest
from protocol.ids import Digest
from protocol.limits import KIB, STREAMED_TILE_VALUES_MAX
from protocol.rejection import Reason, Rejected
from storage.tensor_block import BytesLike, Dtype

Codes = NDArray[np.int8]
Scales = NDArray[np.uint16]

MAGIC: Final = b"STILE001"
VERSION: Final = 1
BFLOAT16_ROW_SCALES: Final = 2  # beside the two kinds of quantisation that a TensorBlock knows
ZSTD_FRAME: Final = 1
HEADER_BYTES: Final = 96
SCALE_BYTES: Final = 2
CODE_MAX: Final = 127
SCALE_BITS_MIN: Final = (127 - 96) << 7  # 2^-96 as bfloat16: products of weights and activations stay normal numbers
SCALE_BITS_MAX: Final = (127 + 32) << 7  # 2^32, far beyond any weight
ZSTD_LEVEL: Final = 1  # noise becomes 1.1 times smaller; at level 3 no smaller, in twice the time
_WINDOW_BYTES_MIN: Final = KIB  # the smallest that zstd knows
_FRAME_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_BLOCK_HEADER_BYTES: Final = 3
_REPEATED_BYTE: Final = 1  # the kind of block that is one byte, so many times
_HEADER: Final = struct.Struct("<8s8I24x32s")
_CONTENT: Final = struct.Struct("<4I")


@dataclass(frozen=True, slots=True)
class TileRows:
    """How many rows of how many values a streamed tile holds, and what that takes."""

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1 or self.values > STREAMED_TILE_VALUES_MAX:
            raise ValueError(f"a streamed tile holds 1 to {STREAMED_TILE_VALUES_MAX} values, not {self}")

    @property
    def values(self) -> int:
        return self.rows * self.columns

    @property
    def raw_bytes(self) -> int:
        return self.values

    @property
    def frame_offset(self) -> int:
        return HEADER_BYTES + SCALE_BYTES * self.rows

    @property
    def stored_bytes_max(self) -> int:
        """No encoder needs more (``ZSTD_compressBound``: what does not shrink grows by a 256th, or by 64 bytes)."""
        return self.frame_offset + self.raw_bytes + self.raw_bytes // 256 + 128

    @property
    def decoded_bytes(self) -> int:
        """Memory of the codes and scales."""
        return self.raw_bytes + SCALE_BYTES * self.rows

    @property
    def decoding_bytes(self) -> int:
        """Memory while it is decoded, without the stored bytes: codes, scales, and four bytes a row to look at them."""
        return self.decoded_bytes + 4 * self.rows


@dataclass(frozen=True, slots=True)
class DecodedRows:
    """Rows as they are stored: ``codes_RC`` int8, read-only, and ``scales_R``, bfloat16 as its 16 bits."""

    codes_RC: Codes
    scales_R: Scales


def encode_tile(codes_RC: Codes, scales_R: Scales) -> tuple[bytes, Digest]:
    """The bytes of a tile and the digest of its content; raises ``ValueError`` for what :func:`decode_tile` would refuse."""
    shape = TileRows(*codes_RC.shape)
    if codes_RC.dtype != np.int8 or scales_R.dtype != np.uint16 or scales_R.shape != (shape.rows,):
        raise ValueError(f"codes {codes_RC.dtype}{codes_RC.shape} and scales {scales_R.dtype}{scales_R.shape}")
    wrong = _find_wrong(codes_RC, scales_R)
    if wrong is not None:
        raise ValueError(wrong)
    raw, scales = np.ascontiguousarray(codes_RC).tobytes(), scales_R.astype("<u2").tobytes()
    frame = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True, write_checksum=False).compress(raw)
    name = content_digest(shape, scales, raw)
    return _header(shape, len(frame), name) + scales + frame, name


def content_digest(shape: TileRows, scales: BytesLike, raw: BytesLike) -> Digest:
    """The digest of a tile's content: little-endian scales, row-major codes."""
    said = _CONTENT.pack(Dtype.INT8.code, BFLOAT16_ROW_SCALES, shape.rows, shape.columns)
    return digest(Domain.STREAMED_TILE, said, scales, raw)


def decode_tile(
    stored: BytesLike,
    shape: TileRows,
    name: Digest,
    what: str = "streamed tile",
    reason: Reason = Reason.BAD_BLOCK,
) -> DecodedRows:
    """The rows of a tile of this shape and this digest.

    Allocates at most ``shape.decoding_bytes``, whatever ``stored`` says, beside zstd's own 0.2 MB. Raises
    ``Rejected(reason)``; ``what`` names the tile in the sentence.
    """
    flat = memoryview(stored).cast("B")
    frame = flat[shape.frame_offset :]
    if not shape.frame_offset < flat.nbytes <= shape.stored_bytes_max:
        raise Rejected(reason, f"{what}: {flat.nbytes} bytes cannot hold {shape}")
    if flat[:HEADER_BYTES] != _header(shape, frame.nbytes, name):
        raise Rejected(reason, f"{what}: its header is not that of {shape} and digest {name.hex()[:16]}")
    scales = bytes(flat[HEADER_BYTES : shape.frame_offset])
    raw = _decompress(frame, shape.raw_bytes, what, reason)
    if content_digest(shape, scales, raw) != name:
        raise Rejected(reason, f"{what}: its content does not have digest {name.hex()[:16]}")
    codes_RC = np.frombuffer(raw, np.int8).reshape(shape.rows, shape.columns)
    scales_R = np.frombuffer(scales, "<u2")
    wrong = _find_wrong(codes_RC, scales_R)
    if wrong is not None:
        raise Rejected(reason, f"{what}: {wrong}")
    return DecodedRows(codes_RC, scales_R)


def _header(shape: TileRows, frame_bytes: int, name: Digest) -> bytes:
    numbers = (VERSION, Dtype.INT8.code, BFLOAT16_ROW_SCALES, ZSTD_FRAME)
    return _HEADER.pack(MAGIC, *numbers, shape.rows, shape.columns, shape.raw_bytes, frame_bytes, name)


def _decompress(frame: memoryview, raw_bytes: int, what: str, reason: Reason) -> bytes:
    """Exactly ``raw_bytes`` out of exactly one frame.

    What the frame declares is looked at first, because zstd allocates what it declares; and whether it is whole, because only
    then zstd decodes straight into the result, without a window of its own.
    """
    window_bytes_max = max(raw_bytes, _WINDOW_BYTES_MIN)
    try:
        declared = zstandard.get_frame_parameters(frame)
        if (
            bytes(frame[: len(_FRAME_MAGIC)]) != _FRAME_MAGIC  # a skippable frame has parameters too
            or declared.content_size != raw_bytes
            or declared.window_size > window_bytes_max
            or declared.dict_id
            or declared.has_checksum
        ):
            raise Rejected(reason, f"{what}: its frame does not declare {raw_bytes} bytes and nothing else")
        if not _is_whole(frame):
            raise Rejected(reason, f"{what}: its frame is cut short, or not alone")
        raw = zstandard.ZstdDecompressor(max_window_size=window_bytes_max).decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Rejected(reason, f"{what}: its frame is damaged ({error})") from error
    if len(raw) != raw_bytes:
        raise Rejected(reason, f"{what}: its frame holds {len(raw)} bytes, not {raw_bytes}")
    return raw


def _is_whole(frame: memoryview) -> bool:
    """Whether the frame's blocks end where its bytes end (RFC 8878, 3.1.1.2: size, kind, and whether it is the last)."""
    at, is_last = zstandard.frame_header_size(frame), False
    while not is_last:
        block = int.from_bytes(frame[at : at + _BLOCK_HEADER_BYTES], "little")
        is_last, kind, size_bytes = bool(block & 1), block >> 1 & 3, block >> 3
        at += _BLOCK_HEADER_BYTES + (1 if kind == _REPEATED_BYTE else size_bytes)
        if at > frame.nbytes:
            return False
    return at == frame.nbytes


def _find_wrong(codes_RC: Codes, scales_R: Scales) -> str | None:
    """What a tile may not hold though its bytes are well formed; ``None`` where it is right."""
    if int(codes_RC.min()) < -CODE_MAX:
        return f"a code below -{CODE_MAX}"
    if int(scales_R.max()) > SCALE_BITS_MAX:
        return "a scale above 2^32, negative or not finite"
    smallest = int(scales_R.min())
    if smallest >= SCALE_BITS_MIN:
        return None
    zero_R = scales_R == 0
    if ((scales_R < SCALE_BITS_MIN) & ~zero_R).any():
        return "a scale below 2^-96"
    return "codes under a scale of zero" if (codes_RC.any(axis=1) & zero_R).any() else None
