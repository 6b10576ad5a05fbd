"""Votes, headers and bodies: what exactly is signed and hashed."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from msgspec.structs import fields, replace

from protocol.codec import decode, encode
from protocol.digest import Domain, blob_digest, digest
from protocol.finality import (
    EMPTY_BODY,
    NO_BLOCK,
    Body,
    ChainId,
    Header,
    ValidatorMessage,
    Vote,
    VoteKind,
    body_root,
    vote_text,
)
from protocol.ids import NetworkId
from protocol.limits import (
    BODY_BYTES_MAX,
    CONTRIBUTORS_PER_AGGREGATE_MAX,
    CONTRIBUTORS_PER_HEAD_MAX,
    DELTAS_PER_SLOT_MAX,
    DIRECT_HEAD_BYTES_MAX,
    HEAD_BYTES_MAX,
    HEADS_PER_BODY_MAX,
)
from tests.protocol.samples import head
from tests.strategies import values

LARGEST = 2**63 - 1
CHAIN = ChainId.of(NetworkId(b"net1" + bytes(28)))


def test_no_two_votes_share_a_text() -> None:
    """Chain, fork, epoch, view, kind and block each separate what a vote signs."""
    chains = [CHAIN, ChainId.of(NetworkId(b"net2" + bytes(28))), replace(CHAIN, fork=1)]
    blocks = [NO_BLOCK, blob_digest(b"block")]
    texts = [vote_text(*parts) for parts in product(chains, (0, 1), (0, 1), VoteKind, blocks)]
    assert len(set(texts)) == len(texts) == 3 * 2 * 2 * 3 * 2


def test_a_chain_is_the_start_of_its_network() -> None:
    """Four bytes of the network id, before any emergency fork."""
    assert ChainId(b"net1", 0) == CHAIN


@pytest.mark.parametrize("name", [field.name for field in fields(Header)])
def test_every_field_of_a_header_is_in_its_id(name: str) -> None:
    """Two headers that differ anywhere are two blocks."""

    @given(values(Header), values(Header))
    def check(one: Header, other: Header) -> None:
        mixed = replace(one, **{name: getattr(other, name)})
        assert (mixed.digest() == one.digest()) is (mixed == one)

    check()


@given(values(Header))
def test_a_block_id_is_over_the_bytes_that_travel(header: Header) -> None:
    """Under the domain of blocks."""
    assert header.digest() == digest(Domain.BLOCK, encode(header))


def test_validators_messages_are_told_apart_by_their_first_element() -> None:
    """One stream carries them all: the tags are distinct and stable."""
    tags = {kind.__name__: kind.__struct_config__.tag for kind in ValidatorMessage.__args__}
    assert tags == {"Vote": 1, "Certificate": 2, "Proposal": 3, "BodyMessage": 4, "Status": 5, "Want": 6}


@given(values(Vote))
def test_a_vote_has_about_a_hundred_bytes(vote: Vote) -> None:
    """Votes of a hundred members fit in a few packets; the type on the wire is the one that was sent."""
    data = encode(vote)
    assert len(data) <= 140
    assert type(decode(ValidatorMessage, data, limit_bytes=140)) is Vote


def test_an_empty_body_is_one_constant() -> None:
    """Idle blocks share it, and its root is not that of a blob."""
    assert decode(Body, EMPTY_BODY, limit_bytes=8) == Body(())
    assert body_root(EMPTY_BODY) != blob_digest(EMPTY_BODY)


def test_the_largest_body_of_heads_fits() -> None:
    """As many heads as a body may hold, each of as many deltas as a slot may take, with the longest of numbers.

    With as many contributors as a head may name, a head is as long as its bound says: a body holds fewer of those.
    """
    reference = replace(head().deltas[0], base=LARGEST, weight=LARGEST)
    longest = replace(
        head(),
        tile="a" * 62 + "/0",
        version=LARGEST,
        attempt=LARGEST,
        round=LARGEST,
        update_bytes=LARGEST,
        deltas=(reference,) * DELTAS_PER_SLOT_MAX,
    )
    assert len(encode(longest)) <= DIRECT_HEAD_BYTES_MAX
    assert len(encode(Body((longest,) * HEADS_PER_BODY_MAX))) <= BODY_BYTES_MAX
    each = CONTRIBUTORS_PER_HEAD_MAX // DELTAS_PER_SLOT_MAX
    full = [CONTRIBUTORS_PER_AGGREGATE_MAX] * 8 + [0] * (DELTAS_PER_SLOT_MAX - 8)
    for counts in ([each] * DELTAS_PER_SLOT_MAX, full):
        assert sum(counts) == CONTRIBUTORS_PER_HEAD_MAX
        deltas = tuple(replace(reference, contributors=(reference.delta,) * count) for count in counts)
        assert len(encode(replace(longest, deltas=deltas))) <= HEAD_BYTES_MAX
