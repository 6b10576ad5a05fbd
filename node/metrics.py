"""Metrics for Prometheus, made from what the node says of itself. No core imports a metrics library.

Names are ``nocknode_<what>_<unit>``; counters end in ``_total``. A tile in which nothing was merged or decided is counted
under its reason (``nocknode_lagging_tiles``), never left out.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

STATES: Final = ("joining", "booting", "syncing", "learning", "merging", "waiting", "stalled", "done", "stopping")

# (field of the status, metric, what it counts)
GAUGES: Final = (
    ("round", "nocknode_round", "Round that is open."),
    ("height", "nocknode_finalized_height", "Height of the last finalized block."),
    ("view", "nocknode_view", "View of the finality machine."),
    ("roster", "nocknode_roster_members", "Members of the roster."),
    ("reachable", "nocknode_reachable_members", "Members of the roster that are reachable, this node included."),
    ("quorum", "nocknode_quorum_members", "Members that make a quorum."),
    ("connected", "nocknode_connected_peers", "Connected peers."),
    ("tokens_per_second", "nocknode_tokens_per_second", "Tokens that this node learns from in a second."),
    ("val_loss", "nocknode_validation_loss_nats", "Latest validation loss, nats per byte."),
    ("tiles", "nocknode_tiles", "Tiles of the model."),
    ("tiles_owned", "nocknode_owned_tiles", "Tiles for which this node is first in order."),
    ("tier", "nocknode_tier", "Capacity tier, 0 to 9."),
    ("uptime_seconds", "nocknode_uptime_seconds", "Since the node started."),
    ("verified_seconds_ago", "nocknode_verified_age_seconds", "Since something was last verified."),
    ("storage_bytes", "nocknode_storage_bytes", "Bytes kept on disk."),
)
COUNTERS: Final = (
    ("rounds", "nocknode_closed_rounds", "Rounds that closed."),
    ("tokens", "nocknode_tokens", "Tokens that this node learned from."),
    ("takeovers", "nocknode_takeovers", "Heads decided from a standby instead of the tile's primary."),
    ("bytes_sent", "nocknode_sent_bytes", "Bytes written to sockets."),
    ("bytes_received", "nocknode_received_bytes", "Bytes read from sockets."),
)

# The same for the status of the chain (``node.chain_view.ChainView.status``).
CHAIN_GAUGES: Final = (
    ("epoch", "nocknode_epoch", "Epoch of the last finalized block."),
    ("finality_lag_seconds", "nocknode_finality_lag_seconds", "Since the time of the last finalized block."),
    ("certificate_votes", "nocknode_certificate_votes", "Members whose votes are in the newest certificate."),
    ("validators", "nocknode_validators", "Registered validators."),
    ("validators_connected", "nocknode_connected_validators", "Members of the roster in reach, this node included."),
)
POOL_GAUGES: Final = (
    ("transactions", "nocknode_pool_transactions", "Transactions that wait for a block."),
    ("bytes", "nocknode_pool_bytes", "Bytes of the transactions that wait for a block."),
    ("senders", "nocknode_pool_senders", "Accounts whose transactions wait for a block."),
)


def node_metrics(status: Mapping[str, Any], statistics: Mapping[str, object] | None = None) -> Iterator[Metric]:
    """Metrics from the status (see `node.api.view`) and from the statistics of the node's parts.

    ``statistics`` maps a part's name to a frozen dataclass; each of its numbers is ``nocknode_<part>_<field>``. What the
    status does not know (None) has no sample.
    """
    yield from _gauges(GAUGES, status)
    for field, name, text in COUNTERS:
        if (value := _number(status.get(field))) is not None:
            yield CounterMetricFamily(name, text, value=value)

    info = GaugeMetricFamily(
        "nocknode_info", "Always 1; what this node is.", labels=("peer", "network", "version", "device")
    )
    info.add_metric([str(status.get(label, "")) for label in ("peer", "network", "version", "device")], 1)
    yield info

    states = GaugeMetricFamily("nocknode_state", "1 for the state that the node is in.", labels=("state",))
    for state in STATES:
        states.add_metric([state], float(status.get("state") == state))
    yield states

    lagging = GaugeMetricFamily(
        "nocknode_lagging_tiles", "Tiles that kept their version, by reason.", labels=("reason",)
    )
    for reason, count in sorted(Counter(str(entry["reason"]) for entry in status.get("lagging", ())).items()):
        lagging.add_metric([reason], count)
    yield lagging

    rejected = CounterMetricFamily("nocknode_rejected", "What was refused, by reason.", labels=("reason",))
    for code, count in sorted(dict(status.get("rejected", {})).items()):
        rejected.add_metric([code], count)
    yield rejected

    for part, values in sorted((statistics or {}).items()):
        yield from _part_metrics(part, values)


def chain_metrics(status: Mapping[str, Any], members: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    """Metrics from the chain's status and the members of its roster (``node.chain_view``), of whom there are a hundred at most.

    Money is in 10^-9 NOCK, as everywhere; as a metric it is a float, good to look at and not to count with.
    """
    yield from _gauges(CHAIN_GAUGES, status)
    yield from _gauges(POOL_GAUGES, status["pool"])
    supply = GaugeMetricFamily("nocknode_supply_nano", "Where all money is, in 10^-9 NOCK.", labels=("part",))
    for part, amount in status["supply"].items():
        supply.add_metric([part.removesuffix("_nano")], amount)
    yield supply
    connected = GaugeMetricFamily(
        "nocknode_validator_connected", "1 for a member of the roster that is in reach.", labels=("validator",)
    )
    weights = GaugeMetricFamily(
        "nocknode_validator_weight_share", "A member's share of the roster's weight.", labels=("validator",)
    )
    for member in members:
        connected.add_metric([member["short"]], float(member["connected"]))
        weights.add_metric([member["short"]], member["weight_share"])
    yield connected
    yield weights


def metrics_text(metrics: Iterable[Metric]) -> bytes:
    """Prometheus' text format."""
    return generate_latest(_Once(metrics))


class _Once(Collector):
    """What `generate_latest` asks of a registry: its metrics, once."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _gauges(table: Iterable[tuple[str, str, str]], facts: Mapping[str, Any]) -> Iterator[Metric]:
    for field, name, text in table:
        if (value := _number(facts.get(field))) is not None:
            yield GaugeMetricFamily(name, text, value=value)


def _part_metrics(part: str, values: object) -> Iterator[Metric]:
    if not dataclasses.is_dataclass(values):
        return
    for field in dataclasses.fields(values):
        if (value := _number(getattr(values, field.name))) is not None:
            yield GaugeMetricFamily(
                f"nocknode_{part}_{field.name}", f"{part}: {field.name.replace('_', ' ')}.", value=value
            )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
