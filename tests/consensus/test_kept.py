"""What the state says is kept: who is believed, which record counts, when an entry goes, and what rests on it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.kept import find_kept, find_snapshot, kept_blobs, record_kept, release_over
from consensus.mempool import Mempool
from consensus.state import (
    EPOCH_MARKS,
    KEPT,
    KEPT_COUNTS,
    KEPT_ENDS,
    KEPT_OLDEST,
    KEPT_SNAPSHOTS,
    PROGRESS,
    ROSTERS,
    Count,
    EpochMark,
    State,
    all_rows,
    load_state,
)
from consensus.transition import apply_block
from protocol.availability import AvailabilityCertificate, StateCheckpoint, TileSnapshot, kept_until
from protocol.codec import encode
from protocol.digest import blob_digest, number
from protocol.envelope import PAYLOAD_BYTES_MAX
from protocol.erasure import COLD, LIVE
from protocol.finality import Body
from protocol.ids import Epoch, Height, Signature, TileId, Version, VoteKey
from protocol.limits import (
    AVAILABILITY_BYTES_PER_BODY_MAX,
    BODY_BYTES_MAX,
    KEPT_RELEASED_PER_BLOCK_MAX,
    PLAIN_TRANSACTION_BYTES_MAX,
    ROSTER_MEMBERS_MAX,
    SUPPLY_NANO_MAX,
    TRANSACTION_BYTES_MAX,
)
from protocol.rejection import Reason, Rejected
from protocol.roster import Member
from protocol.transactions import (
    AvailabilityRecord,
    RecordKind,
    TransactionBundle,
    check_transaction,
    sign_transaction,
)
from tests.consensus.genesis import TILES
from tests.consensus.ledger_samples import (
    ACCOUNT_IDS,
    CHAIN,
    EPOCH_HEIGHTS,
    FIRST_VERSION,
    GENESIS,
    KEYS,
    RULE,
    VOTES,
    apply_all,
    available,
    balance,
    certify,
    check_money,
    context,
    history_for,
    parameters,
    raw_entries,
    sign,
    snapshot_of,
)
from tests.consensus.samples import make_head

SNAPSHOT = snapshot_of(GENESIS, TILES[0])
RECORD = available(GENESIS, SNAPSHOT)
CLAIM = RECORD.certificate.claim


def record(state: State, kept: AvailabilityRecord, height: int = 1, sender: int = 2) -> State:
    after, (refusal,) = apply_all(state, (sender, kept), height=height)
    assert refusal is None
    return after


def refusal(state: State, kept: AvailabilityRecord, height: int = 1) -> Reason:
    """Why a record does nothing; it costs its fee, and nothing else changes."""
    after, (reason,) = apply_all(state, (2, kept), height=height)
    assert balance(after, 2) < balance(state, 2)
    assert list(kept_blobs(after)) == list(kept_blobs(state))
    check_money(after)
    assert reason is not None
    return reason


def wait(state: State, heights: range) -> State:
    """Empty blocks at these heights."""
    for height in heights:
        here = context(height)
        state, _ = apply_block(state, (), [], here, None, history_for(state, here))
    return state


def two_versions_later() -> State:
    """The first tile is at version 2, so that version 0 is one of which the state knows nothing any more."""
    state = GENESIS
    for height in (1, 2):
        state, _ = apply_block(state, [make_head(state)], [], context(height))
    return state


TWO_EPOCHS = wait(
    GENESIS, range(1, EPOCH_HEIGHTS + 1)
)  # at the boundary of the first: certificates of both may be recorded


# -- what is recorded ---------------------------------------------------------------------------------------------------


def test_a_record_says_all_that_a_reader_needs() -> None:
    """Both roots, geometry and size, who was to keep it, until when, and what the bytes are; found by subject and by blob."""
    state = record(GENESIS, RECORD)
    entry = find_kept(state, SNAPSHOT.digest())
    assert entry is not None
    assert (entry.blob, entry.tables, entry.geometry, entry.size_bytes) == (CLAIM.blob, CLAIM.tables, LIVE, 4_096)
    assert (entry.epoch, entry.kept_until) == (0, kept_until(0))
    assert (entry.subject, entry.author, entry.height) == (SNAPSHOT, ACCOUNT_IDS[2], 1)
    assert list(kept_blobs(state)) == [entry] == [find_snapshot(state, CLAIM.blob)]
    assert list(kept_blobs(GENESIS)) == []
    assert find_kept(GENESIS, SNAPSHOT.digest()) is find_snapshot(GENESIS, CLAIM.blob) is None


def test_the_first_record_of_a_subject_wins() -> None:
    """Under other tables, of another blob, by anybody else: there is one content for a subject. Another subject has its own."""
    state = record(GENESIS, RECORD)
    for later in (
        RECORD,
        available(GENESIS, SNAPSHOT, tables=blob_digest(b"others")),
        available(GENESIS, SNAPSHOT, size_bytes=5_000),
        available(GENESIS, SNAPSHOT, signers=(0, 1, 2)),
    ):
        assert refusal(state, later) is Reason.ALREADY_RECORDED
    assert find_kept(record(state, available(GENESIS, snapshot_of(GENESIS, TILES[1]))), SNAPSHOT.digest()) is not None


def test_a_block_again_gives_the_same_state() -> None:
    """By its blocks, and by the rows of a database."""
    records = [available(GENESIS, snapshot_of(GENESIS, tile)) for tile in TILES]
    after, again = (apply_all(GENESIS, *((2, each) for each in records))[0] for _ in range(2))
    assert after.root() == again.root()
    loaded = load_state((key, encode(entry)) for key, entry in all_rows(after) if entry is not None)
    assert loaded.root() == after.root()
    assert raw_entries([loaded]) == raw_entries([after])
    assert [encode(each) for each in kept_blobs(loaded)] == [encode(each) for each in kept_blobs(again)]


# -- who is believed ----------------------------------------------------------------------------------------------------


def test_a_quorum_of_the_roster_is_believed_and_nobody_else() -> None:
    """Three of four are more than two thirds; two are not, nor three of whom one did not sign, nor other keys."""
    record(GENESIS, available(GENESIS, SNAPSHOT, signers=(0, 2, 3)))
    assert refusal(GENESIS, available(GENESIS, SNAPSHOT, signers=(0, 3))) is Reason.NO_QUORUM
    good = RECORD.certificate
    for index in range(4):
        signatures = (*good.signatures[:index], Signature(bytes(64)), *good.signatures[index + 1 :])
        forged = replace(RECORD, certificate=replace(good, signatures=signatures))
        assert refusal(GENESIS, forged) is Reason.BAD_SIGNATURE
    swapped = replace(RECORD, certificate=replace(good, signatures=good.signatures[::-1]))
    assert refusal(GENESIS, swapped) is Reason.BAD_SIGNATURE
    other = replace(RECORD, certificate=replace(good, claim=replace(CLAIM, tables=blob_digest(b"others"))))
    assert refusal(GENESIS, other) is Reason.BAD_SIGNATURE


def test_a_certificate_is_of_this_epoch_or_of_the_one_before() -> None:
    """Votes that began before a boundary count after it; those of a roster that is not known yet, or no more, do not."""
    assert refusal(GENESIS, available(GENESIS, SNAPSHOT, epoch=1)) is Reason.WRONG_EPOCH
    second = TWO_EPOCHS
    height = EPOCH_HEIGHTS + 1
    for epoch in (0, 1):
        record(second, available(second, SNAPSHOT, epoch=epoch), height)
    assert refusal(second, available(second, SNAPSHOT, epoch=2), height) is Reason.WRONG_EPOCH
    third = wait(second, range(height, 2 * EPOCH_HEIGHTS + 1))
    height = 2 * EPOCH_HEIGHTS + 1
    assert refusal(third, RECORD, height) is Reason.WRONG_EPOCH
    assert third.get(ROSTERS, number(2)).members != third.get(ROSTERS, number(1)).members
    for epoch in (1, 2):
        record(third, available(third, SNAPSHOT, epoch=epoch), height)
    signed_by_others = certify(third.get(ROSTERS, number(1)), replace(CLAIM, epoch=Epoch(2)))
    assert refusal(third, replace(RECORD, certificate=signed_by_others), height) is Reason.MALFORMED


def test_a_class_has_one_geometry_and_one_time() -> None:
    """Neither a code of which a third could make a snapshot unreadable, nor a day more or less than everybody's."""
    until = kept_until(0)
    for changes in (
        {"geometry": COLD},
        {"geometry": replace(LIVE, cell_bytes_max=32_768)},
        {"kept_until": Epoch(until + 1)},
        {"kept_until": Epoch(until - 1)},
        {"kept_until": None},
    ):
        assert refusal(GENESIS, available(GENESIS, SNAPSHOT, **changes)) is Reason.MALFORMED


