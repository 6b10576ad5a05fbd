"""Wrong engines, each with one rule removed: the generator must notice every one."""

from __future__ import annotations

from dataclasses import replace

from consensus.events import DeltasArrived, StartLearning, VerifyHeads
from consensus.execution import Execution
from consensus.rounds import RoundMachine
from protocol.ids import Digest
from tests.consensus.world import Mutant


class CountsAgain(RoundMachine):
    """Takes a delta that its tile's head lists already."""

    def _on_deltas(self, event: DeltasArrived, now: int) -> list:
        for delta in event.deltas:
            self._tiles[delta.tile].candidates.setdefault(delta.key, delta)
        return []


class SpeaksTwice(RoundMachine):
    """Lets the learner make a second delta on one version."""

    def _maybe_learn(self, now) -> list:
        return [
            replace(each, withheld=()) if isinstance(each, StartLearning) else each
            for each in super()._maybe_learn(now)
        ]


class ForgetsFates(RoundMachine):
    """Believes that a learner which was told of a fate has journaled it."""

    def _maybe_learn(self, now) -> list:
        effects = super()._maybe_learn(now)
        if effects:
            self._merged_own, self._lost_own = [], []
        return effects


class NeverGivesUp(RoundMachine):
    """Stays in a round until every tile is decided."""

    def _maybe_give_up(self, now: int) -> list:
        return []


class ForgetsWhatIsInside(RoundMachine):
    """Settles fates by what heads list themselves."""

    def _seal_fate(self, digest: Digest) -> None:
        tile = self._tiles[self._own[digest].delta.tile]
        listed = tile.at.head.deltas if tile.at.head else ()
        tile._counted = frozenset(reference.delta for reference in listed)
        super()._seal_fate(digest)


class VotesUnseen(Execution):
    """Votes for heads whose update it does not hold."""

    def _ask(self) -> list[VerifyHeads]:
        for pooled in self._pool.values():
            pooled.verdict = True
        return []


MUTANTS = {
    "counts again": Mutant(rounds=CountsAgain),
    "speaks twice": Mutant(rounds=SpeaksTwice),
    "forgets fates": Mutant(rounds=ForgetsFates),
    "never gives up": Mutant(rounds=NeverGivesUp),
    "votes unseen": Mutant(execution=VotesUnseen),
    "proposals journal lost": Mutant(forgets="proposals"),
    "ledger not asked what was counted": Mutant(forgets="counted"),
    "second aggregate after a restart": Mutant(forgets="aggregates"),
    "direct and in an aggregate": Mutant(rounds=ForgetsWhatIsInside),
}
