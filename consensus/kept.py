"""What is kept: the blobs of which the state says that more than two thirds of a roster keep their cells (chain.md 3.4).

    AvailabilityRecord -> subject, roster, class, size, what the state knows, signatures -> the entry of its subject
    an entry whose ``kept_until`` is over -> gone, so many in each block

A subject has one entry: the first that is recorded. Two certificates of one subject may name two blobs, or one blob root under
two tables' roots; whoever reads the chain reads one content all the same.

    KEPT             subject -> entry
    KEPT_SNAPSHOTS   blob -> subject, of tiles' snapshots: what a parameter record of one is held against
    KEPT_COUNTS      epoch -> how many are kept until its end        KEPT_ENDS   epoch, number -> subject of each
    KEPT_OLDEST      the first epoch of which some may be left; those before it are gone
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never, cast

from consensus.availability import check_availability_certificate
from consensus.state import (
    EPOCH_MARKS,
    KEPT,
    KEPT_COUNTS,
    KEPT_ENDS,
    KEPT_OLDEST,
    KEPT_SNAPSHOTS,
    ROSTERS,
    TILES,
    Count,
    KeptEntry,
    Reference,
    State,
)
from protocol.availability import REPLICATION, StateCheckpoint, Subject, TileSnapshot, kept_until
from protocol.digest import number
from protocol.epochs import epoch_of, is_boundary
from protocol.erasure import blob_root
from protocol.finality import ChainId
from protocol.ids import AccountId, Digest
from protocol.limits import KEPT_RELEASED_PER_BLOCK_MAX
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster
from protocol.transactions import AvailabilityRecord

# -- reading ------------------------------------------------------------------------------------------------------------


def find_kept(state: State, subject: Digest) -> KeptEntry | None:
    """What is kept as a subject, by the digest of it (``Subject.digest``)."""
    return state.find(KEPT, subject)


def find_snapshot(state: State, blob: Digest) -> KeptEntry | None:
    """The tile's snapshot that is kept as a blob; of several tiles with the same bytes, the one that is kept longest."""
    reference = state.find(KEPT_SNAPSHOTS, blob)
    return None if reference is None else state.get(KEPT, reference.id)


def kept_blobs(state: State) -> Iterator[KeptEntry]:
    """Everything that is kept, in an order that is the same for everybody and means nothing. It walks all of sub-chain D."""
    for key, entry in state.trees[KEPT.chain].items():
        if key.startswith(KEPT.prefix):
            yield cast("KeptEntry", entry)


# -- recording ----------------------------------------------------------------------------------------------------------


def record_kept(
    state: State, author: AccountId, record: AvailabilityRecord, chain: ChainId, height: int, epoch_heights: int
) -> State:
    """The state after a record in the block at ``height``. Raises ``Rejected``, the cheap reasons first.

    WRONG_SUBJECT: the certificate is of another one, or the state knows it otherwise; ALREADY_RECORDED: its subject has an
    entry; WRONG_EPOCH: of neither the block's epoch nor the one before; MALFORMED: not the geometry or the time of the
    subject's class, or a blob of another size; UNKNOWN_TILE; and as ``check_availability_certificate``.
    """
    claim, subject, epoch = record.certificate.claim, record.subject.digest(), epoch_of(height, epoch_heights)
    if claim.subject != subject:
        raise Rejected(Reason.WRONG_SUBJECT, "the certificate is of another one")
    if state.find(KEPT, subject) is not None:
        raise Rejected(Reason.ALREADY_RECORDED, f"subject {subject[:4].hex()}")
    roster = _find_roster(state, claim.epoch, epoch)
    if roster is None:
        raise Rejected(Reason.WRONG_EPOCH, f"a certificate of epoch {claim.epoch} in {epoch}")
    replication = REPLICATION[type(record.subject)]
    if (claim.geometry, claim.kept_until) != (replication.geometry, kept_until(claim.epoch)):
        raise Rejected(Reason.MALFORMED, f"not the geometry or the time of what is of class {replication.code}")
    if blob_root(claim.geometry, record.size_bytes, record.tiles_root) != claim.blob:
        raise Rejected(Reason.MALFORMED, f"a blob that has not {record.size_bytes} bytes in these tiles")
    _check_subject(state, record.subject, epoch_heights)
    check_availability_certificate(record.certificate, roster, chain)
    entry = KeptEntry(
        blob=claim.blob,
        tables=claim.tables,
        geometry=claim.geometry,
        size_bytes=record.size_bytes,
        epoch=claim.epoch,
        beacon=roster.beacon,
        kept_until=claim.kept_until,
        subject=record.subject,
        author=author,
        height=height,
    )
    return _enter(state, subject, entry, epoch)


