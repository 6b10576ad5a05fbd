"""When a chain of updates is folded: the triggers, and their order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.compaction import Chain, CompactionRule, Trigger, find_trigger

RULE = CompactionRule()
MIB = 1 << 20

# (updates, bytes of them, bytes of the tile, milliseconds) -> trigger; each limit is reached, then passed
TABLE = [
    ((0, 0, 4 * MIB, 0), None),
    ((0, 0, 4 * MIB, 900), None),  # a base that loads slowly is not made faster by another base
    ((10, MIB, 4 * MIB, 0), None),
    ((11, MIB, 4 * MIB, 0), Trigger.LENGTH),
    ((3, 2 * MIB, 4 * MIB, 0), None),
    ((3, 2 * MIB + 1, 4 * MIB, 0), Trigger.BYTES),
    ((1, 100, 199, 0), Trigger.BYTES),
    ((3, MIB, 4 * MIB, 50), None),
    ((3, MIB, 4 * MIB, 51), Trigger.LOAD),
    ((11, 3 * MIB, 4 * MIB, 51), Trigger.LENGTH),
    ((10, 3 * MIB, 4 * MIB, 51), Trigger.BYTES),
]


@pytest.mark.parametrize(("chain", "trigger"), TABLE)
def test_triggers(chain, trigger):
    """More than ten updates, more than half a tile, more than 50 ms; the first that fires is the one that is counted."""
    assert find_trigger(Chain(*chain), RULE) is trigger


numbers = st.integers(0, 100)


@given(numbers, numbers, numbers, numbers, st.integers(0, 3))
def test_a_chain_that_grows_never_stops_being_folded(updates, update_bytes, tile_bytes, load_ms, grown):
    """What calls for a fold goes on calling for it."""
    chain = Chain(1 + updates, update_bytes, tile_bytes, load_ms)
    further = Chain(1 + updates + grown, update_bytes + grown, tile_bytes, load_ms + grown)
    assert find_trigger(chain, RULE) is None or find_trigger(further, RULE) is not None
