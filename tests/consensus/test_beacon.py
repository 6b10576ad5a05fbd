"""The beacon: fixed by what was committed before, biased by silence alone, and the same for everybody."""

from __future__ import annotations

from dataclasses import replace as replace_context

import pytest

from consensus.beacon import OnionKeeper
from consensus.epochs import roster_of
from consensus.history import Onion
from consensus.state import ONIONS, State
from consensus.transition import BlockContext, apply_block
from protocol.digest import blob_digest
from protocol.finality import OnionCommitment, OnionReveal, OnionWord
from protocol.ids import Digest, PeerId
from protocol.rejection import Reason, Rejected
from tests.consensus.ledger_samples import EPOCH_HEIGHTS, GENESIS, context, node_of

KEEPERS = [OnionKeeper(node_of(index), blob_digest(bytes([index]))) for index in range(3)]


def at(height: int, proposer: int) -> BlockContext:
    return replace_context(context(height), proposer_node=node_of(proposer))


def say(state: State, height: int, proposer: int, word: OnionWord | None) -> State:
    return apply_block(state, (), (), at(height, proposer), word)[0]


def run(epochs: int, silent: frozenset[tuple[int, int]] = frozenset()) -> list[State]:
    """The states at the boundaries; three members propose in turn, each as its keeper says, unless it is silent in an epoch."""
    state, boundaries = GENESIS, []
    for height in range(1, epochs * EPOCH_HEIGHTS + 1):
        here, proposer = context(height), height % 3
        word = None if (proposer, here.epoch) in silent else KEEPERS[proposer].next_word(state, here.epoch)
        state = say(state, height, proposer, word)
        if height % EPOCH_HEIGHTS == 0:
            boundaries.append(state)
    return boundaries


def beacons(states: list[State]) -> list[Digest]:
    return [roster_of(state, epoch + 2).beacon for epoch, state in enumerate(states)]


def test_members_commit_once_and_reveal_once_an_epoch():
    """A keeper speaks in its first block of an epoch and is silent in the others."""
    first, second, third = run(3)
    entries = [[state.get(ONIONS, node_of(index)) for index in range(3)] for state in (first, second, third)]
    assert [entry.committed_epoch for entry in entries[2]] == [0, 0, 0]
    assert [[entry.revealed_epoch for entry in row] for row in entries] == [[-1] * 3, [1] * 3, [2] * 3]
    assert len({entry.layer for row in entries for entry in row}) == 9


def test_a_beacon_depends_on_every_reveal_of_its_epoch():
    """Silence of one member in one epoch gives another beacon for the epoch after next, and leaves the earlier ones."""
    everybody = beacons(run(4))
    assert len(set(everybody)) == 4
    for member in range(3):
        without = beacons(run(4, frozenset({(member, 2)})))
        assert without[:2] == everybody[:2]
        assert all(other != same for other, same in zip(without[2:], everybody[2:], strict=True))


def test_without_any_reveal_beacons_still_differ():
    """The beacon before and the epoch are mixed in: nobody's silence stops the lottery."""
    nobody = frozenset((member, epoch) for member in range(3) for epoch in range(4))
    assert len(set(beacons(run(4, nobody)))) == 4


def test_what_was_not_committed_before_is_refused():
    """No reveal without a commitment, in the epoch of the commitment, twice in an epoch, or of another layer."""
    onion = Onion(blob_digest(b"mine"), 5)
    commitment, reveals = OnionCommitment(onion.commitment), [OnionReveal(onion.reveal(index)) for index in range(2)]
    later = EPOCH_HEIGHTS + 1
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
    """After the innermost layer, or when its secret changed: the chain takes the new onion from the next epoch on."""
    onion = Onion(blob_digest(b"short"), 1)
    state = say(GENESIS, 1, 0, OnionCommitment(onion.commitment))
    keeper = OnionKeeper(node_of(0), blob_digest(b"other"))
    word = keeper.next_word(state, 1)
    assert isinstance(word, OnionCommitment)
    state = say(state, EPOCH_HEIGHTS + 1, 0, word)
    assert keeper.next_word(state, 1) is None
    assert isinstance(keeper.next_word(state, 2), OnionReveal)


def test_a_keeper_restarts_where_it_was():
    """Nothing of it is stored: the state says which layer is next."""
    state = run(3)[-1]
    again = OnionKeeper(PeerId(node_of(1)), blob_digest(bytes([1])))
    assert again.next_word(state, 3) == KEEPERS[1].next_word(state, 3)
