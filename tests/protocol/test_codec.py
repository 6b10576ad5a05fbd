"""Canonical msgpack: one value, one encoding; anything else is Rejected, and nothing else is ever raised."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect as kinds

from protocol.cells import CellRequest
from protocol.codec import Message, decode, encode
from protocol.finality import ValidatorMessage
from protocol.ids import Digest, TileId
from protocol.learning import BlobAnswer, BlobRequest, DeltaBundle, GetBlobs, GetBlocks, GetTileLeaves, HeadProposals
from protocol.limits import NESTING_DEPTH_MAX
from protocol.rejection import Reason, Rejected
from tests.strategies import message_types, values, wound

LIMIT_BYTES = 1 << 20
UNIONS = {"ValidatorMessage": ValidatorMessage, "BlobRequest": BlobRequest, "CellRequest": CellRequest}
KINDS: dict[str, Any] = {f"{kind.__module__}.{kind.__name__}": kind for kind in message_types()} | UNIONS
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def reason_of(kind: Any, data: bytes, limit_bytes: int = LIMIT_BYTES) -> Reason | None:
    """Why the bytes are refused; None when they are accepted, and then they are canonical."""
    try:
        value = decode(kind, data, limit_bytes=limit_bytes)
    except Rejected as rejected:
        return rejected.reason
    assert encode(value) == data
    return None


def respell(value: Any, head: str) -> bytes:
    """Other bytes that mean the same: ``head`` says which kind of value is written in its longest form."""
    long = head == "all"
    match value:
        case bool() | None:
            return msgpack.packb(value)
        case int():
            return (
                b"\xcf" + struct.pack(">Q", value) if (long or head == "int") and value >= 0 else msgpack.packb(value)
            )
        case bytes():
            return b"\xc6" + struct.pack(">I", len(value)) + value if long or head == "bin" else msgpack.packb(value)
        case str():
            text = value.encode()
            return b"\xdb" + struct.pack(">I", len(text)) + text if long or head == "str" else msgpack.packb(value)
        case list():
            inner = b"".join(respell(item, head) for item in value)
            prefix = msgpack.Packer().pack_array_header(len(value))
            return (b"\xdd" + struct.pack(">I", len(value)) if long or head == "array" else prefix) + inner
        case _:
            raise TypeError(type(value))


def test_every_message_is_frozen_and_travels_as_an_array() -> None:
    """A message cannot change after its signature, and has no field names on the wire."""
    kinds = message_types()
    assert len(kinds) > 30
    for kind in kinds:
        config = kind.__struct_config__
        assert config.frozen, kind
        assert config.array_like, kind
        assert config.forbid_unknown_fields, kind


def depth_of(info: kinds.Type) -> int:
    """How many arrays deep a value of a type can be."""
    match info:
        case kinds.StructType():
            return 1 + max((depth_of(field.type) for field in info.fields), default=0)
        case kinds.VarTupleType():
            return 1 + depth_of(info.item_type)
        case kinds.UnionType():
            return max(depth_of(member) for member in info.types)
        case _:
            return 0


@every_kind
def test_a_type_is_not_deeper_than_the_limit(kind: Any) -> None:
    """The type bounds the depth of what decodes, and the limit bounds the type."""
    assert depth_of(kinds.type_info(kind)) <= NESTING_DEPTH_MAX


@every_kind
def test_what_was_encoded_decodes_to_the_same_value(kind: Any) -> None:
    """Decoding inverts encoding, from bytes, bytearray and memoryview, and encoding twice gives the same bytes."""

    @settings(max_examples=25)
    @given(values(kind))
    def check(value: Message) -> None:
        data = encode(value)
        assert decode(kind, data, limit_bytes=len(data)) == value
        assert decode(kind, memoryview(data), limit_bytes=len(data)) == value
        assert decode(kind, bytearray(data), limit_bytes=len(data)) == value
        assert encode(decode(kind, data, limit_bytes=len(data))) == data
        assert reason_of(kind, data, len(data) - 1) is Reason.TOO_LARGE

    check()


@every_kind
def test_wounded_bytes_are_rejected_or_canonical(kind: Any) -> None:
    """Whatever happens to the bytes of a message, the decoder answers with a canonical value or ``Rejected``."""

    @settings(max_examples=25)
    @given(values(kind), st.integers(0, 2**32))
    def check(value: Message, seed: int) -> None:
        random, data = Random(seed), encode(value)
        for _ in range(40):
            wounded = wound(random, data)
            reason_of(kind, wounded)
            reason_of(kind, wound(random, wounded))

    check()


@every_kind
def test_random_bytes_are_rejected_or_canonical(kind: Any) -> None:
    """Noise never raises anything but ``Rejected``."""
    random = Random(7)
    for _ in range(400):
        reason_of(kind, random.randbytes(random.randrange(64)))
    for first in range(256):  # each first byte of msgpack, alone and followed by a huge claimed length
        for rest in (b"", b"\xff" * 8, b"\x00" * 8):
            assert reason_of(kind, bytes([first]) + rest) is not None or rest != b"\xff" * 8


@every_kind
@pytest.mark.parametrize("head", ["int", "bin", "str", "array", "all"])
def test_a_longer_spelling_of_the_same_value_is_refused(kind: Any, head: str) -> None:
    """Long integers and long lengths decode to the same value elsewhere; here they are not canonical."""

    @settings(max_examples=10)
    @given(values(kind))
    def check(value: Message) -> None:
        data = encode(value)
        other = respell(msgpack.unpackb(data, strict_map_key=False), head)
        assert other == data or reason_of(kind, other) is Reason.NOT_CANONICAL

    check()


@every_kind
def test_bytes_after_the_message_are_refused(kind: Any) -> None:
    """A message ends where its encoding ends, also when what follows is the message again."""

    @settings(max_examples=10)
    @given(values(kind))
    def check(value: Message) -> None:
        data = encode(value)
        for tail in (b"\x00", b"\xc0", data):
            assert reason_of(kind, data + tail) is Reason.MALFORMED

    check()


@every_kind
def test_a_missing_or_an_additional_element_is_refused(kind: Any) -> None:
    """An array with another number of elements is another message."""

    @settings(max_examples=10)
    @given(values(kind))
    def check(value: Message) -> None:
        items = msgpack.unpackb(encode(value))
        assert reason_of(kind, msgpack.packb(items[:-1])) is not None
        assert reason_of(kind, msgpack.packb([*items, 0])) is not None

    check()


@every_kind
def test_an_element_of_another_type_is_refused(kind: Any) -> None:
    """No coercion: a float, a boolean, a map, text for bytes or bytes for text never stands for something else."""

    @settings(max_examples=10)
    @given(values(kind))
    def check(value: Message) -> None:
        items = msgpack.unpackb(encode(value))
        for index, item in enumerate(items):
            for strange in (float("nan"), 0.5, 1.0, True, {}, {"a": 1}, "1", b"1", None, [], -1, 2**64 - 1):
                if type(strange) is not type(item) and not (strange is None or isinstance(strange, bool)):
                    changed = msgpack.packb([*items[:index], strange, *items[index + 1 :]])
                    assert reason_of(kind, changed) is not None

    check()


def test_a_map_is_refused_also_with_a_key_twice() -> None:
    """Fields have places, not names."""
    for data in (
        msgpack.packb({"first_height": 1, "count": 2}),
        b"\x82\xa5count\x01\xa5count\x02",
        b"\x80",
    ):
        assert reason_of(GetBlocks, data) is Reason.MALFORMED


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 0.0, 1.0])
def test_a_float_is_refused(number: float) -> None:
    """Nothing signed holds a float, whichever its value and width."""
    for width in (b"\xcb" + struct.pack(">d", number), b"\xca" + struct.pack(">f", number)):
        assert reason_of(GetBlocks, b"\x92\x01" + width) is Reason.MALFORMED


@pytest.mark.parametrize("depth", [NESTING_DEPTH_MAX, 1_000, 100_000])
@pytest.mark.parametrize(
    "level", [b"\x91", b"\x81\xa1a", b"\x81\x91"], ids=["array", "map", "map with an array for key"]
)
def test_deep_nesting_is_refused_without_exhausting_the_stack(depth: int, level: bytes) -> None:
    """The type bounds the depth; what msgspec skips over is bounded by ``RecursionError``, which is caught."""
    for kind in (HeadProposals, GetBlobs, ValidatorMessage):
        for before in (b"", b"\x91", b"\x92\x01", b"\x97\x01\x00"):
            assert reason_of(kind, before + level * depth + b"\xc0") is Reason.MALFORMED


@pytest.mark.parametrize(
    "claim", [b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff"]
)
def test_a_huge_claimed_length_costs_nothing(claim: bytes) -> None:
    """A length is believed only as far as bytes follow it."""
    for kind in (HeadProposals, DeltaBundle, BlobAnswer, ValidatorMessage):
        for before in (b"", b"\x91", b"\x92", b"\x92\x06"):
            assert reason_of(kind, before + claim) is Reason.MALFORMED


def test_the_size_is_capped_before_a_byte_is_read() -> None:
    """Four megabytes of empty arrays would become hundreds of megabytes of objects."""
    assert reason_of(HeadProposals, b"\x90" * 4_000_000) is Reason.TOO_LARGE
    assert reason_of(HeadProposals, b"", limit_bytes=0) is Reason.MALFORMED


@pytest.mark.parametrize(
    "tile", ["trunk/0\n", "Trunk/0", "trunk", "/0", "trunk/", "trunk/-1", "tränk/0", "a/" + "0" * 63]
)
def test_a_tile_id_has_one_form(tile: str) -> None:
    """A group of small letters, digits and points, a slash, an index; nothing after it, not even a newline."""
    assert reason_of(GetTileLeaves, encode(GetTileLeaves(TileId(tile), Digest(bytes(32))))) is Reason.MALFORMED


def test_the_text_of_a_rejection_names_the_field() -> None:
    """Whoever debugs a peer reads which element of which message was wrong."""
    with pytest.raises(Rejected, match=r"GetBlocks: .*\$\[1\]"):
        decode(GetBlocks, b"\x92\x01\xa1x", limit_bytes=100)
