"""The composition root: cores, shells, channels, one nursery. Everything is wired by constructor arguments, here and only here.

boot     1 ground   directory, lock, keys, genesis, stores, journals           (node/ground.py)
         2 host     sockets; peers of another genesis are refused
         3 state    of the newest checkpoint, where there is none here           (node/services/state_fetch.py)
         4 engine   restored from state, ledger and journals
         5 services, API; the device is measured while we connect
         6 sync     blocks and tiles that we missed
         7 rounds   once the roster is connected
"""

from __future__ import annotations

import gc
import random
import secrets
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
import trio
from msgspec.structs import replace

from compute.io.pool import WorkerHandle
from compute.model.tiling import FLOAT32_BYTES
from compute.spot_checks import SpotChecks
from consensus.beacon import OnionKeeper
from consensus.engine import Effect, Engine
from consensus.events import (
    AggregationsDone,
    Announce,
    AskCarried,
    Blamed,
    Decide,
    DeliverDeltas,
    DeltasArrived,
    HeadsSeen,
    HeadsVerified,
    Lagging,
    MergesDone,
    PeerConnected,
    PeerLost,
    Propose,
    Republish,
    RoundClosed,
    RoundOpened,
    RoundTimer,
    SetRoundTimer,
    Stalled,
    StartAggregation,
    StartLearning,
    StartMerge,
    StoreFinalized,
    TilesApplied,
    TransactionsDropped,
    VerifyHeads,
    VerifyHistory,
    WalkHistory,
)
from consensus.execution import Execution, StateDisagreement
from consensus.finality import events as finality
from consensus.finality.chain import check_chain
from consensus.finality.core import FinalityCore
from consensus.finality.signer import EPOCHS_REFUSED, VoteSigner
from consensus.finality.signer import JournalState as VoteJournalState
from consensus.heads import TileHead
from consensus.mempool import Dropped
from consensus.rounds import RoundMachine
from consensus.state import ROSTERS, tile_heads
from consensus.transition import BlockRules
from node import log as node_log
from node.alerts import Alerts
from node.answer_book import AnswerBook
from node.api.view import NodeView
from node.chain_index import DroppedTransactions, find_transaction
from node.clock import Clock
from node.config import ELSEWHERE, HERE, Settings
from node.faults import CrashPoints
from node.ground import Ground, open_ground
from node.history_work import HistoryWork
from node.inbound import AuthorRejected, Inbound
from node.joining_view import JoiningView
from node.keys import AskPassphrase
from node.reactor import INBOX_MAX, Reactor
from node.recall import counted, decided_but_not_applied, heads_downwards
from node.records import Records
from node.recovery_disagreement import (
    check_not_halted,
    disagreements,
    finish_forgetting,
    forget_chain,
    record_disagreement,
)
from node.recovery_fork import adopt_when_due
from node.services.alerting import Alerting
from node.services.answer_audit import AnswerAudit
from node.services.answer_receipts import AnswerReceipts, Weights
from node.services.answering import Answering, cache_bytes
from node.services.backfill import Backfill
from node.services.door import Door
from node.services.evidence import EvidenceService
from node.services.exchange import Exchange
from node.services.expert_audit import ExpertAudit
from node.services.expert_client import ExpertClient
from node.services.expert_server import ExpertServer
from node.services.gossip import Gossip
from node.services.history import HistoryService
from node.services.housekeeping import Housekeeping
from node.services.keeping import Keeping
from node.services.learning import WORKER_COMMAND, LearningService, MakeWorker, worker_process
from node.services.presence import Presence, model_key
from node.services.remote_experts import RemoteExperts
from node.services.self_check import SelfCheck
from node.services.state_fetch import StateFetch
from node.services.state_server import StateServer
from node.services.submission import Submission
from node.services.tiles import JOBS_MAX, TileService
from node.threads import InThread, in_thread
from node.timers import Timers
from node.view import View
from p2p import transport as wire
from p2p.io.libp2p_host import open_libp2p_host
from p2p.requests import VOTE
from p2p.transport import RequestFailed, Transport
from protocol.codec import decode, encode
from protocol.digest import Domain, digest, number
from protocol.finality import Header, ValidatorFrame
from protocol.ids import Digest, Epoch, Height, MemberIndex, PeerId, TileId, Version, peer_text, short
from protocol.learning import FinalizedTip
from protocol.limits import KIB, MIB
from protocol.rejection import Blame, InvariantBroken, Reason, Rejected
from protocol.roster import Decided, Roster, sign_head
from protocol.transactions import check_transaction, transaction_id
from storage.kv import Batch

log = structlog.get_logger()

ROSTER_PATIENCE_SECONDS = 10.0  # rounds begin without the members that are not there by then, if a quorum is
VOTE_RECORDS_MAX = 100_000  # records of the vote journal, 15 MB, above which it is written anew at a start (a guess)
ROUNDS_RECALLED = 256  # from the ledger at a start: a fraction of a second
BLOCKS_RECALLED = 16_384  # looked through for them, where rounds are long or over: half a second (a guess)
REPEAT_SECONDS = 30.0  # how often our own transactions are said again to whoever came since
SYNC_POLL_SECONDS = 2.0  # how often a node looks whether a block is late that gossip may have missed
VAIN_QUESTIONS_MAX = 16  # are counted; the time between two has reached its bound long before


