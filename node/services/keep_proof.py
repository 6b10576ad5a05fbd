"""Showing the chain what it asks of this node, once in an epoch: a leaf of a cell of its own (consensus/custody_answers.py).

It is shown as soon as the epoch begins, and again in each eighth of it until a block has it: a node that was away for most of
an epoch answers all the same. A cell that is asked for and is not here is looked for first, as any that is missing.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from consensus.custody_answers import asked_cell, find_question
from consensus.state import KEPT, CustodyQuestion, KeptEntry, State
from node.kept_cells import KeptCells
from node.services.submission import Submission
from protocol.ids import Digest, PeerId
from protocol.merkle import merkle_proof
from protocol.rejection import Rejected
from protocol.transactions import CustodyAnswer
from storage.erasure.tile import prove_leaf

log = structlog.get_logger()


class KeepProof:
    """One node's answers. ``state`` is the decided one; ``doubt`` has a blob's missing cells looked for."""

    def __init__(
        self,
        me: PeerId,
        cells: KeptCells,
        doubt: Callable[[Digest], None],
        state: Callable[[], State],
        submit: Submission,
    ) -> None:
        self._me = me
        self._cells = cells
        self._doubt = doubt
        self._state = state
        self._submit = submit
        self._tried: tuple[int, int] | None = None  # in which epoch, and in which part of it
        self._missed: tuple[int, int] | None = None  # the same of a cell that was not here
        self._submitted: Digest | None = None
        self.is_waiting = False  # for a cell that is asked for
        self.answered = 0

    async def look(self, turn: int) -> None:
        """Answer what is asked of this node, once in each part of an epoch; ``turn`` is the number of the one under way."""
        state = self._state()
        question = find_question(state, self._me)
        self.is_waiting = False
        if question is None or question.answered_height is not None or self._tried == (question.epoch, turn):
            return
        if self._submitted is not None and self._submit.is_under_way(self._submitted):
            return
        entry = state.get(KEPT, question.subject)
        answer = await self._cells.in_thread(lambda: self._prove(question, entry))
        if answer is None:
            self.is_waiting = True
            self._doubt(entry.blob)
            if self._missed != (question.epoch, turn):
                log.warning(
                    "a cell that the chain asks for is not here", blob=entry.blob.hex()[:16], tile=question.tile
                )
            self._missed = question.epoch, turn
            return
        self._tried = question.epoch, turn
        try:
            self._submitted = await self._submit(answer)
        except Rejected as refusal:
            log.error("what this node keeps is not shown, and it will be jailed", why=str(refusal))
            return
        self.answered += 1
        log.info(
            "shown to the chain",
            epoch=question.epoch,
            blob=entry.blob.hex()[:16],
            tile=question.tile,
            cell=answer.leaf.cell,
            transaction=self._submitted.hex()[:16],
        )

    def _prove(self, question: CustodyQuestion, entry: KeptEntry) -> CustodyAnswer | None:
        """For the thread of the cells; None where the cell is not here."""
        manifest = self._cells.store.find_manifest(entry.blob)
        if manifest is None:
            return None
        cell = asked_cell(question, entry, manifest.tile_root(question.tile))
        checked = self._cells.store.find(entry.blob, question.tile, cell)
        if checked is None:
            return None
        leaf = prove_leaf(checked, question.leaf)
        path = merkle_proof(manifest.manifest.tile_roots, question.tile)
        return CustodyAnswer(self._me, question.epoch, entry.blob, leaf, path)
