"""What the chain asks of those who keep: the right leaf and no other, and jail for who is silent, never for too many."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.custody import ring_order, ring_parts
from consensus.custody_answers import (
    JAIL_EPOCHS,
    ask_members,
    find_question,
    is_jailed,
    jail_silent,
    lasting_parts,
    take_answer,
)
from consensus.epochs import choose_roster, roster_of
from consensus.state import (
    CUSTODY_QUESTIONS,
    VALIDATORS,
    CustodyQuestion,
    State,
    Validator,
    ValidatorStatus,
    all_rows,
    load_state,
)
from consensus.transition import apply_block
from protocol.availability import StateCheckpoint, TileSnapshot
from protocol.codec import encode
from protocol.digest import blob_digest
from protocol.epochs import boundary_of, cut_of
from protocol.erasure import LIVE
from protocol.ids import Digest, Epoch, Height, PeerId, TileId, Version
from protocol.limits import CELL_LEAF_BYTES, KIB
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster
from protocol.transactions import CustodyAnswer
from tests.consensus.custody_samples import (
    BEACON,
    BLOB,
    CARDS,
    TWO_TILES,
    Blob,
    ask,
    keep,
    question_of,
    roster,
    seven,
)
from tests.consensus.ledger_samples import (
    ACCOUNT_IDS,
    EPOCH_HEIGHTS,
    STAKE,
    apply_all,
    context,
    history_for,
)


def run(state: State, *heights: int) -> State:
    """Empty blocks at these heights."""
    for height in heights:
        here = context(height)
        state, _ = apply_block(state, (), [], here, None, history_for(state, here))
    return state


def questions(state: State) -> dict[PeerId, CustodyQuestion]:
    found = ((card.node, find_question(state, card.node)) for card in CARDS)
    return {node: question for node, question in found if question is not None}


def refusal(state: State, answer: CustodyAnswer, epoch: int = 1) -> Reason:
    with pytest.raises(Rejected) as caught:
        take_answer(state, answer, epoch, 60)
    return caught.value.reason


def jailed(state: State, epoch: int) -> list[int]:
    """Who of the seven may not be chosen for the roster of an epoch."""
    return [at for at, card in enumerate(CARDS) if is_jailed(state.get(VALIDATORS, card.node), epoch)]


GENESIS = seven()
ASKED = run(keep(GENESIS, BLOB.entry()), *range(1, EPOCH_HEIGHTS + 1))  # at the boundary of the first epoch

# -- what is asked ------------------------------------------------------------------------------------------------------


def test_every_member_is_asked_for_a_leaf_of_a_cell_of_its_own() -> None:
    """From the boundary on, for the epoch that begins: a position of its part, and a leaf that the cell has."""
    parts = ring_parts(roster(1).weights, LIVE.cells)
    for card, part in zip(CARDS, parts, strict=True):
        question = question_of(ASKED, card)
        assert (question.epoch, question.tile, question.answered_height) == (1, 0, None)
        assert question.position in part
        assert question.leaf < BLOB.leaf_count(0) == 4
    assert len({(question.position, question.leaf) for question in questions(ASKED).values()}) == len(CARDS)


@pytest.mark.parametrize(
    "changes",
    [
        {"height": Height(41)},
        {"kept_until": Epoch(0)},
        {"subject": StateCheckpoint(Height(EPOCH_HEIGHTS), blob_digest(b"state"))},
    ],
    ids=["after the cut", "over", "a state"],
)
def test_what_is_asked_for_was_recorded_by_the_cut_is_not_over_and_was_coded_by_its_signers(changes: Any) -> None:
    """Of nothing else is anything asked; where there is nothing nobody is asked, and nobody can be silent."""
    assert questions(ask(GENESIS, BLOB.entry(**changes))) == {}
    mixed = ask(GENESIS, BLOB.entry(**changes), TWO_TILES.entry())
    wanted = TWO_TILES.entry().subject.digest()
    assert {question.subject for question in questions(mixed).values()} == {wanted}
    assert ask(GENESIS).root() == GENESIS.root()


def test_a_record_after_the_cut_waits_for_the_next_epoch() -> None:
    """Through whole blocks: recorded at the cut it is asked for at the boundary, one block later it is not."""
    cut = cut_of(0, EPOCH_HEIGHTS)
    for height, is_asked_for in ((cut, True), (cut + 1, False)):
        state = run(keep(GENESIS, BLOB.entry(height=height)), *range(1, EPOCH_HEIGHTS + 1))
        assert bool(questions(state)) is is_asked_for
        assert questions(run(state, *range(EPOCH_HEIGHTS + 1, 2 * EPOCH_HEIGHTS + 1)))


def test_tiles_are_drawn_by_their_number() -> None:
    """Over many beacons, of a blob of three tiles and one of one tile each tile as often as the others."""
    three = Blob(3 * LIVE.tile_bytes, b"three").geometry
    entries = [
        BLOB.entry(geometry=three, size_bytes=3 * LIVE.tile_bytes),
        replace(BLOB.entry(), subject=TileSnapshot(TileId("trunk/1"), Version(1), blob_digest(b"other"))),
    ]
    drawn: Counter[tuple[Digest, int]] = Counter()
    for turn in range(200):
        asked = ask(GENESIS, *entries, beacon=blob_digest(bytes([turn])))
        drawn.update((question.subject, question.tile) for question in questions(asked).values())
    assert len(drawn) == 4
    assert all(280 < count < 420 for count in drawn.values())  # 350, and four times the deviation


@given(st.permutations(range(4)))
@settings(max_examples=20)
def test_the_order_of_records_does_not_matter(order: list[int]) -> None:
    """The same entries give the same questions and the same root; so do the rows of a database."""
    entries = [Blob(200 * KIB, b"%d" % index).entry(blob=blob_digest(b"%d" % index)) for index in range(4)]
    asked = ask(GENESIS, *(entries[index] for index in order))
    assert asked.root() == ask(GENESIS, *entries).root()
    rows = [(key, encode(value)) for key, value in all_rows(asked.sealed()) if value is not None]
    assert questions(load_state(rows)) == questions(asked)


member_weights = st.lists(st.integers(0, 50), min_size=7, max_size=7).filter(any)


@given(member_weights, member_weights, st.sets(st.integers(0, 6), max_size=6))
def test_nobody_is_asked_for_what_became_its_own_with_the_epoch(
    old: list[int], new: list[int], joined: set[int]
) -> None:
    """Positions are of both epochs' parts; who was no member before is asked for nothing."""
    was = roster(0, *old)
    staying = [at for at in range(7) if at not in joined and old[at]] or [next(at for at in range(7) if old[at])]
    before = replace(
        was, members=tuple(was.members[at] for at in staying), weights=tuple(was.weights[at] for at in staying)
    )
    old_parts = dict(zip(staying, ring_parts(before.weights, 256), strict=True))
    new_parts = ring_parts(new, 256)
    for at, part in enumerate(lasting_parts(before, roster(1, *new), 256)):
        assert set(part) == set(new_parts[at]) & set(old_parts.get(at, range(0)))
        assert at in staying or not part
    asked = ask_members(keep(GENESIS, BLOB.entry()), before, roster(1, *new), BEACON, 40)
    for node, question in questions(asked).items():
        at = [card.node for card in CARDS].index(node)
        assert question.position in old_parts[at]
        assert question.position in new_parts[at]


