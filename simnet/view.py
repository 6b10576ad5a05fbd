"""What the user sees while a network runs: a calm live page on a terminal, one line a round elsewhere. Both on stderr.

nocknode devnet  a1b2c3d4   round 7 of 20  ━━━━━━━━━╸──────────  1:12
loss     2.914 nats per byte   █▇▅▄▃▂▁
...
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Final, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from simnet.facts import TileFacts
from simnet.observed import Network, Peer, RoundTotals, ratio
from simnet.text import duration_text, ratio_text, size_text, sparkline

# One colour a peer, easy to tell apart on dark and on light, also for most colour-blind readers (after Okabe and Ito, 2008).
PALETTE: Final = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#b8a800", "#8c8c8c")
QUIET: Final = "bright_black"
STATE_STYLES: Final[Mapping[str, str]] = {
    "learning": "green",
    "merging": "green",
    "done": "green",
    "waiting": "default",
    "joining": "cyan",
    "booting": QUIET,
    "starting": QUIET,
    "syncing": "cyan",
    "new": QUIET,
    "stalled": "yellow",
    "silent": "yellow",
    "killed": "red",
    "paused": "yellow",
    "disk full": "yellow",
    "slow link": "yellow",
    "stopped": "yellow",
    "exited": "bold red",
    "stopping": QUIET,
}
EVENT_STYLES: Final[Mapping[str, str]] = {
    "kill": "red",
    "pause": "yellow",
    "fill-disk": "yellow",
    "slow-link": "yellow",
    "over": "green",
    "exit": "bold red",
    "restart": "green",
    "takeover": "cyan",
    "lagging": "yellow",
    "stalled": "yellow",
    "note": "default",
}
EVENTS_SHOWN: Final = 5
PEERS_SHOWN_MIN: Final = 4
LINES_BESIDE_PEERS: Final = 16  # heading, numbers, owners, events: what is left of the terminal's height is for peers


def peer_colour(index: int) -> str:
    """The colour in which a peer appears everywhere, the picture included."""
    return PALETTE[index % len(PALETTE)]


class Display(Protocol):
    """Where a run is shown."""

    def phase(self, sentence: str) -> None:
        """What happens now, before and after the rounds."""

    def update(self, network: Network, seconds: float) -> None:
        """The network as it is now."""

    def close(self) -> None:
        """Nothing more comes."""


class LiveView:
    """The live page."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase = ""
        self._network: Network | None = None
        self._seconds = 0.0
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._live.start()

    def phase(self, sentence: str) -> None:
        self._phase = sentence
        self._draw()

    def update(self, network: Network, seconds: float) -> None:
        self._network, self._seconds = network, seconds
        self._draw()

    def close(self) -> None:
        if self._live.is_started:
            self._phase = ""
            self._draw()
            self._live.stop()

    def _draw(self) -> None:
        size = self._console.size
        page = render(self._network, self._seconds, self._phase, size.width, size.height)
        self._live.update(page, refresh=True)


