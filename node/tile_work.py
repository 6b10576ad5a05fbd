"""Tile arithmetic: merge deltas, verify heads, apply updates. Where `compute` and `storage` meet.

One thread does all of it, one job after another, and it alone touches the tile store; blobs are handed in and out by the
event loop. So neither store needs a lock, and the loop stays free to answer peers.

    aggregate  a region's deltas -> pseudo-gradient -> what the aggregator says
    merge      deltas -> pseudo-gradient -> published update -> next state -> root
    verify     parent state + update     -> next state -> root == head.root ?
    apply      next state                -> the tile's next version, durable: it rests on its update, or has a file
    rebuild    base + updates            -> a version again, for the store (storage/io/tile_store.py)
    fold       a version with too many updates below it gets a file

A state that was computed for a merge or a verification is remembered until it is applied, so that each update is applied
once. What is remembered is bounded in bytes; what was forgotten is computed again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from compute.delta.codec import decode, encode, encode_and_read
from compute.delta.decoded import DecodedDelta
from compute.merge import Contribution, MergeRule, merge
from compute.model.genesis import genesis_tile
from compute.model.tiling import Tile, TileMap
from compute.outer import OuterRule, apply_update, initial_state
from protocol.genesis import MILLION, Genesis, LearningRule
from protocol.ids import Digest, TileId, Version
from protocol.learning import Contributor
from protocol.limits import MIB, TILE_VERSIONS_KEPT
from protocol.rejection import InvariantBroken, Reason, Rejected
from protocol.roster import DeltaRef, Head, Slot
from storage.compaction import Trigger
from storage.io.tile_store import TileStore, Updated
from storage.tensor_block import BytesLike
from storage.tile_format import CheckedTile, tile_block

REMEMBERED_BYTES_MAX = 512 * MIB  # states between verification and application; the devnet's whole model is 10 MiB


def outer_rule(rule: LearningRule) -> OuterRule:
    """The outer optimiser that a genesis names."""
    return OuterRule(
        name=rule.outer_rule,
        rate=Fraction(rule.outer_rate_micro, MILLION),
        momentum=Fraction(rule.outer_momentum_micro, MILLION),
    )


def merge_rule(rule: LearningRule) -> MergeRule:
    """The merge that a genesis names."""
    return MergeRule(name=rule.merge_rule, clip_multiple=Fraction(rule.clip_multiple_micro, MILLION))


def matrices_of(tile: Tile) -> tuple[tuple[int, int], ...]:
    """The shapes of the matrices that lie in a tile, in order: the codec codes their rows and columns by density.

    Whoever makes an update again must pass the same, or its bytes differ; decoding needs nothing.
    """
    return tuple((segment.rows, segment.columns) for segment in tile.segments)


def aggregate_payload(deltas: Sequence[Contribution], rule: LearningRule, tile: Tile) -> bytes:
    """What an aggregate of these deltas says: their merge by the genesis' rule. Anybody who has them derives the same bytes.

    Raises ``Rejected(BAD_DELTA)`` as ``merge``.
    """
    return encode(merge(deltas, merge_rule(rule)).gradient_N, rule.update_pipeline, matrices_of(tile))


def contributor(reference: DeltaRef) -> bytes:
    """The name under which a delta is merged, and its order: learner and base, as in the head.

    The learner alone would not do: it may give two deltas of the same bytes, on the parent and on the grandparent (zeros, for
    an expert that no token reached).
    """
    return reference.learner + reference.base.to_bytes(8, "big")


class UpdateRebuild:
    """:class:`storage.io.tile_store.Rebuild`: the outer step again, which gives the same bits each time."""

    def __init__(self, genesis: Genesis, find_update: Callable[[Digest], BytesLike | None]) -> None:
        """``find_update`` gives checked bytes by their digest, and is called from the tile thread."""
        self._outer = outer_rule(genesis.learning)
        self._find_update = find_update

    def __call__(self, base: CheckedTile, base_version: Version, updates: Sequence[Digest]) -> bytes:
        """Raises ``Rejected``: TILE_CORRUPT for the base, BLOB_CORRUPT or NOT_FOUND for an update."""
        state = _state_of(base)
        for version, name in enumerate(updates, base_version + 1):
            update = self._find_update(name)
            if update is None:
                raise Rejected(Reason.NOT_FOUND, f"the update to {base.tile_id}@{version}")
            state = apply_update(state, decode(bytes(update), base.values), self._outer, Version(version))
        return _block(base.tile_id, state)[0]


@dataclass(frozen=True, slots=True)
class MergeJob:
    """The deltas of one slot, with their payloads."""

    slot: Slot
    deltas: tuple[tuple[DeltaRef, bytes], ...]


@dataclass(frozen=True, slots=True)
class AggregateJob:
    """What an aggregate is made of, with the payloads."""

    tile: TileId
    deltas: tuple[tuple[Contributor, bytes], ...]


@dataclass(frozen=True, slots=True)
class AggregateResult:
    """The aggregate's payload; or why there is none and which deltas are to blame."""

    payload: bytes
    why: str = ""
    unusable: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class MergeResult:
    """The update to publish and the root after applying it; or why there is none and which deltas are to blame."""

    slot: Slot
    update: bytes
    root: Digest
    why: str = ""
    unusable: tuple[Digest, ...] = ()