def test_nobody_believes_a_size_that_the_blobs_root_does_not_show() -> None:
    """The root is of geometry, size and tile roots: with another of them it is another root."""
    assert refusal(GENESIS, replace(RECORD, size_bytes=4_097)) is Reason.MALFORMED
    assert refusal(GENESIS, replace(RECORD, tiles_root=blob_digest(b"others"))) is Reason.MALFORMED
    assert refusal(GENESIS, available(GENESIS, SNAPSHOT, blob=blob_digest(b"others"))) is Reason.MALFORMED


# -- of what ------------------------------------------------------------------------------------------------------------


def test_a_record_is_of_what_was_signed() -> None:
    """A certificate of one subject records no other."""
    for subject in (snapshot_of(GENESIS, TILES[1]), StateCheckpoint(Height(0), SNAPSHOT.root)):
        assert refusal(GENESIS, replace(RECORD, subject=subject)) is Reason.WRONG_SUBJECT


def test_a_snapshot_agrees_with_what_the_state_knows_of_the_tile() -> None:
    """The newest root and the one before; no version that is not decided. Older ones are the holders' to compare."""
    state = two_versions_later()
    newest = snapshot_of(state, TILES[0])
    before = snapshot_of(apply_block(GENESIS, [make_head(GENESIS)], [], context(1))[0], TILES[0])
    assert [SNAPSHOT.version, before.version, newest.version] == [0, 1, 2]
    for subject in (SNAPSHOT, before, newest, replace(SNAPSHOT, root=blob_digest(b"nobody knows"))):
        record(state, available(state, subject), 3)
    for wrong in (
        replace(newest, root=before.root),
        replace(before, root=newest.root),
        replace(newest, version=Version(3)),
    ):
        assert refusal(state, available(state, wrong), 3) is Reason.WRONG_SUBJECT
    unknown = replace(SNAPSHOT, tile=TileId("nothing/0"))
    assert refusal(state, available(state, unknown), 3) is Reason.UNKNOWN_TILE


