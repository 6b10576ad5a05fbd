"""Receipts and audits: what a door signed is what the model says, whoever computed it, or it is found that it is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from msgspec.structs import replace

from compute.tokenizer import END
from node.services.answer_audit import AnswerAudit, Verdict
from protocol.answers import AnswerRecord, check_answer_record, sign_receipt
from protocol.ids import Digest, NetworkId, PeerId, Version
from protocol.keys import KeyPair
from protocol.rejection import Reason, Rejected
from tests.node.village import DOOR, TOKENS, Village, live
from tests.node.worker_samples import Bench, bench_in_memory

LIAR = KeyPair(bytes([9]) * 32)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return bench_in_memory()


def signed(record: AnswerRecord, tokens: tuple[int, ...], key: KeyPair = LIAR) -> AnswerRecord:
    """The same answer with other tokens, signed by whoever says so."""
    claim = replace(record.receipt.claim, door=PeerId(key.public))
    return replace(record, tokens=tokens, receipt=sign_receipt(claim, tokens, key))


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_an_answer_is_found_to_be_what_the_model_says(bench: Bench, is_whole: bool, temperature: float) -> None:
    """Whoever computed its experts, the door computes it again alone; what was drawn is drawn again."""

    async def talk(village: Village) -> None:
        record = await village.record("def ", temperature=temperature)
        check_answer_record(record)
        assert record.receipt.claim.door == DOOR.public
        assert [token for token in record.tokens if token != END] == village.whole("def ", temperature=temperature)
        called = village.client.statistics().calls
        audited = await village.audit.audit(record)
        assert (audited.verdict, audited.tokens, audited.is_ended) == (Verdict.SAME, len(record.tokens), True)
        assert village.client.statistics().calls == called

    live(bench, 0 if is_whole else 2, talk, is_whole=is_whole)


def test_a_door_that_says_something_else_signed_the_proof_of_it(bench: Bench) -> None:
    """One other token, an end that came too early, a word after the last one: each is found, and where."""

    async def talk(village: Village) -> None:
        record = await village.record("def ")
        said = record.tokens
        for tokens, place in (
            ((*said[:4], (said[4] + 1) % 256, *said[5:]), 4),
            ((*said[:7], END), 7),
        ):
            audited = await village.audit.audit(signed(record, tokens))
            assert audited.verdict is Verdict.OTHER_TOKENS
            assert (audited.others[0].place, audited.others[0].token) == (place, tokens[place])
            assert audited.margin_max > 0.01
            assert audited.door == LIAR.public
        with pytest.raises(Rejected) as refusal:
            await village.audit.audit(signed(record, (*said, 65)))
        assert refusal.value.reason is Reason.MALFORMED

    live(bench, 0, talk, is_whole=True)


def test_an_answer_that_was_left_has_a_receipt_of_what_was_read(bench: Bench) -> None:
    """Its reader heard five tokens; more were written, which nobody signs."""

    async def talk(village: Village) -> None:
        async with village.answering.generate(list(b"def "), TOKENS, 0.0, 1) as said:
            opened = village.receipts.begin(said)
            for _ in range(5):
                await anext(said)
            receipt = await village.receipts.end(opened)
        record = village.book.find(receipt.claim.digest())
        assert record is not None
        assert (receipt.tokens, list(record.tokens)) == (5, village.whole("def ")[:5])
        audited = await village.audit.audit(record)
        assert (audited.verdict, audited.is_ended) == (Verdict.SAME, False)

    live(bench, 0, talk, is_whole=True)


def test_nothing_is_said_of_an_answer_that_nobody_read(bench: Bench) -> None:
    """A receipt of no token commits to the question alone, and is right."""

    async def talk(village: Village) -> None:
        async with village.answering.generate(list(b"def "), TOKENS, 0.0, 1) as said:
            receipt = await village.receipts.end(village.receipts.begin(said))
        assert receipt.commitment == receipt.claim.digest()
        record = village.book.find(receipt.claim.digest())
        assert record is not None
        assert (await village.audit.audit(record)).verdict is Verdict.SAME

    live(bench, 0, talk, is_whole=True)


def test_an_answer_by_older_weights_is_audited_by_them(bench: Bench) -> None:
    """As long as they are here; after that it is said that they are not."""

    async def talk(village: Village) -> None:
        record = await village.record("def ")
        village.version = Version(1)
        assert (await village.audit.audit(record)).verdict is Verdict.SAME
        newer = await village.record("def ")
        assert newer.versions == (1,) * len(newer.versions)
        del village.tiles[0]
        with pytest.raises(Rejected) as refusal:
            await village.audit.audit(record)
        assert refusal.value.reason is Reason.NOT_FOUND

    live(bench, 0, talk, is_whole=True)


def test_a_door_that_names_weights_of_its_own_is_found_without_computing(bench: Bench) -> None:
    """It signed a digest of weights that the chain did not decide."""

    async def talk(village: Village) -> None:
        record = await village.record("def ")
        claim = replace(record.receipt.claim, model=Digest(bytes([1]) * 32), door=PeerId(LIAR.public))
        other = replace(record, receipt=sign_receipt(claim, record.tokens, LIAR))
        jobs = len(village.door.jobs)
        assert (await village.audit.audit(other)).verdict is Verdict.OTHER_WEIGHTS
        assert len(village.door.jobs) == jobs

    live(bench, 0, talk, is_whole=True)


CHANGES: dict[str, tuple[Callable[[AnswerRecord], AnswerRecord], Reason]] = {
    "another's signature": (
        lambda record: replace(record, receipt=replace(record.receipt, signature=signed(record, ()).receipt.signature)),
        Reason.BAD_SIGNATURE,
    ),
    "another door": (
        lambda record: replace(
            record, receipt=replace(record.receipt, claim=replace(record.receipt.claim, door=PeerId(LIAR.public)))
        ),
        Reason.BAD_SIGNATURE,
    ),
    "other tokens": (lambda record: replace(record, tokens=(1, *record.tokens[1:])), Reason.WRONG_DIGEST),
    "a token less": (lambda record: replace(record, tokens=record.tokens[:-1]), Reason.WRONG_DIGEST),
    "another prompt": (lambda record: replace(record, prompt=(1, *record.prompt[1:])), Reason.WRONG_DIGEST),
    "another salt": (lambda record: replace(record, salt=Digest(bytes(32))), Reason.WRONG_DIGEST),
    "a version less": (lambda record: replace(record, versions=record.versions[:-1]), Reason.BAD_ARGUMENT),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_that_is_not_what_was_signed_is_refused(bench: Bench, change: str) -> None:
    """Whoever hands it over made it: the door is not blamed for it."""
    changed, reason = CHANGES[change]

    async def talk(village: Village) -> None:
        record = await village.record("def ")
        with pytest.raises(Rejected) as refusal:
            await village.audit.audit(changed(record))
        assert refusal.value.reason is reason

    live(bench, 0, talk, is_whole=True)


def test_an_answer_of_another_network_is_refused(bench: Bench) -> None:
    """Its weights are none of this chain's."""

    async def talk(village: Village) -> None:
        record = await village.record("def ")
        audit = AnswerAudit(NetworkId(bytes(32)), bench.tile_map, village.weights, village.answering, None)
        with pytest.raises(Rejected) as refusal:
            await audit.audit(record)
        assert refusal.value.reason is Reason.FOREIGN_NETWORK

    live(bench, 0, talk, is_whole=True)


def test_answers_and_audits_go_on_beside_each_other(bench: Bench) -> None:
    """A door without experts audits with its own while peers compute for its readers: neither has the other's rows."""

    async def talk(village: Village) -> None:

        record = await village.record("def ")
        said: dict[str, list[int]] = {}
        verdicts = []

        async def ask(prompt: str) -> None:
            said[prompt] = await village.answer(prompt)

        async def look() -> None:
            verdicts.append((await village.audit.audit(record)).verdict)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(ask, f"method_{number}(")
                nursery.start_soon(look)
        assert verdicts == [Verdict.SAME] * 4
        assert all(village.whole(prompt) == tokens for prompt, tokens in said.items())

    live(bench, 2, talk)


def test_an_answer_whose_weights_went_before_it_began_is_not_signed(bench: Bench) -> None:
    """Its asker hears that it is to try again; no claim names weights that the door has not."""

    async def talk(village: Village) -> None:
        async with village.answering.generate(list(b"def "), TOKENS, 0.0, 1) as said:
            village.tiles.clear()
            with pytest.raises(Rejected) as refusal:
                village.receipts.begin(said)
        assert refusal.value.reason is Reason.BUSY

    live(bench, 0, talk, is_whole=True)
