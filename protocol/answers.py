"""What a door signs about an answer, so that anybody can find out later whether the model said it.

    claim        who was asked, when, by what weights, after which prompt, how tokens are drawn
    c(0)         H(claim)
    c(i)         H(c(i-1), token i)          a rolling commitment: one digest for every beginning of the answer
    receipt      claim, tokens, c(tokens), signed by the door
    record       the receipt, and what is needed to look into it: versions, salt, prompt, tokens

Whoever has the record and the weights gives the model the same prompt and tokens, and sees what it would have said at each
place. Source: 001 lines 887-893 ("Rolling Output Commitment"), 701, 902. A receipt proves what a door said, by its key; that it
is what the model says is proved by computing it again (``node/services/answer_audit.py``). The salt, which is in the record
alone, tells two equal questions apart, and keeps whoever sees a receipt from guessing at the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final

from msgspec import Meta
from msgspec.structs import replace

from protocol.codec import Message, encode
from protocol.digest import Domain, digest, number
from protocol.ids import (
    Digest,
    DigestField,
    Natural,
    NetworkField,
    PeerField,
    Signature,
    SignatureField,
    Version,
    VersionField,
)
from protocol.keys import KeyPair, verify
from protocol.limits import ANSWER_TOKENS_MAX, PROMPT_TOKENS_MAX, TILES_MAX
from protocol.rejection import Reason, Rejected

MILLION: Final = 1_000_000

_Token = Annotated[int, Meta(ge=0, lt=2**16)]


class AnswerClaim(Message, frozen=True):
    """What was asked of whom. ``temperature_micro`` and ``top_p_micro`` are millionths of what ``compute.sampling`` takes.

    ``model``: see :func:`model_digest`; ``prompt``: see :func:`prompt_digest`. ``began_ms`` is by the door's clock.
    """

    network: NetworkField
    door: PeerField
    began_ms: Natural
    model: DigestField
    prompt: DigestField
    prompt_tokens: Annotated[int, Meta(ge=1, le=PROMPT_TOKENS_MAX)]
    tokens_max: Annotated[int, Meta(ge=1, le=ANSWER_TOKENS_MAX)]
    temperature_micro: Annotated[int, Meta(ge=0, le=100 * MILLION)]
    top_p_micro: Annotated[int, Meta(ge=1, le=MILLION)]
    seed: Natural

    def digest(self) -> Digest:
        """The answer's name, and the commitment to its first nothing."""
        return digest(Domain.ANSWER, encode(self))


class AnswerReceipt(Message, frozen=True):
    """So many tokens followed, the one that ends an answer among them. Fewer than were asked for, without such a one: the
    reader left. The signature is the door's node key's over everything before it."""

    claim: AnswerClaim
    tokens: Annotated[int, Meta(ge=0, le=ANSWER_TOKENS_MAX)]
    commitment: DigestField
    signature: SignatureField


class AnswerRecord(Message, frozen=True):
    """An answer whole. ``versions``: of all tiles of the model, in order."""

    receipt: AnswerReceipt
    versions: Annotated[tuple[VersionField, ...], Meta(min_length=1, max_length=TILES_MAX)]
    salt: DigestField
    prompt: Annotated[tuple[_Token, ...], Meta(min_length=1, max_length=PROMPT_TOKENS_MAX)]
    tokens: Annotated[tuple[_Token, ...], Meta(max_length=ANSWER_TOKENS_MAX)]


def model_digest(tiles: Iterable[tuple[Version, Digest]]) -> Digest:
    """All weights of the model in one digest: version and root of each tile, in order."""
    return digest(Domain.ANSWER_MODEL, *(part for version, root in tiles for part in (number(version), root)))


def prompt_digest(salt: Digest, prompt: Sequence[int]) -> Digest:
    """The prompt, which nobody guesses who does not know the salt."""
    return digest(Domain.ANSWER_PROMPT, salt, *map(number, prompt))


def extend_commitment(commitment: Digest, tokens: Iterable[int]) -> Digest:
    """The commitment to an answer that goes on with these tokens."""
    for token in tokens:
        commitment = digest(Domain.ANSWER_TOKEN, commitment, number(token))
    return commitment


def _receipt_text(receipt: AnswerReceipt) -> bytes:
    return digest(Domain.ANSWER_RECEIPT, encode(replace(receipt, signature=Signature(bytes(64)))))


def sign_receipt(claim: AnswerClaim, tokens: Sequence[int], key: KeyPair) -> AnswerReceipt:
    """What the door says of an answer."""
    unsigned = AnswerReceipt(claim, len(tokens), extend_commitment(claim.digest(), tokens), Signature(bytes(64)))
    return replace(unsigned, signature=key.sign(_receipt_text(unsigned)))


def check_answer_record(record: AnswerRecord) -> None:
    """That a door signed exactly this: prompt, tokens, claim. Raises ``Rejected`` (BAD_SIGNATURE, WRONG_DIGEST, MALFORMED).

    Which weights the versions mean, and whether they say this, only somebody who has them knows.
    """
    receipt, claim = record.receipt, record.receipt.claim
    if not verify(claim.door, _receipt_text(receipt), receipt.signature):
        raise Rejected(Reason.BAD_SIGNATURE, "the receipt of an answer")
    if len(record.prompt) != claim.prompt_tokens or prompt_digest(record.salt, record.prompt) != claim.prompt:
        raise Rejected(Reason.WRONG_DIGEST, "the prompt is not the one of the receipt")
    if len(record.tokens) != receipt.tokens or extend_commitment(claim.digest(), record.tokens) != receipt.commitment:
        raise Rejected(Reason.WRONG_DIGEST, "the tokens are not those of the receipt")
    if receipt.tokens > claim.tokens_max:
        raise Rejected(Reason.MALFORMED, f"{receipt.tokens} tokens, where {claim.tokens_max} were asked for")
