"""The table of decoders: everything in the project that reads bytes or text that somebody else wrote.

A row has samples that the decoder accepts, and a function that takes one input. ``reads`` names the functions of ours and the
messages that the row goes through; ``tests/architecture/test_decoders.py`` asks for a row, or for the reason of its absence,
wherever it finds a decoder that no row names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from msgspec.structs import replace

from compute import jobs
from compute.delta import codec
from compute.delta.pipeline import PIPELINES
from compute.spot_checks import find_deviation_micro
from consensus import transition
from consensus.availability import check_availability_certificate, check_availability_vote
from consensus.custody_answers import take_answer
from consensus.finality.chain import check_chain
from consensus.finality.events import MessageReceived, StoredBlock
from consensus.finality.signer import JournalState, VoteRecord, VoteSigner
from consensus.finality.tally import check_certificate, check_vote
from consensus.light_client import check_light_client_proof
from consensus.recovery import check_proposal, check_recovery
from consensus.signers import check_signers
from consensus.state import ACCOUNTS, State, TileEntry, decode_entry
from node import chain_proof, config
from node.account_address import account_text, parse_account
from node.addresses import (
    check_announced_address,
    check_api_address,
    check_listen_address,
    check_origin,
    check_peer_address,
    check_webhook,
    parse_peer_address,
)
from node.answer_book import AnswerRow
from node.api.audits import AuditRequest
from node.api.bodies import decode_request
from node.api.chat_socket import decode_chat_message
from node.api.handlers import TransactionRequest, read_natural
from node.api.openai_requests import decode_chat_request, decode_completion_request
from node.api.responses import ApiError
from node.api.view import Asked
from node.chain_index import TransactionRow
from node.chain_proof import make_proof, parse_key
from node.checkpoint_file import CheckpointHead, CheckpointPart
from node.checkpoints import CheckpointManifest, check_checkpoint_manifest, make_checkpoint_manifest
from node.config import read_run_settings
from node.fork_rows import ForkRow
from node.ground import DELTA_ROW_BYTES_MAX, DeltaRow, KnownPeers, LearnerRecord
from node.inbound import Inbound
from node.keys import CARD_BYTES_MAX, card_text, parse_card
from node.money import parse_nock
from node.part_worker import CALL_BYTES_MAX, BucketOfPart, PartInFile, Prove, Proved, Refused
from node.recovery_disagreement import HaltRow
from node.services.expert_audit import ExpertAudit
from node.services.housekeeping import UseRow
from node.state_rows import FetchRow
from node.toml_table import Key, parse_document, read_table, write_table
from p2p.addresses import parse_address, usable_addresses
from p2p.framing import FrameReader, decode_answer, encode_answer, encode_frame, encode_refusal
from p2p.greeting import Greeting, Ping, Pong
from p2p.records import (
    RECORD_BYTES_MAX,
    PeerRecord,
    Record,
    build_peer_record,
    check_peer_record,
    check_record,
    choose_best,
    peer_key,
)
from p2p.requests import ADVERTS, BLOB, CELLS, DELTA, EXPERT, HELLO, PING, STATE, SYNC
from p2p.topics import find_topic_rule, topic_text
from p2p.transport import GossipReceived
from protocol.answers import AnswerClaim, AnswerReceipt, AnswerRecord, check_answer_record
from protocol.availability import AvailabilityCertificate, AvailabilityClaim, AvailabilityVote, checkpoint_subject
from protocol.badges import Badge, check_badge, read_badge
from protocol.cells import CellRequest, Cells, KeepAnswer, Leaf, Manifest, Tables
from protocol.codec import decode, encode
from protocol.coded_tables import CheckedTable, TileTable, check_table, make_tables
from protocol.digest import blob_digest
from protocol.envelope import Envelope, Sealed, open_envelope, seal
from protocol.erasure import BlobManifest, CheckedManifest, Geometry, LeafProof, Shard, check_manifest, make_manifest
from protocol.experts import CallExpert, ExpertCalled
from protocol.finality import (
    Body,
    Certificate,
    ChainId,
    FinalizedBlock,
    Header,
    OnionReveal,
    ValidatorFrame,
    Vote,
    VoteKind,
)
from protocol.genesis import Genesis, check_genesis, genesis_roster
from protocol.ids import (
    Digest,
    Epoch,
    Height,
    MemberIndex,
    PeerId,
    ShardId,
    TileId,
    View,
    parse_hex32,
    parse_peer,
    peer_text,
)
from protocol.learning import (
    Advert,
    BlobAnswer,
    BlobRequest,
    Blocks,
    DeltaBundle,
    DeltaReceipt,
    FinalizedTip,
    GetAdverts,
    GetBlocks,
    HeadProposals,
    KnownAdverts,
    SignedDelta,
)
from protocol.light_client import LightClientProof, decode_light_client_proof
from protocol.limits import (
    ANSWER_RECORD_BYTES_MAX,
    ANSWER_TRANSACTION_BYTES_MAX,
    BODY_BYTES_MAX,
    FRAME_BYTES_MAX,
    HISTORY_SEGMENTS,
    KIB,
    MANIFEST_BYTES_MAX,
    RECOVERY_BYTES_MAX,
    SHARD_BYTES_MAX,
    STATE_ENTRY_BYTES_MAX,
    STATE_RUN_ENTRIES,
    STREAMED_TILE_VALUES_MAX,
    TABLE_BYTES_MAX,
    TABLE_COLUMNS,
    TRANSACTION_BYTES_MAX,
)
from protocol.merkle import merkle_root
from protocol.messages import KIND_OF, PAYLOADS, Kind, decode_payload
from protocol.recovery import RecoveryProposal, SignedRecovery, decode_proposal, decode_recovery
from protocol.rejection import Reason, Rejected
from protocol.roster import Head, MemberCard, Roster, check_member_card
from protocol.state_proof import StateProof, SubChain, bucket_digest, check_state_proof, key_digest
from protocol.state_sync import (
    Checkpoint,
    Children,
    Entries,
    StateEntry,
    StateRequest,
    Trusted,
    check_bucket,
    check_children,
    check_entries,
    pack_bucket,
    split_name,
)
from protocol.transactions import (
    AvailabilityRecord,
    CustodyAnswer,
    EvidenceReport,
    Leave,
    Payload,
    SemVer,
    Stake,
    Transaction,
    Transfer,
    Unstake,
    check_transaction,
    read_transaction,
    sign_transaction,
)
from simnet.finality.genesis import quick_verify
from simnet.options import FaultKind, RepairKind, parse_fault, parse_repair
from simnet.scenario_file import parse_scenario
from simnet.seeds import parse_seeds
from storage import journal
from storage.cells import KEPT_ROW_BYTES_MAX, KeptRow
from storage.custodians import Started
from storage.erasure.blob import encode_blob
from storage.erasure.check import TileCheck
from storage.erasure.code import ErasureCode
from storage.erasure.numpy_kernel import NumpyKernel
from storage.erasure.tile import CodedTile, check_leaf, check_shard, prove_leaf
from storage.gathering import Answered, TileGatherer
from storage.journal import MAGIC, frame, read_journal
from storage.streamed_tile import DecodedRows, TileRows, decode_tile, encode_tile
from storage.tensor_block import BlockShape, Dtype, PageVerifier, Quantisation, build_block, check_block
from storage.tile_format import check_tile, tile_block, tile_folder
from storage.tile_stream import FRONT_BYTES_MAX, check_front, stream_root
from storage.tile_stream import check_table as check_stream_table
from tests.compute.golden_deltas import drawn_delta, drawn_matrices
from tests.consensus import custody_samples, ledger_samples
from tests.consensus.genesis import TILES
from tests.consensus.ledger_samples import ACCOUNT_IDS, FIRST_VERSION, GENESIS
from tests.consensus.light_chain import CHAIN, RULE, LightChain, without_roster
from tests.consensus.light_chain import KEYS as KEYS_OF_VOTES
from tests.consensus.recovery_samples import CHAIN_OF_FOUR, combine, propose, signed_by
from tests.fuzz.mutations import Form
from tests.protocol.samples import (
    ACCOUNT_KEYS,
    NODE_KEYS,
    VOTE_KEYS,
    aggregate,
    aggregated_head,
    answer_record,
    availability_record,
    badge,
    delta,
    genesis,
    head,
    member_cards,
    payloads,
    vote,
)
from tests.storage.streams import drawn_rows, drawn_stream
from tests.strategies import values

NOW_MS = 1_800_000_000_000
NETWORK = genesis().network_id()
NETWORK_CHAIN = ChainId.of(NETWORK)
SAMPLES_DRAWN = 40
CONFIGS = Path(__file__).parents[2] / "configs"
Samples = Callable[[], list[bytes]]


@dataclass(frozen=True, slots=True)
class Decoder:
    """One row. ``allowed`` bytes may be allocated for nothing, ``per_byte`` more for each byte of the input."""

    name: str
    form: Form
    samples: Samples
    decode: Callable[[bytes], object]
    reads: tuple[object, ...] = ()
    words: tuple[bytes, ...] = ()
    allowed: int = 64 * KIB  # a sentence, an exception, the frames around it
    per_byte: int = 64  # an array of the smallest items: eight bytes of pointer and a small object each
    input_bytes_max: int = 256 * KIB  # more only repeats what a smaller input shows, slowly

    def bytes_allowed(self, size_bytes: int) -> int:
        return self.allowed + self.per_byte * size_bytes


def drawn(kind: Any) -> list[bytes]:
    """Values of a message as Hypothesis draws them from its type, always the same ones."""
    found: list[bytes] = []

    @settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=SAMPLES_DRAWN,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(values(kind))
    def collect(value: object) -> None:
        found.append(encode(value))

    collect()
    return found


def message(name: str, kind: Any, limit_bytes: int, *honest: object) -> Decoder:
    """A message that is decoded as it is; what it means is asked later."""
    reads = kind.__args__ if hasattr(kind, "__args__") else (kind,)
    return Decoder(
        name,
        Form.MSGPACK,
        functools.cache(lambda: [*drawn(kind), *(encode(value) for value in honest)]),
        lambda data: decode(kind, data, limit_bytes=limit_bytes),
        reads,
    )


def text_row(name: str, read: Callable[[str], object], *samples: str, reads: object = None, words: str = "") -> Decoder:
    """A function of a text that a person or a peer wrote."""
    return Decoder(
        name,
        Form.TEXT,
        lambda: [sample.encode() for sample in samples],
        lambda data: read(data.decode("utf-8", "replace")),
        (reads or read,),
        (*(word.encode() for word in words.split()), b"9" * 5_000),  # more digits than int() reads
        input_bytes_max=8 * KIB,  # options and configuration; what peers say of this is at most 256 characters
    )


# -- gossip ------------------------------------------------------------------------------------------------------------


def gossip_payload(kind: Kind) -> Decoder:
    """A payload whose envelope was opened: its author signed whatever it liked."""
    payload = PAYLOADS[kind]
    return Decoder(
        f"gossip {kind.name.lower().replace('_', ' ')}",
        Form.MSGPACK,
        functools.cache(lambda: drawn(payload)),
        lambda data: decode_payload(Envelope(kind, PeerId(NODE_KEYS[0].public), 0, 0, data)),
        (payload, decode_payload),
    )


def envelope_samples() -> list[bytes]:
    chain = LightChain([{0: 1}])
    said = [HeadProposals((head(),)), FinalizedTip(chain.header(1), chain.block(1).certificate)]
    sealed = [seal(NODE_KEYS[0], NETWORK, KIND_OF[type(each)], 7, NOW_MS + 1_000, encode(each)) for each in said]
    return [*sealed, seal(NODE_KEYS[1], NETWORK, Kind.ROUND_ANNOUNCEMENT, 2**63 - 1, NOW_MS, drawn_announcement())]


def drawn_announcement() -> bytes:
    return drawn(PAYLOADS[Kind.ROUND_ANNOUNCEMENT])[0]


def open_gossip(data: bytes) -> object:
    message = GossipReceived("topic", PeerId(bytes(32)), data)
    return Inbound(NETWORK, lambda peer: True).gossip(message, NOW_MS)


def advert_samples() -> list[bytes]:
    sealed = [seal(NODE_KEYS[0], NETWORK, Kind.ADVERT, 7, NOW_MS + 1_000, each) for each in drawn(Advert)]
    return [encode(KnownAdverts(tuple(sealed[:count]))) for count in range(3)]


def open_adverts(data: bytes) -> object:
    return list(Inbound(NETWORK, lambda peer: True).adverts_told(data, NOW_MS))


# -- validators, light clients, sync -----------------------------------------------------------------------------------

LIGHT = LightChain([{0: 1, 1: 2, 2: 1}, {0: 1, 1: 2, 2: 1}, {0: 1, 1: 2, 3: 1}, {3: 1, 4: 1}])


def validator_message(data: bytes) -> object:
    roster = genesis_roster(genesis())
    event = Inbound(NETWORK, lambda peer: True).validator(roster.members[0].node, data)
    match event:
        case MessageReceived(message=Vote()):
            return check_vote(event.message, roster, NETWORK_CHAIN)
        case other:
            return other  # None: of another fork


def vote_samples() -> list[bytes]:
    return [encode(ValidatorFrame(0, vote(signer, kind, b"block"))) for signer in range(4) for kind in VoteKind]


def certificate_samples() -> list[bytes]:
    return [encode(LIGHT.block(height).certificate) for height in range(1, 9)]


def light_client_samples() -> list[bytes]:
    entry = GENESIS.prove(ACCOUNTS, ACCOUNT_IDS[0])
    blocks = tuple(LIGHT.boundary(epoch) for epoch in (1, 2))
    return [
        encode(LightClientProof(blocks[:1], None)),
        encode(LightClientProof((*blocks, LIGHT.block(25), without_roster(LIGHT.block(30))), entry)),
    ]


def check_light_client(data: bytes) -> object:
    return check_light_client_proof(decode_light_client_proof(data), LIGHT.trust, RULE, NOW_MS // 10**4, quick_verify)


def recovery_proposal_samples() -> list[bytes]:
    return [encode(propose(1, CHAIN_OF_FOUR.block(height))) for height in (5, 8)]


def check_own_proposal(data: bytes) -> object:
    return check_proposal(decode_proposal(data), RULE, quick_verify)


def recovery_samples() -> list[bytes]:
    made = [combine(propose(0, CHAIN_OF_FOUR.block(height)), remaining=[0, 1]) for height in (5, 8)]
    return [encode(signed_by(each, 0, 1)) for each in made]


def check_own_recovery(data: bytes) -> object:
    return check_recovery(decode_recovery(data), RULE, quick_verify)


def sync_samples() -> list[bytes]:
    blocks: list[FinalizedBlock] = []
    for height in (1, 2, 3):
        parent = blocks[-1].header.digest() if blocks else bytes(32)
        header = replace(LIGHT.header(height), parent=parent)
        certificate = LIGHT.certify(header, LIGHT.roster(0)).certificate if height != 2 else None
        blocks.append(FinalizedBlock(header, b"", certificate))
    return [encode(Blocks(tuple(blocks[:count]), Height(9))) for count in (1, 3)]


def check_sync_answer(data: bytes) -> object:
    return check_chain(
        decode(Blocks, data, limit_bytes=FRAME_BYTES_MAX).blocks, LIGHT.roster(0), CHAIN, RULE, quick_verify
    )


# -- state and transactions --------------------------------------------------------------------------------------------


def transaction_samples() -> list[bytes]:
    return [
        encode(sign_transaction(ACCOUNT_KEYS[0], NETWORK_CHAIN, nonce, 1_000, payload))
        for nonce, payload in enumerate((*payloads().values(), long_record()))
    ]


def long_record() -> AvailabilityRecord:
    """A certificate of so many members that its transaction is longer than plain ones may be."""
    record = availability_record()
    signatures = record.certificate.signatures * 12
    return replace(record, certificate=replace(record.certificate, signers=b"\xff" * 5, signatures=signatures))


def payload_samples() -> list[bytes]:
    """One of nearly every kind, each accepted in the first block of the sample ledger."""
    votes = (ledger_samples.vote(1, VoteKind.NOTARIZE, b"one"), ledger_samples.vote(1, VoteKind.NOTARIZE, b"other"))
    configuration = replace(FIRST_VERSION, parent=FIRST_VERSION.version_id(), version=SemVer(1, 1, 0), generation=1)
    made = (
        Transfer(ACCOUNT_IDS[1], 5),
        Stake(ledger_samples.node_of(0), 10),
        Unstake(ledger_samples.node_of(0), 10),
        Leave(ledger_samples.node_of(0)),
        EvidenceReport(ledger_samples.node_of(1), *votes),
        ledger_samples.parameters(0, "layer4.expert7"),
        ledger_samples.dataset(0),
        ledger_samples.available(GENESIS, ledger_samples.snapshot_of(GENESIS, TILES[0])),
        configuration,
    )
    return [encode(payload) for payload in made]


def apply_payload(data: bytes) -> object:
    """What somebody signed who can sign: no money appears, and no invariant breaks."""
    payload: Any = decode(Payload, data, limit_bytes=TRANSACTION_BYTES_MAX)  # type: ignore[arg-type]  # a union
    after, (refusal,) = ledger_samples.apply_all(GENESIS, (0, payload))
    ledger_samples.check_money(after)
    if refusal is not None:
        raise Rejected(refusal)
    return after


@functools.cache
def asked_state() -> State:
    """Seven members, each of whom the chain asks for a leaf of a blob of two tiles."""
    return custody_samples.ask(custody_samples.seven(), custody_samples.TWO_TILES.entry())


def custody_answers() -> list[bytes]:
    return [encode(custody_samples.TWO_TILES.answer(asked_state(), card)) for card in custody_samples.CARDS]


def check_custody_answer(data: bytes) -> object:
    return take_answer(asked_state(), decode(CustodyAnswer, data, limit_bytes=ANSWER_TRANSACTION_BYTES_MAX), 1, 60)


def state_proof_samples() -> list[bytes]:
    return [encode(GENESIS.prove(ACCOUNTS, key)) for key in (ACCOUNT_IDS[0], bytes(32), b"\xff" * 32)]


def check_proof(data: bytes) -> object:
    """As whoever asks for an entry does: the value comes beside the proof, and here it is right or absent."""
    proof = decode(StateProof, data, limit_bytes=4 * KIB)
    for key in (ACCOUNT_IDS[0], bytes(32), b"\xff" * 32):
        entry = GENESIS.find(ACCOUNTS, key)
        try:
            return check_state_proof(
                proof, GENESIS.root(), SubChain.C, ACCOUNTS.prefix + key, None if entry is None else encode(entry)
            )
        except Rejected as rejected:
            refusal = rejected
    raise refusal


# -- storage -----------------------------------------------------------------------------------------------------------

TILE = TileId("layer3.expert7/0")
TILE_VALUES = 40_000  # two planes of them are five pages


@functools.cache
def tile_samples() -> list[bytes]:
    return [
        tile_block(TILE, bytes(range(250)) * (planes * TILE_VALUES * 4 // 250), planes, TILE_VALUES)[0]
        for planes in (1, 2)
    ]


def check_tile_file(data: bytes) -> object:
    """As a fetched tile: against the roots that were decided."""
    roots = [check_block(memoryview(sample)).root for sample in tile_samples()]
    refusal = Rejected(Reason.NOT_FOUND)
    for root in roots:
        try:
            tile = check_tile(TILE, memoryview(data), root)
            tile.verify()
            return tile
        except Rejected as rejected:
            refusal = rejected
    raise refusal


@functools.cache
def block_samples() -> list[bytes]:
    shapes = [BlockShape(Dtype.UINT8, 3, 5), BlockShape(Dtype.INT8, 700, 100, quantisation=Quantisation.ROW_SCALES)]
    made = []
    for shape in shapes:
        pieces, _ = build_block(shape, [bytes(shape.data_bytes)], bytes(shape.scale_bytes))
        made.append(b"".join(pieces))
    return made


def check_block_file(data: bytes) -> object:
    """Against the root that the file itself claims: so that everything below the root is looked at."""
    block = check_block(memoryview(data))
    PageVerifier(block, block.root, "fuzzed").check_all()
    return block.leaves()


STREAMED_ROWS = TileRows(6, 150)
STREAMED_MATRICES = ((10, 40, 4), (3, 70, 3))


@functools.cache
def streamed_tiles() -> list[bytes]:
    """Of noise, and of zeros, which compress to next to nothing."""
    codes_RC, scales_R = drawn_rows(STREAMED_ROWS, np.random.default_rng(0))
    return [encode_tile(codes_RC, scales_R)[0], encode_tile(0 * codes_RC, 0 * scales_R)[0]]


def decode_streamed_tile(data: bytes) -> DecodedRows:
    """Against the digest that its header claims: so that everything below the header is looked at."""
    return decode_tile(data, STREAMED_ROWS, Digest(data[64:96].ljust(32, b"\x00")))


def stream_samples() -> list[bytes]:
    return [drawn_stream(STREAMED_MATRICES)[2], drawn_stream(((1, 1, 1),))[2]]


def read_stream(data: bytes) -> list[DecodedRows]:
    """Against the root to which its own table leads."""
    shape = check_front(data[:FRONT_BYTES_MAX])
    table = data[max(0, len(data) - shape.table_bytes) :]
    names = [Digest(table[at + 4 : at + 36]) for at in range(0, len(table), 36)]
    checked = check_stream_table(shape, table, len(data), stream_root(shape, names))
    return [
        decode_tile(data[tile.offset : tile.offset + tile.stored_bytes], tile.place.shape, tile.name)
        for tile in checked.tiles
    ]


CODED_GEOMETRY = Geometry(3, 4, 2 * KIB)
CODED_BYTES = 7 * KIB + 5  # a full tile and a shorter one


@functools.cache
def coded_tiles() -> tuple[CodedTile, ...]:
    return tuple(encode_blob(ErasureCode(NumpyKernel(), CODED_GEOMETRY), [(bytes(range(251)) * 29)[:CODED_BYTES]]))


@functools.cache
def coded_blob() -> CheckedManifest:
    tiles = coded_tiles()
    return make_manifest(CODED_GEOMETRY, sum(len(tile.data) for tile in tiles), tuple(tile.root for tile in tiles))


def manifest_samples() -> list[bytes]:
    return [encode(coded_blob().manifest)]


def check_own_manifest(data: bytes) -> object:
    """Against its blob's root, and then against the root that it gives itself, as if its author had committed to it."""
    try:
        return check_manifest(data, coded_blob().root)
    except Rejected as rejected:
        if rejected.reason is not Reason.WRONG_DIGEST:
            raise
    return check_manifest(data, decode(BlobManifest, data, limit_bytes=MANIFEST_BYTES_MAX).root())


