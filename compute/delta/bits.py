"""Natural numbers to bits and back: Rice codes in blocks, all of it array arithmetic.

    K  numbers          B = 128 numbers of a block          G  blocks

A number ``v`` with the block's ``base`` and parameter ``k`` becomes ``(v - base) >> k`` in unary and ``k`` low bits.
For gaps between kept positions, and for magnitudes of codes above the smallest of their block, both close to
geometric, this is within 2 % of the entropy. Unary digits and low bits lie apart, so that no decoder walks bit by
bit:

    +-----------------------+-----------------------------+--------------------------------------------------------+
    | parameters            | unary                       | planes                                                 |
    | k of each block       | quotient zeros, then a one, | bit 0 of every number whose k > 0, then                |
    | (4 bits), then base   | for each number;            | bit 1 of every number whose k > 1, ...                 |
    | (4 bits) if asked for | zeros to a whole byte       | zeros to a whole byte                                  |
    +-----------------------+-----------------------------+--------------------------------------------------------+
      ceil(G/2) [twice]       declared length (u32 before)    length follows from the parameters

**One number list, one byte string.** ``k`` and ``base`` follow from the numbers by rule (:func:`_parameters`),
padding is zero, and a decoder refuses anything else. No general compressor comes after: nothing depends on a
library's version, nothing can expand (a byte holds at most eight numbers), and two machines that merge the same
deltas publish the same bytes. (zstd over one gap a byte and two codes a byte gave 5 % more bytes on trained deltas.)
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.rejection import Reason, Rejected

BLOCK: Final = 128
PARAMETER_MAX: Final = 15  # four bits
BASE_MAX: Final = 15

Numbers = NDArray[np.uint32]


class Reader:
    """A cursor over hostile bytes: each ``take`` is bounded by what is left."""

    __slots__ = ("data", "offset")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def take(self, count: int) -> NDArray[np.uint8]:
        """The next ``count`` bytes as an array. Raises Rejected(BAD_DELTA) if fewer are left."""
        if count > len(self.data) - self.offset:
            raise Rejected(Reason.BAD_DELTA, "the bytes end early")
        part = np.frombuffer(self.data, np.uint8, count, self.offset)
        self.offset += count
        return part

    def number(self) -> int:
        """The next four bytes, little-endian."""
        return int.from_bytes(self.take(4).tobytes(), "little")

    def finish(self) -> None:
        """Raises Rejected(BAD_DELTA) if bytes are left."""
        if self.offset != len(self.data):
            raise Rejected(Reason.BAD_DELTA, "bytes follow the end")


def pack_numbers(numbers_K: Numbers, with_base: bool) -> bytes:
    """The byte string of the numbers, each below 2^31."""
    count = numbers_K.size
    if count == 0:
        return b""
    parameters_G, bases_G = _parameters(numbers_K, with_base)
    parameters_K = np.repeat(parameters_G, BLOCK)[:count]
    above_K = numbers_K - np.repeat(bases_G, BLOCK)[:count] if with_base else numbers_K
    ends_K = np.cumsum((above_K >> parameters_K) + np.uint32(1), dtype=np.int64) - 1
    unary = np.zeros(int(ends_K[-1]) + 1, np.uint8)
    unary[ends_K] = 1
    unary_bytes = np.packbits(unary).tobytes()
    planes = [
        ((above_K[parameters_K > plane] >> np.uint32(plane)) & np.uint32(1)).astype(np.uint8)
        for plane in range(int(parameters_G.max()))
    ]
    return b"".join(
        (
            _pack_nibbles(parameters_G),
            _pack_nibbles(bases_G) if with_base else b"",
            len(unary_bytes).to_bytes(4, "little"),
            unary_bytes,
            np.packbits(np.concatenate(planes)).tobytes() if planes else b"",
        )
    )


def unpack_numbers(reader: Reader, count: int, with_base: bool, limit: int) -> Numbers:
    """``count`` numbers of at most ``limit`` (below 2^31).

    Raises Rejected(BAD_DELTA) unless the bytes are what ``pack_numbers`` writes.
    """
    if count == 0:
        return np.zeros(0, np.uint32)
    blocks = -(-count // BLOCK)
    parameters_G = _unpack_nibbles(reader, blocks)
    bases_G = _unpack_nibbles(reader, blocks) if with_base else np.zeros(blocks, np.uint32)
    unary_length = reader.number()
    unary = np.unpackbits(reader.take(unary_length))
    ends_K = np.flatnonzero(unary.view(np.bool_))  # seven times faster than over bytes
    if ends_K.size != count or unary.size - int(ends_K[-1]) > 8:
        raise Rejected(Reason.BAD_DELTA, "the unary digits do not count what the header says")
    quotients_K = np.diff(ends_K, prepend=-1) - 1
    parameters_K = np.repeat(parameters_G, BLOCK)[:count]
    if (quotients_K > (limit >> parameters_K.astype(np.int64))).any():
        raise Rejected(Reason.BAD_DELTA, "a number is out of range")
    numbers_K = quotients_K.astype(np.uint32) << parameters_K
    members = [np.flatnonzero(parameters_K > plane) for plane in range(int(parameters_G.max()))]
    plane_bits = sum(member.size for member in members)
    bits = np.unpackbits(reader.take(-(-plane_bits // 8)))
    if bits[plane_bits:].any():
        raise Rejected(Reason.BAD_DELTA, "the padding is not zero")
    start = 0
    for plane, member in enumerate(members):
        numbers_K[member] |= bits[start : start + member.size].astype(np.uint32) << np.uint32(plane)
        start += member.size
    numbers_K += np.repeat(bases_G, BLOCK)[:count]
    if int(numbers_K.max()) > limit:
        raise Rejected(Reason.BAD_DELTA, "a number is out of range")
    expected_parameters_G, expected_bases_G = _parameters(numbers_K, with_base)
    if not np.array_equal(expected_parameters_G, parameters_G) or not np.array_equal(expected_bases_G, bases_G):
        raise Rejected(Reason.BAD_DELTA, "the parameters of a block are not the ones that follow from its numbers")
    return numbers_K


def pack_flags(flags_K: NDArray[np.bool_]) -> bytes:
    """One bit each, zeros to a whole byte."""
    return np.packbits(flags_K).tobytes()


def unpack_flags(reader: Reader, count: int) -> NDArray[np.bool_]:
    """``count`` flags. Raises Rejected(BAD_DELTA) if the padding is not zero."""
    bits = np.unpackbits(reader.take(-(-count // 8)))
    if bits[count:].any():
        raise Rejected(Reason.BAD_DELTA, "the padding is not zero")
    return bits[:count].astype(np.bool_)


def zigzag_differences(numbers_K: NDArray[np.uint16]) -> Numbers:
    """Each number less the one before (the first less 0), folded to naturals: 0, -1, 1, -2, 2 become 0, 1, 2, 3, 4."""
    signed_K = numbers_K.astype(np.int64)
    differences_K = signed_K.copy()
    differences_K[1:] -= signed_K[:-1]
    return ((differences_K << 1) ^ (differences_K >> 63)).astype(np.uint32)


def sum_zigzag(folded_K: Numbers) -> NDArray[np.int64]:
    """Inverse of :func:`zigzag_differences`, in 64 bits: the caller checks the range."""
    folded = folded_K.astype(np.int64)
    return np.cumsum((folded >> 1) ^ -(folded & 1))


def _parameters(numbers_K: Numbers, with_base: bool) -> tuple[Numbers, Numbers]:
    """``k`` and base of each block: base = min(smallest number, 15), k from the mean m above it.

    For a geometric distribution k + 1 bits begin to beat k where (m / (m + 1))^(2^k) is the golden section, that is at
    m + 1/2 = 2.08 * 2^k within 2 %: so k is the bit length of (m + 1/2) / 2.08.
    """
    starts = np.arange(0, numbers_K.size, BLOCK)
    counts_G = np.minimum(numbers_K.size - starts, BLOCK)
    sums_G = np.add.reduceat(numbers_K.astype(np.int64), starts)
    bases_G = np.zeros(starts.size, np.int64)
    if with_base:
        bases_G = np.minimum(np.minimum.reduceat(numbers_K, starts).astype(np.int64), BASE_MAX)
        sums_G -= bases_G * counts_G
    targets_G = 25 * (2 * sums_G + counts_G) // (104 * counts_G)
    parameters_G = np.searchsorted(_POWERS_OF_TWO, targets_G, side="right").astype(np.uint32)  # bit length, at most 15
    return parameters_G, bases_G.astype(np.uint32)


_POWERS_OF_TWO = np.array([1 << exponent for exponent in range(PARAMETER_MAX)], np.int64)


def _pack_nibbles(nibbles_G: Numbers) -> bytes:
    """Two numbers below 16 a byte, the first in the upper half."""
    padded = np.zeros(nibbles_G.size + nibbles_G.size % 2, np.uint8)
    padded[: nibbles_G.size] = nibbles_G
    return (padded[0::2] << 4 | padded[1::2]).tobytes()


def _unpack_nibbles(reader: Reader, count: int) -> Numbers:
    packed = reader.take(-(-count // 2))
    nibbles = np.empty(2 * packed.size, np.uint32)
    nibbles[0::2] = packed >> 4
    nibbles[1::2] = packed & 15
    if nibbles[count:].any():
        raise Rejected(Reason.BAD_DELTA, "the padding is not zero")
    return nibbles[:count]
