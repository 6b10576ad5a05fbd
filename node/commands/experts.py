"""``nocknode experts``: what experts the model has, who computes them for this node, and what was found of their answers."""

from __future__ import annotations

from pathlib import Path

import click

from node.commands.options import bytes_text, console, data_dir_option, json_option, number_text, print_json, table


@click.command()
@data_dir_option
@json_option
def experts(data_dir: Path, as_json: bool) -> None:
    """The model's experts, and who computes them for the running node."""
    from node.commands.client import NodeClient

    client = NodeClient(data_dir)
    known, calls = client.get("/experts"), client.get("/experts/calls")
    if as_json:
        print_json({"experts": known, "calls": calls})
        return
    out = console()
    made = table("", ("expert", ">tiles", ">bytes", ">version"))
    for expert in known:
        versions = {expert["version_min"], expert["version_max"]}
        version = "-" if None in versions else " to ".join(map(str, sorted(versions)))
        made.add_row(expert["expert"], number_text(expert["tiles"]), bytes_text(expert["bytes"]), version)
    out.print(made)
    served = calls["served"]
    out.print(f"[bold]for peers[/bold]        {served['served']:,} calls, {bytes_text(served['given_bytes'])} given")
    if calls["called"] is None:
        return
    called, checks = calls["called"], calls["checks"]
    out.print(
        f"[bold]by peers[/bold]         {called['taken']:,} calls, {called['hedges']:,} of them asked twice, "
        f"{called['failovers']:,} asked again, {called['given_up']:,} given up"
    )
    out.print(
        f"[bold]computed again[/bold]   {checks['checked']:,} of {checks['answers']:,} answers, {checks['wrong']:,} wrong"
    )
    holders = table("", ("holder", "here", ">answers", ">checked", ">wrong", ">off, millionths", ">quarantine s"))
    for holder in calls["holders"]:
        quarantined = holder["quarantined_seconds"]
        holders.add_row(
            holder["short"],
            number_text(holder["able"]),
            number_text(holder["answers"]),
            number_text(holder["checked"]),
            number_text(holder["wrong"]),
            number_text(holder["deviation_micro_max"]),
            "-" if quarantined is None else f"{quarantined:.0f}",
        )
    out.print(holders)