def test_a_checkpoint_is_the_state_after_an_epoch() -> None:
    """As the chain had it, as long as a snapshot; not of another height or root, nor of the genesis, which needs none."""
    closed = TWO_EPOCHS
    height = EPOCH_HEIGHTS + 1
    checkpoint = StateCheckpoint(Height(EPOCH_HEIGHTS), closed.root())
    state = record(closed, available(closed, checkpoint), height)
    entry = find_kept(state, checkpoint.digest())
    assert entry is not None
    assert (entry.kept_until, entry.subject) == (kept_until(0), checkpoint)
    assert find_snapshot(state, entry.blob) is None
    for wrong in (
        replace(checkpoint, state_root=GENESIS.root()),
        replace(checkpoint, height=Height(EPOCH_HEIGHTS - 1)),
        replace(checkpoint, height=Height(2 * EPOCH_HEIGHTS)),
        StateCheckpoint(Height(0), GENESIS.root()),
    ):
        assert refusal(closed, available(closed, wrong), height) is Reason.WRONG_SUBJECT
    for_ever = available(closed, checkpoint, kept_until=None)
    assert refusal(closed, for_ever, height) is Reason.MALFORMED


# -- what is over -------------------------------------------------------------------------------------------------------


def much_later(state: State, epoch: int) -> State:
    """The same state at the end of an epoch long after, with everything between left out."""
    state = state.put(PROGRESS, replace(state.get(PROGRESS), epoch=epoch, oldest_epoch=epoch))
    state = state.put(EPOCH_MARKS, EpochMark(epoch * EPOCH_HEIGHTS + 1, 0, None), number(epoch))
    return state.put(KEPT_OLDEST, Count(epoch)) if state.find(KEPT_OLDEST) else state


