"""One peer: an engine, a disk, and what each effect means here. The shells of node/services, without what waits by itself.

Effects are performed in order, and what they start comes back as an event of its own at a later time. A process that ends takes
its engine, its timers and its jobs with it; what was under way to it finds nobody.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from compute.delta.codec import payload_bytes_max
from consensus import events as e
from consensus.beacon import OnionKeeper
from consensus.engine import Effect, Engine, Event
from consensus.finality import events as f
from consensus.finality.core import FinalityCore
from consensus.finality.signer import VoteSigner
from consensus.rounds import RoundMachine
from consensus.state import ROSTERS, tile_heads
from node.tile_work import AggregateJob, MergeJob
from protocol.codec import encode
from protocol.digest import Domain, blob_digest, digest, number
from protocol.finality import Header
from protocol.ids import Digest, Height, PeerId, Signature, TileId, Version
from protocol.learning import (
    DeltaBundle,
    FinalizedTip,
    HeadProposals,
    RoundAnnouncement,
    SignedDelta,
    check_contributors,
    sign_delta,
)
from protocol.limits import SYNC_BLOCKS_PER_ANSWER_MAX
from protocol.rejection import Reason, Rejected
from protocol.roster import Decided, Head, sign_head
from simnet.cores.disk import Disk
from simnet.network import CREATED_MS, PeerPlan

if TYPE_CHECKING:
    from compute.exact import Float32
    from simnet.cores.world import World

ROSTER_PATIENCE_MS: Final = 10_000  # as node/node.py
PARENT_PATIENCE_MS: Final = 10_000  # as node/services/tiles.py
UPDATES_BEFORE_TILE: Final = 8  # the same: further behind, the tile itself is fetched
RETRY_MS: Final = 1_000
RELAY_HEAD_START_MS: Final = 500  # as node/services/exchange.py
RELAY_PATIENCE_MS: Final = 20_000
VERIFY_MS: Final = 20  # of a job in the tile thread: small tiles take a few milliseconds each
MERGE_MS: Final = 60
APPLY_MS: Final = 15
DISK_MS: Final = 5  # to store what was given and acknowledge it
LEARN_JITTER: Final = 0.1  # a machine is not always equally busy
POLL_MS: Final = 20_000  # real nodes look every two seconds whether a block is late; gossip here loses nothing for good
ROUND_SHARE_OF_CLOCK: Final = 20  # as node/services/presence.py
RECEIPT_BYTES: Final = 24  # of one outcome
DIGEST_BYTES: Final = 34  # of one in a request
REQUEST_BYTES: Final = 16

Blobs = dict[Digest, bytes]


class Peer:
    """A peer of the world; ``engine`` is None while its process does not run."""

    def __init__(self, world: World, plan: PeerPlan) -> None:
        self.world = world
        self.plan = plan
        self.index = plan.index
        self.id = plan.peer
        self.region = plan.region.name
        self.is_known = False  # whether its whole region is connected to it
        self.is_hub = False  # whether others may wait for it: as an owner, or as the aggregator of its region
        self.upload_bits_per_ms = 1_000 * plan.hardware.upload_megabits
        self.download_bits_per_ms = 1_000 * plan.hardware.download_megabits
        self.line_free_ms = 0.0  # when what it is sending is sent
        self.under_way = 0  # requests and answers to it that have not arrived
        shared = world.shared
        self.disk = Disk(
            shared.genesis_state,
            shared.genesis.created_ms,
            shared.genesis.chain.epoch_heights,
            dict.fromkeys(shared.tile_map.ids, Version(0)),
        )
        self.engine: Engine | None = None
        self.life = 0
        self.stays_dead = False
        self.connected: dict[PeerId, Peer] = {}
        self.blamed: Counter[str] = Counter()  # reasons, of all lives
        self.villain = world.make_villain(plan)
        self._roster_deadline_ms = 0
        self._rounds_started = False
        self._timers: dict[object, tuple[int, object]] = {}  # kind -> number of the setting, token
        self._settings = 0
        self._next: deque[Event] = deque()
        self._syncing = False
        self._verifying: list[Head] = []
        self._is_verifying = False
        self._parents_deadline_ms = 0
        self._applying: list[Decided] = []
        self._is_applying = False
        self._merging: list[e.StartMerge] = []
        self._aggregating: list[e.StartAggregation] = []
        self.expected: dict[Digest, int] = {}  # updates that we are fetching: until when neighbours may wait for them

    @property
    def is_running(self) -> bool:
        return self.engine is not None

    def clock_ms(self) -> int:
        """What its clock shows."""
        return CREATED_MS + self.world.now_ms + self.plan.clock_offset_ms

    # -- life -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A process begins with what the disk has, as ``Node._restore_engine``; then it boots."""
        if self.engine is not None or self.stays_dead:
            return
        world, disk, shared = self.world, self.disk, self.world.shared
        self.life += 1
        self._forget_process()
        genesis, state, anchor = shared.genesis, disk.state, disk.anchor()
        heads = tile_heads(state, shared.genesis_roots)
        onions = None
        if self.plan.is_validator:
            onions = OnionKeeper(self.id, digest(Domain.ONION, self.plan.keys.node.seed))
        execution = shared.execution(state, anchor.block, anchor.height, onions)
        signer = None
        if self.plan.is_validator:
            signer = VoteSigner(self.plan.keys.vote, shared.chain, execution.roster, disk.votes)
        rounds = RoundMachine(
            self.id,
            execution.head_rules,
            genesis.learning,
            heads,
            learns=True,
            applied={tile: min(disk.tiles[tile], at.version) for tile, at in heads.items()},
            proposed=[head for head in disk.proposals if head.version == heads[head.tile].version + 1],
            outstanding=disk.learner.outstanding,
            counted=self._counted(),
            learned_round=disk.learner.round,
            region=self.region if world.scenario.learning.aggregation else "",
        )
        core = FinalityCore(
            self.id,
            execution.roster,
            execution.next_roster,
            shared.chain,
            signer,
            genesis.chain,
            anchor,
            restored=disk.restored(),
            verify=shared.verify,
        )
        self.engine = Engine(self.id, core, execution, rounds)
        world.on_started(self)
        self._apply(self._decided_but_not_applied())
        if disk.candidates:
            self.handle(e.DeltasArrived(tuple(disk.candidates.values())))
        self.handle(f.Started())
        self._roster_deadline_ms = world.now_ms + ROSTER_PATIENCE_MS
        self.later(100, self._boot)
        self.later(POLL_MS + world.random.randrange(POLL_MS), self._poll)

    def _forget_process(self) -> None:
        self.line_free_ms, self.under_way = 0.0, 0
        self.connected.clear()
        self._rounds_started = self._syncing = self._is_verifying = self._is_applying = False
        for memory in (
            self._timers,
            self._next,
            self._verifying,
            self._applying,
            self._merging,
            self._aggregating,
            self.expected,
        ):
            memory.clear()

    def kill(self) -> None:
        """The process ends here and now."""
        if self.engine is not None:
            self.engine = None
            self.world.on_stopped(self)

    def _counted(self) -> list[Digest]:
        """Our open deltas that decided heads list: a head that takes one is at most two versions above its base."""
        wanted = {delta.digest: delta for delta in self.disk.learner.outstanding}
        found: list[Digest] = []
        lowest = {delta.tile: delta.base for delta in reversed(self.disk.learner.outstanding)}
        for delta in self.disk.learner.outstanding:
            lowest[delta.tile] = min(delta.base, lowest[delta.tile])
        for block in reversed(self.disk.ledger) if wanted else ():
            for head in self.world.shared.heads_of(block):
                found += [name for name in head.counted() if name in wanted]
                if head.version <= lowest.get(head.tile, -1) + 1:
                    del lowest[head.tile]
            if not lowest:
                break
        return found

    def _decided_but_not_applied(self) -> list[Decided]:
        behind = {
            tile: self.disk.tiles[tile]
            for tile, at in tile_heads(self.disk.state, self.disk.tiles).items()
            if at.version > self.disk.tiles[tile]
        }
        decided: list[Decided] = []
        for block in reversed(self.disk.ledger) if behind else ():
            for head in reversed(self.world.shared.heads_of(block)):
                if head.tile in behind and head.version > behind[head.tile]:
                    decided.append(Decided(head.slot, head, block.header.height))
                    if head.version == behind[head.tile] + 1:
                        del behind[head.tile]
            if not behind:
                break
        return decided[::-1]

    def _boot(self) -> None:
        """Wait for the roster, catch up, hand our proposals back, open the first round."""
        assert self.engine is not None
        roster = self.engine.execution.roster
        others = [member.node for member in roster.members if member.node != self.id]
        if any(peer not in self.connected for peer in others):
            enough = roster.is_quorum(roster.weight_of({*self.connected, self.id})) or not self.plan.is_validator
            if self.world.now_ms <= self._roster_deadline_ms or not enough:
                self.later(250, self._boot)
                return
        self._sync(self._start_rounds)

    def _start_rounds(self) -> None:
        assert self.engine is not None
        if self._rounds_started:
            return
        self._rounds_started = True
        heads = self.engine.rounds.open_proposals()
        if heads:
            self.handle(e.HeadsSeen(heads, self.id))
        offset_ms = self.plan.clock_offset_ms
        if abs(offset_ms) * ROUND_SHARE_OF_CLOCK > self.world.shared.genesis.learning.round_ms:
            self.handle(e.ClockJudged(False, offset_ms))
        self._perform(self.engine.start_rounds)

    def later(self, delay_ms: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call back, in this life only."""
        self.world.later(delay_ms, self._if_alive, self.life, call, arguments)

    def _if_alive(self, life: int, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if life == self.life and self.engine is not None:
            call(*arguments)

    # -- the reactor ----------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Take one event, perform its effects in order, then what they gave back."""
        engine = self.engine
        if engine is not None:
            self._perform(lambda now: engine.handle(event, now))

    def _perform(self, ask: Callable[[int], list[Effect]]) -> None:
        """Perform what the engine wants. A broken rule of its own ends the run: nothing catches it, here as in a node."""
        performers, engine = self._performers, self.engine
        for effect in ask(self.clock_ms()):
            performers[type(effect)](self, effect)
        while self._next and engine is not None:
            for effect in engine.handle(self._next.popleft(), self.clock_ms()):
                performers[type(effect)](self, effect)

    def hear(self, event: Event) -> None:
        """Something that somebody said."""
        if self.engine is not None:
            self.world.note("hear", self.index, type(event).__name__)
            self.handle(event)

    def look_at(self, other: Peer) -> None:
        """A connection came or went, if it did."""
        if self.engine is None:
            return
        is_up = self.world.network.reaches(self, other)
        if is_up and other.id not in self.connected:
            self.connected[other.id] = other
            self.handle(e.RegionTold(other.id, other.region))  # its advert is what it says first
            self.handle(e.PeerConnected(other.id))
        elif not is_up and other.id in self.connected:
            del self.connected[other.id]
            self.handle(e.PeerLost(other.id))

    # -- finality's effects ---------------------------------------------------------------------------------------------

    def _persist(self, effect: f.Persist) -> None:
        self.disk.votes.extend(effect.records)

    def _store_blocks(self, effect: f.StoreBlocks) -> None:
        self.disk.store(effect)

    def _send(self, effect: f.Send) -> None:
        size = len(encode(effect.message))
        event = f.MessageReceived(self.id, effect.message)
        for peer in effect.to:
            to = self.world.by_id[peer]
            if to.id in self.connected:
                self.world.tell(self, to, size, "vote", to.hear, event)

    def _set_timer(self, effect: f.SetTimer) -> None:
        self._set(effect.timer.kind, effect.timer, effect.at_ms)

    def _set_round_timer(self, effect: e.SetRoundTimer) -> None:
        self._set(e.RoundTimer, None, effect.at_ms)

    def _set(self, kind: object, token: object, at_ms: int) -> None:
        """One timer of a kind runs: a later setting replaces an earlier one, whose view was left or whose time has moved."""
        self._settings += 1
        self._timers[kind] = (self._settings, token)
        self.world.later(at_ms - self.clock_ms(), self._fire, self.life, kind, self._settings)

    def _fire(self, life: int, kind: object, setting: int) -> None:
        if life != self.life or self.engine is None:
            return
        running = self._timers.get(kind)
        if running is None or running[0] != setting:
            return
        del self._timers[kind]
        token = running[1]
        self.handle(f.TimerFired(token) if isinstance(token, f.Timer) else e.RoundTimer())

    def _store_finalized(self, effect: e.StoreFinalized) -> None:
        assert self.engine is not None
        world = self.world
        blocks = [committed.block for committed in effect.blocks]
        self.disk.finalize(blocks, self.engine.execution.state)
        for block in blocks:
            for head in world.shared.heads_of(block):
                self.disk.decide(head)
            world.on_finalized(self, block)
        last = blocks[-1]
        if last.certificate is not None and self._is_ours(last.header):
            tip = FinalizedTip(last.header, last.certificate)
            world.publish(self, "final", encode(tip), e.TipSeen(last.header, last.certificate))

    def _is_ours(self, header: Header) -> bool:
        roster = self.disk.state.find(ROSTERS, number(header.epoch))
        return self.plan.is_validator and roster is not None and roster.find_index(self.id) == header.proposer

    def _fetch_blocks(self, effect: f.FetchBlocks) -> None:
        self._sync(None)

    def _halt(self, effect: f.Halt) -> None:
        self.world.on_failed(self, effect.sentence)

    def _score(self, effect: f.Score) -> None:
        self.blamed[effect.reason.code] += 1

    def _blame(self, effect: e.Blamed) -> None:
        self.blamed[effect.reason.code] += 1

    def _ignore(self, effect: object) -> None:
        """Nobody here has a use for it."""

    # -- catching up ----------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        assert self.engine is not None
        if self.engine.finality.roster.find_index(self.id) is None:
            self._sync(None)
        self.later(POLL_MS, self._poll)

    def _sync(self, then: Callable[[], None] | None) -> None:
        """Ask for final blocks above ours until whoever was asked has no more; ``then`` when that is so."""
        if not self._syncing:
            self._syncing = True
            self._ask_blocks(then)
        elif then is not None:
            self.later(RETRY_MS, self._sync, then)

    def _ask_blocks(self, then: Callable[[], None] | None) -> None:
        first = Height(self.disk.tip + 1)
        server = self.world.find_server(self, first)
        if server is None:
            self._end_sync(then)
            return

        def serve() -> tuple[int, tuple[Any, int]]:
            blocks = server.disk.serve(first, SYNC_BLOCKS_PER_ANSWER_MAX)
            return self.world.size_of_blocks(blocks), (blocks, server.disk.tip)

        self.world.request(self, server, REQUEST_BYTES, "sync", serve, self._take_blocks, then)

    def _take_blocks(self, answer: tuple[Any, int] | None, then: Callable[[], None] | None) -> None:
        assert self.engine is not None
        blocks, tip = answer or ((), 0)
        if not blocks:
            self._end_sync(then)
            return
        try:
            checked = self.world.shared.check_chain(blocks, self.engine.finality.roster)
        except Rejected:  # an answer to our last question, of the epoch that we have left meanwhile
            self._end_sync(then)
            return
        self.world.note("sync", self.index, blocks[-1].header.height)
        self.handle(f.Synced(checked))
        if self.disk.tip < tip and self.disk.tip >= blocks[-1].header.height:
            self._ask_blocks(then)
        else:
            self._end_sync(then)

    def _end_sync(self, then: Callable[[], None] | None) -> None:
        self._syncing = False
        if then is not None:
            then()

    # -- heads ----------------------------------------------------------------------------------------------------------

    def _propose(self, effect: e.Propose) -> None:
        assert self.engine is not None
        heads = tuple(sign_head(head, self.plan.keys.node) for head in effect.heads)
        self.disk.proposals += heads
        self._next.append(self.engine.proposed_by_us(heads))
        self._publish_heads(heads)

    def _republish(self, effect: e.Republish) -> None:
        self._publish_heads(effect.heads)

    def _publish_heads(self, heads: tuple[Head, ...]) -> None:
        self.world.publish(self, "tiles", encode(HeadProposals(heads)), e.HeadsSeen(heads, self.id))

    def _verify_heads(self, effect: e.VerifyHeads) -> None:
        self._ensure(effect.heads, self._verify_fetched, effect.heads)

    def _verify_fetched(self, heads: Iterable[Head]) -> None:
        self._verifying += heads
        if self._verifying and not self._is_verifying:
            self._is_verifying = True
            self._parents_deadline_ms = self.world.now_ms + PARENT_PATIENCE_MS
            self.later(1, self._judge_heads)

    def _judge_heads(self) -> None:
        """All that wait together: parents applied, roots computed; as node/services/tiles.py."""
        heads, tiles = self._verifying, self.disk.tiles
        behind = any(tiles[head.tile] < head.version - 1 for head in heads)
        if behind and self.world.now_ms < self._parents_deadline_ms:
            self.later(150, self._judge_heads)
            return
        self._verifying = []
        known: list[tuple[Digest, Reason | None]] = []
        unavailable = []
        for head in heads:
            update = self.disk.blobs.get(head.update)
            if update is None or self.disk.tiles[head.tile] != head.version - 1:
                unavailable.append(head.digest())
            else:
                known.append((head.digest(), self.world.shared.judge(head, update)))
        self.later(VERIFY_MS, self._say_verified, e.HeadsVerified(tuple(known), tuple(sorted(unavailable))))

    def _say_verified(self, event: e.HeadsVerified) -> None:
        self._is_verifying = False
        self._verify_fetched(())
        self.handle(event)

    def _ensure(self, heads: Iterable[Head], then: Callable[..., None], *arguments: Any) -> None:
        """Fetch those heads' updates that we lack, as node/services/exchange.py; then go on, had or not.

        A neighbour that has them, or is about to, is asked before the proposer.
        """
        assert self.engine is not None
        regions = self.engine.rounds.regions
        groups: dict[tuple[PeerId, ...], list[Head]] = {}
        for head in heads:
            if head.update not in self.disk.blobs:
                near = regions.find_sources(self.world.network_id, head.tile, head.proposer, self.connected)
                groups.setdefault((*near, head.proposer), []).append(head)
        waiting = len(groups)
        if not waiting:
            then(*arguments)

        def done() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                then(*arguments)

        for sources, group in groups.items():
            for head in group:
                self.expected.setdefault(head.update, self.world.now_ms + RELAY_PATIENCE_MS)
            head_start_ms = RELAY_HEAD_START_MS if len(sources) > 1 else 0
            self.later(head_start_ms, self._fetch_group, sources, group, done)

    def _fetch_group(self, sources: tuple[PeerId, ...], group: list[Head], done: Callable[[], None]) -> None:
        """Ask one after another; what none of them has, whoever has it."""
        names = [head.update for head in group if head.update not in self.disk.blobs]
        if not names or not sources:
            self._fetch_rest(group, done)
            return
        server = self.world.by_id[sources[0]]

        def serve() -> tuple[int, Blobs] | None:
            blobs = server.disk.blobs
            if any(name not in blobs and self.world.now_ms < server.expected.get(name, 0) for name in names):
                return None  # it is about to have them
            found = {name: blobs[name] for name in names if name in blobs}
            return sum(self.world.weigh(data) for data in found.values()) + len(names), found

        size = REQUEST_BYTES + DIGEST_BYTES * len(names)
        self.world.request(self, server, size, "blob", serve, self._take_updates, (sources[1:], group, done))

    def _take_updates(
        self, answer: Blobs | None, context: tuple[tuple[PeerId, ...], list[Head], Callable[[], None]]
    ) -> None:
        self.store_blobs(answer or {})
        self._fetch_group(*context)

    def _fetch_rest(self, group: list[Head], done: Callable[[], None]) -> None:
        """Neighbours wait no longer: we have the updates, or look for them anywhere."""
        for head in group:
            self.expected.pop(head.update, None)
        missing = [head for head in group if head.update not in self.disk.blobs]
        waiting = 1

        def one_done(answer: Blobs | None, _: object) -> None:
            nonlocal waiting
            self.store_blobs(answer or {})
            waiting -= 1
            if not waiting:
                done()

        for head in missing:
            server = self.world.find_holder(self, head.update, head.proposer)
            if server is not None:
                waiting += 1
                size = REQUEST_BYTES + DIGEST_BYTES
                self.world.request(self, server, size, "blob", self._give(server, head.update), one_done, None)
        one_done(None, None)

    def _give(self, server: Peer, name: Digest) -> Callable[[], tuple[int, Blobs]]:
        def serve() -> tuple[int, Blobs]:
            data = server.disk.blobs.get(name)
            return (0, {}) if data is None else (self.world.weigh(data), {name: data})

        return serve

    def store_blobs(self, blobs: Blobs) -> None:
        """On our disk from now on, and offered to others."""
        self.disk.blobs.update(blobs)
        self.world.offer(self, blobs)

    # -- tiles ----------------------------------------------------------------------------------------------------------

    def _decide(self, effect: e.Decide) -> None:
        self._apply(effect.decided)

    def _apply(self, decided: Iterable[Decided]) -> None:
        self._applying += decided
        if self._applying and not self._is_applying:
            self._is_applying = True
            self.later(1, self._fetch_decided)

    def _fetch_decided(self) -> None:
        """Fetch the updates of what was decided, or the tiles where these are too many."""
        batch, self._applying = self._applying, []
        newest: dict[TileId, Head] = {each.slot.tile: each.head for each in batch}
        far = {
            tile for tile, head in newest.items() if head.version - self.disk.tiles[tile] > UPDATES_BEFORE_TILE
        }  # asked only "is it in"
        wanted = [
            each.head
            for each in batch
            if each.slot.tile not in far and each.slot.version > self.disk.tiles[each.slot.tile]
        ]
        self._ensure(wanted, self._apply_updates, batch, far)

    def _apply_updates(self, batch: list[Decided], far: set[TileId]) -> None:
        disk = self.disk
        for each in batch:
            tile, version, update = each.slot.tile, each.slot.version, disk.blobs.get(each.head.update)
            if tile not in far and version == disk.tiles[tile] + 1 and update is not None:
                self.world.shared.apply(each.head, update)
                self._applied(each.head)
        missing = {each.slot.tile: each.head for each in batch if each.slot.version > disk.tiles[each.slot.tile]}
        self._fetch_tiles(batch, list(missing.values()))

    def _fetch_tiles(self, batch: list[Decided], heads: list[Head]) -> None:
        """Whole tiles, one after another, from somebody who has them; tried again until somebody does."""
        if not heads:
            self.later(APPLY_MS, self._say_applied, batch)
            return
        head = heads[0]
        server = self.world.find_tile_holder(self, head)
        if server is None:
            self.later(RETRY_MS, self._fetch_tiles, batch, heads)
            return
        size = self.world.tile_bytes(head.tile)
        self.world.request(self, server, REQUEST_BYTES, "blob", lambda: (size, head), self._take_tile, (batch, heads))

    def _take_tile(self, answer: Head | None, waiting: tuple[list[Decided], list[Head]]) -> None:
        batch, heads = waiting
        if answer is None:
            self.later(RETRY_MS, self._fetch_tiles, batch, heads)
            return
        self._applied(answer)
        self._fetch_tiles(batch, heads[1:])

    def _applied(self, head: Head) -> None:
        self.disk.tiles[head.tile] = head.version
        self.world.on_applied(self, head)

    def _say_applied(self, batch: list[Decided]) -> None:
        self._is_applying = False
        self._apply(())
        self.handle(e.TilesApplied(tuple(each.slot for each in batch)))

    def _start_merge(self, effect: e.StartMerge) -> None:
        self._merging.append(effect)
        if len(self._merging) == 1:
            self.later(MERGE_MS, self._merge)

    def _merge(self) -> None:
        requests, self._merging = self._merging, []
        blobs, shared = self.disk.blobs, self.world.shared
        jobs = []
        for request in requests:
            deltas = ((ref, shared.read_delta(blobs[ref.delta]).payload) for ref in request.deltas)
            jobs.append(MergeJob(request.slot, tuple(deltas)))
        results = shared.merge(jobs)
        merged, failed = [], []
        unusable: list[Digest] = []
        for request, result in zip(requests, results, strict=True):
            unusable += result.unusable
            if result.why:
                failed.append((request.slot, result.why))
                continue
            name = blob_digest(result.update)
            self.store_blobs({name: result.update})
            self.world.note("merge", self.index, request.slot, result.root.hex())
            merged.append(
                e.Merged(
                    request.slot,
                    request.attempt,
                    request.parent_root,
                    result.root,
                    name,
                    len(result.update),
                    request.deltas,
                )
            )
        self.handle(e.MergesDone(tuple(merged), tuple(failed), tuple(unusable)))

    # -- history --------------------------------------------------------------------------------------------------------

    def _walk_history(self, effect: e.WalkHistory) -> None:
        ends = self.world.shared.walk(effect.start, effect.segment_ticks)
        self.later(VERIFY_MS, self.handle, e.HistoryWalked(effect.start, ends))

    def _verify_history(self, effect: e.VerifyHistory) -> None:
        right = self.world.shared.is_history(effect.start, effect.ends, effect.segment_ticks)
        self.later(VERIFY_MS, self.handle, e.HistoryVerified(effect.start, effect.ends, right))

    # -- learning -------------------------------------------------------------------------------------------------------

    def _announce(self, effect: e.Announce) -> None:
        data = encode(RoundAnnouncement(effect.round, "cpu"))
        self.world.publish(self, "tiles", data, e.RoundAnnounced(self.id, effect.round), to_hubs=True)

    def _start_learning(self, effect: e.StartLearning) -> None:
        seconds = self.plan.hardware.learn_seconds * (1 + LEARN_JITTER * self.world.random.random())
        self.later(1_000 * seconds, self._learn, effect)

    def _learn(self, request: e.StartLearning) -> None:
        """The worker's answer: blobs, then one row; as node/services/learning.py."""
        world, disk = self.world, self.disk
        weights: dict[TileId, Float32] = {}
        for tile, base in request.bases:
            found = world.shared.weights(tile, base)
            if found is None:
                self.handle(e.LearnFailed(request.round, f"nobody keeps version {base} of {tile} any more"))
                return
            weights[tile] = found
        lost = {name: disk.blobs[name] for name in request.lost if name in disk.blobs}
        change = world.make_change(self, request.round)
        disk.learner, blobs = world.learner_work.learn(
            request, disk.learner, weights, lost, self.plan.keys.node, change
        )
        for name in (*request.merged, *request.lost):
            disk.blobs.pop(name, None)
        self.store_blobs(blobs)
        world.note("learn", self.index, request.round, [name.hex()[:16] for name in blobs])
        fresh = disk.learner.outstanding[len(disk.learner.outstanding) - len(blobs) :]
        self.handle(e.LearnDone(request.round, fresh))

    def _deliver(self, effect: e.DeliverDeltas) -> None:
        names = tuple(name for name in effect.deltas if name in self.disk.blobs)
        blobs = tuple(self.disk.blobs[name] for name in names)
        owner = self.world.by_id[effect.owner]
        size = len(encode(DeltaBundle(()))) + sum(self.world.weigh(data) + 5 for data in blobs)

        def serve() -> tuple[int, list[tuple[Digest, str]]]:
            outcomes = owner.take_deltas(blobs)
            return RECEIPT_BYTES * len(outcomes), outcomes

        self.world.request(self, owner, size, "delta", serve, self._take_receipt, (effect.owner, effect.deltas))

    def _take_receipt(self, outcomes: list[tuple[Digest, str]] | None, sent: tuple[PeerId, tuple[Digest, ...]]) -> None:
        owner, names = sent
        if outcomes is None:
            self.handle(e.DeliveryFailed(owner, names))
            return
        accepted = tuple(name for name, why in outcomes if not why)
        refused = tuple((name, why) for name, why in outcomes if why)
        self.handle(e.DeltasDelivered(owner, accepted, refused))

    def take_deltas(self, blobs: Iterable[bytes]) -> list[tuple[Digest, str]]:
        """The side of the owner or aggregator: refuse, or store and acknowledge."""
        outcomes: list[tuple[Digest, str]] = []
        accepted: list[e.Delta] = []
        for data in blobs:
            name = blob_digest(data)
            try:
                accepted.append(self._check_delta(name, data))
                self.store_blobs({name: data})
                outcomes.append((name, ""))
            except Rejected as refusal:
                self.blamed[refusal.reason.code] += 1
                outcomes.append((name, refusal.reason.code))
        self.world.note("take", self.index, len(outcomes), len(accepted))
        for delta in accepted:
            self.disk.candidates[delta.tile, *delta.key] = delta
        if accepted:
            self.later(DISK_MS, self.handle, e.DeltasArrived(tuple(accepted)))
        return outcomes

    def _check_delta(self, name: Digest, data: bytes) -> e.Delta:
        assert self.engine is not None
        shared = self.world.shared
        delta = shared.read_delta(data)
        check_contributors(delta.contributors, delta.tokens)
        known = _known(delta, name)
        reason = self.engine.rounds.find_refusal(known)
        if reason is not None:
            raise Rejected(reason)
        if len(delta.payload) > payload_bytes_max(shared.tile_map.tile(delta.tile).values):
            raise Rejected(Reason.TOO_LARGE)
        return known

    # -- gathering ------------------------------------------------------------------------------------------------------

    def _ask_carried(self, effect: e.AskCarried) -> None:
        aggregator, names = self.world.by_id[effect.aggregator], effect.deltas

        def serve() -> tuple[int, tuple[Digest, ...]]:
            assert aggregator.engine is not None
            carried = tuple(name for name in names if aggregator.engine.rounds.is_carried(name))
            return RECEIPT_BYTES * len(names), carried

        size = REQUEST_BYTES + DIGEST_BYTES * len(names)
        self.world.request(self, aggregator, size, "delta", serve, self._hear_carried, effect)

    def _hear_carried(self, carried: tuple[Digest, ...] | None, asked: e.AskCarried) -> None:
        carried = carried or ()
        left = tuple(name for name in asked.deltas if name not in carried)
        self.handle(e.CarriedTold(asked.aggregator, carried, left))

    def _start_aggregation(self, effect: e.StartAggregation) -> None:
        self._aggregating.append(effect)
        if len(self._aggregating) == 1:
            self.later(MERGE_MS, self._aggregate)

    def _aggregate(self) -> None:
        """As node/services/tiles.py: what was said before is said again, the rest is merged, signed and stored."""
        requests, self._aggregating = self._aggregating, []
        blobs, shared = self.disk.blobs, self.world.shared
        made: list[e.Delta] = []
        failed: list[tuple[TileId, Version]] = []
        unusable: list[Digest] = []
        for request in requests:
            earlier = self.disk.candidates.get((request.tile, self.id, request.base, True))
            if earlier is not None:
                made.append(earlier)
                continue
            deltas = ((each, shared.read_delta(blobs[each.delta]).payload) for each in request.contributors)
            (result,) = shared.work.aggregate([AggregateJob(request.tile, tuple(deltas))])
            if result.why:
                failed.append((request.tile, request.base))
                unusable += result.unusable
                continue
            unsigned = SignedDelta(
                tile=request.tile,
                base=request.base,
                round=request.round,
                learner=self.id,
                tokens=sum(each.weight for each in request.contributors),
                payload=result.payload,
                signature=Signature(bytes(64)),
                contributors=request.contributors,
            )
            signed = sign_delta(unsigned, self.plan.keys.node)
            data = encode(signed)
            delta = _known(signed, blob_digest(data))
            self.store_blobs({delta.digest: data})
            self.disk.candidates[delta.tile, *delta.key] = delta
            self.world.note("aggregate", self.index, delta.tile, len(delta.contributors), delta.digest.hex())
            made.append(delta)
        self.handle(e.AggregationsDone(tuple(made), tuple(failed), tuple(unusable)))

    # -- what it tells people -------------------------------------------------------------------------------------------

    def _round_opened(self, effect: e.RoundOpened) -> None:
        self.world.on_round_opened(self, effect.round)

    def _round_closed(self, effect: e.RoundClosed) -> None:
        self.world.on_round_closed(self, effect.round)

    _performers: ClassVar[dict[type, Callable[[Peer, Any], None]]] = {
        f.Persist: _persist,
        f.StoreBlocks: _store_blocks,
        f.Send: _send,
        f.SetTimer: _set_timer,
        f.FetchBlocks: _fetch_blocks,
        f.Score: _score,
        f.Evidence: _ignore,
        f.Halt: _halt,
        e.Blamed: _blame,
        e.StoreFinalized: _store_finalized,
        e.TransactionsDropped: _ignore,
        e.VerifyHeads: _verify_heads,
        e.VerifyHistory: _verify_history,
        e.WalkHistory: _walk_history,
        e.Decide: _decide,
        e.SetRoundTimer: _set_round_timer,
        e.RoundOpened: _round_opened,
        e.RoundClosed: _round_closed,
        e.Announce: _announce,
        e.StartLearning: _start_learning,
        e.DeliverDeltas: _deliver,
        e.AskCarried: _ask_carried,
        e.StartAggregation: _start_aggregation,
        e.StartMerge: _start_merge,
        e.Propose: _propose,
        e.Republish: _republish,
        e.Lagging: _ignore,
        e.Stalled: _ignore,
    }


def _known(delta: SignedDelta, name: Digest) -> e.Delta:
    """What the rules know of it."""
    return e.Delta(delta.tile, delta.base, delta.round, delta.learner, name, delta.tokens, delta.contributors)
