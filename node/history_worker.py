"""A child's main program: hashes of a history, one after the other, for which Python holds its lock in any thread.

    python -m node.history_worker walk TICKS START COUNT      prints the ends of so many segments, one a line
    python -m node.history_worker check TICKS START END...    prints "right" or "wrong": whether each segment ends as it says

TICKS are those of each segment; digests are in hexadecimal. It lives for one task, so that between two epochs nothing waits in
memory, and imports next to nothing, so that it starts in a twentieth of a second.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from consensus.history import check_segment, segments_between, walk_segments
from protocol.ids import Digest
from protocol.rejection import Rejected

RIGHT: Final = "right"
WRONG: Final = "wrong"


def are_right(start: Digest, ends: Sequence[Digest], ticks: int) -> bool:
    """Whether each of these segments ends as it says; the first that does not is the last to be looked at."""
    try:
        for segment in segments_between(start, ends, ticks):
            check_segment(segment)
    except Rejected:
        return False
    return True


def main(arguments: Sequence[str]) -> str:
    """What a child prints."""
    task, ticks, start, *rest = arguments
    first = Digest(bytes.fromhex(start))
    if task == "walk":
        return "\n".join(end.hex() for end in walk_segments(first, int(ticks), int(rest[0])))
    return RIGHT if are_right(first, [Digest(bytes.fromhex(end)) for end in rest], int(ticks)) else WRONG


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1:]) + "\n")
