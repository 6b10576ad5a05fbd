"""Certificates of availability: what makes one, what breaks one, and why both roots are in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.availability import (
    AvailabilityTally,
    check_availability_certificate,
    check_availability_vote,
)
from protocol.availability import (
    AvailabilityCertificate,
    AvailabilityClaim,
    AvailabilityVote,
    StateCheckpoint,
    TileSnapshot,
    check_claim,
    checkpoint_subject,
    snapshot_subject,
)
from protocol.codec import decode, encode
from protocol.digest import blob_digest
from protocol.erasure import COLD, LIVE, Geometry, ReplicationClass, make_manifest
from protocol.finality import ChainId
from protocol.ids import Epoch, Height, MemberIndex, Signature, TileId, Version
from protocol.keys import verify
from protocol.limits import KIB
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster
from tests.protocol.samples import VOTE_KEYS, roster

MANIFEST = make_manifest(LIVE, 5, (blob_digest(b"tile"),))
CHAIN = ChainId(b"nock", 0)
ROSTER = roster()
SUBJECT = snapshot_subject(TileId("trunk/0"), 7, blob_digest(b"weights"))
CLAIM = AvailabilityClaim(
    MANIFEST.root, blob_digest(b"tables"), LIVE, SUBJECT, Epoch(0), ReplicationClass.HIGH.kept_until(0)
)


def vote(signer: int, claim: AvailabilityClaim = CLAIM, chain: ChainId = CHAIN) -> AvailabilityVote:
    return AvailabilityVote(claim, MemberIndex(signer), VOTE_KEYS[signer].sign(claim.text(chain)))


def certificate(*signers: int, claim: AvailabilityClaim = CLAIM) -> AvailabilityCertificate:
    bitmap = sum(1 << signer for signer in signers)
    return AvailabilityCertificate(claim, bytes([bitmap]), tuple(vote(signer, claim).signature for signer in signers))


def refused(reason: Reason, act: Callable[[], object]) -> None:
    with pytest.raises(Rejected) as caught:
        act()
    assert caught.value.reason is reason


def no_crypto(public: bytes, message: bytes, signature: bytes) -> bool:
    raise AssertionError("a signature was checked")


@given(st.lists(st.integers(0, 5), min_size=4, max_size=4).filter(any), st.permutations(range(4)))
def test_a_quorum_is_strictly_more_than_two_thirds_of_the_weight(weights: list[int], order: list[int]) -> None:
    """The vote that makes it brings the certificate, once; the votes after it widen it; all of them pass the check."""
    weighted = roster(*weights)
    tally, weight, made = AvailabilityTally(CLAIM, weighted, CHAIN), 0, 0
    for count, signer in enumerate(order, 1):
        before, weight = weight, weight + weights[signer]
        found = tally.add(vote(signer))
        assert tally.add(vote(signer)) is None
        assert tally.missing == sorted(set(range(4)) - {*order[:count]})
        is_quorum = 3 * weight > 2 * sum(weights)
        assert tally.is_quorum is is_quorum
        assert (found is not None) is (is_quorum and 3 * before <= 2 * sum(weights))
        made += found is not None
        now = tally.certificate()
        plain = certificate(*sorted(order[:count]))
        if now is None:
            refused(Reason.NO_QUORUM, lambda plain=plain: check_availability_certificate(plain, weighted, CHAIN))
        else:
            assert now.plain == plain
            assert check_availability_certificate(plain, weighted, CHAIN) == now
            assert now.claim == CLAIM
    assert made == 1


def test_two_thirds_are_not_enough() -> None:
    """Of three equal members two, of four three: exactly two thirds might leave exactly a third that is honest."""
    three = roster(1, 1, 1, 0)
    refused(Reason.NO_QUORUM, lambda: check_availability_certificate(certificate(0, 1, 3), three, CHAIN))
    check_availability_certificate(certificate(0, 1, 2), three, CHAIN)
    refused(Reason.NO_QUORUM, lambda: check_availability_certificate(certificate(0, 1), ROSTER, CHAIN))


def test_a_wounded_certificate_is_refused_before_its_signatures_are_checked() -> None:
    """Bitmap and signatures of another number or length, a member that is not there, another epoch."""
    good = certificate(0, 1, 2)
    later = replace(CLAIM, epoch=Epoch(1))
    for reason, wounded in (
        (Reason.MALFORMED, replace(good, signers=b"")),
        (Reason.MALFORMED, replace(good, signers=good.signers + b"\x00")),
        (Reason.MALFORMED, replace(good, signers=b"\x17")),
        (Reason.MALFORMED, replace(good, signatures=good.signatures[:2])),
        (Reason.MALFORMED, replace(good, signatures=good.signatures * 2)),
        (Reason.NO_QUORUM, AvailabilityCertificate(CLAIM, b"\x00", ())),
        (Reason.WRONG_EPOCH, certificate(0, 1, 2, claim=later)),
    ):
        refused(reason, lambda wounded=wounded: check_availability_certificate(wounded, ROSTER, CHAIN, no_crypto))


def test_every_signature_is_of_its_own_member_over_all_of_the_claim() -> None:
    """Another blob, subject, other tables, another time, epoch, geometry, chain, fork: the signatures do not hold for it."""
    good = certificate(0, 1, 2)
    swapped = replace(good, signatures=good.signatures[::-1])
    others = (
        replace(CLAIM, blob=CLAIM.tables),
        replace(CLAIM, tables=CLAIM.blob),
        replace(CLAIM, subject=CLAIM.blob),
        replace(CLAIM, kept_until=None),
        replace(CLAIM, kept_until=Epoch(1)),
        replace(CLAIM, geometry=Geometry(63, 193, 64 * KIB)),
    )
    assert len({claim.text(CHAIN) for claim in (CLAIM, replace(CLAIM, epoch=Epoch(1)), *others)}) == 8
    for wounded in (swapped, *(replace(good, claim=claim) for claim in others)):
        refused(Reason.BAD_SIGNATURE, lambda wounded=wounded: check_availability_certificate(wounded, ROSTER, CHAIN))
    for chain in (ChainId(b"kcon", 0), ChainId(b"nock", 1)):
        refused(Reason.BAD_SIGNATURE, lambda chain=chain: check_availability_certificate(good, ROSTER, chain))


def test_a_third_cannot_make_a_certificate_of_a_geometry_that_it_could_make_unreadable() -> None:
    """History's code promises nothing against a third, and 85 of 256 nothing about tables; nobody's signature is asked."""
    for geometry in (COLD, Geometry(64, 127, KIB), Geometry(85, 171, KIB), Geometry(128, 128, KIB)):
        claim = replace(CLAIM, geometry=geometry)
        refused(Reason.NOT_RECOVERABLE, lambda claim=claim: check_claim(claim))
        wounded = replace(certificate(0, 1, 2), claim=claim)
        refused(
            Reason.NOT_RECOVERABLE,
            lambda wounded=wounded: check_availability_certificate(wounded, ROSTER, CHAIN, no_crypto),
        )
        refused(Reason.NOT_RECOVERABLE, lambda claim=claim: AvailabilityTally(claim, ROSTER, CHAIN))
    assert check_claim(replace(CLAIM, geometry=Geometry(64, 128, KIB)))


def test_a_subject_has_one_name() -> None:
    """By its fields or as a value; another tile, version, root, height or kind has another."""
    root = blob_digest(b"weights")
    snapshot = TileSnapshot(TileId("trunk/0"), Version(7), root)
    checkpoint = StateCheckpoint(Height(7), root)
    assert snapshot.digest() == SUBJECT
    assert checkpoint.digest() == checkpoint_subject(7, root)
    others = (
        replace(snapshot, tile=TileId("trunk/1")),
        replace(snapshot, version=Version(8)),
        replace(snapshot, root=CLAIM.blob),
        replace(checkpoint, height=Height(8)),
        replace(checkpoint, state_root=CLAIM.blob),
    )
    assert len({each.digest() for each in (snapshot, checkpoint, *others)}) == 7


def test_a_claim_is_about_the_blob_that_is_stored() -> None:
    """Who signs has the manifest: the geometry of the claim is the blob's, and the time does not end before it begins."""
    assert check_claim(CLAIM, MANIFEST) == CLAIM
    for claim in (
        replace(CLAIM, blob=CLAIM.tables),
        replace(CLAIM, geometry=Geometry(64, 192, 32 * KIB)),
        replace(CLAIM, geometry=Geometry(64, 193, KIB)),
        replace(CLAIM, epoch=Epoch(9), kept_until=Epoch(8)),
    ):
        refused(Reason.MALFORMED, lambda claim=claim: check_claim(claim, MANIFEST))
    assert check_claim(replace(CLAIM, epoch=Epoch(8), kept_until=Epoch(8)))
    assert check_claim(replace(CLAIM, kept_until=None))


