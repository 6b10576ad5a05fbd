"""Journal: records that must survive a crash before anybody hears of them, and a past that is known, or known lost.

    file    8  magic "NOCKJRN1"
            frames, one for each append
    frame   4  length of the body: u32
            4  CRC-32 of sequence and body: u32
            8  sequence: u64, 0 in the first frame, one more in each
            n  body: for each record its length, u32, then its bytes
    (all numbers little-endian)

One append is one frame, written and synced before the next begins. So a crash can tear only the last frame, and
nothing that was in a torn frame was ever acknowledged: its bytes can be cut off. That is the whole difference between
two kinds of damage, and a voter's safety rests on it (a vote leaves only after its append returned):

    nothing valid after the bad bytes    a torn tail: what is missing never left this machine
    a valid frame after the bad bytes    damage to what had been synced: the past is unknown

A frame carries its own sequence number under its checksum, so a later frame is recognised without knowing what lay
between, however much was lost, and a frame that is whole but out of turn is damage too. What this cannot see: a
journal cut off exactly between two frames, or whose last frames were all destroyed; nobody can, without another copy.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

MAGIC: Final = b"NOCKJRN1"
FRAME_BODY_BYTES_MAX: Final = 16 * 1024 * 1024  # a guess: votes are 100 bytes, proposals below 1 MiB
_FRAME: Final = struct.Struct("<IIQ")
_LENGTH: Final = struct.Struct("<I")


class JournalState(enum.Enum):
    """What opening a journal found."""

    CLEAN = "clean"
    TORN_TAIL = "torn_tail"  # an append was under way when the machine stopped; it was cut off
    DAMAGED = "damaged"  # what had been synced is no longer whole: the past is unknown
    MISSING = "missing"  # there is no such file: the past is unknown, or there is none yet


@dataclass(frozen=True, slots=True)
class JournalContents:
    """The records of a journal's good part. ``good_bytes`` is where it ends.

    ``frame_count`` is the next sequence number.
    """

    state: JournalState
    records: tuple[bytes, ...]
    good_bytes: int
    frame_count: int


class Journal(Protocol):
    """A journal open for appending."""

    def append(self, *payloads: bytes) -> None:
        """Append records; on return all of them survive a power cut, and a crash before it keeps all or none.

        Raises ``OSError``; nothing may be appended after that, because nobody knows what the disk has.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OpenedJournal:
    """What opening a journal found. ``records`` are those before any damage.

    ``journal`` is there only when it may be gone on with.
    """

    state: JournalState
    records: tuple[bytes, ...]
    journal: Journal | None


def frame(sequence: int, payloads: Sequence[bytes]) -> bytes:
    """The bytes of one append. Raises ``ValueError`` when they are too many."""
    body = b"".join(_LENGTH.pack(len(payload)) + payload for payload in payloads)
    if len(body) > FRAME_BODY_BYTES_MAX:
        raise ValueError(f"{len(body)} bytes are too many for one append to a journal")
    return _FRAME.pack(len(body), _checksum(sequence, body), sequence) + body


def read_journal(image: bytes | memoryview) -> JournalContents:
    """Read a journal file's bytes. Never raises: whatever they are, they are clean, torn or damaged.

    Takes one pass over a clean journal; damage is searched byte by byte for what follows it.
    """
    view = memoryview(image).cast("B")
    if bytes(view[: len(MAGIC)]) != MAGIC:
        return JournalContents(JournalState.DAMAGED, (), 0, 0)
    records: list[bytes] = []
    at, sequence = len(MAGIC), 0
    while at < view.nbytes:
        body = _find_body(view, at, sequence, sequence)
        payloads = None if body is None else _split(body)
        if body is None or payloads is None:
            torn = not _has_frame_after(view, at, sequence)
            state = JournalState.TORN_TAIL if torn else JournalState.DAMAGED
            return JournalContents(state, tuple(records), at, sequence)
        records += payloads
        at += _FRAME.size + body.nbytes
        sequence += 1
    return JournalContents(JournalState.CLEAN, tuple(records), at, sequence)


class MemoryJournal:
    """A :class:`Journal` in memory. ``image`` is what a disk would hold; cut or change a copy of it to play a crash."""

    def __init__(self, image: bytes = MAGIC) -> None:
        """Go on after the good part of ``image``; ``contents`` tells what was found."""
        self.contents = read_journal(image)
        self._image = bytearray(image[: self.contents.good_bytes] or MAGIC)
        self._sequence = self.contents.frame_count

    @property
    def image(self) -> bytes:
        return bytes(self._image)

    def append(self, *payloads: bytes) -> None:
        self._image += frame(self._sequence, payloads)
        self._sequence += 1

    def close(self) -> None:
        """Nothing is held."""


def _checksum(sequence: int, body: bytes | memoryview) -> int:
    return zlib.crc32(body, zlib.crc32(sequence.to_bytes(8, "little")))


def _find_body(view: memoryview, at: int, sequence_min: int, sequence_max: int) -> memoryview | None:
    """The body of the valid frame at ``at``, or ``None`` if there is none with such a sequence number."""
    if at + _FRAME.size > view.nbytes:
        return None
    length, checksum, sequence = _FRAME.unpack_from(view, at)
    start = at + _FRAME.size
    length_max = min(FRAME_BODY_BYTES_MAX, view.nbytes - start)
    if length > length_max or not sequence_min <= sequence <= sequence_max:
        return None
    body = view[start : start + length]
    return body if _checksum(sequence, body) == checksum else None


def _has_frame_after(view: memoryview, at: int, sequence: int) -> bool:
    """Whether a valid frame begins anywhere from ``at`` on, where the one of number ``sequence`` should be and is not.

    The bound on its number (no more frames fit in between) leaves noise next to no chance of passing for one. A torn
    frame whose record itself contains a frame does pass: that errs on the side of a past that is unknown.
    """
    sequence_max = sequence + 1 + (view.nbytes - at) // _FRAME.size
    return any(
        _find_body(view, start, 0, sequence_max) is not None for start in range(at, view.nbytes - _FRAME.size + 1)
    )


def _split(body: memoryview) -> list[bytes] | None:
    """The records in a body, or ``None`` if the lengths do not add up."""
    payloads, at = [], 0
    while at < body.nbytes:
        if at + _LENGTH.size > body.nbytes:
            return None
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size + length
        if at > body.nbytes:
            return None
        payloads.append(bytes(body[at - length : at]))
    return payloads
