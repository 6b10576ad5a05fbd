"""The networks of tile_round: their tiles, and what counts as a clean round."""

from __future__ import annotations

from typing import Any

import click
import pytest

from benchmarks.tile_round import TILE_BYTES, _costs, _template
from compute.model.tiling import TileMap


@pytest.mark.parametrize("count", [1, 2, 16])
def test_template_has_exactly_so_many_whole_tiles(count: int) -> None:
    """The model's parameters fill the tiles to the last value; one tile alone has a tiny expert beside it."""
    template = _template(count)
    sizes = [tile.bytes for tile in TileMap.from_shape(template.model, template.tile_bytes).tiles]
    assert sizes.count(TILE_BYTES) == count
    assert all(size <= 2048 for size in sizes if size != TILE_BYTES)


def test_impossible_number_of_tiles_is_refused() -> None:
    """An odd number above one has no such model."""
    with pytest.raises(click.UsageError):
        _template(3)


def view(number: int, opened_ms: int, closed_ms: int, **other: Any) -> dict[str, Any]:
    """A node's record of a round in which everything went well."""
    return {
        "round": number,
        "opened_ms": opened_ms,
        "closed_ms": closed_ms,
        "lagging": [],
        "takeovers": 0,
        "merged_deltas": 4,
        "tiles": 2,
        "bytes_sent": 100,
    } | other


def test_round_lasts_from_the_first_opening_to_the_last_closing() -> None:
    """Neither a node that is late nor one that is early makes the round look shorter."""
    first = [view(0, 0, 10), view(1, 10, 50)]
    second = [view(0, 0, 20), view(1, 20, 70)]
    (cost,) = _costs([first, second], rounds=2, peers=2)
    assert cost.seconds == 0.06
    assert cost.bytes_sent == 200


@pytest.mark.parametrize("trouble", [{"lagging": [{"tile": "trunk/0"}]}, {"takeovers": 1}, {"merged_deltas": 3}])
def test_round_that_was_not_clean_fails(trouble: dict[str, Any]) -> None:
    """A deadline that fired, a takeover or a missing delta makes the time meaningless, so there is none."""
    nodes = [[view(0, 0, 10), view(1, 10, 50)], [view(0, 0, 10), view(1, 10, 50, **trouble)]]
    with pytest.raises(click.ClickException):
        _costs(nodes, rounds=2, peers=2)
