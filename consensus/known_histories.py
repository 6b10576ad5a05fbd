"""What this node knows of histories: what it walked or verified itself, and what is being walked or verified for it.

    told ends   known to be right    good at once
                known to be wrong    refused at once: other ends of a start that is known, or these ends failed before
                else                 VerifyHistory, once; the body waits for the verdict

From one start there is one history. So a proposer of wrong ends costs one verification a view, and none once the right ones
are known here; a leader that knows them asks for no walk. Few starts are remembered: one is due in an epoch, more only where
blocks at the cut compete. What was forgotten is asked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from consensus.events import HistoryVerified, HistoryWalked, VerifyHistory, WalkHistory
from protocol.ids import Digest
from protocol.rejection import check_invariant

STARTS_MAX = 16  # as many competing blocks at a cut as there may be bad leaders in a row (chain.md 2.5: 1.7e-5 for ten)
ENDS_PER_START_MAX = 64  # failed or under way: one leader's each, and finality tracks no more views ahead

Ends = tuple[Digest, ...]


@dataclass(slots=True)
class _Known:
    right: Ends | None = None
    walking: bool = False
    told: dict[Ends, bool | None] = field(default_factory=dict)  # None while it is verified


class KnownHistories:
    """Remembers; asks for each thing once."""

    def __init__(self, segment_ticks: int) -> None:
        self._segment_ticks = segment_ticks
        self._of: dict[Digest, _Known] = {}

    def find(self, start: Digest) -> Ends | None:
        """The ends of the history from ``start``, where they are known here."""
        known = self._of.get(start)
        return known.right if known else None

    def ask_walk(self, start: Digest) -> list[WalkHistory]:
        """What to do to know a history: nothing where it is known or being walked."""
        known = self._open(start)
        if known.right is not None or known.walking:
            return []
        known.walking = True
        return [WalkHistory(start, self._segment_ticks)]

    def judge(self, start: Digest, ends: Sequence[Digest]) -> bool | None:
        """Whether a told history is right; None while that is not known."""
        known = self._of.get(start)
        if known is None:
            return None
        return known.told.get(tuple(ends)) if known.right is None else known.right == tuple(ends)

    def ask_verification(self, start: Digest, ends: Sequence[Digest]) -> list[VerifyHistory]:
        """What to do to judge a told history of which nothing is known: nothing where that is being done."""
        known, told = self._open(start), tuple(ends)
        if told in known.told:
            return []
        if len(known.told) >= ENDS_PER_START_MAX:
            known.told.pop(next(iter(known.told)))
        known.told[told] = None
        return [VerifyHistory(start, told, self._segment_ticks)]

    def take(self, event: HistoryWalked | HistoryVerified) -> None:
        """An answer of the shell."""
        known = self._open(event.start)
        if isinstance(event, HistoryVerified):
            known.told[event.ends] = event.right
            right = event.ends if event.right else known.right
        else:
            known.walking = False
            right = event.ends
        check_invariant(known.right in (None, right), "from one start there is one history")
        known.right = right

    def clear(self) -> None:
        """An epoch is over, and its history told."""
        self._of.clear()

    def _open(self, start: Digest) -> _Known:
        if start not in self._of and len(self._of) >= STARTS_MAX:
            self._of.pop(next(iter(self._of)))
        return self._of.setdefault(start, _Known())
