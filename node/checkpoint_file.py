"""A checkpoint as one file: for machines without a network between them, and for keeping one.

    "nock checkpoint 1\n" | head | part | part | ...        each a length of four bytes and canonical bytes

    head   proofs from the genesis to the block, the manifest, the block's body
    part   a branch with all its entries, in ascending order; every branch that is not empty

The file is believed as little as a peer: the block is proved from the genesis that the reader has, each part from the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, BinaryIO, Final

from msgspec import Meta

from consensus.light_client import (
    CheckedTip,
    LightClientRule,
    Trust,
    build_light_client_proof,
    check_light_client_proof,
)
from node.checkpoints import CheckpointManifest, branch_digest, check_checkpoint_manifest, checkpoint_name
from node.ground import Ground
from node.state_rows import FetchRow, begin_fetch, entries_below, keep_part
from protocol.codec import Message, decode, encode
from protocol.epochs import boundary_of
from protocol.finality import body_root
from protocol.genesis import Genesis
from protocol.ids import Digest, Epoch
from protocol.light_client import LightBlock, LightClientProof
from protocol.limits import BODY_BYTES_MAX, MIB
from protocol.rejection import Reason, Rejected
from protocol.state_proof import SubChain
from protocol.state_sync import EMPTY, CheckedEntries, NameField, StateEntry, check_entries, children_of
from storage.kv import Batch
from storage.ledger import FinalizedBlock

MAGIC: Final = b"nock checkpoint 1\n"
_LENGTH_BYTES: Final = 4
_HEAD_BYTES_MAX: Final = 64 * MIB  # years of boundaries
_PART_BYTES_MAX: Final = 64 * MIB  # a branch of a state of sixteen gigabytes
_PROOFS_MAX: Final = 16

ProvedPart = tuple[bytes, tuple[StateEntry, ...], CheckedEntries, Digest]  # name, entries, their proof's, digest
OnPart = Callable[[int, int], None]  # parts done, parts in all


class CheckpointHead(Message, frozen=True):
    """What comes first in the file."""

    proofs: Annotated[tuple[LightClientProof, ...], Meta(min_length=1, max_length=_PROOFS_MAX)]
    manifest: CheckpointManifest
    body: Annotated[bytes, Meta(max_length=BODY_BYTES_MAX)]


class CheckpointPart(Message, frozen=True):
    """One branch."""

    name: NameField
    entries: tuple[StateEntry, ...]


def export_checkpoint(ground: Ground, manifest: CheckpointManifest, on_part: OnPart) -> Iterator[bytes]:
    """The file of a checkpoint of a data directory, in pieces. Raises ``OSError``, ``Rejected(NOT_FOUND)``."""
    block = ground.ledger.find(manifest.height)
    if block is None:
        raise Rejected(Reason.NOT_FOUND, f"block {manifest.height} was pruned: export a newer checkpoint")
    trust, proofs = ground.trust()[0], []
    while trust.height < manifest.height:
        proof = build_light_client_proof(trust, manifest.block, lambda epoch: _find_boundary(ground, epoch))
        proofs.append(proof)
        last = proof.blocks[-1]
        trust = CheckedTip(last.header, last.roster or trust.roster).trust
    yield MAGIC
    yield _frame(encode(CheckpointHead(tuple(proofs), manifest, block.body)))
    rows = ground.disk.open_checkpoint(checkpoint_name(manifest.height))
    try:
        names = list(_parts_of(manifest))
        for done, (name, _) in enumerate(names, 1):
            yield _frame(encode(CheckpointPart(name, tuple(entries_below(rows, name)))))
            on_part(done, len(names))
    finally:
        rows.close()


def read_checkpoint(
    source: BinaryIO, genesis: Genesis, now_ms: int, start: tuple[Trust, LightClientRule] | None = None
) -> tuple[CheckpointHead, Iterator[ProvedPart]]:
    """The head, proved, and then every part, proved as it is read; the last of them is followed by nothing.

    Proofs begin at ``start``; None: at the genesis. Raises ``Rejected`` for what is not a whole checkpoint of this network, or
    is too old to be trusted.
    """
    if source.read(len(MAGIC)) != MAGIC:
        raise Rejected(Reason.MALFORMED, "no file of `nocknode checkpoint export`")
    head = decode(CheckpointHead, _read_frame(source, _HEAD_BYTES_MAX), limit_bytes=_HEAD_BYTES_MAX)
    trust, rule = start or (Trust.genesis(genesis), LightClientRule.of(genesis))
    for proof in head.proofs:
        tip, certificate = check_light_client_proof(proof, trust, rule, now_ms), proof.blocks[-1].certificate
        trust = tip.trust
    block = head.manifest.block
    # The certificate too: it is kept, and given on.
    if (tip.header, certificate, tip.roster) != (block.header, block.certificate, block.roster):
        raise Rejected(Reason.BAD_PROOF, "the proof is of another block")
    if body_root(head.body) != block.header.body_root:
        raise Rejected(Reason.WRONG_DIGEST, "the body is another block's")
    check_checkpoint_manifest(encode(head.manifest))
    return head, _read_parts(source, head.manifest)


def import_checkpoint(ground: Ground, source: BinaryIO, now_ms: int, on_part: OnPart) -> CheckpointHead:
    """Begin a data directory with the checkpoint of a file; a second time after a crash. Raises ``Rejected``, ``OSError``."""
    head, parts = read_checkpoint(source, ground.genesis, now_ms, ground.trust())
    block, tip = head.manifest.block, ground.ledger.tip()
    if tip is not None and tip >= block.header.height:
        raise Rejected(
            Reason.BAD_ARGUMENT, f"the checkpoint is of height {block.header.height}, and block {tip} is here"
        )
    row = FetchRow(block, tuple(step for proof in head.proofs for step in proof.blocks), head.manifest.sub_roots)
    begin_fetch(ground.index, row)
    count = sum(1 for _ in _parts_of(head.manifest))
    batch = Batch()
    for name in _empty_parts(head.manifest):
        keep_part(batch, ground.index, name, (), CheckedEntries(), EMPTY[1])
    ground.index.write(batch, durable=False)
    for done, (name, entries, checked, digest) in enumerate(parts, 1):
        batch = Batch()
        keep_part(batch, ground.index, name, entries, checked, digest)
        ground.index.write(batch, durable=False)
        on_part(done, count)
    ground.adopt_checkpoint(
        row, FinalizedBlock(block.header.height, encode(block.header), head.body, encode(block.certificate))
    )
    return head


def _find_boundary(ground: Ground, epoch: Epoch) -> LightBlock | None:
    return ground.find_light_block(boundary_of(epoch, ground.genesis.chain.epoch_heights))


def _all_parts(manifest: CheckpointManifest) -> Iterator[tuple[bytes, Digest]]:
    for chain in SubChain:
        for name in children_of(bytes([chain])):
            yield name, branch_digest(manifest, name)


def _parts_of(manifest: CheckpointManifest) -> Iterator[tuple[bytes, Digest]]:
    return ((name, digest) for name, digest in _all_parts(manifest) if digest != EMPTY[1])


def _empty_parts(manifest: CheckpointManifest) -> Iterator[bytes]:
    return (name for name, digest in _all_parts(manifest) if digest == EMPTY[1])


def _read_parts(source: BinaryIO, manifest: CheckpointManifest) -> Iterator[ProvedPart]:
    for name, digest in _parts_of(manifest):
        part = decode(CheckpointPart, _read_frame(source, _PART_BYTES_MAX), limit_bytes=_PART_BYTES_MAX)
        if part.name != name:
            raise Rejected(Reason.MALFORMED, f"part {part.name.hex()} stands where {name.hex()} is due")
        yield name, part.entries, check_entries(name, part.entries, digest), digest
    if source.read(1):
        raise Rejected(Reason.MALFORMED, "something follows the last part")


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


def _read_frame(source: BinaryIO, bytes_max: int) -> bytes:
    raw = source.read(_LENGTH_BYTES)
    size = int.from_bytes(raw, "big")
    if len(raw) < _LENGTH_BYTES or size > bytes_max:
        raise Rejected(Reason.MALFORMED, "the file is cut short, or a part of it is too large")
    data = source.read(size)
    if len(data) < size:
        raise Rejected(Reason.MALFORMED, "the file is cut short")
    return data
