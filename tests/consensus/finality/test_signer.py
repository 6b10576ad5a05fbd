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
from protocol.rejection import Reason, Rejected
from simnet.finality.genesis import CHAIN, QuickKey, make_keys, make_roster

KEYS = make_keys(4)
ROSTER = make_roster(KEYS)
B1, B2 = ExecutedBlock(Digest(b"1" * 32)), ExecutedBlock(Digest(b"2" * 32))
V5 = View(5)


def new_signer(records=(), journal=JournalState.CLEAN, chain=CHAIN):
    return VoteSigner(KEYS[0], chain, ROSTER, records, journal)


def notarization(view: int, block: Digest, kind: VoteKind = VoteKind.NOTARIZE) -> CheckedCertificate:
    return CheckedCertificate(Certificate(kind, Epoch(0), View(view), block, b"\x0f", ()))


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


def test_key_outside_the_roster_is_refused():
    """Who is not a member has no signer."""
    with pytest.raises(Rejected) as caught:
        VoteSigner(QuickKey(b"x" * 32), CHAIN, ROSTER)
    assert caught.value.reason is Reason.NOT_A_MEMBER


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
    st.tuples(st.sampled_from(["notarize", "nullify", "finalize", "restart", "torn", "lost last"]),
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
    for action, number, block in steps:
        view = View(number)
        result = None
        if action == "notarize":
            result = signer.notarize(view, block)
        elif action == "nullify":
            result = signer.nullify(view)
        elif action == "finalize":
            result = signer.finalize(notarization(view, block), block)
        else:
            signer = new_signer(journal, JournalState.TORN if action == "torn" else JournalState.CLEAN)
        if result is not None:
            journal.append(result.record)
            sent.append(result.vote)
        if action == "lost last" and view % 2:
            signer.nullify(View(4))  # signed, never persisted: must not have been sent either
            signer = new_signer(journal)
    pairs = [(a, b) for index, a in enumerate(sent) for b in sent[index + 1 :]]
    assert not [pair for pair in pairs if find_contradiction(*pair)]
    assert all((vote.kind is VoteKind.NULLIFY) == (vote.block == NO_BLOCK) for vote in sent)
