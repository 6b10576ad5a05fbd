"""Who owned which tile when: a row for each tile that moved, a piece for each owner."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from simnet.charts import Piece, Times, strip
from simnet.markup import Markup, clip
from simnet.outcome import OwnerMove
from simnet.page.figures import figure, legend_of, square
from simnet.page.style import COLOURS
from simnet.page.words import NAME_MAX
from simnet.text import count_text, duration_text

TILES_MAX: Final = 32  # rows of the strip of owners
PIECES_MAX: Final = 400  # of that strip


def draw_owners(moves: Sequence[OwnerMove], times: Times) -> Markup:
    """A row for each tile that moved, a piece for each owner. Six owners have a colour; others alternate in grey."""
    if not moves:
        return Markup("")
    by_tile: defaultdict[str, list[OwnerMove]] = defaultdict(list)
    for move in sorted(moves, key=lambda move: move.seconds):
        by_tile[move.tile].append(move)
    restless = sorted(by_tile, key=lambda tile: (-len(by_tile[tile]), _natural(tile)))[:TILES_MAX]
    room = max(4, PIECES_MAX // len(restless))
    held = {tile: _held(by_tile[tile], times, room) for tile in sorted(restless, key=_natural)}
    seconds: Counter[str] = Counter()
    for pieces in held.values():
        for begins, ends, owner in pieces:
            seconds[owner] += int(1000 * (ends - begins))
    coloured = sorted(seconds, key=lambda owner: (-seconds[owner], owner))[: COLOURS - 1]
    class_of = {owner: f"c{index}" for index, owner in enumerate(coloured, 1)}
    rows = []
    for tile, pieces in held.items():
        drawn = [
            Piece(begins, ends, class_of.get(owner, f"other-{1 + index % 2}"),
                  f"{clip(tile, NAME_MAX)}: {clip(owner, NAME_MAX)} from {duration_text(begins)} to {duration_text(ends)}")
            for index, (begins, ends, owner) in enumerate(pieces)
        ]  # fmt: skip
        rows.append((_tile_label(tile), drawn))
    owners = {name for move in moves for name in (move.before, move.after)}
    left_out = len(by_tile) - len(rows)
    says = (
        f"{count_text(len(moves), 'move')} of {count_text(len(by_tile), 'tile')} between {count_text(len(owners), 'owner')}."
        + (f" The {len(rows)} tiles that moved most are shown." if left_out else "")
    )
    entries = [(clip(owner, NAME_MAX), square(class_of[owner])) for owner in coloured]
    if len(seconds) > len(coloured):
        entries.append((count_text(len(seconds) - len(coloured), "other"), square("other-2")))
    drawing = strip(times, rows, name="owners", title="Owner of each tile that moved", description=says)
    return figure("Owners of tiles", says, drawing, legend_of(*entries), class_="strip")


def _held(moves: Sequence[OwnerMove], times: Times, room: int) -> list[tuple[float, float, str]]:
    """From when to when who had the tile; of moves too close to be told apart only the last is kept."""
    last_in: dict[int, OwnerMove] = {}
    for move in moves:
        last_in[int(times.share(move.seconds) * room)] = move
    kept = [last_in[place] for place in sorted(last_in)]
    edges = [0.0, *(move.seconds for move in kept), times.seconds]
    owners = [moves[0].before, *(move.after for move in kept)]
    spans = zip(pairwise(edges), owners, strict=True)
    return [(begins, ends, owner) for (begins, ends), owner in spans if ends > begins]


def _tile_label(tile: str) -> str:
    """``L3.E7/0`` of ``layer3.expert7/0``: what fits beside the strip."""
    short = re.sub(r"\blayer(?=\d)", "L", re.sub(r"\bexpert(?=\d)", "E", tile))
    return short if len(short) <= 10 else f"…{short[-9:]}"


def _natural(text: str) -> tuple[tuple[int, str], ...]:
    """So that ``layer2`` is before ``layer10``."""
    return tuple(
        (int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in re.split(r"(\d{1,9})", text)
    )
