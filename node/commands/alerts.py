"""``nocknode alerts``: what deserves somebody's attention now."""

from __future__ import annotations

from pathlib import Path

import click

from node.commands.options import console, data_dir_option, instant_text, json_option, print_json

_STYLES = {"critical": "[red]critical[/red]", "warning": "[yellow]warning[/yellow] "}


@click.command()
@data_dir_option
@json_option
def alerts(data_dir: Path, as_json: bool) -> None:
    """What deserves attention now, and what to do about it. The exit code is 1 where something is critical."""
    from node.commands.client import NodeClient

    facts = NodeClient(data_dir).get("/alerts")
    if as_json:
        print_json(facts)
    elif not facts["alerts"]:
        console().print("Nothing deserves attention.")
    else:
        out = console()
        for alert in facts["alerts"]:
            out.print(f"{_STYLES[alert['severity']]} since {instant_text(alert['since_ms'])}  ", end="")
            out.print(f"{alert['says']} {alert['remedy']}", markup=False)
    if any(alert["severity"] == "critical" for alert in facts["alerts"]):
        raise click.exceptions.Exit(1)
