"""What survives a peer's process: the rows of node/ground.py as dictionaries, whose values peers share.

A process ends between two events and never inside one, so nothing here tears: the worlds of ``simnet/finality`` do that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from consensus.events import Delta
from consensus.finality.events import Anchor, Restored, StoreBlocks, StoredBlock
from consensus.state import State
from protocol.epochs import boundary_of, epoch_of
from protocol.finality import Certificate, FinalizedBlock, VoteKind
from protocol.ids import Digest, Height, PeerId, TileId, Version, View
from protocol.roster import Head
from simnet.cores.learner import LearnerRecord

EPOCHS_REMEMBERED: Final = 4  # whose boundaries are shown to stragglers


@dataclass(slots=True)
class Disk:
    """One peer's. ``state`` is that after the ledger's last block; a ledger begins with height 1."""

    state: State
    created_ms: int
    epoch_heights: int
    tiles: dict[TileId, Version]  # the newest version that is applied
    ledger: list[FinalizedBlock] = field(default_factory=list)
    votes: list[bytes] = field(default_factory=list)
    blocks: dict[Digest, StoredBlock] = field(default_factory=dict)
    certificates: dict[tuple[View, VoteKind], Certificate] = field(default_factory=dict)
    proposals: list[Head] = field(default_factory=list)
    candidates: dict[tuple[TileId, PeerId, Version, bool], Delta] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    learner: LearnerRecord = field(default_factory=LearnerRecord)

    @property
    def tip(self) -> int:
        return len(self.ledger)

    def anchor(self) -> Anchor:
        """The last final block."""
        if not self.ledger:
            return Anchor.genesis(self.state.root(), self.created_ms)
        return Anchor.of(self.ledger[-1].header, self.ledger[-1].certificate)

    def restored(self) -> Restored:
        """What the machine of finality had stored above it."""
        epoch = epoch_of(self.tip + 1, self.epoch_heights)
        last = [boundary_of(each, self.epoch_heights) for each in range(max(0, epoch - EPOCHS_REMEMBERED), epoch)]
        boundaries = (self.ledger[height - 1].certificate for height in last)
        return Restored(
            tuple(self.blocks.values()),
            tuple(self.certificates.values()),
            tuple(each for each in boundaries if each is not None),
        )

    def store(self, effect: StoreBlocks) -> None:
        """Open blocks and certificates."""
        for block in effect.blocks:
            self.blocks[block.proposal.header.digest()] = block
        for certificate in effect.certificates:
            self.certificates[certificate.view, certificate.kind] = certificate

    def finalize(self, blocks: Iterable[FinalizedBlock], state: State) -> None:
        """Append blocks, and drop what they overtook; ``state`` is that after the last of them."""
        self.ledger += blocks
        self.state = state
        last = self.ledger[-1].header
        over = last.height == boundary_of(last.epoch, self.epoch_heights)
        if over:
            self.blocks, self.certificates = {}, {}
        elif self.blocks or self.certificates:
            view = last.view
            self.blocks = {name: kept for name, kept in self.blocks.items() if kept.proposal.header.view > view}
            self.certificates = {at: kept for at, kept in self.certificates.items() if at[0] > view}

    def decide(self, head: Head) -> None:
        """Candidates that nobody can take any more go, and our own heads of the slot."""
        if self.candidates:
            late = [key for key in self.candidates if key[0] == head.tile and key[2] < head.version - 1]
            for key in late:
                del self.candidates[key]
        if self.proposals:
            self.proposals = [each for each in self.proposals if each.tile != head.tile or each.version > head.version]

    def serve(self, first: Height, count: int) -> tuple[FinalizedBlock, ...]:
        """Our side of the sync protocol: from a height to its epoch's end at most, the last block with its certificate."""
        boundary = boundary_of(epoch_of(first, self.epoch_heights), self.epoch_heights)
        for last in range(min(self.tip, boundary, first + count - 1), first - 1, -1):
            if self.ledger[last - 1].certificate is not None:
                return tuple(self.ledger[first - 1 : last])
        return ()
