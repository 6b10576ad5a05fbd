"""Votes become certificates or evidence; hostile certificates become rejections before any signature is checked."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.finality import tally as tally_module
from consensus.finality.events import EvidenceKind
from consensus.finality.tally import (
    Outcome,
    Tally,
    build_certificate,
    check_certificate,
    check_vote,
    find_contradiction,
    signers_of,
    votes_of,
)
from protocol.finality import NO_BLOCK, ChainId, Vote, VoteKind, vote_text
from protocol.ids import Digest, Epoch, MemberIndex, View
from protocol.keys import KeyPair, verify
from protocol.rejection import Reason, Rejected
from simnet.finality.genesis import CHAIN, make_keys, make_roster, quick_verify

B1, B2 = Digest(b"1" * 32), Digest(b"2" * 32)
KEYS = make_keys(10)
ROSTERS = {count: make_roster(KEYS[:count]) for count in (1, 2, 3, 4, 7, 10)}
NOTARIZE, NULLIFY, FINALIZE = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE


def vote(signer: int, kind: VoteKind = NOTARIZE, block: Digest = B1, view: int = 1, keys=KEYS) -> Vote:
    block = NO_BLOCK if kind is NULLIFY else block
    text = vote_text(CHAIN, 0, view, kind, block)
    return Vote(Epoch(0), View(view), kind, block, MemberIndex(signer), keys[signer].sign(text))


class Counting:
    """A verifier that counts, and may be forbidden to work."""

    def __init__(self, forbidden: bool = False) -> None:
        self.calls = 0
        self.forbidden = forbidden

    def __call__(self, public: bytes, message: bytes, signature: bytes) -> bool:
        assert not self.forbidden, "crypto was reached"
        self.calls += 1
        return quick_verify(public, message, signature)


def rejected(reason: Reason):
    return pytest.raises(Rejected, match=reason.sentence[:20])


@pytest.mark.parametrize(("members", "quorum"), [(1, 1), (2, 2), (3, 3), (4, 3), (7, 5), (10, 7)])
def test_quorum_is_strictly_more_than_two_thirds(members, quorum):
    """The vote that passes two thirds makes the certificate; exactly two thirds (2 of 3) does not; later votes are new."""
    tally = Tally(ROSTERS[members], CHAIN, quick_verify)
    outcomes = [tally.add(vote(index)).outcome for index in range(members)]
    assert outcomes.index(Outcome.QUORUM) == quorum - 1
    assert outcomes.count(Outcome.QUORUM) == 1
    assert set(outcomes) <= {Outcome.NEW, Outcome.QUORUM}


def test_weights_decide_not_heads():
    """One member with most of the weight is a quorum; all the others together are none."""
    roster = make_roster(KEYS[:4], weights=(7, 1, 1, 1))
    tally = Tally(roster, CHAIN, quick_verify)
    assert [tally.add(vote(index)).outcome for index in (1, 2, 3)] == [Outcome.NEW] * 3
    added = tally.add(vote(0))
    assert added.outcome is Outcome.QUORUM
    assert added.certificate is not None
    assert signers_of(added.certificate.plain) == [0, 1, 2, 3]


def test_votes_for_different_blocks_and_kinds_do_not_add_up():
    """Two and two of four is no quorum."""
    tally = Tally(ROSTERS[4], CHAIN, quick_verify)
    votes = [vote(0), vote(1), vote(2, block=B2), vote(3, block=B2), vote(0, NULLIFY), vote(1, NULLIFY)]
    assert {tally.add(each).outcome for each in votes} == {Outcome.NEW}


def test_repeated_vote_costs_no_crypto():
    """A vote that is held is a duplicate before its signature is looked at."""
    verifier = Counting()
    tally = Tally(ROSTERS[4], CHAIN, verifier)
    assert tally.add(vote(1)).outcome is Outcome.NEW
    assert tally.add(vote(1)).outcome is Outcome.DUPLICATE
    assert verifier.calls == 1


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ((NOTARIZE, B1), (NOTARIZE, B2), EvidenceKind.E1),
        ((FINALIZE, B1), (FINALIZE, B2), EvidenceKind.E2),
        ((NULLIFY, B1), (FINALIZE, B1), EvidenceKind.E3),
        ((FINALIZE, B1), (NULLIFY, B1), EvidenceKind.E3),
        ((NOTARIZE, B1), (FINALIZE, B2), EvidenceKind.E4),
        ((FINALIZE, B2), (NOTARIZE, B1), EvidenceKind.E4),
    ],
)
def test_contradictions_are_evidence(first, second, kind):
    """A second vote that contradicts the first is evidence, once, and counts for nothing."""
    tally = Tally(ROSTERS[4], CHAIN, quick_verify)
    assert tally.add(vote(1, *first)).outcome is Outcome.NEW
    added = tally.add(vote(1, *second))
    assert added.outcome is Outcome.EQUIVOCATION
    assert added.evidence is not None
    assert added.evidence.kind is kind
    assert {added.evidence.first, added.evidence.second} == {vote(1, *first), vote(1, *second)}
    assert tally.add(vote(1, *second)).outcome is Outcome.DUPLICATE
    assert tally.vote_count == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [((NOTARIZE, B1), (NULLIFY, B1)), ((NOTARIZE, B1), (FINALIZE, B1)), ((NOTARIZE, B1), (NOTARIZE, B1))],
)
def test_what_honest_members_do_is_no_evidence(first, second):
    """To notarize and then finalize the same block, or give the view up, contradicts nothing."""
    assert find_contradiction(vote(1, *first), vote(1, *second)) is None
    assert find_contradiction(vote(1), vote(2, block=B2)) is None
    assert find_contradiction(vote(1), vote(1, block=B2, view=2)) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epoch": Epoch(1)}, Reason.WRONG_EPOCH),
        ({"signer": MemberIndex(4)}, Reason.NOT_A_MEMBER),
        ({"block": NO_BLOCK}, Reason.MALFORMED),
        ({"kind": NULLIFY}, Reason.MALFORMED),
    ],
)
def test_bad_votes_are_dropped_before_crypto(change, reason):
    """A vote of another epoch, of a stranger, or without sense never reaches the verifier."""
    with rejected(reason):
        Tally(ROSTERS[4], CHAIN, Counting(forbidden=True)).add(replace(vote(1), **change))


def test_forged_vote_is_rejected():
    """A signature by another member, for another view or on another fork does not pass."""
    for forged, chain in [
        (replace(vote(1), signer=MemberIndex(2)), CHAIN),
        (replace(vote(1), view=View(2)), CHAIN),
        (vote(1), ChainId(b"test", 1)),
    ]:
        with rejected(Reason.BAD_SIGNATURE):
            check_vote(forged, ROSTERS[4], chain, quick_verify)


def certificate(*signers: int, count: int = 4):
    return build_certificate([vote(signer) for signer in signers], ROSTERS[count])


def test_certificate_round_trip_with_real_keys():
    """A certificate built from votes checks with real signatures, whatever order they came in."""
    keys = make_keys(4, KeyPair)
    roster = make_roster(keys)
    made = build_certificate([vote(signer, keys=keys) for signer in (3, 0, 2)], roster)
    assert check_certificate(made, roster, CHAIN, verify).plain == made
    assert [each.signer for each in votes_of(made)] == [0, 2, 3]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epoch": Epoch(1)}, Reason.WRONG_EPOCH),
        ({"signers": b""}, Reason.MALFORMED),
        ({"signers": b"\x07\x00"}, Reason.MALFORMED),
        ({"signers": b"\x17"}, Reason.MALFORMED),
        ({"signers": b"\x0f"}, Reason.MALFORMED),
        ({"signers": b"\x03"}, Reason.MALFORMED),
    ],
)
def test_certificate_of_bad_form_is_refused_before_crypto(change, reason):
    """The bitmap has one form: the roster's length, no stray bits, a bit for each signature."""
    with rejected(reason):
        check_certificate(replace(certificate(0, 1, 2), **change), ROSTERS[4], CHAIN, Counting(forbidden=True))