class TileWork:
    """The thread's side. Every method is synchronous and is called from one thread at a time."""

    def __init__(self, genesis: Genesis, store: TileStore) -> None:
        self._genesis = genesis
        self._store = store
        self._rule = genesis.learning
        self._outer = outer_rule(genesis.learning)
        self._merge_rule = merge_rule(genesis.learning)
        self.tile_map = TileMap.from_shape(genesis.model, genesis.tile_bytes)
        self._remembered: OrderedDict[tuple[TileId, Digest], bytes] = OrderedDict()
        self._remembered_bytes = 0

    def ensure_genesis(self, known: Mapping[TileId, Digest] | None = None) -> dict[TileId, Digest]:
        """Version 0 of every tile for which nothing is held; returns the genesis root of every tile.

        ``known`` roots from an earlier start save drawing the weights again, unless a tile is missing.
        """
        if known and all(self._store.newest(tile_id) is not None for tile_id in self.tile_map.ids):
            return dict(known)
        roots = {}
        for tile_id in self.tile_map.ids:
            weights = genesis_tile(self._genesis.model, self.tile_map, self._genesis.model_seed, tile_id)
            block, root = _block(tile_id, initial_state(weights, self._outer))
            roots[tile_id] = root
            if self._store.newest(tile_id) is None:
                self._store.put(tile_id, Version(0), block, root)
        return roots

    def merge(self, jobs: Iterable[MergeJob]) -> list[MergeResult]:
        """Merge each slot's deltas and compute the next state."""
        return [self._merge(job) for job in jobs]

    def _merge(self, job: MergeJob) -> MergeResult:
        tile_id, version = job.slot
        values = self.tile_map.tile(tile_id).values
        contributions: list[tuple[bytes, int, DecodedDelta]] = []
        unusable = []
        for reference, payload in job.deltas:
            try:
                contributions.append((contributor(reference), reference.weight, decode(payload, values)))
            except Rejected:
                unusable.append(reference.delta)
        try:
            if unusable:
                raise Rejected(Reason.BAD_DELTA, f"{len(unusable)} of {len(job.deltas)} deltas do not decode")
            gradient = merge(contributions, self._merge_rule).gradient_N
            update, said = encode_and_read(
                gradient, self._rule.update_pipeline, matrices_of(self.tile_map.tile(tile_id))
            )
            root = self._next(tile_id, Version(version - 1), said)
        except (Rejected, LookupError) as refusal:
            return MergeResult(job.slot, b"", Digest(bytes(32)), str(refusal), tuple(unusable))
        return MergeResult(job.slot, update, root)

    def aggregate(self, jobs: Iterable[AggregateJob]) -> list[AggregateResult]:
        """Merge a region's deltas, each job by itself, and say the result as an update is said: without a residual."""
        return [self._aggregate(job) for job in jobs]

    def _aggregate(self, job: AggregateJob) -> AggregateResult:
        tile = self.tile_map.tile(job.tile)
        contributions: list[tuple[bytes, int, DecodedDelta]] = []
        unusable = []
        for each, payload in job.deltas:
            try:
                contributions.append((each.learner, each.weight, decode(payload, tile.values)))
            except Rejected:
                unusable.append(each.delta)
        if unusable:
            return AggregateResult(b"", f"{len(unusable)} of {len(job.deltas)} deltas do not decode", tuple(unusable))
        try:
            return AggregateResult(aggregate_payload(contributions, self._rule, tile))
        except Rejected as refusal:
            return AggregateResult(b"", str(refusal))

    def verify(self, heads: Sequence[tuple[Head, bytes]]) -> list[Reason | None]:
        """For each head and its update: None when applying the update to the parent gives the head's root."""
        verdicts: list[Reason | None] = []
        for head, update in heads:
            try:
                root = self._next(head.tile, Version(head.version - 1), update, parent_root=head.parent_root)
                verdicts.append(None if root == head.root else Reason.WRONG_ROOT)
            except Rejected as refusal:
                verdicts.append(refusal.reason)
        return verdicts

    def apply(self, heads: Sequence[tuple[Head, bytes]]) -> None:
        """Make the next version of each head's tile durable. The heads are final.

        Raises ``InvariantBroken`` when a final head's update gives another root: the roster agreed on something that we
        cannot reproduce, and going on would spread it.
        """
        wave: dict[TileId, Head] = {}  # one version a tile: written together, with few syncs
        for head, update in heads:
            if head.tile in wave:
                self._put(wave)
            if (head.tile, head.root) not in self._remembered:
                root = self._next(head.tile, Version(head.version - 1), update, parent_root=head.parent_root)
                if root != head.root:
                    raise InvariantBroken(f"the final head of {head.slot} gives another root here")
            wave[head.tile] = head
        self._put(wave)

    def _put(self, wave: dict[TileId, Head]) -> None:
        self._store.put_updated(
            Updated(
                head.tile,
                head.version,
                self._forget(head.tile, head.root),
                head.root,
                head.update,
                head.update_bytes,
            )
            for head in wave.values()
        )
        for tile_id in wave:
            self._store.prune(tile_id, TILE_VERSIONS_KEPT)
        wave.clear()

    def adopt(self, tile_id: TileId, version: Version, file: bytes, root: Digest) -> None:
        """Keep a tile's file that was fetched and verified against a final root."""
        self._store.put(tile_id, version, file, root)
        self._store.prune(tile_id, TILE_VERSIONS_KEPT)

    def fold(self, tile_id: TileId) -> Trigger | None:
        """Give a tile's newest version a file of its own, if too many updates lie below it; says why it did.

        Raises ``Rejected(TILE_CORRUPT)`` where that version is damaged, and ``OSError``.
        """
        return self._store.fold(tile_id)

    def is_whole(self, tile_id: TileId, version: Version) -> bool:
        """Whether a version is held and all of it verifies."""
        try:
            self._open_whole(tile_id, version)
        except (LookupError, Rejected):
            return False
        return True

    def ensure_files(self, versions: Iterable[tuple[TileId, Version]]) -> list[str]:
        """Names of whole files of these versions, for a process that maps them. Raises ``Rejected(TILE_CORRUPT)``."""
        try:
            return [self._store.ensure_file(tile_id, version) for tile_id, version in versions]
        except LookupError as error:
            raise Rejected(Reason.TILE_CORRUPT, str(error)) from None

    def _next(
        self, tile_id: TileId, parent: Version, update: bytes | DecodedDelta, parent_root: Digest | None = None
    ) -> Digest:
        """Apply an update to a held version; remember the result; return its root."""
        try:
            tile = self._open_whole(tile_id, parent)
        except LookupError:
            raise Rejected(Reason.NOT_FOUND, f"{tile_id}@{parent} is not held here") from None
        if parent_root is not None and tile.root != parent_root:
            raise Rejected(Reason.WRONG_PARENT, f"{tile_id}@{parent}")
        state = _state_of(tile)
        said = decode(update, tile.values) if isinstance(update, bytes) else update
        following = apply_update(state, said, self._outer, Version(parent + 1))
        block, root = _block(tile_id, following)
        self._remember(tile_id, root, block)
        return root

    def _open_whole(self, tile_id: TileId, version: Version) -> CheckedTile:
        """A version, all of it verified. Where only a copy of it is damaged, that is put aside, and the version made again.

        Raises ``LookupError``, and ``Rejected(TILE_CORRUPT)``.
        """
        try:
            return self._open_verified(tile_id, version)
        except Rejected:
            if self._store.find(tile_id, version) is None:
                raise
        return self._open_verified(tile_id, version)

    def _open_verified(self, tile_id: TileId, version: Version) -> CheckedTile:
        tile = self._store.open(tile_id, version)
        tile.verify()
        return tile

    def _remember(self, tile_id: TileId, root: Digest, block: bytes) -> None:
        if (tile_id, root) in self._remembered:
            return
        self._remembered[tile_id, root] = block
        self._remembered_bytes += len(block)
        while self._remembered_bytes > REMEMBERED_BYTES_MAX and len(self._remembered) > 1:
            _, dropped = self._remembered.popitem(last=False)
            self._remembered_bytes -= len(dropped)

    def _forget(self, tile_id: TileId, root: Digest) -> bytes:
        block = self._remembered.pop((tile_id, root))
        self._remembered_bytes -= len(block)
        return block


def _state_of(tile: CheckedTile) -> NDArray[np.float32]:
    return np.frombuffer(tile.state, np.float32).reshape(tile.planes, tile.values)


def _block(tile_id: TileId, state: NDArray[np.float32]) -> tuple[bytes, Digest]:
    return tile_block(tile_id, np.ascontiguousarray(state).data.cast("B"), *state.shape)
