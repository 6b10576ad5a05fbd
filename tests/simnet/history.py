"""Histories of small networks for checkers: real keys, deltas, merges, heads and blocks; no node and no network.

Heads are made by the node's own tile arithmetic, so a history that is right is one that nodes make. What a test wants wrong it
changes on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from msgspec.structs import replace as replace_message

from compute.delta.codec import decode as decode_delta
from compute.delta.codec import encode as encode_delta
from compute.exact import Float32
from compute.merge import merge
from node.tile_work import MergeJob, TileWork, matrices_of, merge_rule
from protocol.codec import decode, encode
from protocol.digest import blob_digest, digest
from protocol.finality import NO_BLOCK, Body, ChainId, FinalizedBlock, Header, body_root
from protocol.genesis import genesis_roster
from protocol.ids import Digest, Epoch, Height, MemberIndex, PeerId, Round, Signature, TileId, Version, View
from protocol.learning import Contributor, SignedDelta, sign_delta
from protocol.limits import FRAME_BYTES_MAX
from protocol.roster import DeltaRef, Head, Slot, sign_head
from simnet.checkers import Watch
from simnet.checkers.story import LearnAgain
from simnet.network import make_genesis, make_keys
from simnet.scenario import HardwareClass, Learning, MustHold, Region, Scenario, Villains
from storage.files import MemoryFiles
from storage.io.tile_store import TileStore
from storage.kv import MemoryKeyValue

SCENARIO = Scenario(
    name="history",
    says="A history for checkers.",
    seconds=600.0,
    peers=6,
    validators=4,
    bootstraps=1,
    regions=(Region("here", 1.0, (0.0, 0.0)),),
    routes=(),
    hardware=(HardwareClass("any", 1.0, 10.0, 100.0, 100.0),),
    learning=Learning(round_seconds=100.0, tiles=2, tile_values=10_240),
    must_hold=MustHold(()),
)
KEYS = make_keys(1, SCENARIO.peers)
GENESIS = make_genesis(SCENARIO, KEYS)
ROSTER = genesis_roster(GENESIS)
UNSIGNED = Signature(bytes(64))


class Bowl:
    """A loss that any step towards zero lowers."""

    def loss(self, weights: Mapping[TileId, Float32]) -> float:
        return 1.0 + sum(float(np.sum(weights_N.astype(np.float64) ** 2)) for weights_N in weights.values())


class History:
    """A network of ``SCENARIO.peers`` peers; everybody is there from 0 s on unless ``present`` says who is."""

    def __init__(
        self,
        must_hold: MustHold | None = None,
        present: Sequence[int] | None = None,
        *,
        villains: tuple[Villains, ...] = (),
        learn_again: LearnAgain | None = None,
    ) -> None:
        scenario = replace(SCENARIO, must_hold=must_hold or SCENARIO.must_hold, villains=villains)
        self.blobs: dict[Digest, bytes] = {}
        self.watch = Watch(GENESIS, scenario, self.blobs.get, Bowl(), learn_again)
        self._store = TileStore(MemoryFiles(), MemoryKeyValue())
        self._work = TileWork(GENESIS, self._store)
        self.tiles = self._work.tile_map.ids
        self.roots = self._work.ensure_genesis()
        self.versions = {tile: Version(0) for tile in self.tiles}
        self.blocks: list[FinalizedBlock] = []
        self.running: list[int] = []
        self.now = 0.0
        for index in range(SCENARIO.peers) if present is None else present:
            self.arrive(index)

    # -- what is made ---------------------------------------------------------------------------------------------------

    def store(self, blob: bytes) -> Digest:
        name = blob_digest(blob)
        self.blobs[name] = blob
        return name

    def delta(self, learner: int, tile: TileId, base: int, **changes: Any) -> DeltaRef:
        """A learner's step towards zero, stored; ``changes`` are made before it is signed."""
        shape = self._work.tile_map.tile(tile)
        draw = np.random.default_rng([learner, base, self.tiles.index(tile)])
        noise_N = draw.normal(0, 0.0002, shape.values)
        change_N = (self.weights(tile) * np.float32(0.3) + noise_N).astype(np.float32)
        unsigned = SignedDelta(
            tile=tile,
            base=Version(base),
            round=Round(base),
            learner=KEYS[learner].peer,
            tokens=100 + learner,
            payload=encode_delta(change_N, GENESIS.learning.delta_pipeline, matrices_of(shape)),
            signature=UNSIGNED,
        )
        signed = sign_delta(replace_message(unsigned, **changes), KEYS[learner].node)
        return DeltaRef(self.store(encode(signed)), signed.learner, signed.base, signed.tokens)

    def aggregate(self, aggregator: int, tile: TileId, base: int, learners: Sequence[int], **changes: Any) -> DeltaRef:
        """These learners' deltas merged by one of them, stored; ``changes`` are made before it is signed."""
        shape = self._work.tile_map.tile(tile)
        inner = sorted((self.delta(each, tile, base) for each in learners), key=lambda each: each.learner)
        parts = [
            (each.learner, each.weight, decode_delta(self.signed(each.delta).payload, shape.values)) for each in inner
        ]
        gradient_N = merge(parts, merge_rule(GENESIS.learning)).gradient_N
        made: dict[str, Any] = {
            "payload": encode_delta(gradient_N, GENESIS.learning.update_pipeline, matrices_of(shape)),
            "tokens": sum(each.weight for each in inner),
            "contributors": tuple(Contributor(each.learner, each.delta, each.weight) for each in inner),
        }
        reference = self.delta(aggregator, tile, base, **{**made, **changes})
        contributors = self.signed(reference.delta).contributors
        return replace_message(reference, contributors=tuple(sorted(each.delta for each in contributors)))

    def weights(self, tile: TileId) -> Float32:
        """The newest weights of a tile, as a holder's disk has them."""
        held = self._store.open(tile, self.versions[tile])
        return np.frombuffer(held.state, np.float32)[: held.values].copy()

    def head(
        self, tile: TileId, references: Iterable[DeltaRef], round_number: int, proposer: int = 0, **changes: Any
    ) -> Head:
        """The head that an honest proposer makes of these deltas, with ``changes``, signed."""
        chosen = tuple(sorted(references, key=lambda each: (each.learner, each.base)))
        slot = Slot(tile, Version(self.versions[tile] + 1))
        payloads = tuple((each, self.signed(each.delta).payload) for each in chosen)
        merged = self._work.merge([MergeJob(slot, payloads)])[0]
        assert not merged.why, merged.why
        head = Head(
            tile=tile,
            version=slot.version,
            epoch=Epoch(0),
            attempt=0,
            round=round_number,
            parent_root=self.roots[tile],
            root=merged.root,
            update=self.store(merged.update),
            update_bytes=len(merged.update),
            deltas=chosen,
            proposer=KEYS[proposer].peer,
            signature=UNSIGNED,
        )
        return self.sign(replace_message(head, **changes), proposer)

    def sign(self, head: Head, proposer: int) -> Head:
        return sign_head(head, KEYS[proposer].node)

    def signed(self, name: Digest) -> SignedDelta:
        """A delta that was stored."""
        return decode(SignedDelta, self.blobs[name], limit_bytes=FRAME_BYTES_MAX)

    def block(self, heads: Iterable[Head] = (), **changes: Any) -> FinalizedBlock:
        """The next block; ``changes`` are the header's."""
        body = encode(Body(tuple(sorted(heads, key=lambda head: head.tile))))
        height = len(self.blocks) + 1
        header = Header(
            version=1,
            chain=ChainId.of(GENESIS.network_id()),
            epoch=Epoch(0),
            view=View(height),
            height=Height(height),
            parent=self.blocks[-1].header.digest() if self.blocks else NO_BLOCK,
            parent_view=View(height - 1),
            time_ms=int(1000 * self.now),
            proposer=MemberIndex(0),
            body_root=body_root(body),
            body_bytes=len(body),
            state_root=digest("nock/state/1", body),
            roster=ROSTER.digest(),
            next_roster=ROSTER.digest(),
            beacon=ROSTER.beacon,
            evidence_root=NO_BLOCK,
        )
        return FinalizedBlock(replace_message(header, **changes), body, None)

    # -- what happens ---------------------------------------------------------------------------------------------------

    def peer(self, index: int) -> PeerId:
        return KEYS[index].peer

    def arrive(self, index: int, *, is_new: bool = True) -> None:
        self.running.append(index)
        self.watch.arrived(self.peer(index), self.now, is_new=is_new)

    def leave(self, index: int) -> None:
        self.running.remove(index)
        self.watch.left(self.peer(index), self.now)

    def catch_up(self, index: int) -> None:
        """A peer that came later finalizes all old blocks and fetches the newest tiles."""
        for block in self.blocks:
            self.watch.finalized(self.peer(index), block, self.now)
        for tile in self.tiles:
            self.watch.applied(self.peer(index), tile, self.versions[tile], self.roots[tile], self.now)

    def decide(self, heads: Sequence[Head], *, applying: Sequence[int] | None = None) -> FinalizedBlock:
        """A block of these heads is final everywhere, and those ``applying`` (all) apply it."""
        block = self.block(heads)
        self.blocks.append(block)
        for index in self.running:
            self.watch.finalized(self.peer(index), block, self.now)
        self._work.apply([(head, self.blobs[head.update]) for head in heads])
        for head in heads:
            self.versions[head.tile], self.roots[head.tile] = head.version, head.root
            for index in self.running if applying is None else applying:
                self.watch.applied(self.peer(index), head.tile, head.version, head.root, self.now)
        return block

    def merge_all(self, round_number: int, learners: Sequence[int], proposer: int = 0) -> list[Head]:
        """A head for every tile, of one delta of each learner."""
        return [
            self.head(tile, [self.delta(each, tile, self.versions[tile]) for each in learners], round_number, proposer)
            for tile in self.tiles
        ]

    def close(self, round_number: int) -> None:
        for index in self.running:
            self.watch.round_closed(self.peer(index), round_number, self.now)

    def round(self, number: int, *, learners: Sequence[int] | None = None, seconds: float = 50.0) -> None:
        """A whole round in which everything is right."""
        self.now += seconds
        self.decide(self.merge_all(number, self.running if learners is None else learners))
        self.close(number)

    def finish(self) -> None:
        self.watch.finish(self.now, [self.peer(index) for index in self.running])

    def breaches(self) -> dict[str, list[str]]:
        """Of every invariant that was broken."""
        return {name: each.breaches for name, each in self.watch.invariants.items() if each.breaches}
