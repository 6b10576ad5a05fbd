"""What survives a crash of one member, and how a write looks that the crash hit: whole, a part, or nothing.

    Persist        whole, or the frame is cut short (TORN), or it never reached the disk
    StoreBlocks    any prefix of its blocks and certificates
    Commit         any prefix of its blocks, each with its rows of the state; the others are fetched again
    a new journal  the old file or the new one until the directory is synced: a lost rename undoes it

Later a bit may flip in what was written well. The vote journal is the bytes that ``storage/journal.py`` writes and reads, so
that it is the real one's checksums that tell (DAMAGED). Open blocks and certificates are rows of a database with checksums of
its own: a damaged row is thrown away, and asked for again.

A journal may also be gone altogether (MISSING). After either the member follows, and votes again two epochs later.

No bit flips in the journal's last frame: one that was synced and then damaged looks like one that was torn, and nobody can
tell them apart without another copy.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from consensus.finality.epochs import epoch_of_child
from consensus.finality.events import Anchor, Effect, Persist, Restored, StoreBlocks, StoredBlock
from consensus.finality.signer import JournalState
from consensus.state import State, load_state
from protocol.epochs import is_boundary
from protocol.finality import Certificate, FinalizedBlock, VoteKind
from protocol.genesis import ChainRule
from protocol.ids import Digest, Epoch, Height, View
from simnet.finality.genesis import GENESIS_ROWS, RULE, genesis_anchor
from simnet.finality.ledger import Commit, Rows
from storage import journal as storage_journal
from storage.journal import MAGIC, frame, read_journal

STATES: Final = {
    storage_journal.JournalState.CLEAN: JournalState.CLEAN,
    storage_journal.JournalState.TORN_TAIL: JournalState.TORN,
    storage_journal.JournalState.DAMAGED: JournalState.DAMAGED,
}
LATELY_BYTES: Final = 500  # three votes: the older ones are of views that are final, and forbid nothing


@dataclass
class Disk:
    """One member's disk. What is written is synced before the next effect begins, as the machine demands."""

    rule: ChainRule = RULE
    image: bytes | None = MAGIC  # of the vote journal; None: there is no such file
    blocks: dict[Digest, StoredBlock] = field(default_factory=dict)
    certificates: dict[tuple[Epoch, View, VoteKind], Certificate] = field(default_factory=dict)
    ledger: list[FinalizedBlock] = field(default_factory=list)
    rows: dict[bytes, bytes] = field(default_factory=lambda: dict(GENESIS_ROWS))  # of the state after it
    bodies_damaged: list[Digest] = field(default_factory=list)  # of this epoch: written, and thrown away
    writes_torn: int = 0
    journals_lost: int = 0
    journals_damaged: int = 0
    journals_replaced: int = 0
    rows_damaged: int = 0
    renames_lost: int = 0
    _frames: int = 0  # in the image
    _last_frame_at: int = 0  # where in the image; 0: not known
    _old_image: bytes | None = None  # what a power cut brings back, unless the directory is synced
    _directory_synced: bool = True

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

    # -- the vote journal ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> JournalState:
        """What opening the journal now would find."""
        return JournalState.MISSING if self.image is None else STATES[read_journal(self.image).state]

    @property
    def journal(self) -> list[bytes]:
        """The records that can be read, as far as the first damage."""
        return [] if self.image is None else list(read_journal(self.image).records)

    def open_journal(self) -> tuple[list[bytes], JournalState]:
        """Its records and what was found; a torn tail is cut off."""
        if self.image is None:
            return [], JournalState.MISSING
        found = read_journal(self.image)
        state = STATES[found.state]
        if state is JournalState.TORN:
            self.image, self._frames = self.image[: found.good_bytes], found.frame_count
        return list(found.records), state

    def append(self, records: tuple[bytes, ...]) -> None:
        image = self.image or MAGIC
        self._last_frame_at = len(image)
        self.image = image + frame(self._frames, records)
        self._frames += 1

    def rename_journal(self, records: tuple[bytes, ...]) -> None:
        """Put another file, written and synced, in the journal's place; ``sync_directory`` makes it last."""
        if self._directory_synced:
            self._old_image, self._directory_synced = self.image, False
        self.image = MAGIC + frame(0, records)
        self._last_frame_at, self._frames = len(self.image), 2
        self.image += frame(1, ())  # as storage/io/journal_file.py does: the records are not in the last frame
        self.journals_replaced += 1

    def sync_directory(self) -> None:
        """A rename before this survives a power cut."""
        self._directory_synced = True

    def lose_power(self) -> None:
        """What was not synced is gone: of a rename that is the new file, with all that was appended to it."""
        if not self._directory_synced:
            self.image, self._directory_synced = self._old_image, True
            self._frames, self._last_frame_at = read_journal(self.image or MAGIC).frame_count, 0
            self.renames_lost += 1

    def lose_journal(self) -> None:
        self.image, self._frames, self._last_frame_at = None, 0, 0
        self.sync_directory()
        self.journals_lost += 1

    @property
    def has_journal_past(self) -> bool:
        """Whether there is a frame before the last one."""
        return self._last_frame_at > len(MAGIC)

    def flip_journal_bit(self, random_: random.Random) -> None:
        """One bit anywhere. Before the last frame the past is unknown; in it, it looks torn. Half of them in what is new."""
        if self.image is None or not self.has_journal_past:
            return
        image, end = bytearray(self.image), len(self.image)
        at = random_.randrange(random_.choice((0, max(0, end - LATELY_BYTES))), end)
        image[at] ^= 1 << random_.randrange(8)
        self.image = bytes(image)
        self.journals_damaged += 1

    # -- rows ----------------------------------------------------------------------------------------------------------

    def store(self, effect: StoreBlocks) -> None:
        for block in effect.blocks:
            self.blocks[block.proposal.header.digest()] = block
        for certificate in effect.certificates:
            self.certificates[certificate.epoch, certificate.view, certificate.kind] = certificate

    def read_state(self) -> State:
        """The state after the ledger's last block."""
        return load_state(self.rows.items())

    def finalize(self, commit: Commit) -> None:
        """Append to the ledger what is new in it, with what it made of the state, and drop what it overtook."""
        for block, rows in zip(commit.blocks, commit.rows, strict=True):
            if block.header.height == len(self.ledger) + 1:
                self.ledger.append(block)
                self.write_rows(rows)
        last = commit.blocks[-1].header
        view = last.view
        if is_boundary(last.height, self.rule.epoch_heights):
            self.blocks, self.certificates, self.bodies_damaged = {}, {}, []
        self.blocks = {name: stored for name, stored in self.blocks.items() if stored.proposal.header.view > view}
        self.certificates = {at: held for at, held in self.certificates.items() if at[1] > view}

    def write_rows(self, rows: Rows) -> None:
        """What a block changed of the state."""
        for key, entry in rows:
            if entry is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = entry

    def holds(self, block: Digest) -> bool:
        """Whether this body could be read back after a crash: open, or in the ledger's last blocks."""
        return block in self.blocks or any(final.header.digest() == block for final in self.ledger[:-9:-1])

    def wrote(self, block: Digest) -> bool:
        """The same, had no bit flipped since."""
        return self.holds(block) or block in self.bodies_damaged

    def flip_row_bit(self, random_: random.Random) -> None:
        """One bit of an open block or certificate: its checksum tells, and the row is thrown away."""
        names: list[Digest | tuple[Epoch, View, VoteKind]] = [*self.blocks, *self.certificates]
        if not names:
            return
        name = random_.choice(names)
        if isinstance(name, tuple):
            del self.certificates[name]
        else:
            del self.blocks[name]
            self.bodies_damaged.append(name)
        self.rows_damaged += 1

    def forget(self) -> None:
        """As if nothing above the ledger had ever been written."""
        self.image, self._frames, self._last_frame_at = MAGIC, 0, 0
        self.blocks, self.certificates = {}, {}

    def tear(self, effect: Effect | Commit, random_: random.Random) -> None:
        """The crash comes in the middle of this write."""
        match effect:
            case Persist(records):
                self.writes_torn += 1
                whole = frame(self._frames, records)
                self.image = (self.image or MAGIC) + whole[: random_.randrange(1, len(whole))]
            case StoreBlocks(blocks, certificates):
                self.writes_torn += 1
                self.store(StoreBlocks(blocks[: random_.randrange(len(blocks) + 1)], ()))
                self.store(StoreBlocks((), certificates[: random_.randrange(len(certificates) + 1)]))
            case Commit(blocks, rows) if len(blocks) > 1:
                self.writes_torn += 1
                whole_blocks = random_.randrange(1, len(blocks))
                self.finalize(Commit(blocks[:whole_blocks], rows[:whole_blocks]))
            case _:
                pass
