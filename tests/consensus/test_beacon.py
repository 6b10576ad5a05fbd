"""The beacon: fixed by what was committed before, biased by silence alone, and the same for everybody."""

from __future__ import annotations

from dataclasses import replace as replace_context
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.beacon import OnionKeeper, due_history
from consensus.epochs import roster_of
from consensus.history import Onion, mix_beacon
from consensus.state import BEACON_MIX, HISTORY, ONIONS, State
from consensus.transition import BlockContext, apply_block
from protocol.digest import blob_digest
from protocol.epochs import boundary_of, cut_of, reveal_window_of
from protocol.finality import OnionCommitment, OnionReveal, OnionWord
from protocol.ids import Digest, PeerId
from protocol.limits import HISTORY_SEGMENTS
from protocol.rejection import Reason, Rejected
from tests.consensus.ledger_samples import EPOCH_HEIGHTS, GENESIS, context, history_for, node_of

FIRST_CUT = cut_of(0, EPOCH_HEIGHTS)
KEEPERS = [OnionKeeper(node_of(index), blob_digest(bytes([index]))) for index in range(3)]


def at(height: int, proposer: int) -> BlockContext:
    return replace_context(context(height), proposer_node=node_of(proposer))


def say(state: State, height: int, proposer: int, word: OnionWord | None) -> State:
    here = at(height, proposer)
    return apply_block(state, (), (), here, word, history_for(state, here))[0]


def run(epochs: int, silent: frozenset[tuple[int, int]] = frozenset()) -> list[State]:
    """The states at the boundaries; three members propose in turn, each as its keeper says, unless it is silent in a window."""
    state, boundaries = GENESIS, []
    for height in range(1, epochs * EPOCH_HEIGHTS + 1):
        window, proposer = context(height).reveal_window, height % 3
        word = None if (proposer, window) in silent else KEEPERS[proposer].next_word(state, window)
        state = say(state, height, proposer, word)
        if height % EPOCH_HEIGHTS == 0:
            boundaries.append(state)
    return boundaries


def beacons(states: list[State]) -> list[Digest]:
    return [roster_of(state, epoch + 2).beacon for epoch, state in enumerate(states)]


def test_members_commit_once_and_reveal_once_a_window():
    """A keeper speaks in its first block of a window, and is silent in the others. At a boundary the next one is open."""
    states = run(3)
    entries = [[state.get(ONIONS, node_of(index)) for index in range(3)] for state in states]
    assert [entry.committed_window for entry in entries[2]] == [0, 0, 0]
    assert [[entry.revealed_window for entry in row] for row in entries] == [[1] * 3, [2] * 3, [3] * 3]
    assert len({entry.layer for row in entries for entry in row}) == 9


def test_a_beacon_depends_on_every_reveal_of_its_window():
    """Silence of one member in one window gives another beacon for the epoch after next, and leaves the earlier ones."""
    everybody = beacons(run(4))
    assert len(set(everybody)) == 4
    for member in range(3):
        without = beacons(run(4, frozenset({(member, 2)})))
        assert without[:2] == everybody[:2]
        assert all(other != same for other, same in zip(without[2:], everybody[2:], strict=True))


def test_without_any_reveal_beacons_still_differ():
    """The beacon before and the epoch are mixed in: nobody's silence stops the lottery."""
    nobody = frozenset((member, window) for member in range(3) for window in range(5))
    assert len(set(beacons(run(4, nobody)))) == 4


@given(st.permutations(range(3)))
def test_a_mix_does_not_depend_on_the_order_of_its_reveals(order):
    """Among reveals that were fixed before, an order would be one more choice for those who conspire."""
    state = GENESIS
    for height in range(1, FIRST_CUT + 1):
        state = say(state, height, height % 3, KEEPERS[height % 3].next_word(state, 0))
    for height, proposer in enumerate(order, FIRST_CUT + 1):
        state = say(state, height, proposer, KEEPERS[proposer].next_word(state, 1))
    assert state.get(BEACON_MIX) == say_in_order().get(BEACON_MIX)


@cache
def say_in_order() -> State:
    state = GENESIS
    for height in range(1, FIRST_CUT + 4):
        proposer = (height - FIRST_CUT - 1) % 3 if height > FIRST_CUT else height % 3
        state = say(state, height, proposer, KEEPERS[proposer].next_word(state, context(height).reveal_window))
    return state


