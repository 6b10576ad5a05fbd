"""One honest sample of each thing with rules of its own: a roster's keys, a genesis, a head, a delta."""

from __future__ import annotations

from msgspec.structs import replace

from protocol.answers import AnswerClaim, AnswerRecord, model_digest, prompt_digest, sign_receipt
from protocol.availability import REPLICATION, AvailabilityCertificate, AvailabilityClaim, TileSnapshot
from protocol.badges import Badge, sign_badge
from protocol.digest import blob_digest
from protocol.erasure import LeafProof, blob_root
from protocol.finality import NO_BLOCK, ChainId, Vote, VoteKind, vote_text
from protocol.genesis import ChainRule, DatasetManifest, Founder, Genesis, LearningRule, LedgerRule, ModelShape
from protocol.ids import (
    AccountId,
    Digest,
    Epoch,
    Height,
    MemberIndex,
    NetworkId,
    PeerId,
    Round,
    Signature,
    TileId,
    Version,
    View,
    VoteKey,
)
from protocol.keys import KeyPair
from protocol.learning import Contributor, SignedDelta, sign_delta
from protocol.limits import NANO_PER_NOCK
from protocol.roster import DeltaRef, Head, Member, MemberCard, Roster, sign_head
from protocol.transactions import (
    AvailabilityRecord,
    CustodyAnswer,
    DatasetRecord,
    EvidenceReport,
    Leave,
    MetaVersion,
    ParameterRecord,
    Payload,
    RecordKind,
    Register,
    SemVer,
    Stake,
    Transfer,
    Unstake,
)

NODE_KEYS = sorted((KeyPair(bytes([0, number]) * 16) for number in range(1, 5)), key=lambda key: key.public)
VOTE_KEYS = [KeyPair(bytes([1, number]) * 16) for number in range(1, 5)]
ACCOUNT_KEYS = [KeyPair(bytes([2, number]) * 16) for number in range(1, 5)]


def member_cards() -> tuple[MemberCard, ...]:
    """Four members, in ascending order of node key."""
    return tuple(MemberCard.bind(*keys) for keys in zip(NODE_KEYS, VOTE_KEYS, ACCOUNT_KEYS, strict=True))


def roster(*weights: int) -> Roster:
    """Four members, with these weights or with equal ones."""
    members = tuple(Member(PeerId(n.public), VoteKey(v.public)) for n, v in zip(NODE_KEYS, VOTE_KEYS, strict=True))
    return Roster(Epoch(0), members, weights or (1, 1, 1, 1), blob_digest(b"beacon"))


def manifest() -> DatasetManifest:
    """Two shards."""
    return DatasetManifest("text", "PSF-2.0", 50_000, (blob_digest(b"one"), blob_digest(b"two")), (1_048_576, 77))


def genesis() -> Genesis:
    """A small network's first state; its numbers are the devnet's, or near them."""
    return Genesis(
        version=1,
        network_name="sample",
        created_ms=1_800_000_000_000,
        model=ModelShape(256, 4, 128, 4, 8, 256, 2, 128),
        model_seed=blob_digest(b"seed"),
        tile_bytes=262_144,
        learning=LearningRule(
            inner_steps=30,
            batch_sequences=8,
            learning_rate_micro=2_000,
            learning_rate_floor_micro=200,
            warmup_rounds=1,
            decay_rounds=0,
            beta1_micro=900_000,
            beta2_micro=950_000,
            averaged_batches=4,
            weight_decay_micro=100_000,
            gradient_clip_micro=1_000_000,
            balance_loss_micro=10_000,
            delta_pipeline="top10-int4-zstd",
            update_pipeline="int4-zstd",
            residual_decay_micro=950_000,
            residual_start_micro=500_000,
            merge_rule="mean",
            clip_multiple_micro=3_000_000,
            outer_rule="average",
            outer_rate_micro=1_000_000,
            outer_momentum_micro=0,
            round_ms=10_000,
            validation_sequences=64,
        ),
        chain=ChainRule(1_000, 200, 5_000, 4, 1_024),
        ledger=LedgerRule(),
        founders=tuple(Founder(card, 10_000 * NANO_PER_NOCK, 5_000 * NANO_PER_NOCK) for card in member_cards()),
        datasets=(manifest(),),
    )


def head() -> Head:
    """Version 7 of a tile, signed by the first member, made of two deltas."""
    unsigned = Head(
        tile=TileId("layer3.expert7/0"),
        version=Version(7),
        epoch=Epoch(0),
        attempt=0,
        round=6,
        parent_root=blob_digest(b"parent"),
        root=blob_digest(b"root"),
        update=blob_digest(b"update"),
        update_bytes=12_345,
        deltas=(
            DeltaRef(blob_digest(b"d0"), PeerId(NODE_KEYS[0].public), Version(6), 30_720),
            DeltaRef(blob_digest(b"d1"), PeerId(NODE_KEYS[1].public), Version(5), 128),
        ),
        proposer=PeerId(NODE_KEYS[0].public),
        signature=Signature(bytes(64)),
    )
    return sign_head(unsigned, NODE_KEYS[0])


def delta() -> SignedDelta:
    """A learner's change of a tile."""
    unsigned = SignedDelta(
        tile=TileId("trunk/0"),
        base=Version(3),
        round=Round(3),
        learner=PeerId(NODE_KEYS[1].public),
        tokens=30_720,
        payload=b"compressed",
        signature=Signature(bytes(64)),
    )
    return sign_delta(unsigned, NODE_KEYS[1])


