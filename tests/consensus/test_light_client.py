"""Light-client proofs: whatever an honest chain gives is accepted, and whatever an adversary makes of it is not."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.light_client import (
    CheckedTip,
    LightClientRule,
    Trust,
    build_light_client_proof,
    check_checkpoint,
    check_entry,
    check_light_client_proof,
)
from consensus.state import ACCOUNTS, genesis_state
from protocol import limits
from protocol.codec import encode
from protocol.digest import Domain, digest
from protocol.finality import NO_BLOCK, ChainId, VoteKind
from protocol.genesis import genesis_roster
from protocol.ids import AccountId, Digest, Epoch, Height
from protocol.light_client import LightBlock, LightClientProof, decode_light_client_proof
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster
from protocol.state_proof import SubChain
from protocol.transactions import MetaVersion, SemVer
from simnet.finality.genesis import QuickKey, make_keys, quick_verify
from tests.consensus.light_chain import (
    BLOCK_MS,
    CHAIN,
    EPOCH_HEIGHTS,
    KEYS,
    RULE,
    TRUSTING_MS,
    LightChain,
    Weights,
    make_roster,
    without_roster,
)
from tests.protocol.samples import genesis
from tests.strategies import wound

NOW_MS = 10**8
ACCOUNT, NOBODY = AccountId(b"a" * 32), AccountId(b"n" * 32)
FORGED = (Reason.WRONG_DIGEST, Reason.TOO_LITTLE_TRUST, Reason.NO_QUORUM, Reason.BAD_SIGNATURE)
FIRST_VERSION = MetaVersion(NO_BLOCK, SemVer(1, 0, 0), 0, digest(Domain.BLOB, b""), 1)
VECTORS = Path(__file__).parents[1] / "vectors" / "protocol"
FOUR = {0: 1, 1: 1, 2: 1, 3: 1}


def check(proof: LightClientProof, trust: Trust, rule: LightClientRule = RULE, now_ms: int = NOW_MS) -> CheckedTip:
    return check_light_client_proof(proof, trust, rule, now_ms, quick_verify)


def proof_of(*blocks: LightBlock) -> LightClientProof:
    return LightClientProof(blocks, None)


def reason_of(proof: LightClientProof, trust: Trust, rule: LightClientRule = RULE, now_ms: int = NOW_MS) -> Reason:
    with pytest.raises(Rejected) as caught:
        check(proof, trust, rule, now_ms)
    return caught.value.reason


def trusting(chain: LightChain, epoch: int) -> Trust:
    """What somebody holds who checked the last block of an epoch."""
    return CheckedTip(chain.header((epoch + 1) * EPOCH_HEIGHTS), chain.roster(epoch)).trust


# -- honest chains -----------------------------------------------------------------------------------------------------

weights = st.dictionaries(st.integers(0, len(KEYS) - 1), st.integers(1, 20), min_size=1, max_size=7)


@st.composite
def chains(draw: st.DrawFn) -> LightChain:
    """Rosters that stay, drift by a member or two, change weights, or are replaced as a whole."""
    epochs = [draw(weights)]
    epochs.append(epochs[0])  # who votes is fixed two epochs ahead, so the founders vote in epoch 1 too
    for _ in range(draw(st.integers(0, 12))):
        before = epochs[-1]
        match draw(st.sampled_from(["stay", "stay", "drift", "weigh", "replace"])):
            case "stay":
                epochs.append(before)
            case "drift":
                kept = dict(list(before.items())[draw(st.integers(0, 1)) :])
                epochs.append({**kept, draw(st.integers(0, len(KEYS) - 1)): draw(st.integers(1, 20))})
            case "weigh":
                epochs.append({member: draw(st.integers(1, 20)) for member in before})
            case _:
                epochs.append(draw(weights))
    return LightChain(epochs)


@given(chains(), st.data())
def test_whatever_the_prover_makes_from_an_honest_chain_verifies(chain: LightChain, data: st.DataObject) -> None:
    """From genesis or any header to any later block, through any changes of members and weights, whoever signed."""
    last = len(chain.epochs) * EPOCH_HEIGHTS
    random = Random(data.draw(st.integers(0, 2**32)))
    start = data.draw(st.integers(0, last - 1))
    trust = (
        chain.trust if start == 0 else CheckedTip(chain.header(start), chain.roster((start - 1) // EPOCH_HEIGHTS)).trust
    )
    target = chain.block(data.draw(st.integers(start + 1, last)), random)
    boundaries = {e: chain.block((e + 1) * EPOCH_HEIGHTS, random, late_views=random.randrange(3)) for e in range(14)}
    proof = build_light_client_proof(trust, target, boundaries.get)
    travelled = decode_light_client_proof(encode(proof))
    assert travelled == proof
    tip = check(travelled, trust)
    assert (tip.header, tip.roster) == (target.header, chain.roster(target.header.epoch))
    assert tip.trust.next_roster == chain.roster(target.header.epoch + 1).digest()


@given(chains(), st.integers(0, 2**32))
def test_a_mutated_byte_is_rejected_or_changes_nothing(chain: LightChain, seed: int) -> None:
    """Every byte of a proof is needed as it is: decoding, a digest, the order or a signature notices."""
    random = Random(seed)
    target = chain.block(len(chain.epochs) * EPOCH_HEIGHTS - 1)
    data = encode(build_light_client_proof(chain.trust, target, chain.boundary))
    honest = check(decode_light_client_proof(data), chain.trust)
    for _ in range(40):
        position = random.randrange(len(data))
        changed = data[:position] + bytes([data[position] ^ random.randrange(1, 256)]) + data[position + 1 :]
        for wounded in (changed, wound(random, data)):
            try:
                tip = check(decode_light_client_proof(wounded), chain.trust)
            except Rejected:
                continue
            assert tip == honest


def test_a_roster_that_stays_is_one_step() -> None:
    """A thousand epochs of the same members: the target alone."""
    chain = LightChain([FOUR])
    proof = build_light_client_proof(chain.trust, chain.block(1_000 * EPOCH_HEIGHTS + 3), chain.boundary)
    assert len(proof.blocks) == 1
    assert check(proof, chain.trust).header.epoch == 1_000


def test_a_roster_that_drifts_is_the_fewest_steps() -> None:
    """Each epoch one of six members is replaced: no choice of steps is shorter than the one that the prover finds."""
    chain = LightChain([{epoch + i: 1 for i in range(6)} for epoch in range(40)], make_keys(45, QuickKey))
    trust, target = trusting(chain, 2), chain.block(40 * EPOCH_HEIGHTS)
    proof = build_light_client_proof(trust, target, chain.boundary)
    assert check(proof, trust).header.height == 40 * EPOCH_HEIGHTS
    reached, steps = {2}, 0
    while 39 not in reached:
        pairs = [(one, epoch) for one in sorted(reached) for epoch in range(one + 1, 40)]
        reached |= {epoch for one, epoch in pairs if epoch in reached or leads(chain, one, epoch)}
        steps += 1
    assert len(proof.blocks) == steps < 15


def leads(chain: LightChain, one: int, other: int) -> bool:
    """Whether a step from the end of one epoch to that of another is accepted."""
    try:
        check(proof_of(chain.boundary(other)), trusting(chain, one))
    except Rejected:
        return False
    return True


def test_a_roster_that_is_replaced_each_epoch_is_proved_epoch_by_epoch() -> None:
    """Nobody signs for two epochs: each step rests on the digest that the header before it names."""
    chain = LightChain([{0: 1}, {0: 1}, *({1 + epoch % 15: 1} for epoch in range(9))])
    proof = build_light_client_proof(chain.trust, chain.block(10 * EPOCH_HEIGHTS), chain.boundary)
    assert [block.header.epoch for block in proof.blocks] == list(range(1, 10))
    check(proof, chain.trust)


def test_a_boundary_block_may_be_final_in_a_later_view() -> None:
    """It is proposed again, unchanged, until a certificate finalizes it; no other block is."""
    chain = LightChain([FOUR])
    check(proof_of(without_roster(chain.block(EPOCH_HEIGHTS, late_views=5))), chain.trust)
    for height, late_views in ((EPOCH_HEIGHTS - 1, 1), (EPOCH_HEIGHTS, -1)):
        block = chain.block(height, late_views=late_views)
        assert reason_of(proof_of(without_roster(block)), chain.trust) is Reason.BAD_STEP


def test_a_way_that_is_too_long_for_a_proof_is_proved_in_parts() -> None:
    """The prover stops at the bound, and goes on from the tip of the part."""
    epochs = limits.LIGHT_CLIENT_BLOCKS_MAX + 3
    keys = [QuickKey(number.to_bytes(32, "big")) for number in range(epochs + 1)]
    chain = LightChain([{0: 1}, {0: 1}, *({1 + epoch: 1} for epoch in range(epochs))], keys)
    trust, target, parts = chain.trust, chain.block((epochs + 1) * EPOCH_HEIGHTS), 0
    while trust.height < target.header.height:
        proof = build_light_client_proof(trust, target, chain.boundary)
        assert len(encode(proof)) <= limits.LIGHT_CLIENT_PROOF_BYTES_MAX
        trust, parts = check(proof, trust).trust, parts + 1
    assert parts == 2


def test_the_largest_steps_stop_at_the_bytes() -> None:
    """A hundred members that all change: a few hundred steps fill a proof, which still fits in its limit."""
    chain = LightChain([FOUR], [*KEYS])
    roster = Roster(Epoch(0), chain.roster(0).members, (2**62,) * 4, digest(Domain.BEACON))
    large = replace(roster, members=roster.members * 25, weights=roster.weights * 25)  # as large as one can be

    def step(epoch: int) -> LightBlock:
        members = replace(large, epoch=Epoch(epoch))
        header = replace(
            chain.header((epoch + 1) * EPOCH_HEIGHTS),
            roster=members.digest(),
            next_roster=replace(members, epoch=Epoch(epoch + 1)).digest(),
        )
        certificate = replace(chain.sign(header, members, range(100)).certificate, signers=b"")  # nobody is trusted
        return LightBlock(header, certificate, members)

    trust = Trust(replace(large, epoch=Epoch(0)), replace(large, epoch=Epoch(1)).digest(), Height(1), 1)
    proof = build_light_client_proof(trust, step(1_000), step)
    assert 250 < len(proof.blocks) < 400
    assert len(encode(proof)) <= limits.LIGHT_CLIENT_PROOF_BYTES_MAX


def test_the_prover_says_what_it_lacks() -> None:
    """Nothing newer; a boundary block that was pruned; genesis whose founders are gone from the next epoch."""
    chain = LightChain([{0: 1}, {0: 1}, {1: 1}, {2: 1}])
    with pytest.raises(Rejected, match="not after") as caught:
        build_light_client_proof(trusting(chain, 0), chain.block(3), chain.boundary)
    assert caught.value.reason is Reason.BAD_STEP
    with pytest.raises(Rejected) as caught:
        build_light_client_proof(chain.trust, chain.boundary(3), lambda epoch: None)
    assert caught.value.reason is Reason.NOT_FOUND
    sudden = LightChain([{0: 1}, {1: 1}])
    with pytest.raises(Rejected) as caught:
        build_light_client_proof(sudden.trust, sudden.boundary(1), sudden.boundary)
    assert caught.value.reason is Reason.TOO_LITTLE_TRUST


# -- adversaries -------------------------------------------------------------------------------------------------------


@given(weights, weights, st.sets(st.integers(0, len(KEYS) - 1)), st.integers(2, 8), st.integers(0, 2**32))
def test_a_third_of_the_trusted_weight_forges_nothing(
    honest: Weights, shown: Weights, byzantine: set[int], epoch: int, seed: int
) -> None:
    """Whatever roster it shows, with whatever weights and whoever's names in it, signing with all the keys that it has."""
    random, chain = Random(seed), LightChain([honest])
    while 3 * sum(honest[member] for member in sorted(byzantine & honest.keys())) > sum(honest.values()):
        byzantine.remove(random.choice(sorted(byzantine & honest.keys())))
    forged, members = make_roster(epoch, shown), sorted(shown)
    header = replace(chain.header((epoch + 1) * EPOCH_HEIGHTS), roster=forged.digest(), state_root=Digest(bytes(32)))
    signers = [place for place, member in enumerate(members) if member in byzantine]
    if not signers:
        return
    block = chain.sign(header, forged, signers)
    given_away = block.certificate.signatures
    everybody = replace(
        block.certificate,
        signers=((1 << len(members)) - 1).to_bytes((len(members) + 7) // 8, "little"),
        signatures=tuple(given_away[place % len(given_away)] for place in range(len(members))),
    )
    for certificate in (block.certificate, everybody):
        assert reason_of(proof_of(replace(block, certificate=certificate)), trusting(chain, 1)) in FORGED


@pytest.mark.parametrize(("signers", "accepted"), [((0, 3, 4), False), ((0, 1, 3), True)])
def test_exactly_a_third_of_the_trusted_weight_is_too_little(signers: tuple[int, ...], accepted: bool) -> None:
    """Of three trusted members one may be Byzantine, so one is nobody; two are somebody honest."""
    chain = LightChain([{0: 1, 1: 1, 2: 1}, {0: 1, 1: 1, 2: 1}, {0: 10, 1: 10, 3: 10, 4: 10}])
    header = chain.header(4 * EPOCH_HEIGHTS)
    roster = chain.roster(3)
    places = [sorted(chain.epochs[2]).index(signer) for signer in signers]
    proof = proof_of(chain.sign(header, roster, places))
    if accepted:
        assert check(proof, trusting(chain, 1)).header == header
    else:
        assert reason_of(proof, trusting(chain, 1)) is Reason.TOO_LITTLE_TRUST


def test_weight_is_counted_in_the_trusted_roster_and_not_in_the_shown_one() -> None:
    """A forged roster gives itself any weights: what counts is what the signers had when they were trusted."""
    chain = LightChain([{0: 1, 1: 10, 2: 10}, {0: 1, 1: 10, 2: 10}, {0: 10**9, 1: 1, 2: 1}])
    header = chain.header(4 * EPOCH_HEIGHTS)
    assert reason_of(proof_of(chain.sign(header, chain.roster(3), [0])), trusting(chain, 1)) is Reason.TOO_LITTLE_TRUST


def test_exactly_two_thirds_of_its_own_roster_are_no_quorum() -> None:
    """However much of the trusted weight they hold."""
    chain = LightChain([{0: 1, 1: 1, 2: 1}])
    for height in (3, 5 * EPOCH_HEIGHTS):
        block = chain.sign(chain.header(height), chain.roster((height - 1) // EPOCH_HEIGHTS), [0, 1])
        step = without_roster(block) if height < EPOCH_HEIGHTS else block
        assert reason_of(proof_of(step), chain.trust) is Reason.NO_QUORUM


def test_a_roster_forged_from_nothing_is_not_trusted() -> None:
    """All of the adversary's keys sign for each other, next epoch or later."""
    chain = LightChain([FOUR])
    for epoch, reason in ((2, Reason.WRONG_DIGEST), (3, Reason.TOO_LITTLE_TRUST)):
        forged = make_roster(epoch, {10: 1, 11: 1})
        header = replace(chain.header((epoch + 1) * EPOCH_HEIGHTS), roster=forged.digest())
        assert reason_of(proof_of(chain.sign(header, forged, [0, 1])), trusting(chain, 1)) is reason


def test_a_forged_roster_that_names_honest_members_lacks_their_signatures() -> None:
    """Bits set for members that did not sign: the weight is there, the signatures are not."""
    chain = LightChain([FOUR])
    forged = make_roster(5, {**FOUR, 10: 10**6})
    header = replace(chain.header(6 * EPOCH_HEIGHTS), roster=forged.digest())
    block = chain.sign(header, forged, [0, 1, 2, 3, 4])
    signature = block.certificate.signatures[4]
    lied = replace(block.certificate, signatures=(signature,) * 5)
    assert reason_of(proof_of(replace(block, certificate=lied)), chain.trust) is Reason.BAD_SIGNATURE


def test_a_roster_must_have_the_digest_that_is_named() -> None:
    """Other weights, other members, another beacon: the next epoch's roster is the one the trusted header names."""
    chain = LightChain([FOUR])
    for other in (make_roster(2, {**FOUR, 0: 2}), replace(chain.roster(2), beacon=Digest(bytes(32)))):
        mismatched = replace(chain.boundary(2), roster=other)
        assert reason_of(proof_of(mismatched), trusting(chain, 1)) is Reason.WRONG_DIGEST
        consistent = chain.certify(replace(chain.header(3 * EPOCH_HEIGHTS), roster=other.digest()), other)
        assert reason_of(proof_of(consistent), trusting(chain, 1)) is Reason.WRONG_DIGEST


@pytest.mark.parametrize(
    "form",
    [
        lambda roster: replace(roster, members=(), weights=()),
        lambda roster: replace(roster, members=roster.members * 2, weights=roster.weights * 2),
        lambda roster: replace(roster, members=(*roster.members[:3], replace(roster.members[3], vote=KEYS[0].public))),
        lambda roster: replace(roster, members=tuple(reversed(roster.members))),
        lambda roster: replace(roster, weights=roster.weights[:3]),
        lambda roster: replace(roster, weights=(*roster.weights, 1)),
    ],
    ids=["nobody", "everybody twice", "a vote key twice", "descending", "a weight missing", "a weight too many"],
)
def test_a_roster_counts_nobody_twice(form) -> None:
    """A key that is listed again would bring its trusted weight again."""
    chain = LightChain([FOUR])
    forged = form(chain.roster(5))
    header = replace(chain.header(6 * EPOCH_HEIGHTS), roster=forged.digest())
    block = replace(chain.sign(header, chain.roster(5), [0, 1, 2]), roster=forged)
    assert reason_of(proof_of(block), chain.trust) is Reason.MALFORMED


def test_signatures_of_another_fork_or_chain_do_not_count() -> None:
    """After an emergency recovery the same members sign under another fork id."""
    chain = LightChain([FOUR])
    block = chain.block(3 * EPOCH_HEIGHTS)
    fork = LightClientRule(ChainId(CHAIN.chain, 1), EPOCH_HEIGHTS, TRUSTING_MS)
    assert reason_of(proof_of(block), chain.trust, fork) is Reason.WRONG_CHAIN
    moved = chain.certify(replace(block.header, chain=fork.chain), chain.roster(2))  # signed under fork 0 all the same
    assert reason_of(proof_of(moved), chain.trust, fork) is Reason.BAD_SIGNATURE


def test_a_certificate_is_of_its_header_and_says_finalize() -> None:
    """Another block's, another epoch's, or a notarization, which finalizes nothing."""
    chain = LightChain([FOUR])
    block, other = chain.block(2 * EPOCH_HEIGHTS), chain.block(3 * EPOCH_HEIGHTS)
    assert reason_of(proof_of(replace(block, certificate=other.certificate)), chain.trust) is Reason.BAD_STEP
    elsewhere = replace(block.certificate, epoch=Epoch(2))
    assert reason_of(proof_of(replace(block, certificate=elsewhere)), chain.trust) is Reason.BAD_STEP
    notarized = replace(block.certificate, kind=VoteKind.NOTARIZE)
    assert reason_of(proof_of(replace(block, certificate=notarized)), chain.trust) is Reason.BAD_STEP


def test_a_roster_is_of_the_epoch_of_its_header() -> None:
    """An old roster, for which the adversary has old keys, cannot stand for a later epoch."""
    chain = LightChain([FOUR])
    old = chain.roster(1)
    header = replace(chain.header(6 * EPOCH_HEIGHTS), roster=old.digest())
    assert reason_of(proof_of(chain.certify(header, old)), chain.trust) is Reason.WRONG_EPOCH


def test_a_header_skipped_to_by_keys_that_have_left_is_not_trusted() -> None:
    """Members of epoch 0 sign epoch 5 long after they left: from a newer trust their keys weigh nothing."""
    chain = LightChain([FOUR, FOUR, {4: 1, 5: 1, 6: 1, 7: 1}])
    forged = make_roster(5, FOUR)
    header = replace(chain.header(6 * EPOCH_HEIGHTS), roster=forged.digest())
    block = chain.certify(header, forged)
    assert reason_of(proof_of(block), trusting(chain, 3)) is Reason.TOO_LITTLE_TRUST
    assert check(proof_of(block), chain.trust).header == header  # and from an older one they must still be punishable


def test_trust_expires() -> None:
    """Exactly at the end of the trusting period, whatever the proof."""
    chain = LightChain([FOUR])
    trust, proof = trusting(chain, 0), proof_of(chain.block(2 * EPOCH_HEIGHTS))
    check(proof, trust, now_ms=trust.time_ms + TRUSTING_MS - 1)
    assert reason_of(proof, trust, now_ms=trust.time_ms + TRUSTING_MS) is Reason.TRUST_EXPIRED


def test_time_runs_forward_and_not_beyond_now() -> None:
    """A header is later than what is trusted, and not from the future, our slack allowed."""
    chain = LightChain([FOUR])
    trust, block = trusting(chain, 0), chain.block(2 * EPOCH_HEIGHTS)
    for time_ms in (trust.time_ms, trust.time_ms - 1, 0):
        early = chain.certify(replace(block.header, time_ms=time_ms), chain.roster(1))
        assert reason_of(proof_of(early), trust) is Reason.BAD_STEP
    at_ms = 2 * EPOCH_HEIGHTS * BLOCK_MS
    check(proof_of(block), trust, now_ms=at_ms - limits.CLOCK_SLACK_MS)
    assert reason_of(proof_of(block), trust, now_ms=at_ms - limits.CLOCK_SLACK_MS - 1) is Reason.CLOCK_OFF


def test_steps_go_up() -> None:
    """Heights and epochs grow from step to step; a proof cannot go round, repeat itself, or go back to older members."""
    chain = LightChain([FOUR])
    two, five = chain.boundary(2), chain.boundary(5)
    check(proof_of(two, five), chain.trust)
    for blocks in ((five, two), (two, two), (two, without_roster(two))):
        assert reason_of(proof_of(*blocks), chain.trust) is Reason.BAD_STEP
    assert reason_of(proof_of(two), trusting(chain, 2)) is Reason.BAD_STEP
    twin = chain.certify(
        replace(two.header, time_ms=two.header.time_ms + 1), chain.roster(2)
    )  # by a roster that forked
    assert reason_of(proof_of(without_roster(twin)), trusting(chain, 2)) is Reason.BAD_STEP


def test_a_proof_does_not_walk_through_an_epoch() -> None:
    """Only its last step may stay in the epoch before it: a thousand certified blocks of one epoch prove nothing more."""
    chain = LightChain([FOUR])
    blocks = [chain.boundary(1), *(without_roster(chain.block(2 * EPOCH_HEIGHTS + 1 + n)) for n in range(3))]
    within = [chain.block(2 * EPOCH_HEIGHTS + 1), *blocks[2:]]
    assert reason_of(proof_of(*within), chain.trust) is Reason.BAD_STEP
    check(proof_of(*within[:2]), chain.trust)


def test_a_height_belongs_to_one_epoch() -> None:
    """Epoch e holds the heights from e L + 1 to (e + 1) L."""
    chain = LightChain([FOUR])
    for height in (2 * EPOCH_HEIGHTS, 3 * EPOCH_HEIGHTS + 1):
        header = replace(chain.header(3 * EPOCH_HEIGHTS), height=Height(height))
        assert reason_of(proof_of(chain.certify(header, chain.roster(2))), chain.trust) is Reason.BAD_STEP


def test_a_roster_is_shown_exactly_where_it_is_needed() -> None:
    """Else one proof had two encodings."""
    chain = LightChain([FOUR])
    assert reason_of(proof_of(chain.block(3)), chain.trust) is Reason.BAD_STEP
    assert reason_of(proof_of(without_roster(chain.boundary(4))), chain.trust) is Reason.BAD_STEP


@pytest.mark.parametrize("bitmap", [b"", b"\x07\x00", b"\x17", b"\x0f", b"\x03", b"\xff" * 13])
def test_a_bitmap_has_the_length_of_the_roster_and_a_bit_for_each_signature(bitmap: bytes) -> None:
    """Too short, too long, bits of members that do not exist, more or fewer bits than signatures."""
    chain = LightChain([FOUR])
    for block in (chain.boundary(1), chain.boundary(3)):
        lied = replace(block, certificate=replace(block.certificate, signers=bitmap))
        assert reason_of(proof_of(lied), chain.trust) in (Reason.MALFORMED, Reason.NO_QUORUM, Reason.TOO_LITTLE_TRUST)


def test_signatures_in_another_order_do_not_count() -> None:
    """The n-th signature is that of the n-th signer."""
    chain = LightChain([FOUR])
    block = chain.boundary(3)
    swapped = replace(block.certificate, signatures=tuple(reversed(block.certificate.signatures)))
    assert reason_of(proof_of(replace(block, certificate=swapped)), chain.trust) is Reason.BAD_SIGNATURE


def test_another_version_of_headers_is_not_understood() -> None:
    """It may mean something else by the same fields."""
    chain = LightChain([FOUR])
    header = replace(chain.header(9), version=2)
    assert reason_of(proof_of(chain.certify(header, chain.roster(1))), chain.trust) is Reason.MALFORMED


def test_nothing_is_verified_before_the_whole_proof_has_its_form() -> None:
    """A proof of a thousand good steps and a bad last one costs no signature."""
    chain = LightChain([FOUR])
    asked: list[bytes] = []

    def verify(public: bytes, message: bytes, signature: bytes) -> bool:
        asked.append(message)
        return quick_verify(public, message, signature)

    old = make_roster(4, FOUR)
    stale = chain.certify(replace(chain.header(6 * EPOCH_HEIGHTS), roster=old.digest()), old)
    for last in (chain.boundary(2), stale, replace(chain.boundary(5), roster=None)):
        proof = proof_of(*(chain.boundary(epoch) for epoch in (1, 2, 3)), last)
        with pytest.raises(Rejected):
            check_light_client_proof(proof, chain.trust, RULE, NOW_MS, verify)
    assert asked == []


def test_a_proof_is_bounded_before_it_is_decoded() -> None:
    """In bytes and in steps; one without steps proves nothing."""
    with pytest.raises(Rejected) as caught:
        decode_light_client_proof(bytes(limits.LIGHT_CLIENT_PROOF_BYTES_MAX + 1))
    assert caught.value.reason is Reason.TOO_LARGE
    chain = LightChain([FOUR])
    step = without_roster(chain.block(1))
    for count in (0, limits.LIGHT_CLIENT_BLOCKS_MAX + 1):
        with pytest.raises(Rejected) as caught:
            decode_light_client_proof(encode(proof_of(*[step] * count)))
        assert caught.value.reason is Reason.MALFORMED


# -- where trust begins, and what it ends in --------------------------------------------------------------------------


def test_trust_begins_with_genesis_or_with_a_block_id() -> None:
    """A block id stands for header and roster, whoever brings the bytes."""
    rule, trust = LightClientRule.of(genesis()), Trust.genesis(genesis())
    assert rule.trusting_period_ms == TRUSTING_MS < genesis().ledger.evidence_ms < genesis().ledger.unbonding_ms
    assert (trust.roster, trust.next_roster, trust.height) == (
        genesis_roster(genesis()),
        genesis_roster(genesis(), 1).digest(),
        0,
    )
    chain = LightChain([FOUR, FOUR, {1: 1, 2: 1}])
    header, roster = chain.header(20), chain.roster(2)
    assert check_checkpoint(header, roster, header.digest()) == CheckedTip(header, roster)
    for lied in ((chain.header(19), roster), (header, chain.roster(1))):
        with pytest.raises(Rejected) as caught:
            check_checkpoint(*lied, header.digest())
        assert caught.value.reason is Reason.WRONG_DIGEST


def test_an_entry_is_proved_in_the_state_of_the_tip() -> None:
    """Present with its value, or absent; a proof without an entry proves none."""
    state = genesis_state(
        [(ACCOUNT, 7)],
        (),
        (),
        FIRST_VERSION,
        created_ms=0,
        rosters=(genesis_roster(genesis(), 0), genesis_roster(genesis(), 1)),
    )
    key, value = ACCOUNTS.prefix + ACCOUNT, encode(state.account(ACCOUNT))
    chain = LightChain([FOUR])
    target = chain.certify(replace(chain.header(50), state_root=state.root()), chain.roster(6))
    proof = build_light_client_proof(chain.trust, target, chain.boundary, state.prove(ACCOUNTS, ACCOUNT))
    tip = check(decode_light_client_proof(encode(proof)), chain.trust)
    check_entry(proof, tip, SubChain.C, key, value)
    absent = replace(proof, entry=state.prove(ACCOUNTS, NOBODY))
    check_entry(absent, tip, SubChain.C, ACCOUNTS.prefix + NOBODY, None)
    for lied, said in ((proof, b"more"), (proof, None), (replace(proof, entry=None), value)):
        with pytest.raises(Rejected) as caught:
            check_entry(lied, tip, SubChain.C, key, said)
        assert caught.value.reason is Reason.BAD_PROOF


def test_the_golden_proof_is_accepted() -> None:
    """The bytes of the vector prove its block from its genesis, with real signatures."""
    vectors = json.loads((VECTORS / "light_client.json").read_text())
    proof = decode_light_client_proof(bytes.fromhex(vectors["proof"]))
    tip = check_light_client_proof(proof, Trust.genesis(genesis()), LightClientRule.of(genesis()), vectors["now_ms"])
    assert tip.header.digest().hex() == vectors["tip"]
    assert [block.header.epoch for block in proof.blocks] == [2, 3, 3]
    check_entry(proof, tip, SubChain.C, b"key", b"value")