def test_what_was_not_committed_before_is_refused():
    """No reveal without a commitment, in the window of the commitment, twice in a window, or of another layer."""
    onion = Onion(blob_digest(b"mine"), 5)
    commitment, reveals = OnionCommitment(onion.commitment), [OnionReveal(onion.reveal(index)) for index in range(2)]
    later = FIRST_CUT + 1
    committed = say(GENESIS, 1, 0, commitment)
    revealed = say(committed, later, 0, reveals[0])
    for state, height, word, reason in (
        (GENESIS, later, reveals[0], Reason.WRONG_EPOCH),
        (committed, 2, reveals[0], Reason.WRONG_EPOCH),
        (committed, 2, commitment, Reason.WRONG_EPOCH),
        (revealed, later + 1, reveals[1], Reason.WRONG_EPOCH),
        (committed, later, reveals[1], Reason.BAD_PROOF),
        (committed, later, OnionReveal(blob_digest(b"guess")), Reason.BAD_PROOF),
    ):
        with pytest.raises(Rejected) as caught:
            say(state, height, 0, word)
        assert caught.value.reason is reason
    with pytest.raises(Rejected):
        say(committed, later, 1, reveals[0])  # another's onion


def test_a_keeper_that_lost_its_onion_commits_a_new_one():
    """After the innermost layer, or when its secret changed: the chain takes the new onion from the next window on."""
    onion = Onion(blob_digest(b"short"), 1)
    state = say(GENESIS, 1, 0, OnionCommitment(onion.commitment))
    keeper = OnionKeeper(node_of(0), blob_digest(b"other"))
    word = keeper.next_word(state, 1)
    assert isinstance(word, OnionCommitment)
    state = say(state, FIRST_CUT + 1, 0, word)
    assert keeper.next_word(state, 1) is None
    assert isinstance(keeper.next_word(state, 2), OnionReveal)


def test_a_keeper_restarts_where_it_was():
    """Nothing of it is stored: the state says which layer is next."""
    state = run(3)[-1]
    again = OnionKeeper(PeerId(node_of(1)), blob_digest(bytes([1])))
    assert again.next_word(state, 4) == KEEPERS[1].next_word(state, 4)


# -- history ------------------------------------------------------------------------------------------------------------


@given(st.integers(2, 10**4), st.integers(0, 50))
def test_every_block_is_in_one_window_and_every_cut_leaves_room_for_the_history(epoch_heights, epoch):
    """Windows follow each other without a gap, and between a cut and its boundary there is a block at least."""
    first, last = cut_of(epoch - 1, epoch_heights) + 1, cut_of(epoch, epoch_heights)
    assert boundary_of(epoch - 1, epoch_heights) < last < boundary_of(epoch, epoch_heights)
    assert [reveal_window_of(height, epoch_heights) for height in (first, last, last + 1)] == [epoch, epoch, epoch + 1]


def silent_until(height: int) -> State:
    state = GENESIS
    for at_height in range(1, height + 1):
        state = say(state, at_height, 0, None)
    return state


def test_the_block_at_the_cut_seals_the_mix():
    """From there on the history is due, and whatever is revealed counts for the next beacon."""
    before, sealed = silent_until(FIRST_CUT - 1), silent_until(FIRST_CUT)
    assert due_history(before) is None
    entry = sealed.get(HISTORY)
    assert (entry.epoch, entry.end, due_history(sealed)) == (0, None, entry.start)
    late = say(sealed, FIRST_CUT + 1, 0, OnionCommitment(blob_digest(b"late")))
    assert late.get(HISTORY) == entry


ENDS = tuple(blob_digest(bytes([index])) for index in range(HISTORY_SEGMENTS))


@pytest.mark.parametrize("height", [FIRST_CUT + 1, FIRST_CUT + 3, EPOCH_HEIGHTS])
def test_a_history_is_told_once_by_a_block_after_the_cut(height):
    """Its end enters the beacon; a second history in the same epoch is refused."""
    state = apply_block(silent_until(height - 1), (), (), at(height, 0), None, ENDS)[0]
    assert state.get(HISTORY).end == ENDS[-1]
    with pytest.raises(Rejected, match="due"):
        apply_block(state, (), (), at(height + 1, 0), None, ENDS)
    for later in range(height + 1, EPOCH_HEIGHTS + 1):
        state = say(state, later, 0, None)
    beacon = roster_of(state, 2).beacon
    assert beacon == mix_beacon(roster_of(state, 1).beacon, ENDS[-1], (state.get(HISTORY).start,))


@pytest.mark.parametrize(
    ("height", "ends"),
    [
        (1, ENDS),  # nothing was ever sealed
        (FIRST_CUT, ENDS),  # the block at the cut seals: it cannot know
        (FIRST_CUT + 1, ENDS[:-1]),
        (EPOCH_HEIGHTS, ENDS[:1]),
        (EPOCH_HEIGHTS, ()),  # nobody can withhold it
    ],
)
def test_a_history_where_none_is_due_or_of_another_length_or_none_at_the_boundary_is_refused(height, ends):
    """The block is wrong as a whole."""
    with pytest.raises(Rejected) as caught:
        apply_block(silent_until(height - 1), (), (), at(height, 0), None, ends)
    assert caught.value.reason is Reason.WRONG_BODY
