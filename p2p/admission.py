"""Admission: what is refused before a single byte of it is decoded.

Three questions in the order of their cost: is the peer banned, is the message larger than its word allows, does the peer
say this word more often than allowed. A word is a topic's name or a protocol id; each (peer, word) has a token bucket
(`p2p/token_buckets.py`). Memory is bounded: bans too are kept for those of the last only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from p2p.token_buckets import TokenBuckets
from protocol.ids import PeerId
from protocol.rejection import Reason, Rejected

BUCKETS_MAX: Final = 16_384  # about 200 bytes each: 3 MB; a thousand peers times sixteen words
BANS_MAX: Final = 4_096


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much of one word one peer may say."""

    message_bytes_max: int
    burst_tokens: float
    tokens_per_second: float


class Admission:
    """The doorkeeper of one host. Times are seconds of any clock that does not go back."""

    def __init__(self, buckets_max: int = BUCKETS_MAX, bans_max: int = BANS_MAX) -> None:
        self._bans_max = bans_max
        self._buckets = TokenBuckets[tuple[PeerId, str]](buckets_max)
        self._banned_until: OrderedDict[PeerId, float] = OrderedDict()

    def check(
        self, peer: PeerId, word: str, allowance: Allowance, size_bytes: int, now: float, tokens: float = 1.0
    ) -> None:
        """Let one message in and count it. `Rejected` with BANNED, TOO_LARGE or OVER_BUDGET otherwise, uncounted."""
        if self.is_banned(peer, now):
            raise Rejected(Reason.BANNED)
        if size_bytes > allowance.message_bytes_max:
            raise Rejected(Reason.TOO_LARGE, f"{word}: {size_bytes} bytes, at most {allowance.message_bytes_max}")
        if self._buckets.take((peer, word), allowance.burst_tokens, allowance.tokens_per_second, now, tokens):
            raise Rejected(Reason.OVER_BUDGET, word)

    def ban(self, peer: PeerId, until_seconds: float) -> None:
        """Refuse everything of a peer until then; a longer ban is never shortened."""
        self._banned_until[peer] = max(until_seconds, self._banned_until.get(peer, until_seconds))
        self._banned_until.move_to_end(peer)
        if len(self._banned_until) > self._bans_max:
            self._banned_until.popitem(last=False)

    def is_banned(self, peer: PeerId, now: float) -> bool:
        """Whether a ban is running; a ban that has ended is forgotten."""
        until = self._banned_until.get(peer)
        if until is None:
            return False
        if now >= until:
            del self._banned_until[peer]
            return False
        return True

    def __len__(self) -> int:
        """Buckets in memory."""
        return len(self._buckets)
