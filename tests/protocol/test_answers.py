"""What a door signs about an answer: each token enters, in its order, and what was signed is the record and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.answers import (
    AnswerRecord,
    check_answer_record,
    extend_commitment,
    model_digest,
    prompt_digest,
    sign_receipt,
)
from protocol.codec import decode, encode
from protocol.ids import Digest, Version
from protocol.limits import ANSWER_RECORD_BYTES_MAX
from protocol.rejection import Reason, Rejected
from tests.protocol.samples import NODE_KEYS, answer_record

TOKENS = st.lists(st.integers(0, 256), max_size=12)
START = Digest(bytes(32))


def refusal(record: AnswerRecord) -> Reason:
    with pytest.raises(Rejected) as refused:
        check_answer_record(record)
    return refused.value.reason


@given(TOKENS, TOKENS)
def test_a_commitment_rolls_on(said: list[int], more: list[int]) -> None:
    """Token by token or all at once; another beginning, order or end has another commitment."""
    rolled = START
    for token in said:
        rolled = extend_commitment(rolled, [token])
    assert rolled == extend_commitment(START, said)
    assert extend_commitment(rolled, more) == extend_commitment(START, [*said, *more])
    assert (extend_commitment(START, said) == extend_commitment(START, more)) is (said == more)


def test_what_was_signed_is_believed() -> None:
    """It goes over the wire and comes back; a prompt has another digest under another salt."""
    record = answer_record()
    assert decode(AnswerRecord, encode(record), limit_bytes=ANSWER_RECORD_BYTES_MAX) == record
    check_answer_record(record)
    assert prompt_digest(START, record.prompt) != record.receipt.claim.prompt


CLAIMS = {
    "network": bytes(32),
    "door": NODE_KEYS[1].public,
    "began_ms": 1,
    "model": bytes(32),
    "prompt": bytes(32),
    "prompt_tokens": 3,
    "tokens_max": 17,
    "temperature_micro": 0,
    "top_p_micro": 1,
    "seed": 8,
}


@pytest.mark.parametrize("field", answer_record().receipt.claim.__struct_fields__)
def test_every_field_of_a_claim_is_signed(field: str) -> None:
    """Whoever changes one has no signature for it, and another name."""
    record = answer_record()
    claim = replace(record.receipt.claim, **{field: CLAIMS[field]})
    assert claim.digest() != record.receipt.claim.digest()
    assert refusal(replace(record, receipt=replace(record.receipt, claim=claim))) is Reason.BAD_SIGNATURE


def test_more_tokens_than_were_asked_for_are_no_answer() -> None:
    """Also where a door signed them."""
    record = answer_record()
    tokens = (65,) * 17
    assert refusal(
        replace(record, tokens=tokens, receipt=sign_receipt(record.receipt.claim, tokens, NODE_KEYS[0]))
    ) is (Reason.MALFORMED)


def test_weights_are_named_by_version_and_root() -> None:
    """Of each tile, in order: neither another version nor another root nor another order is the same model."""
    one, other = Digest(bytes([1]) * 32), Digest(bytes([2]) * 32)
    models = [
        [(Version(1), one), (Version(2), other)],
        [(Version(2), other), (Version(1), one)],
        [(Version(1), one), (Version(1), other)],
        [(Version(1), other), (Version(2), other)],
        [(Version(1), one)],
    ]
    assert len({model_digest(tiles) for tiles in models}) == len(models)
