"""One tile sampled: sans-io, (event, now_ms) -> effects.

    Started -> draw cells -> AskCell to a custodian of each
                 Arrived, right  -> Fetched, the cell is answered
                 Arrived, wrong  -+
                 Absent          -+-> Accuse, AskCell to another custodian; none is left: the cell is lost
                 Woken, too late -+
    all drawn cells answered but for those that are forgiven -> Concluded(AVAILABLE)
    a lost cell -> draw more, by the plan; more are lost than are forgiven -> Concluded(UNAVAILABLE)

Cells are drawn before anybody is asked, from all cells, whoever keeps them: asking only whom one knows to be there would sample
the peers and not the tile. Custodians of a cell are asked in a drawn order, the least asked first, one at a time. No peer is
asked more than its share: who is asked for much could see that it is one sampler that asks, and answer that one.

A wrong cell is proved wrong; silence and absence are only a custodian's word against ours, and whoever is told weighs them so.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from protocol.erasure import CheckedManifest, Shard
from protocol.ids import PeerId
from protocol.rejection import Reason, Rejected
from storage.custodians import Accuse, Fault, Started, Wake, Woken
from storage.erasure.tile import CheckedShard, check_shard
from storage.sampling.odds import fooled, sampling_plan


@dataclass(frozen=True, slots=True)
class SamplingRule:
    """How sure, how patient. Nothing of it is agreed on: everybody samples for itself."""

    fooled_max: Fraction = Fraction(1, 10**6)
    # A tenth of the cells may be gone from a tile that is well: who forgives none calls two of three such tiles lost.
    forgiven_max: int = 4
    timeout_ms: int = 4_000  # a cell of 64 KiB over a slow line takes one second (a guess)
    questions_per_peer_min: int = (
        4  # a share is never less: a holder of few cells may keep several of those that were drawn
    )


# -- what goes in ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrived:
    """A peer's answer to the question for ``cell``."""

    peer: PeerId
    cell: int
    shard: Shard


@dataclass(frozen=True, slots=True)
class Absent:
    """A peer says that it does not hold ``cell``, or cannot be reached."""

    peer: PeerId
    cell: int


SamplingEvent = Started | Arrived | Absent | Woken

# -- what comes out ----------------------------------------------------------------------------------------------------


class Verdict(enum.Enum):
    """How a sampling ends."""

    AVAILABLE = "available"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class AskCell:
    """Ask a peer for a cell."""

    peer: PeerId
    tile: int
    cell: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """A cell that leads to the root: to be given to whoever asks for it, so that what was shown to one is shown to all."""

    checked: CheckedShard


@dataclass(frozen=True, slots=True)
class SamplingStatistics:
    """What was seen so far."""

    drawn: int  # cells
    answered: int  # of them
    lost: int  # of them: no custodian gave it
    questions: int  # to peers: more than cells where one was asked in vain
    fooled: (
        Fraction  # at most so large is the chance that a tile that cannot be rebuilt looks like this; 1 before the end
    )


@dataclass(frozen=True, slots=True)
class Concluded:
    """The end: nothing comes out any more."""

    verdict: Verdict
    statistics: SamplingStatistics


SamplingEffect = AskCell | Fetched | Accuse | Wake | Concluded


@dataclass(frozen=True, slots=True)
class _Question:
    peer: PeerId
    deadline_ms: int


