"""Bytes in, frames out: how a message stands in a stream. Sans-io.

    frame     = length:u32 big-endian | payload
    answer    = 0x00 | payload                        the handler answered
              | 0x01 | code ASCII | 0x0a | detail     the handler raised Rejected (UTF-8 detail, cut to TEXT_BYTES_MAX)

A length over the limit is refused before a byte of the payload is kept, so a reader never holds more than one limit and
what came with it.
"""

from __future__ import annotations

import struct
from typing import Final

from protocol.limits import TEXT_BYTES_MAX
from protocol.rejection import REASON_BY_CODE, Reason, Rejected

HEADER_BYTES: Final = 4
_ANSWERED: Final = b"\x00"
_REFUSED: Final = b"\x01"
ANSWER_OVERHEAD_BYTES: Final = 1
REFUSAL_BYTES_MAX: Final = 1 + 64 + 1 + TEXT_BYTES_MAX  # status, code (the longest today has 17), newline, detail


def encode_frame(payload: bytes) -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload)) + payload


class FrameReader:
    """Collects bytes and gives back whole payloads, however the bytes were cut on their way."""

    __slots__ = ("_buffer", "_payload_bytes_max")

    def __init__(self, payload_bytes_max: int) -> None:
        self._buffer = bytearray()
        self._payload_bytes_max = payload_bytes_max

    def feed(self, data: bytes) -> list[bytes]:
        """Every payload that is now whole. `Rejected(TOO_LARGE)` when a frame announces more than the limit."""
        self._buffer += data
        frames: list[bytes] = []
        position = 0
        while len(self._buffer) - position >= HEADER_BYTES:
            (length,) = struct.unpack_from(">I", self._buffer, position)
            if length > self._payload_bytes_max:
                raise Rejected(Reason.TOO_LARGE, f"a frame of {length} bytes, at most {self._payload_bytes_max}")
            end = position + HEADER_BYTES + length
            if len(self._buffer) < end:
                break
            frames.append(bytes(memoryview(self._buffer)[position + HEADER_BYTES : end]))
            position = end
        del self._buffer[:position]
        return frames

    @property
    def is_empty(self) -> bool:
        """Whether the stream may end here without cutting a frame."""
        return not self._buffer


def encode_answer(payload: bytes) -> bytes:
    """The payload of a frame that carries an answer."""
    return _ANSWERED + payload


def encode_refusal(rejected: Rejected) -> bytes:
    """The payload of a frame that says why there is no answer."""
    detail = rejected.detail.encode()[:TEXT_BYTES_MAX].decode(errors="ignore")
    return _REFUSED + f"{rejected.reason.code}\n{detail}".encode()


def decode_answer(payload: bytes) -> bytes:
    """The answer. Raises the `Rejected` that the other side raised, or `Rejected(MALFORMED)` when it is neither."""
    status, body = payload[:1], payload[1:]
    if status == _ANSWERED:
        return body
    if status != _REFUSED or len(payload) > REFUSAL_BYTES_MAX:
        raise Rejected(Reason.MALFORMED, "an answer begins with 0 or 1")
    code, _, detail = body.decode(errors="replace").partition("\n")
    reason = REASON_BY_CODE.get(code)
    if reason is None:
        raise Rejected(Reason.MALFORMED, "a refusal with a reason that we do not know")
    raise Rejected(reason, "".join(character if character.isprintable() else "?" for character in detail))
