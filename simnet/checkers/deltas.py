r"""Every delta that a head counts, read again from its bytes: whose it is, what it says, and what an aggregate was made of.

reference --> blob by digest --> signature, tile, base, learner --> change
                             \-> contributors: each read likewise, and merged again --> the aggregate's payload
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compute.delta.codec import decode as decode_delta
from compute.delta.codec import encode as encode_delta
from compute.delta.decoded import DecodedDelta
from compute.merge import merge
from compute.model.tiling import Tile
from node.tile_work import matrices_of, merge_rule
from protocol.codec import decode
from protocol.digest import blob_digest
from protocol.genesis import Genesis
from protocol.ids import Digest, PeerId, Version, short
from protocol.learning import Contributor, SignedDelta, check_delta_signature
from protocol.limits import AGGREGATE_WEIGHT_DELTAS_MAX, FRAME_BYTES_MAX
from protocol.rejection import Rejected
from protocol.roster import DeltaRef
from simnet.checkers.facts import Counted, FindBlob

Weighted = tuple[bytes, int, DecodedDelta]  # the name under which it is merged, tokens, change


class Underivable(Exception):
    """A head does not follow from what it names; one sentence says why."""


@dataclass(frozen=True, slots=True)
class DeltaRead:
    """A delta that is what its reference says. ``weight_max``: what it may weigh, by its tokens and those who made it."""

    change: DecodedDelta
    weight_max: int
    contributors: tuple[Contributor, ...]


class Deltas:
    """Reads and merges deltas of one network as its genesis says. Every method raises ``Underivable``."""

    def __init__(self, genesis: Genesis, find_blob: FindBlob) -> None:
        rule = genesis.learning
        self._find_blob = find_blob
        self._merge_rule, self._pipeline = merge_rule(rule), rule.update_pipeline
        self.weight_max = rule.inner_steps * rule.batch_sequences * genesis.model.context  # of one learner's delta

    def blob(self, name: Digest, what: str) -> bytes:
        """Bytes that somebody stored under this name."""
        blob = self._find_blob(name)
        if blob is None:
            raise Underivable(f"{what} is on nobody's disk")
        if blob_digest(blob) != name:
            raise Underivable(f"{what} was stored under another's name")
        return blob

    def merge(self, tile: Tile, parts: Sequence[Weighted]) -> bytes:
        """The bytes of the merge, which have one spelling."""
        return encode_delta(merge(parts, self._merge_rule).gradient_N, self._pipeline, matrices_of(tile))

    def read(self, tile: Tile, reference: DeltaRef) -> DeltaRead:
        """What a head refers to."""
        what = f"delta {reference.delta[:4].hex()} of {short(reference.learner)}"
        signed, change = self._open(tile, reference.delta, reference.learner, reference.base, what)
        if tuple(sorted(each.delta for each in signed.contributors)) != reference.contributors:
            raise Underivable(f"{what} was made of others than the head says")
        if signed.contributors:
            self._check_aggregate(tile, signed, what)
        learners = min(len(signed.contributors) or 1, AGGREGATE_WEIGHT_DELTAS_MAX)
        return DeltaRead(change, min(signed.tokens, learners * self.weight_max), signed.contributors)

    def _check_aggregate(self, tile: Tile, signed: SignedDelta, what: str) -> None:
        parts: list[Weighted] = []
        for each in signed.contributors:
            inner = f"delta {each.delta[:4].hex()} of {short(each.learner)} in {what}"
            own, change = self._open(tile, each.delta, each.learner, signed.base, inner)
            if own.contributors:
                raise Underivable(f"{inner} is an aggregate itself")
            if each.weight != min(own.tokens, self.weight_max):
                raise Underivable(f"{inner} has weight {each.weight} with {own.tokens} tokens")
            parts.append((each.learner, each.weight, change))
        if signed.tokens != sum(weight for _, weight, _ in parts):
            raise Underivable(f"{what} claims {signed.tokens} tokens, which its contributors did not see")
        if self.merge(tile, parts) != signed.payload:
            raise Underivable(f"merging the contributors of {what} gives another payload")

    def _open(
        self, tile: Tile, name: Digest, learner: PeerId, base: Version, what: str
    ) -> tuple[SignedDelta, DecodedDelta]:
        blob = self.blob(name, what)
        try:
            signed = decode(SignedDelta, blob, limit_bytes=FRAME_BYTES_MAX)
            if (signed.tile, signed.base, signed.learner) != (tile.id, base, learner):
                raise Underivable(f"{what} is one of {short(signed.learner)} for {signed.tile}@{signed.base}")
            check_delta_signature(signed)
            return signed, decode_delta(signed.payload, tile.values)
        except Rejected as refusal:
            raise Underivable(f"{what}: {refusal}") from refusal


def counted_by(references: Sequence[DeltaRef], find_blob: FindBlob) -> tuple[Counted, ...]:
    """Every learner's delta that goes into a head, by itself or inside an aggregate.

    Of an aggregate whose bytes are gone the learners are not known: its own learner stands for them.
    """
    counted: list[Counted] = []
    for reference in references:
        if not reference.contributors:
            counted.append(Counted(reference.delta, reference.learner, reference.base))
            continue
        learners = _learners_of(reference.delta, find_blob)
        counted += (
            Counted(name, learners.get(name, reference.learner), reference.base) for name in reference.contributors
        )
    return tuple(counted)


def _learners_of(aggregate: Digest, find_blob: FindBlob) -> dict[Digest, PeerId]:
    blob = find_blob(aggregate)
    try:
        signed = decode(SignedDelta, blob or b"", limit_bytes=FRAME_BYTES_MAX)
    except Rejected:
        return {}
    return {each.delta: each.learner for each in signed.contributors}
