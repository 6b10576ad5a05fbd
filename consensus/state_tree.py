"""One sub-chain's entries as a persistent map that knows its Merkle root: 65,536 buckets below a binary tree.

    root ── 16 levels of nodes ── bucket: entries in ascending order of H(key)

Immutable: a change copies the sixteen nodes above one bucket and shares every other page with the tree before it, so old
states cost what they differ by, and a block that is not final is dropped by forgetting it. Digests are computed when a root is
asked for and remembered, so a block rehashes the buckets that it touched, each once, and the nodes above them.

The root depends on the entries alone, never on the order of changes: places come from digests, not from time.

A tree that is opened from a disk knows the digests of its buckets, and reads the entries of one when it is looked at first.
That is sound without a version of anything: to change a bucket is to look at it first, and every tree that has it sees what was
read then. So as long as nobody has looked, nobody has changed it, and the disk has what it had when the tree was opened. It is
sound for one thread: another one that looks while this one goes on could read what the disk has by now.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import cast

from msgspec import Struct

from protocol.codec import Message, encode
from protocol.ids import Digest
from protocol.merkle import merkle_proof, merkle_root, node_digest
from protocol.state_proof import (
    BUCKET_LEVELS,
    NO_ENTRIES,
    ProvedEntry,
    bucket_digest,
    bucket_of,
    entry_leaf,
    key_digest,
    value_digest,
)

StoredEntry = tuple[bytes, Message, tuple[Digest, Digest]]
"""Key, value, and (place, leaf)."""

ReadBucket = Callable[[int, Digest], Sequence[StoredEntry]]
"""The entries of a bucket by its number and its digest, in ascending order of place; checked: they lead to the digest."""

# Structs without garbage collection: nothing here can be part of a cycle, and a collection that visits every node of a state of
# 100,000 accounts takes a third of a second, several times in a second of transfers (docs/log.md).


class _Entry(Struct, eq=False, gc=False):
    """A key with its value; the leaf is computed once."""

    place: Digest
    key: bytes
    value: Message
    _leaf: Digest | None = None

    def leaf(self) -> Digest:
        if self._leaf is None:
            self._leaf = entry_leaf(self.place, value_digest(encode(self.value)))
        return self._leaf


class _Node(Struct, eq=False, gc=False):
    """A node of the tree; ``root`` is None until it is asked for."""

    left: _Node = cast("_Node", None)  # only a bucket has no children
    right: _Node = cast("_Node", None)
    _root: Digest | None = None

    def root(self) -> Digest:
        if self._root is None:
            self._root = node_digest(self.left.root(), self.right.root())
        return self._root


class _Bucket(_Node, eq=False, gc=False):
    """A leaf of the tree: ``entries`` in ascending order of place. It has no children."""

    entries: tuple[_Entry, ...] = ()

    def entries_root(self) -> Digest:
        return merkle_root([entry.leaf() for entry in self.entries]) if self.entries else NO_ENTRIES

    def root(self) -> Digest:
        if self._root is None:
            self._root = bucket_digest(len(self.entries), self.entries_root())
        return self._root

    def position(self, place: Digest) -> int:
        """Where an entry of this place stands, or would stand."""
        return bisect_left(self.entries, place, key=lambda entry: entry.place)

    def find(self, place: Digest) -> _Entry | None:
        for entry in self.entries:  # sixteen in a state of a million entries
            if entry.place == place:
                return entry
        return None


class _StoredBucket(_Bucket, eq=False, gc=False):
    """A bucket of which only the digest is known, until it is looked at."""

    number: int = 0
    read: ReadBucket | None = None  # None: it was read

    def load(self) -> None:
        if self.read is not None:
            found = self.read(self.number, self.root())
            self.entries = tuple(_Entry(place, key, value, leaf) for key, value, (place, leaf) in found)
            self.read = None


def _look(node: _Node) -> _Bucket:
    """A bucket with its entries."""
    if type(node) is _StoredBucket:
        node.load()
    return cast(_Bucket, node)


def _make_empty() -> tuple[_Node, ...]:
    nodes: list[_Node] = [_Bucket()]
    for _ in range(BUCKET_LEVELS):
        nodes.append(_Node(nodes[-1], nodes[-1]))
    return tuple(nodes)


_EMPTY = _make_empty()  # by level: an empty bucket, and up to the empty tree
_LEFTMOST_BIT = BUCKET_LEVELS - 1


class StateTree:
    """The entries of one sub-chain. Keys are bytes, values are messages."""

    __slots__ = ("_top",)

    def __init__(self, top: _Node = _EMPTY[-1]) -> None:
        self._top = top

    @classmethod
    def of(cls, entries: Iterable[tuple[bytes, Message]]) -> StateTree:
        """The tree of these keys and values, in any order: what as many ``put`` would make, without the trees between."""
        buckets: dict[int, list[_Entry]] = {}
        for key, value in entries:
            entry = _Entry(key_digest(key), key, value)
            buckets.setdefault(bucket_of(entry.place), []).append(entry)
        return cls._above(
            {
                number: _Bucket(entries=tuple(sorted(held, key=lambda entry: entry.place)))
                for number, held in buckets.items()
            }
        )

    @classmethod
    def open(cls, digests: Mapping[int, Digest], read: ReadBucket) -> StateTree:
        """The tree whose buckets with entries have these digests, by their numbers; ``read`` finds the entries."""
        return cls._above(
            {number: _StoredBucket(_root=digest, number=number, read=read) for number, digest in digests.items()}
        )

    @classmethod
    def _above(cls, buckets: Mapping[int, _Node]) -> StateTree:
        """The tree of these buckets, by their numbers; the others are empty."""
        level = dict(buckets)
        for empty in _EMPTY[:-1]:
            above = dict.fromkeys(index >> 1 for index in level)
            level = {index: _Node(level.get(2 * index, empty), level.get(2 * index + 1, empty)) for index in above}
        return cls(level.get(0, _EMPTY[-1]))

    def root(self) -> Digest:
        """The sub-root."""
        return self._top.root()

    def bucket_digest(self, key: bytes) -> Digest:
        """The digest of the bucket in which ``key`` stands, or would stand."""
        return self._find_bucket(key_digest(key)).root()

    def digests_below(self, prefix: bytes) -> list[Digest]:
        """The 256 digests eight levels below a prefix of places: of none, its branches, or of one byte, its buckets."""
        nodes = [self._node(prefix)]
        for _ in range(8):
            nodes = [child for node in nodes for child in (node.left, node.right)]
        return [node.root() for node in nodes]

    def find(self, key: bytes) -> Message | None:
        """The value of a key."""
        place = key_digest(key)
        entry = self._bucket(place).find(place)
        return None if entry is None else entry.value

    def put(self, key: bytes, value: Message) -> StateTree:
        """The tree in which ``key`` has ``value``."""
        place = key_digest(key)
        bucket = self._bucket(place)
        at = bucket.position(place)
        rest = at + (at < len(bucket.entries) and bucket.entries[at].place == place)
        return self._with(place, (*bucket.entries[:at], _Entry(place, key, value), *bucket.entries[rest:]))

    def delete(self, key: bytes) -> StateTree:
        """The tree without ``key``."""
        place = key_digest(key)
        entries = self._bucket(place).entries
        return self._with(place, tuple(entry for entry in entries if entry.place != place))

    def items(self) -> Iterator[tuple[bytes, Message]]:
        """Every key and value in ascending order of H(key): the same in every process."""
        waiting = [(self._top, BUCKET_LEVELS)]
        while waiting:
            node, level = waiting.pop()
            if isinstance(node, _Bucket):
                yield from ((entry.key, entry.value) for entry in _look(node).entries)
            elif node.root() != _EMPTY[level].root():
                waiting += [(node.right, level - 1), (node.left, level - 1)]

    def changes_since(self, before: StateTree) -> Iterator[tuple[bytes, Message | None]]:
        """What differs from an earlier tree: keys with their values, None where one is gone. Shared pages are not looked at."""
        waiting = [(before._top, self._top)]
        while waiting:
            old, new = waiting.pop()
            if old is new:
                continue
            if isinstance(old, _Bucket) and isinstance(new, _Bucket):
                was = {entry.key: entry.value for entry in _look(old).entries}
                now = {entry.key: entry.value for entry in _look(new).entries}
                yield from ((key, value) for key, value in now.items() if was.get(key) != value)
                yield from ((key, None) for key in was if key not in now)
            else:
                waiting += [(old.right, new.right), (old.left, new.left)]

    def path(self, key: bytes) -> tuple[Digest, ...]:
        """The siblings from the key's bucket up to the root."""
        index, node, siblings = bucket_of(key_digest(key)), self._top, []
        for bit in range(_LEFTMOST_BIT, -1, -1):
            goes_right = index >> bit & 1
            siblings.append((node.left if goes_right else node.right).root())
            node = node.right if goes_right else node.left
        return tuple(reversed(siblings))

    def show(self, key: bytes) -> tuple[int, Digest, tuple[ProvedEntry, ...]]:
        """The key's bucket for a proof: how many entries, their root, and those that show the key or its absence."""
        place = key_digest(key)
        bucket = self._bucket(place)
        at = bucket.position(place)
        is_present = at < len(bucket.entries) and bucket.entries[at].place == place
        indices = [at] if is_present else [index for index in (at - 1, at) if 0 <= index < len(bucket.entries)]
        leaves = [entry.leaf() for entry in bucket.entries]
        shown = []
        for index in indices:
            entry = bucket.entries[index]
            value = value_digest(encode(entry.value))
            shown.append(ProvedEntry(index, entry.place, value, merkle_proof(leaves, index)))
        return len(bucket.entries), bucket.entries_root(), tuple(shown)

    def _find_bucket(self, place: Digest) -> _Node:
        index, node = bucket_of(place), self._top
        for bit in range(_LEFTMOST_BIT, -1, -1):
            node = node.right if index >> bit & 1 else node.left
        return node

    def _bucket(self, place: Digest) -> _Bucket:
        return _look(self._find_bucket(place))  # sixteen levels down there are only buckets

    def _node(self, prefix: bytes) -> _Node:
        node = self._top
        for byte in prefix:
            for bit in range(7, -1, -1):
                node = node.right if byte >> bit & 1 else node.left
        return node

    def _with(self, place: Digest, entries: tuple[_Entry, ...]) -> StateTree:
        index, node, above = bucket_of(place), self._top, []
        for bit in range(_LEFTMOST_BIT, -1, -1):
            above.append(node)
            node = node.right if index >> bit & 1 else node.left
        changed: _Node = _Bucket(entries=entries)
        for bit in range(BUCKET_LEVELS):
            node = above.pop()
            changed = _Node(node.left, changed) if index >> bit & 1 else _Node(changed, node.right)
        return StateTree(changed)
