"""What deserves somebody's attention: one table, at which the node itself looks, and of which Prometheus' rules are made.

    metric > limit                     for so many seconds, without a break
    metric < another metric            the same
    growth of metric in 300 s > 0      what counts up and should not

The node looks so that nobody needs a Prometheus to be told (`node/services/alerting.py`); the rules are in
configs/prometheus/alerts.yml (`python -m tools.watching` writes it again).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

GROWTH_SECONDS: Final = 300
VERIFIED_SECONDS_MAX: Final = 60.0  # thirty idle blocks (a guess)


class Severity(enum.Enum):
    """How soon somebody should look."""

    WARNING = "warning"  # today
    CRITICAL = "critical"  # now: the node or its network does nothing useful


@dataclass(frozen=True, slots=True)
class AlertRule:
    """One thing that is to be noticed. ``limit``: a number, or the name of another metric.

    ``is_below``: it is noticed below the limit, else above. ``label``: of the samples that count; all of a metric are added up.
    ``of_growth``: not the value is meant, but by how much it grew in ``GROWTH_SECONDS``.
    """

    name: str
    severity: Severity
    metric: str
    limit: float | str
    for_seconds: int
    says: str
    remedy: str
    is_below: bool = False
    label: tuple[str, str] | None = None
    of_growth: bool = False


RULES: Final = (
    AlertRule(
        "NothingVerified",
        Severity.CRITICAL,
        "nocknode_verified_age_seconds",
        VERIFIED_SECONDS_MAX,
        0,
        "Nothing was verified for a minute.",
        "See nocknode doctor: whether the node is connected and the chain goes on.",
    ),
    AlertRule(
        "FinalityStands",
        Severity.CRITICAL,
        "nocknode_finality_lag_seconds",
        60,
        60,
        "No block became final for a minute.",
        "See nocknode validators: more than two thirds of the weight must be connected.",
    ),
    AlertRule(
        "NoQuorum",
        Severity.CRITICAL,
        "nocknode_reachable_members",
        "nocknode_quorum_members",
        30,
        "Fewer members are in reach than make a quorum.",
        "See nocknode validators, and whether this machine's network and clock are in order.",
        is_below=True,
    ),
    AlertRule(
        "Alone",
        Severity.WARNING,
        "nocknode_connected_peers",
        1,
        60,
        "No peer is connected.",
        "Give the address of one that runs: nocknode start --bootstrap ADDRESS.",
        is_below=True,
    ),
    AlertRule(
        "Stalled",
        Severity.CRITICAL,
        "nocknode_state",
        0,
        30,
        "Learning stands.",
        "See nocknode status: it says why.",
        label=("state", "stalled"),
    ),
    AlertRule(
        "TilesLag",
        Severity.WARNING,
        "nocknode_lagging_tiles",
        0,
        600,
        "Some tiles have kept their version for ten minutes.",
        "See nocknode status: it names them with their reasons.",
    ),
    AlertRule(
        "DiskFull",
        Severity.CRITICAL,
        "nocknode_storage_refused",
        0,
        0,
        "There is no room on the disk for another round.",
        "Free some, or raise storage.storage_bytes_max in config.toml.",
    ),
    AlertRule(
        "AnswersGivenUp",
        Severity.WARNING,
        "nocknode_answers_given_up",
        0,
        0,
        "Answers were given up in the last five minutes.",
        "See nocknode experts: who computes them; and the log, which says why.",
        of_growth=True,
    ),
    AlertRule(
        "WrongRows",
        Severity.WARNING,
        "nocknode_experts_checked_wrong",
        0,
        0,
        "A peer gave wrong rows of an expert in the last five minutes.",
        "Nothing has to be done: it is in quarantine. See nocknode experts.",
        of_growth=True,
    ),
    AlertRule(
        "KeptCellsMissing",
        Severity.WARNING,
        "nocknode_audit_audits_failed",
        0,
        0,
        "Peers did not show cells that they are to keep.",
        "See nocknode kept: who they are. What is lost is made again by itself.",
        of_growth=True,
    ),
    AlertRule(
        "CellsCorrupt",
        Severity.WARNING,
        "nocknode_cells_corrupt_count",
        0,
        0,
        "Cells on this machine's disk were found changed.",
        "Look at the disk's own diagnosis: it may be failing.",
        of_growth=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Firing:
    """An alert that lasts."""

    rule: AlertRule
    since_ms: int

    def facts(self) -> dict[str, Any]:
        """alert, severity, since_ms, says, remedy."""
        rule = self.rule
        return {
            "alert": rule.name,
            "severity": rule.severity.value,
            "since_ms": self.since_ms,
            "says": rule.says,
            "remedy": rule.remedy,
        }


@dataclass(slots=True)
class _Watched:
    """What is remembered of a rule. ``history``: (ms, value) of the last ``GROWTH_SECONDS``, oldest first."""

    rule: AlertRule
    since_ms: int | None = None  # the condition holds without a break
    history: deque[tuple[int, float]] = field(default_factory=deque)

    def grown(self, value: float, now_ms: int) -> float:
        history = self.history
        if history and value < history[-1][1]:  # it counts from the start again
            history.clear()
        history.append((now_ms, value))
        while len(history) > 1 and history[1][0] <= now_ms - 1000 * GROWTH_SECONDS:
            history.popleft()
        return value - history[0][1]


def _total(samples: Sequence[Sample], metric: str, label: tuple[str, str] | None = None) -> float | None:
    """All samples of a metric, or those with the label, added up; None where there is none."""
    values = [
        sample.value
        for sample in samples
        if sample.name == metric and (label is None or sample.labels.get(label[0]) == label[1])
    ]
    return sum(values) if values else None


class Alerts:
    """The alerts of one node. Pure: metrics and the time in, what changed out."""

    def __init__(self, rules: Sequence[AlertRule] = RULES) -> None:
        self._watched = [_Watched(rule) for rule in rules]
        self._firing: dict[str, Firing] = {}

    def firing(self) -> list[Firing]:
        """The worst first, then in the order of the table."""
        return sorted(self._firing.values(), key=lambda each: each.rule.severity is Severity.WARNING)

    def observe(self, metrics: Iterable[Metric], now_ms: int) -> tuple[list[Firing], list[Firing]]:
        """Which alerts began, and which ended. A metric that is not there says nothing."""
        samples = [sample for metric in metrics for sample in metric.samples]
        began, ended = [], []
        for watched in self._watched:
            rule = watched.rule
            if not self._holds(watched, samples, now_ms):
                watched.since_ms = None
                if rule.name in self._firing:
                    ended.append(self._firing.pop(rule.name))
                continue
            since_ms = watched.since_ms = now_ms if watched.since_ms is None else watched.since_ms
            if rule.name not in self._firing and now_ms - since_ms >= 1000 * rule.for_seconds:
                self._firing[rule.name] = Firing(rule, since_ms)
                began.append(self._firing[rule.name])
        return began, ended

    @staticmethod
    def _holds(watched: _Watched, samples: Sequence[Sample], now_ms: int) -> bool:
        rule = watched.rule
        value = _total(samples, rule.metric, rule.label)
        limit = _total(samples, rule.limit) if isinstance(rule.limit, str) else rule.limit
        if value is None or limit is None:
            return False
        if rule.of_growth:
            value = watched.grown(value, now_ms)
        return value < limit if rule.is_below else value > limit
