"""The files for Prometheus and Grafana are those of the tables, and ask for metrics that nodes have."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from compute.expert_caller import CallingStatistics
from compute.io.pool import WorkerStatistics
from compute.spot_checks import SpotCheckStatistics
from node import metrics
from node.alerts import RULES
from node.metrics import chain_metrics, node_metrics
from node.services.answering import AnsweringStatistics
from node.services.expert_server import ExpertStatistics
from node.services.housekeeping import StorageStatistics
from node.services.keep_audit import AuditStatistics
from storage.io.cell_store import CellStatistics
from tests.node.chain_samples import SmallChain
from tests.node.samples import STATUS
from tools.watching import PANELS, expression, files

# As node/view.py names them.
PARTS = {
    "worker": WorkerStatistics,
    "answers": AnsweringStatistics,
    "experts_called": CallingStatistics,
    "experts_checked": SpotCheckStatistics,
    "experts_served": ExpertStatistics,
    "storage": StorageStatistics,
    "cells": CellStatistics,
    "audit": AuditStatistics,
}
METRIC = re.compile(r"nocknode_\w+")


def known() -> set[str]:
    """The names of all samples that these files may ask for."""
    chain = SmallChain().view
    families = [*node_metrics(STATUS | {"val_loss": 1.0}), *chain_metrics(chain.status(), chain.members())]
    names = {sample.name for family in families for sample in family.samples}
    names |= {name for _, name, _ in (*metrics.GAUGES, *metrics.CHAIN_GAUGES)}
    return names | {
        f"nocknode_{part}_{field.name}"
        for part, statistics in PARTS.items()
        for field in dataclasses.fields(statistics)
    }


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_the_files_are_those_of_the_tables(path) -> None:
    """`python -m tools.watching` writes them again."""
    assert path.read_text() == files()[path]


@pytest.mark.parametrize("asked", [*map(expression, RULES), *(line for panel in PANELS for line in panel.lines)])
def test_every_metric_exists(asked: str) -> None:
    """A rule about nothing never fires, and nobody notices."""
    assert set(METRIC.findall(asked)) <= known()
    assert asked.count("(") == asked.count(")")


def test_the_dashboard_is_an_object_without_two_panels_in_one_place() -> None:
    """As Grafana imports it: ids and places are each panel's own."""
    (path,) = (path for path in files() if path.suffix == ".json")
    panels = json.loads(path.read_text())["panels"]
    assert (
        len({panel["id"] for panel in panels})
        == len({tuple(panel["gridPos"].items()) for panel in panels})
        == len(panels)
    )