def answer_record() -> AnswerRecord:
    """What the first member's door said to "To", and how: three bytes and the end."""
    prompt, tokens, versions = (84, 111), (32, 98, 101, 256), (Version(6), Version(7))
    salt = Digest(bytes([5]) * 32)
    claim = AnswerClaim(
        network=NetworkId(bytes([1]) * 32),
        door=PeerId(NODE_KEYS[0].public),
        began_ms=1_700_000_000_000,
        model=model_digest((version, blob_digest(bytes([version]))) for version in versions),
        prompt=prompt_digest(salt, prompt),
        prompt_tokens=2,
        tokens_max=16,
        temperature_micro=800_000,
        top_p_micro=1_000_000,
        seed=7,
    )
    return AnswerRecord(sign_receipt(claim, tokens, NODE_KEYS[0]), versions, salt, prompt, tokens)


def badge() -> Badge:
    """The first member's word about itself."""
    unsigned = Badge(
        network=NetworkId(bytes([1]) * 32),
        node=PeerId(NODE_KEYS[0].public),
        software="nocknode 0.1.0",
        made_ms=1_700_000_100_000,
        started_ms=1_700_000_000_000,
        height=Height(31),
        state_root=blob_digest(b"state"),
        model=blob_digest(b"model"),
        tiles=38,
        tiles_read=12,
        read_since_ms=1_700_000_010_000,
        tiles_mended=1,
        answers_checked=400,
        answers_wrong=3,
        audits=2,
        audits_wrong=0,
        signature=Signature(bytes(64)),
    )
    return sign_badge(unsigned, NODE_KEYS[0])


def aggregate() -> SignedDelta:
    """What the second member made of two learners' deltas of a tile."""
    contributors = tuple(
        Contributor(learner, blob_digest(learner), weight)
        for learner, weight in zip(sorted(PeerId(key.public) for key in NODE_KEYS[:2]), (30_720, 128), strict=True)
    )
    unsigned = replace(delta(), tokens=30_848, payload=b"merged and compressed", contributors=contributors)
    return sign_delta(unsigned, NODE_KEYS[1])


def aggregated_head() -> Head:
    """Version 7 of a tile, made of a region's aggregate and of a delta that came directly."""
    whole = head()
    first, second = whole.deltas
    contributors = tuple(sorted(blob_digest(name) for name in (b"c0", b"c1", b"c2")))
    deltas = (replace(first, weight=61_440, contributors=contributors), second)
    return sign_head(replace(whole, deltas=deltas), NODE_KEYS[0])


def vote(signer: int, kind: VoteKind, block: bytes, view: int = 3) -> Vote:
    """A member's signed word in epoch 0 of the sample network, about a block that ``block`` names."""
    named = NO_BLOCK if kind is VoteKind.NULLIFY else blob_digest(block)
    text = vote_text(ChainId.of(genesis().network_id()), 0, view, kind, named)
    return Vote(Epoch(0), View(view), kind, named, MemberIndex(signer), VOTE_KEYS[signer].sign(text))


def availability_record() -> AvailabilityRecord:
    """That three of the four members keep a tile's snapshot; with its size, and tables that nobody made."""
    subject = TileSnapshot(TileId("trunk/0"), Version(7), blob_digest(b"weights"))
    replication, tiles_root = REPLICATION[TileSnapshot], blob_digest(b"tile")
    blob = blob_root(replication.geometry, 4_096, tiles_root)
    until = replication.kept_until(0)
    claim = AvailabilityClaim(blob, blob_digest(b"tables"), replication.geometry, subject.digest(), Epoch(0), until)
    text = claim.text(ChainId.of(genesis().network_id()))
    certificate = AvailabilityCertificate(claim, b"\x07", tuple(key.sign(text) for key in VOTE_KEYS[:3]))
    return AvailabilityRecord(subject, 4_096, tiles_root, certificate)


def custody_answer() -> CustodyAnswer:
    """The fourth leaf of the cells of a tile's snapshot, with paths that nobody made, as long as those of a live tile."""
    path = tuple(blob_digest(bytes([step])) for step in range(8))
    leaf = LeafProof(0, 200, 3, bytes(range(256)) * 4, path[:6], path)
    return CustodyAnswer(PeerId(NODE_KEYS[0].public), Epoch(7), blob_digest(b"weights"), leaf, ())


def payloads() -> dict[str, Payload]:
    """One transaction's payload of each kind; records without work."""
    member = PeerId(NODE_KEYS[0].public)
    first = MetaVersion(NO_BLOCK, SemVer(1, 0, 0), 0, blob_digest(b"configuration"), 1_024)
    votes = (vote(0, VoteKind.NOTARIZE, b"one"), vote(0, VoteKind.NOTARIZE, b"other"))
    parents = (first.version_id(),)
    return {
        "transfer": Transfer(AccountId(ACCOUNT_KEYS[1].public), 10**9),
        "register": Register(member_cards()[0], 10**12),
        "stake": Stake(member, 10**9),
        "unstake": Unstake(member, 1),
        "leave": Leave(member),
        "evidence report": EvidenceReport(member, *votes),
        "parameter record": ParameterRecord(
            RecordKind.EXPERT, "layer4.expert7", 4, parents, blob_digest(b"weights"), 4_194_304, 0
        ),
        "meta version": MetaVersion(first.version_id(), SemVer(1, 1, 0), 1, blob_digest(b"other configuration"), 1_025),
        "data set record": DatasetRecord("text", SemVer(2, 0, 1), "CC-BY-4.0", manifest().root(), 2, 1_048_653, 0),
        "availability record": availability_record(),
        "custody answer": custody_answer(),
    }
