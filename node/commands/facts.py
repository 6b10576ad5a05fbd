"""``nocknode status`` and ``nocknode peers``: what the running node says of itself and of others."""

from __future__ import annotations

from pathlib import Path

import click

from node.commands.options import bytes_text, console, data_dir_option, json_option, number_text, print_json, table


@click.command()
@data_dir_option
@json_option
def status(data_dir: Path, as_json: bool) -> None:
    """What the running node is doing."""
    from node.commands.client import NodeClient

    facts = NodeClient(data_dir).get("/status")
    if as_json:
        print_json(facts)
        return
    loss = facts["val_loss"]
    role = "member" if facts["member"] else "learner without a vote"
    rows = (
        ("state", f"{facts['state']}: {facts['detail']}"),
        ("peer", f"{facts['peer']} ({role})"),
        ("network", f"{facts['network']} {facts['network_id'][:16]}"),
        ("roster", f"{facts['reachable']} of {facts['roster']} reachable, quorum {facts['quorum']}"),
        ("peers", f"{facts['connected']} connected"),
        ("round", f"{facts['round'] if facts['round'] >= 0 else 'none'} open, {facts['rounds']} closed"),
        ("chain", f"height {facts['height']}, view {facts['view']}"),
        ("validation loss", "-" if loss is None else f"{loss:.3f} nats per byte"),
        ("tokens", f"{facts['tokens']:,} learned, {number_text(facts['tokens_per_second'])} a second"),
        ("tiles", f"{facts['tiles_owned']} of {facts['tiles']} owned, {facts['takeovers']} taken over"),
        ("traffic", f"{bytes_text(facts['bytes_sent'])} sent, {bytes_text(facts['bytes_received'])} received"),
        ("disk", bytes_text(facts["storage_bytes"])),
        ("device", f"{facts['device']}, tier {facts['tier']}"),
        (
            "verified",
            "never" if facts["verified_seconds_ago"] is None else f"{facts['verified_seconds_ago']:.0f} s ago",
        ),
        ("up", f"{facts['uptime_seconds']:.0f} s, version {facts['version']}"),
    )
    out = console()
    for name, text in rows:
        out.print(f"[bold]{name:<16}[/bold] {text}")
    for code, count in sorted(facts["rejected"].items()):
        out.print(f"[yellow]refused[/yellow]          {code}: {count}")
    for entry in facts["lagging"]:
        slot = f"{entry['tile']}@{entry['version']}"
        out.print(f"[yellow]lagging[/yellow]          {slot} in round {entry['round']}: {entry['reason']}")


@click.command()
@data_dir_option
@json_option
def peers(data_dir: Path, as_json: bool) -> None:
    """Whom the running node knows."""
    from node.commands.client import NodeClient

    known = NodeClient(data_dir).get("/peers")
    if as_json:
        print_json({"peers": known})
        return
    columns = ("peer", "connected", "member", ">rtt ms", ">clock ms", ">score", ">round", ">height")
    made = table("", (*columns, "device", "region", "address"))
    for peer in known:
        made.add_row(
            peer["short"],
            number_text(peer["connected"]),
            number_text(peer["member"]),
            number_text(peer["rtt_ms"]),
            number_text(peer["clock_offset_ms"]),
            number_text(peer["score"]),
            number_text(peer["round"]),
            number_text(peer["height"]),
            peer["device"] or "-",
            peer["region"] or "-",
            (peer["addresses"] or ["-"])[0].partition("/p2p/")[0],
        )
    console().print(made)
