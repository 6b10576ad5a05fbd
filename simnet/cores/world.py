"""Level one's world: one heap of calls in virtual milliseconds, one generator from the seed, and the peers above them.

    run_scenario(scenario, seed) -> Outcome        the same for a seed, under any PYTHONHASHSEED

Nothing here reads a clock, iterates over a set or calls ``hash``. The log, of which the outcome has the digest, has a line for
each thing that was delivered, computed or decided.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from compute.exact import Float32
from node.adverts import advert_seconds
from protocol.codec import encode
from protocol.finality import FinalizedBlock
from protocol.ids import Digest, Height, PeerId, TileId, Version
from protocol.limits import STREAMS_PER_CONNECTION_MAX
from protocol.rejection import Reason, Rejected
from protocol.roster import Head
from simnet.checkers import Watch
from simnet.compute import make_valley
from simnet.cores.account import Account
from simnet.cores.faults import check_faults, plan_faults
from simnet.cores.gossip import Gossip
from simnet.cores.learner import Change, LearnerWork
from simnet.cores.network import Network
from simnet.cores.peer import Peer
from simnet.cores.shared import Shared
from simnet.network import PeerPlan, make_genesis, plan_peers
from simnet.outcome import Outcome
from simnet.scenario import Scenario, check_scenario
from simnet.shadow import shadow_losses
from simnet.villains import VILLAINS, Conspiracy, Villain

LEVEL: Final = 1
FIRST_STARTS_MS: Final = 3_000  # over which those that are there from the beginning start
HANDSHAKE_TRIPS: Final = 6  # TCP, Noise, yamux, hello: one-way trips until both know of each other
REFUSED_MS: Final = 50  # until somebody knows that a process is gone: its sockets close
SILENT_MS: Final = 20_000  # until somebody knows that a route is: pings are not answered
TIMEOUT_MS: Final = 10_000  # of a request into the void
LOOK_AGAIN_MS: Final = 100  # while a server waits for what it was asked for
REDIAL_MS: Final = 5_000  # within which a region that is there again is found
ENVELOPE_BYTES: Final = 183  # measured (protocol/limits.py)
LIFETIME_MS: Final = 120_000  # of an envelope (node/services/gossip.py)
AHEAD_MS_MAX: Final = 485_000  # clocks further behind an envelope's author refuse it: its lifetime is over ten minutes
SLACK_MS: Final = 5_000
KNOWN_MAX: Final = (
    12  # peers of a region whom all others there are connected to: a guess, real ones want 32 of anywhere
)
SEARCHED: Final = 16  # how many are looked at for one who has something

# Soft state is counted and not simulated. A region's peers tell one of them, which tells everybody about all of them.
ADVERT_BYTES: Final = 330  # an advert with one address, in its envelope
SUMMARY_BYTES: Final = 96  # of a region's summary: how many, what machines, rounds, heights, load (a guess)
SUMMARY_PEERS_MAX: Final = 8  # whom it names, other ones each time: after two minutes as many as anybody connects to
SUMMARY_PEER_BYTES: Final = 96  # id and address of one


class World:
    """``run`` it once. ``memo`` False: nobody learns from what another computed."""

    def __init__(self, scenario: Scenario, seed: int, *, memo: bool = True) -> None:
        check_faults(check_scenario(scenario))
        self.scenario = scenario
        self.seed = seed
        self.random = random.Random(f"cores {seed}")
        self.now_ms = 0
        self.end_ms = int(1_000 * scenario.seconds)
        self.events = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._log = hashlib.sha256()
        plans = plan_peers(scenario, seed)
        genesis = make_genesis(scenario, [plan.keys for plan in plans], seed)
        self.shared = Shared(genesis, memo=memo)
        self.network_id = Digest(genesis.network_id())
        self.learner_work = LearnerWork(genesis, self.shared.tile_map)
        self.valley = make_valley(self.shared.tile_map, seed)
        self.blobs: dict[Digest, bytes] = {}  # whatever anybody ever stored
        self._holders: dict[Digest, list[int]] = {}  # of updates
        self.watch = Watch(genesis, scenario, self.blobs.get, self.valley, partial(shadow_losses, scenario, seed))
        self.network = Network(scenario, self.random)
        self._conspiracy = Conspiracy(seed)
        self._has_villains = any(plan.villain for plan in plans)
        self.when_round_opens: list[Callable[[int], None]] = []
        self._newest_round = -1
        self._could_decide = True
        self.running_count = 0
        self.peers: list[Peer] = [Peer(self, plan) for plan in plans]
        self.by_id: dict[PeerId, Peer] = {peer.id: peer for peer in self.peers}
        self._validators = [peer for peer in self.peers if peer.plan.is_validator]
        self._in_region: dict[str, list[Peer]] = {}
        for peer in self.peers:
            self._in_region.setdefault(peer.region, []).append(peer)
        self._introduce()
        self._is_skewed = any(plan.clock_offset_ms for plan in plans)
        self.gossip = Gossip(self.network, self.peers, self.random)
        self.account = Account(self)

    # -- time -----------------------------------------------------------------------------------------------------------

    def later(self, delay_ms: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call back after so long; what is due is done next."""
        self._sequence += 1
        heapq.heappush(self._heap, (self.now_ms + max(0, int(delay_ms)), self._sequence, call, arguments))

    def note(self, *words: object) -> None:
        """One line of the log, which only its digest outlives."""
        self._log.update(f"{self.now_ms} {words}\n".encode())

    @property
    def seconds(self) -> float:
        return self.now_ms / 1_000

    def run(self, on_progress: Callable[[float], None] | None = None) -> Outcome:
        """Through the scenario's time."""
        plan_faults(self)
        for peer in self.peers:
            arrives_ms = 1_000 * peer.plan.arrives_seconds
            self.later(arrives_ms or self.random.randrange(FIRST_STARTS_MS), peer.start)
        self.later(self.account.step_ms, self._sample, on_progress)
        self._expect_soft_state()
        heap = self._heap
        while heap and heap[0][0] <= self.end_ms:
            self.now_ms, _, call, arguments = heapq.heappop(heap)
            self.events += 1
            call(*arguments)
        self.now_ms = self.end_ms
        self.watch.finish(self.seconds, [peer.id for peer in self.peers if peer.is_running])
        return self._outcome()

    def _sample(self, on_progress: Callable[[float], None] | None) -> None:
        for peer in self._validators:
            if peer.is_running:
                most = STREAMS_PER_CONNECTION_MAX * max(1, len(peer.connected))
                self.watch.queue(peer.id, "requests", peer.under_way, most, self.seconds)
        self.account.sample()
        if on_progress is not None:
            on_progress(self.seconds)
        self.later(self.account.step_ms, self._sample, on_progress)

    def _count_soft_state(self) -> None:
        """Adverts by region. Nobody asks for blocks of which gossip told him (node/node.py)."""
        by_region: dict[str, list[Peer]] = {}
        for peer in self.peers:
            if peer.is_running:
                by_region.setdefault(peer.region, []).append(peer)
        for region, peers in by_region.items():
            self.network.count(region, region, len(peers) * ADVERT_BYTES, "adverts")
            for one, other, copies in self.gossip.tree(peers[0]).hops:
                named = SUMMARY_PEER_BYTES * min(SUMMARY_PEERS_MAX, len(peers))
                self.network.count(one, other, copies * (SUMMARY_BYTES + named), "adverts")
        self._expect_soft_state()

    def _expect_soft_state(self) -> None:
        running = sum(peer.is_running for peer in self.peers)
        self.later(int(1000 * advert_seconds(running)), self._count_soft_state)

    def _outcome(self) -> Outcome:
        scenario = self.scenario
        return Outcome(
            scenario=scenario.name,
            says=scenario.says,
            seed=self.seed,
            level=LEVEL,
            repeat=f"nocknode simnet run {scenario.name} --level {LEVEL} --seed {self.seed} --peers {scenario.peers}",
            peers=scenario.peers,
            validators=scenario.validators,
            virtual_seconds=self.seconds,
            inner_steps=scenario.learning.inner_steps,
            invariants=self.watch.invariants,
            rounds=self.watch.rounds,
            samples=self.account.samples,
            regions=self.account.regions(),
            moves=self.watch.moves,
            happenings=self.account.happenings,
            events=self.events,
            digest=self._log.hexdigest(),
        )

    # -- who is there ---------------------------------------------------------------------------------------------------

    def on_started(self, peer: Peer) -> None:
        """A process began: it and the roster find each other."""
        self.running_count += 1
        self.network.changes += 1
        self.note("start", peer.index)
        self.watch.arrived(peer.id, self.seconds, is_new=peer.life == 1)
        for other in self._counterparts(peer):
            if self.network.reaches(peer, other):
                trips_ms = HANDSHAKE_TRIPS * self.network.latency_ms(peer.region, other.region)
                self.later(trips_ms, peer.look_at, other)
                self.later(trips_ms, other.look_at, peer)
        self._judge_quorum()

    def on_stopped(self, peer: Peer) -> None:
        """A process ended: its sockets close."""
        self.running_count -= 1
        self.network.changes += 1
        self.note("stop", peer.index)
        self.watch.left(peer.id, self.seconds)
        for other in self._counterparts(peer):
            if other.is_running:
                self.later(REFUSED_MS + self.network.latency_ms(peer.region, other.region), other.look_at, peer)
        self._judge_quorum()

    def on_failed(self, peer: Peer, why: str) -> None:
        """A machine of finality halted: two blocks are final."""
        self.watch.failed(peer.id, why, self.seconds)
        self.account.tell(f"peer {peer.index} fails: {why}")
        peer.stays_dead = True
        peer.kill()

    def on_cut(self, region: str) -> None:
        """A region was cut off or joined again: who was connected across finds out."""
        is_cut = self.network.side(region) == region
        for peer in self.peers:
            if peer.region == region:
                self.watch.hindered(peer.id, self.seconds, is_cut)
        for peer in self.peers:
            for other in self._counterparts(peer):
                if peer.region != other.region and region in (peer.region, other.region):
                    delay_ms = SILENT_MS if is_cut else self.random.randrange(REDIAL_MS)
                    self.later(delay_ms, peer.look_at, other)
        self._judge_quorum()

    def _counterparts(self, peer: Peer) -> Sequence[Peer]:
        """Whom a peer is connected to: the roster to everybody, everybody to the roster and to some of its region."""
        if peer.plan.is_validator:
            return [other for other in self.peers if other is not peer]
        near = self._in_region[peer.region]
        if not peer.is_known:
            near = near[:KNOWN_MAX]
        return [*self._validators, *(other for other in near if other is not peer and not other.plan.is_validator)]

    def _introduce(self) -> None:
        """A region's first peers are those whom everybody there knows; owners and aggregators are told who takes part."""
        for peers in self._in_region.values():
            members = [peer for peer in peers if peer.plan.is_validator]
            for peer in peers[:KNOWN_MAX]:
                peer.is_known = True
            for peer in members or peers[:KNOWN_MAX]:
                peer.is_hub = True

    def _judge_quorum(self) -> None:
        possible = self._can_decide([peer for peer in self._validators if peer.is_running])
        if possible != self._could_decide:
            self._could_decide = possible
            self.watch.quorum_possible(self.seconds, possible)

    def _can_decide(self, running: Sequence[Peer]) -> bool:
        sides = [self.network.side(peer.region) for peer in running]
        return any(3 * sides.count(side) > 2 * len(self._validators) for side in sides)

    def has_quorum_without(self, peer: Peer) -> bool:
        """Whether the roster decides without this one too."""
        return self._can_decide([each for each in self._validators if each.is_running and each is not peer])

    def find_owner(self, tile: str) -> Peer | None:
        """The primary of a tile in the epoch that the furthest running validator is in."""
        running = [peer for peer in self._validators if peer.engine is not None]
        if not running:
            return None
        ahead = max(running, key=lambda peer: peer.disk.tip)
        assert ahead.engine is not None
        rules = ahead.engine.execution.head_rules
        return self.by_id[rules.roster.members[rules.order(TileId(tile))[0]].node]

    # -- messages -------------------------------------------------------------------------------------------------------

    def tell(self, source: Peer, to: Peer, size_bytes: int, kind: str, call: Callable[..., None], *words: Any) -> None:
        """One message on a stream; lost if nothing goes through as it arrives."""
        delay_ms = self.network.send_ms(source, to, size_bytes, self.now_ms, kind)
        self.later(delay_ms, self._told, source, to, call, words)

    def _told(self, source: Peer, to: Peer, call: Callable[..., None], words: tuple[Any, ...]) -> None:
        if self.network.reaches(source, to):
            call(*words)

    def request(
        self,
        asker: Peer,
        server: Peer,
        size_bytes: int,
        kind: str,
        serve: Callable[[], tuple[int, Any] | None],
        take: Callable[[Any, Any], None],
        context: Any,
    ) -> None:
        """Ask; ``serve`` runs at the server as the question arrives and says how large its answer is; None: not yet.

        ``take(answer, context)`` runs at the asker, with None where no answer came.
        """
        if not self.network.reaches(asker, server):
            self.later(REFUSED_MS, self._answered, asker, asker.life, None, take, None, context)
            return
        delay_ms = self.network.send_ms(asker, server, size_bytes, self.now_ms, kind)
        server.under_way += 1
        self.account.queued(server)
        self.later(delay_ms, self._asked, asker, asker.life, server, server.life, kind, serve, take, context)

    def _asked(
        self,
        asker: Peer,
        life: int,
        server: Peer,
        server_life: int,
        kind: str,
        serve: Callable[[], tuple[int, Any] | None],
        take: Callable[[Any, Any], None],
        context: Any,
    ) -> None:
        if server.life != server_life or not server.is_running:
            self.later(REFUSED_MS, self._answered, asker, life, None, take, None, context)
            return
        if not self.network.reaches(asker, server):
            server.under_way -= 1
            self.later(TIMEOUT_MS, self._answered, asker, life, None, take, None, context)
            return
        served = serve()
        if served is None:
            self.later(LOOK_AGAIN_MS, self._asked, asker, life, server, server_life, kind, serve, take, context)
            return
        server.under_way -= 1
        size_bytes, answer = served
        delay_ms = self.network.send_ms(server, asker, size_bytes, self.now_ms, kind)
        self.later(delay_ms, self._answered, asker, life, server, take, answer, context)

    def _answered(
        self, asker: Peer, life: int, server: Peer | None, take: Callable[[Any, Any], None], answer: Any, context: Any
    ) -> None:
        if asker.life != life or not asker.is_running:
            return
        if server is not None and not self.network.reaches(asker, server):
            self.later(TIMEOUT_MS, self._answered, asker, life, None, take, None, context)
            return
        take(answer, context)

    def publish(self, source: Peer, topic: str, data: bytes, event: Any, *, to_hubs: bool = False) -> None:
        """Gossip. Its bytes go to everybody; ``to_hubs``: only those are told who may own or gather."""
        tree = self.gossip.tree(source)
        size_bytes = len(data) + ENVELOPE_BYTES
        for one, other, copies in tree.hops:
            self.network.count(one, other, copies * size_bytes, topic)
        self.note("publish", source.index, topic, size_bytes)
        for peer, delay_ms in tree.waiting if to_hubs else tree.delays:
            if not self._is_skewed or self._is_fresh(source, peer):
                self.later(delay_ms, peer.hear, event)

    def _is_fresh(self, source: Peer, to: Peer) -> bool:
        """Whether a receiver's clock believes the lifetime that an author's gave an envelope."""
        ahead_ms = source.plan.clock_offset_ms - to.plan.clock_offset_ms
        return -LIFETIME_MS - SLACK_MS <= ahead_ms <= AHEAD_MS_MAX

    def weigh(self, data: bytes) -> int:
        """Bytes of a blob on the wire. A benchmark of larger tiles says others."""
        return len(data)

    def tile_bytes(self, tile: TileId) -> int:
        """Bytes of a tile's file on the wire."""
        return 4 * self.shared.tile_map.tile(tile).values

    def size_of_blocks(self, blocks: Iterable[FinalizedBlock]) -> int:
        """In an answer of the sync protocol."""
        return sum(len(encode(block)) for block in blocks)

    # -- who has what ---------------------------------------------------------------------------------------------------

    def offer(self, peer: Peer, blobs: dict[Digest, bytes]) -> None:
        """A peer has these from now on."""
        for name, data in blobs.items():
            self.blobs.setdefault(name, data)
            self._holders.setdefault(name, []).append(peer.index)

    def find_holder(self, asker: Peer, name: Digest, preferred: PeerId) -> Peer | None:
        """Who gives a blob: the preferred peer, or one that fetched it before."""
        first = self.by_id[preferred]
        if self.network.reaches(asker, first) and name in first.disk.blobs:
            return first
        holders = self._holders.get(name, ())
        for _ in range(min(SEARCHED, len(holders))):
            peer = self.peers[holders[self.random.randrange(len(holders))]]
            if self.network.reaches(asker, peer) and name in peer.disk.blobs:
                return peer
        return None

    def find_tile_holder(self, asker: Peer, head: Head) -> Peer | None:
        """Somebody who has applied a head."""
        return self._search(asker, lambda peer: peer.disk.tiles[head.tile] == head.version)

    def find_server(self, asker: Peer, first: Height) -> Peer | None:
        """Somebody who has a block of this height."""
        if first > self.account.height:
            return None
        return self._search(asker, lambda peer: peer.disk.tip >= first)

    def _search(self, asker: Peer, is_wanted: Callable[[Peer], bool]) -> Peer | None:
        """A few at random, near ones first where there are regions (node/services/exchange.py), then the roster."""
        near = [self._in_region[asker.region]] if self.scenario.learning.aggregation else []
        for peers in (*near, self.peers):
            for _ in range(SEARCHED):
                peer = peers[self.random.randrange(len(peers))]
                if peer is not asker and is_wanted(peer) and self.network.reaches(asker, peer):
                    return peer
        for peer in self._validators:
            if peer is not asker and is_wanted(peer) and self.network.reaches(asker, peer):
                return peer
        return None

    # -- what peers do --------------------------------------------------------------------------------------------------

    def on_finalized(self, peer: Peer, block: FinalizedBlock) -> None:
        self.note("final", peer.index, block.header.height, block.header.state_root.hex())
        self.watch.finalized(peer.id, block, self.seconds)
        self.account.finalized(block.header)

    def on_applied(self, peer: Peer, head: Head) -> None:
        self.note("applied", peer.index, head.slot, head.root.hex())
        self.watch.applied(peer.id, head.tile, head.version, head.root, self.seconds)

    def on_round_opened(self, peer: Peer, round_number: int) -> None:
        if round_number > self._newest_round:
            self._newest_round = round_number
            for call in self.when_round_opens:
                call(round_number)

    def on_round_closed(self, peer: Peer, round_number: int) -> None:
        traffic = self.network.traffic
        self.watch.traffic(self.seconds, traffic.wan_bytes, traffic.local_bytes)
        self.watch.round_closed(peer.id, round_number, self.seconds)

    # -- learning -------------------------------------------------------------------------------------------------------

    def make_villain(self, plan: PeerPlan) -> Villain | None:
        """Who this peer is when it learns; None: somebody honest. Raises ``Rejected(BAD_CONFIG)``."""
        if plan.villain is None:
            return None
        if plan.villain not in VILLAINS:
            raise Rejected(Reason.BAD_CONFIG, f"no villain {plan.villain!r}; there are {', '.join(VILLAINS)}")
        return VILLAINS[plan.villain](plan.peer, self.seed, self._conspiracy)

    def make_change(self, peer: Peer, round_number: int) -> Change:
        """What a peer's local steps of a round find, or what a villain says they did."""
        steps = self.scenario.learning.inner_steps
        villain = peer.villain if round_number >= peer.plan.villain_from_round else None

        def change(tile: TileId, base: Version, weights_N: Float32) -> Float32 | None:
            flipped = villain is not None and villain.FLIPS_LABELS
            found_N = self.valley.change(tile, weights_N, peer.id, round_number, steps, flipped=flipped)
            if villain is not None:
                return villain.change(tile, round_number, base, weights_N, found_N)
            if self._has_villains:
                self._conspiracy.saw(peer.id, tile, round_number, found_N)
            return found_N

        return change


def run_scenario(scenario: Scenario, seed: int, *, on_progress: Callable[[float], None] | None = None) -> Outcome:
    """Run a scenario on cores alone. ``on_progress`` hears the virtual seconds gone.

    Raises ``Rejected(BAD_CONFIG)`` for a scenario that needs whole nodes.
    """
    return World(scenario, seed).run(on_progress)
