"""A data directory with a large state at its newest checkpoint, made at once and not by years of blocks.

What a newcomer looks at is as the chain makes it: every row is an entry of a table, its digests lead to the state root, the
header with that root was signed by a quorum of its epoch's roster, and so was every boundary since the genesis. What it does
not look at is not there: blocks between the boundaries, and balances that add up.

Of the bytes of entries seven eighths are parameter records with sixteen parents, which are 680 bytes each, and the rest
accounts of somewhat more than fifty: an account is what most entries of a chain of payments would be, and what costs most for
its bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Final

from msgspec import structs

from consensus.finality.tally import build_certificate
from consensus.state import (
    ACCOUNTS,
    EPOCH_MARKS,
    PARAMETERS,
    PROGRESS,
    ROSTERS,
    Account,
    ParameterEntry,
    Progress,
    State,
    all_rows,
)
from node.checkpoints import CheckpointManifest, checkpoint_name
from node.clock import Clock
from node.config import default_config_text, load_settings, load_template
from node.data_directory import DataDirectory
from node.genesis_file import found_network, write_genesis
from node.ground import Ground, open_ground
from node.keys import create_keys
from node.state_rows import STATE, count_buckets, digests_below, state_key, store_changes
from protocol.codec import encode
from protocol.digest import Domain, digest, number
from protocol.epochs import boundary_of
from protocol.finality import (
    EMPTY_BODY,
    HEADER_VERSION,
    NO_BLOCK,
    ChainId,
    Header,
    Vote,
    VoteKind,
    body_root,
    vote_text,
)
from protocol.genesis import Genesis, ModelShape, genesis_roster
from protocol.ids import AccountId, Digest, Epoch, MemberIndex, PeerId, View, VoteKey
from protocol.keys import KeyPair
from protocol.light_client import LightBlock
from protocol.limits import MIB
from protocol.merkle import merkle_root
from protocol.roster import Member, MemberCard, Roster
from protocol.state_proof import SubChain, combine_roots
from protocol.state_sync import EMPTY
from protocol.transactions import ParameterRecord, RecordKind
from storage.io.blob_store import BlobStore
from storage.io.files import DirectoryFiles
from storage.io.rocks import RocksKeyValue
from storage.keys import CERTIFICATE, HEADER, block_key, own_key, pack_u64
from storage.kv import Batch
from storage.ledger import FinalizedBlock

TILE_BYTES: Final = 4 * MIB
EPOCH_HEIGHTS: Final = 1_024  # as a network of strangers has it
_LAYER_MIB: Final = 32  # of the model: four matrices of attention and seven experts
_AGE_MS: Final = 10 * 24 * 3_600_000  # of the network: young enough to be trusted from its genesis
_ROWS_PER_BATCH: Final = 4_096
_PARENTS: Final = 16
_ACCOUNT_BYTES_SHARE: Final = 8  # one byte of so many is an account's


@dataclass(frozen=True, slots=True)
class MadeState:
    """What was made. ``state_bytes``: keys and values of all entries."""

    entries: int
    state_bytes: int
    height: int
    root: Digest


@dataclass(frozen=True, slots=True)
class Founders:
    """Everybody who ever votes: the keys that follow from numbers. One of ``members`` is replaced in each epoch."""

    genesis: Genesis
    members: int
    votes: Sequence[KeyPair]

    def roster(self, epoch: int) -> Roster:
        """Epochs 0 and 1 are the founders', as the genesis says."""
        if epoch <= 1:
            return genesis_roster(self.genesis, epoch)
        numbers = range(epoch - 1, epoch - 1 + self.members)
        voters = sorted((_node(each), VoteKey(self.votes[each].public)) for each in numbers)
        beacon = digest(Domain.BEACON, number(epoch))
        return Roster(Epoch(epoch), tuple(Member(*voter) for voter in voters), (1,) * self.members, beacon)

    def certify(self, header: Header, roster: Roster) -> LightBlock:
        """The certificate of as many as a quorum takes."""
        keys = {VoteKey(key.public): key for key in self.votes}
        chain = ChainId.of(self.genesis.network_id())
        text = vote_text(chain, header.epoch, header.view, VoteKind.FINALIZE, header.digest())
        votes: list[Vote] = []
        weight = 0
        for index, member in enumerate(roster.members):
            if roster.is_quorum(weight):
                break
            weight += roster.weights[index]
            signature = keys[member.vote].sign(text)
            votes.append(
                Vote(header.epoch, header.view, VoteKind.FINALIZE, header.digest(), MemberIndex(index), signature)
            )
        return LightBlock(header, build_certificate(votes, roster), roster)


