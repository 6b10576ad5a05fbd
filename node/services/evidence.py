"""Reports of contradictions: what finality exposes becomes a transaction of this node's account (chain.md 2.8).

Everybody who saw the two votes reports them; the first report in a block counts, and the others cost their fee. Who has no
money reports nothing: others saw it too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from consensus.finality.events import Evidence
from consensus.state import EVIDENCE, State, evidence_key
from node.services.submission import Submission
from protocol.rejection import Rejected
from protocol.transactions import EvidenceReport

log = structlog.get_logger()

REPORTED_MAX: Final = 1024  # names of contradictions that are not reported twice


class EvidenceService:
    """Reports each contradiction once. ``state`` is the decided one."""

    def __init__(self, state: Callable[[], State], submit: Submission) -> None:
        self._state, self._submit = state, submit
        self._reported: dict[bytes, None] = {}

    async def report(self, evidence: Evidence) -> None:
        """Report a contradiction once; what the chain knows already is not reported."""
        first, validator = evidence.first, evidence.validator
        key = evidence_key(first.epoch, first.view, validator)
        if key in self._reported or self._state().find(EVIDENCE, key) is not None:
            return
        self._reported[key] = None
        if len(self._reported) > REPORTED_MAX:
            del self._reported[next(iter(self._reported))]
        try:
            name = await self._submit(EvidenceReport(validator, evidence.first, evidence.second))
        except Rejected as refusal:
            log.warning("evidence not reported", why=str(refusal), validator=validator[:4].hex())
        else:
            log.warning("evidence reported", transaction=name.hex()[:16], kind=evidence.kind.name)
