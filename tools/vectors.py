"""The golden bytes of the vocabulary: what other implementations, and we next year, must produce exactly.

    python -m tools.vectors            compare tests/vectors/protocol/ with what the code makes now
    python -m tools.vectors --approve  replace them: a decision about the format, with a reason in its commit
    python -m tools.vectors --print    the same as JSON on stdout

Everything is made from fixed seeds. `tests/protocol/test_vectors.py` makes them under two values of ``PYTHONHASHSEED``, so
that no order of a set or a dictionary can enter a digest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from consensus.availability import AvailabilityTally
from consensus.custody import draw_audits, peer_cells, repair_order, tile_ring
from protocol.answers import extend_commitment
from protocol.availability import AvailabilityClaim, AvailabilityVote, StateCheckpoint, TileSnapshot
from protocol.cells import Cells, GetCells, GetLeaf, GetManifest, GetTables, KeepAnswer, Leaf, Manifest, Tables
from protocol.codec import Message, encode
from protocol.coded_tables import make_tables
from protocol.digest import Domain, blob_digest, digest, number
from protocol.envelope import seal
from protocol.erasure import COLD, LIVE, CheckedManifest, Geometry, ReplicationClass, make_manifest
from protocol.finality import (
    EMPTY_BODY,
    HEADER_VERSION,
    NO_BLOCK,
    Body,
    BodyMessage,
    Certificate,
    ChainId,
    Header,
    Proposal,
    Status,
    Vote,
    VoteKind,
    Want,
    body_root,
    vote_text,
)
from protocol.genesis import genesis_roster
from protocol.ids import (
    AccountId,
    Digest,
    Epoch,
    Height,
    MemberIndex,
    NetworkId,
    PeerId,
    Round,
    TileId,
    Version,
    View,
    peer_text,
)
from protocol.keys import KeyPair
from protocol.learning import (
    Advert,
    DeltaBundle,
    FinalizedTip,
    GetAdverts,
    GetBlobs,
    GetBlocks,
    HeadProposals,
    KnownAdverts,
    RoundAnnouncement,
)
from protocol.light_client import LightBlock, LightClientProof
from protocol.limits import KIB
from protocol.merkle import leaf_digest, merkle_proof, merkle_root, page_leaves
from protocol.recovery import Recovery, RecoveryProposal, SignedRecovery, proposal_text
from protocol.roster import Roster
from protocol.state_proof import (
    BUCKET_LEVELS,
    NO_ENTRIES,
    ProvedEntry,
    StateProof,
    SubChain,
    bucket_digest,
    bucket_of,
    combine_roots,
    entry_leaf,
    key_digest,
    value_digest,
)
from protocol.transactions import (
    DatasetRecord,
    ParameterRecord,
    TransactionBundle,
    check_transaction,
    find_work,
    sign_transaction,
    work_bits,
)
from storage.erasure.blob import encode_blob
from storage.erasure.check import TileCheck
from storage.erasure.code import ErasureCode
from storage.erasure.numpy_kernel import NumpyKernel
from storage.erasure.reed_solomon import parity_matrix
from storage.erasure.tile import prove_leaf
from tests.protocol.samples import (
    ACCOUNT_KEYS,
    NODE_KEYS,
    VOTE_KEYS,
    aggregate,
    aggregated_head,
    answer_record,
    badge,
    delta,
    genesis,
    head,
    manifest,
    member_cards,
    payloads,
    roster,
)

FOLDER = Path(__file__).parent.parent / "tests" / "vectors" / "protocol"
Vectors = dict[str, object]


def digests() -> Vectors:
    """One digest for each domain word, over no parts, over one, and over three."""
    words = {name: word for name, word in vars(Domain).items() if name.isupper()}
    lists: list[list[bytes]] = [[], [b"nock"], [b"", b"a", bytes(range(16))]]
    return {
        word: [{"parts": [part.hex() for part in parts], "digest": digest(word, *parts).hex()} for parts in lists]
        for _, word in sorted(words.items())
    }


def merkle() -> Vectors:
    """Roots over small trees, every proof of a tree of seven, and the pages of a file of two and a bit."""
    leaves = [leaf_digest(bytes([index])) for index in range(33)]
    return {
        "leaf": {"": leaf_digest(b"").hex(), "00": leaves[0].hex()},
        "roots": {str(count): merkle_root(leaves[:count]).hex() for count in (1, 2, 3, 4, 5, 7, 8, 16, 33)},
        "proofs_of_7": [[step.hex() for step in merkle_proof(leaves[:7], index)] for index in range(7)],
        "pages": [leaf.hex() for leaf in page_leaves(memoryview(bytes(range(256)) * 520))],
    }


def keys() -> Vectors:
    """Public keys, peer ids and signatures of fixed seeds (RFC 8032: Ed25519 leaves no choice)."""
    seeds = [bytes(32), bytes(range(32)), b"\xff" * 32]
    return {
        seed.hex(): {
            "public": KeyPair(seed).public.hex(),
            "peer": peer_text(PeerId(KeyPair(seed).public)),
            "signature of 'nock'": KeyPair(seed).sign(b"nock").hex(),
        }
        for seed in seeds
    }


def envelopes() -> Vectors:
    """Whole envelopes: the smallest numbers, the largest, and a payload that needs a longer length."""
    key, network = KeyPair(bytes(range(32))), NetworkId(bytes(32))
    cases = {
        "smallest": (0, 0, 0, b""),
        "largest": (255, 2**63 - 1, 2**63 - 1, b"x"),
        "long payload": (3, 128, 1_800_000_000_000, bytes(300)),
    }
    return {
        name: {
            "kind": kind,
            "sequence": sequence,
            "expires_ms": expires_ms,
            "payload": payload.hex(),
            "envelope": seal(key, network, kind, sequence, expires_ms, payload).hex(),
        }
        for name, (kind, sequence, expires_ms, payload) in cases.items()
    }


def finality() -> Vectors:
    """What validators sign and send, for the sample network's first block."""
    network = genesis().network_id()
    chain = ChainId.of(network)
    members = genesis_roster(genesis())
    body = encode(Body((head(),)))
    header = Header(
        version=HEADER_VERSION,
        chain=chain,
        epoch=Epoch(0),
        view=View(2),
        height=Height(1),
        parent=NO_BLOCK,
        parent_view=View(0),
        time_ms=1_800_000_001_000,
        proposer=MemberIndex(1),
        body_root=body_root(body),
        body_bytes=len(body),
        state_root=digest(Domain.STATE, b"sample"),
        roster=members.digest(),
        next_roster=members.digest(),
        beacon=members.beacon,
        evidence_root=blob_digest(b""),
    )

    def vote(kind: VoteKind, view: int, signer: int) -> Vote:
        block = NO_BLOCK if kind is VoteKind.NULLIFY else header.digest()
        signature = VOTE_KEYS[signer].sign(vote_text(chain, 0, view, kind, block))
        return Vote(Epoch(0), View(view), kind, block, MemberIndex(signer), signature)

    def certificate(kind: VoteKind, view: int) -> Certificate:
        votes = [vote(kind, view, signer) for signer in (0, 1, 3)]
        signatures = tuple(one.signature for one in votes)
        return Certificate(kind, Epoch(0), View(view), votes[0].block, bytes([0b1011]), signatures)

    final = certificate(VoteKind.FINALIZE, 2)
    messages: dict[str, Message] = {
        "header": header,
        **{f"vote {kind.name.lower()}": vote(kind, 2, 1) for kind in VoteKind},
        **{f"certificate {kind.name.lower()}": certificate(kind, 2) for kind in VoteKind},
        "proposal": Proposal(header, None, (certificate(VoteKind.NULLIFY, 1),), vote(VoteKind.NOTARIZE, 2, 1)),
        "body": Body((head(),), (b"a transaction", b"another")),
        "body message": BodyMessage(header.digest(), body),
        "status": Status(Epoch(0), View(2), Height(1), View(3)),
        "want": Want((header.digest(),)),
        "finalized tip": FinalizedTip(header, final),
    }
    return {
        "chain": chain.chain.hex(),
        "block id": header.digest().hex(),
        "empty body": EMPTY_BODY.hex(),
        "vote texts": {kind.name: vote_text(chain, 0, 2, kind, header.digest()).hex() for kind in VoteKind},
        "messages": {name: encode(message).hex() for name, message in messages.items()},
    }


