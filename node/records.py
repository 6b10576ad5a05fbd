"""What this node saw of each round, and its counters: what the API, the metrics and the dashboard are made of."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from consensus.events import Lagging
from protocol.ids import TileId, short
from protocol.roster import Decided

ROUNDS_KEPT = 1024  # in memory; each is about 8 KiB with its slots


@dataclass(slots=True)
class RoundRecord:
    """One round as this node saw it."""

    round: int
    opened_ms: int | None = None
    closed_ms: int | None = None
    lagging: tuple[Lagging, ...] = ()
    takeovers: int = 0
    val_loss: float | None = None
    tokens: int = 0  # of every delta in the round's decided heads, averaged over tiles
    delta_float32_bytes: int = 0  # our own deltas, uncompressed
    delta_payload_bytes: int = 0  # and as we sent them
    bytes_sent_before: int = 0
    bytes_sent_after: int | None = None
    merged_deltas: int = 0
    heads: dict[TileId, Decided] = field(default_factory=dict)

    def as_json(self, tiles_total: int, bytes_sent_now: int) -> dict[str, object]:
        """The round's object in ``GET /rounds``."""
        owners: dict[str, int] = {}
        for decided in self.heads.values():
            owner = short(decided.head.proposer)
            owners[owner] = owners.get(owner, 0) + 1
        sent_until = bytes_sent_now if self.bytes_sent_after is None else self.bytes_sent_after
        return {
            "round": self.round,
            "opened_ms": self.opened_ms,
            "closed_ms": self.closed_ms,
            "tiles_advanced": len(self.heads),
            "tiles": tiles_total,
            "lagging": [lagging_json(each) for each in self.lagging],
            "takeovers": self.takeovers,
            "val_loss": self.val_loss,
            "tokens": self.tokens // max(1, len(self.heads)),
            "delta_float32_bytes": self.delta_float32_bytes,
            "delta_payload_bytes": self.delta_payload_bytes,
            "bytes_sent": sent_until - self.bytes_sent_before if self.opened_ms is not None else 0,
            "owners": owners,
            "merged_deltas": self.merged_deltas,
        }


def lagging_json(lagging: Lagging) -> dict[str, object]:
    """A slot that was not decided, for people and programs."""
    return {
        "tile": lagging.slot.tile,
        "version": lagging.slot.version,
        "round": lagging.round,
        "reason": lagging.reason,
    }


class Records:
    """The rounds, newest last, bounded."""

    def __init__(self) -> None:
        self._rounds: OrderedDict[int, RoundRecord] = OrderedDict()

    def of(self, number: int) -> RoundRecord:
        """The record of a round, made when it is first asked for."""
        record = self._rounds.get(number)
        if record is None:
            record = self._rounds[number] = RoundRecord(number)
            if len(self._rounds) > ROUNDS_KEPT:
                self._rounds.popitem(last=False)
        return record

    def find(self, number: int) -> RoundRecord | None:
        return self._rounds.get(number)

    def all(self) -> list[RoundRecord]:
        return [self._rounds[number] for number in sorted(self._rounds)]

    def decide(self, decided: Decided) -> None:
        """A head became final."""
        record = self.of(decided.head.round)
        record.heads[decided.slot.tile] = decided
        record.takeovers += decided.head.attempt > 0
        record.tokens += decided.head.tokens
        record.merged_deltas += decided.head.learners

    def latest_loss(self) -> float | None:
        """The newest validation loss."""
        return next((r.val_loss for r in reversed(self.all()) if r.val_loss is not None), None)
