"""Members, quorums and heads: what learning takes from the chain."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from protocol.ids import PeerId, Signature
from protocol.keys import KeyPair
from protocol.learning import check_delta_signature
from protocol.rejection import Reason, Rejected
from protocol.roster import MemberCard, check_head_signature, check_member_card
from tests.protocol.samples import NODE_KEYS, VOTE_KEYS, delta, head, member_cards, roster
from tests.strategies import key_pairs


@given(st.tuples(key_pairs, key_pairs, key_pairs))
def test_a_card_binds_three_different_keys(keys: tuple[KeyPair, KeyPair, KeyPair]) -> None:
    """Each key signs the other two; one key in two roles is refused."""
    card = MemberCard.bind(*keys)
    if len({key.public for key in keys}) == 3:
        assert check_member_card(card) is card
    else:
        with pytest.raises(Rejected, match="must differ"):
            check_member_card(card)


@pytest.mark.parametrize("name", [field.name for field in fields(MemberCard)])
def test_a_card_with_a_foreign_part_is_refused(name: str) -> None:
    """Nobody registers a key that is not theirs: each key and signature belongs to this card alone."""
    one, other = member_cards()[:2]
    with pytest.raises(Rejected) as rejected:
        check_member_card(replace(one, **{name: getattr(other, name)}))
    assert rejected.value.reason is Reason.BAD_SIGNATURE


def test_exactly_two_thirds_is_no_quorum() -> None:
    """Strictly more is needed."""
    assert [roster(1, 1, 1, 0).is_quorum(weight) for weight in range(4)] == [False, False, False, True]
    assert [roster().is_quorum(weight) for weight in range(5)] == [False, False, False, True, True]
    assert not roster(0, 0, 0, 0).is_quorum(0)


@given(st.lists(st.integers(0, 9), min_size=4, max_size=4))
def test_two_quorums_share_more_than_a_third(weights: list[int]) -> None:
    """Any two of them; this is all that safety rests on."""
    members = roster(*weights)
    choices = list(product((0, 1), repeat=4))

    def total(choice: tuple[int, ...]) -> int:
        return sum(weight for weight, chosen in zip(weights, choice, strict=True) if chosen)

    quorums = [choice for choice in choices if members.is_quorum(total(choice))]
    for one, other in product(quorums, quorums):
        shared = tuple(a & b for a, b in zip(one, other, strict=True))
        assert 3 * total(shared) > members.weight_total


def test_a_member_is_found_by_its_node_key_only() -> None:
    """By position among the members; a vote key or a stranger is not found."""
    for index, key in enumerate(NODE_KEYS):
        assert roster().find_index(PeerId(key.public)) == index
    assert roster().find_index(PeerId(VOTE_KEYS[0].public)) is None


def test_every_part_of_a_roster_is_in_its_digest() -> None:
    """Epoch, members, weights and beacon."""
    base = roster()
    others = [
        replace(base, epoch=1),
        replace(base, members=base.members[::-1]),
        roster(1, 1, 1, 2),
        replace(base, beacon=bytes(32)),
    ]
    assert len({base.digest(), *(other.digest() for other in others)}) == 5


@pytest.mark.parametrize("name", [field.name for field in fields(type(head()))])
def test_every_field_of_a_head_is_signed(name: str) -> None:
    """Changing any field of a signed head breaks its signature."""
    changed = {"tile": "trunk/1", "deltas": (), "signature": Signature(bytes(64))}
    value = getattr(head(), name)
    other = changed.get(name, value + 1 if isinstance(value, int) else bytes(32))
    check_head_signature(head())
    with pytest.raises(Rejected) as rejected:
        check_head_signature(replace(head(), **{name: other}))
    assert rejected.value.reason is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("name", [field.name for field in fields(type(delta()))])
def test_every_field_of_a_delta_is_signed(name: str) -> None:
    """Changing any field of a signed delta breaks its signature and its name."""
    changed = {"tile": "trunk/1", "signature": Signature(bytes(64)), "payload": b"other"}
    value = getattr(delta(), name)
    other = replace(delta(), **{name: changed.get(name, value + 1 if isinstance(value, int) else bytes(32))})
    check_delta_signature(delta())
    assert other.digest() != delta().digest()
    with pytest.raises(Rejected) as rejected:
        check_delta_signature(other)
    assert rejected.value.reason is Reason.BAD_SIGNATURE


def test_a_heads_tokens_are_the_weights_of_its_deltas() -> None:
    """Not what learners claimed: what the merge counted."""
    assert head().tokens == 30_848
    assert str(head().slot) == "layer3.expert7/0@7"
