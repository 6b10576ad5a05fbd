"""Cells of one tile from their custodians: which ones to ask whom for, what to keep, whom to blame. Sans-io.

    Started ----------+                           +---> AskCells     a question; its number comes back with the answer
    Answered ---------+--> TileGatherer.handle ---+---> Have         a cell that leads to the root
    Unanswered -------+      (event, now_ms)      +---> Accuse       a custodian that gave none, or a wrong one
    Woken ------------+                           +---> Wake
                                                  +---> Concluded    all that was wanted is here, or nobody gives the rest

Wanted are certain cells, or any that are enough to rebuild the tile. Cells are asked for in a drawn order, several of one peer
in one question, and of as many peers at once as there are questions. Whoever is slow is not waited for: after a while its cells
are asked of their other custodians, or other cells where any will do, and the first right answer counts. A late answer counts
too, as long as the cell is wanted.

A cell that leads to the root and contradicts the tile's table is the author's doing, and all of its custodians have the same:
it is wanted no more, and nobody is accused.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from protocol.cells import cells_per_answer
from protocol.coded_tables import CheckedTable
from protocol.erasure import CheckedManifest, Shard
from protocol.ids import PeerId
from protocol.limits import MIB
from protocol.rejection import Reason, Rejected
from storage.custodians import Accuse, Fault, Started, Wake, Woken
from storage.erasure.check import TileCheck
from storage.erasure.tile import CheckedShard, check_shard


@dataclass(frozen=True, slots=True)
class GatheringRule:
    """How much at once, how patient."""

    answer_bytes_max: int = 1 * MIB  # of cells: what a slow peer costs at most, and two megabits a second bring in time
    questions_per_peer_max: int = 2  # one on its way while another is answered
    questions_max: int = 8  # that are waited for; those that are late are no more than hedge and timeout allow
    hedge_ms: int = 4_000  # as a sample's time-out
    timeout_ms: int = 20_000  # shorter than that of the protocol (a guess)
    failures_max: int = 3  # then a peer is not asked again


# -- what comes in -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    """The cells in a peer's answer, decoded."""

    number: int
    shards: Sequence[Shard]


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No answer. ``is_absent``: the peer says that it has nothing of the tile."""

    number: int
    is_absent: bool = False


GatheringEvent = Started | Answered | Unanswered | Woken

# -- what goes out -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskCells:
    """Ask a peer for cells of the tile. What its answer leaves out it does not hold: they are no more than an answer takes."""

    number: int
    peer: PeerId
    tile: int
    cells: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Have:
    """A cell that was wanted; each comes once."""

    checked: CheckedShard


@dataclass(frozen=True, slots=True)
class Concluded:
    """The end: nothing comes out any more. Cells are ascending.

    ``missing``: what is wanted still and nobody gives; nothing where the goal is reached. ``refused``: what contradicts the
    table.
    """

    found: tuple[int, ...]
    missing: tuple[int, ...]
    refused: tuple[int, ...]


GatheringEffect = AskCells | Have | Accuse | Wake | Concluded


@dataclass(frozen=True, slots=True)
class GatheringStatistics:
    """What was done so far. ``late`` questions were not answered in time; others were asked as well."""

    found: int
    questions: int
    late: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """What cells of a tile must agree with."""

    check: TileCheck
    table: CheckedTable


# -- the machine -------------------------------------------------------------------------------------------------------


class _Stage(enum.Enum):
    WAITED_FOR = enum.auto()
    LATE = enum.auto()  # others may be asked; it counts as one of its peer's questions
    OVER = enum.auto()  # its peer was accused; an answer is welcome all the same


@dataclass(slots=True)
class _Question:
    peer: PeerId
    cells: tuple[int, ...]
    since_ms: int
    stage: _Stage = _Stage.WAITED_FOR


@dataclass(slots=True)
class _Custodian:
    place: int  # in a drawn order, where all else is equal
    cells: dict[int, None] = field(default_factory=dict)  # it may still be asked for, in the order of all
    questions: int = 0
    asked: int = 0  # cells, so far
    failures: int = 0


class TileGatherer:
    """Gathers cells of one tile. Memory: a few numbers for each cell and each question; cells go out as they come."""

    def __init__(
        self,
        manifest: CheckedManifest,
        tile: int,
        custodians: Mapping[int, Sequence[PeerId]],
        generator: Random,
        *,
        cells: Collection[int] | None = None,
        held: Collection[int] = (),
        agreement: Agreement | None = None,
        rule: GatheringRule | None = None,
    ) -> None:
        """``cells``: those that are wanted; None: any, as many as rebuild the tile together with those that are ``held``.

        ``custodians``: by cell, without ourselves. Without ``agreement`` cells are believed as far as the root goes; with it
        each takes 0.2 ms more. Raises ``IndexError`` where the blob has no such tile.
        """
        self._manifest = manifest
        self._tile = tile
        self._rule = rule or GatheringRule()
        self._agreement = agreement
        self._per_question = max(
            1, min(cells_per_answer(manifest, tile), self._rule.answer_bytes_max // manifest.cell_bytes(tile))
        )
        able = range(manifest.geometry.cells) if cells is None else sorted(cells)
        order = [cell for cell in able if cell not in held]
        generator.shuffle(order)
        self._wanted = dict.fromkeys(order)  # neither found nor refused
        self._needed = len(order) if cells is not None else max(0, manifest.geometry.data_cells - len(held))
        peers = sorted({peer for cell in order for peer in custodians.get(cell, ())})
        generator.shuffle(peers)
        self._peers = {peer: _Custodian(place) for place, peer in enumerate(peers)}
        for cell in order:
            for peer in custodians.get(cell, ()):
                self._peers[peer].cells[cell] = None
        self._questions: dict[int, _Question] = {}
        self._number = 0
        self._late = 0
        self._found: dict[int, None] = {}
        self._refused: dict[int, None] = {}
        self._wake_ms: int | None = None
        self._is_concluded = False

    def handle(self, event: GatheringEvent, now_ms: int) -> list[GatheringEffect]:
        """One event; effects in the order in which they are to be performed. Never raises because of an answer."""
        return [] if self._is_concluded else list(self._handle(event, now_ms))

    def statistics(self) -> GatheringStatistics:
        return GatheringStatistics(len(self._found), self._number, self._late)

    def _handle(self, event: GatheringEvent, now_ms: int) -> Iterator[GatheringEffect]:
        match event:
            case Started():
                pass
            case Answered(number, shards):
                yield from self._take(number, shards)
            case Unanswered(number, is_absent):
                yield from self._fail(number, is_absent)
            case Woken():
                self._wake_ms = None  # who wakes us early is told again
                yield from self._wait(now_ms)
        yield from self._ask(now_ms)
        yield from self._conclude()

    # -- answers --------------------------------------------------------------------------------------------------------

    def _take(self, number: int, shards: Sequence[Shard]) -> Iterator[GatheringEffect]:
        """Whatever is right in an answer is kept, whatever else is in it."""
        question = self._end(number)
        if question is None:
            return
        right: dict[int, CheckedShard] = {}
        wrong: int | None = None
        for shard in shards:
            try:
                if shard.tile != self._tile or shard.cell not in question.cells:
                    raise Rejected(Reason.BAD_PROOF, "another cell than was asked for")
                right[shard.cell] = check_shard(self._manifest, shard)
            except Rejected:
                if wrong is None:
                    wrong = shard.cell if shard.cell in question.cells else question.cells[0]
        yield from self._keep([checked for cell, checked in right.items() if cell in self._wanted])
        absent = [cell for cell in question.cells if cell not in right]
        if wrong is not None:
            yield Accuse(question.peer, wrong, Fault.WRONG)
        elif absent:
            yield Accuse(question.peer, absent[0], Fault.ABSENT)
        custodian = self._peers[question.peer]
        for cell in absent:
            custodian.cells.pop(cell, None)
        custodian.failures += wrong is not None or not right

    def _keep(self, given: list[CheckedShard]) -> Iterator[Have]:
        agreeing = given
        if self._agreement is not None and given:
            agreeing = [each.checked for each in self._agreement.check.agree(self._agreement.table, given)]
        for checked in agreeing:
            self._found[checked.shard.cell] = None
            yield Have(checked)
        for checked in given:
            del self._wanted[checked.shard.cell]
            if checked.shard.cell not in self._found:
                self._refused[checked.shard.cell] = None

    def _fail(self, number: int, is_absent: bool) -> Iterator[Accuse]:
        question = self._end(number)
        if question is None:
            return
        custodian = self._peers[question.peer]
        if is_absent:
            custodian.cells.clear()
        if question.stage is not _Stage.OVER:
            custodian.failures += 1
            yield Accuse(question.peer, question.cells[0], Fault.ABSENT if is_absent else Fault.SILENT)

    def _end(self, number: int) -> _Question | None:
        question = self._questions.pop(number, None)
        if question is not None and question.stage is not _Stage.OVER:
            self._peers[question.peer].questions -= 1
        return question

    def _wait(self, now_ms: int) -> Iterator[Accuse]:
        """Who has been waited for long enough."""
        for question in self._questions.values():
            if question.stage is _Stage.WAITED_FOR and now_ms >= question.since_ms + self._rule.hedge_ms:
                question.stage = _Stage.LATE
                self._late += 1
            if question.stage is _Stage.LATE and now_ms >= question.since_ms + self._rule.timeout_ms:
                question.stage = _Stage.OVER
                custodian = self._peers[question.peer]
                custodian.questions -= 1
                custodian.failures += 1
                yield Accuse(question.peer, question.cells[0], Fault.SILENT)

    # -- questions ------------------------------------------------------------------------------------------------------

    def _ask(self, now_ms: int) -> Iterator[AskCells]:
        """Ask for as many cells as are needed and not on their way, of whoever failed least and was asked least."""
        while True:
            waited_for = [each for each in self._questions.values() if each.stage is _Stage.WAITED_FOR]
            on_their_way = {cell: None for each in waited_for for cell in each.cells if cell in self._wanted}
            count = self._needed - len(self._found) - len(on_their_way)
            slots = self._rule.questions_max - len(waited_for)
            if count <= 0 or slots <= 0:
                return
            able = [peer for peer in self._peers if self._may_be_asked(peer, on_their_way)]
            if not able:
                return
            peer = min(able, key=self._rank)
            custodian = self._peers[peer]
            alike = sum(self._rank(other)[:2] == self._rank(peer)[:2] for other in able)  # they are asked next
            most = min(self._per_question, -(-count // min(slots, alike)))
            cells = tuple(self._takes(peer, on_their_way))[:most]
            custodian.questions += 1
            custodian.asked += len(cells)
            self._number += 1
            self._questions[self._number] = _Question(peer, cells, now_ms)
            yield AskCells(self._number, peer, self._tile, cells)

    def _may_be_asked(self, peer: PeerId, on_their_way: Mapping[int, None]) -> bool:
        custodian = self._peers[peer]
        if custodian.failures >= self._rule.failures_max or custodian.questions >= self._rule.questions_per_peer_max:
            return False
        return any(True for _ in self._takes(peer, on_their_way))

    def _takes(self, peer: PeerId, on_their_way: Mapping[int, None]) -> Iterator[int]:
        """The cells for which a peer may be asked: not twice at a time."""
        asked = [each.cells for each in self._questions.values() if each.peer == peer and each.stage is not _Stage.OVER]
        for cell in self._peers[peer].cells:
            if cell in self._wanted and cell not in on_their_way and not any(cell in cells for cells in asked):
                yield cell

    def _rank(self, peer: PeerId) -> tuple[int, int, int, int]:
        custodian = self._peers[peer]
        return custodian.failures, custodian.questions, custodian.asked, custodian.place

    # -- the end --------------------------------------------------------------------------------------------------------

    def _conclude(self) -> Iterator[Concluded | Wake]:
        steps = {_Stage.WAITED_FOR: self._rule.hedge_ms, _Stage.LATE: self._rule.timeout_ms}
        open_until_ms = [each.since_ms + steps[each.stage] for each in self._questions.values() if each.stage in steps]
        is_enough = len(self._found) >= self._needed
        if is_enough or not open_until_ms:
            self._is_concluded = True
            missing = () if is_enough else tuple(sorted(self._wanted))
            yield Concluded(tuple(sorted(self._found)), missing, tuple(sorted(self._refused)))
        elif self._wake_ms != min(open_until_ms):
            self._wake_ms = min(open_until_ms)
            yield Wake(self._wake_ms)
