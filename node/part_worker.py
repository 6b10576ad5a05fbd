"""A child's main program: parts of a state, decoded, proved, and written as rows that the database takes as a file.

    python -m node.part_worker        standard input: calls, standard output: an answer to each, in their order

Hashing and encoding small things holds Python's lock, so a thread for it takes from the event loop what it uses. The child
ends when its input does, whatever ended its parent. A file that it leaves then is swept when the directory is opened again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, BinaryIO, Final

from msgspec import Meta

from node.state_rows import rows_of_part
from protocol.codec import Message, decode, encode
from protocol.ids import Digest, DigestField
from protocol.limits import FRAME_BYTES_MAX, STATE_NAMES_PER_REQUEST_MAX
from protocol.rejection import REASON_BY_CODE, Reason, Rejected
from protocol.state_sync import CheckedEntries, Entries, NameField
from storage.io.rocks import write_rows
from storage.state_sync import ProvedEntries, ProvedPart, prove_entries

LENGTH_BYTES: Final = 4
CALL_BYTES_MAX: Final = 2 * FRAME_BYTES_MAX  # an answer, and what was asked


class Prove(Message, frozen=True):
    """An answer as it came, what was asked, and the file for its rows."""

    names: Annotated[tuple[NameField, ...], Meta(min_length=1, max_length=STATE_NAMES_PER_REQUEST_MAX)]
    digests: Annotated[tuple[DigestField, ...], Meta(min_length=1, max_length=STATE_NAMES_PER_REQUEST_MAX)]
    rows_file: str
    data: bytes


class BucketOfPart(Message, frozen=True):
    """A bucket that has entries."""

    name: NameField
    digest: DigestField


class PartInFile(Message, frozen=True):
    """A part whose rows are in the file; without any it has no rows."""

    size_bytes: int
    buckets: tuple[BucketOfPart, ...]


class Refused(Message, frozen=True):
    """What is wrong behind the last part."""

    code: str
    detail: str


class Proved(Message, frozen=True):
    """The answer to ``Prove``, as ``ProvedEntries``."""

    parts: Annotated[tuple[PartInFile | None, ...], Meta(max_length=STATE_NAMES_PER_REQUEST_MAX)]
    refused: Refused | None

    def entries(self, rows_file: str) -> ProvedEntries:
        """What the machine is told. Raises ``Rejected``."""
        parts = tuple(None if part is None else _in_file(part, rows_file) for part in self.parts)
        if self.refused is None:
            return ProvedEntries(parts)
        reason = REASON_BY_CODE.get(self.refused.code)
        if reason is None:
            raise Rejected(Reason.MALFORMED, f"there is no reason {self.refused.code!r}")
        return ProvedEntries(parts, Rejected(reason, self.refused.detail))


def _in_file(part: PartInFile, rows_file: str) -> ProvedPart:
    checked = CheckedEntries(buckets=tuple((bucket.name, Digest(bucket.digest)) for bucket in part.buckets))
    return ProvedPart((), checked, part.size_bytes, rows_file)


def prove(names: Sequence[bytes], digests: Sequence[Digest], data: bytes) -> ProvedEntries:
    """An answer as it came, decoded and compared with what was asked."""
    try:
        answer = decode(Entries, data, limit_bytes=FRAME_BYTES_MAX)
    except Rejected as refusal:
        return ProvedEntries((), refusal)
    return prove_entries(names, digests, answer)


def work(call: Prove) -> Proved:
    """Prove an answer and write its rows. Raises ``OSError``."""
    proved = prove(call.names, [Digest(each) for each in call.digests], call.data)
    parts = [(name, part) for name, part in zip(call.names, proved.parts, strict=False) if part is not None]
    parts.sort(key=lambda each: each[0])
    if any(part.entries for _, part in parts):
        write_rows(
            Path(call.rows_file),
            chain.from_iterable(rows_of_part(name, part.entries, part.checked) for name, part in parts),
        )
    refusal = proved.refusal
    return Proved(
        tuple(None if part is None else _without_rows(part) for part in proved.parts),
        None if refusal is None else Refused(refusal.reason.code, refusal.detail),
    )


def _without_rows(part: ProvedPart) -> PartInFile:
    return PartInFile(part.size_bytes, tuple(BucketOfPart(name, digest) for name, digest in part.checked.buckets))


def frame(message: Message) -> bytes:
    """Its length and its bytes."""
    body = encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def read_frames(source: BinaryIO) -> Iterator[bytes]:
    """Every whole frame, until the other side is gone."""
    while len(head := source.read(LENGTH_BYTES)) == LENGTH_BYTES:
        size = int.from_bytes(head, "big")
        if len(body := source.read(size)) < size:
            return
        yield body


def main(calls: BinaryIO, answers: BinaryIO) -> None:
    """Answer calls one after the other until there are no more. Raises ``OSError``: a full disk, or nobody who reads."""
    for body in read_frames(calls):
        answers.write(frame(work(decode(Prove, body, limit_bytes=CALL_BYTES_MAX))))
        answers.flush()


if __name__ == "__main__":
    try:
        main(sys.stdin.buffer, sys.stdout.buffer)
    except OSError as failure:  # what was asked is done in a thread, which says what is wrong if that is the disk
        sys.exit(str(failure))
