"""Genesis: the first state is checked whole before anything is built on it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from msgspec.structs import replace

from protocol.codec import encode
from protocol.genesis import Founder, Genesis, check_genesis, genesis_roster
from protocol.ids import NetworkId
from protocol.limits import HISTORY_TICKS_PER_SEGMENT_MAX, NANO_PER_NOCK, SUPPLY_NANO_MAX, TILE_BYTES_MAX
from protocol.rejection import Reason, Rejected
from protocol.roster import MemberCard
from tests.protocol.samples import NODE_KEYS, genesis, manifest, member_cards
from tests.strategies import values


def test_an_honest_genesis_is_accepted_under_its_id() -> None:
    """The document that was asked for, and also when nobody named one."""
    document = encode(genesis())
    assert check_genesis(document) == genesis()
    assert check_genesis(document, genesis().network_id()) == genesis()


def test_another_genesis_is_a_foreign_network() -> None:
    """Whoever serves the document need not be trusted."""
    with pytest.raises(Rejected, match="the one asked for is 0000") as rejected:
        check_genesis(encode(genesis()), NetworkId(bytes(32)))
    assert rejected.value.reason is Reason.FOREIGN_NETWORK


cards = member_cards()
founders = genesis().founders


def with_card(card: MemberCard) -> Founder:
    """A founder of other keys."""
    return replace(founders[0], card=card)


FAULTS: dict[str, dict[str, Any]] = {
    "a version of the future": {"version": 2},
    "a name with a newline": {"network_name": "sample\n"},
    "a name with capitals": {"network_name": "Sample"},
    "no members": {"founders": ()},
    "members out of order": {"founders": founders[::-1]},
    "a member twice": {"founders": (founders[0], founders[0])},
    "a card of borrowed parts": {"founders": (with_card(replace(cards[0], vote=cards[1].vote)), *founders[2:])},
    "a shared vote key": {"founders": (founders[0], with_card(replace(cards[1], vote=cards[0].vote)))},
    "a founder without a stake": {"founders": (replace(founders[0], stake_nano=0),)},
    "more money than there may be": {"founders": (replace(founders[0], stake_nano=SUPPLY_NANO_MAX),)},
    "no data set": {"datasets": ()},
    "a data set without shards": {"datasets": (replace(manifest(), shards=(), shard_bytes=()),)},
    "more shards than sizes": {"datasets": (replace(manifest(), shard_bytes=(1,)),)},
    "an empty shard": {"datasets": (replace(manifest(), shard_bytes=(1, 0)),)},
    "epochs without room for a history": {"chain": replace(genesis().chain, epoch_heights=1)},
    "a history of nothing": {"chain": replace(genesis().chain, history_segment_ticks=0)},
    "a history that takes for ever": {
        "chain": replace(genesis().chain, history_segment_ticks=HISTORY_TICKS_PER_SEGMENT_MAX + 1)
    },
    "tiles too large": {"tile_bytes": TILE_BYTES_MAX + 4},
    "tiles too small": {"tile_bytes": 4_092},
    "tiles that cut a float": {"tile_bytes": 4_098},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_genesis_with_a_fault_is_refused(fault: dict[str, Any]) -> None:
    """Also by nodes that were given exactly its id."""
    document = replace(genesis(), **fault)
    with pytest.raises(Rejected) as rejected:
        check_genesis(encode(document), document.network_id())
    assert rejected.value.reason in (Reason.MALFORMED, Reason.BAD_SIGNATURE)


@given(values(Genesis))
def test_any_genesis_is_accepted_or_rejected(document: Genesis) -> None:
    """Well-typed nonsense raises nothing but ``Rejected``."""
    with pytest.raises(Rejected):
        check_genesis(encode(document))


def test_the_first_roster_has_its_stakes_as_weights_and_a_beacon_of_the_network() -> None:
    """Two networks with the same members elect differently."""
    first = genesis_roster(genesis())
    assert [member.node for member in first.members] == [key.public for key in NODE_KEYS]
    assert first.weights == (10_000 * NANO_PER_NOCK,) * 4
    assert first.epoch == 0
    assert genesis_roster(replace(genesis(), created_ms=1)).beacon != first.beacon


def test_the_network_id_is_over_everything() -> None:
    """Each field of the document changes it."""
    base = genesis()
    changes: dict[str, Any] = {
        "network_name": "other",
        "created_ms": 1,
        "model": replace(base.model, layers=5),
        "model_seed": bytes(32),
        "tile_bytes": 8_192,
        "learning": replace(base.learning, round_ms=1),
        "chain": replace(base.chain, tile_shards=5),
        "ledger": replace(base.ledger, fee_nano_per_byte=1),
        "founders": founders[:3],
        "datasets": (replace(manifest(), licence="MIT"),),
    }
    assert {*changes, "version"} == set(Genesis.__struct_fields__)
    ids = {replace(base, **{name: value}).network_id() for name, value in changes.items()}
    assert len(ids | {base.network_id()}) == len(changes) + 1