def test_questions_go_with_their_epoch() -> None:
    """At each boundary there are new ones; of who is no member any more none is left."""
    later = run(ASKED, *range(EPOCH_HEIGHTS + 1, 2 * EPOCH_HEIGHTS + 1))
    assert {question.epoch for question in questions(later).values()} == {2}
    assert questions(later) != questions(ASKED)
    smaller = replace(roster(2), members=roster(2).members[:3], weights=(1, 1, 1))
    asked = ask_members(later, roster(2), smaller, BEACON, 40)
    assert set(questions(asked)) == {CARDS[0].node}  # of the others nothing lies where it lay


# -- what is answered ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blob", [BLOB, TWO_TILES], ids=["one tile", "two tiles"])
def test_the_right_leaf_is_taken_once_from_anybody(blob: Blob) -> None:
    """Whoever sends it pays; the same again costs a fee and does nothing."""
    state = run(keep(GENESIS, blob.entry()), *range(1, EPOCH_HEIGHTS + 1))
    height = EPOCH_HEIGHTS + 1
    answers = [(at % 6, blob.answer(state, card)) for at, card in enumerate(CARDS)]
    after, refusals = apply_all(state, *answers, height=height)
    assert refusals == (None,) * 7
    assert {question.answered_height for question in questions(after).values()} == {height}
    again, (reason,) = apply_all(after, answers[0], height=height + 1)
    assert reason is Reason.ALREADY_RECORDED
    assert questions(again) == questions(after)
    assert again.account(ACCOUNT_IDS[0]).balance_nano < after.account(ACCOUNT_IDS[0]).balance_nano


