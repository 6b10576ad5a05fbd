"""Villains cost little: the loss stays near what the honest among its learners reach without them."""

from __future__ import annotations

from simnet.checkers.checker import Checker
from simnet.checkers.facts import Facts
from simnet.checkers.story import Story


class LossBounded(Checker):
    """The last round's loss against that of the honest shadow, which has no network either (``simnet/shadow.py``)."""

    says = "The loss after the last round exceeds that of the honest learners alone by at most the scenario's share."

    def __init__(self, facts: Facts, story: Story) -> None:
        super().__init__(facts)
        self._story = story

    def finish(self, now: float) -> None:
        cost_max, rounds = self.facts.scenario.must_hold.loss_cost_max, self._story.rounds
        if cost_max is None or not rounds or rounds[-1].loss_honest is None:
            return
        self.tally.checks += 1
        last, honest = rounds[-1].loss, rounds[-1].loss_honest
        if not last <= honest * (1 + cost_max):
            self.breach(
                now,
                f"the loss of round {rounds[-1].round} is {last:.6g}, {last / honest - 1:.1%} above the {honest:.6g} "
                f"without villains; at most {cost_max:.1%}",
            )
