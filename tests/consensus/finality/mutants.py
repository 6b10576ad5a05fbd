"""Wrong machines, each with one rule removed: the generators must notice every one (chain.md 2.13).

``make mutants`` prints which generator notices which, at which seed. A rule whose absence only one generator sees hangs on
that generator; one that none sees is not tested.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from consensus.finality import tally
from consensus.finality.core import FinalityCore
from consensus.finality.events import Evidence, EvidenceKind, Finalized, StoreBlocks
from consensus.finality.signer import ExecutedBlock, SignedVote, VoteSigner
from consensus.finality.tally import CheckedCertificate
from protocol.finality import FinalizedBlock, Vote, VoteKind
from protocol.ids import Digest, View
from protocol.roster import Roster
from simnet.finality.checkers import Broken
from simnet.finality.disk import Disk
from simnet.finality.members import Machine
from simnet.finality.options import ALMOST_CALM, CALM, Options
from simnet.finality.villains import VILLAINS
from simnet.finality.world import World

SEEDS = 40  # of each generator


class SignerWithoutS2(VoteSigner):
    """Signs NULLIFY and FINALIZE in one view."""

    def _contradicts(self, view: View, kind: VoteKind, block: Digest) -> bool:
        said = self._said.get(view, {})
        if kind is VoteKind.NOTARIZE or kind in said:
            return super()._contradicts(view, kind, block)
        notarized = said.get(VoteKind.NOTARIZE)
        return kind is VoteKind.FINALIZE and notarized is not None and notarized.block != block


class SignerWithoutS3(VoteSigner):
    """Finalizes what is notarized, whatever it notarized itself."""

    def finalize(self, notarization: CheckedCertificate, block: ExecutedBlock) -> SignedVote | None:
        return self._sign(notarization.view, VoteKind.FINALIZE, block)

    def _contradicts(self, view: View, kind: VoteKind, block: Digest) -> bool:
        said = self._said.get(view, {})
        if kind is VoteKind.FINALIZE:
            return kind in said or VoteKind.NULLIFY in said
        return super()._contradicts(view, kind, block)


class RosterWithSmallQuorum(Roster, frozen=True):
    """Takes 2f votes of 3f + 1 for a quorum."""

    def is_quorum(self, weight: int) -> bool:
        return weight >= 2 * ((self.weight_total - 1) // 3)


class CoreWithoutSkipCheck(FinalityCore):
    """Believes a proposal that steps over views without nullifications (R3)."""

    def _check_skips(self, above: View, below: View) -> None:
        pass


class CoreWithoutRetry(FinalityCore):
    """Says everything once (R8)."""

    def _speak_again(self) -> None:
        pass


class CoreThatAccusesTheCautious(FinalityCore):
    """Takes NOTARIZE then NULLIFY, which every honest voter says at a timeout, for a contradiction."""

    def _on_vote(self, vote: Vote) -> None:
        said = self._tally._views.get(vote.view)
        earlier = said.by_member.get(vote.signer, {}).get(VoteKind.NOTARIZE) if said else None
        super()._on_vote(vote)
        if vote.kind is VoteKind.NULLIFY and earlier is not None and tally.find_contradiction(earlier, vote) is None:
            self._report(Evidence(EvidenceKind.E3, self._term.peer(vote.signer), earlier, vote))


class CoreThatFinalizesTwice(FinalityCore):
    """Says every final block again."""

    def _advance(self, blocks: Sequence[FinalizedBlock]) -> None:
        super()._advance(blocks)
        self._effects.append(Finalized(tuple(blocks)))


class DiskWithoutBodies(Disk):
    """Answers before it has written (S5)."""

    def store(self, effect: StoreBlocks) -> None:
        super().store(replace(effect, blocks=()))


MUTANTS = {
    "S2 removed": Machine(signer=SignerWithoutS2),
    "S3 removed": Machine(signer=SignerWithoutS3),
    "S5 removed": Machine(disk=DiskWithoutBodies),
    "quorum 2f": Machine(roster=RosterWithSmallQuorum),
    "R3 without skip check": Machine(core=CoreWithoutSkipCheck),
    "journal lost": Machine(forgets_journal=True),
    "R8 removed": Machine(core=CoreWithoutRetry),
    "accuses the cautious": Machine(core=CoreThatAccusesTheCautious),
    "finalizes twice": Machine(core=CoreThatFinalizesTwice),
}

CRASHES = replace(CALM, loss=0.1, crashes=5, cut=0.01)

# Name -> what seed n draws. A villain alone: what it does shows best when little else goes wrong.
GENERATORS: dict[str, Callable[[int], Options]] = {
    "swarm": lambda seed: Options.draw(random.Random(seed)),
    "crashes": lambda seed: CRASHES,
    **{name: lambda seed, name=name: replace(ALMOST_CALM, villain=name) for name in VILLAINS},
}


def find_break(machine: Machine, generator: str, seed: int, *, over: bool = False) -> Broken | None:
    """What a checker says of this machine in one world; None if it sees nothing."""
    try:
        World(seed, 4, GENERATORS[generator](seed), machine, over=over).run()
    except Broken as broken:
        return broken
    return None


def main() -> None:
    """The table: for each mutant and generator the first seed that notices it, or a dash after ``SEEDS``."""
    width = max(map(len, MUTANTS)) + 2
    print("".join(("mutant".ljust(width), *(name.rjust(len(name) + 2) for name in GENERATORS), "  rules")))
    for name, machine in MUTANTS.items():
        cells, rules = [], dict[str, None]()
        for generator in GENERATORS:
            broken = ((seed, find_break(machine, generator, seed)) for seed in range(SEEDS))
            first = next(((seed, found) for seed, found in broken if found is not None), None)
            cells.append(("-" if first is None else f"@{first[0]}").rjust(len(generator) + 2))
            if first is not None:
                rules[first[1].rule.value] = None
        print("".join((name.ljust(width), *cells, "  ", ", ".join(rules) or "SURVIVES")), flush=True)


if __name__ == "__main__":
    main()