def test_an_answer_is_for_one_epoch_and_one_member() -> None:
    """Neither in the epoch after, nor for somebody else, nor for somebody of whom nothing is asked."""
    answer = BLOB.answer(ASKED, CARDS[0])
    assert refusal(ASKED, answer, epoch=2) is Reason.WRONG_EPOCH
    later = run(ASKED, *range(EPOCH_HEIGHTS + 1, 2 * EPOCH_HEIGHTS + 1))
    assert refusal(later, replace(answer, epoch=Epoch(2)), epoch=2) is Reason.WRONG_LEAF
    assert refusal(ASKED, replace(answer, validator=PeerId(bytes(32)))) is Reason.UNKNOWN_VALIDATOR
    assert refusal(ASKED, replace(answer, validator=CARDS[1].node)) is Reason.WRONG_LEAF
    assert refusal(GENESIS, answer) is Reason.UNKNOWN_VALIDATOR


def test_only_the_leaf_that_is_asked_for_is_an_answer() -> None:
    """No other leaf of the cell, no other cell of the tile, no other blob, however well it is proved."""
    question, answer = question_of(ASKED, CARDS[0]), BLOB.answer(ASKED, CARDS[0])
    for cell in range(LIVE.cells):
        for leaf in range(4):
            shown = replace(answer, leaf=BLOB.prove(0, cell, leaf))
            if (cell, leaf) == (answer.leaf.cell, question.leaf):
                take_answer(ASKED, shown, 1, 60)
            else:
                assert refusal(ASKED, shown) is Reason.WRONG_LEAF
    other = Blob(200 * KIB, b"other")
    forged = replace(answer, blob=other.root, leaf=other.prove(0, answer.leaf.cell, question.leaf))
    assert refusal(ASKED, forged) is Reason.WRONG_LEAF
    assert refusal(ASKED, replace(forged, blob=answer.blob)) is Reason.BAD_PROOF


def test_the_cell_is_the_one_at_the_position_by_the_tile_and_the_beacon_of_the_record() -> None:
    """As ``consensus/custody.py`` lays the cells out: whoever keeps by it has what is asked for."""
    for card in CARDS:
        question = question_of(ASKED, card)
        order = ring_order(BLOB.entry().beacon, BLOB.tile_roots[0], LIVE.cells)
        assert BLOB.answer(ASKED, card).leaf.cell == order[question.position]


