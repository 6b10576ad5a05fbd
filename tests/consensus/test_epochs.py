"""Epochs: who votes is fixed two boundaries ahead, by stake, and never by nobody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.epochs import choose_roster, first_height_of, roster_of
from consensus.execution import Execution
from consensus.state import ROSTERS, VALIDATORS, State, ValidatorStatus
from consensus.transition import BlockRules, apply_block
from protocol.digest import blob_digest, number
from protocol.epochs import boundary_of, cut_of, epoch_of
from protocol.finality import NO_BLOCK
from protocol.ids import Epoch, Height
from protocol.roster import Roster
from protocol.transactions import Leave, Register, Stake
from tests.consensus.genesis import TICKS
from tests.consensus.ledger_samples import (
    CARDS,
    EPOCH_HEIGHTS,
    GENESIS,
    RULE,
    STAKE,
    VOTERS,
    context,
    history_for,
    node_of,
    sign,
    validator,
)
from tests.consensus.samples import CHAIN

BEACON = blob_digest(b"next")


def nodes_of(roster: Roster) -> dict[bytes, int]:
    return dict(zip((member.node for member in roster.members), roster.weights, strict=True))


@given(st.integers(1, 10**9), st.integers(1, 10**6))
def test_every_height_is_in_one_epoch_and_the_last_of_them_is_its_boundary(height, epoch_heights):
    """Epochs have the same length and follow each other without a gap."""
    epoch = epoch_of(height, epoch_heights)
    assert boundary_of(epoch - 1, epoch_heights) < height <= boundary_of(epoch, epoch_heights)
    assert boundary_of(epoch, epoch_heights) - boundary_of(epoch - 1, epoch_heights) == epoch_heights


def run_to(state: State, height: int, *blocks: tuple[int, list]) -> State:
    """Empty blocks up to a height, but for those given as (height, transactions)."""
    given_blocks = dict(blocks)
    for at in range(1, height + 1):
        here = context(at)
        state, receipts = apply_block(state, (), given_blocks.get(at, []), here, None, history_for(state, here))
        assert all(receipt.refusal is None for receipt in receipts)
    return state


def test_what_is_staked_in_an_epoch_counts_in_the_epoch_after_next():
    """The boundary of epoch 0 fixes the roster of epoch 2: those of 0 and 1 are what they were."""
    adds = sign(0, 0, Stake(node_of(0), STAKE))
    before = run_to(GENESIS, EPOCH_HEIGHTS - 1, (3, [adds]))
    assert before.find(ROSTERS, number(2)) is None
    state = run_to(GENESIS, EPOCH_HEIGHTS, (3, [adds]))
    assert roster_of(state, 1).members == VOTERS.members
    assert nodes_of(roster_of(state, 2)) == {node_of(0): 2 * STAKE, node_of(1): 3 * STAKE}
    assert roster_of(state, 2).beacon not in (roster_of(state, 1).beacon, VOTERS.beacon)


@pytest.mark.parametrize(
    ("height", "votes_from"),
    [
        (1, 3),
        (cut_of(0, EPOCH_HEIGHTS), 3),
        (cut_of(0, EPOCH_HEIGHTS) + 1, 4),
        (EPOCH_HEIGHTS, 4),
        (EPOCH_HEIGHTS + 1, 4),
    ],
)
def test_who_registers_before_a_cut_votes_three_epochs_later(height, votes_from):
    """The reveals of the beacon by which it is drawn are made in the window after that of its block; what comes later waits."""
    joins = sign(2, 0, Register(CARDS[2], 5 * STAKE))
    state = run_to(GENESIS, (votes_from - 1) * EPOCH_HEIGHTS, (height, [joins]))
    assert validator(state, 2).registered_height == height
    assert node_of(2) not in nodes_of(roster_of(state, votes_from - 1))
    assert nodes_of(roster_of(state, votes_from)) == {
        node_of(0): STAKE,
        node_of(1): 3 * STAKE,
        node_of(2): 5 * STAKE,
    }


def test_an_identity_that_comes_back_waits_like_a_new_one():
    """Whoever left for good and registers the same keys again could have waited for a beacon that suits them."""
    leaves = sign(1, 0, Leave(node_of(1)))
    again = sign(1, 1, Register(CARDS[1], STAKE))
    state = run_to(GENESIS, 2 * EPOCH_HEIGHTS, (3, [leaves]), (EPOCH_HEIGHTS + 1, [again]))
    assert validator(state, 1).registered_height == EPOCH_HEIGHTS + 1
    assert nodes_of(roster_of(state, 3)) == {node_of(0): STAKE}


@given(st.integers(1, 6 * EPOCH_HEIGHTS), st.integers(0, 9))
def test_a_registration_tells_its_first_block(registered, epoch):
    """From that block on, and not before, the validator may be chosen."""
    held = GENESIS.get(VALIDATORS, node_of(1))
    state = GENESIS.put_validator(held, replace(held, registered_height=registered))
    cut = cut_of(epoch - 1, EPOCH_HEIGHTS)  # by which whom the roster of the epoch after next draws is registered
    chosen = choose_roster(state, Epoch(epoch + 2), BEACON, VOTERS, cut)
    first = first_height_of(registered, EPOCH_HEIGHTS)
    assert (node_of(1) in nodes_of(chosen)) is (boundary_of(epoch + 2, EPOCH_HEIGHTS) >= first)
    assert first_height_of(0, EPOCH_HEIGHTS) == 1


def test_who_leaves_votes_until_the_epoch_after_next():
    """Leaving takes effect at the same boundary as joining; old rosters are forgotten."""
    state = run_to(GENESIS, 2 * EPOCH_HEIGHTS, (EPOCH_HEIGHTS + 1, [sign(1, 0, Leave(node_of(1)))]))
    assert node_of(1) in nodes_of(roster_of(state, 2))
    assert nodes_of(roster_of(state, 3)) == {node_of(0): STAKE}
    assert state.find(ROSTERS, number(0)) is None


def test_where_nobody_is_left_the_roster_goes_on():
    """An empty roster could never be replaced by anybody."""
    state = GENESIS
    for each in list(state.validators()):
        gone = type(each)(each.card, ValidatorStatus.LEFT, each.stake_nano)
        state = state.put_validator(each, gone)
    chosen = choose_roster(state, Epoch(7), BEACON, VOTERS, Height(0))
    assert (chosen.members, chosen.weights, chosen.epoch, chosen.beacon) == (VOTERS.members, VOTERS.weights, 7, BEACON)


def test_members_are_in_order_of_their_keys_and_weigh_what_they_staked():
    """So that every node writes the same bytes of a roster."""
    chosen = choose_roster(GENESIS, Epoch(2), BEACON, VOTERS, Height(0))
    keys = [member.node for member in chosen.members]
    assert keys == sorted(keys)
    assert nodes_of(chosen) == {node_of(0): STAKE, node_of(1): 3 * STAKE}


def test_a_restart_at_a_boundary_is_in_the_next_epoch():
    """The height says which roster votes about the next one: at the boundary it is the next epoch's."""
    rules = BlockRules(CHAIN, RULE, EPOCH_HEIGHTS, 1, TICKS)
    state = run_to(GENESIS, EPOCH_HEIGHTS)
    for height, epoch in ((EPOCH_HEIGHTS - 1, 0), (EPOCH_HEIGHTS, 1), (EPOCH_HEIGHTS + 1, 1)):
        execution = Execution(rules, state, NO_BLOCK, Height(height))
        assert (execution.roster.epoch, execution.next_roster.epoch) == (epoch, epoch + 1)