# -- a state by parts ----------------------------------------------------------------------------------------------------


STATE_FETCHED = ledger_samples.GENESIS
ACCOUNTS_TREE = STATE_FETCHED.trees[SubChain.C]


def children_samples() -> list[bytes]:
    return [encode(Children((b"".join(ACCOUNTS_TREE.digests_below(b"")),)))]


def check_own_children(data: bytes) -> object:
    answer = decode(Children, data, limit_bytes=FRAME_BYTES_MAX)
    return [check_children(each, ACCOUNTS_TREE.root()) for each in answer.digests]


BUCKET = bytes([SubChain.C, 1, 2])
BUCKET_LEAVES = [key_digest(bytes([index])) for index in range(200)]  # four runs


def bucket_samples() -> list[bytes]:
    runs = [merkle_root(BUCKET_LEAVES[first : first + STATE_RUN_ENTRIES]) for first in range(0, 200, STATE_RUN_ENTRIES)]
    return [encode(Children((pack_bucket(len(BUCKET_LEAVES), runs),)))]


def check_own_bucket(data: bytes) -> object:
    expected = bucket_digest(len(BUCKET_LEAVES), merkle_root(BUCKET_LEAVES))
    answer = decode(Children, data, limit_bytes=FRAME_BYTES_MAX)
    return [check_bucket(BUCKET, each, expected) for each in answer.digests]


