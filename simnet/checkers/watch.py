r"""Where a world tells what happens, and where it is judged. The worlds call; nothing here is ever asked by a node.

    the world --> Watch --> Facts        what is known: blocks decoded once, heads, who runs
                       \--> checkers     one rule each
                       \--> Story        rounds and moves of owners, for the report

Calls come in the order of the run, with its time. A peer's repeated word costs some microseconds: the block that the first
peer finalized at a height is decoded once, and only checkers that want to hear of something are called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from protocol.codec import decode
from protocol.finality import Body, FinalizedBlock
from protocol.genesis import Genesis
from protocol.ids import Digest, PeerId, TileId, Version
from protocol.limits import BODY_BYTES_MAX
from protocol.rejection import Reason, Rejected
from simnet.checkers.all_applied import AllApplied
from simnet.checkers.chain_agrees import ChainAgrees
from simnet.checkers.checker import Checker
from simnet.checkers.counted_once import CountedOnce
from simnet.checkers.deltas import Deltas, counted_by
from simnet.checkers.derivation import Derivation
from simnet.checkers.facts import DecidedHead, Facts, FindBlob, KnownBlock, LossModel
from simnet.checkers.joined_state import JoinedState
from simnet.checkers.joiners_contribute import JoinersContribute
from simnet.checkers.kept_readable import KeptReadable
from simnet.checkers.loss_bounded import LossBounded
from simnet.checkers.loss_falls import LossFalls
from simnet.checkers.no_failure import NoFailure
from simnet.checkers.nothing_left_behind import NothingLeftBehind
from simnet.checkers.queues_bounded import QueuesBounded
from simnet.checkers.roots_derivable import RootsDerivable
from simnet.checkers.story import LearnAgain, Story
from simnet.checkers.tiles_owned import TilesOwned
from simnet.outcome import Invariant, OwnerMove, RoundOutcome
from simnet.scenario import Scenario

NAMES: Final = (
    "chain_agrees",
    "roots_derivable",
    "counted_once",
    "tiles_owned",
    "all_applied",
    "queues_bounded",
    "nothing_left_behind",
    "no_failure",
    "joiners_contribute",
    "loss_falls",
    "loss_bounded",
    "joined_state",
    "kept_readable",
)


def check_names(names: Collection[str]) -> None:
    """Raises ``Rejected(BAD_CONFIG)`` for an invariant that nobody checks."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise Rejected(Reason.BAD_CONFIG, f"no invariant {unknown[0]!r}; there are {', '.join(NAMES)}")


