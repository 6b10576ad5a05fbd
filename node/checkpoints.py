"""Checkpoints: the state after the last block of an epoch, kept while the chain goes on, for whoever joins (chain.md 4).

One is taken as soon as the block is on disk. It is the database as of then, by links to its files, and a manifest: the block,
its certificate and roster, and the digests of the state's branches, which the state in memory has computed anyway. So a part
of it is read, and proved, without holding the state twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta

from consensus.state import State
from node.disk import Disk
from node.state_rows import STATE
from protocol.codec import Message, decode, encode
from protocol.ids import Digest, DigestField, Height
from protocol.light_client import LightBlock
from protocol.limits import MIB
from protocol.rejection import Reason, Rejected
from protocol.state_proof import SubChain, combine_roots
from protocol.state_sync import CHILDREN, DIGEST_BYTES, EMPTY, check_children

CHECKPOINTS_KEPT: Final = 3  # chain.md 4: whoever began with one has two more epochs for it
MANIFEST_BYTES_MAX: Final = 1 * MIB  # 40 KiB of digests, a roster and a certificate of a hundred


class CheckpointManifest(Message, frozen=True):
    """What a checkpoint says of itself. ``branches``: of each sub-chain 256 digests, or nothing where it is empty."""

    block: LightBlock
    sub_roots: Annotated[tuple[DigestField, ...], Meta(min_length=len(SubChain), max_length=len(SubChain))]
    branches: Annotated[
        tuple[Annotated[bytes, Meta(max_length=CHILDREN * DIGEST_BYTES)], ...],
        Meta(min_length=len(SubChain), max_length=len(SubChain)),
    ]

    @property
    def height(self) -> Height:
        return self.block.header.height


def checkpoint_name(height: int) -> str:
    """The name of a checkpoint: names are sorted as heights are."""
    return f"{height:012d}"


def make_checkpoint_manifest(block: LightBlock, state: State) -> CheckpointManifest:
    """The manifest of the state after a block."""
    branches = tuple(b"" if tree.root() == EMPTY[0] else b"".join(tree.digests_below(b"")) for tree in state.trees)
    return CheckpointManifest(block, state.sub_roots(), branches)


def check_checkpoint_manifest(data: bytes) -> CheckpointManifest:
    """A manifest that agrees with itself; whether its block is final is another question. Raises ``Rejected``."""
    manifest = decode(CheckpointManifest, data, limit_bytes=MANIFEST_BYTES_MAX)
    if combine_roots(manifest.sub_roots) != manifest.block.header.state_root:
        raise Rejected(Reason.BAD_PROOF, "the manifest's roots are not those of its block")
    for root, digests in zip(manifest.sub_roots, manifest.branches, strict=True):
        if digests:
            check_children(digests, root)
        elif root != EMPTY[0]:
            raise Rejected(Reason.BAD_PROOF, "the manifest lacks the branches of a sub-chain")
    return manifest


def take_checkpoint(disk: Disk, block: LightBlock, state: State) -> None:
    """Keep the state after a block, whose rows are the newest on the disk; older checkpoints go. Raises ``OSError``."""
    name = checkpoint_name(block.header.height)
    disk.take_checkpoint(name, encode(make_checkpoint_manifest(block, state)), STATE)
    names = disk.checkpoints()
    for older in names[: max(0, len(names) - CHECKPOINTS_KEPT)]:
        disk.remove_checkpoint(older)


def list_checkpoints(disk: Disk) -> Iterator[CheckpointManifest]:
    """What is kept, newest first; those whose manifest the disk changed are left out."""
    for name in reversed(disk.checkpoints()):
        try:
            yield check_checkpoint_manifest(disk.read_manifest(name))
        except (Rejected, FileNotFoundError):
            continue


def branch_digests(manifest: CheckpointManifest, chain: SubChain) -> bytes:
    """The 256 digests below a sub-chain."""
    return manifest.branches[chain] or EMPTY[1] * CHILDREN


def branch_digest(manifest: CheckpointManifest, name: bytes) -> Digest:
    """The digest of a branch, by its name of two bytes."""
    digests, at = branch_digests(manifest, SubChain(name[0])), DIGEST_BYTES * name[1]
    return Digest(digests[at : at + DIGEST_BYTES])