def account_branch() -> tuple[bytes, tuple[StateEntry, ...]]:
    """A branch with an account in it, and its entries."""
    entries = sorted((key_digest(key), StateEntry(key, encode(value))) for key, value in ACCOUNTS_TREE.items())
    branch = entries[0][0][:1]
    return bytes([SubChain.C]) + branch, tuple(entry for place, entry in entries if place[:1] == branch)


def entries_samples() -> list[bytes]:
    return [encode(Entries((account_branch()[1], None)))]


def check_own_entries(data: bytes) -> object:
    name, _ = account_branch()
    expected = ACCOUNTS_TREE.digests_below(b"")[name[1]]
    for part in decode(Entries, data, limit_bytes=FRAME_BYTES_MAX).parts:
        if part is not None:
            check_entries(name, part, expected)
    return None


def prove_samples() -> list[bytes]:
    name, _ = account_branch()
    expected = ACCOUNTS_TREE.digests_below(b"")[name[1]]
    return [encode(Prove((name,), (expected,), "", data)) for data in entries_samples()]


def proved_samples() -> list[bytes]:
    return [
        encode(Proved((PartInFile(7, (BucketOfPart(b"abc", bytes(32)),)), None), None)),
        encode(Proved((), Refused("malformed", "why"))),
    ]


