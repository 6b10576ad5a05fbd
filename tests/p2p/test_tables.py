"""The tables of topics, requests and record kinds, and the texts that name their rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import records
from p2p.requests import REQUESTS, VOTE, get_request_rule
from p2p.topics import TOPICS, find_topic_rule, get_topic_rule, topic_text
from protocol.codec import encode
from protocol.ids import PeerId, ShardId
from protocol.keys import KeyPair
from protocol.limits import FRAME_BYTES_MAX, GOSSIP_MESSAGE_BYTES_MAX
from protocol.rejection import Reason, Rejected

NETWORK = bytes(range(32))
KEYS = KeyPair.from_seed(b"k" * 32)
ME = PeerId(KEYS.public)


def test_topics_name_their_network():
    """The text of a topic carries the network, so two networks never share a mesh."""
    assert topic_text(NETWORK, "tx") == "nock/00010203/tx"
    assert topic_text(NETWORK, "tiles", ShardId(7)) == "nock/00010203/tiles/7"
    assert topic_text(NETWORK, "tx") != topic_text(bytes(32), "tx")


@pytest.mark.parametrize("name", sorted(TOPICS))
def test_a_topic_is_found_by_its_text(name):
    """Every row comes back from its own text."""
    rule = TOPICS[name]
    text = topic_text(NETWORK, name, ShardId(65535) if rule.is_sharded else None)
    assert get_topic_rule(text) is rule
    assert 0 < rule.message_bytes_max <= GOSSIP_MESSAGE_BYTES_MAX


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tx",
        "nock/00010203/weather",
        "nock/00010203/tiles",
        "nock/00010203/tx/1",
        "nock/00010203/tiles/-1",
        "x/0/tx",
    ],
)
def test_other_texts_are_no_topics(text):
    """What is not in the table has no rule."""
    assert find_topic_rule(text) is None
    with pytest.raises(ValueError, match="not a topic"):
        get_topic_rule(text)


@given(st.text(max_size=40))
def test_hostile_topics_never_raise(text):
    """Any text has a rule or none."""
    find_topic_rule(text)


def test_a_shard_is_given_where_it_belongs():
    """Only sharded topics take a shard, and they need one."""
    with pytest.raises(ValueError, match="needs a shard"):
        topic_text(NETWORK, "tiles")
    with pytest.raises(ValueError, match="has no shard"):
        topic_text(NETWORK, "tx", ShardId(0))


def test_requests_fit_their_frames():
    """No row promises more than a frame carries, and only told protocols have no answer."""
    for rule in REQUESTS.values():
        assert rule.request_bytes_max <= FRAME_BYTES_MAX
        assert rule.response_bytes_max <= FRAME_BYTES_MAX
        assert (rule.response_bytes_max == 0) == rule.is_one_way
    assert get_request_rule("/nock/vote/1") is VOTE
    with pytest.raises(ValueError, match="not a protocol"):
        get_request_rule("/nock/weather/1")


@given(st.binary(max_size=64), st.sampled_from(["peer", "blob", "tile"]))
def test_keys_are_short_enough_to_be_answered(identity, kind):
    """Peers ignore keys over 50 bytes; ours have 38, in one namespace."""
    key = records.record_key(kind, identity)
    assert len(key) == 38
    assert key.startswith("/nock/")
    assert key.isascii()
    assert key == key.lower()


def test_kinds_do_not_share_keys():
    """One name in two kinds is two keys."""
    assert records.record_key("blob", b"x") != records.record_key("tile", b"x")
    assert records.tile_key("trunk/0") != records.tile_key("trunk/1")


def test_a_peer_record_proves_itself():
    """A record made by a peer is accepted under that peer's key."""
    value = records.build_peer_record(KEYS, 5, ["/ip4/1.2.3.4/tcp/1"])
    assert records.check_record(records.peer_key(ME), value) == 5
    claim = records.check_peer_record(records.peer_key(ME), value)
    assert (claim.peer, claim.sequence, claim.addresses) == (ME, 5, ("/ip4/1.2.3.4/tcp/1",))


def test_a_foreign_record_is_refused():
    """Another key, another signature or another kind is refused with its reason."""
    value = records.build_peer_record(KEYS, 5, [])
    with pytest.raises(Rejected) as caught:
        records.check_record(records.peer_key(PeerId(b"x" * 32)), value)
    assert caught.value.reason is Reason.WRONG_DIGEST
    with pytest.raises(Rejected) as caught:
        records.check_record(records.peer_key(ME), value[:-1] + bytes([value[-1] ^ 1]))
    assert caught.value.reason is Reason.BAD_SIGNATURE
    with pytest.raises(Rejected) as caught:
        records.check_record(records.peer_key(ME), encode(records.Record(kind="weather", body=b"")))
    assert caught.value.reason is Reason.UNKNOWN_KIND


@given(st.binary(max_size=300))
def test_hostile_records_are_only_ever_rejected(value):
    """Any bytes are a record or a Rejected."""
    with pytest.raises(Rejected):
        records.check_record(records.peer_key(ME), value)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.data())
def test_the_best_record_is_the_highest_and_of_equals_the_last(sequences, data):
    """Bad values never win, whatever surrounds them."""
    values: list[bytes] = []
    expected = -1
    for sequence in sequences:
        if data.draw(st.booleans()):
            values.append(b"junk")
        values.append(records.build_peer_record(KEYS, sequence, []))
        if sequence == max(sequences):
            expected = len(values) - 1
    assert records.choose_best(records.peer_key(ME), values) == expected


def test_among_bad_records_there_is_no_best():
    """When nothing is valid the last reason is raised."""
    with pytest.raises(Rejected):
        records.choose_best(records.peer_key(ME), [b"junk"])
    with pytest.raises(Rejected):
        records.choose_best(records.peer_key(ME), [])
