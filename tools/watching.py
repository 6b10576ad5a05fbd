"""Files for whoever watches nodes with Prometheus and Grafana, made from the node's own tables.

    configs/prometheus/alerts.yml      node/alerts.py as rules
    configs/grafana/nocknode.json      a dashboard: import it, choose the data source

`python -m tools.watching` writes them; tests/node/test_watching.py compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from node.alerts import GROWTH_SECONDS, RULES, AlertRule

CONFIGS: Final = Path(__file__).resolve().parents[1] / "configs"
COLUMNS: Final = 24  # of Grafana's grid
WIDTH, HEIGHT = 8, 7


class Panel(NamedTuple):
    """One graph. ``lines``: expression -> what it is called."""

    title: str
    unit: str
    lines: dict[str, str]


PANELS: Final = (
    Panel("Alerts", "none", {'sum by (alertname) (ALERTS{alertstate="firing"})': "{{alertname}}"}),
    Panel("State", "none", {"nocknode_state > 0": "{{instance}} {{state}}"}),
    Panel("Validation loss", "none", {"nocknode_validation_loss_nats": "{{instance}}"}),
    Panel("Finality lag", "s", {"nocknode_finality_lag_seconds": "{{instance}}"}),
    Panel("Height", "none", {"nocknode_finalized_height": "{{instance}}"}),
    Panel(
        "Members in reach",
        "none",
        {"nocknode_reachable_members": "{{instance}}", "nocknode_quorum_members": "{{instance}} quorum"},
    ),
    Panel("Tokens learned from", "none", {"nocknode_tokens_per_second": "{{instance}}"}),
    Panel("Tiles that keep their version", "none", {"nocknode_lagging_tiles": "{{instance}} {{reason}}"}),
    Panel("Takeovers in five minutes", "none", {"increase(nocknode_takeovers_total[5m])": "{{instance}}"}),
    Panel("Sent", "Bps", {"rate(nocknode_sent_bytes_total[5m])": "{{instance}}"}),
    Panel("Received", "Bps", {"rate(nocknode_received_bytes_total[5m])": "{{instance}}"}),
    Panel("Refused in five minutes", "none", {"increase(nocknode_rejected_total[5m])": "{{instance}} {{reason}}"}),
    Panel("Answers under way", "none", {"nocknode_answers_under_way": "{{instance}}"}),
    Panel("Tokens answered, a second", "none", {"rate(nocknode_answers_tokens[5m])": "{{instance}}"}),
    Panel("Answers given up in five minutes", "none", {"delta(nocknode_answers_given_up[5m])": "{{instance}}"}),
    Panel("Calls of experts, a second", "none", {"rate(nocknode_experts_called_taken[5m])": "{{instance}}"}),
    Panel("Experts computed for peers, a second", "none", {"rate(nocknode_experts_served_served[5m])": "{{instance}}"}),
    Panel(
        "Rows computed again in five minutes",
        "none",
        {
            "delta(nocknode_experts_checked_checked[5m])": "{{instance}}",
            "delta(nocknode_experts_checked_wrong[5m])": "{{instance}} wrong",
        },
    ),
    Panel(
        "Disk",
        "bytes",
        {"nocknode_storage_used_bytes": "{{instance}}", "nocknode_storage_allowed_bytes": "{{instance}} allowed"},
    ),
    Panel("Cells kept", "bytes", {"nocknode_cells_bytes_used": "{{instance}}"}),
    Panel("Transactions that wait", "none", {"nocknode_pool_transactions": "{{instance}}"}),
)


def expression(rule: AlertRule) -> str:
    """A rule in Prometheus' language."""
    labels = "" if rule.label is None else f'{{{rule.label[0]}="{rule.label[1]}"}}'
    value = f"{rule.metric}{labels}"
    if rule.of_growth:
        value = f"delta({value}[{GROWTH_SECONDS}s])"
    limit = f"sum by (instance) ({rule.limit})" if isinstance(rule.limit, str) else f"{rule.limit:g}"
    return f"sum by (instance) ({value}) {'<' if rule.is_below else '>'} {limit}"


def rules_text() -> str:
    """The rules as YAML, each text quoted as JSON quotes it, which is YAML too."""
    lines = ["# Made by python -m tools.watching from node/alerts.py.", "groups:", "  - name: nocknode", "    rules:"]
    for rule in RULES:
        lines += [
            f"      - alert: {rule.name}",
            f"        expr: {json.dumps(expression(rule))}",
            f"        for: {rule.for_seconds}s",
            "        labels:",
            f"          severity: {rule.severity.value}",
            "        annotations:",
            f"          summary: {json.dumps(rule.says)}",
            f"          description: {json.dumps(rule.remedy)}",
        ]
    return "\n".join(lines) + "\n"


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    source = {"type": "prometheus", "uid": "${source}"}
    panels = []
    for number, panel in enumerate(PANELS):
        row, column = divmod(number, COLUMNS // WIDTH)
        panels.append(
            {
                "id": number + 1,
                "type": "timeseries",
                "title": panel.title,
                "datasource": source,
                "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
                "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
                "targets": [
                    {"refId": chr(ord("A") + at), "datasource": source, "expr": expr, "legendFormat": legend}
                    for at, (expr, legend) in enumerate(panel.lines.items())
                ],
            }
        )
    return {
        "uid": "nocknode",
        "title": "nocknode",
        "schemaVersion": 39,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": panels,
    }


def files() -> dict[Path, str]:
    """What is written where."""
    return {
        CONFIGS / "prometheus" / "alerts.yml": rules_text(),
        CONFIGS / "grafana" / "nocknode.json": json.dumps(dashboard(), indent=1) + "\n",
    }


def main() -> None:
    """Write them."""
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
