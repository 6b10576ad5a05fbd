"""Wrong machines, each with one rule removed: the generators must notice every one (chain.md 2.13).

``make mutants`` prints which generator notices which, at which seed. A rule whose absence only one generator sees hangs on
that generator; one that none sees is not tested.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from msgspec.structs import replace as replace_message

from consensus.finality import tally
from consensus.finality.core import FinalityCore
from consensus.finality.epochs import Term
from consensus.finality.events import Anchor, Evidence, EvidenceKind, Finalized, StoreBlocks
from consensus.finality.signer import ExecutedBlock, JournalState, SignedVote, VoteRecord, VoteSigner
from consensus.finality.tally import CheckedCertificate, Tally
from consensus.finality.tree import Ground, Parent, Tree
from consensus.state import BEACON_MIX, BeaconMix, State
from protocol.digest import Domain, digest, number
from protocol.finality import Certificate, FinalizedBlock, Header, Proposal, ValidatorMessage, Vote, VoteKind, vote_text
from protocol.ids import Digest, Epoch, PeerId, View
from protocol.rejection import Rejected
from protocol.roster import Roster
from protocol.transactions import SignedTransaction
from simnet.finality.disk import Disk
from simnet.finality.ledger import Application, Outcome, Rows, Site
from simnet.finality.members import Machine
from simnet.finality.options import ALMOST_CALM, BOUNDARIES, CALM, Options
from simnet.finality.villains import VILLAINS
from simnet.finality.villains.replayer import OTHER_FORK
from simnet.finality.watch import Broken
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


class TreeWithoutSkipCheck(Tree):
    """Believes a proposal that steps over views without nullifications (R3)."""

    def check_skips(self, above: View, below: View) -> None:
        pass


def core_with(tree: type[Tree]) -> type[FinalityCore]:
    """A machine that asks this tree."""

    class CoreWithTree(FinalityCore):
        def _make_tree(self, term: Term, final: Anchor) -> Tree:
            return tree(term, final)

    return CoreWithTree


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


class CoreThatCountsHeads(FinalityCore):
    """Gives every member the same weight, whatever is at stake."""

    def _make_tally(self, roster: Roster) -> Tally:
        return super()._make_tally(replace_message(roster, weights=(1,) * len(roster.members)))


class CoreWithOldSet(FinalityCore):
    """Counts votes by the roster of the epoch before."""

    def _make_tally(self, roster: Roster) -> Tally:
        before = getattr(self, "_before", roster)
        self._before = roster
        return super()._make_tally(replace_message(before, epoch=roster.epoch))

    def _count(self, vote: Vote) -> None:
        if vote.signer < len(self._tally._roster.members):
            super()._count(vote)


class TreeThatChangesTheBoundary(Tree):
    """Makes a new boundary block where one is notarized already, and takes that view for one that may be stepped over."""

    def choose_parent(self, view: View) -> Parent | None:
        parent = super().choose_parent(view)
        if parent is not None and parent.height == self.term.boundary:
            return self.find_parent(parent.header) if parent.header else None
        return parent

    def check_skips(self, above: View, below: View) -> None:
        for view in range(above + 1, below):
            certificate = self.certificates.find_block(View(view))
            entry = self.entries.get(certificate.block) if certificate else None
            if entry is None or entry.header.height != self.term.boundary:
                super().check_skips(View(view - 1), View(view + 1))


class TreeThatTakesAnyHeaderAgain(Tree):
    """Believes that a block is the boundary block proposed again because a certificate of some block came with it."""

    def find_ground(self, proposal: Proposal) -> Ground:
        certificate = proposal.parent_certificate
        if not self.is_again(proposal) or certificate is None or certificate.kind is VoteKind.NULLIFY:
            return super().find_ground(proposal)
        return Ground(certificate.view, certificate.block)


class TreeWithoutNextRosterCheck(Tree):
    """Finds headers good whatever they say of the next epoch's members."""

    def check_header(self, header: Header) -> None:
        super().check_header(replace_message(header, next_roster=self.term.next_digest))


class CoreThatTakesOldCertificates(FinalityCore):
    """Takes a certificate of the epoch before for one of this epoch's view of the same number."""

    def _on_earlier(self, sender: PeerId | None, message: ValidatorMessage, epoch: Epoch) -> None:
        super()._on_earlier(sender, message, epoch)
        if isinstance(message, Certificate) and self._past is not None and epoch == self._past.term.epoch:
            self._install(tally.check_certificate(message, self._past.term.roster, self._chain, self._verify))


class TallyOfAnyFork(Tally):
    """Does not ask on which fork a vote was signed."""

    def add(self, vote: Vote) -> tally.Added:
        text = vote_text(OTHER_FORK, vote.epoch, vote.view, vote.kind, vote.block)
        known = vote.epoch == self._roster.epoch and vote.signer < len(self._roster.members)
        if known and self._verify(self._roster.members[vote.signer].vote, text, vote.signature):
            return self.count(vote)
        return super().add(vote)


class CoreOfAnyFork(FinalityCore):
    """Takes votes of another fork for evidence."""

    def _make_tally(self, roster: Roster) -> Tally:
        return TallyOfAnyFork(roster, self._chain, self._verify)


class SignerOfOneEpoch(VoteSigner):
    """Reads its journal as if every floor were of the first epoch."""

    def _remember(self, record: VoteRecord) -> None:
        super()._remember(replace_message(record, epoch=Epoch(0)))