def learning() -> Vectors:
    """Heads, deltas and the gossip around them."""
    advert = Advert(
        ("/ip4/127.0.0.1/tcp/4001",), "home", ("learner",), "cpu", 0, 2**33, 10, 5, 37, Round(6), Height(9), 1
    )
    messages: dict[str, Message] = {
        "head": head(),
        "head proposals": HeadProposals((head(),)),
        "transaction bundle": TransactionBundle((b"a transaction", b"another")),
        "signed delta": delta(),
        "signed aggregate": aggregate(),
        "head with an aggregate": aggregated_head(),
        "delta bundle": DeltaBundle((encode(delta()),), (blob_digest(b"one"),)),
        "advert": advert,
        "round announcement": RoundAnnouncement(Round(6), "cpu"),
        "get blobs": GetBlobs((blob_digest(b"one"),)),
        "get blocks": GetBlocks(Height(1), 64),
        "get adverts": GetAdverts(b"8 bytes.of each.of those"),
        "known adverts": KnownAdverts((b"an envelope", b"another")),
    }
    return {
        "head digest": head().digest().hex(),
        "delta name": delta().digest().hex(),
        "messages": {name: encode(message).hex() for name, message in messages.items()},
    }


def genesis_document() -> Vectors:
    """The sample network: its document, its id, and what follows from them."""
    first = genesis_roster(genesis())
    return {
        "document": encode(genesis()).hex(),
        "network id": genesis().network_id().hex(),
        "dataset root": manifest().root().hex(),
        "roster": encode(first).hex(),
        "roster digest": first.digest().hex(),
        "weighted roster digest": roster(3, 1, 4, 1).digest().hex(),
        "member card": encode(member_cards()[0]).hex(),
        "members": [peer_text(PeerId(key.public)) for key in NODE_KEYS],
    }


