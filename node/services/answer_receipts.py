"""What this door signs about its answers: by which weights, after what, and with which tokens (``protocol/answers.py``)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

from node.answer_book import AnswerBook
from node.clock import Clock
from node.services.answering import Said
from protocol.answers import AnswerClaim, AnswerReceipt, AnswerRecord, model_digest, prompt_digest, sign_receipt
from protocol.digest import Domain, digest, number
from protocol.ids import Digest, NetworkId, PeerId, TileId, Version
from protocol.keys import KeyPair
from protocol.rejection import Reason, Rejected

FindRoot = Callable[[TileId, Version], Digest | None]


class Weights:
    """The digest of all weights at some versions, the last one remembered: most answers mean the same."""

    def __init__(self, find_root: FindRoot) -> None:
        """``find_root``: of a tile's version, None where it is not here."""
        self._find_root = find_root
        self._last: tuple[Mapping[TileId, Version], Digest] = ({}, Digest(bytes(32)))

    def digest(self, versions: Mapping[TileId, Version]) -> Digest | None:
        """``versions``: of all tiles, in order. None where one is not here."""
        if versions != self._last[0]:
            found = self.find(versions)
            if found is None:
                return None
            self._last = (dict(versions), found)
        return self._last[1]

    def find(self, versions: Mapping[TileId, Version]) -> Digest | None:
        """The same for versions that may have gone since they were remembered."""
        roots = []
        for tile, version in versions.items():
            root = self._find_root(tile, version)
            if root is None:
                return None
            roots.append((version, root))
        return model_digest(roots)


class OpenAnswer(NamedTuple):
    """An answer under way, and what will be signed of it."""

    claim: AnswerClaim
    salt: Digest
    said: Said


class AnswerReceipts:
    """The signatures of one door."""

    def __init__(self, network: NetworkId, key: KeyPair, weights: Weights, book: AnswerBook, clock: Clock) -> None:
        self._network, self._key, self._weights = network, key, weights
        self._book, self._clock = book, clock
        self._numbers = itertools.count(1)

    def begin(self, said: Said) -> OpenAnswer:
        """What is claimed about an answer that has begun. Raises ``Rejected``."""
        question = said.question
        model = self._weights.digest(said.versions)
        if model is None:  # they were pruned while the answer waited for its turn
            raise Rejected(Reason.BUSY, "this node went on to newer weights; try again")
        now_ms = self._clock.now_ms()
        # Nobody foresees it who has not the key, and no two answers have the same.
        salt = digest(Domain.ANSWER_SALT, self._key.seed, number(now_ms), number(next(self._numbers)))
        claim = AnswerClaim(
            self._network,
            PeerId(self._key.public),
            now_ms,
            model,
            prompt_digest(salt, question.prompt),
            len(question.prompt),
            question.tokens_max,
            question.temperature_micro,
            question.top_p_micro,
            question.seed,
        )
        return OpenAnswer(claim, salt, said)

    async def end(self, answer: OpenAnswer) -> AnswerReceipt:
        """The receipt of what was read of an answer up to now, which is kept when this returns."""
        said, tokens = answer.said, tuple(answer.said.tokens)
        receipt = sign_receipt(answer.claim, tokens, self._key)
        versions = tuple(said.versions.values())
        await self._book.keep(AnswerRecord(receipt, versions, answer.salt, said.question.prompt, tokens))
        return receipt
