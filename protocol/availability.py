"""What holders sign when they have stored their cells of a blob, and the certificate that their signatures make (chain.md 3.4).

A claim says: every cell that is mine of this blob, by the custody of this epoch's roster, leads to the blob's root, agrees
with its tile's table under the tables' root, and is on my disk until the end of ``kept_until``. Whoever signs has done so
first: store before sign. More than two thirds of the weight leave more than a third that is honest, whose cells rebuild every
tile.

A claim also says what the blob's bytes are: its subject, a version of a tile or the state after an epoch.

    subject = digest("nock/tile-snapshot/1", tile | version | root)     digest("nock/state-checkpoint/1", height | state root)

A holder that has those bytes itself codes them and compares the blob's root before it signs; the others vouch for the cells
only. Whoever reads the blob compares what came out with the root that the subject names.

A blob is named by both roots. For one blob root there may be certificates with two tables' roots and two contents (an
author committed to cells of two codes), and each of them can be read; a record that is to mean one content names both.

    text = digest("nock/availability/1", chain_id | fork_id | claim)
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from protocol.codec import Message, encode
from protocol.coded_tables import is_sound, soundness_bits
from protocol.digest import Domain, digest, number
from protocol.erasure import CheckedManifest, Geometry, ReplicationClass
from protocol.finality import ChainId
from protocol.ids import (
    Digest,
    DigestField,
    Epoch,
    EpochField,
    HeightField,
    MemberField,
    SignatureField,
    TileField,
    TileId,
    VersionField,
)
from protocol.limits import ROSTER_MEMBERS_MAX
from protocol.rejection import Reason, Rejected

# -- what is kept -------------------------------------------------------------------------------------------------------


def snapshot_subject(tile: TileId, version: int, root: Digest) -> Digest:
    """The name of a tile's weights at a version; ``root`` is the tile's."""
    return digest(Domain.TILE_SNAPSHOT, tile.encode(), number(version), root)


def checkpoint_subject(height: int, state_root: Digest) -> Digest:
    """The name of the state after a block, as the parts of a checkpoint."""
    return digest(Domain.STATE_CHECKPOINT, number(height), state_root)


class TileSnapshot(Message, frozen=True, tag=1):
    """One version of one tile."""

    tile: TileField
    version: VersionField
    root: DigestField

    def digest(self) -> Digest:
        return snapshot_subject(self.tile, self.version, self.root)


class StateCheckpoint(Message, frozen=True, tag=2):
    """The state after the last block of an epoch."""

    height: HeightField
    state_root: DigestField

    def digest(self) -> Digest:
        return checkpoint_subject(self.height, self.state_root)


Subject = TileSnapshot | StateCheckpoint

REPLICATION: Final[dict[type, ReplicationClass]] = {
    TileSnapshot: ReplicationClass.HIGH,
    StateCheckpoint: ReplicationClass.CRITICAL,
}
SUPERSEDED_EPOCHS: Final = 16
"""How long a blob is kept after the epoch that certified it: whatever its class, each epoch brings a newer one (a guess)."""


def kept_until(epoch: int) -> Epoch:
    """The last epoch in which a blob that is certified in ``epoch`` is kept."""
    return Epoch(epoch + SUPERSEDED_EPOCHS)


# -- what holders sign --------------------------------------------------------------------------------------------------


class AvailabilityClaim(Message, frozen=True):
    """``epoch`` is the one whose roster and beacon say who keeps what; ``kept_until`` an epoch too, None for ever.

    The geometry is the manifest's: said again, so that whoever has no manifest sees what the certificate can promise.
    ``subject`` is a ``Subject``'s digest: what the bytes are, for those who have them to compare before they sign.
    """

    blob: DigestField
    tables: DigestField
    geometry: Geometry
    subject: DigestField
    epoch: EpochField
    kept_until: EpochField | None

    def text(self, chain: ChainId) -> Digest:
        """The 32 bytes that a holder signs."""
        return digest(Domain.AVAILABILITY, chain.chain, number(chain.fork), encode(self))


class AvailabilityVote(Message, frozen=True):
    """One member's word that it keeps what is its own of a blob."""

    claim: AvailabilityClaim
    signer: MemberField
    signature: SignatureField


class AvailabilityCertificate(Message, frozen=True):
    """The same word of more than two thirds of the weight; bitmap and signatures as in a ``Certificate``."""

    claim: AvailabilityClaim
    signers: Annotated[bytes, Meta(max_length=(ROSTER_MEMBERS_MAX + 7) // 8)]
    signatures: Annotated[tuple[SignatureField, ...], Meta(max_length=ROSTER_MEMBERS_MAX)]


def check_claim(claim: AvailabilityClaim, manifest: CheckedManifest | None = None) -> AvailabilityClaim:
    """Whether two thirds who say this would be certain; with the manifest, whether it is of this blob.

    Raises ``Rejected``: MALFORMED for a claim that contradicts itself or the manifest, NOT_RECOVERABLE where the geometry
    lets a third make the blob unreadable, or cells of two codes agree with one table.
    """
    geometry = claim.geometry
    for fault in geometry.faults():
        raise Rejected(Reason.MALFORMED, fault)
    if claim.kept_until is not None and claim.kept_until < claim.epoch:
        raise Rejected(Reason.MALFORMED, f"kept until epoch {claim.kept_until}, said in {claim.epoch}")
    if manifest is not None and (claim.blob, geometry) != (manifest.root, manifest.geometry):
        raise Rejected(Reason.MALFORMED, "a claim about another blob, or of another geometry than the blob's")
    if not geometry.any_third_rebuilds:
        raise Rejected(Reason.NOT_RECOVERABLE, f"{geometry.data_cells} of {geometry.cells} cells are more than a third")
    if not is_sound(geometry):
        raise Rejected(Reason.NOT_RECOVERABLE, f"its tables deceive with a chance of 2^{-soundness_bits(geometry)}")
    return claim
