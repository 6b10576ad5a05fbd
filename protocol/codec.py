"""Canonical msgpack: one encoder, one strict decoder.

Messages are msgspec Structs written as arrays, so that a value has exactly one encoding: arrays in field order, smallest
integers, no floats. Decoding is typed, bounded in size and depth, and compares the re-encoding with what came: every
decoder of msgpack accepts long forms of integers and lengths, and two encodings of one value would be two digests.

Sign and hash the bytes that travelled; never re-encode to verify a signature.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from protocol.rejection import Reason, Rejected

_encoder = msgspec.msgpack.Encoder(order="sorted")
T = TypeVar("T")
_decoders: dict[object, msgspec.msgpack.Decoder[object]] = {}


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of everything that travels: frozen, an array on the wire, no unknown fields."""


def encode(value: object) -> bytes:
    """The canonical bytes of a message."""
    return _encoder.encode(value)


def decode(kind: type[T], data: bytes | bytearray | memoryview, *, limit_bytes: int) -> T:
    """Decode strictly as ``kind``; raises only ``Rejected`` (TOO_LARGE, MALFORMED, NOT_CANONICAL).

    The size is capped before a byte is looked at: 4 MB of empty arrays would become 270 MB of objects. Typed decoding
    bounds the depth by the type; ``RecursionError`` is what msgspec raises for the rest.
    """
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if size > limit_bytes:
        raise Rejected(Reason.TOO_LARGE, f"{size} bytes, at most {limit_bytes}")
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        value = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise Rejected(Reason.MALFORMED, f"{getattr(kind, '__name__', kind)}: {error}") from None
    if _encoder.encode(value) != data:
        raise Rejected(Reason.NOT_CANONICAL, getattr(kind, "__name__", str(kind)))
    return value  # type: ignore[return-value]  # the decoder was made for `kind`