def transactions() -> Vectors:
    """One signed transaction of each kind, the names of records, and numbers that are work enough."""
    chain, key = ChainId.of(genesis().network_id()), ACCOUNT_KEYS[0]
    made: dict[str, object] = {}
    for nonce, (name, payload) in enumerate(payloads().items()):
        data = encode(sign_transaction(key, chain, nonce, 1_000 * nonce, payload))
        made[name] = {"transaction": data.hex(), "id": check_transaction(data, chain).id.hex()}
    records = [record for record in payloads().values() if isinstance(record, ParameterRecord | DatasetRecord)]
    names = [record.record_id(AccountId(key.public)) for record in records]
    works = [find_work(name, 8, 0, 10_000) or 0 for name in names]
    return {
        "transactions": made,
        "work": [
            {"record": name.hex(), "work": work, "bits": work_bits(name, work)}
            for name, work in zip(names, works, strict=True)
        ],
    }


def state() -> Vectors:
    """How a state root is made: an entry, its bucket, a sub-chain of that entry alone, and five sub-roots."""
    place, value = key_digest(b"key"), value_digest(b"value")
    entry = entry_leaf(place, value)
    empty = [bucket_digest(0, NO_ENTRIES)]
    for _ in range(BUCKET_LEVELS):
        empty.append(merkle_root([empty[-1]] * 2))
    alone = bucket_digest(1, entry)
    for level in range(BUCKET_LEVELS):
        pair = [empty[level], alone] if bucket_of(place) >> level & 1 else [alone, empty[level]]
        alone = merkle_root(pair)
    return {
        "place": place.hex(),
        "value digest": value.hex(),
        "bucket": bucket_of(place),
        "entry leaf": entry.hex(),
        "empty bucket": empty[0].hex(),
        "empty sub-root": empty[-1].hex(),
        "sub-root of the entry alone": alone.hex(),
        "state root": combine_roots([alone, *[empty[-1]] * 4]).hex(),
    }


