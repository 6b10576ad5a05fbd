"""What a host counts while it runs, and the frozen picture of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from p2p.transport import Traffic


@dataclass(slots=True)
class Counters:
    """Mutable, one per host. Frozen by `StreamHost.statistics`."""

    bytes_sent_total: int = 0
    bytes_received_total: int = 0
    topics: dict[str, Traffic] = field(default_factory=dict)
    protocols: dict[str, Traffic] = field(default_factory=dict)
    drops: Counter[str] = field(default_factory=Counter)

    def dropped(self, why: str, count: int = 1) -> None:
        """One message less than was said, and why."""
        self.drops[why] += count


def count_sent(table: dict[str, Traffic], word: str, size_bytes: int) -> None:
    """One payload more on this topic or protocol, from us."""
    old = table.get(word, Traffic())
    table[word] = Traffic(old.sent_count + 1, old.sent_bytes + size_bytes, old.received_count, old.received_bytes)


def count_received(table: dict[str, Traffic], word: str, size_bytes: int) -> None:
    """One payload more on this topic or protocol, to us."""
    old = table.get(word, Traffic())
    table[word] = Traffic(old.sent_count, old.sent_bytes, old.received_count + 1, old.received_bytes + size_bytes)