def _find_roster(state: State, of: int, epoch: int) -> Roster | None:
    """The roster of a claim in a block of ``epoch``: votes take a while, so the one before counts too."""
    return state.find(ROSTERS, number(of)) if of in (epoch, epoch - 1) else None


def _check_subject(state: State, subject: Subject, epoch_heights: int) -> None:
    """Hold a subject against what the state knows; raises ``Rejected`` (UNKNOWN_TILE, WRONG_SUBJECT).

    Of a tile it knows the newest root and the one before. An older one is the holders' to compare.
    """
    match subject:
        case TileSnapshot(tile, version, root):
            entry = state.find(TILES, tile.encode())
            if entry is None:
                raise Rejected(Reason.UNKNOWN_TILE, tile)
            if version > entry.version:
                raise Rejected(Reason.WRONG_SUBJECT, f"{tile} has no version {version}")
            known: dict[int, Digest] = {entry.version: entry.root}
            if entry.head is not None:
                known[entry.version - 1] = entry.head.parent_root
            if known.get(version, root) != root:
                raise Rejected(Reason.WRONG_SUBJECT, f"{tile} has another root at version {version}")
        case StateCheckpoint(height, state_root):
            if not is_boundary(height, epoch_heights):
                raise Rejected(Reason.WRONG_SUBJECT, f"no epoch ends at height {height}")
            mark = state.find(EPOCH_MARKS, number(epoch_of(height + 1, epoch_heights)))
            if mark is None or mark.boundary_root != state_root:
                raise Rejected(Reason.WRONG_SUBJECT, f"the state after height {height} is another, or not known")
        case _:
            assert_never(subject)


def _enter(state: State, subject: Digest, entry: KeptEntry, epoch: int) -> State:
    state = state.put(KEPT, entry, subject)
    if isinstance(entry.subject, TileSnapshot):
        known = find_snapshot(state, entry.blob)
        if known is None or _end(known) < _end(entry):
            state = state.put(KEPT_SNAPSHOTS, Reference(subject), entry.blob)
    if entry.kept_until is None:
        return state
    count = state.find(KEPT_COUNTS, number(entry.kept_until)) or Count(0)
    state = state.put(KEPT_ENDS, Reference(subject), number(entry.kept_until) + number(count.value))
    state = state.put(KEPT_COUNTS, Count(count.value + 1), number(entry.kept_until))
    return state if state.find(KEPT_OLDEST) else state.put(KEPT_OLDEST, Count(epoch))


def _end(entry: KeptEntry) -> tuple[bool, int]:
    """Orders by how long: what is kept for ever comes last."""
    return entry.kept_until is None, entry.kept_until or 0


# -- what is over -------------------------------------------------------------------------------------------------------


def release_over(state: State, epoch: int, steps_max: int = KEPT_RELEASED_PER_BLOCK_MAX) -> State:
    """The state without what is over in an epoch, or with less of it: a block does so much of this and the next goes on."""
    oldest = state.find(KEPT_OLDEST)
    if oldest is None:
        return state
    end = oldest.value
    for _ in range(steps_max):
        if end >= epoch:
            break
        count = state.find(KEPT_COUNTS, number(end))
        if count is None:
            end += 1
        else:
            state = _release(state, end, count.value - 1)
    return state if end == oldest.value else state.put(KEPT_OLDEST, Count(end))


def _release(state: State, end: int, last: int) -> State:
    """Without the last one of those that are kept until the end of an epoch."""
    key = number(end) + number(last)
    subject = state.get(KEPT_ENDS, key).id
    blob = state.get(KEPT, subject).blob
    if state.find(KEPT_SNAPSHOTS, blob) == Reference(subject):
        state = state.delete(KEPT_SNAPSHOTS, blob)
    state = state.delete(KEPT, subject).delete(KEPT_ENDS, key)
    return state.put(KEPT_COUNTS, Count(last), number(end)) if last else state.delete(KEPT_COUNTS, number(end))
