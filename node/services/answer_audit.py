"""Auditing an answer: our own worker reads prompt and tokens again, by the weights that the door named, and says what it would
have said.

Nobody else is asked: experts are computed here, one after the other, also where answers go to those of peers. So an audit
costs what the answer cost, and the verdict is this node's own. It can be done as long as the weights are here: a node keeps the
newest ``TILE_VERSIONS_KEPT`` versions of each tile.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import trio

from compute.model.tiling import TileMap
from compute.tokenizer import END
from node.services.answer_receipts import Weights
from node.services.answering import Answering, Experts, Question
from protocol.answers import AnswerRecord, check_answer_record
from protocol.ids import Digest, NetworkId, PeerId
from protocol.rejection import Reason, Rejected

# A hundred times what other answers in the same step make of logits that deviate by 3 (docs/log.md); that other makes of
# machines stay below it is a guess.
NEAR_TIE_LOGITS: Final = 1e-3
PLACES_SHOWN_MAX: Final = 16


class Verdict(enum.Enum):
    """What an audit found."""

    SAME = "every token is the one that this node would have said"
    NEAR_TIES = "where another token was said, this node too held both for as good as equally likely"
    OTHER_TOKENS = "the model does not say this"
    OTHER_WEIGHTS = "the door named other weights than the chain decided"


@dataclass(frozen=True, slots=True)
class OtherToken:
    """A place of an answer, from 0 on, at which another token was said than this node would have: ``margin`` logits behind it.

    Infinite where it could not be chosen at all.
    """

    place: int
    token: int
    margin: float


@dataclass(frozen=True, slots=True)
class Audited:
    """What is known of an answer now. ``others``: where another token was said, the first of ``others_total`` places."""

    answer: Digest
    door: PeerId
    began_ms: int
    verdict: Verdict
    tokens: int
    is_ended: bool  # by the model, or because it was as long as was asked for; else its reader left
    others_total: int
    margin_max: float
    others: tuple[OtherToken, ...]


class AnswerAudit:
    """The audits of one node, one at a time."""

    def __init__(
        self, network: NetworkId, tile_map: TileMap, weights: Weights, answering: Answering, experts: Experts | None
    ) -> None:
        """``experts``: who computes them, our own worker; None where it has them all in its model."""
        self._network, self._tile_map, self._weights = network, tile_map, weights
        self._answering, self._experts = answering, experts
        self._one = trio.Lock()
        self.audits = self.audits_wrong = 0

    async def audit(self, record: AnswerRecord) -> Audited:
        """Compute an answer again. Raises ``Rejected``: its bytes contradict each other, or it cannot be computed here."""
        audited = await self._audit(record)
        self.audits += 1
        self.audits_wrong += audited.verdict in (Verdict.OTHER_TOKENS, Verdict.OTHER_WEIGHTS)
        return audited

    async def _audit(self, record: AnswerRecord) -> Audited:
        check_answer_record(record)
        claim = record.receipt.claim
        if claim.network != self._network:
            raise Rejected(Reason.FOREIGN_NETWORK, "the answer was given in another network")
        if len(record.versions) != len(self._tile_map.ids):
            raise Rejected(
                Reason.BAD_ARGUMENT, f"{len(record.versions)} versions, this model has {len(self._tile_map.ids)} tiles"
            )
        versions = dict(zip(self._tile_map.ids, record.versions, strict=True))
        model = self._weights.find(versions)
        if model is None:
            raise Rejected(
                Reason.NOT_FOUND, "the weights of this answer are not here any more: audit answers while they are new"
            )
        if model != claim.model:
            return _audited(record, [], Verdict.OTHER_WEIGHTS)
        question = Question(record.prompt, claim.tokens_max, claim.temperature_micro, claim.seed, claim.top_p_micro)
        others = []
        if record.tokens:
            async with (
                self._one,
                self._answering.replay(question, versions, record.tokens, self._experts) as said,
            ):
                place = 0
                while (decoded := await said.next_decoded()) is not None:
                    if decoded.margin > 0:
                        others.append(OtherToken(place, record.tokens[place], decoded.margin))
                    place += 1
        margin_max = max((each.margin for each in others), default=0.0)
        ties = Verdict.NEAR_TIES if margin_max <= NEAR_TIE_LOGITS else Verdict.OTHER_TOKENS
        return _audited(record, others, ties if others else Verdict.SAME)


def _audited(record: AnswerRecord, others: list[OtherToken], verdict: Verdict) -> Audited:
    claim, tokens = record.receipt.claim, record.tokens
    return Audited(
        claim.digest(),
        claim.door,
        claim.began_ms,
        verdict,
        len(tokens),
        len(tokens) == claim.tokens_max or END in tokens,
        len(others),
        max((each.margin for each in others), default=0.0),
        tuple(others[:PLACES_SHOWN_MAX]),
    )
