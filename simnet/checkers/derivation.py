"""Every root again, from its parent's state and the bytes that the head names.

    genesis weights --> state of version 0
    head:   deltas by digest -> read and merged again (``deltas``)    -> the bytes of its update
            update by digest -> outer step on the state before it     -> its root

    N  values of a tile          P  planes of its state

``compute`` is the definition of the arithmetic; whether a head was right is decided here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compute.delta.codec import decode as decode_delta
from compute.exact import Float32
from compute.model.genesis import genesis_tile
from compute.model.tiling import TileMap
from compute.outer import apply_update, initial_state
from node.tile_work import contributor, outer_rule
from protocol.genesis import Genesis
from protocol.ids import Digest, TileId, Version, short
from protocol.limits import AGGREGATE_WEIGHT_DELTAS_MAX
from protocol.rejection import Rejected
from protocol.roster import DeltaRef, Head, check_head_signature
from simnet.checkers.deltas import Deltas, Underivable
from storage.tile_format import tile_root


class Derivation:
    """The state of every tile at its newest derivable version. A tile whose head was wrong stays where it was."""

    def __init__(self, genesis: Genesis, tile_map: TileMap, deltas: Deltas) -> None:
        self._map = tile_map
        self._deltas = deltas
        self._outer = outer_rule(genesis.learning)
        self._founders = frozenset(founder.card.node for founder in genesis.founders)
        self._states: dict[TileId, NDArray[np.float32]] = {}
        self._roots: dict[TileId, Digest] = {}
        self._versions: dict[TileId, Version] = {}
        for tile in tile_map.ids:
            weights = genesis_tile(genesis.model, tile_map, genesis.model_seed, tile)
            self._states[tile], self._versions[tile] = initial_state(weights, self._outer), Version(0)
            self._roots[tile] = _root(tile, self._states[tile])

    @property
    def weights(self) -> dict[TileId, Float32]:
        """The weights of every tile, at its newest derivable version."""
        return {tile: state_PN[0] for tile, state_PN in self._states.items()}

    def state(self, tile: TileId) -> NDArray[np.float32]:
        """All planes of a tile, likewise."""
        return self._states[tile]

    def derive(self, head: Head) -> None:
        """Go on to this head's version. Raises ``Underivable``, and then the tile stays as it is."""
        if head.tile not in self._versions:
            raise Underivable("the model has no such tile")
        if head.version != self._versions[head.tile] + 1:
            raise Underivable(f"the newest version that could be derived before it is {self._versions[head.tile]}")
        if head.parent_root != self._roots[head.tile]:
            raise Underivable("it names another parent's root")
        try:
            check_head_signature(head)
            state_PN = self._derive_state(head)
        except Rejected as refusal:
            raise Underivable(str(refusal)) from refusal
        root = _root(head.tile, state_PN)
        if root != head.root:
            raise Underivable("applying its update gives another root")
        self._states[head.tile], self._roots[head.tile], self._versions[head.tile] = state_PN, root, head.version

    def _derive_state(self, head: Head) -> NDArray[np.float32]:
        """What the head's update makes of its parent's state, when it is the update that its deltas make."""
        tile = self._map.tile(head.tile)
        update = self._deltas.blob(head.update, "its update")
        if len(update) != head.update_bytes:
            raise Underivable(f"its update has {len(update)} bytes, not {head.update_bytes}")
        strangers = sum(reference.learner not in self._founders for reference in head.deltas)
        parts = []
        for reference in head.deltas:
            read = self._deltas.read(tile, reference)
            self._check_weight(reference, read.weight_max, strangers)
            parts.append((contributor(reference), reference.weight, read.change))
        if self._deltas.merge(tile, parts) != update:
            raise Underivable("merging its deltas gives another update")
        return apply_update(self._states[head.tile], decode_delta(update, tile.values), self._outer, head.version)

    def _check_weight(self, reference: DeltaRef, weight: int, strangers: int) -> None:
        """A delta weighs its tokens, up to a limit; strangers divide among them what one full aggregate may weigh.

        Who is a stranger is known of genesis only: a founder may be one later, and a stranger a member.
        """
        shared = AGGREGATE_WEIGHT_DELTAS_MAX * self._deltas.weight_max // max(1, strangers)
        if reference.weight not in (weight, min(weight, shared)):
            raise Underivable(
                f"delta {reference.delta[:4].hex()} of {short(reference.learner)} has weight {reference.weight}, "
                f"its tokens give it {weight}"
            )


def _root(tile: TileId, state_PN: NDArray[np.float32]) -> Digest:
    return tile_root(tile, np.ascontiguousarray(state_PN).data.cast("B"), *state_PN.shape)
