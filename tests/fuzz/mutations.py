"""What is done to honest bytes so that they are hostile: to the bytes, to the tree that they encode, to their text.

One to four changes are made to a sample; the same generator makes the same input. Every change keeps most of the sample,
because bytes that are wrong from the first on test the first line of a decoder only.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgpack

from tests.strategies import wound

BYTES_MAX = 512 * 1024  # of an input between two changes
NUMBERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53,
    2**63 - 1,
    2**64 - 1,
)
TAGS = bytes((*range(0xC0, 0xE0), 0x00, 0x7F, 0x80, 0x8F, 0x90, 0x91, 0x9F, 0xA0, 0xBF, 0xE0, 0xFF))  # msgpack's


class Form(enum.Enum):
    """How an input is built, and so what can be changed about it."""

    MSGPACK = "msgpack"
    BINARY = "binary"
    TEXT = "text"


Change = Callable[[Random, bytes, Sequence[bytes]], bytes]


def mutate(random: Random, samples: Sequence[bytes], form: Form, words: Sequence[bytes] = ()) -> bytes:
    """One hostile input: a sample, one to four times changed. ``words`` mean something to the decoder."""
    data = random.choice(samples)
    for _ in range(random.choice((1, 1, 1, 1, 2, 2, 3, 4))):
        if words and random.randrange(3) == 0:
            at = random.randrange(len(data) + 1)
            data = data[:at] + random.choice(words) + data[at + random.choice((0, 0, 1, 4)) :]
        else:
            data = random.choice(CHANGES[form])(random, data, samples)[:BYTES_MAX]
    return data


# -- bytes -------------------------------------------------------------------------------------------------------------


def _wound(random: Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    return wound(random, data)


def _splice(random: Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """The beginning of one and the end of another."""
    other = random.choice(samples)
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def _repeat(random: Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """A piece, up to thousands of times."""
    start = random.randrange(len(data) + 1)
    end = min(len(data), start + random.randint(1, 80))
    return data[:end] + data[start:end] * random.choice((1, 2, 17, 300, 4_000)) + data[end:]


def _number(random: Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """A number where one may stand: a length, a count, an offset."""
    width = random.choice((1, 2, 4, 8))
    value = random.choice(NUMBERS) if random.randrange(2) else len(data) + random.randrange(-2, 3)
    piece = (value % 256**width).to_bytes(width, random.choice(("big", "little")))
    at = random.randrange(len(data) + 1)
    return data[:at] + piece + data[at + width :]


def _retag(random: Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """Another msgpack tag, with a count behind it that nothing follows."""
    at = random.randrange(len(data) + 1)
    tag = bytes([random.choice(TAGS)])
    count = random.choice((b"", b"\x00", b"\xff\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x01\x00\x00"))
    return data[:at] + tag + count + data[at + random.choice((0, 1, 1 + len(count))) :]


def _nest(random: Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """Deep inside arrays, maps, brackets or braces."""
    depth = random.choice((1, 3, 20, 1_000, 100_000))
    opening = random.choice((b"\x91", b"\x81\xa0", b"\xdd\x00\x00\x00\x01", b"[", b"{", b'{"a":', b"a.", b"/"))
    at = random.choice((0, random.randrange(len(data) + 1)))
    return data[:at] + opening * depth + data[at:]


def _grow(random: Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """One byte, very often."""
    at = random.randrange(len(data) + 1)
    return data[:at] + bytes([random.randrange(256)]) * random.choice((10, 1_000, 70_000)) + data[at:]


# -- trees -------------------------------------------------------------------------------------------------------------

_CHARACTERS = (0, 9, 32, 45, 46, 47, 48, 65, 97, 127, 128, 0x661, 0xFFFF, 0x1F600)
_LEAVES: tuple[Any, ...] = (
    *NUMBERS,
    -1,
    -128,
    -(2**63),
    None,
    True,
    False,
    0.5,
    float("nan"),
    "",
    "a",
    b"",
    b"\x00" * 32,
)


def _change_tree(random: Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """The value that the bytes encode, changed at one place and encoded canonically."""
    tree = _unpack(data)
    if tree is None:
        return wound(random, data)
    changed = _changed(random, tree, _unpack(random.choice(samples)), BYTES_MAX // (len(data) + 1))
    try:
        return bytes(msgpack.packb(changed, strict_types=True, unicode_errors="surrogateescape"))
    except ValueError:  # too deep for the packer
        return wound(random, data)


def _unpack(data: bytes) -> Any:
    """The value of whole msgpack bytes; None of any others. Text that is no UTF-8 stays as it is."""
    try:
        return msgpack.unpackb(data, strict_map_key=False, unicode_errors="surrogateescape", max_map_len=10_000)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        return None


def _changed(random: Random, tree: Any, other: Any, room: int, depth: int = 0) -> Any:
    """``tree`` with one change somewhere, that makes it at most ``room`` times as large."""
    if isinstance(tree, list) and tree and (depth < 2 or random.randrange(3)) and random.randrange(4):
        at = random.randrange(len(tree))
        return [*tree[:at], _changed(random, tree[at], other, room, depth + 1), *tree[at + 1 :]]
    match random.randrange(6), tree:
        case 0, _:
            return _piece_of(random, other)
        case 1, _:
            return random.choice(([tree], {"a": tree}, {0: tree}, *_LEAVES))
        case _, list():
            at = random.randrange(len(tree)) if tree else 0
            return random.choice(
                (
                    [*tree[:at], *tree[at + 1 :]],
                    [*tree[:at], *tree[at : at + 1], *tree[at:]],
                    [*tree, *tree[at : at + 1] * min(room, random.choice((2, 20, 300, 2_000)))],
                    tree[::-1],
                    [*tree, None],
                )
            )
        case _, bool() | None:
            return random.choice((True, False, None))
        case _, int():
            numbers = (tree + 1, tree - 1, tree ^ 1 << random.randrange(63), tree * 2, random.choice(NUMBERS))
            return random.choice(numbers) % 2**64
        case _, bytes() | str():
            at, empty = random.randrange(len(tree) + 1), tree[:0]
            other_piece = bytes([random.randrange(256)]) if isinstance(tree, bytes) else chr(random.choice(_CHARACTERS))
            pieces = (
                tree[:at] + other_piece + tree[at + 1 :],
                tree[:at] + other_piece + tree[at + 1 :],
                tree[:at],
                tree + other_piece,
                tree[::-1],
                empty.join([other_piece] * random.choice((0, 31, 33, 65, 5_000))),
            )
            return random.choice(pieces)
        case _:
            return random.choice(_LEAVES)


def _piece_of(random: Random, tree: Any) -> Any:
    """Some part of a value."""
    while isinstance(tree, list) and tree and random.randrange(3):
        tree = random.choice(tree)
    return tree


_BYTES: tuple[Change, ...] = (_wound, _wound, _splice, _repeat, _number, _nest, _grow)
CHANGES: dict[Form, tuple[Change, ...]] = {
    Form.MSGPACK: (*_BYTES, _retag, *[_change_tree] * 12),
    Form.BINARY: (*_BYTES, _number, _number),
    Form.TEXT: _BYTES,
}
