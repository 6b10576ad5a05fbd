"""The door of a node: whoever asks the model comes through here."""

from __future__ import annotations

from dataclasses import dataclass

from node.services.answer_audit import AnswerAudit
from node.services.answer_receipts import AnswerReceipts
from node.services.answering import Answering


@dataclass(frozen=True, slots=True)
class Door:
    """Where there is a worker: answers, what is signed about them, and looking into them again."""

    answering: Answering
    receipts: AnswerReceipts
    audit: AnswerAudit