def make_directories(folders: Sequence[Path], *, members: int, model_mib: int) -> Genesis:
    """Genesis, keys, configuration and corpus in every folder."""
    shards = [Random(1).randbytes(MIB)]
    layers = max(1, model_mib // _LAYER_MIB)
    model = ModelShape(
        vocabulary=258,
        layers=layers,
        width=512,
        heads=8,
        experts=7 if model_mib >= _LAYER_MIB else 1,
        expert_width=1_024,
        experts_per_token=1,
        context=64,
    )
    template = load_template("devnet")
    chain = structs.replace(template.chain, epoch_heights=EPOCH_HEIGHTS)
    template = replace(template, model=model, tile_bytes=TILE_BYTES, chain=chain)
    cards = [MemberCard.bind(_key("node", each), _key("vote", each), _key("account", each)) for each in range(members)]
    genesis = found_network(template, cards, shards, seed=0, created_ms=Clock().now_ms() - _AGE_MS)
    for folder in folders:
        places = DataDirectory(folder)
        places.root.mkdir(parents=True)
        create_keys(places.keys)
        index = RocksKeyValue(places.database)
        try:
            BlobStore(DirectoryFiles(places.root), index).put_many(shards)
        finally:
            index.close()
        write_genesis(places.genesis, encode(genesis))
        places.config.write_text(default_config_text({"network.id": genesis.network_id().hex()}))
    return genesis


def make_state(folder: Path, *, members: int, epochs: int, state_mib: int) -> MadeState:
    """Put state, boundaries and checkpoint into a directory of ``make_directories``."""
    ground = open_ground(load_settings(folder))
    try:
        founders = Founders(ground.genesis, members, [_key("vote", each) for each in range(members + epochs)])
        entries, state_bytes = _write_entries(ground, _begun(ground.genesis_state(), founders, epochs), state_mib * MIB)
        count_buckets(ground.index)
        branches = [digests_below(ground.index, bytes([chain])) for chain in SubChain]
        roots = tuple(map(merkle_root, branches))
        block = _write_boundaries(ground, founders, epochs, combine_roots(roots))
        empty = [b"" if root == EMPTY[0] else b"".join(below) for root, below in zip(roots, branches, strict=True)]
        manifest = CheckpointManifest(block, roots, tuple(empty))
        ground.disk.take_checkpoint(checkpoint_name(block.header.height), encode(manifest), STATE)
        return MadeState(entries, state_bytes, block.header.height, block.header.state_root)
    finally:
        ground.close()


def share_state(folder: Path, others: Sequence[Path]) -> None:
    """Give what ``make_state`` made to other directories, by links to its files: each has a database of its own."""
    source = DataDirectory(folder)
    for other in map(DataDirectory, others):
        shutil.rmtree(other.database)
        index = RocksKeyValue(source.database)
        try:
            index.checkpoint(other.database)
        finally:
            index.close()
        for mine, its in ((source.checkpoints, other.checkpoints), (source.tiles, other.tiles)):
            shutil.copytree(mine, its, copy_function=os.link, dirs_exist_ok=True)


def _begun(state: State, founders: Founders, epoch: int) -> State:
    """The state in which an epoch begins: who votes in it and around it, and when it began."""
    for near in range(epoch - 1, epoch + 2):
        state = state.put(ROSTERS, founders.roster(near), number(near))
    mark = state.get(EPOCH_MARKS, number(0))
    return state.put(EPOCH_MARKS, mark, number(epoch)).put(PROGRESS, Progress(epoch, epoch, -1))


def _write_entries(ground: Ground, begun: State, state_bytes: int) -> tuple[int, int]:
    batch = Batch()
    store_changes(batch, all_rows(begun), begun)
    ground.index.write(batch)
    count = size = 0
    batch = Batch()
    for row, value in _entries(state_bytes):
        batch.put(state_key(row), value)
        count, size = count + 1, size + len(row) - 1 + len(value)
        if len(batch) == _ROWS_PER_BATCH:
            ground.index.write(batch, durable=False)
            batch = Batch()
    ground.index.write(batch)
    ground.index.reclaim(STATE, STATE + b"\xff" * 40)  # as a node that lives has it: sorted, on the disk
    return count, size


def _entries(state_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """``chain | key`` and value of new accounts and records."""
    draw, table = Random(2), bytes([ACCOUNTS.chain]) + ACCOUNTS.prefix
    left = state_bytes // _ACCOUNT_BYTES_SHARE
    while left > 0:
        row, value = table + draw.randbytes(32), encode(Account(draw.getrandbits(40), draw.getrandbits(8)))
        left -= len(row) + len(value)
        yield row, value
    left, table = state_bytes - state_bytes // _ACCOUNT_BYTES_SHARE, bytes([PARAMETERS.chain]) + PARAMETERS.prefix
    while left > 0:
        parents = tuple(sorted(Digest(draw.randbytes(32)) for _ in range(_PARENTS)))
        root, author = Digest(draw.randbytes(32)), AccountId(draw.randbytes(32))
        record = ParameterRecord(RecordKind.EXPERT, "layer4.expert7", 4, parents, root, 4 * MIB, draw.getrandbits(40))
        row, value = table + draw.randbytes(32), encode(ParameterEntry(author, record, 7, draw.getrandbits(20)))
        left -= len(row) + len(value)
        yield row, value


def _write_boundaries(ground: Ground, founders: Founders, epochs: int, state_root: Digest) -> LightBlock:
    """The last block of each epoch with its certificate and roster; the ledger begins with the newest."""
    genesis, batch = ground.genesis, Batch()
    heights, created_ms = genesis.chain.epoch_heights, genesis.created_ms
    block = None
    for epoch in range(epochs):
        height = boundary_of(Epoch(epoch), heights)
        roster = founders.roster(epoch)
        header = Header(
            version=HEADER_VERSION,
            chain=ChainId.of(genesis.network_id()),
            epoch=Epoch(epoch),
            view=View(heights),
            height=height,
            parent=NO_BLOCK,
            parent_view=View(heights - 1),
            time_ms=created_ms + (epoch + 1) * (_AGE_MS // (epochs + 1)),
            proposer=MemberIndex(0),
            body_root=body_root(EMPTY_BODY),
            body_bytes=len(EMPTY_BODY),
            state_root=state_root,
            roster=roster.digest(),
            next_roster=founders.roster(epoch + 1).digest(),
            beacon=roster.beacon,
            evidence_root=NO_BLOCK,
        )
        block = founders.certify(header, roster)
        batch.put(block_key(HEADER, height), encode(header))
        batch.put(block_key(CERTIFICATE, height), encode(block.certificate))
        batch.put(own_key("roster", pack_u64(epoch)), encode(roster))
    if block is None:
        raise ValueError("a chain has an epoch")
    ground.ledger.append(
        FinalizedBlock(block.header.height, encode(block.header), EMPTY_BODY, encode(block.certificate)), batch
    )
    return block


def _key(kind: str, index: int) -> KeyPair:
    return KeyPair(digest("nock/benchmark/1", kind.encode(), number(index)))


def _node(index: int) -> PeerId:
    return PeerId(_key("node", index).public)
