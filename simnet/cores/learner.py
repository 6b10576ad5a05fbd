"""A learner without a model: its change comes from a valley, everything after that is real.

    StartLearning -> lost deltas back into the residual -> change of each tile from weights that are begun ahead
                  -> payload and new residual (compute/delta/feedback.py) -> SignedDelta, encoded: a blob

As node/worker.py and node/services/learning.py do it, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

from compute.delta.feedback import add_back, begin_ahead, compress_with_feedback, empty_residual, withhold
from compute.exact import Float32
from compute.model.tiling import TileMap
from consensus.events import Delta, StartLearning
from node.tile_work import matrices_of
from protocol.codec import decode, encode
from protocol.digest import blob_digest
from protocol.genesis import MILLION, Genesis
from protocol.ids import Digest, PeerId, Signature, TileId, Version
from protocol.keys import KeyPair
from protocol.learning import SignedDelta, sign_delta
from protocol.limits import FRAME_BYTES_MAX

Change = Callable[[TileId, Version, Float32], Float32 | None]
"""(tile, base, weights to begin from) -> old minus new weights; None: this learner has nothing for the tile."""


@dataclass(slots=True)
class LearnerRecord:
    """The learner's row: the last round that it finished, its deltas without a fate, and what it could not say."""

    round: int = -1
    outstanding: tuple[Delta, ...] = ()
    residuals: dict[TileId, Float32] = field(default_factory=dict)


class LearnerWork:
    """What every learner of a network does alike."""

    def __init__(self, genesis: Genesis, tile_map: TileMap) -> None:
        rule = genesis.learning
        self.tokens = rule.inner_steps * rule.batch_sequences * genesis.model.context
        self._pipeline = rule.delta_pipeline
        self._decay = Fraction(rule.residual_decay_micro, MILLION)
        self._start = Fraction(rule.residual_start_micro, MILLION)
        self._matrices = {tile.id: matrices_of(tile) for tile in tile_map.tiles}
        self._unsigned = Signature(bytes(64))

    def learn(
        self,
        request: StartLearning,
        record: LearnerRecord,
        weights: dict[TileId, Float32],
        lost: dict[Digest, bytes],
        key: KeyPair,
        change: Change,
    ) -> tuple[LearnerRecord, dict[Digest, bytes]]:
        """The record after a round, and the new deltas' blobs; ``lost`` are encoded deltas that return to the residual."""
        learner = PeerId(key.public)
        residuals = dict(record.residuals)
        for data in lost.values():
            delta = decode(SignedDelta, data, limit_bytes=FRAME_BYTES_MAX)
            held = residuals.get(delta.tile)
            residuals[delta.tile] = add_back(
                empty_residual(weights[delta.tile].size) if held is None else held, delta.payload
            )
        deltas: list[Delta] = []
        blobs: dict[Digest, bytes] = {}
        for tile, base in request.bases:
            held = residuals.get(tile)
            residual = empty_residual(weights[tile].size) if held is None else held
            found = change(tile, base, begin_ahead(weights[tile], residual, self._start))
            if found is None:
                continue
            if tile in request.withheld:
                residuals[tile] = withhold(residual, found)
                continue
            payload, residuals[tile] = compress_with_feedback(
                found, residual, self._pipeline, self._decay, self._matrices[tile]
            )
            unsigned = SignedDelta(tile, base, request.round, learner, self.tokens, payload, self._unsigned)
            data = encode(sign_delta(unsigned, key))
            name = blob_digest(data)
            blobs[name] = data
            deltas.append(Delta(tile, base, request.round, learner, name, self.tokens))
        settled = {*request.merged, *request.lost}
        kept = tuple(delta for delta in record.outstanding if delta.digest not in settled)
        return LearnerRecord(request.round, (*kept, *deltas), residuals), blobs
