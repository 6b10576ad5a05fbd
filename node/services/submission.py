"""Transactions that this node makes by itself, in its own account's name, for the smallest fee."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from consensus.mempool import Mempool
from consensus.state import State
from consensus.transition import fee_nano_min
from protocol.codec import encode
from protocol.finality import ChainId
from protocol.genesis import LedgerRule
from protocol.ids import AccountId, Digest
from protocol.keys import KeyPair
from protocol.rejection import Reason, Rejected
from protocol.transactions import Payload, sign_transaction

# An account has two who sign for it, its owner and its node: what is said to whoever was the second to take a nonce, in a block
# or behind what waits for one, and how often a nonce is asked for again. A node speaks some times in an epoch.
NONCE_TAKEN: Final = frozenset({Reason.WRONG_NONCE, Reason.UNDERPRICED})
NONCE_TRIES: Final = 5
_FEE_BYTES: Final = 8  # by which the number of a fee is longer than that of none


class Submission:
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
        self._one_at_a_time = trio.Lock()  # our own do not take each other's nonce

    def is_under_way(self, name: Digest) -> bool:
        """Whether a transaction waits for a block."""
        return self._pool.find_id(name) is not None

    async def __call__(self, payload: Payload) -> Digest:
        """The id of the transaction that is under way with a payload. Raises ``Rejected``, above all UNFUNDED."""
        async with self._one_at_a_time:
            for _ in range(NONCE_TRIES - 1):
                try:
                    return await self._submit(self._sign(payload))
                except Rejected as refusal:
                    if refusal.reason not in NONCE_TAKEN:
                        raise
            return await self._submit(self._sign(payload))

    def _sign(self, payload: Payload) -> bytes:
        nonce = self._pool.next_nonce(AccountId(self._key.public), self._state())
        draft = sign_transaction(self._key, self._chain, nonce, 0, payload)
        fee_nano = fee_nano_min(len(encode(draft)) + _FEE_BYTES, self._rule)
        return encode(sign_transaction(self._key, self._chain, nonce, fee_nano, payload))