def entry_samples() -> list[bytes]:
    return [entry.value for entry in account_branch()[1] if entry.key[:1] == ACCOUNTS.prefix]


def checkpoint_manifest_samples() -> list[bytes]:
    block = LIGHT.boundary(1)
    header = replace(block.header, state_root=STATE_FETCHED.root())
    return [encode(make_checkpoint_manifest(replace(block, header=header), STATE_FETCHED))]


def shard_samples() -> list[bytes]:
    return [encode(tile.checked(cell).shard) for tile in coded_tiles() for cell in (0, 6)]


def leaf_samples() -> list[bytes]:
    return [encode(prove_leaf(tile.checked(cell), 0)) for tile in coded_tiles() for cell in (0, 6)]


@functools.cache
def coded_tables() -> tuple[Digest, list[TileTable]]:
    tables = [check.table(tile) for check, tile in zip(coded_checks(), coded_tiles(), strict=True)]
    return make_tables(coded_blob(), tables)


@functools.cache
def coded_checks() -> tuple[TileCheck, ...]:
    return tuple(TileCheck.of(NumpyKernel(), coded_blob(), tile.index) for tile in coded_tiles())


def compare_with_table(data: bytes) -> object:
    """Under its root; and as if somebody had committed to it, by the cells of its tile."""
    table = decode(TileTable, data, limit_bytes=TABLE_BYTES_MAX)
    try:
        checked = check_table(coded_blob(), coded_tables()[0], table)
    except Rejected:
        if len(table.sums) != TABLE_COLUMNS * CODED_GEOMETRY.data_cells or table.tile >= len(coded_tiles()):
            raise
        checked = CheckedTable(table.tile, coded_tiles()[table.tile].root, table.sums, coded_tables()[0])
    return coded_checks()[table.tile].check(checked, coded_tiles()[table.tile].shards())


def table_samples() -> list[bytes]:
    return [encode(table) for table in coded_tables()[1]]


def availability_claim() -> AvailabilityClaim:
    subject = checkpoint_subject(64, blob_digest(b"state"))
    return AvailabilityClaim(
        coded_blob().root, coded_tables()[0], Geometry(3, 6, 2 * KIB), subject, Epoch(0), Epoch(84)
    )