@dataclass(frozen=True, slots=True)
class Machine:
    """What a node takes from the machine that it runs on, besides disk, network and clock."""

    make_worker: MakeWorker = worker_process
    in_thread: InThread = in_thread
    generator: random.Random = field(default_factory=random.SystemRandom)  # what others must not foresee


class Node:
    """One running node. Made by :func:`run`; everything else looks at it through ``View``."""

    def __init__(self, ground: Ground, transport: Transport, clock: Clock, machine: Machine | None = None) -> None:
        machine = machine or Machine()
        settings = ground.settings
        self.ground = ground
        self.transport = transport
        self.clock = clock
        self.started_ms = clock.monotonic_ms()
        self.stop_requested = trio.Event()
        self.records = Records()
        self.inbound = Inbound(ground.network, self.is_validator, ground.chain)
        self.crash_points = CrashPoints(settings.run.crash_at)
        self.blamed: Counter[PeerId] = Counter()
        self.verified_ms: int | None = None
        self._block_patience_ms = ground.genesis.chain.idle_interval_ms + int(1000 * SYNC_POLL_SECONDS)
        self._asked_ms = 0  # for blocks of which nobody had shown us one
        self._asked_in_vain = 0  # times since the last block came
        self.phase = "booting"
        self.lagging: dict[TileId, Lagging] = {}  # of the open round, or of the one that closed last
        self.chain = ground.chain
        self.reactor = Reactor(self._restore_engine(), clock, self._performers())
        self.tiles = TileService(ground, lambda: self.exchange, self._post_tiles, machine.in_thread)
        self.exchange = Exchange(ground, transport, self.tiles.in_thread, self.report, self.engine.rounds.regions)
        self.history = HistoryService(HistoryWork(in_thread=machine.in_thread), self.reactor.post)
        self.gossip = Gossip(ground, transport, clock)
        self.presence = Presence(self)
        self.state_server = StateServer(ground, transport, machine.in_thread)
        self.state_fetch = StateFetch(ground, transport, clock, machine.in_thread)
        self._is_told_of_fork = False
        self.needs_fork = False  # the anchor of a recovery is reached: the node is made anew on the new fork
        self.needs_votes = False  # the vote journal was lost, and its time is over: the node is made anew, and votes
        self._votes_from: Epoch | None = None
        self.needs_checkpoint = False  # nobody keeps our next block: the node is made anew after a newer state
        self.backfill = Backfill(ground, transport, self.chain, machine.in_thread, self.report)
        self.housekeeping = Housekeeping(ground, self.tiles.in_thread, machine.in_thread)
        self.learning = LearningService(
            ground,
            transport,
            self.exchange,
            self.tiles,
            self.records,
            self.crash_points,
            clock,
            self.reactor.post,
            self.engine.rounds.find_refusal,
            self.engine.rounds.is_carried,
            self.report,
            lambda: self.housekeeping.refusal,
            self.presence.find_providers,
            self.presence.reach,
            machine.make_worker,
            machine.in_thread,
        )
        self.self_check = SelfCheck(ground.work.tile_map.ids, self.tiles.is_newest_whole, self.tiles.repair, clock)
        self.started_ms = clock.now_ms()
        self.alerts = Alerts()
        self.weights = Weights(self._find_root)
        self.answer_book = AnswerBook(ground.index, machine.in_thread, MIB * ground.settings.api.answers_kept_mib)
        self.door: Door | None = None  # where there is a worker
        self.remote_experts: RemoteExperts | None = None  # where experts are elsewhere
        self.expert_server = ExpertServer(
            transport,
            ground.work.tile_map,
            ground.tiles.newest,
            self.learning.tile_files,
            lambda: self._find_worker(HERE),
        )
        self.dropped = DroppedTransactions()
        submit = Submission(
            ground.keys.account,
            self.chain,
            ground.genesis.ledger,
            lambda: self.engine.execution.state,
            self.engine.execution.mempool,
            self.submit,
        )
        self.evidence = EvidenceService(lambda: self.engine.execution.state, submit)
        self.keeping = Keeping(
            ground,
            transport,
            clock,
            machine.in_thread,
            lambda: self.engine.execution.state,
            lambda: self.roster,
            lambda: self.engine.execution.height,
            self.tile_heads,
            self._tile_data,
            self.housekeeping.has_room,
            submit,
            machine.generator,
        )
        self.timers = Timers(clock, self._on_timer)
        self._background: trio.Nursery | None = None
        self._syncing = trio.CapacityLimiter(1)

    @property
    def engine(self) -> Engine:
        return self.reactor.engine

    @property
    def roster(self) -> Roster:
        """Who votes about the next height."""
        return self.engine.execution.roster

    @property
    def me(self) -> MemberIndex | None:
        """This node's place in the roster; None where it has none."""
        return self.roster.find_index(self.ground.peer)

    def _restore_engine(self) -> Engine:
        """The engine as it was when the process ended, from what the disk remembers."""
        ground = self.ground
        state, anchor = ground.load_state(), ground.anchor()
        heads = tile_heads(state, ground.genesis_roots)
        execution = Execution(
            BlockRules.of(ground.genesis, self.chain.fork),
            state,
            anchor.block,
            anchor.height,
            OnionKeeper(ground.peer, digest(Domain.ONION, ground.keys.node.seed)),
        )
        roster = execution.roster
        signer = VoteSigner(ground.keys.vote, self.chain, roster, ground.vote_records, ground.vote_state)
        if signer.refusal is not None and signer.member is not None:
            log.error("this node will not vote", why=signer.refusal)
        elif signer.refusal is None and len(ground.vote_records) > VOTE_RECORDS_MAX:
            ground.replace_votes(signer.compacted())
        learner = ground.learner_record()
        learning = ground.genesis.learning
        if ground.settings.run.round_ms is not None:
            learning = replace(learning, round_ms=ground.settings.run.round_ms)
        self.round_ms = learning.round_ms
        rounds = RoundMachine(
            ground.peer,
            execution.head_rules,
            learning,
            heads,
            learns=ground.settings.compute.learn,
            applied={tile: min(ground.tiles.newest(tile) or Version(0), at.version) for tile, at in heads.items()},
            proposed=[h for h in ground.proposed if h.version == heads[h.tile].version + 1],
            outstanding=[row.delta() for row in learner.outstanding],
            counted=counted(ground, learner.outstanding),
            learned_round=learner.round if learner.state_file else -1,
            rounds_max=ground.settings.run.rounds,
            region=ground.settings.network.region if ground.settings.network.aggregate else "",
        )
        core = FinalityCore(
            ground.peer,
            roster,
            execution.next_roster,
            self.chain,
            signer,
            ground.genesis.chain,
            anchor,
            restored=ground.restored_finality(),
        )
        return Engine(ground.peer, core, execution, rounds)

    def is_validator(self, peer: PeerId) -> bool:
        """Whether a peer votes in this epoch, the one before or the next one."""
        epoch, state = self.roster.epoch, self.engine.execution.state
        rosters = (state.find(ROSTERS, number(near)) for near in range(max(0, epoch - 1), epoch + 2))
        return any(roster is not None and roster.find_index(peer) is not None for roster in rosters)

    def tile_heads(self) -> dict[TileId, TileHead]:
        """Where every tile stands."""
        return tile_heads(self.engine.execution.state, self.ground.genesis_roots)

    def owner(self, tile: TileId) -> PeerId:
        """The tile's primary."""
        rules = self.engine.execution.head_rules
        return rules.roster.members[rules.order(tile)[0]].node

    async def _tile_data(self, tile: TileId, version: Version) -> memoryview | None:
        """The file of a tile's version, checked; None where it is not held."""

        def read() -> memoryview | None:
            if self.ground.tiles.find(tile, version) is None:
                return None
            held = self.ground.tiles.open(tile, version)
            held.verify()
            return memoryview(bytes(held.memory))

        try:
            return await self.tiles.in_thread(read)
        except Rejected as refusal:  # damaged: it is made again by whoever needs it
            log.warning("a tile is not read", tile=tile, version=version, why=str(refusal))
            return None

    async def _post_tiles(self, event: HeadsVerified | MergesDone | AggregationsDone | TilesApplied) -> None:
        """What the tile thread did. Verified heads have their updates stored and their roots computed."""
        if isinstance(event, HeadsVerified) and event.verdicts:
            self.crash_points.reach("update-stored", self._round)
        await self.reactor.post(event)

    def queues(self) -> dict[str, tuple[int, int]]:
        """What waits inside this node: name -> (how many, how many there may be)."""
        jobs = {f"tiles to {name}": (count, JOBS_MAX) for name, count in self.tiles.waiting().items()}
        return {"events": (self.reactor.waiting(), INBOX_MAX), **jobs}

    # -- running --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until a stop is requested."""
        async with trio.open_nursery() as nursery:
            self._background = nursery
            nursery.start_soon(self.tiles.run)
            nursery.start_soon(self.timers.run)
            nursery.start_soon(self.housekeeping.run)
            nursery.start_soon(self.reactor.run)
            for topic in self.gossip.topics():
                await self.transport.subscribe(topic)
            for peer in self.transport.connected_peers():
                await self.reactor.post(PeerConnected(peer))
            if self._computes:
                await nursery.start(self.learning.worker.run)
                self.door = self._open_door(nursery)
            nursery.start_soon(self._boot)
            nursery.start_soon(self.presence.run)
            await self.stop_requested.wait()
            self.phase = "stopping"
            log.info("stopping")
            nursery.cancel_scope.cancel()
        self.state_server.close()

    async def _boot(self) -> None:
        """Steps 6 and 7: catch up, then open the first round."""
        self.phase = "syncing"
        self._recall_rounds()
        self._make_room(0)
        self.tiles.apply(decided_but_not_applied(self.ground))
        await self.reactor.post(DeltasArrived(self.ground.candidates()))
        await self.reactor.post(finality.Started())
        self._start(self._listen)  # nothing may reach the machine before its first event
        self._start(self._poll_blocks)
        async with trio.open_nursery() as preparing:  # the worker imports torch while we catch up
            if self._computes:
                preparing.start_soon(self._prepare_worker)
            await self._wait_for_roster()
            if self.ground.ledger.tip() is None:
                await self.presence.find_providers(
                    model_key(self.ground.network)
                )  # a newcomer fetches from all of them
            await self._sync()
        await self._sync()
        self._replace_lost_votes()
        heads = self.engine.rounds.open_proposals()
        if heads:
            await self.reactor.post(HeadsSeen(heads, self.ground.peer))
        self.phase = "running"
        if self.chain.fork == 0:  # blocks of before a recovery were certified under another name
            self._start(self.backfill.run)
        await self.reactor.post_call(lambda now: self.engine.start_rounds(now, self._round_age_ms()))
        await self.presence.provide()
        self._start(self.keeping.run)
        await self._repeat_transactions()

    def _replace_lost_votes(self) -> None:
        """Begin a new vote journal where the old one is lost: it forbids every vote in this epoch and the next (chain.md S6).

        Only now, because the ledger that we began with may be as old as the journal was. This node goes on without a vote, and
        is made anew when it may have one.
        """
        ground = self.ground
        if ground.vote_state in (VoteJournalState.MISSING, VoteJournalState.DAMAGED):
            signer = VoteSigner(ground.keys.vote, self.chain, self.roster, (), ground.vote_state)
            ground.replace_votes(signer.compacted())
            self._votes_from = Epoch(self.roster.epoch + EPOCHS_REFUSED)
            log.error(
                "the vote journal was lost: a new one is begun, and this node votes again later",
                from_epoch=self._votes_from,
            )

    async def _prepare_worker(self) -> None:
        device = await self.learning.wait_greeted()
        log.info("device", device=device.device, name=device.name, tier=device.tier)
        if self.ground.settings.compute.learn:
            await self.learning.ensure_dataset()

    @property
    def _computes(self) -> bool:
        """Whether there is a worker: to learn, or to decode what experts elsewhere compute."""
        compute = self.ground.settings.compute
        return compute.learn or compute.experts == ELSEWHERE

    def _find_worker(self, experts: str) -> WorkerHandle | None:
        """The worker once it was greeted, where experts are computed so; else None."""
        learning = self.learning
        return learning.worker if learning.device and self.ground.settings.compute.experts == experts else None

    def _open_door(self, nursery: trio.Nursery) -> Door:
        """Text by our own experts, or by those of peers."""
        ground = self.ground
        own: ExpertAudit | None = None
        if ground.settings.compute.experts == ELSEWHERE:
            own = ExpertAudit(
                ground.work.tile_map,
                self.learning.tile_files,
                lambda: self._find_worker(ELSEWHERE),
                ground.genesis.model.width,
            )
            # Which answers are looked at is nobody else's to know: drawn from what is only ours, and from when we began.
            secret = ground.keys.node.seed + self.clock.now_ms().to_bytes(8, "big")
            checks = SpotChecks(random.Random(secret))
            client = ExpertClient(
                self.transport, random.Random(ground.peer), self.report, nursery, audit=own, checks=checks
            )
            nursery.start_soon(client.run)
            self.remote_experts = RemoteExperts(
                self.transport,
                self.inbound.adverts,
                client,
                ground.work.tile_map,
                row_bytes=FLOAT32_BYTES * ground.genesis.model.width,
            )
            nursery.start_soon(self.remote_experts.run)
        answering = Answering(
            ground.work.tile_map,
            ground.tiles.newest,
            self.learning.tile_files,
            lambda: self._find_worker(ground.settings.compute.experts),
            nursery,
            self.remote_experts,
            cache_bytes_of=partial(cache_bytes, ground.genesis.model),
        )
        return Door(
            answering,
            AnswerReceipts(ground.network, ground.keys.node, self.weights, self.answer_book, self.clock),
            AnswerAudit(ground.network, ground.work.tile_map, self.weights, answering, own),
        )

    def _find_root(self, tile: TileId, version: Version) -> Digest | None:
        held = self.ground.tiles.find(tile, version)
        return None if held is None else held.root

    def _recall_rounds(self) -> None:
        """What the ledger knows of rounds before this start, for whoever asks."""
        rounds: set[int] = set()
        decided: list[Decided] = []
        for height, head in heads_downwards(self.ground.ledger, BLOCKS_RECALLED):
            rounds.add(head.round)
            if len(rounds) > ROUNDS_RECALLED:
                break
            decided.append(Decided(head.slot, head, height))
        for each in reversed(decided):
            self.records.decide(each)

    def _round_age_ms(self) -> int:
        """How long ago the last head was decided; 0 where none is known."""
        newest = next(heads_downwards(self.ground.ledger, BLOCKS_RECALLED), None)
        stored = None if newest is None else self.ground.ledger.find_header(newest[0])
        if stored is None:
            return 0
        return max(0, self.clock.now_ms() - decode(Header, stored, limit_bytes=4 * KIB).time_ms)

    async def _wait_for_roster(self) -> None:
        """Round 0 starts when the roster is connected, or when a quorum of it has been for a while."""
        roster = self.roster
        others = {member.node for member in roster.members} - {self.ground.peer}
        if self.ground.pending is not None:
            return  # of that roster some are gone for ever
        deadline, said = trio.current_time() + ROSTER_PATIENCE_SECONDS, False
        while True:
            here = others & set(self.transport.connected_peers())
            if here == others:
                return
            weight = roster.weight_of(here | {self.ground.peer})
            if trio.current_time() > deadline:
                if roster.is_quorum(weight) or self.me is None:
                    return
                if not said:
                    log.warning("waiting for the roster", reachable=len(here) + 1, members=len(roster.members))
                    said = True
            await trio.sleep(0.05)

    def _start(self, work: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Start something in the background of the node."""
        if self._background is None:
            raise RuntimeError("the node is not running")
        self._background.start_soon(work, *arguments)

    def _make_room(self, round_number: int) -> None:
        """For a round, before it writes anything."""
        removed = self.housekeeping.prepare(round_number)
        if removed:
            self._start(self.housekeeping.remove_tiles, removed)

    # -- what the network says ------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Everything inbound, in order."""
        async for event in self.transport.events:
            match event:
                case wire.GossipReceived():
                    try:
                        taken = self.inbound.gossip(event, self.clock.now_ms())
                    except AuthorRejected as refusal:
                        self.report(refusal.author, refusal)
                        continue
                    except Rejected as refusal:
                        self.report(event.forwarder, refusal)
                        continue
                    if taken is not None:
                        await self.reactor.post(taken)
                case wire.MessageReceived():
                    try:
                        said = self.inbound.message(event)
                    except Rejected as refusal:
                        self.report(event.peer, refusal)
                        continue
                    if said is not None:
                        await self.reactor.post(said)
                case wire.PeerConnected():
                    log.info("peer connected", peer=short(event.peer))
                    await self.reactor.post(PeerConnected(event.peer))
                    self.presence.met.set()
                case wire.PeerLost():
                    log.info("peer lost", peer=short(event.peer), why=event.reason)
                    await self.reactor.post(PeerLost(event.peer))
                case wire.PeerRefused():
                    log.warning("peer refused", peer=short(event.peer), why=event.reason_sentence)
                    self.inbound.rejected["peer_refused"] += 1

    def report(self, peer: PeerId, refusal: Rejected) -> None:
        """Count a refusal; the host charges a peer that is to blame, and bans one that is too often."""
        self.inbound.refuse(refusal)
        self.transport.report(peer, refusal)
        if refusal.reason.blame in (Blame.SENDER, Blame.AUTHOR):
            self.blamed[peer] += 1
            log.info("rejected", peer=short(peer), reason=refusal.reason.code, detail=refusal.detail)

    async def _on_timer(self, token: Any) -> None:
        await self.reactor.post(token if isinstance(token, RoundTimer) else finality.TimerFired(token))

    # -- transactions ---------------------------------------------------------------------------------------------------

    async def submit(self, data: bytes) -> Digest:
        """Take a user's transaction: checked, in the pool, on the disk, and only then said to others; returns its id.

        Raises ``Rejected`` as ``check_transaction`` and ``Mempool.add``.
        """
        signed = check_transaction(data, self.chain)
        refusals: list[Rejected] = []
        done = trio.Event()

        def add(now: int) -> list[Effect]:
            try:
                effects = self.engine.add_transaction(signed, now)
                self.ground.store_transaction(signed.id, data)
            except Rejected as refusal:
                refusals.append(refusal)
                effects = []
            done.set()
            return effects

        await self.reactor.post_call(add)
        await done.wait()
        if refusals:
            raise refusals[0]
        self._start(self.gossip.publish_transactions, (data,))
        return signed.id

    async def _repeat_transactions(self) -> None:
        """Our users' transactions go back into the pool at a start, and out again until a block has them."""
        for data in self.ground.own_transactions():
            try:
                await self.submit(data)
            except Rejected as refusal:
                if refusal.reason is Reason.WRONG_NONCE:  # another one took its place: it can never be in a block
                    dropped = Dropped(transaction_id(data), refusal.reason)
                    await self._forget_transactions(TransactionsDropped((dropped,)))
        while True:
            await trio.sleep(REPEAT_SECONDS)
            waiting = [data for data in self.ground.own_transactions() if self.engine.execution.mempool.find(data)]
            await self.gossip.publish_transactions(waiting)

    # -- catching up ----------------------------------------------------------------------------------------------------

    async def _poll_blocks(self) -> None:
        """Nodes outside the roster hear of blocks by gossip, which may lose one: ask when there was none for too long."""
        while True:
            await trio.sleep(SYNC_POLL_SECONDS)
            late = self.verified_ms is None or self.clock.monotonic_ms() - self.verified_ms > self._block_patience_ms
            if late and self.me is None:
                await self._suspect()

    async def _suspect(self) -> None:
        """Ask for blocks of which nobody has shown us one, but less and less often while none comes.

        A chain that stands must not drown in the questions of all who follow it.
        """
        now = self.clock.monotonic_ms()
        apart_ms = min(int(1000 * SYNC_POLL_SECONDS) << self._asked_in_vain, self._block_patience_ms)
        if now < self._asked_ms + apart_ms or not self.transport.connected_peers():
            return
        self._asked_ms, self._asked_in_vain = now, min(self._asked_in_vain + 1, VAIN_QUESTIONS_MAX)
        await self._sync()

    async def _sync(self) -> None:
        """Fetch, check and take in finalized blocks, up to the tip of whoever answered.

        Not until no peer has more: on a busy machine a living chain adds blocks as fast as they are taken in.
        """
        async with self._syncing:
            while True:
                first = Height((self.ground.ledger.tip() or 0) + 1)
                answer = await self.exchange.fetch_blocks(first)
                if answer is None:
                    await self._look_for_checkpoint(first)
                    return
                blocks, peer = answer
                if blocks.blocks[0].header.chain.fork > self.chain.fork:
                    self._tell_of_fork(blocks.blocks[0].header)
                    return
                try:
                    checked = check_chain(blocks.blocks, self.roster, self.chain, self.ground.genesis.chain)
                except Rejected as refusal:
                    self.report(peer, refusal)
                    return
                await self.reactor.post(finality.Synced(checked))
                last = checked[-1].header.height
                with trio.move_on_after(5.0):
                    while (self.ground.ledger.tip() or 0) < last:
                        await trio.sleep(0.01)
                if (self.ground.ledger.tip() or 0) < last or last >= blocks.tip_height:
                    return

    def _tell_of_fork(self, header: Header) -> None:
        """Others went on after a recovery: only its operator can tell whether this node should, and nobody is blamed."""
        if not self._is_told_of_fork:
            self._is_told_of_fork = True
            log.error(
                "peers go on from here after an emergency recovery, and this node does not: see docs/recovery.md",
                fork=header.chain.fork,
                height=header.height,
            )

    async def _look_for_checkpoint(self, next_height: Height) -> None:
        """Where nobody keeps the next block, this node stops, and is made anew after a checkpoint."""
        if not self.exchange.is_pruned(next_height) or self.needs_checkpoint or self.ground.settings.run.from_genesis:
            return
        if await self.state_fetch.find_newest() is not None:
            log.warning("going on from a checkpoint: no peer keeps the next block any more", height=next_height)
            self.needs_checkpoint = True
            self.stop_requested.set()

    # -- what the engine wants done -------------------------------------------------------------------------------------

    def _performers(self) -> dict[type, Callable[[Any], Awaitable[None]]]:
        """One row an effect."""
        return {
            finality.Persist: self._persist_votes,
            finality.StoreBlocks: self._store_blocks,
            finality.Send: self._send,
            finality.SetTimer: self._set_timer,
            finality.FetchBlocks: self._fetch_blocks,
            finality.Score: self._score,
            finality.Evidence: self._evidence,
            finality.Halt: self._halt,
            Blamed: self._blame,
            StoreFinalized: self._store_finalized,
            TransactionsDropped: self._forget_transactions,
            VerifyHeads: self._verify_heads,
            VerifyHistory: self._verify_history,
            WalkHistory: self._walk_history,
            Decide: self._decide,
            SetRoundTimer: self._set_round_timer,
            RoundOpened: self._round_opened,
            RoundClosed: self._round_closed,
            Announce: self._announce,
            StartLearning: self._start_learning,
            DeliverDeltas: self._deliver,
            AskCarried: self._ask_carried,
            StartAggregation: self._start_aggregation,
            StartMerge: self._start_merge,
            Propose: self._propose,
            Republish: self._republish,
            Lagging: self._lag,
            Stalled: self._stall,
        }

    @property
    def _round(self) -> int:
        return self.engine.rounds.statistics().round

    async def _persist_votes(self, effect: finality.Persist) -> None:
        if self.ground.votes is None:
            raise InvariantBroken("a vote was signed although there is no journal for it")
        self.ground.votes.append(*effect.records)
        self.crash_points.reach("vote-journaled", self._round)

    async def _store_blocks(self, effect: finality.StoreBlocks) -> None:
        self.ground.store_finality(effect.blocks, effect.certificates)

    async def _send(self, effect: finality.Send) -> None:
        data = encode(ValidatorFrame(self.chain.fork, effect.message))
        for peer in effect.to:
            try:
                await self.transport.send(peer, VOTE.protocol, data)
            except RequestFailed:
                continue  # R8 says everything again

    async def _set_timer(self, effect: finality.SetTimer) -> None:
        self.timers.set(effect.timer, effect.at_ms)

    async def _set_round_timer(self, effect: SetRoundTimer) -> None:
        self.timers.set(RoundTimer(), effect.at_ms)

    async def _store_finalized(self, effect: StoreFinalized) -> None:
        """Each block with everything that becomes true with it, in one batch."""
        last = effect.blocks[-1].block
        for committed in effect.blocks:
            self.ground.store_finalized(committed)
        if self.ground.pending is not None and last.header.height >= self.ground.pending.height:
            self.needs_fork = True
            self.stop_requested.set()
        self.verified_ms, self._asked_in_vain = self.clock.monotonic_ms(), 0
        self.keeping.note_block()
        if self._votes_from is not None and self.roster.epoch >= self._votes_from:
            self._votes_from = None
            self.needs_votes = True
            self.stop_requested.set()
        self.crash_points.reach("head-decided", self._round)
        if last.certificate is not None and self._is_ours(last.header):
            self._start(self.gossip.publish, FinalizedTip(last.header, last.certificate))

    def _is_ours(self, header: Header) -> bool:
        """Whether we proposed a block of this epoch, or of the one that it has just ended."""
        roster = self.engine.execution.state.find(ROSTERS, number(header.epoch))
        return roster is not None and roster.find_index(self.ground.peer) == header.proposer

    async def _forget_transactions(self, effect: TransactionsDropped) -> None:
        """They are in no block and never will be, as far as this node can tell: whoever asks is told why."""
        batch = Batch()
        self.ground.forget_transactions(batch, (dropped.id for dropped in effect.dropped))
        self.ground.index.write(batch)
        # A block's own transactions leave the pool too, as their nonces are used: of them its rows tell, while it is kept.
        nowhere = [each for each in effect.dropped if find_transaction(self.ground.index, each.id) is None]
        self.dropped.note(nowhere)
        for dropped in nowhere:
            log.info("transaction dropped", id=dropped.id.hex()[:16], reason=dropped.reason.code)

    async def _fetch_blocks(self, effect: finality.FetchBlocks) -> None:
        if self._syncing.statistics().tasks_waiting:
            return  # the one that waits will see what we were told of
        # Members decide, and ask whenever they may be behind.
        is_shown = effect.target is not None or self.me is not None
        self._start(self._sync if is_shown else self._suspect)

    async def _score(self, effect: finality.Score) -> None:
        self.report(effect.peer, Rejected(effect.reason, "finality"))

    async def _evidence(self, effect: finality.Evidence) -> None:
        self.inbound.rejected[Reason.EQUIVOCATION.code] += 1
        log.error("evidence", kind=effect.kind.name, what=effect.kind.value, validator=short(effect.validator))
        self._start(self.evidence.report, effect)

    async def _halt(self, effect: finality.Halt) -> None:
        raise InvariantBroken(effect.sentence)

    async def _blame(self, effect: Blamed) -> None:
        self.report(effect.peer, Rejected(effect.reason, effect.detail))

    async def _verify_heads(self, effect: VerifyHeads) -> None:
        self.tiles.verify(effect.heads)

    async def _verify_history(self, effect: VerifyHistory) -> None:
        self._start(self.history.verify, effect)

    async def _walk_history(self, effect: WalkHistory) -> None:
        self._start(self.history.walk, effect)

    async def _decide(self, effect: Decide) -> None:
        for each in effect.decided:
            self.records.decide(each)
            self.lagging.pop(each.slot.tile, None)
        self.tiles.apply(effect.decided)

    async def _round_opened(self, effect: RoundOpened) -> None:
        record = self.records.of(effect.round)
        if record.opened_ms is None:
            record.opened_ms = self.clock.now_ms()
            record.bytes_sent_before = self.transport.statistics().bytes_sent_total
        log.info("round opened", round=effect.round)

    async def _round_closed(self, effect: RoundClosed) -> None:
        record = self.records.of(effect.round)
        record.closed_ms = self.clock.now_ms()
        record.bytes_sent_after = self.transport.statistics().bytes_sent_total
        self.lagging = {}
        for lagging in effect.lagging:
            await self._lag(lagging)
        record.lagging = effect.lagging
        self._make_room(effect.round + 1)
        log.info(
            "round closed",
            round=effect.round,
            advanced=len(record.heads),
            tiles=len(self.ground.genesis_roots),
            lagging=len(effect.lagging),
        )
        if self.ground.settings.compute.learn:
            self._start(self.learning.evaluate, effect.round)

    async def _announce(self, effect: Announce) -> None:
        self._start(self.presence.announce, effect.round)

    async def _start_learning(self, effect: StartLearning) -> None:
        self._start(self.learning.learn, effect)

    async def _deliver(self, effect: DeliverDeltas) -> None:
        self._start(self.learning.deliver, effect)

    async def _ask_carried(self, effect: AskCarried) -> None:
        self._start(self.learning.ask_carried, effect)

    async def _start_aggregation(self, effect: StartAggregation) -> None:
        self.tiles.aggregate(effect)

    async def _start_merge(self, effect: StartMerge) -> None:
        self.tiles.merge(effect)

    async def _propose(self, effect: Propose) -> None:
        heads = tuple(sign_head(head, self.ground.keys.node) for head in effect.heads)
        self.ground.proposals.append(*(encode(head) for head in heads))
        self.crash_points.reach("head-journaled", self._round)
        self.reactor.put_next(self.engine.proposed_by_us(heads))
        self._start(self.gossip.publish_heads, heads)

    async def _republish(self, effect: Republish) -> None:
        self._start(self.gossip.publish_heads, effect.heads)
        if effect.is_direct:
            members = [member.node for member in self.roster.members if member.node != self.ground.peer]
            self._start(self.gossip.give_heads, effect.heads, members)

    async def _lag(self, effect: Lagging) -> None:
        self.lagging[effect.slot.tile] = effect
        self.records.of(effect.round).lagging = tuple(self.lagging.values())
        log.warning(
            "tile lags", tile=effect.slot.tile, version=effect.slot.version, round=effect.round, why=effect.reason
        )

    async def _stall(self, effect: Stalled) -> None:
        if effect.reason is None:
            log.info("no longer stalled")
        else:
            log.warning("stalled", why=effect.reason)


def run_node(
    settings: Settings,
    ask_passphrase: AskPassphrase | None = None,
    worker_command: Sequence[str] = WORKER_COMMAND,
    until: Callable[[Node], Awaitable[None]] | None = None,
) -> None:
    """Run a node until it is told to stop. Raises ``Rejected``, ``OSError`` and their kin before anything is served.

    ``worker_command`` starts the learner's process: a benchmark of the network puts one there that need not learn. With
    ``until``, the node stops when that returns.
    """
    ground = open_ground(settings, ask_passphrase)
    node_log.configure_logging(settings.log.level, settings.places.log, Clock())
    try:
        if settings.run.resync:
            forget_chain(ground)
            ground = ground.renewed()
        trio.run(_main, ground, Machine(partial(worker_process, command=worker_command)), until)
    finally:
        ground.close()


async def _main(ground: Ground, machine: Machine, until: Callable[[Node], Awaitable[None]] | None) -> None:
    settings, clock = ground.settings, Clock()

    def check_hello(peer: PeerId, hello: bytes) -> None:
        if hello != ground.network:
            raise Rejected(
                Reason.FOREIGN_NETWORK, f"its network is {hello[:8].hex()}..., ours is {ground.network[:8].hex()}..."
            )

    async with open_libp2p_host(
        ground.keys.node.seed,
        listen=settings.network.listen,
        announce=settings.network.announce,
        hello=ground.network,
        check_hello=check_hello,
        bootstrap=settings.network.bootstrap,
        generator=random.Random(secrets.randbits(64)),
        clock_milliseconds=clock.now_ms,
        connections_wanted=settings.network.connections,
    ) as transport:
        from node.api.server import serve_api

        log.info(
            "listening", peer=short(ground.peer), addresses=list(transport.addresses), network=ground.network.hex()[:16]
        )

        shown: list[NodeView] = []  # the one that the API tells of

        async def show(view: NodeView) -> None:
            shown[:] = [view]
            if not is_served.is_set():
                is_served.set()
                await nursery.start(
                    partial(
                        serve_api,
                        lambda: shown[0],
                        settings.places,
                        settings.api.listen,
                        peer_text(ground.peer),
                        transport.addresses,
                        transport.listening,
                        origins=settings.api.allow_origins,
                    )
                )

        async def show_joining(fetch: StateFetch) -> None:
            await show(JoiningView(ground, transport, clock, fetch, stop))

        async def run(node: Node) -> None:
            view = View(node)
            await show(view)
            about = {"peer": peer_text(ground.peer), "network": ground.genesis.network_name}
            alerting = Alerting(node.alerts, view.metrics, clock, settings.alerts.webhooks, about)
            gc.freeze()  # what is here now stays: nobody looks through it for garbage again
            async with trio.open_nursery() as running:
                running.start_soon(_stop_with, stop, node)
                running.start_soon(alerting.run)
                running.start_soon(node.self_check.run)
                if until is not None:
                    running.start_soon(_stop_after, until, node, stop)
                await node.run()
                running.cancel_scope.cancel()

        stop, is_served = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, stop)
            await live(
                ground,
                transport,
                clock,
                machine,
                lambda ground: Node(ground, transport, clock, machine),
                run,
                stop,
                show_joining,
            )
            nursery.cancel_scope.cancel()