def first_blocks(state: State, epoch: int, count: int = 1) -> State:
    for index in range(count):
        height = epoch * EPOCH_HEIGHTS + 1 + index
        state, _ = apply_block(state, (), [], context(height, time_ms=0))
    return state


def test_what_is_over_goes_at_the_epochs_end() -> None:
    """Not an epoch before; and every trace of it goes."""
    closed = TWO_EPOCHS
    checkpoint = StateCheckpoint(Height(EPOCH_HEIGHTS), closed.root())
    state = record(closed, available(closed, checkpoint), EPOCH_HEIGHTS + 1)
    for epoch, tile in ((0, TILES[0]), (1, TILES[1])):
        kept = available(state, snapshot_of(GENESIS, tile), epoch=epoch)
        state = record(state, kept, EPOCH_HEIGHTS + 2)
    until = kept_until(0)
    state = much_later(state, until - 1)
    for epoch, left in ((until, 3), (until + 1, 1), (until + 2, 0)):
        state = first_blocks(state, epoch)
        assert len(list(kept_blobs(state))) == left
    assert all(key[:1] == KEPT_OLDEST.prefix for key, _ in state.trees[KEPT.chain].items())
    assert state.get(KEPT_OLDEST) == Count(until + 2)
    assert state.find(KEPT_COUNTS, number(until)) is state.find(KEPT_ENDS, number(until) + number(0)) is None


def test_a_block_lets_go_so_many_and_the_next_goes_on() -> None:
    """However much ends with one epoch: each block has its share of the work, and it ends."""
    state, until = two_versions_later(), kept_until(0)
    for index in range(5):
        state = record(state, available(state, replace(SNAPSHOT, root=blob_digest(bytes([index])))), 3)
    left, state = [], much_later(state, until)
    for _ in range(4):
        assert release_over(state, until) == state
        state = release_over(state, until + 1, 2)
        left.append(len(list(kept_blobs(state))))
    assert left == [3, 1, 0, 0]
    assert not any(key[:1] == KEPT_SNAPSHOTS.prefix for key, _ in state.trees[KEPT.chain].items())


def test_of_tiles_with_the_same_bytes_each_is_kept_as_long_as_it_should_be() -> None:
    """Two subjects may share a blob, in any order: the blob is there as long as one of them, and each goes in its time."""
    closed = TWO_EPOCHS
    until = kept_until(0)
    for epochs in ((0, 1), (1, 0)):
        state = closed
        for tile, epoch in zip(TILES, epochs, strict=False):
            shared = available(closed, snapshot_of(GENESIS, tile), epoch=epoch, tiles_root=blob_digest(b"zeros"))
            state = record(state, shared, EPOCH_HEIGHTS + 1)
        blob = shared.certificate.claim.blob
        state = much_later(state, until)
        for epoch, left in ((until, 2), (until + 1, 1), (until + 2, 0)):
            state = first_blocks(state, epoch)
            assert len(list(kept_blobs(state))) == left
            found = find_snapshot(state, blob)
            assert (found is not None) is (left > 0)
            assert found is None or found.kept_until == until + 1


SHARED = [
    available(TWO_EPOCHS, snapshot_of(GENESIS, tile), epoch=epoch, tiles_root=blob_digest(bytes([content])))
    for tile in TILES
    for epoch in (0, 1)
    for content in (0, 1)
]


