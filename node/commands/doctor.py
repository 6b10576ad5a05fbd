"""``nocknode doctor``: print what is wrong, and what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from node.commands.options import console, data_dir_option, json_option, print_json

_STYLES = {"good": "[green]good[/green]   ", "warning": "[yellow]warning[/yellow]", "bad": "[red]bad[/red]    "}


@click.command()
@data_dir_option
@json_option
def doctor(data_dir: Path, as_json: bool) -> None:
    """Say what is wrong with this machine or data directory, and what to do. Exit code 2 if something is bad."""
    from node.doctor import Finding, Grade, examine

    findings = [*examine(data_dir)]
    if (data_dir / "api.json").exists():
        findings += [
            Finding("health", Grade.GOOD if is_healthy else Grade.BAD, sentence)
            for is_healthy, sentence in _ask_health(data_dir)
        ]
        findings += [
            Finding(
                "alert", Grade.BAD if alert["severity"] == "critical" else Grade.WARNING, alert["says"], alert["remedy"]
            )
            for alert in _ask_alerts(data_dir)
        ]
    bad = [finding for finding in findings if finding.grade is Grade.BAD]
    if as_json:
        rows = [
            {
                "subject": finding.subject,
                "grade": finding.grade.value,
                "sentence": finding.sentence,
                "remedy": finding.remedy,
            }
            for finding in findings
        ]
        print_json({"ok": not bad, "findings": rows})
    else:
        out = console()
        for finding in findings:
            text = f"{finding.sentence} {finding.remedy}".rstrip()
            out.print(f"{_STYLES[finding.grade.value]} {finding.subject:<10} ", end="")
            out.print(text, markup=False)
    sys.exit(2 if bad else 0)


def _ask_alerts(data_dir: Path) -> list[dict[str, str]]:
    """What the running node says deserves attention; whether it answers is said by its health."""
    from node.commands.client import NodeClient
    from node.errors import CommandFailed

    try:
        alerts: list[dict[str, str]] = NodeClient(data_dir).get("/alerts")["alerts"]
    except CommandFailed:
        return []
    return alerts


def _ask_health(data_dir: Path) -> list[tuple[bool, str]]:
    """What the running node says of its health."""
    from node.commands.client import NodeClient
    from node.errors import CommandFailed

    try:
        facts = NodeClient(data_dir).get("/health")
    except CommandFailed as error:
        return [(False, f"{error}.")]
    if facts["healthy"]:
        return [(True, "The node verified something recently.")]
    return [(False, reason) for reason in facts["reasons"] or ["The node verified nothing recently."]]