class TileSampler:
    """Whether one tile is to be had. ``generator`` decides which cells: what others can predict shows them nothing.

    Memory: a few numbers for each cell that was drawn, and for each custodian.
    """

    def __init__(
        self,
        manifest: CheckedManifest,
        tile: int,
        custodians: Mapping[int, Sequence[PeerId]],
        generator: Random,
        rule: SamplingRule | None = None,
    ) -> None:
        """``custodians``: by cell, without ourselves; a cell that is not in it is lost when it is drawn.

        ``generator`` is a ``SystemRandom`` where it counts. Raises ``IndexError`` where the blob has no such tile,
        ``ValueError`` for a rule that no number of samples fulfils.
        """
        manifest.tile_root(tile)
        self._manifest = manifest
        self._tile = tile
        self._custodians = custodians
        self._rule = rule or SamplingRule()
        self._plan = sampling_plan(manifest.geometry, self._rule.fooled_max, self._rule.forgiven_max)
        cells = manifest.geometry.cells
        self._order = generator.sample(range(cells), cells)  # as many of these as are needed
        peers = sorted({peer for cell in range(cells) for peer in custodians.get(cell, ())})
        generator.shuffle(peers)
        self._place = {peer: place for place, peer in enumerate(peers)}
        self._share = max(self._rule.questions_per_peer_min, -(-2 * self._plan[-1] // max(1, len(peers))))
        self._times_asked = dict.fromkeys(peers, 0)
        self._asked: dict[int, list[PeerId]] = {}  # by drawn cell: everybody who was asked for it
        self._open: dict[int, _Question] = {}
        self._answered = 0
        self._lost = 0
        self._wake_ms: int | None = None
        self._verdict: Verdict | None = None

    def handle(self, event: SamplingEvent, now_ms: int) -> list[SamplingEffect]:
        """One event; effects in the order in which they are to be performed."""
        return [] if self._verdict is not None else list(self._handle(event, now_ms))

    def statistics(self) -> SamplingStatistics:
        stages = range(self._lost + 1) if self._verdict is Verdict.AVAILABLE else ()
        chance = sum((fooled(self._manifest.geometry, self._plan[lost], lost) for lost in stages), Fraction(0))
        return SamplingStatistics(
            len(self._asked),
            self._answered,
            self._lost,
            sum(self._times_asked.values()),
            chance if stages else Fraction(1),
        )

    def _handle(self, event: SamplingEvent, now_ms: int) -> Iterator[SamplingEffect]:
        match event:
            case Started():
                pass
            case Arrived(peer, cell, shard):
                yield from self._hear(peer, cell, shard, now_ms)
            case Absent(peer, cell):
                if self._is_asked_now(peer, cell):
                    yield from self._go_on(cell, Fault.ABSENT, now_ms)
            case Woken():
                self._wake_ms = None  # who wakes us early is told again
                late = [cell for cell, question in self._open.items() if question.deadline_ms <= now_ms]
                for cell in late:
                    yield from self._go_on(cell, Fault.SILENT, now_ms)
        yield from self._draw(now_ms)
        yield from self._conclude()

    def _hear(self, peer: PeerId, cell: int, shard: Shard, now_ms: int) -> Iterator[SamplingEffect]:
        """An answer that came too late is one all the same, as long as nobody else gave the cell."""
        if cell not in self._open or peer not in self._asked[cell]:
            return
        try:
            if (shard.tile, shard.cell) != (self._tile, cell):
                raise Rejected(Reason.BAD_PROOF, "another cell than was asked for")
            checked = check_shard(self._manifest, shard)
        except Rejected:
            if self._is_asked_now(peer, cell):
                yield from self._go_on(cell, Fault.WRONG, now_ms)
            else:
                yield Accuse(peer, cell, Fault.WRONG)
            return
        del self._open[cell]
        self._answered += 1
        yield Fetched(checked)

    def _is_asked_now(self, peer: PeerId, cell: int) -> bool:
        return cell in self._open and self._open[cell].peer == peer

    def _go_on(self, cell: int, fault: Fault, now_ms: int) -> Iterator[SamplingEffect]:
        yield Accuse(self._open.pop(cell).peer, cell, fault)
        yield from self._ask(cell, now_ms)

    def _draw(self, now_ms: int) -> Iterator[SamplingEffect]:
        """As many cells as the plan says for what is lost so far; a cell that nobody keeps is lost at once."""
        while self._lost <= self._rule.forgiven_max and len(self._asked) < self._plan[self._lost]:
            cell = self._order[len(self._asked)]
            self._asked[cell] = []
            yield from self._ask(cell, now_ms)

    def _ask(self, cell: int, now_ms: int) -> Iterator[SamplingEffect]:
        left = [
            peer
            for peer in self._custodians.get(cell, ())
            if peer not in self._asked[cell] and self._times_asked[peer] < self._share
        ]
        if not left:
            self._lost += 1
            return
        peer = min(left, key=lambda each: (self._times_asked[each], self._place[each]))
        self._times_asked[peer] += 1
        self._asked[cell].append(peer)
        self._open[cell] = _Question(peer, now_ms + self._rule.timeout_ms)
        yield AskCell(peer, self._tile, cell)

    def _conclude(self) -> Iterator[SamplingEffect]:
        if self._lost > self._rule.forgiven_max:
            self._verdict = Verdict.UNAVAILABLE
        elif not self._open:
            self._verdict = Verdict.AVAILABLE
        if self._verdict is not None:
            self._open.clear()
            yield Concluded(self._verdict, self.statistics())
            return
        earliest_ms = min(question.deadline_ms for question in self._open.values())
        if earliest_ms != self._wake_ms:
            self._wake_ms = earliest_ms
            yield Wake(earliest_ms)
