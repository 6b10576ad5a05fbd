"""The state's tree: its root says the entries and nothing else, and one entry can be proved by it."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.state import ACCOUNTS, State, Supply, Table
from consensus.state_tree import StateTree, StoredEntry
from protocol.codec import Message, decode, encode
from protocol.ids import Digest
from protocol.limits import STATE_BUCKETS
from protocol.merkle import merkle_root
from protocol.rejection import Reason, Rejected
from protocol.state_proof import (
    NO_ENTRIES,
    StateProof,
    SubChain,
    bucket_digest,
    bucket_of,
    check_state_proof,
    combine_roots,
    entry_leaf,
    key_digest,
    value_digest,
)
from tests.consensus.ledger_samples import ACCOUNT_IDS, GENESIS
from tests.strategies import wound

STORED = Path(__file__).parent.parent / "vectors" / "protocol" / "state.json"


class Word(Message, frozen=True):
    """A value of a test."""

    text: str


WORDS = Table(SubChain.A, b"w", Word)  # type: ignore[type-var]  # a table of this test
NO_MONEY = Supply(0, 0, 0, 0, 0, 0)


def colliding_keys(count: int) -> list[bytes]:
    """Keys that share a bucket, found by trying."""
    found: dict[int, list[bytes]] = {}
    number = 0
    while True:
        key = number.to_bytes(4, "big")
        bucket = found.setdefault(bucket_of(key_digest(b"w" + key)), [])
        bucket.append(key)
        if len(bucket) == count:
            return bucket
        number += 1


CROWD = colliding_keys(5)
KEYS = st.one_of(st.sampled_from(CROWD), st.binary(max_size=3))
CHANGES = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.text(max_size=3))), max_size=30)


def naive_root(entries: dict[bytes, str]) -> Digest:
    """The sub-root as its drawing says, without a tree."""
    buckets: list[list[tuple[Digest, Digest]]] = [[] for _ in range(STATE_BUCKETS)]
    for key, text in entries.items():
        place = key_digest(key)
        buckets[bucket_of(place)].append((place, value_digest(encode(Word(text)))))
    empty = bucket_digest(0, NO_ENTRIES)
    leaves = []
    for bucket in buckets:
        entry_leaves = [entry_leaf(*pair) for pair in sorted(bucket)]
        leaves.append(bucket_digest(len(bucket), merkle_root(entry_leaves)) if bucket else empty)
    return merkle_root(leaves)


def build(changes: list[tuple[bytes, str | None]]) -> tuple[StateTree, dict[bytes, str]]:
    """A tree after changes, with its root asked for on the way, and a dictionary after the same."""
    tree, entries = StateTree(), {}
    for index, (key, text) in enumerate(changes):
        if text is None:
            tree = tree.delete(key)
            entries.pop(key, None)
        else:
            tree = tree.put(key, Word(text))
            entries[key] = text
        if index % 3 == 0:
            tree.root()
    return tree, entries


@given(CHANGES)
def test_a_tree_holds_what_a_dictionary_holds(changes):
    """After any puts and deletes, of keys that share a bucket too."""
    tree, entries = build(changes)
    for key, _ in changes:
        found = tree.find(key)
        assert (found.text if isinstance(found, Word) else None) == entries.get(key)
    assert dict(tree.items()) == {key: Word(text) for key, text in entries.items()}
    assert [key for key, _ in tree.items()] == sorted(entries, key=key_digest)


@given(CHANGES, st.randoms(use_true_random=False))
def test_the_root_depends_on_the_entries_alone(changes, random):
    """Incremental, rebuilt in any order, and with everything once deleted: one root."""
    tree, entries = build(changes)
    shuffled = list(entries.items())
    random.shuffle(shuffled)
    again, _ = build(shuffled)
    assert tree.root() == again.root()
    for key in entries:
        tree = tree.delete(key)
    assert tree.root() == StateTree().root()


@settings(max_examples=3)
@given(CHANGES)
def test_the_root_is_the_one_that_is_drawn(changes):
    """Computed bucket by bucket over all 65,536 of them."""
    tree, entries = build([*changes, (CROWD[0], "a"), (CROWD[1], "b"), (CROWD[2], "c")])
    assert tree.root() == naive_root(entries)


@given(CHANGES, KEYS, st.text(max_size=3))
def test_an_older_tree_does_not_change(changes, key, text):
    """A put makes another tree, and the one before keeps its entries and its root."""
    tree, entries = build(changes)
    before = tree.root()
    after = tree.put(key, Word(text))
    assert tree.root() == before
    assert (after.root() == before) == (entries.get(key) == text)
    assert dict(tree.items()) == {key: Word(text) for key, text in entries.items()}


class Shelf:
    """What a disk has of a tree, and which buckets were read from it."""

    def __init__(self, tree: StateTree) -> None:
        self.entries: dict[int, list[StoredEntry]] = {}
        self.read: list[int] = []
        for key, value in tree.items():
            place = key_digest(key)
            leaf = entry_leaf(place, value_digest(encode(value)))
            self.entries.setdefault(bucket_of(place), []).append((key, value, (place, leaf)))
        self.digests = {
            bucket: bucket_digest(len(held), merkle_root([leaf for _, _, (_, leaf) in held]))
            for bucket, held in self.entries.items()
        }

    def find(self, bucket: int, expected: Digest) -> list[StoredEntry]:
        assert self.digests[bucket] == expected
        self.read.append(bucket)
        return self.entries[bucket]


@given(CHANGES, CHANGES)
def test_an_opened_tree_is_the_one_that_was_written(before, changes):
    """Finds, changes and roots are those of the tree in memory; a bucket is read when it is looked at, once, and no other."""
    tree, _ = build(before)
    shelf = Shelf(tree)
    opened = StateTree.open(shelf.digests, shelf.find)
    assert opened.root() == tree.root()
    assert shelf.read == []
    first, first_root = opened, opened.root()
    for key, text in changes:
        assert opened.find(key) == tree.find(key)
        tree, opened = (each.delete(key) if text is None else each.put(key, Word(text)) for each in (tree, opened))
    assert opened.root() == tree.root()
    looked_at = {bucket_of(key_digest(key)) for key, _ in changes}
    assert sorted(shelf.read) == sorted(looked_at & shelf.entries.keys())
    assert dict(opened.items()) == dict(tree.items())
    assert first.root() == first_root
    assert len(shelf.read) == len(shelf.entries)  # everything was looked at now, and nothing twice


@given(CHANGES, KEYS)
def test_trees_of_one_opening_see_what_one_of_them_read(changes, key):
    """So the disk may go on as soon as a change was made: to make it was to read the bucket, for the older tree too."""
    tree, _ = build([*changes, (key, "as it was")])
    shelf = Shelf(tree)
    older = StateTree.open(shelf.digests, shelf.find)
    newer = older.put(key, Word("as it is"))
    shelf.entries.clear()
    assert (older.find(key), newer.find(key)) == (Word("as it was"), Word("as it is"))
    assert older.root() == tree.root()
    assert dict(newer.changes_since(older)) == {key: Word("as it is")}


def state_of(changes: list[tuple[bytes, str | None]]) -> State:
    state = State(tuple(StateTree() for _ in SubChain), NO_MONEY)
    for key, text in changes:
        state = state.delete(WORDS, key) if text is None else state.put(WORDS, Word(text), key)
    return state


def check(state: State, key: bytes, proof: StateProof, value: Word | None) -> None:
    data = None if value is None else encode(value)
    check_state_proof(proof, state.root(), SubChain.A, WORDS.prefix + key, data)


def is_refused(state: State, key: bytes, proof: StateProof, value: Word | None) -> bool:
    try:
        check(state, key, proof, value)
    except Rejected as refusal:
        return refusal.reason is Reason.BAD_PROOF
    return False


@given(CHANGES, KEYS)
def test_presence_and_absence_are_proved_by_the_root(changes, key):
    """A proof shows what is there, and nothing else: no other value, no absence of it, no presence of what is absent."""
    state = state_of(changes)
    value, proof = state.find(WORDS, key), state.prove(WORDS, key)
    check(state, key, proof, value)
    assert is_refused(state, key, proof, Word("another") if value != Word("another") else None)
    assert value is None or is_refused(state, key, proof, None)
    assert decode(StateProof, encode(proof), limit_bytes=1 << 16) == proof


@settings(max_examples=40)
@given(st.lists(st.sampled_from(CROWD), unique=True), st.sampled_from(CROWD), st.integers(0, 2**32))
def test_every_changed_proof_is_refused(present, key, seed):
    """Whatever is changed in a proof, and still is a proof: there is one for each key and state."""
    random = Random(seed)
    state = state_of([(other, "x") for other in present])
    value, proof = state.find(WORDS, key), state.prove(WORDS, key)
    data = encode(proof)
    for _ in range(60):
        try:
            changed = decode(StateProof, wound(random, data), limit_bytes=1 << 16)
        except Rejected:
            continue
        assert changed == proof or is_refused(state, key, changed, value)


@pytest.mark.parametrize("present", range(6))
def test_a_proof_of_another_key_proves_nothing(present):
    """Neither presence nor absence of this one, in a bucket of nought to five entries."""
    state = state_of([(key, "x") for key in CROWD[:present]])
    for key in CROWD:
        for other in CROWD:
            value, proof = state.find(WORDS, key), state.prove(WORDS, other)
            assert proof == state.prove(WORDS, key) or is_refused(state, key, proof, value)


def test_absence_is_not_proved_by_what_stands_elsewhere():
    """Two entries that are no neighbours, an entry that is at no end, or none at all of a bucket that has some."""
    state = state_of([(key, "x") for key in CROWD])
    ordered = sorted(CROWD, key=lambda key: key_digest(WORDS.prefix + key))
    proofs = [state.prove(WORDS, key) for key in ordered]
    entries = [proof.shown[0] for proof in proofs]
    for shown in [(), (entries[0], entries[2]), (entries[1],), (entries[1], entries[2]), (entries[2], entries[1])]:
        for key in CROWD:
            assert is_refused(state, key, replace(proofs[0], shown=shown), None)


def test_a_proof_is_of_one_sub_chain_and_one_root():
    """An account is in C; the same proof shows nothing of D, nor of another state."""
    account = ACCOUNT_IDS[0]
    key, value = ACCOUNTS.prefix + account, encode(GENESIS.account(account))
    proof = GENESIS.prove(ACCOUNTS, account)
    check_state_proof(proof, GENESIS.root(), SubChain.C, key, value)
    for root, chain in ((GENESIS.root(), SubChain.D), (state_of([]).root(), SubChain.C)):
        with pytest.raises(Rejected):
            check_state_proof(proof, root, chain, key, value)
    richer = GENESIS.add_balance(account, 1)
    with pytest.raises(Rejected):
        check_state_proof(proof, richer.root(), SubChain.C, key, value)
    assert len(encode(proof)) < 1_000


def test_the_tree_makes_the_stored_roots():
    """An empty sub-chain, and how five of them combine; the tree agrees with the golden bytes, made without it."""
    stored = json.loads(STORED.read_text())
    empty = StateTree().root()
    assert empty.hex() == stored["empty sub-root"]
    alone = Digest(bytes.fromhex(stored["sub-root of the entry alone"]))
    assert combine_roots([alone, *[empty] * 4]).hex() == stored["state root"]


def test_the_collector_does_not_visit_a_tree():
    """Whatever a state holds costs a garbage collection nothing: of a million accounts it would be seconds of pause."""
    gc.collect()
    before = len(gc.get_objects())
    tree = StateTree()
    for number in range(500):
        tree = tree.put(number.to_bytes(2, "big"), Word("x"))
    gc.collect()  # which lets go of tuples that hold nothing to visit
    assert len(gc.get_objects()) - before < 100
    assert sum(1 for _ in tree.items()) == 500
