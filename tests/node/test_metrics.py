"""Metrics: what the status says, in Prometheus' words."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from node.metrics import COUNTERS, GAUGES, STATES, metrics_text, node_metrics
from tests.node.samples import STATUS, PartStatistics


def samples(status, statistics=None):
    text = metrics_text(node_metrics(status, statistics)).decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_number_of_the_status_is_a_metric():
    """Gauges and counters carry the values of the status; units end their names."""
    found = samples(STATUS)
    for field, name, _ in GAUGES:
        assert found[(name,)] == STATUS[field]
    for field, name, _ in COUNTERS:
        assert found[(f"{name}_total",)] == STATUS[field]


def test_a_lagging_tile_is_counted_under_its_reason():
    """A slot in which nothing was decided is never a silent success."""
    found = samples(STATUS)
    assert found[("nocknode_lagging_tiles", ("reason", "no delta came"))] == 1
    assert found[("nocknode_rejected_total", ("reason", "stale_base"))] == 3


def test_the_state_is_one_of_a_closed_list():
    """Exactly one state is 1."""
    found = samples(STATUS)
    assert [state for state in STATES if found[("nocknode_state", ("state", state))] == 1] == ["learning"]


def test_what_is_not_known_has_no_sample():
    """A loss that was not measured yet is absent, not zero."""
    assert ("nocknode_validation_loss_nats",) not in samples({**STATUS, "val_loss": None})


def test_parts_tell_their_own_numbers():
    """The numeric fields of a part's statistics are gauges under its name."""
    found = samples(STATUS, {"worker": PartStatistics()})
    assert found[("nocknode_worker_jobs_done",)] == 5
    assert ("nocknode_worker_name",) not in found
