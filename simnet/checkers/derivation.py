"""Every root again, from its parent's state and the bytes that the head names.

    genesis weights --> state of version 0
    head:   deltas by digest -> signatures, tile, base, learner, weight -> merge -> the bytes of its update
            of them, aggregates: what is inside likewise                -> merge -> the bytes that the aggregate says
            update by digest -> outer step on the state before it       -> its root

    N  values of a tile          P  planes of its state

``compute`` is the definition of the arithmetic; whether a head was right is decided here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compute.delta.codec import decode as decode_delta
from compute.delta.codec import encode as encode_delta
from compute.delta.decoded import DecodedDelta
from compute.exact import Float32
from compute.merge import merge
from compute.model.genesis import genesis_tile
from compute.model.tiling import TileMap
from compute.outer import apply_update, initial_state
from node.tile_work import contributor, matrices_of, merge_rule, outer_rule
from protocol.codec import decode
from protocol.digest import blob_digest
from protocol.genesis import Genesis
from protocol.ids import Digest, PeerId, TileId, Version, short
from protocol.learning import SignedDelta, check_delta_signature
from protocol.limits import AGGREGATE_WEIGHT_DELTAS_MAX, FRAME_BYTES_MAX
from protocol.rejection import Rejected
from protocol.roster import DeltaRef, Head
from simnet.checkers.facts import FindBlob
from storage.tile_format import tile_root


class Underivable(Exception):
    """A head does not follow from what it names; one sentence says why."""


class Derivation:
    """The state of every tile at its newest derivable version. A tile whose head was wrong stays where it was."""

    def __init__(self, genesis: Genesis, tile_map: TileMap, find_blob: FindBlob) -> None:
        rule = genesis.learning
        self._map = tile_map
        self._find_blob = find_blob
        self._merge_rule, self._outer, self._update_pipeline = merge_rule(rule), outer_rule(rule), rule.update_pipeline
        self._weight_max = rule.inner_steps * rule.batch_sequences * genesis.model.context
        self._states: dict[TileId, NDArray[np.float32]] = {}
        self._roots: dict[TileId, Digest] = {}
        self._versions: dict[TileId, Version] = {}
        for tile in tile_map.ids:
            weights = genesis_tile(genesis.model, tile_map, genesis.model_seed, tile)
            self._states[tile], self._versions[tile] = initial_state(weights, self._outer), Version(0)
            self._roots[tile] = self._root(tile, self._states[tile])

    @property
    def weights(self) -> dict[TileId, Float32]:
        """The weights of every tile, at its newest derivable version."""
        return {tile: state_PN[0] for tile, state_PN in self._states.items()}

    def root(self, tile: TileId) -> Digest:
        """The root of a tile at its newest derivable version."""
        return self._roots[tile]

    def derive(self, head: Head) -> None:
        """Go on to this head's version. Raises ``Underivable``, and then the tile stays as it is."""
        tile = self._map.tile(head.tile)
        if head.version != self._versions[head.tile] + 1:
            raise Underivable(f"the newest version that could be derived before it is {self._versions[head.tile]}")
        if head.parent_root != self._roots[head.tile]:
            raise Underivable("it names another parent's root")
        update = self._blob(head.update, "its update")
        if len(update) != head.update_bytes:
            raise Underivable(f"its update has {len(update)} bytes, not {head.update_bytes}")
        try:
            parts = [(contributor(ref), ref.weight, self._delta(head, ref, tile.values)) for ref in head.deltas]
            gradient_N = merge(parts, self._merge_rule).gradient_N
            if encode_delta(gradient_N, self._update_pipeline, matrices_of(tile)) != update:
                raise Underivable("merging its deltas gives another update")
            state_PN = apply_update(
                self._states[head.tile], decode_delta(update, tile.values), self._outer, head.version
            )
        except Rejected as refusal:
            raise Underivable(str(refusal)) from refusal
        root = self._root(head.tile, state_PN)
        if root != head.root:
            raise Underivable("applying its update gives another root")
        self._states[head.tile], self._roots[head.tile], self._versions[head.tile] = state_PN, root, head.version

    def _delta(self, head: Head, reference: DeltaRef, values: int) -> DecodedDelta:
        """One delta that the head lists, when it is what the head says that it is."""
        name = f"delta {reference.delta[:4].hex()} of {short(reference.learner)}"
        signed, decoded = self._signed(head.tile, reference.base, reference.learner, reference.delta, values)
        if reference.contributors != tuple(sorted(each.delta for each in signed.contributors)):
            raise Underivable(f"{name} was made of other deltas than the head names")
        if signed.contributors:
            self._check_aggregate(name, signed, values)
        heaviest = min(
            signed.tokens, min(len(signed.contributors) or 1, AGGREGATE_WEIGHT_DELTAS_MAX) * self._weight_max
        )
        # Strangers' aggregates share what strangers may weigh: they may weigh less than they could.
        if not 0 < reference.weight <= heaviest or (reference.weight < heaviest and not signed.contributors):
            raise Underivable(f"{name} has weight {reference.weight} with {signed.tokens} tokens")
        return decoded

    def _signed(
        self, tile: TileId, base: Version, learner: PeerId, delta: Digest, values: int
    ) -> tuple[SignedDelta, DecodedDelta]:
        """A delta of this learner for this tile and base, under its signature."""
        name = f"delta {delta[:4].hex()} of {short(learner)}"
        blob = self._blob(delta, name)
        try:
            signed = decode(SignedDelta, blob, limit_bytes=FRAME_BYTES_MAX)
            if (signed.tile, signed.base, signed.learner) != (tile, base, learner):
                raise Underivable(f"{name} is one of {short(signed.learner)} for {signed.tile}@{signed.base}")
            check_delta_signature(signed)
            return signed, decode_delta(signed.payload, values)
        except Rejected as refusal:
            raise Underivable(f"{name}: {refusal}") from refusal

    def _check_aggregate(self, name: str, whole: SignedDelta, values: int) -> None:
        """An aggregate says the merge of what is inside, each of another learner, and claims no token more."""
        if len({each.learner for each in whole.contributors}) != len(whole.contributors):
            raise Underivable(f"{name} holds two deltas of one learner")
        if sum(each.weight for each in whole.contributors) != whole.tokens:
            raise Underivable(f"{name} claims {whole.tokens} tokens, which its contributors did not see")
        parts = []
        for each in whole.contributors:
            signed, decoded = self._signed(whole.tile, whole.base, each.learner, each.delta, values)
            if signed.contributors or each.weight != min(signed.tokens, self._weight_max):
                raise Underivable(f"{name} takes {each.delta[:4].hex()} for {each.weight} tokens")
            parts.append((bytes(each.learner), each.weight, decoded))
        gradient_N = merge(parts, self._merge_rule).gradient_N
        if encode_delta(gradient_N, self._update_pipeline, matrices_of(self._map.tile(whole.tile))) != whole.payload:
            raise Underivable(f"{name} is not what merging its deltas gives")

    def _blob(self, name: Digest, what: str) -> bytes:
        blob = self._find_blob(name)
        if blob is None:
            raise Underivable(f"{what} is on nobody's disk")
        if blob_digest(blob) != name:
            raise Underivable(f"{what} was stored under another's name")
        return blob

    def _root(self, tile: TileId, state_PN: NDArray[np.float32]) -> Digest:
        return tile_root(tile, np.ascontiguousarray(state_PN).data.cast("B"), *state_PN.shape)
