"""What happened, for the report: each round with its losses, and tiles that came to another owner.

Beside the loss of the run stand those of its shadows (``simnet/shadow.py``), where there were villains: the learners whose
deltas were counted learn again without a network, merged by a plain average, and the honest of them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from protocol.ids import PeerId, TileId, short
from simnet.checkers.checker import Checker
from simnet.checkers.derivation import Derivation
from simnet.checkers.facts import DecidedHead, Facts, LossModel
from simnet.outcome import OwnerMove, RoundOutcome
from simnet.shadow import Shadow

LearnAgain = Callable[[Sequence[Collection[PeerId]], Shadow], list[float]]
"""Who gave a delta in each round -> the loss after each round: ``partial(shadow_losses, scenario, seed)``."""


@dataclass(slots=True)
class _Round:
    """Counted from heads of this round; they may come after the first peer closed it."""

    deltas: int = 0
    takeovers: int = 0
    tiles: set[TileId] = field(default_factory=set)  # counted, never iterated
    learners: set[PeerId] = field(default_factory=set)  # in no order
    closed_at: float | None = None
    loss: float = 0.0
    wan_bytes: int = 0
    local_bytes: int = 0
    loss_plain: float | None = None
    loss_honest: float | None = None


class Story(Checker):
    """Hears like a checker and judges nothing."""

    says = ""

    def __init__(
        self, facts: Facts, derivation: Derivation, valley: LossModel | None, learn_again: LearnAgain | None
    ) -> None:
        super().__init__(facts)
        self._derivation = derivation
        self._valley = valley
        self._learn_again = learn_again
        self._rounds: dict[int, _Round] = {}
        self._wan_bytes = self._local_bytes = 0  # all that was told
        self._wan_given = self._local_given = 0  # that closed rounds have
        self.moves: list[OwnerMove] = []
        self.first_loss = valley.loss(derivation.weights) if valley else None

    @property
    def rounds(self) -> list[RoundOutcome]:
        """Those that anybody closed, in order."""
        return [
            RoundOutcome(
                round=number,
                seconds=each.closed_at,
                loss=each.loss,
                deltas=each.deltas,
                tiles_advanced=len(each.tiles),
                takeovers=each.takeovers,
                wan_bytes=each.wan_bytes,
                local_bytes=each.local_bytes,
                learners=len(each.learners),
                loss_plain=each.loss_plain,
                loss_honest=each.loss_honest,
            )
            for number, each in sorted(self._rounds.items())
            if each.closed_at is not None
        ]

    def traffic(self, wan_bytes_total: int, local_bytes_total: int) -> None:
        """What was sent since the run began."""
        self._wan_bytes, self._local_bytes = wan_bytes_total, local_bytes_total

    def decided(self, decided: DecidedHead, now: float) -> None:
        head = decided.head
        tally = self._rounds.setdefault(head.round, _Round())
        tally.deltas += len(decided.counted)
        tally.takeovers += head.attempt > 0
        tally.tiles.add(head.tile)
        tally.learners.update(counted.learner for counted in decided.counted)
        before = self.facts.newest.get(head.tile)
        if before is not None and before.head.proposer != head.proposer:
            self.moves.append(OwnerMove(now, head.tile, short(before.head.proposer), short(head.proposer)))

    def closed(self, round_number: int, now: float) -> None:
        tally = self._rounds.setdefault(round_number, _Round())
        tally.closed_at = now
        tally.wan_bytes, self._wan_given = self._wan_bytes - self._wan_given, self._wan_bytes
        tally.local_bytes, self._local_given = self._local_bytes - self._local_given, self._local_bytes
        if self._valley is not None:
            tally.loss = self._valley.loss(self._derivation.weights)

    def finish(self, now: float) -> None:
        if self._learn_again is None or self._valley is None or not self.facts.scenario.villains:
            return
        present = [
            sorted(self._rounds[number].learners) if number in self._rounds else []
            for number in range(self.facts.open_round)
        ]
        plain, honest = (self._learn_again(present, shadow) for shadow in (Shadow.PLAIN, Shadow.HONEST))
        for number, tally in self._rounds.items():
            if number < self.facts.open_round:
                tally.loss_plain, tally.loss_honest = plain[number], honest[number]
