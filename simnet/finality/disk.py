"""What survives a crash of one member, and how a write looks that the crash hit: whole, a part, or nothing.

    Persist        whole, or the record is cut short: the shell cuts it off and says TORN, or it never reached the disk
    StoreBlocks    any prefix of its blocks and certificates
    Finalized      any prefix of its blocks; the others are fetched again

A journal may also be gone altogether (MISSING): then the member follows, and votes again two epochs later.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from consensus.finality.epochs import epoch_of_child
from consensus.finality.events import Anchor, Effect, Finalized, Persist, Restored, StoreBlocks, StoredBlock
from consensus.finality.signer import JournalState
from protocol.epochs import is_boundary
from protocol.finality import Certificate, FinalizedBlock, VoteKind
from protocol.genesis import ChainRule
from protocol.ids import Digest, Epoch, Height, View
from simnet.finality.genesis import RULE, genesis_anchor


@dataclass
class Disk:
    """One member's disk. What is written is synced before the next effect begins, as the machine demands."""

    rule: ChainRule = RULE
    journal: list[bytes] = field(default_factory=list)
    state: JournalState = JournalState.CLEAN
    blocks: dict[Digest, StoredBlock] = field(default_factory=dict)
    certificates: dict[tuple[Epoch, View, VoteKind], Certificate] = field(default_factory=dict)
    ledger: list[FinalizedBlock] = field(default_factory=list)
    writes_torn: int = 0
    journals_lost: int = 0

    def anchor(self) -> Anchor:
        if not self.ledger:
            return genesis_anchor()
        return Anchor.of(self.ledger[-1].header, self.ledger[-1].certificate)

    def restored(self) -> Restored:
        boundary = self.epoch * self.rule.epoch_heights
        last = self.ledger[boundary - 1].certificate if boundary else None
        boundaries = () if last is None else (last,)
        return Restored(tuple(self.blocks.values()), tuple(self.certificates.values()), boundaries)

    @property
    def epoch(self) -> Epoch:
        """Of the next block."""
        return epoch_of_child(Height(len(self.ledger)), self.rule)

    def append(self, records: tuple[bytes, ...]) -> None:
        self.journal.extend(records)

    def store(self, effect: StoreBlocks) -> None:
        for block in effect.blocks:
            self.blocks[block.proposal.header.digest()] = block
        for certificate in effect.certificates:
            self.certificates[certificate.epoch, certificate.view, certificate.kind] = certificate

    def finalize(self, blocks: tuple[FinalizedBlock, ...]) -> None:
        """Append to the ledger what is new in it, and drop what it overtook."""
        self.ledger.extend(block for block in blocks if block.header.height == len(self.ledger) + 1)
        view = blocks[-1].header.view
        if is_boundary(blocks[-1].header.height, self.rule.epoch_heights):
            self.blocks, self.certificates = {}, {}
        self.blocks = {name: stored for name, stored in self.blocks.items() if stored.proposal.header.view > view}
        self.certificates = {at: held for at, held in self.certificates.items() if at[1] > view}

    def holds(self, block: Digest) -> bool:
        """Whether this body could be read back after a crash: open, or in the ledger's last blocks."""
        return block in self.blocks or any(final.header.digest() == block for final in self.ledger[:-9:-1])

    def take_note_of_start(self) -> None:
        """The shell has opened the journal and cut off what was torn."""
        if self.state is JournalState.TORN:
            self.state = JournalState.CLEAN

    def begin_journal_anew(self, records: tuple[bytes, ...]) -> None:
        """What a shell does whose journal is gone: the records say from which epoch on votes are allowed."""
        self.journal, self.state = list(records), JournalState.CLEAN

    def lose_journal(self) -> None:
        self.journal, self.state = [], JournalState.MISSING
        self.journals_lost += 1

    def tear(self, effect: Effect, random_: random.Random) -> None:
        """The crash comes in the middle of this write."""
        match effect:
            case Persist():
                self.writes_torn += 1
                self.state = JournalState.TORN
            case StoreBlocks(blocks, certificates):
                self.writes_torn += 1
                self.store(StoreBlocks(blocks[: random_.randrange(len(blocks) + 1)], ()))
                self.store(StoreBlocks((), certificates[: random_.randrange(len(certificates) + 1)]))
            case Finalized(blocks) if len(blocks) > 1:
                self.writes_torn += 1
                self.finalize(blocks[: random_.randrange(1, len(blocks))])
            case _:
                pass