@given(st.permutations(SHARED), st.integers(1, 8), st.lists(st.integers(1, 4), min_size=1, max_size=12))
@settings(max_examples=60)
def test_the_indices_say_what_the_entries_say(records: list[AvailabilityRecord], count: int, steps: list[int]) -> None:
    """Whatever was recorded, in any order, and however far the letting go is: what is not over is found by its blob."""
    state, until = TWO_EPOCHS, kept_until(0)
    for kept in records[:count]:
        if find_kept(state, kept.subject.digest()) is None:
            state = record_kept(state, ACCOUNT_IDS[2], kept, CHAIN, EPOCH_HEIGHTS + 1, EPOCH_HEIGHTS)
    state = state.put(KEPT_OLDEST, Count(until - 1))
    for epoch in (until, until + 1, until + 2):
        for most in (*steps, KEPT_RELEASED_PER_BLOCK_MAX):
            state = release_over(state, epoch, most)
            held = list(kept_blobs(state))
            ends = [key for key, _ in state.trees[KEPT.chain].items() if key[:1] == KEPT_ENDS.prefix]
            assert len(ends) == len(held)
            for entry in held:
                found = find_snapshot(state, entry.blob)
                assert entry.is_over(epoch) or (found is not None and not found.is_over(epoch))
        assert not any(entry.is_over(epoch) for entry in held)
    assert [key[:1] for key, _ in state.trees[KEPT.chain].items()] == [KEPT_OLDEST.prefix]


# -- what rests on it ---------------------------------------------------------------------------------------------------


def snapshot_record(kept: AvailabilityRecord, **changes: Any) -> Any:
    """The parameter record of what was recorded as kept."""
    named = {"payload_root": kept.certificate.claim.blob, "payload_bytes": kept.size_bytes}
    return parameters(4, "trunk", kind=RecordKind.TILE_SNAPSHOT, **named | changes)


def test_a_snapshot_is_recorded_when_its_bytes_are_kept() -> None:
    """Not before, not of another size or blob, not a checkpoint, and not any more when the time is over."""
    payload = snapshot_record(RECORD)
    assert apply_all(GENESIS, (4, payload))[1] == (Reason.NOT_AVAILABLE,)
    state = record(GENESIS, RECORD)
    for changes in ({"payload_bytes": 4_097}, {"payload_root": CLAIM.tables}, {"payload_root": SNAPSHOT.digest()}):
        assert apply_all(state, (4, snapshot_record(RECORD, **changes)))[1] == (Reason.NOT_AVAILABLE,)
    assert apply_all(state, (4, payload), height=2)[1] == (None,)
    assert apply_all(GENESIS, (2, RECORD), (4, payload))[1] == (None, None)
    assert CLAIM.kept_until is not None
    over = CLAIM.kept_until + 1
    late = first_blocks(much_later(state, over - 1), over - 1)
    assert apply_all(late, (4, payload), height=over * EPOCH_HEIGHTS - 1)[1] == (None,)
    assert apply_all(late, (4, payload), height=over * EPOCH_HEIGHTS + 1)[1] == (Reason.NOT_AVAILABLE,)
    closed = TWO_EPOCHS
    checkpoint = available(closed, StateCheckpoint(Height(EPOCH_HEIGHTS), closed.root()))
    after = record(closed, checkpoint, EPOCH_HEIGHTS + 1)
    asked = apply_all(after, (4, snapshot_record(checkpoint)), height=EPOCH_HEIGHTS + 2)
    assert asked[1] == (Reason.NOT_AVAILABLE,)


def test_nothing_is_built_on_a_snapshot_that_is_kept_no_more() -> None:
    """What depends on it is recorded as long as its bytes are there."""
    payload = snapshot_record(RECORD)
    state, refused = apply_all(GENESIS, (2, RECORD), (4, payload))
    assert refused == (None, None)
    child = parameters(4, "layer4.expert1", payload.record_id(ACCOUNT_IDS[4]), FIRST_VERSION.version_id())
    assert apply_all(state, (4, child), height=2)[1] == (None,)
    assert CLAIM.kept_until is not None
    late = much_later(state, CLAIM.kept_until)
    for epoch, reason in ((CLAIM.kept_until, None), (CLAIM.kept_until + 1, Reason.NOT_AVAILABLE)):
        assert apply_all(late, (4, child), height=epoch * EPOCH_HEIGHTS + 1)[1] == (reason,)


# -- how large it may be ------------------------------------------------------------------------------------------------


def crowd(state: State) -> State:
    """The state in which a hundred members vote in the first epoch; a few keys are enough for all of them."""
    roster = state.get(ROSTERS, number(0))
    members = tuple(
        Member(roster.members[index % 4].node, VoteKey(VOTES[index % 6].public)) for index in range(ROSTER_MEMBERS_MAX)
    )
    many = replace(roster, members=members, weights=(1,) * ROSTER_MEMBERS_MAX)
    return state.put(ROSTERS, many, number(0))


