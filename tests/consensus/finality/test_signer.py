"""The vote signer: what was signed forbids what may be signed, also after a restart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.finality.signer import ExecutedBlock, JournalState, SignedVote, VoteSigner
from consensus.finality.tally import CheckedCertificate, find_contradiction
from protocol.finality import NO_BLOCK, Certificate, ChainId, Vote, VoteKind, vote_text
from protocol.ids import Digest, Epoch, View
from protocol.keys import KeyPair, verify
from protocol.rejection import InvariantBroken, Rejected
from protocol.roster import Roster
from simnet.finality.genesis import CHAIN, make_keys, make_roster

KEYS = make_keys(4)
ROSTER = make_roster(KEYS)
B1, B2 = ExecutedBlock(Digest(b"1" * 32)), ExecutedBlock(Digest(b"2" * 32))
V5 = View(5)


def new_signer(records=(), journal=JournalState.CLEAN, chain=CHAIN):
    return VoteSigner(KEYS[0], chain, ROSTER, records, journal)


def roster_of(epoch: int, *members: int) -> Roster:
    return make_roster(KEYS, epoch=epoch, actors=members)


def notarization(view: int, block: Digest, kind: VoteKind = VoteKind.NOTARIZE, epoch: int = 0) -> CheckedCertificate:
    return CheckedCertificate(Certificate(kind, Epoch(epoch), View(view), block, b"\x0f", ()))


def signed(result: SignedVote | None) -> SignedVote:
    assert result is not None
    return result


def test_signature_is_over_the_vote_text():
    """A vote verifies with the member's vote key, and names the member by its place in the roster."""
    keys = make_keys(4, KeyPair)
    roster = make_roster(keys)
    vote = signed(VoteSigner(keys[2], CHAIN, roster).notarize(V5, B1)).vote
    assert vote.signer == 2
    assert verify(keys[2].public, vote_text(CHAIN, 0, 5, VoteKind.NOTARIZE, B1), vote.signature)


def test_key_outside_the_roster_signs_nothing():
    """Who is not a member is silent until an epoch of which it is one."""
    signer = VoteSigner(KEYS[3], CHAIN, roster_of(0, 0, 1, 2))
    assert (signer.member, signer.refusal) == (None, None)
    assert signer.notarize(V5, B1) is None
    signer.open_epoch(roster_of(1, 1, 3))
    assert signer.member == 1
    vote = signed(signer.notarize(V5, B1)).vote
    assert (vote.epoch, vote.signer) == (1, 1)


def test_s1_one_notarize_a_view():
    """Neither another block nor the same one is signed twice in a view."""
    signer = new_signer()
    assert signer.notarize(V5, B1)
    assert signer.notarize(V5, B2) is None
    assert signer.notarize(V5, B1) is None
    assert signer.notarize(View(6), B2)


def test_s2_never_nullify_and_finalize():
    """NULLIFY and FINALIZE exclude each other, whichever comes first."""
    signer = new_signer()
    assert signer.nullify(V5)
    assert signer.finalize(notarization(5, B1), B1) is None
    assert signer.finalize(notarization(6, B1), B1)
    assert signer.nullify(View(6)) is None


def test_s3_finalize_needs_the_notarization_of_this_very_block():
    """FINALIZE wants a notarization of the block, and no NOTARIZE of another one."""
    signer = new_signer()
    assert signer.finalize(notarization(5, B2), B1) is None
    assert signer.finalize(notarization(5, B1, VoteKind.FINALIZE), B1) is None
    assert signer.notarize(V5, B2)
    assert signer.finalize(notarization(5, B1), B1) is None
    assert signer.finalize(notarization(5, B2), B2)


def test_s4_no_notarize_after_nullify():
    """A view that was given up is not voted in again; one that was voted in may be given up."""
    signer = new_signer()
    assert signer.nullify(V5)
    assert signer.notarize(V5, B1) is None
    assert signer.notarize(View(6), B1)
    assert signer.nullify(View(6))


def test_restart_remembers():
    """A signer made from the records of another refuses what that one would refuse, and says again what it said."""
    first = new_signer()
    records = [signed(first.notarize(V5, B1)).record, signed(first.nullify(View(6))).record]
    second = new_signer(records)
    assert second.votes() == first.votes()
    assert second.notarize(V5, B2) is None
    assert second.finalize(notarization(6, B1), B1) is None
    assert second.finalize(notarization(5, B1), B1)