class DiskWithoutBodies(Disk):
    """Answers before it has written (S5)."""

    def store(self, effect: StoreBlocks) -> None:
        super().store(replace(effect, blocks=()))


class DiskWithoutDirectorySync(Disk):
    """Leaves it to luck when the name of a new journal lasts (cometbft#6031)."""

    def sync_directory(self) -> None:
        pass


class DiskThatCutsDamageOff(Disk):
    """Takes what comes before the damage for the whole vote journal."""

    def open_journal(self) -> tuple[list[bytes], JournalState]:
        records, state = super().open_journal()
        if state is not JournalState.DAMAGED:
            return records, state
        self.rename_journal(tuple(records))
        self.sync_directory()
        return records, JournalState.CLEAN


class SpoiltApplication(Application):
    """Changes each state that a body leads to, whoever executes it."""

    def _build(self, state: State, site: Site, candidates: Sequence[SignedTransaction]) -> tuple[bytes, State]:
        body, after = super()._build(state, site, candidates)
        return body, self._spoil(after, site)

    def _apply(self, state: State, site: Site, body: bytes) -> State:
        return self._spoil(super()._apply(state, site, body), site)

    def _spoil(self, state: State, site: Site) -> State:
        raise NotImplementedError


class ApplicationThatMints(SpoiltApplication):
    """Pays a proposer that has an account for its block, and takes that from nobody; the totals say what they should."""

    def _spoil(self, state: State, site: Site) -> State:
        return State(state.add_balance(self._context(state, site).proposer, 1).trees, state.supply)


class ApplicationThatForgetsWhatBurned(SpoiltApplication):
    """Keeps no account of burned fees, and takes them from what was ever minted, so that the totals agree."""

    def _spoil(self, state: State, site: Site) -> State:
        minted_nano = state.supply.minted_nano - state.supply.burned_nano
        return State(state.trees, replace_message(state.supply, burned_nano=0, minted_nano=minted_nano)).sealed()


class ApplicationThatCounts(SpoiltApplication):
    """Lets the state depend on how many bodies this process has executed."""

    executed = 0

    def _spoil(self, state: State, site: Site) -> State:
        self.executed += 1
        return state.put(BEACON_MIX, BeaconMix(digest(Domain.BEACON, number(self.executed))))


class ApplicationThatBelievesHeaders(Application):
    """Executes a block and takes the header's word for its root."""

    def _execute(self, parent: State, header: Header, roster: Roster, body: bytes) -> Outcome:
        outcome = self._ask(parent, Site.of(header, roster), body)
        if isinstance(outcome, Rejected):
            raise Rejected(outcome.reason)
        return replace(outcome, root=header.state_root)


@dataclass
class DiskThatWritesRowsLate(Disk):
    """Writes what a block made of the state together with the next block."""

    held: Rows = ()

    def write_rows(self, rows: Rows) -> None:
        super().write_rows(self.held)
        self.held = rows


MUTANTS = {
    "S2 removed": Machine(signer=SignerWithoutS2),
    "S3 removed": Machine(signer=SignerWithoutS3),
    "S5 removed": Machine(disk=DiskWithoutBodies),
    "quorum 2f": Machine(roster=RosterWithSmallQuorum),
    "directory not synced": Machine(disk=DiskWithoutDirectorySync),
    "damaged journal cut off": Machine(disk=DiskThatCutsDamageOff),
    "R3 without skip check": Machine(core=core_with(TreeWithoutSkipCheck)),
    "journal lost": Machine(forgets_journal=True),
    "R8 removed": Machine(core=CoreWithoutRetry),
    "accuses the cautious": Machine(core=CoreThatAccusesTheCautious),
    "finalizes twice": Machine(core=CoreThatFinalizesTwice),
    "stake weights ignored": Machine(core=CoreThatCountsHeads),
    "old validator set accepted": Machine(core=CoreWithOldSet),
    "old certificates accepted": Machine(core=CoreThatTakesOldCertificates),
    "boundary block changed": Machine(core=core_with(TreeThatChangesTheBoundary)),
    "boundary header changed": Machine(core=core_with(TreeThatTakesAnyHeaderAgain)),
    "next roster not checked": Machine(core=core_with(TreeWithoutNextRosterCheck)),
    "epoch of the floor forgotten": Machine(signer=SignerOfOneEpoch),
    "evidence from another fork": Machine(core=CoreOfAnyFork),
    "money minted": Machine(application=ApplicationThatMints),
    "burned fees forgotten": Machine(application=ApplicationThatForgetsWhatBurned),
    "state counts executions": Machine(application=ApplicationThatCounts),
    "state root not compared": Machine(application=ApplicationThatBelievesHeaders),
    "rows written late": Machine(disk=DiskThatWritesRowsLate),
}

CRASHES = replace(CALM, loss=0.1, crashes=5, cut=0.01)
DISKS = replace(CRASHES, crashes=12, bit_flips=0.6, journal_records_max=0, lost_renames=True)


def _around(seed: int) -> Options:
    """What a villain has around it: every other seed with short epochs, of changing members."""
    return BOUNDARIES if seed % 2 else ALMOST_CALM


# Name -> what seed n draws. A villain alone: what it does shows best when little else goes wrong.
GENERATORS: dict[str, Callable[[int], Options]] = {
    "swarm": lambda seed: Options.draw(random.Random(seed)),
    "crashes": lambda seed: CRASHES,
    "disks": lambda seed: DISKS,
    "boundaries": lambda seed: BOUNDARIES,
    **{name: lambda seed, name=name: replace(_around(seed), villain=name) for name in VILLAINS},
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
