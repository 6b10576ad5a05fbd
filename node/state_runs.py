"""One bucket that is too large for an answer, cut into runs: what is below each name in it, read without reading the rest.

The index is made by reading the bucket once: of each run of 64 entries its digest, and the row where it begins, which is a
hundredth of small entries and a ten thousandth of large ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from node.state_rows import entries_below, row_of_entry
from protocol.ids import Digest
from protocol.limits import STATE_RUN_ENTRIES
from protocol.merkle import merkle_root
from protocol.rejection import Reason, Rejected
from protocol.state_proof import entry_leaves
from protocol.state_sync import BUCKET_NAME_BYTES, Span, StateEntry, bucket_name, children_of, pack_bucket
from storage.kv import KeyValue


class BucketRuns:
    """A bucket of rows that do not change. Raises ``Rejected(NOT_FOUND)`` for one without an entry."""

    def __init__(self, rows: KeyValue, bucket: bytes) -> None:
        self._rows = rows
        self._bucket = bucket
        self._digests: list[Digest] = []
        self._starts: list[bytes] = []
        self.count = 0
        entries = entries_below(rows, bucket)
        while run := list(islice(entries, STATE_RUN_ENTRIES)):
            leaves = entry_leaves([(entry.key, entry.value) for entry in run])
            self._digests.append(merkle_root([leaf for _, leaf in leaves]))
            self._starts.append(row_of_entry(bucket, run[0].key))
            self.count += len(run)
        if not self.count:
            raise Rejected(Reason.NOT_FOUND, f"nothing is below {bucket.hex()}")

    def children(self, name: bytes) -> bytes:
        """What ``Children`` says of the bucket, or of a name in it; raises ``Rejected(MALFORMED)``."""
        span = Span.of(name, self.count)
        if span.is_run:
            raise Rejected(Reason.MALFORMED, "nothing but entries is below a run")
        children = (Span.of(child, self.count) for child in children_of(name, span.children))
        digests = [merkle_root(self._digests[_run(child.first) : _run(child.stop)]) for child in children]
        return pack_bucket(self.count, digests) if len(name) == BUCKET_NAME_BYTES else b"".join(digests)

    def entries(self, name: bytes) -> Iterator[StateEntry]:
        """The entries below a name in the bucket, in ascending order of H(key); raises ``Rejected(MALFORMED)``."""
        span = Span.of(name, self.count)
        start = self._starts[span.first // STATE_RUN_ENTRIES]
        return islice(entries_below(self._rows, bucket_name(name), start=start), span.stop - span.first)


def _run(entry: int) -> int:
    """The number of the first run that begins at or after an entry."""
    return -(-entry // STATE_RUN_ENTRIES)