def availability_votes() -> list[AvailabilityVote]:
    claim = availability_claim()
    return [
        AvailabilityVote(claim, MemberIndex(signer), VOTE_KEYS[signer].sign(claim.text(NETWORK_CHAIN)))
        for signer in range(4)
    ]


def availability_certificates() -> list[bytes]:
    signatures = [vote.signature for vote in availability_votes()]
    claim = availability_claim()
    return [
        encode(AvailabilityCertificate(claim, b"\x0f", tuple(signatures))),
        encode(AvailabilityCertificate(claim, b"\x07", tuple(signatures[:3]))),
    ]


def check_vote_of_availability(data: bytes) -> object:
    vote = decode(AvailabilityVote, data, limit_bytes=KIB)
    return check_availability_vote(vote, genesis_roster(genesis()), NETWORK_CHAIN)


def check_certificate_of_availability(data: bytes) -> object:
    certificate = decode(AvailabilityCertificate, data, limit_bytes=8 * KIB)
    return check_availability_certificate(certificate, genesis_roster(genesis()), NETWORK_CHAIN)


def cells_samples() -> list[bytes]:
    tile = coded_tiles()[0]
    return [encode(Cells(tuple(tile.checked(cell).shard for cell in cells))) for cells in ((), (5,), (0, 2, 6))]


def gather_cells(data: bytes) -> object:
    """As the answer to a question for all cells of a tile: whatever it is, the gatherer goes on."""
    peer = PeerId(NODE_KEYS[0].public)
    wanted = range(CODED_GEOMETRY.cells)
    gatherer = TileGatherer(coded_blob(), 0, {cell: [peer] for cell in wanted}, Random(0), cells=wanted)
    gatherer.handle(Started(), 0)
    return gatherer.handle(Answered(1, decode(Cells, data, limit_bytes=FRAME_BYTES_MAX).shards), 1)


def kept_rows() -> list[bytes]:
    return [encode(KeptRow(coded_blob().manifest, coded_tables()[0], until)) for until in (None, Epoch(84))]


def journal_samples() -> list[bytes]:
    records = vote_record_samples()
    return [MAGIC, MAGIC + frame(0, records[:1]) + frame(1, records) + frame(2, [])]


JOURNAL_STATES = {
    journal.JournalState.CLEAN: JournalState.CLEAN,
    journal.JournalState.TORN_TAIL: JournalState.TORN,
    journal.JournalState.DAMAGED: JournalState.DAMAGED,
}


def read_vote_journal(data: bytes) -> object:
    """A file to the memory of a signer; a record that a checksum covers is a record."""
    contents = read_journal(data)
    return VoteSigner(KEYS_OF_VOTES[0], CHAIN, LIGHT.roster(0), contents.records, JOURNAL_STATES[contents.state])


def vote_record_samples() -> list[bytes]:
    signer = VoteSigner(KEYS_OF_VOTES[0], CHAIN, LIGHT.roster(0))
    signed = [signer.nullify(View(view)) for view in (3, 2**60)]
    return [*(each.record for each in signed if each is not None), *signer.compacted()]


# -- compute -----------------------------------------------------------------------------------------------------------

DELTA_VALUES = 3_000


@functools.cache
def delta_samples() -> list[bytes]:
    drawn = drawn_delta("fuzz", DELTA_VALUES)
    shapes = ((), drawn_matrices(DELTA_VALUES))
    return [
        codec.encode(values, row.name, shape) for row in PIPELINES for shape in shapes for values in (drawn, 0 * drawn)
    ]


def decode_delta(data: bytes) -> object:
    """And its dense values, which a merge adds up."""
    return codec.decode(data, DELTA_VALUES).dense()


CALLS = (
    jobs.Hello("auto", 1, b"genesis"),
    jobs.ComputeExpert((jobs.TileFile("layer0.expert1/0", 3, bytes(32), "t"),), "layer0.expert1", 1, 2, bytes(64)),
    jobs.BeginAnswer(1, (jobs.TileFile("trunk/0", 3, bytes(32), "t"),), "a", (65,), 10, 0.5, 40, 7, (256,)),
    jobs.DecodeStep(1, (jobs.ExpertPart(3, bytes(64)),)),
    jobs.EndAnswer(1, "a"),
    jobs.Cancel(),
    jobs.Shutdown(),
)
REPLIES = (
    jobs.Progress(1, 30, 2.5),
    jobs.LearnDone(2, (jobs.TileDelta("trunk/0", 3, b"delta"),), "state", 1_000, 2.5, 3_000),
    jobs.ExpertComputed(bytes(64)),
    jobs.Noted(),
    jobs.RowsWanted(2, (jobs.ExpertPart(3, bytes(64)),)),
    jobs.Decoded((jobs.DecodedToken("a", 65, False),)),
    jobs.JobFailed("error", "why"),
)


# -- frames, records, people -------------------------------------------------------------------------------------------


def read_frames(data: bytes) -> object:
    """In two pieces, cut where the input says, and each payload as an answer."""
    reader = FrameReader(16 * KIB)
    cut = len(data) * data[0] // 256 if data else 0
    return [decode_answer(payload) for piece in (data[:cut], data[cut:]) for payload in reader.feed(piece)]


def record_samples() -> list[bytes]:
    addresses = [f"/ip4/127.0.0.1/tcp/4001/p2p/{peer_text(PeerId(NODE_KEYS[0].public))}"]
    return [build_peer_record(NODE_KEYS[0], sequence, addresses[:sequence]) for sequence in (0, 1)]


def check_own_record(data: bytes) -> object:
    key = peer_key(PeerId(NODE_KEYS[0].public))
    return check_record(key, data), choose_best(key, [record_samples()[0], data])


def read_card(data: bytes) -> object:
    return check_member_card(decode(MemberCard, data, limit_bytes=CARD_BYTES_MAX))


def generate_samples() -> list[bytes]:
    return [
        b'{"prompt": "To be"}',
        b'{"prompt": "\\u00e9\xc3\xa9", "tokens_max": 4096, "temperature": 0.5, "seed": 9223372036854775807}',
    ]