def light_client() -> Vectors:
    """A proof from the sample network's genesis: a step that skips, one on, one within, and an entry."""
    heights, (_, entry) = genesis().chain.epoch_heights, _state_of_one_entry()
    last = _final_block(4 * heights - 1)
    blocks = (_final_block(3 * heights, late_views=2), _final_block(3 * heights + 7), replace(last, roster=None))
    return {
        "proof": encode(LightClientProof(blocks, entry)).hex(),
        "tip": last.header.digest().hex(),
        "now_ms": last.header.time_ms,
    }


def recovery() -> Vectors:
    """After the last block of an epoch: the proposal of a member, and a recovery of two of four, signed by both."""
    anchor, reason = _final_block(2 * genesis().chain.epoch_heights), "two of four are lost"
    following = _members(2)
    one, other = following.members[0], following.members[2]
    signature = VOTE_KEYS[0].sign(proposal_text(anchor.header, reason))
    made = Recovery(1, anchor, following, (one.node, other.node), (), reason)
    signatures = tuple(VOTE_KEYS[member].sign(made.digest()) for member in (0, 2))
    return {
        "proposal text": proposal_text(anchor.header, reason).hex(),
        "proposal": encode(RecoveryProposal(anchor, following, reason, one.node, signature)).hex(),
        "digest": made.digest().hex(),
        "signed": encode(SignedRecovery(made, bytes([0b11]), signatures)).hex(),
    }


def _members(epoch: int) -> Roster:
    return replace(genesis_roster(genesis()), epoch=Epoch(epoch), beacon=digest(Domain.BEACON, number(epoch)))


def _final_block(height: int, late_views: int = 0) -> LightBlock:
    """The block of a height of the sample network's chain, with three of four votes."""
    chain, heights = ChainId.of(genesis().network_id()), genesis().chain.epoch_heights
    sub_roots, _ = _state_of_one_entry()
    epoch = (height - 1) // heights
    header = Header(
        version=HEADER_VERSION,
        chain=chain,
        epoch=Epoch(epoch),
        view=View(height - epoch * heights),
        height=Height(height),
        parent=blob_digest(b"parent"),
        parent_view=View(0),
        time_ms=genesis().created_ms + 1_000 * height,
        proposer=MemberIndex(2),
        body_root=body_root(EMPTY_BODY),
        body_bytes=len(EMPTY_BODY),
        state_root=combine_roots(sub_roots),
        roster=_members(epoch).digest(),
        next_roster=_members(epoch + 1).digest(),
        beacon=_members(epoch).beacon,
        evidence_root=blob_digest(b""),
    )
    view, signers = View(header.view + late_views), (0, 1, 3)
    text = vote_text(chain, epoch, view, VoteKind.FINALIZE, header.digest())
    signatures = tuple(VOTE_KEYS[signer].sign(text) for signer in signers)
    certificate = Certificate(VoteKind.FINALIZE, Epoch(epoch), view, header.digest(), bytes([0b1011]), signatures)
    return LightBlock(header, certificate, _members(epoch))


def _state_of_one_entry() -> tuple[list[Digest], StateProof]:
    """The sub-roots of a state with one entry, in the ledger, and the proof of that entry."""
    place, value = key_digest(b"key"), value_digest(b"value")
    empty, alone, path = bucket_digest(0, NO_ENTRIES), bucket_digest(1, entry_leaf(place, value)), []
    for level in range(BUCKET_LEVELS):
        path.append(empty)
        alone = merkle_root([empty, alone] if bucket_of(place) >> level & 1 else [alone, empty])
        empty = merkle_root([empty] * 2)
    sub_roots = [alone if chain is SubChain.C else empty for chain in SubChain]
    shown = (ProvedEntry(0, place, value, ()),)
    return sub_roots, StateProof(1, entry_leaf(place, value), shown, tuple(path), tuple(sub_roots))