def test_caution_survives_the_next_start():
    """The torn record is cut off, so that the journal looks whole at the next start: it tells of the caution by then."""
    caution = new_signer(journal=JournalState.TORN).only_nullify_through(V5)
    for records in ((caution,), new_signer([caution]).compacted()):
        again = new_signer(records)
        assert again.notarize(V5, B1) is None
        assert again.nullify(V5)
        assert again.notarize(View(6), B1)
    later = VoteSigner(KEYS[0], CHAIN, roster_of(1, 0, 1), [caution])
    assert later.notarize(View(1), B1), "views of another epoch are others"


def test_torn_journal_may_only_nullify():
    """After a torn record the view after the highest certificate is given up, never voted in: it ends for the others."""
    signer = new_signer(journal=JournalState.TORN)
    signer.only_nullify_through(V5)
    assert signer.notarize(V5, B1) is None
    assert signer.finalize(notarization(4, B1), B1) is None
    assert signer.nullify(V5)
    assert signer.notarize(View(6), B1)


@pytest.mark.parametrize("state", [JournalState.MISSING, JournalState.DAMAGED])
def test_unknown_past_refuses_to_vote(state):
    """A missing or damaged journal stops voting, with a reason for people."""
    signer = new_signer(journal=state)
    assert signer.refusal
    assert signer.notarize(V5, B1) is None
    assert signer.nullify(V5) is None
    assert signer.finalize(notarization(5, B1), B1) is None


def test_fresh_directory_votes():
    """No records and a clean journal is a new member, not one that forgot."""
    signer = new_signer()
    assert signer.refusal is None
    assert signer.notarize(View(1), B1)


def test_finalized_views_are_closed():
    """Nothing is signed at or below the floor, and what was signed there is forgotten."""
    signer = new_signer()
    signer.notarize(V5, B1)
    signer.abstain_through(V5)
    assert signer.votes() == []
    assert signer.nullify(V5) is None
    assert signer.nullify(View(6))


def test_compacted_journal_has_the_same_memory():
    """The short journal keeps the floor and every vote above it."""
    signer = new_signer()
    for view in range(1, 9):
        signer.notarize(View(view), B1)
    signer.abstain_through(V5)
    again = new_signer(signer.compacted())
    assert again.votes() == signer.votes()
    assert again.nullify(V5) is None
    assert again.notarize(View(7), B2) is None


# -- epochs -----------------------------------------------------------------------------------------------------------


def test_each_epoch_has_views_of_its_own():
    """What was said in a view of one epoch forbids nothing in the same view of the next."""
    signer = new_signer()
    signer.nullify(V5)
    signer.abstain_through(View(9))
    signer.open_epoch(roster_of(1, 0, 1))
    assert signer.votes() == []
    assert signer.notarize(V5, B1)
    assert signer.notarize(V5, B2) is None


def test_an_epoch_is_never_opened_again():
    """Not the one that is open, and none before it."""
    signer = new_signer()
    signer.open_epoch(roster_of(2, 0, 1))
    for epoch in (0, 1, 2):
        with pytest.raises(InvariantBroken):
            signer.open_epoch(roster_of(epoch, 0, 1))


def test_certificates_of_another_epoch_prove_nothing():
    """FINALIZE wants the notarization of this epoch's view, not of another epoch's with the same number."""
    signer = new_signer()
    signer.open_epoch(roster_of(1, 0, 1))
    assert signer.finalize(notarization(5, B1, epoch=0), B1) is None
    assert signer.finalize(notarization(5, B1, epoch=1), B1)


@pytest.mark.parametrize("compact", [False, True])
def test_restart_in_a_later_epoch_remembers_that_epoch_alone(compact):
    """Votes of the epoch that is open bind after a restart, whatever records of earlier ones come before them."""
    signer = new_signer()
    records = [signed(signer.notarize(V5, B1)).record, signed(signer.nullify(View(900))).record]
    signer.open_epoch(roster_of(1, 0, 1))
    signer.abstain_through(View(2))
    records.append(signed(signer.nullify(V5)).record)
    again = VoteSigner(KEYS[0], CHAIN, roster_of(1, 0, 1), signer.compacted() if compact else records)
    assert [(vote.epoch, vote.view, vote.kind) for vote in again.votes()] == [(1, 5, VoteKind.NULLIFY)]
    assert again.notarize(V5, B1) is None
    assert again.nullify(View(2)) is None
    assert again.notarize(View(6), B1)


