"""Wrong machines, each with one rule removed: the generator must notice every one (chain.md 2.13)."""

from __future__ import annotations

from consensus.finality.core import FinalityCore
from consensus.finality.signer import VoteSigner
from protocol.finality import Header, VoteKind
from protocol.ids import Digest, View
from protocol.roster import Roster
from tests.consensus.finality.world import Mutant


class SignerWithoutS2(VoteSigner):
    """Signs NULLIFY and FINALIZE in one view."""

    def _contradicts(self, view: View, kind: VoteKind, block: Digest) -> bool:
        said = self._said.get(view, {})
        if kind is VoteKind.NOTARIZE or kind in said:
            return super()._contradicts(view, kind, block)
        notarized = said.get(VoteKind.NOTARIZE)
        return kind is VoteKind.FINALIZE and notarized is not None and notarized.block != block


class RosterWithSmallQuorum(Roster, frozen=True):
    """Takes 2f votes of 3f + 1 for a quorum."""

    def is_quorum(self, weight: int) -> bool:
        return weight >= 2 * ((self.weight_total - 1) // 3)


class CoreWithoutSkipCheck(FinalityCore):
    """Believes a proposal that steps over views without nullifications (R3)."""

    def _check_skips(self, header: Header) -> None:
        pass


class CoreWithoutRetry(FinalityCore):
    """Says everything once (R8)."""

    def _speak_again(self) -> None:
        pass


MUTANTS = {
    "S2 removed": Mutant(signer=SignerWithoutS2),
    "quorum 2f": Mutant(roster=RosterWithSmallQuorum),
    "R3 without skip check": Mutant(core=CoreWithoutSkipCheck),
    "journal lost": Mutant(forgets_journal=True),
    "R8 removed": Mutant(core=CoreWithoutRetry),
}