def erasure() -> Vectors:
    """Coded blobs: the matrix, a small blob in whole, and the roots of a tile of each profile."""
    geometry = Geometry(3, 4, 2 * KIB)
    data = b"".join(digest(Domain.BLOB, number(index)) for index in range(8 * KIB // 32))[: 7 * KIB + 5]
    tiles = list(encode_blob(ErasureCode(NumpyKernel(), geometry), [data]))
    manifest = make_manifest(geometry, len(data), tuple(tile.root for tile in tiles))
    last = tiles[-1].checked(6)
    profiles = {}
    for name, profile in (("live", LIVE), ("cold", COLD)):
        (tile,) = encode_blob(ErasureCode(NumpyKernel(), profile), [data])
        matrix = parity_matrix(profile.data_cells, profile.parity_cells)
        profiles[name] = {
            "geometry": encode(profile).hex(),
            "first row": matrix[0].tobytes().hex(),
            "matrix": blob_digest(matrix.tobytes()).hex(),
            "tile root": tile.root.hex(),
            "blob root": make_manifest(profile, len(data), (tile.root,)).root.hex(),
        }
    return {
        "matrix 3+4": parity_matrix(3, 4).tobytes().hex(),
        "manifest": encode(manifest.manifest).hex(),
        "blob root": manifest.root.hex(),
        "tile roots": [tile.root.hex() for tile in tiles],
        "cells": [[blob_digest(cell).hex() for cell in tile.cells] for tile in tiles],
        "shard": encode(last.shard).hex(),
        "leaf": encode(prove_leaf(last, 0)).hex(),
        "profiles": profiles,
    }


def availability() -> Vectors:
    """Tables of a small blob, who keeps what of it, a vote and a certificate of four, and the audits of one of them."""
    geometry = Geometry(3, 6, 2 * KIB)
    data = b"".join(digest(Domain.BLOB, number(index)) for index in range(8 * KIB // 32))[: 7 * KIB + 5]
    tiles = list(encode_blob(ErasureCode(NumpyKernel(), geometry), [data]))
    manifest = make_manifest(geometry, len(data), tuple(tile.root for tile in tiles))
    tables = [TileCheck.of(NumpyKernel(), manifest, tile.index).table(tile) for tile in tiles]
    root, made = make_tables(manifest, tables)
    weighted, chain = roster(1, 0, 5, 3), ChainId.of(genesis().network_id())
    snapshot = TileSnapshot(TileId("trunk/0"), Version(7), digest(Domain.BLOB, data))
    checkpoint = StateCheckpoint(Height(64), digest(Domain.STATE))
    until = ReplicationClass.HIGH.kept_until(0)
    claim = AvailabilityClaim(manifest.root, root, geometry, snapshot.digest(), Epoch(0), until)
    tally = AvailabilityTally(claim, weighted, chain)
    votes = [
        AvailabilityVote(claim, MemberIndex(signer), VOTE_KEYS[signer].sign(claim.text(chain))) for signer in (3, 0, 2)
    ]
    certificates = [tally.add(vote) for vote in votes]
    rings = [tile_ring(weighted, manifest, tile.index, weighted.beacon) for tile in tiles]
    holder = weighted.members[3].node

    def kept(of: CheckedManifest, tile: int) -> tuple[int, ...]:
        return rings[tile].cells_of(MemberIndex(3))

    audits = draw_audits(weighted.beacon, holder, [manifest], kept, 6)
    return {
        "manifest": encode(manifest.manifest).hex(),
        "blob root": manifest.root.hex(),
        "tables root": root.hex(),
        "tables": [encode(table).hex() for table in made],
        "last shard": encode(tiles[-1].checked(8).shard).hex(),
        "ring": [ring.order for ring in rings],
        "cells of each member": [[ring.cells_of(MemberIndex(at)) for at in range(4)] for ring in rings],
        "cells of a peer": peer_cells(holder, tiles[0].root, LIVE.cells, 12),
        "subjects": [[encode(each).hex(), each.digest().hex()] for each in (snapshot, checkpoint)],
        "audits": [[audit.tile, audit.cell, audit.leaf] for audit in audits],
        "vote": encode(votes[0]).hex(),
        "text": claim.text(chain).hex(),
        "certificate": [encode(each.plain).hex() for each in certificates if each is not None],
    }


def cells() -> Vectors:
    """What is asked and answered about a small blob, and who repairs it. Claims and votes are in availability.json."""
    geometry = Geometry(2, 3, KIB)
    (tile,) = encode_blob(ErasureCode(NumpyKernel(), geometry), [bytes(range(256)) * 5])
    manifest = make_manifest(geometry, len(tile.data), (tile.root,))
    root, tables = make_tables(manifest, [TileCheck.of(NumpyKernel(), manifest, 0).table(tile)])
    messages: dict[str, Message] = {
        "get manifest": GetManifest(manifest.root),
        "manifest": Manifest(encode(manifest.manifest)),
        "get tables": GetTables(manifest.root, root, (0,)),
        "tables": Tables(tuple(tables)),
        "get cells": GetCells(manifest.root, 0, (1, 4), True),
        "cells": Cells((tile.checked(4).shard,)),
        "get leaf": GetLeaf(manifest.root, 0, 4, 0),
        "leaf": Leaf(prove_leaf(tile.checked(4), 0)),
        "not kept yet": KeepAnswer(None),
    }
    return {name: encode(message).hex() for name, message in messages.items()} | {
        "repair order": [
            repair_order(roster(*weights), manifest, 0, roster(*weights).beacon)
            for weights in ((1, 0, 5, 3), (1, 1, 1, 1))
        ],
    }


def answers() -> Vectors:
    """What a door signs about an answer, and a node about itself."""
    record = answer_record()
    claim = record.receipt.claim
    return {
        "record": encode(record).hex(),
        "badge": encode(badge()).hex(),
        "name": claim.digest().hex(),
        "model": claim.model.hex(),
        "prompt": claim.prompt.hex(),
        "commitments": [
            extend_commitment(claim.digest(), record.tokens[:count]).hex() for count in range(len(record.tokens) + 1)
        ],
    }


FILES: dict[str, Callable[[], Vectors]] = {
    "digest.json": digests,
    "merkle.json": merkle,
    "keys.json": keys,
    "envelope.json": envelopes,
    "finality.json": finality,
    "learning.json": learning,
    "genesis.json": genesis_document,
    "transactions.json": transactions,
    "state.json": state,
    "light_client.json": light_client,
    "recovery.json": recovery,
    "erasure.json": erasure,
    "availability.json": availability,
    "cells.json": cells,
    "answers.json": answers,
}


def make() -> dict[str, str]:
    """The text of each file of golden bytes."""
    return {name: json.dumps(build(), indent=1) + "\n" for name, build in FILES.items()}


def main() -> int:
    """0 when nothing differs or it was approved, 1 when something differs."""
    parser = argparse.ArgumentParser(description="The golden bytes of protocol/.")
    parser.add_argument("--approve", action="store_true", help="replace the stored vectors")
    parser.add_argument("--print", action="store_true", help="print what the code makes now, as JSON")
    options = parser.parse_args()
    made = make()
    if options.print:
        json.dump(made, sys.stdout)
        return 0
    stored = {path.name: path.read_text() for path in sorted(FOLDER.glob("*.json"))}
    changed = sorted(name for name in made.keys() | stored.keys() if made.get(name) != stored.get(name))
    for name in changed:
        print(
            f"{'approved' if options.approve else 'differs'}: {(FOLDER / name).relative_to(FOLDER.parent.parent.parent)}"
        )
    if options.approve:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name in changed:
            if name in made:
                (FOLDER / name).write_text(made[name])
            else:
                (FOLDER / name).unlink()
        return 0
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