class LineLog:
    """One line for each phase, closed round and event."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._rounds_said = 0
        self._events_said = 0

    def phase(self, sentence: str) -> None:
        self._say(sentence)

    def update(self, network: Network, seconds: float) -> None:
        for event in network.events[self._events_said :]:
            self._say(f"{duration_text(event.seconds)}  round {event.round}: {event.text}")
        self._events_said = len(network.events)
        totals = network.totals()
        while self._rounds_said < min(len(totals), network.rounds_closed):
            entry = totals[self._rounds_said]
            newer = network.rounds_closed > self._rounds_said + 1
            if entry.val_loss is None and not newer and not network.done:
                return  # its evaluation is under way, beside the next round's learning: waited for until that one closes
            self._rounds_said += 1
            self._say(round_line(entry, self._rounds_said, network, seconds))

    def close(self) -> None:
        self._stream.flush()

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def round_line(entry: RoundTotals, ordinal: int, network: Network, seconds: float) -> str:
    """One closed round in one line."""
    loss = "loss –" if entry.val_loss is None else f"loss {entry.val_loss:.3f}"
    return (
        f"{duration_text(seconds)}  round {entry.round} ({ordinal} of {network.rounds_wanted})  {loss} nats/byte  "
        f"tiles {entry.tiles_advanced}/{entry.tiles}  {network.tokens_per_second:,.0f} tokens/s  "
        f"sent {size_text(entry.bytes_sent)} ({ratio_text(entry.round_ratio)} below raw)  "
        f"peers {len(network.live)}/{len(network.peers)}"
    )


def render(network: Network | None, seconds: float, phase: str, width: int, height: int) -> RenderableType:
    """The whole page for a terminal of this size."""
    if network is None:
        return Text(phase, style=QUIET)
    totals = network.totals()
    parts: list[RenderableType] = [_heading(network, seconds, width), _numbers(network, totals, width)]
    parts.append(_peers(network, max(PEERS_SHOWN_MIN, height - LINES_BESIDE_PEERS), width))
    if network.tiles:
        parts.append(_owners(network, width))
    events = _events(network, width)
    if events is not None:
        parts.append(events)
    if phase:
        parts.append(Text(phase, style=QUIET))
    return Padding(Group(*(Padding(part, (0, 0, 1, 0)) for part in parts[:-1]), parts[-1]), (1, 1, 0, 1))


def _heading(network: Network, seconds: float, width: int) -> RenderableType:
    done, wanted = network.rounds_closed, network.rounds_wanted
    line = Text(no_wrap=True, overflow="crop")
    line.append("nocknode devnet", style="bold")
    identity = next((peer.status.network_id for peer in network.peers if peer.status.network_id), "")
    line.append(f"  {identity[:8]}", style=QUIET)
    tail = f"  {done} of {wanted} rounds  {duration_text(seconds)}"
    room = max(10, min(60, width - 2 - len(line.plain) - len(tail) - 2))
    filled = round(room * done / wanted)
    line.append("  " + "━" * filled, style="green")
    line.append("━" * (room - filled), style=QUIET)
    line.append(tail)
    return line


def _numbers(network: Network, totals: list[RoundTotals], width: int) -> RenderableType:
    """Loss, speed and traffic, each with its past as a line of bars."""
    losses = [entry.val_loss for entry in totals]
    closed = [entry for entry in totals if entry.closed]
    known = [loss for loss in losses if loss is not None]
    sent = sum(entry.bytes_sent for entry in closed)
    raw = sum(entry.delta_float32_bytes for entry in closed)
    last = closed[-1] if closed else None
    table = Table.grid(padding=(0, 2))
    table.add_column(style=QUIET, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="crop")
    bars = max(8, width - 50)
    table.add_row(
        "loss",
        Text(f"{known[-1]:.3f} nats/byte" if known else "–", style="bold"),
        _with_bars(sparkline(losses, bars), f"from {known[0]:.2f}" if len(known) > 1 else ""),
    )
    table.add_row(
        "speed",
        f"{network.tokens_per_second:,.0f} tokens/s",
        Text(f"{sum(entry.tokens for entry in totals):,} tokens learned", style=QUIET),
    )
    table.add_row(
        "sent",
        f"{size_text(last.bytes_sent)} a round" if last else "–",
        _with_bars(
            sparkline([float(entry.bytes_sent) for entry in closed], bars),
            f"{ratio_text(ratio(raw, sent))} below raw {size_text(last.delta_float32_bytes)}" if last else "",
        ),
    )
    return table


def _with_bars(bars: str, words: str) -> Text:
    text = Text(no_wrap=True, overflow="crop")
    text.append(bars, style="green")
    text.append(("  " if bars else "") + words, style=QUIET)
    return text


def _peers(network: Network, rows_max: int, width: int) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=QUIET, show_edge=False, pad_edge=False)
    table.add_column("peer", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for heading in ("round", "loss", "tokens/s", "tiles", "sent", "rtt"):
        table.add_column(heading, justify="right", no_wrap=True)
    if width >= 110:
        table.add_column("", no_wrap=True, overflow="ellipsis", style=QUIET, max_width=width - 80)
    shown = network.peers[:rows_max]
    for peer in shown:
        cells: list[RenderableType] = [_name(peer), Text(peer.state, style=STATE_STYLES.get(peer.state, "default"))]
        cells += _facts_of(peer)
        if width >= 110:
            cells.append(peer.status.detail if peer.running and peer.answering else "")
        table.add_row(*cells)
    if len(shown) < len(network.peers):
        return Group(table, Text(f"and {len(network.peers) - len(shown)} more", style=QUIET))
    return table


def _name(peer: Peer) -> Text:
    return Text.assemble(("■ ", peer_colour(peer.index)), f"{peer.index} ", (peer.status.short, QUIET))


def _facts_of(peer: Peer) -> list[RenderableType]:
    status = peer.status
    active = peer.running and peer.answering
    cells = [
        str(status.round) if status.peer else "–",
        f"{status.val_loss:.3f}" if status.val_loss is not None else "–",
        f"{status.tokens_per_second:,.0f}" if active else "–",
        str(status.tiles_owned) if active else "–",
        size_text(peer.bytes_sent),
        f"{peer.rtt_ms:.0f} ms" if active and peer.rtt_ms is not None else "–",
    ]
    return [Text(cell, style="default" if active else QUIET) for cell in cells]


def _owners(network: Network, width: int) -> RenderableType:
    """One square a tile in its owner's colour, a line for each layer; rows of the model that do not fit are folded."""
    colours = {peer.status.short: peer_colour(peer.index) for peer in network.peers if peer.status.short}
    rows: list[tuple[str, list[TileFacts]]] = [
        (group, list(tiles)) for group, tiles in groupby(network.tiles, key=lambda tile: layer_of(tile.tile))
    ]
    label = max(len("tiles"), *(len(group) for group, _ in rows)) + 2
    room = max(8, width - 4)
    text = Text("tiles by owner", style=QUIET)
    column = room  # begin a new line at once
    for group, tiles in rows:
        needed = label + 2 * len(tiles) + 2
        if column + needed > room:
            text.append("\n")
            column = 0
        text.append(group.ljust(label), style=QUIET)
        for tile in tiles[: max(1, (room - label) // 2)]:
            text.append("■ ", style=colours.get(tile.owner or "", QUIET))
        text.append("  ")
        column += needed
    return text


def layer_of(tile: str) -> str:
    """``layer3`` of ``layer3.expert7/0``: the part of the model a tile lies in."""
    return tile.split("/", 1)[0].split(".", 1)[0]


def _events(network: Network, width: int) -> RenderableType | None:
    events = network.events[-EVENTS_SHOWN:]
    if not events:
        return None
    lines: Iterable[Text] = (
        Text.assemble(
            (f"{duration_text(event.seconds):>7}  round {event.round:<3} ", QUIET),
            (event.text, EVENT_STYLES.get(event.kind, "default")),
            no_wrap=True,
            overflow="ellipsis",
        )
        for event in events
    )
    return Group(*lines)


def open_display() -> Display:
    """The live page if stderr is a terminal, the log otherwise."""
    console = Console(stderr=True)
    return LiveView(console) if console.is_terminal and not console.is_dumb_terminal else LineLog()
