"""Every published root follows from its parent and the deltas that it names."""

from __future__ import annotations

from simnet.checkers.checker import Checker
from simnet.checkers.deltas import Underivable
from simnet.checkers.derivation import Derivation
from simnet.checkers.facts import DecidedHead, Facts


class RootsDerivable(Checker):
    """Merges again and applies again, once for each final head."""

    says = "Every final root follows from its parent and the signed deltas that its head names, bit by bit."

    def __init__(self, facts: Facts, derivation: Derivation) -> None:
        super().__init__(facts)
        self._derivation = derivation

    def decided(self, decided: DecidedHead, now: float) -> None:
        self.tally.checks += 1
        try:
            self._derivation.derive(decided.head)
        except Underivable as why:
            self.breach(now, f"{decided}: {why}")
