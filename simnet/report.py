"""What a run leaves: the facts as one object, a picture, and a summary for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from simnet.observed import Agreement, Network, RoundTotals, ratio
from simnet.options import FaultKind, Settings
from simnet.text import count_text, duration_text, ratio_text, size_text
from simnet.view import EVENT_STYLES, peer_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Verdicts = Mapping[int, Mapping[str, object]]

EVENT_COLOURS: Final = {
    "kill": "#c0392b",
    "pause": "#8e44ad",
    "fill-disk": "#a04000",
    "slow-link": "#1f618d",
    "restart": "#2e8b57",
    "over": "#2e8b57",
    "exit": "#7b241c",
    "stalled": "#b7950b",
}
FAULT_EVENTS: Final = frozenset({*FaultKind, "restart", "over"})  # what we did, as opposed to what came of it
GREY: Final = "#666666"
DPI: Final = 120
EVENT_OFFSETS: Final = {"restart": -0.3, "over": 0.35}  # at the opening of a round, and after what hits in its middle
LABEL_ROWS: Final = 6  # words below these would lie on the curve
CHARACTER_WIDTH: Final = 0.0085  # of these words, as a part of the picture's width


def facts_of_run(
    network: Network,
    agreement: Agreement,
    settings: Settings,
    seconds: float,
    finished: bool,
    verdicts: Verdicts | None,
) -> dict[str, object]:
    """What ``--json`` prints last, and ``report.json`` begins with. Sums are over all peers, killed ones included."""
    totals = [entry for entry in network.totals() if entry.closed]
    raw = sum(entry.delta_float32_bytes for entry in totals)
    rejected: Counter[str] = sum((peer.rejected for peer in network.peers), Counter())
    return {
        "peers": len(network.peers),
        "rounds": len(totals),
        "tokens": sum(entry.tokens for entry in totals),
        "val_loss": [entry.val_loss for entry in totals],
        "tiles": max((entry.tiles for entry in totals), default=len(network.tiles)),
        "tiles_advanced": [entry.tiles_advanced for entry in totals],
        "roots_agree": agreement.roots_agree,
        "rounds_agreed": len(agreement.rounds_agreed),
        "delta_ratio": ratio(raw, sum(entry.delta_payload_bytes for entry in totals)),
        "round_ratio": ratio(raw, sum(entry.bytes_sent for entry in totals)),
        "bytes_sent": {f"peer-{peer.index}": peer.bytes_sent for peer in network.peers},
        "takeovers": sum(entry.takeovers for entry in totals),
        "lagging": [
            {"round": entry.round, "tile": slot.tile, "version": slot.version, "reason": slot.reason}
            for entry in totals
            for slot in entry.lagging
        ],
        "rejected": dict(sorted(rejected.items())),
        "seconds": round(seconds, 1),
        "out": str(settings.out),
        "network_id": next((peer.status.network_id for peer in network.peers if peer.status.network_id), ""),
        "finished": finished,
        "dissent": agreement.dissent,
        "faults": [
            {"round": event.round, "seconds": round(event.seconds, 1), "what": event.text}
            for event in network.events
            if event.kind in FAULT_EVENTS
        ],
        "ended": [event.text for event in network.events if event.kind == "exit"],
        "verify": None if verdicts is None else {f"peer-{peer}": dict(said) for peer, said in sorted(verdicts.items())},
    }


def passed(run: Mapping[str, Any]) -> bool:
    """Whether the network did what it was started for: finished, agreed, verified, and no node ended by itself."""
    verified = run["verify"] is None or all(said["ok"] for said in run["verify"].values())
    return bool(run["finished"] and run["roots_agree"] and verified and not run["ended"])


def write_json(path: Path, run: Mapping[str, object], network: Network) -> None:
    """``report.json``: the facts, and the rounds and events behind them."""
    story = {
        **run,
        "by_round": [{**asdict(entry), "lagging": [slot.tile for slot in entry.lagging]} for entry in network.totals()],
        "events": [asdict(event) for event in network.events],
    }
    path.write_text(json.dumps(story, indent=1) + "\n", encoding="utf-8")


def summary(run: Mapping[str, Any], network: Network, settings: Settings) -> str:
    """The end of a run for people."""
    losses = [loss for loss in run["val_loss"] if loss is not None]
    advanced, possible = sum(run["tiles_advanced"]), run["tiles"] * run["rounds"]
    agree = "every node holds the same for every tile" if run["roots_agree"] else f"THE ROOTS DIFFER: {run['dissent']}"
    lines = [
        f"{run['peers']} nodes, {run['rounds']} rounds in {duration_text(run['seconds'])}, {run['tokens']:,} tokens",
        f"  loss       {losses[0]:.3f} → {losses[-1]:.3f} nats per byte (validation)"
        if losses
        else "  loss       not measured",
        f"  tiles      {advanced:,} of {possible:,} advanced; {run['takeovers']} taken over from a silent owner",
        f"  roots      {agree}; {run['rounds_agreed']} of {run['rounds']} rounds ended so",
        f"  traffic    {size_text(sum(run['bytes_sent'].values()))} sent in all; deltas {ratio_text(run['delta_ratio'])} below"
        f" float32, whole rounds {ratio_text(run['round_ratio'])}",
    ]
    if run["lagging"]:
        worst = Counter(slot["reason"] or "no reason given" for slot in run["lagging"]).most_common(3)
        lines.append("  lagging    " + "; ".join(f"{count_text(count, 'slot')}: {reason}" for reason, count in worst))
    if run["rejected"]:
        lines.append("  rejected   " + ", ".join(f"{code} {count}" for code, count in run["rejected"].items()))
    if run["verify"] is not None:
        bad = {peer: said["error"] for peer, said in run["verify"].items() if not said["ok"]}
        lines.append(
            "  verified   " + ("; ".join(f"{peer} FAILED: {error}" for peer, error in bad.items()))
            if bad
            else "  verified   every root derived again from genesis and updates, on every node"
        )
    lines += [f"  ended      {text}" for text in run["ended"]]
    if not run["finished"]:
        lines.append(f"  unfinished {network.why_unfinished()}")
    directory = settings.data_directory(0)
    lines += ["", f"Picture and facts: {settings.out / 'report.png'}, {settings.out / 'report.json'}"]
    chat = f'nocknode chat --data-dir {directory} "def main"'
    if settings.keep:
        lines += ["The nodes are still running (Ctrl-C stops them). Talk to the model:", f"  {chat}"]
    else:
        lines += ["Talk to the model: start one node again, then chat from another terminal:"]
        lines += [f"  nocknode start --data-dir {directory}", f"  {chat}"]
    return "\n".join(lines)


def draw(path: Path, network: Network) -> None:
    """``report.png``: loss, traffic against raw deltas, and tiles by owner, over the rounds, with what happened marked."""
    import matplotlib  # half a second and a hundred modules: only who draws pays

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    totals = [entry for entry in network.totals() if entry.closed]
    style: dict[Any, Any] = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.axisbelow": True,
        "legend.frameon": False,
    }
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(3, 1, figsize=(9, 10), sharex=True, height_ratios=(5, 4, 4))
        loss, traffic, owners = axes
        _draw_loss(loss, totals)
        _draw_traffic(traffic, totals)
        _draw_owners(owners, totals, network)
        _mark_events(axes, network, totals)
        owners.set_xlabel("round")
        owners.xaxis.set_major_locator(MaxNLocator(integer=True))
        if totals:
            owners.set_xlim(totals[0].round - 0.6, totals[-1].round + 0.6)
        figure.suptitle(
            f"{len(network.peers)} nodes on one machine, {len(totals)} rounds",
            x=0.02,
            ha="left",
            fontsize=13,
            weight="bold",
        )
        figure.align_ylabels(axes)
        figure.tight_layout(rect=(0, 0, 1, 0.985))
        figure.savefig(path, dpi=DPI)
        pyplot.close(figure)


def _draw_loss(axes: Axes, totals: list[RoundTotals]) -> None:
    points = [(entry.round, entry.val_loss) for entry in totals if entry.val_loss is not None]
    axes.set_title("Validation loss after each round", pad=14)
    axes.set_ylabel("nats per byte")
    axes.grid(axis="y", alpha=0.3)
    if not points:
        return
    axes.plot(*zip(*points, strict=True), color="#222222", marker="o", markersize=4, linewidth=1.8)
    for (number, value), side in ((points[0], "left"), (points[-1], "right")):
        axes.annotate(
            f"{value:.2f}", (number, value), textcoords="offset points", xytext=(0, 8), ha=side, weight="bold"
        )
    axes.margins(y=0.15)


def _draw_traffic(axes: Axes, totals: list[RoundTotals]) -> None:
    """Lines, not bars: on a logarithmic axis the area of a bar means nothing."""
    from matplotlib.ticker import FuncFormatter

    axes.set_title("Traffic of a round, all nodes together, against its raw deltas", pad=14)
    axes.set_ylabel("megabytes (log scale)")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y", which="both", alpha=0.25)
    raw = sum(entry.delta_float32_bytes for entry in totals)
    series = (
        ("raw deltas as float32", "#8c8c8c", [entry.delta_float32_bytes for entry in totals]),
        ("every byte sent", "#e69f00", [entry.bytes_sent for entry in totals]),
        ("of which deltas to owners", "#0072b2", [entry.delta_payload_bytes for entry in totals]),
    )
    for label, colour, values in series:
        points = [(entry.round, value / 1e6) for entry, value in zip(totals, values, strict=True) if value]
        if points:
            below = "" if sum(values) == raw else f" ({ratio_text(ratio(raw, sum(values)))} less)"
            axes.plot(
                *zip(*points, strict=True), color=colour, marker="o", markersize=4, linewidth=1.8, label=label + below
            )
    if axes.get_lines():
        axes.margins(y=0.12)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)


def _draw_owners(axes: Axes, totals: list[RoundTotals], network: Network) -> None:
    axes.set_title("Tiles by owner; below the line: slots that did not advance", pad=14)
    axes.set_ylabel("tiles")
    rounds = [entry.round for entry in totals]
    below = [0] * len(totals)
    for peer in network.peers:
        counts = [entry.owners.get(peer.status.short, 0) for entry in totals]
        axes.bar(rounds, counts, bottom=below, width=0.8, color=peer_colour(peer.index), label=peer.name)
        below = [under + count for under, count in zip(below, counts, strict=True)]
    missed = [entry.tiles_advanced - entry.tiles for entry in totals]
    if any(missed):
        axes.bar(rounds, missed, width=0.8, color="#c0392b", label="did not advance")
    axes.axhline(0, color=GREY, linewidth=0.8)
    if totals:
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=min(6, len(network.peers) + bool(any(missed)))
        )


def _mark_events(panels: Any, network: Network, totals: list[RoundTotals]) -> None:
    """A thin line at each fault, its end, and each end of a node, through all panels; words in the first, where they fit."""
    numbers = {entry.round for entry in totals}
    words: dict[tuple[int, str], list[str]] = {}
    for event in network.events:
        if event.kind in EVENT_COLOURS and event.kind in EVENT_STYLES and event.round in numbers:
            words.setdefault((event.round, event.kind), []).append(event.text)
    said_at: list[tuple[float, str, str]] = []
    for (number, kind), texts in words.items():
        place = number + EVENT_OFFSETS.get(kind, 0.15)
        for axes in panels:
            axes.axvline(place, color=EVENT_COLOURS[kind], linewidth=1, linestyle=(0, (3, 3)), zorder=3)
        said = sorted({text.split(" (")[0].split(":")[0] for text in texts})
        said_at.append((place, said[0] if len(said) == 1 else f"{len(said)} × {kind}", kind))
    said_at = [entry for entry in sorted(said_at) if entry[2] != "over"]  # its line is enough
    width = (max(numbers) - min(numbers) + 1.2) * CHARACTER_WIDTH if numbers else 0.0
    for (place, text, kind), row in zip(
        said_at, rows_of([(at, len(said) * width) for at, said, _ in said_at]), strict=True
    ):
        if row < LABEL_ROWS:  # else the line says when, and report.json says what
            panels[0].annotate(
                text,
                (place, 0.98 - 0.07 * row),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                xytext=(4, 0),
                color=EVENT_COLOURS[kind],
                fontsize=8,
                va="top",
            )


def rows_of(labels: Sequence[tuple[float, float]]) -> list[int]:
    """For labels of (place, width), by place: the first row in which each meets none before it."""
    ends: list[float] = []
    rows = []
    for place, width in labels:
        row = next((row for row, end in enumerate(ends) if end <= place), len(ends))
        ends[row : row + 1] = [place + width]
        rows.append(row)
    return rows