@given(st.data())
@settings(max_examples=200)
def test_nothing_of_a_proof_can_be_changed(data: st.DataObject) -> None:
    """A bit of the leaf, a step of a path more, less or another, another tile: refused, and nothing else is raised."""
    state = ask(GENESIS, TWO_TILES.entry())
    answer = TWO_TILES.answer(state, data.draw(st.sampled_from(CARDS)))
    leaf = answer.leaf

    def changed(path: tuple[Digest, ...]) -> tuple[Digest, ...]:
        at = data.draw(st.integers(0, len(path)))
        kind = data.draw(st.sampled_from(["more", "less", "other"]))
        step = blob_digest(b"step")
        return {"more": (*path[:at], step, *path[at:]), "less": path[:-1], "other": (*path[:-1], step)}[kind]

    what = data.draw(st.sampled_from(["data", "cell_path", "tile_path", "blob_path", "tile", "cell", "leaf"]))
    match what:
        case "data":
            at = data.draw(st.integers(0, CELL_LEAF_BYTES - 1))
            forged = replace(leaf, data=leaf.data[:at] + bytes([leaf.data[at] ^ 1]) + leaf.data[at + 1 :])
            answer = replace(answer, leaf=forged)
        case "blob_path":
            answer = replace(answer, blob_path=changed(answer.blob_path))
        case "tile" | "cell" | "leaf":
            value = data.draw(
                st.integers(0, 16_383 if what == "tile" else 255).filter(lambda at: at != getattr(leaf, what))
            )
            answer = replace(answer, leaf=replace(leaf, **{what: value}))
        case _:
            answer = replace(answer, leaf=replace(leaf, **{what: changed(getattr(leaf, what))}))
    assert refusal(state, answer) in (Reason.BAD_PROOF, Reason.WRONG_LEAF)


# -- who is silent ------------------------------------------------------------------------------------------------------


def answered_by(state: State, speakers: list[int], height: int) -> State:
    for at in speakers:
        state = take_answer(state, BLOB.answer(state, CARDS[at]), 1, height)
    return state


def test_two_of_seven_that_are_silent_are_jailed_at_the_boundary_and_lose_nothing() -> None:
    """They vote on in the epoch that is fixed already, are in none of the next sixteen rosters, and then may be again."""
    state = answered_by(ASKED, [0, 1, 2, 4, 6], EPOCH_HEIGHTS + 1)
    before = run(state, *range(EPOCH_HEIGHTS + 1, 2 * EPOCH_HEIGHTS))
    assert jailed(before, 3) == []
    after = run(before, boundary_of(1, EPOCH_HEIGHTS))
    assert jailed(after, 3) == jailed(after, 2 + JAIL_EPOCHS) == [3, 5]
    assert jailed(after, 3 + JAIL_EPOCHS) == []
    assert len(roster_of(after, 2).members) == 7
    free = [card.node for at, card in enumerate(CARDS) if at not in (3, 5)]
    assert [member.node for member in roster_of(after, 3).members] == free
    assert {validator.stake_nano for validator in after.validators()} == {STAKE}
    assert {validator.status for validator in after.validators()} == {ValidatorStatus.ACTIVE}
    back = choose_roster(after, Epoch(3 + JAIL_EPOCHS), BEACON, roster(1), Height(0))
    assert len(back.members) == 7


def test_where_too_many_are_silent_nobody_is_jailed() -> None:
    """Four of seven are no quorum: what keeps so many from answering may be anything. Five are one."""
    for speakers, found in (([0, 1, 2, 3], []), ([0, 1, 2, 3, 4], [5, 6])):
        state = answered_by(ASKED, speakers, EPOCH_HEIGHTS + 1)
        after = run(state, *range(EPOCH_HEIGHTS + 1, 2 * EPOCH_HEIGHTS + 1))
        assert jailed(after, 3) == found


def test_where_nothing_is_kept_nobody_is_asked_or_jailed() -> None:
    """Epoch after epoch the members stay."""
    state = run(GENESIS, *range(1, 3 * EPOCH_HEIGHTS + 1))
    assert questions(state) == {}
    assert jailed(state, 4) == []
    assert len(roster_of(state, 4).members) == 7


