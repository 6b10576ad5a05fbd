"""Blobs: bytes under their digest. Which are kept where, and the check that they are still what they were.

    up to 64 KiB     a row of the database: many can be written with one sync
    larger           a file, blobs/<first two hex digits>/<all 64>
    each             a row with its size: that it is there says that the blob is

A blob is checked against its name when it is first read after the start; the disk is believed for the rest of the run.
"""

from __future__ import annotations

from typing import Final

from protocol.digest import blob_digest
from protocol.ids import Digest
from protocol.rejection import Reason, Rejected
from storage.tensor_block import BytesLike

INLINE_BYTES_MAX: Final = (
    64 * 1024
)  # above it, a file is written faster than a row and read by mapping (measured, libraries)
BLOB_FOLDER: Final = "blobs"


def is_inline(size_bytes: int) -> bool:
    """Whether a blob of this size is a row."""
    return size_bytes <= INLINE_BYTES_MAX


def blob_file_name(name: Digest) -> str:
    """The file of a large blob."""
    text = name.hex()
    return f"{BLOB_FOLDER}/{text[:2]}/{text}"


def blob_of_file_name(file_name: str) -> Digest | None:
    """The inverse of :func:`blob_file_name`; ``None`` for a file that is no blob's."""
    try:
        name = Digest(bytes.fromhex(file_name.rpartition("/")[2]))
    except ValueError:
        return None
    return name if blob_file_name(name) == file_name else None


def check_blob(name: Digest, data: BytesLike) -> None:
    """Check stored bytes against their name; raises ``Rejected(BLOB_CORRUPT)``."""
    if blob_digest(data) != name:
        raise Rejected(Reason.BLOB_CORRUPT, f"blob {name.hex()[:16]}, {memoryview(data).nbytes} bytes: fetch it again")
