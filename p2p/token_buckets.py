"""Token buckets, one for each of many keys:

    tokens(now) = min(burst, tokens(then) + (now - then) * per_second)

Memory is bounded: only the buckets that were used last are kept. A forgotten bucket starts full again, which is harmless
where so many others were used after it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_seconds: float


class TokenBuckets(Generic[K]):
    """Times are seconds of any clock that does not go back."""

    def __init__(self, buckets_max: int) -> None:
        self._buckets_max = buckets_max
        self._buckets: OrderedDict[K, _Bucket] = OrderedDict()

    def take(self, key: K, burst_tokens: float, tokens_per_second: float, now: float, tokens: float = 1.0) -> float:
        """Take tokens: 0 where they were there, else nothing is taken and they are there in so many seconds."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(burst_tokens, now)
            if len(self._buckets) > self._buckets_max:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
            refilled = bucket.tokens + (now - bucket.at_seconds) * tokens_per_second
            bucket.tokens = min(burst_tokens, refilled)
            bucket.at_seconds = now
        if bucket.tokens < tokens:
            return (tokens - bucket.tokens) / tokens_per_second if tokens_per_second else float("inf")
        bucket.tokens -= tokens
        return 0.0

    def left(self, key: K) -> float:
        """Tokens at the last use; infinite for a key without a bucket."""
        bucket = self._buckets.get(key)
        return bucket.tokens if bucket is not None else float("inf")

    def __len__(self) -> int:
        """Buckets in memory."""
        return len(self._buckets)