class Watch:
    """Sees a run and decides whether what must hold did. It does its own arithmetic and keeps its own books.

    ``invariants`` are those that the scenario names (all if it names none), ``unjudged`` the tallies of the others.
    ``find_blob`` finds what anybody ever stored in this world. Without ``valley`` there are no losses. ``learn_again`` is
    ``partial(shadow_losses, scenario, seed)``: when a run with villains is over it gives the losses of its shadows.

    Raises ``Rejected(BAD_CONFIG)`` if the scenario names an invariant that is not there.
    """

    def __init__(
        self,
        genesis: Genesis,
        scenario: Scenario,
        find_blob: FindBlob,
        valley: LossModel | None = None,
        learn_again: LearnAgain | None = None,
    ) -> None:
        check_names(scenario.must_hold.invariants)
        self._facts = facts = Facts(genesis, scenario)
        self._find_blob = find_blob
        derivation = Derivation(genesis, facts.tile_map, Deltas(genesis, find_blob))
        self._story = Story(facts, derivation, valley, learn_again)
        self._chain = ChainAgrees(facts)
        checkers: dict[str, Checker] = {
            "chain_agrees": self._chain,
            "roots_derivable": RootsDerivable(facts, derivation),
            "counted_once": CountedOnce(facts),
            "tiles_owned": TilesOwned(facts),
            "all_applied": AllApplied(facts),
            "queues_bounded": QueuesBounded(facts),
            "nothing_left_behind": NothingLeftBehind(facts),
            "no_failure": NoFailure(facts),
            "joiners_contribute": JoinersContribute(facts),
            "loss_falls": LossFalls(facts, self._story),
            "loss_bounded": LossBounded(facts, self._story),
            "joined_state": JoinedState(facts),
            "kept_readable": KeptReadable(facts),
        }
        judged = scenario.must_hold.invariants or NAMES
        self.invariants: dict[str, Invariant] = {name: checkers[name].tally for name in NAMES if name in judged}
        self.unjudged: dict[str, Invariant] = {name: checkers[name].tally for name in NAMES if name not in judged}
        # The story goes between those that derive and those that look at its losses.
        everybody = [*checkers.values()]
        everybody.insert(NAMES.index("loss_falls"), self._story)
        self._hears = {name: _hearing(everybody, name) for name in _EVENTS}

    @property
    def rounds(self) -> list[RoundOutcome]:
        """The rounds that anybody closed, in order."""
        return self._story.rounds

    @property
    def moves(self) -> list[OwnerMove]:
        """Heads of a tile that came from another proposer than the one before."""
        return self._story.moves

    # -- who is there ---------------------------------------------------------------------------------------------------

    def arrived(self, peer: PeerId, now: float, *, is_new: bool, learns: bool = True) -> None:
        """A peer's process runs; ``is_new``: for the first time. Of one that does not learn no delta is expected."""
        known = self._facts.peer(peer, now)
        known.runs, known.learns, known.is_fresh = True, learns, True
        known.since = known.started_at = now
        if is_new:
            known.arrived_at, known.arrived_in = now, self._facts.open_round
        else:
            known.lives += 1
        for hear in self._hears["arrived"]:
            hear(known, now)

    def left(self, peer: PeerId, now: float) -> None:
        """A peer's process is gone."""
        known = self._facts.peer(peer, now)
        known.runs = False
        for hear in self._hears["left"]:
            hear(known, now)

    def began(self, peer: PeerId, oldest: int, height: int, state_root: Digest, now: float) -> None:
        """A peer's node begins, with blocks of these heights, and after the last of them with such a state."""
        known = self._facts.peer(peer, now)
        for hear in self._hears["began"]:
            hear(known, oldest, height, state_root, now)

    def hindered(self, peer: PeerId, now: float, is_hindered: bool) -> None:
        """The world keeps a peer from its work (its region is cut off, its disk is full), or does no longer.

        Nothing is expected of it meanwhile; afterwards it has as long as one that has just arrived.
        """
        known = self._facts.peer(peer, now)
        known.is_hindered, known.since = is_hindered, now

    def quorum_possible(self, now: float, possible: bool) -> None:
        """Whether more than two thirds of the validators run and reach each other. Until the first word they do."""
        for hear in self._hears["quorum"]:
            hear(possible, now)

    # -- what they do ---------------------------------------------------------------------------------------------------

    def finalized(self, peer: PeerId, block: FinalizedBlock, now: float) -> None:
        """That peer stored this final block."""
        facts, height, name = self._facts, block.header.height, block.header.digest()
        known = facts.peer(peer, now)
        first = facts.blocks.get(height)
        is_first = first is None
        if first is None:
            first = facts.blocks[height] = KnownBlock(name, block.header.state_root, block.body, peer, now)
            facts.tip = max(facts.tip, height)
        for hear in self._hears["finalized"]:
            hear(known, block, name, first, now)
        known.height, known.is_fresh = height, False
        if is_first:
            self._decide(block, peer, now)

    def _decide(self, block: FinalizedBlock, peer: PeerId, now: float) -> None:
        facts = self._facts
        try:
            body = decode(Body, block.body, limit_bytes=BODY_BYTES_MAX)
        except Rejected as refusal:
            self._chain.breach(now, f"the final body of height {block.header.height} is none: {refusal}")
            return
        for head in body.heads:
            decided = DecidedHead(head, block.header.height, peer, now, counted_by(head.deltas, self._find_blob))
            for hear in self._hears["decided"]:
                hear(decided, now)
            facts.heads.setdefault(head.tile, {}).setdefault(head.version, decided)
            facts.newest[head.tile] = decided

    def applied(self, peer: PeerId, tile: TileId, version: Version, root: Digest, now: float) -> None:
        """That peer wrote this version of a tile."""
        known = self._facts.peer(peer, now)
        for hear in self._hears["applied"]:
            hear(known, tile, version, root, now)
        known.versions[tile] = version

    def round_closed(self, peer: PeerId, round_number: int, now: float) -> None:
        """That peer closed a round."""
        facts = self._facts
        if round_number < facts.open_round:
            return
        facts.open_round = round_number + 1
        facts.closed_at[round_number] = now
        for hear in self._hears["closed"]:
            hear(round_number, now)

    # -- what the world measures ----------------------------------------------------------------------------------------

    def queue(self, peer: PeerId, name: str, length: int, length_max: int, now: float) -> None:
        """A sample of an inbound queue."""
        known = self._facts.peer(peer, now)
        for hear in self._hears["sampled"]:
            hear(known, name, length, length_max, now)

    def kept(self, what: str, tile: int, cells: int, needed: int, now: float) -> None:
        """How many different cells of a recorded tile those that run have on their disks, and how many rebuild it."""
        for hear in self._hears["kept"]:
            hear(what, tile, cells, needed, now)

    def traffic(self, now: float, wan_bytes_total: int, local_bytes_total: int) -> None:
        """What crossed regions, and what did not, since the run began. Told before a round closes, the round gets the rest."""
        self._story.traffic(wan_bytes_total, local_bytes_total)

    def left_behind(self, peer: PeerId, what: str, now: float) -> None:
        """A stopped node left a task, a stream or a connection open."""
        known = self._facts.peer(peer, now)
        for hear in self._hears["left_behind"]:
            hear(known, what, now)

    def failed(self, peer: PeerId, why: str, now: float) -> None:
        """A node ended with an exception."""
        known = self._facts.peer(peer, now)
        for hear in self._hears["failed"]:
            hear(known, why, now)

    def finish(self, now: float, running: Collection[PeerId]) -> None:
        """The run is over, and these peers run."""
        for peer in sorted(running):
            self._facts.peer(peer, now)
        at_the_end = frozenset(running)  # asked only "is it in"
        for peer, known in self._facts.peers.items():
            known.runs = peer in at_the_end
        for hear in self._hears["finish"]:
            hear(now)


_EVENTS: Final = (
    "arrived",
    "left",
    "began",
    "finalized",
    "decided",
    "applied",
    "closed",
    "sampled",
    "kept",
    "left_behind",
    "failed",
    "quorum",
    "finish",
)


def _hearing(checkers: Collection[Checker], event: str) -> list[Callable[..., Any]]:
    """Of those that override it, in order."""
    silent = getattr(Checker, event)
    return [getattr(each, event) for each in checkers if getattr(type(each), event) is not silent]
