"""What must hold in a world of engines, in its own words. It watches disks and messages and asks no machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import replace as replace_rules
from typing import TYPE_CHECKING

from consensus import events as e
from consensus.execution import Execution
from consensus.history import segments_between
from consensus.state import HISTORY, State, load_state
from protocol.codec import decode
from protocol.digest import blob_digest
from protocol.finality import NO_BLOCK, Body, FinalizedBlock
from protocol.ids import Digest, Height, PeerId, TileId, Version
from protocol.learning import check_contributors
from protocol.limits import BODY_BYTES_MAX
from protocol.rejection import Reason
from protocol.roster import Head, Slot
from simnet.finality.audit import count_money
from tests.consensus.genesis import BLOCK_RULES, TICKS, genesis_roots, is_history, make_genesis, make_update, next_root

if TYPE_CHECKING:
    from tests.consensus.world import Peer, World


class Broken(Exception):
    """The oracle saw a rule broken."""


@dataclass
class _Account:
    """One delta's life, as its learner's disk and the chain tell it."""

    delta: e.Delta
    merged_told: bool = False
    lost_told: bool = False
    merged_in: Slot | None = None


class Oracle:
    """Watches disks and what is said; knows the rules in its own words and asks no machine."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.chain: list[Digest] = []
        self.roots: dict[Slot, Digest] = {Slot(t, Version(0)): root for t, root in genesis_roots(world.tiles).items()}
        self.decided: dict[Slot, Head] = {}
        self.values: dict[tuple[PeerId, Slot, int], Digest] = {}  # by epoch
        self.accounts: dict[Digest, _Account] = {}
        self.aggregates: dict[Digest, e.Delta] = {}
        self.bases: set[tuple[PeerId, TileId, Version]] = set()  # asked only "is it in"
        self.looks = 0
        self.acknowledged: dict[Digest, int] = {}  # payments, and by whom
        self.paid: dict[Digest, Reason | None] = {}

    def on_learned(self, learner: Peer, request: e.StartLearning, deltas: Iterable[e.Delta]) -> None:
        """The learner's row: what it settles must be so, and must not have been settled before."""
        outstanding = {delta.digest for delta in learner.disk.learner.outstanding}
        for name in request.merged:
            account = self.accounts[name]
            if account.merged_in is None or account.lost_told or account.merged_told:
                raise Broken(f"peer {learner.index} is told that a delta was merged: {account}")
            account.merged_told = True
        for name in request.lost:
            account = self.accounts[name]
            if account.merged_in is not None or account.lost_told or account.merged_told:
                raise Broken(f"peer {learner.index} takes back a delta: {account}")
            account.lost_told = True
        if not {*request.merged, *request.lost} <= outstanding:
            raise Broken("a delta is settled that the learner does not know")
        for delta in deltas:
            if (delta.learner, delta.tile, delta.base) in self.bases:
                raise Broken(f"peer {learner.index} makes a second delta on {delta.tile} version {delta.base}")
            self.bases.add((delta.learner, delta.tile, delta.base))
            self.accounts[delta.digest] = _Account(delta)

    def _of(self, learner: PeerId) -> list[_Account]:
        return [account for account in self.accounts.values() if account.delta.learner == learner]

    def on_aggregated(self, made: e.Delta) -> None:
        """One delta of each learner, each on the aggregate's base, with what it weighs."""
        for each in made.contributors:
            inside = self.accounts[each.delta].delta
            if (inside.tile, inside.base, inside.learner) != (made.tile, made.base, each.learner):
                raise Broken(f"an aggregate holds a delta of something else: {made}")
        check_contributors(made.contributors, made.tokens)
        self.aggregates[made.digest] = made

    def find_delta(self, name: Digest) -> e.Delta:
        """A delta, or an aggregate, by its name."""
        return self.aggregates[name] if name in self.aggregates else self.accounts[name].delta

    def on_proposed(self, peer: Peer, head: Head) -> None:
        """Published: derivable from its parent and its deltas, and the only value of its proposer in an epoch."""
        if self.values.setdefault((peer.id, head.slot, head.epoch), head.digest()) != head.digest():
            raise Broken(f"peer {peer.index} signs two values for {head.slot}")
        update = make_update(reference.delta for reference in head.deltas)
        parent = self.roots.get(Slot(head.tile, Version(head.version - 1)))
        derived = blob_digest(update) == head.update and next_root(head.parent_root, head.update) == head.root
        if not derived or parent != head.parent_root:
            raise Broken(f"the root of {head.slot} does not follow from its parent and deltas")

    def on_finalized(self, peer: Peer, block: FinalizedBlock) -> None:
        height, name = int(block.header.height), block.header.digest()
        if height != len(peer.disk.ledger) + 1:
            raise Broken(f"peer {peer.index} has {len(peer.disk.ledger)} blocks and finalizes height {height}")
        if height <= len(self.chain):
            if self.chain[height - 1] != name:
                raise Broken(f"two blocks are final at height {height}")
            return
        self.chain.append(name)
        for head in decode(Body, block.body, limit_bytes=BODY_BYTES_MAX).heads:
            self._on_decided(head)

    def _on_decided(self, head: Head) -> None:
        if head.slot in self.decided:
            raise Broken(f"{head.slot} is decided twice")
        self.decided[head.slot] = head
        self.on_root(head.slot, head.root)
        if not head.deltas:
            raise Broken(f"{head.slot} is decided without a delta")
        for reference in head.deltas:
            if reference.contributors:
                inside = self.aggregates[reference.delta].contributors
                if reference.contributors != tuple(sorted(each.delta for each in inside)):
                    raise Broken(f"{head.slot} names other contributors than the aggregate has")
            for name in reference.contributors or (reference.delta,):
                account = self.accounts[name]
                if account.merged_in is not None or account.lost_told:
                    raise Broken(f"{head.slot} counts a delta again: {account}")
                account.merged_in = head.slot
        holders = [peer for peer in self.world.peers if peer.is_member and head.update in peer.disk.blobs]
        if 3 * len(holders) <= self.world.count:
            raise Broken(f"{head.slot} is decided and {len(holders)} members hold its update")

    def on_root(self, slot: Slot, root: Digest) -> None:
        if self.roots.setdefault(slot, root) != root:
            raise Broken(f"{slot} has two roots")

    def on_closed(self, peer: Peer, closed: e.RoundClosed) -> None:
        """Whatever was not decided in a round is reported, and only that."""
        late = {lagging.slot.tile for lagging in closed.lagging}
        decided = {each.slot.tile for each in peer.disk.decided() if each.head.round >= closed.round}
        if late & decided or late | decided != set(self.world.tiles):
            raise Broken(f"peer {peer.index} closed round {closed.round}, says {late} lag; decided were {decided}")

    def look(self, peer: Peer) -> None:
        """After every few events: memory is bounded, and a machine that waits has a timer."""
        assert peer.engine is not None
        self.looks += 1
        if self.looks % 4:
            return
        numbers, pool = peer.rounds.statistics(), peer.engine.execution.statistics()
        tiles, peers = len(self.world.tiles), len(self.world.peers)
        if numbers.outstanding_deltas > 3 * tiles or numbers.candidate_deltas > 3 * tiles * peers:
            raise Broken(f"memory of rounds grows: {numbers}")
        if pool.heads_pooled > 2 * tiles * self.world.count or pool.blocks_waiting > 64:
            raise Broken(f"memory of execution grows: {pool}")
        if peer.running and not numbers.done and numbers.undecided and "round" not in peer._deadlines:
            raise Broken(f"peer {peer.index} waits in round {numbers.round} without a timer")

    # -- at the end ---------------------------------------------------------------------------------------------------

    def check_accounts(self, *, settled: bool = True) -> None:
        """Every delta is merged, or back in its residual, or still open on its learner's disk: one of these."""
        for peer in self.world.peers:
            open_names = {delta.digest for delta in peer.disk.learner.outstanding}
            heads = {each.slot.tile: each.head for each in peer.disk.decided()}
            for account in self._of(peer.id):
                told = account.merged_told + account.lost_told
                is_open = account.delta.digest in open_names
                if told + is_open != 1:
                    raise Broken(f"peer {peer.index}: a delta is neither open nor settled once: {account}")
                at = heads.get(account.delta.tile)
                if is_open and settled and at is not None and account.delta.base < at.version - 4:
                    raise Broken(f"peer {peer.index}: a delta is open for ever: {account}")

    def check_payments(self) -> None:
        """Whatever was acknowledged is in a block and did what it says; all blocks again give the same state, and no money."""
        for name, by in self.acknowledged.items():
            if name not in self.paid:
                raise Broken(f"peer {by} acknowledged a payment that is in no block")
            if self.paid[name] is not None:
                raise Broken(f"a payment in a block was refused: {self.paid[name]}")
        ledger = max((peer.disk.ledger for peer in self.world.peers), key=len)
        genesis = make_genesis(self.world.roster, self.world.tiles)
        rules = replace_rules(BLOCK_RULES, epoch_heights=self.world.options.epoch_heights)
        again = Execution(rules, genesis, NO_BLOCK, Height(0))
        for block in ledger:
            self._check_history(again.state, block)
            again.replay(block)
        for peer in self.world.peers:
            if len(peer.disk.ledger) == len(ledger) and load_state(peer.disk.rows.items()).root() != again.state.root():
                raise Broken(f"the state of peer {peer.index} is not what its blocks give")
        if sum(count_money(again.state)) + again.state.supply.burned_nano != genesis.supply.minted_nano:
            raise Broken("money was made or lost")

    def _check_history(self, before: State, block: FinalizedBlock) -> None:
        """Whatever is final of history is right; that it is there, the rules of blocks say."""
        ends = decode(Body, block.body, limit_bytes=BODY_BYTES_MAX).history
        if ends:
            start = before.get(HISTORY).start
            if not is_history(start, segments_between(start, ends, TICKS)):
                raise Broken(f"the history of epoch {block.header.epoch} is wrong")

    def check_disks(self) -> None:
        """No two disks, the dead ones' included, hold different roots for one version of a tile."""
        for peer in self.world.peers:
            for tile, held in peer.disk.tiles.items():
                for version, root in held.items():
                    self.on_root(Slot(tile, version), root)