@pytest.mark.parametrize(("signers", "count"), [((0, 1), 4), ((0, 1), 3), ((0, 1, 2, 3), 7)])
def test_certificate_without_quorum_is_refused_before_crypto(signers, count):
    """Two of four, two of three, four of seven."""
    made = certificate(*signers, count=count)
    with rejected(Reason.NO_QUORUM):
        check_certificate(made, ROSTERS[count], CHAIN, Counting(forbidden=True))


def test_certificate_with_one_bad_signature_is_refused():
    """Every signature counts: swapping two makes the certificate worthless."""
    made = certificate(0, 1, 2)
    first, second, third = made.signatures
    with rejected(Reason.BAD_SIGNATURE):
        check_certificate(replace(made, signatures=(second, first, third)), ROSTERS[4], CHAIN, quick_verify)


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 9)), st.binary(max_size=3), st.integers(0, 10))
def test_hostile_bitmaps_never_crash(signers, bitmap, signatures):
    """Any bitmap with any number of signatures is a checked certificate or a rejection."""
    made = certificate(*(signers or {0}), count=10)
    hostile = replace(made, signers=bitmap, signatures=(made.signatures * 10)[:signatures])
    with contextlib.suppress(Rejected):
        assert check_certificate(hostile, ROSTERS[10], CHAIN, quick_verify).plain == made


def test_certificates_are_verified_once():
    """A repeated certificate, and one made of votes that were counted, cost no crypto."""
    verifier = Counting()
    tally = Tally(ROSTERS[4], CHAIN, verifier)
    made = certificate(0, 1, 2)
    tally.check(made)
    assert verifier.calls == 3
    tally.check(made)
    assert verifier.calls == 3
    for signer in (1, 2, 3):
        tally.add(vote(signer, view=2))
    other = build_certificate([vote(signer, view=2) for signer in (1, 2, 3)], ROSTERS[4])
    tally.check(other)
    assert verifier.calls == 6


def test_memory_of_certificates_is_bounded():
    """The least recently seen certificate is forgotten, and verified again if it comes back."""
    verifier = Counting()
    tally = Tally(ROSTERS[1], CHAIN, verifier)
    made = [build_certificate([vote(0, view=view)], ROSTERS[1]) for view in range(1, 600)]
    for each in made:
        tally.check(each)
    calls = verifier.calls
    tally.check(made[-tally_module.CERTIFICATES_REMEMBERED_MAX])
    assert verifier.calls == calls
    tally.check(made[0])
    assert verifier.calls == calls + 1


def test_absorbed_certificate_exposes_equivocators():
    """Who signed another block than the certificate's is exposed although the vote came alone."""
    tally = Tally(ROSTERS[4], CHAIN, quick_verify)
    tally.add(vote(3, block=B2))
    found = tally.absorb(tally.check(certificate(1, 2, 3)))
    assert [(each.kind, each.first.signer) for each in found] == [(EvidenceKind.E1, 3)]
    assert tally.is_certified(certificate(1, 2, 3))


def test_closed_views_are_forgotten():
    """Only views within the range are kept."""
    tally = Tally(ROSTERS[4], CHAIN, quick_verify)
    for view in range(1, 9):
        tally.add(vote(0, view=view))
    tally.keep(View(3), View(6))
    assert tally.vote_count == 4
