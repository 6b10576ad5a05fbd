"""A node's ground in memory, under a chain of real blocks without votes: what is stored, lost in a crash, and restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from consensus.execution import Execution
from consensus.state import State
from consensus.transition import BlockRules, apply_block
from node.config import Settings, load_settings
from node.ground import Ground
from protocol.codec import encode
from protocol.finality import Body, FinalizedBlock, body_root
from protocol.ids import Height, MemberIndex, TileId
from protocol.roster import Head
from protocol.transactions import SignedTransaction, Transfer
from simnet.virtual.disk import Pool, VirtualDisk
from storage.files import MemoryFiles
from storage.io.blob_store import BlobStore
from storage.io.cell_store import CellStore
from storage.io.tile_store import TileStore
from storage.kv import KeyValue, MemoryKeyValue
from storage.ledger import Ledger
from tests.consensus.genesis import TICKS, TILES
from tests.consensus.ledger_samples import ACCOUNT_IDS, GENESIS, RULE, sign
from tests.consensus.samples import CHAIN, make_block, make_head, tile_at
from tests.node.chain_samples import DOCUMENT

EPOCH_HEIGHTS = 4  # that the ground believes; execution stays in one epoch, so that its roster does
SETTINGS = load_settings(Path("nowhere"))


class MemoryGround(Ground):
    """A ground whose database and files are in memory, and whose genesis is the ledger samples'."""

    def genesis_state(self) -> State:
        return GENESIS


def make_ground(
    index: KeyValue | None = None, files: MemoryFiles | None = None, settings: Settings = SETTINGS
) -> MemoryGround:
    """As a process finds it that begins on what ``index`` and ``files`` have."""
    index, files = index or MemoryKeyValue(), files or MemoryFiles()
    absent: dict[str, Any] = dict.fromkeys(("keys", "work", "votes", "vote_state", "proposals"))
    return MemoryGround(
        **absent,
        settings=settings,
        disk=VirtualDisk("memory", Pool()),
        genesis=replace(DOCUMENT, chain=replace(DOCUMENT.chain, epoch_heights=EPOCH_HEIGHTS)),
        genesis_bytes=b"",
        network=DOCUMENT.network_id(),
        index=index,
        blobs=BlobStore(files, index),
        tiles=TileStore(files, index),
        cells=CellStore(files, index),
        ledger=Ledger(index),
        vote_records=(),
        proposed=(),
        genesis_roots={tile: tile_at(GENESIS, tile).root for tile in TILES},
    )


async def here(work: Callable[[], None]) -> None:
    """The tile thread of a test: no other than its own."""
    work()


class GroundedChain:
    """A ground, and the execution whose blocks it stores."""

    def __init__(self, ground: MemoryGround) -> None:
        self.ground = ground
        anchor = ground.anchor()
        rules = BlockRules(CHAIN, RULE, 2**20, 1_000, TICKS)
        self.execution = Execution(rules, ground.load_state(), anchor.block, anchor.height)

    @property
    def state(self) -> State:
        return self.execution.state

    def add(self, *tiles: TileId, payments: int = 0) -> tuple[Sequence[Head], Sequence[SignedTransaction]]:
        """Store the next block: a head for each of ``tiles``, from a delta each, and some payments."""
        execution, height = self.execution, Height(self.execution.height + 1)
        nonce = self.state.account(ACCOUNT_IDS[0]).nonce
        paid = [sign(0, nonce + index, Transfer(ACCOUNT_IDS[1], 5)) for index in range(payments)]
        heads = [make_head(self.state, tile) for tile in sorted(tiles)]
        context = execution.rules.context(self.state, execution.head_rules, height, height, MemberIndex(0))
        root = apply_block(self.state, heads, paid, context)[0].root()
        body = encode(Body(tuple(heads), tuple(encode(each.plain) for each in paid)))
        header = replace(
            make_block([], height=height)[1],
            parent=execution.anchor,
            state_root=root,
            body_root=body_root(body),
            body_bytes=len(body),
        )
        self.ground.store_finalized(execution.finalize(FinalizedBlock(header, body, None)).committed)
        return heads, paid

    def apply(self, *heads: Head) -> None:
        """Put the heads' tiles on the disk, as the tile thread does some time after a block."""
        for head in heads:
            self.ground.tiles.put(head.tile, head.version, b"file", head.root)
