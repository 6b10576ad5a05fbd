"""What learners, owners and holders say: announcements, signed deltas, head proposals, and requests for bytes.

A delta is identified by its digest and is unique per (tile, base version, learner); a second one signed by the same learner
is refused. Payload formats belong to `compute`; here they are bounded bytes.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from protocol.codec import Message, encode
from protocol.digest import Domain, blob_digest, digest
from protocol.finality import Certificate, FinalizedBlock, Header
from protocol.ids import (
    Digest,
    DigestField,
    HeightField,
    Natural,
    PeerField,
    RoundField,
    Signature,
    SignatureField,
    TileField,
    VersionField,
)
from protocol.keys import KeyPair, verify
from protocol.limits import (
    ADVERT_NAME_BYTES,
    ADVERTS_MAX,
    ADVERTS_PER_ANSWER_MAX,
    BLOBS_PER_REQUEST_MAX,
    CONTRIBUTORS_PER_AGGREGATE_MAX,
    GOSSIP_MESSAGE_BYTES_MAX,
    HEADS_PER_BODY_MAX,
    SYNC_BLOCKS_PER_ANSWER_MAX,
    TEXT_BYTES_MAX,
    TILE_BYTES_MAX,
    TILES_MAX,
)
from protocol.rejection import Reason, Rejected
from protocol.roster import Head

_ShortText = Annotated[str, Meta(max_length=TEXT_BYTES_MAX)]


class Contributor(Message, frozen=True):
    """One delta inside an aggregate. ``weight`` is what the aggregator's merge gave it, in tokens."""

    learner: PeerField
    delta: DigestField
    weight: Annotated[int, Meta(ge=1, le=2**40)]


class SignedDelta(Message, frozen=True):
    """One learner's compressed change of one tile, from ``base``. ``tokens`` is what it claims to have seen.

    An aggregate is the merge of a region's deltas on one base, said by the aggregator as its own: ``contributors`` are those
    deltas in ascending order of learner, and ``tokens`` the sum of their weights. One learner's own delta has none.
    """

    tile: TileField
    base: VersionField
    round: RoundField
    learner: PeerField
    tokens: Natural
    payload: Annotated[bytes, Meta(max_length=TILE_BYTES_MAX + 4096)]
    signature: SignatureField
    contributors: Annotated[tuple[Contributor, ...], Meta(max_length=CONTRIBUTORS_PER_AGGREGATE_MAX)] = ()

    def digest(self) -> Digest:
        """The delta's name: the digest of its encoded bytes, under which anybody can fetch it."""
        return blob_digest(encode(self))


def _delta_text(delta: SignedDelta) -> bytes:
    return digest(Domain.DELTA, encode(replace(delta, signature=Signature(bytes(64)))))


def sign_delta(unsigned: SignedDelta, key: KeyPair) -> SignedDelta:
    """The same delta with the learner's signature."""
    return replace(unsigned, signature=key.sign(_delta_text(unsigned)))


def check_delta_signature(delta: SignedDelta) -> None:
    """Raises ``Rejected(BAD_SIGNATURE)`` unless the learner signed this delta."""
    if not verify(delta.learner, _delta_text(delta), delta.signature):
        raise Rejected(Reason.BAD_SIGNATURE, f"delta of {delta.tile} on version {delta.base}")


def check_contributors(contributors: tuple[Contributor, ...], tokens: int) -> None:
    """The form of an aggregate's list; an empty one is a learner's own delta. Raises ``Rejected``.

    No learner and no delta twice, in ascending order of learner, and together they saw the tokens that the aggregate claims.
    """
    learners = [each.learner for each in contributors]
    if learners != sorted(set(learners)):
        raise Rejected(Reason.NOT_CANONICAL, "the contributors of an aggregate are not in ascending order")
    if len({each.delta for each in contributors}) != len(learners):
        raise Rejected(Reason.BAD_DELTA, "an aggregate takes a delta twice")
    if contributors and sum(each.weight for each in contributors) != tokens:
        raise Rejected(Reason.BAD_DELTA, f"an aggregate of {tokens} tokens, which its contributors did not see")