def test_a_journal_ahead_of_the_ledger_forbids_every_vote():
    """With records of a later epoch than the ledger's nothing is signed until that epoch, in which they bind."""
    signer = new_signer()
    signer.open_epoch(roster_of(2, 0, 1))
    record = signed(signer.notarize(V5, B1)).record
    again = new_signer([record])
    assert again.refusal is not None
    assert again.votes() == []
    assert again.nullify(View(6)) is None
    again.open_epoch(roster_of(2, 0, 1))
    assert again.refusal is None
    assert again.notarize(V5, B2) is None
    assert again.votes() == signer.votes()


def test_a_torn_record_is_of_the_epoch_that_the_ledger_is_in():
    """The caution that it asks for ends with the epoch."""
    signer = new_signer(journal=JournalState.TORN)
    signer.only_nullify_through(V5)
    signer.open_epoch(roster_of(1, 0, 1))
    assert signer.notarize(View(1), B1)


@pytest.mark.parametrize("state", [JournalState.MISSING, JournalState.DAMAGED])
def test_a_journal_begun_anew_refuses_for_two_epochs(state):
    """Epochs e and e + 1 pass without a vote; from e + 2 on it votes, in one process or after restarts (S6)."""
    lost = VoteSigner(KEYS[0], CHAIN, roster_of(3, 0, 1), (), state)
    lost.open_epoch(roster_of(5, 0, 1))
    assert lost.nullify(V5) is None, "not with the journal that was lost"
    records = VoteSigner(KEYS[0], CHAIN, roster_of(3, 0, 1), (), state).compacted()
    for first in (3, 4, 5):
        signer = VoteSigner(KEYS[0], CHAIN, roster_of(first, 0, 1), records)
        for epoch in range(first, 6):
            if epoch > first:
                signer.open_epoch(roster_of(epoch, 0, 1))
            assert (signer.nullify(V5) is not None) is (epoch == 5)
            assert (signer.refusal is None) is (epoch == 5)


def test_another_fork_has_another_past():
    """After an emergency fork the votes of the old chain bind no more: their signatures cannot be replayed."""
    record = signed(new_signer().notarize(V5, B1)).record
    assert new_signer([record], chain=ChainId(b"test", 1)).notarize(V5, B2)


@pytest.mark.parametrize("record", [b"", b"junk", b"\x93\x92\xc4\x04test\x00\x00"])
def test_bad_record_is_rejected(record):
    """Bytes that are not a record are a damaged journal that the shell failed to notice."""
    with pytest.raises(Rejected):
        new_signer([record])


steps = st.lists(
    st.tuples(st.sampled_from(["notarize", "nullify", "finalize", "restart", "torn", "lost last", "epoch", "compact"]),
              st.integers(1, 4), st.sampled_from([B1, B2])),
    max_size=30,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(steps)
def test_no_sequence_of_requests_and_restarts_makes_evidence(steps):
    """Whatever is asked, and however often the process dies before it persists or before it sends, no pair contradicts."""
    journal: list[bytes] = []
    sent: list[Vote] = []
    signer = new_signer()
    epoch = 0
    for action, number, block in steps:
        view = View(number)
        result = None
        roster = roster_of(epoch, 0, epoch % 3 + 1)
        if action == "notarize":
            result = signer.notarize(view, block)
        elif action == "nullify":
            result = signer.nullify(view)
        elif action == "finalize":
            result = signer.finalize(notarization(view, block, epoch=epoch), block)
        elif action == "epoch":
            epoch += 1
            signer.open_epoch(roster_of(epoch, 0, epoch % 3 + 1))
        elif action == "compact":
            journal = list(signer.compacted())
        else:
            state = JournalState.TORN if action == "torn" else JournalState.CLEAN
            signer = VoteSigner(KEYS[0], CHAIN, roster, journal, state)
        if result is not None:
            journal.append(result.record)
            sent.append(result.vote)
        if action == "lost last" and view % 2:
            signer.nullify(View(4))  # signed, never persisted: must not have been sent either
            signer = VoteSigner(KEYS[0], CHAIN, roster, journal)
    pairs = [(a, b) for index, a in enumerate(sent) for b in sent[index + 1 :]]
    assert not [pair for pair in pairs if find_contradiction(*pair)]
    assert all((vote.kind is VoteKind.NULLIFY) == (vote.block == NO_BLOCK) for vote in sent)