def test_who_is_gone_already_is_left_alone() -> None:
    """A silent member that left or was expelled has nothing to be jailed for, and one with no stake no entry."""
    state = answered_by(ASKED, [0, 1, 2, 4, 6], EPOCH_HEIGHTS + 1)
    held = state.get(VALIDATORS, CARDS[3].node)
    state = state.put_validator(held, replace(held, status=ValidatorStatus.LEFT))
    after = run(state, *range(EPOCH_HEIGHTS + 1, 2 * EPOCH_HEIGHTS + 1))
    assert jailed(after, 3) == [5]


def test_who_is_silent_again_stays_longer() -> None:
    """In the epoch that was fixed before it was jailed it is asked as well; it weighs nothing more among the jailed."""
    state = jail(GENESIS, roster(1), silent=[3, 5])
    state = jail(state, roster(2), silent=[3, 5])
    assert jailed(state, 3 + JAIL_EPOCHS) == [3, 5]
    assert jailed(state, 4 + JAIL_EPOCHS) == []


def test_those_in_jail_count_when_more_are_silent() -> None:
    """With two of seven in jail a third would leave four: it is spared, and jailed when the others are free again."""
    state = jail(GENESIS, roster(1), silent=[3, 5])
    assert jailed(jail(state, roster(2), silent=[4]), 4) == [3, 5]
    assert jailed(jail(state, roster(1 + JAIL_EPOCHS), silent=[4]), 3 + JAIL_EPOCHS) == [4]


def jail(state: State, of: Roster, silent: list[int]) -> State:
    """The end of a roster's epoch in which these say nothing and the others answer."""
    for at, card in enumerate(CARDS):
        height = None if at in silent else 60
        question = CustodyQuestion(of.epoch, blob_digest(b"subject"), 0, 0, 0, height)
        state = state.put(CUSTODY_QUESTIONS, question, card.node)
    return jail_silent(state, of, list(state.validators()))


stakes = st.lists(st.one_of(st.integers(1, 5), st.integers(1, 10**9)), min_size=7, max_size=7)
silences = st.lists(st.sets(st.integers(0, 6)), min_size=1, max_size=6)


@given(stakes, silences)
@settings(max_examples=300)
def test_however_many_are_silent_more_than_two_thirds_stay(given: list[int], epochs: list[set[int]]) -> None:
    """Of any stakes, epoch after epoch; nobody is jailed who answered; no money moves; a roster can be chosen."""
    state = seven(*given)
    for epoch, silent in enumerate(epochs, 1):
        before = state
        state = jail(state, roster(epoch, *given), sorted(silent))
        new = set(jailed(state, epoch + 2)) - set(jailed(before, epoch + 2))
        assert new <= silent
        spoke = sum(given[at] for at in range(7) if at not in silent)
        if 3 * spoke <= 2 * sum(given):
            assert not new
        free = [at for at in range(7) if at not in jailed(state, epoch + 2)]
        assert 3 * sum(given[at] for at in free) > 2 * sum(given)
        assert state.supply == before.supply
        chosen = choose_roster(state, Epoch(epoch + 2), BEACON, roster(epoch), Height(0))
        assert [member.node for member in chosen.members] == [CARDS[at].node for at in free]


def test_the_heaviest_hundred_are_those_who_count() -> None:
    """A jailed validator makes room for the next in line; the weight of those who are too light for a roster is no help."""
    state, (light, *_) = GENESIS, CARDS
    held = state.get(VALIDATORS, light.node)
    jailed_one: Validator = replace(held, jailed_until=9)
    state = state.put_validator(held, jailed_one)
    for epoch, is_in in ((9, False), (10, True)):
        chosen = choose_roster(state, Epoch(epoch), BEACON, roster(1), Height(0))
        assert (light.node in [member.node for member in chosen.members]) is is_in