def ask_openai(decode: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """A decoder of OpenAI's requests, for which a field without meaning here is a refusal like others."""

    def ask(data: bytes) -> object:
        try:
            return decode(data)
        except ApiError as error:
            raise Rejected(Reason.BAD_ARGUMENT, str(error)) from None

    return ask


TOML_WORDS = (
    *(b"= 1e999999999", b"= -inf", b"= nan", b"= " + b"9" * 5_000, b"= 0x" + b"f" * 300, b"= 1979-05-27T07:32:00Z"),
    *(
        b"[network]",
        b"[[network]]",
        b"[a.b.c]\n",
        b"network.id = {}\n",
        b"= {a = 1}",
        b"= [1, [2]]",
        b'"""',
        b"\\u0000",
    ),
    b"= " + b"[" * 2_000,
)


def toml_row(name: str, schema: tuple[Key, ...], *files: str) -> Decoder:
    """A configuration as a person may leave it behind."""

    def samples() -> list[bytes]:
        written = write_table(schema, {key.place: key.default for key in schema})
        return [b"", written.encode(), *((CONFIGS / file).read_bytes() for file in files)]

    def read(data: bytes) -> object:
        return read_table(data.decode("utf-8", "replace"), schema, "config.toml")

    return Decoder(
        name,
        Form.TEXT,
        functools.cache(samples),
        read,
        (read_table, check_api_address, check_origin, check_webhook),
        TOML_WORDS,
        allowed=512 * KIB,
        per_byte=256,
        input_bytes_max=8 * KIB,
    )


@functools.cache
def read_calm(_name: str) -> str:
    """Whatever base a scenario names."""
    return (CONFIGS / "scenarios" / "calm.toml").read_text()


ADDRESS = f"/ip4/127.0.0.1/tcp/4001/p2p/{peer_text(PeerId(NODE_KEYS[0].public))}"

PROVED_KEYS = (f"account:{account_text(ACCOUNT_IDS[0])}", "tile:trunk/0", "supply")


def proof_file_samples() -> list[bytes]:
    """Proof files of a small state, without a block."""
    return [msgspec.json.encode(make_proof(GENESIS, key, 0, None, None)) for key in PROVED_KEYS]


DECODERS: tuple[Decoder, ...] = (
    *(gossip_payload(kind) for kind in Kind),
    Decoder(
        "envelope",
        Form.MSGPACK,
        functools.cache(envelope_samples),
        open_gossip,
        (open_envelope, Sealed, Inbound.gossip, decode_payload),
    ),
    message("validator frame", ValidatorFrame, FRAME_BYTES_MAX),
    Decoder(
        "vote",
        Form.MSGPACK,
        functools.cache(vote_samples),
        validator_message,
        (Inbound.validator, check_vote, ValidatorFrame, Vote),
    ),
    Decoder(
        "certificate",
        Form.MSGPACK,
        functools.cache(certificate_samples),
        lambda data: check_certificate(
            decode(Certificate, data, limit_bytes=64 * KIB), LIGHT.roster(0), CHAIN, quick_verify
        ),
        (Certificate, check_certificate),
    ),
    message("header", Header, 4 * KIB, LIGHT.header(3)),
    message(
        "body",
        Body,
        BODY_BYTES_MAX,
        Body((head(),), tuple(transaction_samples()[:2])),
        Body((), (), OnionReveal(blob_digest(b"layer")), (blob_digest(b"end"),) * HISTORY_SEGMENTS),
    ),
    message("block on disk", StoredBlock, FRAME_BYTES_MAX),
    message("tile on disk", TileEntry, STATE_ENTRY_BYTES_MAX),
    message("place of a transaction", TransactionRow, 128),
    message("state request", StateRequest, STATE.request_bytes_max),
    message("way to a checkpoint", Checkpoint, FRAME_BYTES_MAX),
    message("block that is trusted", Trusted, FRAME_BYTES_MAX),
    message("state that is fetched", FetchRow, FRAME_BYTES_MAX),
    message("roster on disk", Roster, FRAME_BYTES_MAX),
    message("head of a checkpoint's file", CheckpointHead, FRAME_BYTES_MAX),
    message("part of a checkpoint's file", CheckpointPart, FRAME_BYTES_MAX),
    Decoder(
        "digests of a state",
        Form.MSGPACK,
        children_samples,
        check_own_children,
        (Children, check_children),
        allowed=256 * KIB,  # 256 digests in a list and a tree, for each eight kilobytes that are shown
    ),
    Decoder(
        "digests of a large bucket",
        Form.MSGPACK,
        bucket_samples,
        check_own_bucket,
        (Children, check_bucket),
        allowed=256 * KIB,  # as those of a state
    ),
    Decoder(
        "entries of a state", Form.MSGPACK, entries_samples, check_own_entries, (Entries, check_entries, split_name)
    ),
    Decoder(
        "call of a part's process",
        Form.MSGPACK,
        prove_samples,
        lambda data: decode(Prove, data, limit_bytes=CALL_BYTES_MAX),
        (Prove,),
    ),
    Decoder(
        "answer of a part's process",
        Form.MSGPACK,
        proved_samples,
        lambda data: decode(Proved, data, limit_bytes=FRAME_BYTES_MAX).entries("file"),
        (Proved,),
    ),
    Decoder(
        "entry of a state",
        Form.MSGPACK,
        entry_samples,
        lambda data: decode_entry(bytes([ACCOUNTS.chain]) + ACCOUNTS.prefix, data),
        (decode_entry,),
    ),
    Decoder(
        "manifest of a checkpoint",
        Form.MSGPACK,
        checkpoint_manifest_samples,
        check_checkpoint_manifest,
        (CheckpointManifest, check_checkpoint_manifest),
        allowed=256 * KIB,
    ),
    Decoder("sync answer", Form.MSGPACK, functools.cache(sync_samples), check_sync_answer, (Blocks, check_chain)),
    message("sync request", GetBlocks, SYNC.request_bytes_max),
    message("question who is here", GetAdverts, ADVERTS.request_bytes_max),
    Decoder(
        "adverts passed on",
        Form.MSGPACK,
        functools.cache(advert_samples),
        open_adverts,
        (KnownAdverts, Inbound.adverts_told, open_envelope),
    ),
    Decoder(
        "light-client proof",
        Form.MSGPACK,
        functools.cache(light_client_samples),
        check_light_client,
        (LightClientProof, decode_light_client_proof, check_light_client_proof),
    ),
    Decoder(
        "proposal of a recovery",
        Form.MSGPACK,
        functools.cache(recovery_proposal_samples),
        check_own_proposal,
        (RecoveryProposal, decode_proposal, check_proposal),
    ),
    Decoder(
        "recovery",
        Form.MSGPACK,
        functools.cache(recovery_samples),
        check_own_recovery,
        (SignedRecovery, decode_recovery, check_recovery),
    ),
    message("recovery that was adopted", ForkRow, RECOVERY_BYTES_MAX + KIB),
    message("disagreement on disk", HaltRow, KIB),
    Decoder(
        "state proof", Form.MSGPACK, functools.cache(state_proof_samples), check_proof, (StateProof, check_state_proof)
    ),
    Decoder(
        "transaction",
        Form.MSGPACK,
        functools.cache(transaction_samples),
        lambda data: check_transaction(data, NETWORK_CHAIN),
        (Transaction, check_transaction, read_transaction),
    ),
    message("transaction unsigned", Transaction, TRANSACTION_BYTES_MAX),
    Decoder(
        "payload, well signed",
        Form.MSGPACK,
        functools.cache(payload_samples),
        apply_payload,
        (transition.apply_block,),
        allowed=512 * KIB,  # a copy of the path in each tree, and its digests
    ),
    Decoder("genesis", Form.MSGPACK, lambda: [encode(genesis())], check_genesis, (Genesis, check_genesis)),
    message("head", Head, BODY_BYTES_MAX, head(), aggregated_head()),
    message("blob request", BlobRequest, BLOB.request_bytes_max),
    message("blob answer", BlobAnswer, FRAME_BYTES_MAX),
    message(
        "delta bundle",
        DeltaBundle,
        FRAME_BYTES_MAX,
        DeltaBundle((encode(delta()), encode(aggregate())), (delta().digest(),)),
    ),
    message("delta receipt", DeltaReceipt, DELTA.response_bytes_max),
    message("signed delta", SignedDelta, FRAME_BYTES_MAX, delta(), aggregate()),
    message("greeting", Greeting, HELLO.request_bytes_max),
    message("ping", Ping, PING.request_bytes_max),
    message("pong", Pong, PING.response_bytes_max),
    message("delta row", DeltaRow, DELTA_ROW_BYTES_MAX),
    message("learner record", LearnerRecord, FRAME_BYTES_MAX),
    message("peers met before", KnownPeers, FRAME_BYTES_MAX),
    message("use of a blob", UseRow, KIB),
    message("peer record unsigned", PeerRecord, RECORD_BYTES_MAX),
    Decoder(
        "table record",
        Form.MSGPACK,
        functools.cache(record_samples),
        check_own_record,
        (Record, PeerRecord, check_record, check_peer_record, choose_best),
    ),
    Decoder("member card", Form.MSGPACK, lambda: [encode(card) for card in member_cards()], read_card, (MemberCard,)),
    Decoder(
        "frames",
        Form.BINARY,
        lambda: [encode_frame(encode_answer(payload)) * 3 for payload in (b"", b"answer", bytes(300))],
        read_frames,
        (FrameReader.feed, decode_answer),
        (
            encode_frame(encode_refusal(Rejected(Reason.BUSY, "later"))),
            encode_frame(b"\x01\xff\n"),
            encode_frame(b"\x02"),
        ),
    ),
    Decoder(
        "worker call",
        Form.MSGPACK,
        lambda: [jobs.frame(jobs.Call(7, job))[jobs.LENGTH.size :] for job in CALLS],
        jobs.parse_call,
        (jobs.parse_call,),
    ),
    Decoder(
        "worker answer",
        Form.MSGPACK,
        lambda: [jobs.frame(jobs.Answer(7, reply))[jobs.LENGTH.size :] for reply in REPLIES],
        jobs.parse_answer,
        (jobs.parse_answer,),
    ),
    Decoder("tile file", Form.BINARY, tile_samples, check_tile_file, (check_tile,)),
    Decoder("tensor block", Form.BINARY, block_samples, check_block_file, (check_block,)),
    Decoder("streamed tile", Form.BINARY, streamed_tiles, decode_streamed_tile, (decode_tile,)),
    Decoder(
        "tile stream",
        Form.BINARY,
        functools.cache(stream_samples),
        read_stream,
        (check_front, check_stream_table),
        allowed=2 * STREAMED_TILE_VALUES_MAX,  # a tile of zeros is small, and its shape is a matter of the front
    ),
    Decoder(
        "manifest of a coded blob",
        Form.MSGPACK,
        functools.cache(manifest_samples),
        check_own_manifest,
        (BlobManifest, check_manifest),
    ),
    Decoder(
        "shard",
        Form.MSGPACK,
        functools.cache(shard_samples),
        lambda data: check_shard(coded_blob(), decode(Shard, data, limit_bytes=SHARD_BYTES_MAX)),
        (Shard, check_shard),
    ),
    Decoder(
        "table of a coded tile",
        Form.MSGPACK,
        functools.cache(table_samples),
        compare_with_table,
        (TileTable, check_table),
        allowed=512 * KIB,  # what numpy multiplies the tile's cells in
    ),
    Decoder(
        "vote of availability",
        Form.MSGPACK,
        functools.cache(lambda: [encode(vote) for vote in availability_votes()]),
        check_vote_of_availability,
        (AvailabilityVote, check_availability_vote),
    ),
    Decoder(
        "certificate of availability",
        Form.MSGPACK,
        functools.cache(availability_certificates),
        check_certificate_of_availability,
        (AvailabilityCertificate, check_availability_certificate, check_signers),
    ),
    Decoder(
        "leaf of a cell",
        Form.MSGPACK,
        functools.cache(leaf_samples),
        lambda data: check_leaf(coded_blob(), decode(LeafProof, data, limit_bytes=4 * KIB)),
        (LeafProof, check_leaf),
    ),
    Decoder(
        "answer about custody",
        Form.MSGPACK,
        functools.cache(custody_answers),
        check_custody_answer,
        (CustodyAnswer, take_answer),
        allowed=512 * KIB,  # a copy of the path in the tree, and its digests
    ),
    message("call of an expert", CallExpert, EXPERT.request_bytes_max),
    message("what an expert gave", ExpertCalled, EXPERT.response_bytes_max),
    Decoder(
        "record of an answer",
        Form.MSGPACK,
        lambda: [encode(answer_record())],
        lambda data: check_answer_record(decode(AnswerRecord, data, limit_bytes=ANSWER_RECORD_BYTES_MAX)),
        (AnswerRecord, AnswerReceipt, AnswerClaim, check_answer_record),
    ),
    Decoder(
        "badge",
        Form.TEXT,
        lambda: [encode(badge()).hex().encode()],
        lambda data: check_badge(read_badge(data.decode("latin-1"))),
        (Badge, read_badge, check_badge),
    ),
    message("row of an answer", AnswerRow, 64, AnswerRow(7, 700)),
    Decoder(
        "audit request",
        Form.TEXT,
        lambda: [msgspec.json.encode({"record": encode(answer_record()).hex()})],
        lambda data: bytes.fromhex(decode_request(data, AuditRequest).record),
        (decode_request,),
        (b"null", b'"record"', b"0x", b"[" * 1_000),
    ),
    Decoder(
        "rows that are computed again",
        Form.BINARY,
        lambda: [bytes(64), np.ones(16, "<f4").tobytes()],
        lambda data: find_deviation_micro(data, np.linspace(-1, 1, 16, dtype="<f4").tobytes(), 8),
        (find_deviation_micro, ExpertAudit.find_deviation_micro),
    ),
    message("question about cells", CellRequest, CELLS.request_bytes_max),
    message("manifest that is given", Manifest, FRAME_BYTES_MAX, Manifest(manifest_samples()[0])),
    message("tables that are given", Tables, FRAME_BYTES_MAX),
    message("leaf that is given", Leaf, FRAME_BYTES_MAX),
    message("answer to the wish to keep", KeepAnswer, FRAME_BYTES_MAX, KeepAnswer(None)),
    Decoder(
        "cells that are given",
        Form.MSGPACK,
        functools.cache(cells_samples),
        gather_cells,
        (Cells, TileGatherer.handle),
    ),
    Decoder(
        "kept blob on disk",
        Form.MSGPACK,
        functools.cache(kept_rows),
        lambda data: decode(KeptRow, data, limit_bytes=KEPT_ROW_BYTES_MAX),
        (KeptRow,),
    ),
    Decoder("journal", Form.BINARY, functools.cache(journal_samples), read_vote_journal, (read_journal,)),
    Decoder(
        "vote record",
        Form.MSGPACK,
        functools.cache(vote_record_samples),
        lambda data: VoteSigner(KEYS_OF_VOTES[0], CHAIN, LIGHT.roster(0), [data]),
        (VoteRecord,),
    ),
    Decoder(
        "delta",
        Form.BINARY,
        delta_samples,
        decode_delta,
        (codec.decode,),
        allowed=64 * KIB + 64 * DELTA_VALUES,  # what compute/delta/codec.py promises
    ),
    Decoder(
        "generate request",
        Form.TEXT,
        generate_samples,
        lambda data: decode_request(data, Asked),
        (decode_request,),
        (b'"seed": 1e400', b"1" * 400, b'"\\ud800"', b'"prompt"', b"null", b"NaN"),
    ),
    Decoder(
        "transaction request",
        Form.TEXT,
        lambda: [msgspec.json.encode({"transaction": data.hex()}) for data in transaction_samples()],
        lambda data: bytes.fromhex(decode_request(data, TransactionRequest).transaction),
        (decode_request,),
        (b"null", b'"transaction"', b"0x", b"[" * 1_000),
    ),
    Decoder(
        "completion request",
        Form.TEXT,
        lambda: [
            b'{"model": "m", "prompt": "To be", "stream": true, "stop": ["a"], "logprobs": null}',
            b'{"model": "m", "prompt": ["To be", ""], "n": 2, "seed": -9223372036854775808, "best_of": 1, "logit_bias": {}}',
        ],
        ask_openai(decode_completion_request),
        (decode_completion_request, decode_request),
        (b'"suffix": 1', b"1e400", b'"prompt"', b"[[]]", b"null", b"[" * 1_000),
    ),
    Decoder(
        "conversation request",
        Form.TEXT,
        lambda: [
            b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "\\u00e9"}]}], "tools": []}',
            b'{"model": "m", "messages": [{"role": "system", "content": "a", "name": "b"}], "stream_options": {}}',
        ],
        ask_openai(decode_chat_request),
        (decode_chat_request, decode_request),
        (b'"tool"', b'"type"', b'"image_url"', b"null", b"[" * 1_000),
    ),
    Decoder(
        "chat message",
        Form.TEXT,
        lambda: [b'{"type": "ask", "id": "a", "prompt": "To be", "top_p": 0.5}', b'{"type": "stop", "id": "a"}'],
        decode_chat_message,
        (decode_chat_message, decode_request),
        (b'"type"', b'"sing"', b"null", b"1e400", b"[" * 1_000),
    ),
    Decoder(
        "proof file",
        Form.TEXT,
        functools.cache(proof_file_samples),
        lambda data: chain_proof.check_proof(data, GENESIS.root()),
        (chain_proof.check_proof,),
        (b"null", b'"key"', b"supply", b"[" * 1_000),
        per_byte=128,  # JSON of one-digit keys becomes a dictionary and two objects for each
    ),
    toml_row("node configuration", config.NODE_KEYS),
    toml_row("network template", config.TEMPLATE_KEYS, "devnet.toml"),
    toml_row("model shape", config.MODEL_KEYS, "model/tiny.toml"),
    Decoder(
        "scenario",
        Form.TEXT,
        functools.cache(lambda: [path.read_bytes() for path in sorted((CONFIGS / "scenarios").glob("*.toml"))]),
        lambda data: parse_scenario(data.decode("utf-8", "replace"), "fuzz", "fuzz.toml", read_calm),
        (parse_scenario, parse_document),
        (*TOML_WORDS, b"[[faults]]\nkind = ", b"[[routes]]", b"[must_hold]", b'base = "calm"', b"[[a.b]]\n", b"= []"),
        allowed=512 * KIB,
        per_byte=256,
        input_bytes_max=8 * KIB,
    ),
    text_row("card", parse_card, card_text(member_cards()[0]), words="nock1 NOCK1 ==== \u0130"),
    text_row("account", parse_account, account_text(ACCOUNT_IDS[0]), words="1 0 z nock \u0661"),
    text_row("amount", lambda text: parse_nock(text, "amount"), "12.5", reads=parse_nock, words=". , e9 - \u0661 NaN"),
    text_row("key of the state", parse_key, *PROVED_KEYS, words=": / account: tile: \u0661 .."),
    text_row(
        "number in a path", lambda text: read_natural(text, "height"), "17", reads=read_natural, words="- \u0661 1_0"
    ),
    text_row("peer id", parse_peer, peer_text(PeerId(NODE_KEYS[0].public)), words="1 0 z \u0661"),
    text_row("network id", lambda text: parse_hex32(text, "id"), "ab" * 32, reads=parse_hex32, words="\u0661 AB"),
    text_row(
        "peer address", parse_address, ADDRESS, words="/ip6/::1 /dns/a /tcp/ /p2p/ \u0661 0x1 1_0 /ip6/fe80::1%eth0"
    ),
    text_row(
        "addresses of a peer",
        lambda text: usable_addresses(text.split(","), PeerId(NODE_KEYS[0].public), "::1"),
        f"{ADDRESS},{ADDRESS}",
        reads=usable_addresses,
        words="/ip4/0.0.0.0 /ip6/:: , \u0661",
    ),
    text_row("seeds", parse_seeds, "0..99", "17..20", words="\u0662 .. -1 " + "9" * 30),
    text_row(
        "fault",
        lambda text: parse_fault(FaultKind.PAUSE, text, 4, 9),
        "2@7",
        "owner:trunk/0@7+2.5",
        reads=parse_fault,
        words="@ + . 1e9 \u0662 \u00b2",
    ),
    text_row(
        "repair",
        lambda text: parse_repair(RepairKind.RESTART, text, 4, 9),
        "2@8",
        "killed@8",
        reads=parse_repair,
        words="@ \u0662 \u00b2",
    ),
    text_row("address to join", parse_peer_address, ADDRESS, words="/ip4/1.2.3.4/tcp/1 \u0661"),
    text_row("address to dial", check_peer_address, ADDRESS, words="/ip4/1.2.3.4/tcp/1 \u0661"),
    text_row(
        "address to listen on",
        check_listen_address,
        "/ip4/127.0.0.1/tcp/0",
        "/ip6/::1/tcp/65535",
        words="\u0661 /p2p/ %1",
    ),
    text_row(
        "address to announce",
        check_announced_address,
        "/ip4/127.0.0.1/tcp/4001",
        "/dns4/node.example/tcp/1",
        words="\u0661 /p2p/ %1 /tcp/0",
    ),
    text_row(
        "crash point",
        lambda text: read_run_settings(crash_at=(text,)),
        "vote-journaled@3",
        reads=read_run_settings,
        words="@ \u0662",
    ),
    text_row(
        "topic",
        find_topic_rule,
        topic_text(NETWORK, "tiles", ShardId(3)),
        topic_text(NETWORK, "tx"),
        words="/ 99999 \u0662",
    ),
    text_row(
        "tile name",
        lambda text: tile_folder(TileId(text)),
        "trunk/0",
        "layer3.expert7/12",
        reads=tile_folder,
        words="/ .. \u0662 \n",
    ),
)