async def live(
    ground: Ground,
    transport: Transport,
    clock: Clock,
    machine: Machine,
    make_node: Callable[[Ground], Node],
    run: Callable[[Node], Awaitable[None]],
    stop: trio.Event,
    on_fetch: Callable[[StateFetch], Awaitable[None]] | None = None,
) -> None:
    """From joining to stopping. A node whose peers no longer keep its next block joins anew, from a checkpoint.

    One that computes another state for a final block than everybody else keeps what it did, and ends; the next does not begin.
    """
    is_behind = False
    try:
        if finish_forgetting(ground):
            ground = ground.renewed()
        check_not_halted(ground)
        while True:
            ground = adopt_when_due(ground)
            fetch = StateFetch(ground, transport, clock, machine.in_thread)
            if on_fetch is not None:
                fetch.on_fetch = on_fetch
            async with trio.open_nursery() as joining:
                joining.start_soon(_cancel_with, stop, joining.cancel_scope)
                joining.start_soon(_overhear, transport)
                has_joined = await fetch.run(is_behind=is_behind)
                joining.cancel_scope.cancel()
            if stop.is_set():
                return
            if has_joined and ground.pending is not None:
                ground = ground.renewed()  # what it joined may be the new fork
            node = make_node(ground)
            node.state_fetch = fetch  # which knows what it did
            try:
                await run(node)
            except* StateDisagreement as group:
                for disagreement in disagreements(group):
                    record_disagreement(ground, disagreement)
                raise
            is_behind = node.needs_checkpoint
            if not (is_behind or node.needs_fork or node.needs_votes) or stop.is_set():
                return
            ground = ground.renewed()
    finally:
        ground.close_journals()


async def _overhear(transport: Transport) -> None:
    """Nobody listens yet: a node asks who is there when it begins. Its user is told at once."""
    async for event in transport.events:
        match event:
            case wire.PeerConnected():
                log.info("peer connected", peer=short(event.peer))
            case wire.PeerRefused():
                log.warning("peer refused", peer=short(event.peer), why=event.reason_sentence)


async def _cancel_with(stop: trio.Event, scope: trio.CancelScope) -> None:
    await stop.wait()
    scope.cancel()


async def _stop_after(until: Callable[[Node], Awaitable[None]], node: Node, stop: trio.Event) -> None:
    await until(node)
    stop.set()


async def _stop_with(stop: trio.Event, node: Node) -> None:
    await stop.wait()
    node.stop_requested.set()


async def _stop_on_signal(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            stop.set()
