"""Reports of contradictions: what finality exposes becomes a transaction of this node's account (chain.md 2.8).

Everybody who saw the two votes reports them; the first report in a block counts, and the others cost their fee. Who has no
money reports nothing: others saw it too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from consensus.finality.events import Evidence
from consensus.mempool import Mempool
from consensus.state import EVIDENCE, State, evidence_key
from consensus.transition import fee_nano_min
from protocol.codec import encode
from protocol.finality import ChainId
from protocol.genesis import LedgerRule
from protocol.ids import AccountId, Digest
from protocol.keys import KeyPair
from protocol.rejection import Rejected
from protocol.transactions import EvidenceReport, sign_transaction

log = structlog.get_logger()

REPORTED_MAX: Final = 1024  # names of contradictions that are not reported twice


class EvidenceService:
    """Signs and submits. ``state`` is the decided one, ``submit`` the node's door for transactions."""

    def __init__(
        self,
        key: KeyPair,
        chain: ChainId,
        rule: LedgerRule,
        state: Callable[[], State],
        pool: Mempool,
        submit: Callable[[bytes], Awaitable[Digest]],
    ) -> None:
        self._key, self._chain, self._rule = key, chain, rule
        self._state, self._pool, self._submit = state, pool, submit
        self._reported: dict[bytes, None] = {}

    async def report(self, evidence: Evidence) -> None:
        """Report a contradiction once; what the chain knows already is not reported."""
        first, state, validator = evidence.first, self._state(), evidence.validator
        key = evidence_key(first.epoch, first.view, validator)
        if key in self._reported or state.find(EVIDENCE, key) is not None:
            return
        self._reported[key] = None
        if len(self._reported) > REPORTED_MAX:
            del self._reported[next(iter(self._reported))]
        payload = EvidenceReport(validator, evidence.first, evidence.second)
        account = AccountId(self._key.public)
        nonce = self._pool.next_nonce(account, state)
        draft = sign_transaction(self._key, self._chain, nonce, 0, payload)
        fee_nano = fee_nano_min(len(encode(draft)) + _FEE_BYTES, self._rule)
        try:
            name = await self._submit(encode(sign_transaction(self._key, self._chain, nonce, fee_nano, payload)))
        except Rejected as refusal:
            log.warning("evidence not reported", why=str(refusal), validator=validator[:4].hex())
        else:
            log.warning("evidence reported", transaction=name.hex()[:16], kind=evidence.kind.name)


_FEE_BYTES = 8  # by which the number of a fee is longer than that of none