# -- gossip (each inside an envelope) -----------------------------------------------------------------------------------


class Advert(Message, frozen=True):
    """What a peer is: soft state, refreshed every 30 s, less often in a crowd, and passed on until it expires."""

    addresses: Annotated[tuple[_ShortText, ...], Meta(max_length=8)]
    region: _ShortText
    roles: Annotated[tuple[_ShortText, ...], Meta(max_length=8)]
    device: _ShortText
    tier: Natural
    memory_bytes: Natural
    flops_giga: Natural
    load_percent: Natural
    tiles_held: Natural
    round: RoundField
    height: HeightField
    time_ms: Natural


class RoundAnnouncement(Message, frozen=True):
    """A learner says that it takes part in a round: owners wait for it until it delivers, leaves or the deadline passes."""

    round: RoundField
    device: _ShortText


class HeadProposals(Message, frozen=True):
    """An owner's heads of one shard in one message."""

    heads: Annotated[tuple[Head, ...], Meta(max_length=HEADS_PER_BODY_MAX)]


class FinalizedTip(Message, frozen=True):
    """A finalized header and what proves it: enough for anybody to follow, and to notice that they are behind."""

    header: Header
    certificate: Certificate


# -- requests -----------------------------------------------------------------------------------------------------------


class DeltaBundle(Message, frozen=True):
    """Deltas for the tiles of one owner or aggregator, encoded ``SignedDelta`` each.

    ``carried`` names deltas that the aggregator had before: did an owner take an aggregate of them?
    """

    deltas: Annotated[tuple[bytes, ...], Meta(max_length=TILES_MAX)]
    carried: Annotated[tuple[DigestField, ...], Meta(max_length=TILES_MAX)] = ()


class DeltaReceipt(Message, frozen=True):
    """The answer, after the deltas are durable: for each, an empty string or the code of its rejection.

    Then for each of ``carried``: an empty string where an owner has it inside an aggregate, else a code.
    """

    outcomes: tuple[_ShortText, ...]


class GetBlobs(Message, frozen=True, tag=1):
    """Ask for whole blobs by digest, as many as fit in the answer."""

    digests: Annotated[tuple[DigestField, ...], Meta(max_length=BLOBS_PER_REQUEST_MAX)]


class GetTileLeaves(Message, frozen=True, tag=2):
    """Ask for the page digests under a tile root; the asker recomputes the root from them."""

    tile: TileField
    root: DigestField


class GetTilePages(Message, frozen=True, tag=3):
    """Ask for a run of pages under a tile root; each is checked against its leaf."""

    tile: TileField
    root: DigestField
    first_page: Natural
    page_count: Natural


BlobRequest = GetBlobs | GetTileLeaves | GetTilePages


class BlobAnswer(Message, frozen=True):
    """One entry for each thing asked; None where it is not held or did not fit (then it is asked for again)."""

    parts: Annotated[tuple[bytes | None, ...], Meta(max_length=4096)]
    truncated: bool


class GetAdverts(Message, frozen=True):
    """Ask whom a peer knows. ``known``: the first bytes of the ids of those whom the asker knows already."""

    known: Annotated[bytes, Meta(max_length=ADVERT_NAME_BYTES * ADVERTS_MAX)]


class KnownAdverts(Message, frozen=True):
    """Envelopes of adverts as their authors sealed them."""

    envelopes: Annotated[
        tuple[Annotated[bytes, Meta(max_length=GOSSIP_MESSAGE_BYTES_MAX)], ...], Meta(max_length=ADVERTS_PER_ANSWER_MAX)
    ]


class GetBlocks(Message, frozen=True):
    """Ask for finalized blocks from a height upwards."""

    first_height: HeightField
    count: Annotated[int, Meta(ge=1, le=SYNC_BLOCKS_PER_ANSWER_MAX)]


class Blocks(Message, frozen=True):
    """Consecutive finalized blocks; the last one carries a certificate. ``tip_height`` is a hint, never trusted."""

    blocks: Annotated[tuple[FinalizedBlock, ...], Meta(max_length=SYNC_BLOCKS_PER_ANSWER_MAX)]
    tip_height: HeightField