def test_a_certificate_of_a_hundred_members_fits_everywhere() -> None:
    """In a transaction with the longest names and numbers, in a body many times, in gossip; and it is recorded."""
    state = crowd(two_versions_later())
    tile = TileId("a" * 62 + "/0")
    longest = available(state, TileSnapshot(tile, Version(2**63 - 1), SNAPSHOT.root))
    assert len(longest.certificate.signatures) == ROSTER_MEMBERS_MAX
    largest = replace(longest, size_bytes=2**39)
    data = encode(sign_transaction(KEYS[2], CHAIN, 2**62, SUPPLY_NANO_MAX, largest))
    assert 6_900 < len(data) <= TRANSACTION_BYTES_MAX
    assert check_transaction(data, CHAIN).plain.payload == largest
    assert len(encode(TransactionBundle((data,) * 8))) <= PAYLOAD_BYTES_MAX
    assert len(encode(Body((), (data,) * 60))) <= BODY_BYTES_MAX
    record(state, available(state, SNAPSHOT), 3)
    for index in (0, 66, 99):
        good = available(state, SNAPSHOT)
        signatures = list(good.certificate.signatures)
        signatures[index] = Signature(bytes(64))
        certificate = AvailabilityCertificate(CLAIM, good.certificate.signers, tuple(signatures))
        assert refusal(state, replace(good, certificate=certificate), 3) is Reason.BAD_SIGNATURE


def test_only_a_certificate_may_be_so_large() -> None:
    """A transaction of another kind of more than two KiB is refused before its signature is looked at."""
    wide = replace(parameters(2, "layer4.expert1"), depends_on=(SNAPSHOT.root,) * 60)
    large = available(crowd(GENESIS), SNAPSHOT)
    larger = replace(large, certificate=replace(large.certificate, signatures=large.certificate.signatures * 2))
    for payload, padding in ((wide, 0), (larger, 0), (large, TRANSACTION_BYTES_MAX)):
        data = encode(sign_transaction(KEYS[2], CHAIN, 0, 10_000, payload)) + bytes(padding)
        assert len(data) > PLAIN_TRANSACTION_BYTES_MAX
        with pytest.raises(Rejected) as caught:
            check_transaction(data, CHAIN, no_crypto)
        assert caught.value.reason is Reason.TOO_LARGE
    with pytest.raises(Rejected) as caught:
        check_transaction(b"\xc1" * (PLAIN_TRANSACTION_BYTES_MAX + 1), CHAIN, no_crypto)
    assert caught.value.reason is Reason.MALFORMED


def no_crypto(public: bytes, message: bytes, signature: bytes) -> bool:
    raise AssertionError("a signature was checked")


def test_certificates_take_a_part_of_a_body() -> None:
    """Their signatures are the dearest bytes: a proposer takes fewer, and a block of more is wrong. Payments still fit."""
    state = crowd(two_versions_later())
    pool = Mempool(CHAIN, RULE)
    certificates = []
    for index in range(12):
        kept = available(state, replace(SNAPSHOT, root=blob_digest(bytes([index]))))
        certificates.append(sign(2, index, kept, 20_000 - index))
        pool.add(certificates[-1], state)
    pool.add(sign(3, 0, parameters(3, "layer4.expert1")), state)
    taken = pool.take(BODY_BYTES_MAX, state)
    counts = [isinstance(each.plain.payload, AvailabilityRecord) for each in taken]
    size = certificates[0].size_bytes
    assert (counts.count(True), counts.count(False)) == (AVAILABILITY_BYTES_PER_BODY_MAX // size, 1)
    after, receipts = apply_block(state, (), taken, context(3))
    assert [receipt.refusal for receipt in receipts] == [None] * len(taken)
    assert len(list(kept_blobs(after))) == counts.count(True) < KEPT_RELEASED_PER_BLOCK_MAX
    with pytest.raises(Rejected) as caught:
        apply_block(state, (), certificates, context(3))
    assert caught.value.reason is Reason.WRONG_BODY
