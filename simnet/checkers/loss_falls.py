"""The network learns."""

from __future__ import annotations

from simnet.checkers.checker import Checker
from simnet.checkers.facts import Facts
from simnet.checkers.story import Story


class LossFalls(Checker):
    """The loss of the last round against that of the genesis weights."""

    says = "The loss after the last round is at most the scenario's share of the loss before the first."

    def __init__(self, facts: Facts, story: Story) -> None:
        super().__init__(facts)
        self._story = story

    def finish(self, now: float) -> None:
        first, rounds = self._story.first_loss, self._story.rounds
        if first is None or not rounds:
            return
        self.tally.checks += 1
        last, share = rounds[-1].loss, self.facts.scenario.must_hold.loss_share_max
        if not last <= share * first:  # not a number is no success
            self.breach(
                now,
                f"the loss went from {first:.6g} to {last:.6g} in round {rounds[-1].round}, not below {share:g} of it",
            )
