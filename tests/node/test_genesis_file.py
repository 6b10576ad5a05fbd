"""The genesis document: founded from a template, a corpus and cards; a changed file is refused."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from node.config import load_template
from node.genesis_file import check_rules, found_network, read_genesis, read_shards, write_genesis
from protocol.codec import encode
from protocol.digest import blob_digest
from protocol.genesis import check_genesis
from protocol.ids import NetworkId
from protocol.keys import KeyPair
from protocol.rejection import Reason, Rejected
from protocol.roster import MemberCard

TEMPLATE = load_template("test")
SHARDS = (b"to be or not to be\n" * 4000,)


def card(number: int) -> MemberCard:
    return MemberCard.bind(*(KeyPair(bytes([number, role]) * 16) for role in range(3)))


def test_founders_agree_on_the_network_id():
    """The same template, corpus, seed and founders give the same id in any order of the founders."""
    first = found_network(TEMPLATE, [card(1), card(2), card(3)], SHARDS, 7, 1000)
    second = found_network(TEMPLATE, [card(3), card(1), card(2), card(1)], SHARDS, 7, 1000)
    assert first.network_id() == second.network_id()
    assert [founder.card.node for founder in first.founders] == sorted(card(number).node for number in (1, 2, 3))
    assert check_genesis(encode(first)) == first


def test_seed_corpus_and_founders_make_the_network():
    """Another seed, corpus or founder is another network."""
    ids = {
        found_network(TEMPLATE, [card(1)], SHARDS, 0, 1000).network_id(),
        found_network(TEMPLATE, [card(1)], SHARDS, 1, 1000).network_id(),
        found_network(TEMPLATE, [card(2)], SHARDS, 0, 1000).network_id(),
        found_network(TEMPLATE, [card(1)], (SHARDS[0] + b"x",), 0, 1000).network_id(),
    }
    assert len(ids) == 4


def test_the_manifest_names_the_shards():
    """Data set 0 lists every shard by digest and size, with the template's split."""
    manifest = found_network(TEMPLATE, [card(1)], SHARDS, 0, 1000).datasets[0]
    assert manifest.shards == tuple(blob_digest(shard) for shard in SHARDS)
    assert manifest.shard_bytes == (len(SHARDS[0]),)
    assert manifest.split_micro == 15_625


@pytest.mark.parametrize(
    "change",
    [
        {"model": msgspec.structs.replace(TEMPLATE.model, heads=5)},
        {"model": msgspec.structs.replace(TEMPLATE.model, experts_per_token=9)},
        {"learning": msgspec.structs.replace(TEMPLATE.learning, delta_pipeline="zip")},
        {"learning": msgspec.structs.replace(TEMPLATE.learning, update_pipeline="zip")},
        {"learning": msgspec.structs.replace(TEMPLATE.learning, merge_rule="sum")},
        {"learning": msgspec.structs.replace(TEMPLATE.learning, outer_rule="sgd")},
        {"learning": msgspec.structs.replace(TEMPLATE.learning, outer_momentum_micro=1_000_000)},
    ],
    ids=["heads", "experts", "delta", "update", "merge", "outer", "momentum"],
)
def test_rules_that_nobody_could_follow_are_refused(change):
    """A shape that cannot be, or a rule that no code knows, ends the founding, not the first round."""
    with pytest.raises(Rejected) as caught:
        check_rules(dataclasses.replace(TEMPLATE, **change))
    assert caught.value.reason is Reason.BAD_CONFIG


def test_a_corpus_too_small_for_the_model_is_refused(tmp_path):
    """Text that leaves no window of the model's context on one side of the split is refused."""
    with pytest.raises(Rejected) as caught:
        found_network(TEMPLATE, [card(1)], (b"short",), 0, 1000)
    assert caught.value.reason is Reason.BAD_CORPUS
    with pytest.raises(Rejected) as caught:
        read_shards(tmp_path / "nothing")
    assert caught.value.reason is Reason.BAD_CORPUS


def test_shards_of_a_folder_are_its_text(tmp_path):
    """Files of a folder come in the order of their names, a NUL after each."""
    (tmp_path / "b.txt").write_text("b" * 40_000)
    (tmp_path / "a.txt").write_text("a" * 40_000)
    assert read_shards(tmp_path) == (b"a" * 40_000 + b"\0" + b"b" * 40_000 + b"\0",)


def test_a_genesis_file_comes_back_and_a_changed_one_does_not(tmp_path):
    """What was written is read; one flipped bit anywhere, a cut or another id is refused."""
    genesis = found_network(TEMPLATE, [card(1)], SHARDS, 0, 1000)
    data, path = encode(genesis), tmp_path / "genesis.bin"
    write_genesis(path, data)
    assert read_genesis(path, genesis.network_id()) == genesis
    for position in range(0, len(data), 13):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        with pytest.raises(Rejected) as caught:
            read_genesis(path, genesis.network_id())
        assert caught.value.reason is Reason.BAD_DATA_DIRECTORY
    path.write_bytes(data[:-1])
    with pytest.raises(Rejected, match="damaged"):
        read_genesis(path)
    path.write_bytes(data)
    with pytest.raises(Rejected, match=r"network\.id in config\.toml"):
        read_genesis(path, NetworkId(bytes(32)))


def test_a_directory_without_genesis_says_how_to_get_one(tmp_path):
    """No genesis: found a network or join one."""
    with pytest.raises(Rejected, match="init --new"):
        read_genesis(tmp_path / "genesis.bin")