def test_a_wounded_vote_counts_for_nothing() -> None:
    """Of a stranger, for another claim, in another epoch, with another's signature."""
    tally = AvailabilityTally(CLAIM, ROSTER, CHAIN)
    good = vote(2)
    other = replace(CLAIM, tables=CLAIM.blob)
    for reason, wounded in (
        (Reason.NOT_A_MEMBER, replace(good, signer=MemberIndex(4))),
        (Reason.WRONG_DIGEST, vote(2, other)),
        (Reason.BAD_SIGNATURE, replace(good, signer=MemberIndex(1))),
        (Reason.BAD_SIGNATURE, replace(good, signature=Signature(bytes(64)))),
        (Reason.BAD_SIGNATURE, vote(2, chain=ChainId(b"nock", 1))),
    ):
        refused(reason, lambda wounded=wounded: tally.add(wounded))
    later = vote(2, replace(CLAIM, epoch=Epoch(1)))
    refused(Reason.WRONG_EPOCH, lambda: check_availability_vote(later, ROSTER, CHAIN))
    assert tally.missing == [0, 1, 2, 3]
    assert tally.add(good) is None
    assert tally.missing == [0, 1, 3]


def test_votes_for_two_tables_are_no_quorum_together() -> None:
    """Whoever shows each holder another table gets votes that do not add up."""
    tables = [blob_digest(bytes([index])) for index in range(4)]
    claims = [replace(CLAIM, tables=each) for each in tables]
    tallies = [AvailabilityTally(claim, ROSTER, CHAIN) for claim in claims]
    for signer, (claim, tally) in enumerate(zip(claims, tallies, strict=True)):
        assert tally.add(vote(signer, claim)) is None
        mixed = AvailabilityCertificate(
            claim, b"\x0f", tuple(vote(at, each).signature for at, each in enumerate(claims))
        )
        refused(Reason.BAD_SIGNATURE, lambda mixed=mixed: check_availability_certificate(mixed, ROSTER, CHAIN))


def test_a_certificate_of_a_hundred_members_fits_a_body_many_times() -> None:
    """6.8 kB, of 512 that a body holds."""
    members = Roster(Epoch(0), ROSTER.members * 25, (1,) * 100, ROSTER.beacon)
    full = AvailabilityCertificate(CLAIM, b"\xff" * 12 + b"\x0f", (Signature(bytes(64)),) * 100)
    data = encode(full)
    assert decode(AvailabilityCertificate, data, limit_bytes=8 * KIB) == full
    assert 6_600 < len(data) < 6_900
    refused(Reason.BAD_SIGNATURE, lambda: check_availability_certificate(full, members, CHAIN, verify))
