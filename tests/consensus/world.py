"""A world of a few whole engines: one heap of events, virtual milliseconds, everything drawn from a seed.

Each peer has a disk, and above it what dies in a crash: an engine and its running jobs. The disk is written and read
back as node/node.py and node/ground.py do it: vote journal, open blocks, ledger with head rows, proposals, deltas that
were given to an owner, learner's record, blobs, tile files. A crash cuts the list of effects, or a job between its
write and its answer, at any place. The network loses, delays, repeats, reorders and partitions until ``heal_ms``; then
all is well.

Arithmetic is false but exact (``genesis``), so that the ``oracle`` can derive every root again.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from dataclasses import replace as replace_rules
from functools import partial
from typing import Any, ClassVar

from msgspec.structs import replace

from consensus import events as e
from consensus.beacon import OnionKeeper
from consensus.engine import Effect, Engine, Event
from consensus.execution import Execution
from consensus.finality import events as f
from consensus.finality.chain import check_chain
from consensus.finality.core import FinalityCore
from consensus.finality.signer import JournalState, VoteSigner
from consensus.history import segments_between, walk_segments
from consensus.rounds import RoundMachine
from consensus.state import all_rows, load_state, tile_heads
from protocol.codec import Message, decode, encode
from protocol.digest import blob_digest, digest
from protocol.finality import Body, Certificate, FinalizedBlock, VoteKind
from protocol.ids import AccountId, Digest, PeerId, TileId, Version, View
from protocol.keys import KeyPair
from protocol.limits import BODY_BYTES_MAX, HISTORY_SEGMENTS
from protocol.rejection import Reason, Rejected
from protocol.roster import Decided, Head, sign_head
from protocol.transactions import (
    SignedTransaction,
    Transfer,
    check_transaction,
    sign_transaction,
)
from simnet.finality.genesis import quick_verify
from tests.consensus.genesis import (
    BLOCK_RULES,
    CHAIN,
    CHAIN_RULE,
    GENESIS_MS,
    ROUND_MS,
    TILES,
    account_key,
    genesis_roots,
    is_history,
    learning_rule,
    make_genesis,
    make_keys,
    make_roster,
    make_update,
    next_root,
    vote_key,
)
from tests.consensus.oracle import Broken, Oracle

ROSTER_PATIENCE_MS = 4_000
EVENTS_MAX = 400_000  # a world that needs more is spinning


@dataclass(frozen=True)
class Options:
    """What one seed draws. Times in milliseconds, probabilities of one."""

    loss: float = 0.0
    repeat: float = 0.0
    delay_mean: float = 20.0
    tail: float = 0.0  # a message that takes seconds
    crashes: int = 0
    cut: float = 0.0  # a crash between two effects of one event
    cut_job: float = 0.0  # a crash between what a job writes and what it says
    partitions: int = 0
    job_failure: float = 0.0
    learn_ms: tuple[int, int] = (500, 3_000)
    observers: int = 0  # learn, and join late
    clocks: int = 0  # peers whose clock is judged wrong until all is well
    downtime_ms: int = 12_000
    rounds_max: int | None = None
    transfers: int = 0  # payments that peers acknowledge to their users while faults happen
    regions: str = "a"  # of the peers in turn, over and over; with one, every delta goes directly
    epoch_heights: int = 1_024  # where there are few, owners change while everything goes on

    @classmethod
    def draw(cls, random_: random.Random) -> Options:
        choice = random_.choice
        regions, observers = choice((("a", 0), ("a", 1), ("abbbbbb", 3), ("abbbbbbb", 4)))  # five of a region gather
        return cls(
            loss=choice((0.0, 0.1, 0.1, 0.25)),
            repeat=choice((0.0, 0.2)),
            delay_mean=choice((20.0, 60.0, 200.0)),
            tail=choice((0.0, 0.02)),
            crashes=choice((0, 2, 5)),
            cut=choice((0.0, 0.001, 0.004)),
            cut_job=choice((0.0, 0.01, 0.03)),
            partitions=choice((0, 1, 3)),
            job_failure=choice((0.0, 0.05, 0.3)),
            clocks=choice((0, 0, 1, 2)),
            downtime_ms=choice((2_000, 12_000, 30_000)),
            learn_ms=choice(((500, 3_000), (500, 12_000), (100, 400))),
            observers=observers,
            rounds_max=choice((None, None, 6)),
            epoch_heights=choice((1_024, 2, 5, 20)),
            transfers=choice((0, 10, 40)),
            regions=regions,
        )


@dataclass(frozen=True)
class LearnerRecord:
    """The learner's row: valid as a whole or not at all."""

    round: int = -1
    outstanding: tuple[e.Delta, ...] = ()


@dataclass
class Disk:
    """What survives a crash of one peer; the names are those of the rows in node/ground.py."""

    votes: list[bytes] = field(default_factory=list)
    vote_state: JournalState = JournalState.CLEAN
    blocks: dict[Digest, f.StoredBlock] = field(default_factory=dict)
    certificates: dict[tuple[View, VoteKind], Certificate] = field(default_factory=dict)
    ledger: list[FinalizedBlock] = field(default_factory=list)
    rows: dict[bytes, bytes] = field(default_factory=dict)  # of the state
    payments: dict[Digest, SignedTransaction] = field(default_factory=dict)  # acknowledged, and in no block yet
    proposals: list[Head] = field(default_factory=list)
    candidates: dict[tuple[TileId, PeerId, Version, bool], e.Delta] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    tiles: dict[TileId, dict[Version, Digest]] = field(default_factory=dict)
    learner: LearnerRecord = LearnerRecord()

    def newest(self, tile: TileId) -> Version:
        return max(self.tiles[tile])

    def store_state(self, changes: Iterable[tuple[bytes, Message | None]]) -> None:
        for key, value in changes:
            if value is None:
                del self.rows[key]
            else:
                self.rows[key] = encode(value)

    def anchor(self) -> f.Anchor:
        if not self.ledger:
            return f.Anchor.genesis(load_state(self.rows.items()).root(), GENESIS_MS)
        return f.Anchor.of(self.ledger[-1].header, self.ledger[-1].certificate)

    def decided(self) -> list[Decided]:
        """Every decided head, oldest first."""
        return [
            Decided(head.slot, head, block.header.height)
            for block in self.ledger
            for head in decode(Body, block.body, limit_bytes=BODY_BYTES_MAX).heads
        ]


@dataclass(frozen=True)
class Mutant:
    """A wrong part in place of a right one, or a row of the disk that a restart forgets; the default is right."""

    rounds: type[RoundMachine] = RoundMachine
    execution: type[Execution] = Execution
    forgets: str = ""


RIGHT = Mutant()


class World:
    """``run`` to a time, then ask what happened. Raises :class:`Broken` as soon as a rule is broken."""

    def __init__(
        self,
        seed: int,
        count: int,
        options: Options | None = None,
        mutant: Mutant = RIGHT,
        *,
        chaos_ms: int = 5 * ROUND_MS,
    ) -> None:
        self.seed = seed
        self.mutant = mutant
        self.random = random.Random(seed)
        self.options = options or Options.draw(self.random)
        self.count = count
        self.tiles = TILES
        keys = make_keys(count)
        strangers = [KeyPair(bytes([200 + index]) * 32) for index in range(self.options.observers)]
        self.roster = make_roster(keys, digest("nock/beacon/1", str(seed).encode()))
        self.now_ms = GENESIS_MS + 1_000
        self.heal_ms = self.now_ms + chaos_ms
        self.heap: list[tuple[int, int, Callable[[], None]]] = []
        self.sequence = 0
        self.events = 0
        self.crossed = 0  # deltas that went from one region to another
        self.log = hashlib.sha256()
        self.oracle = Oracle(self)
        self.sides = [0] * (count + len(strangers))
        self.links: set[tuple[int, int]] = set()
        self.told_at: Counter[tuple[int, int]] = Counter()
        self.peers = [Peer(self, index, key) for index, key in enumerate([*keys, *strangers])]
        self.index_of = {peer.id: peer.index for peer in self.peers}
        self._plan_faults()
        for peer in self.peers:
            if peer.is_member:
                peer.start()
            else:
                self.later(self.random.randrange(ROUND_MS, 3 * ROUND_MS), peer.start)

    @property
    def chaos(self) -> bool:
        return self.now_ms < self.heal_ms

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.random.random() < probability

    def later(self, delay_ms: float, call: Callable[[], None]) -> None:
        self.sequence += 1
        heapq.heappush(self.heap, (self.now_ms + max(0, int(delay_ms)), self.sequence, call))

    def run(self, until_ms: int) -> World:
        while self.heap and self.heap[0][0] <= until_ms:
            self.now_ms, _, call = heapq.heappop(self.heap)
            call()
        self.now_ms = max(self.now_ms, until_ms)
        return self

    def run_until(self, reached: Callable[[], bool], limit_ms: int) -> bool:
        """Run until something holds; False when it does not within ``limit_ms``."""
        end_ms = self.now_ms + limit_ms
        while not reached():
            if not self.heap or self.heap[0][0] > end_ms:
                return False
            self.run(self.heap[0][0])
        return True

    def draw_downtime_ms(self) -> int:
        return self.random.randrange(50, self.options.downtime_ms)

    def note(self, *words: object) -> None:
        self.events += 1
        if self.events > EVENTS_MAX:
            raise Broken("the world spins: too many events")
        self.log.update(f"{self.now_ms} {words}\n".encode())

    @property
    def alive(self) -> list[Peer]:
        return [peer for peer in self.peers if peer.engine is not None]

    # -- faults -------------------------------------------------------------------------------------------------------

    def _plan_faults(self) -> None:
        chaos_ms = self.heal_ms - self.now_ms
        for _ in range(self.options.transfers):
            payer, payee = self.random.sample(self.peers[: self.count], 2) if self.count > 1 else 2 * self.peers[:1]
            self.later(self.random.randrange(chaos_ms), partial(payer.pay, payee, self.random.randrange(1, 10**6)))
        for _ in range(self.options.crashes):
            peer = self.random.choice(self.peers)
            self.later(self.random.randrange(chaos_ms), partial(self._crash, peer))
        for _ in range(self.options.partitions):
            start = self.random.randrange(chaos_ms)
            sides = [self.random.randrange(2) for _ in self.peers]
            self.later(start, partial(self.split, sides))
            self.later(start + self.random.randrange(1_000, 16_000), partial(self.split, [0] * len(sides)))
        for peer in self.random.sample(self.peers, min(self.options.clocks, len(self.peers))):
            start = self.random.randrange(chaos_ms)
            self.later(start, partial(peer.handle, e.ClockJudged(False, 10_000)))
        self.later(chaos_ms, self._heal)

    def _crash(self, peer: Peer) -> None:
        if self.chaos:
            peer.crash(self.draw_downtime_ms())

    def split(self, sides: list[int]) -> None:
        self.sides = sides if self.chaos else [0] * len(sides)
        self.relink()

    def _heal(self) -> None:
        self.split([0] * len(self.peers))
        for peer in self.peers:
            if peer.engine is not None:
                peer.handle(e.ClockJudged(True, 0))
            elif peer.life > 0 and not peer.stays_dead:
                peer.start()

    # -- network ------------------------------------------------------------------------------------------------------

    def can_reach(self, source: int, to: int) -> bool:
        return (source, to) in self.links

    def relink(self) -> None:
        """Connections follow who lives on which side; each end hears of it in its own time, in order."""
        for source in self.peers:
            for to in self.peers:
                pair = (source.index, to.index)
                up = (
                    source is not to
                    and source.engine is not None
                    and to.engine is not None
                    and self.sides[source.index] == self.sides[to.index]
                )
                if up == (pair in self.links):
                    continue
                (self.links.add if up else self.links.discard)(pair)
                if source.engine is not None:
                    event = e.PeerConnected(to.id) if up else e.PeerLost(to.id)
                    at_ms = max(self.told_at[pair] + 1, self.now_ms + self.random.randrange(5, 300 if up else 1_000))
                    self.told_at[pair] = at_ms
                    source.later(at_ms - self.now_ms, partial(source.handle, event))
                    if up:
                        source.later(at_ms - self.now_ms, partial(source.handle, e.RegionTold(to.id, to.region)))

    def send(self, source: int, to: int, event: Event) -> None:
        """One message, which becomes an event there."""
        copies = 1
        if self.chaos:
            if self.chance(self.options.loss):
                return
            copies += self.chance(self.options.repeat)
        if not self.can_reach(source, to):
            return
        for _ in range(copies):
            delay = self.random.expovariate(1 / self.options.delay_mean)
            if self.chaos and self.chance(self.options.tail):
                delay += self.random.uniform(0, 6_000)
            self.later(1 + (delay if self.chaos else min(delay, 200)), partial(self._arrive, source, to, event))

    def _arrive(self, source: int, to: int, event: Event) -> None:
        if self.can_reach(source, to):
            self.peers[to].handle(event)

    def gossip(self, source: int, event: Event) -> None:
        for peer in self.peers:
            if peer.index != source:
                self.send(source, peer.index, event)

    def find_blob(self, asker: int, name: Digest) -> bytes | None:
        """A request to whoever has it; may fail."""
        for peer in self.random.sample(self.peers, len(self.peers)):
            if self.can_reach(asker, peer.index) and name in peer.disk.blobs:
                return None if self.chaos and self.chance(self.options.loss) else peer.disk.blobs[name]
        return None


class Peer:
    """A disk that survives, and an engine with its jobs that do not."""

    def __init__(self, world: World, index: int, key: KeyPair) -> None:
        self.world = world
        self.index = index
        self.key = key
        self.id = PeerId(key.public)
        self.member = world.roster.find_index(self.id)
        self.disk = Disk(tiles={tile: {Version(0): root} for tile, root in genesis_roots(world.tiles).items()})
        self.disk.store_state(all_rows(make_genesis(world.roster, world.tiles)))
        self.engine: Engine | None = None
        self.region = world.options.regions[index % len(world.options.regions)]
        self.life = 0
        self.stays_dead = False
        self.learn_ms: tuple[int, int] | None = None  # its own speed
        self.merge_ms = (20, 500)
        self.history_ms = (1, 600)
        self.verified_histories: list[bool] = []  # whether each was right, over all lives
        self.lies_about_history = False
        self.fails_to_merge: frozenset[TileId] = frozenset()
        self.learns = True
        self.running = False  # rounds were started in this life
        self.crash_when: Callable[[Effect], bool] | None = None
        self.closed: list[tuple[int, e.RoundClosed]] = []  # when and what, over all lives
        self.opened: list[tuple[int, int]] = []
        self.stalls: list[str | None] = []
        self.lagged: list[e.Lagging] = []
        self.learned_rounds: list[int] = []
        self._next: deque[Event] = deque()
        self._verify_queue: deque[Head] = deque()
        self._apply_queue: deque[Decided] = deque()
        self._deadlines: dict[object, int] = {}
        self._roster_deadline_ms = 0

    @property
    def is_member(self) -> bool:
        return self.member is not None

    @property
    def rounds(self) -> RoundMachine:
        assert self.engine is not None
        return self.engine.rounds

    # -- life and death -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Restore the engine as node._restore_engine does, then boot."""
        world, disk = self.world, self.disk
        self.life += 1
        self.running = False
        self._next.clear()
        self._verify_queue.clear()
        self._apply_queue.clear()
        self._deadlines.clear()
        if world.mutant.forgets == "proposals":
            disk.proposals = []
        state, anchor = load_state(disk.rows.items()), disk.anchor()
        assert anchor.state_root == state.root()
        heads = tile_heads(state, world.tiles)
        onions = OnionKeeper(self.id, blob_digest(self.id))
        chain_rule = replace(CHAIN_RULE, epoch_heights=world.options.epoch_heights)
        block_rules = replace_rules(BLOCK_RULES, epoch_heights=chain_rule.epoch_heights)
        execution = world.mutant.execution(block_rules, state, anchor.block, anchor.height, onions)
        signer = None
        if self.is_member:
            signer = VoteSigner(vote_key(self.key), CHAIN, execution.roster, disk.votes, disk.vote_state)
            disk.vote_state = JournalState.CLEAN
        rounds = world.mutant.rounds(
            self.id,
            execution.head_rules,
            learning_rule(),
            heads,
            learns=self.learns,
            applied={tile: Version(min(disk.newest(tile), at.version)) for tile, at in heads.items()},
            proposed=[head for head in disk.proposals if head.version == heads[head.tile].version + 1],
            outstanding=disk.learner.outstanding,
            counted=self._counted(),
            learned_round=disk.learner.round,
            rounds_max=world.options.rounds_max,
            region=self.region,
        )
        core = FinalityCore(
            self.id,
            execution.roster,
            execution.next_roster,
            CHAIN,
            signer,
            chain_rule,
            anchor,
            restored=f.Restored(tuple(disk.blocks.values()), tuple(disk.certificates.values())),
            verify=quick_verify,
        )
        self.engine = Engine(self.id, core, execution, rounds)
        world.note(self.index, "start")
        world.relink()
        self._apply(self._decided_but_not_applied())
        candidates = tuple(disk.candidates.values())
        if world.mutant.forgets == "aggregates":
            candidates = tuple(delta for delta in candidates if not delta.contributors)
        self.handle(e.DeltasArrived(candidates))
        self.handle(f.Started())
        for payment in list(disk.payments.values()):
            if self.engine is not None:
                self._take_payment(payment)
        self._roster_deadline_ms = world.now_ms + ROSTER_PATIENCE_MS
        self.later(50, self._boot)
        self.later(2_000, self._poll)

    def _counted(self) -> list[Digest]:
        """Our open deltas that decided heads list."""
        if self.world.mutant.forgets == "counted":
            return []
        listed = {name for each in self.disk.decided() for name in each.head.counted()}
        return [delta.digest for delta in self.disk.learner.outstanding if delta.digest in listed]

    def _decided_but_not_applied(self) -> list[Decided]:
        return [each for each in self.disk.decided() if each.slot.version > self.disk.newest(each.slot.tile)]

    def _boot(self) -> None:
        """Wait for the roster, catch up, hand our proposals back, open the first round."""
        world = self.world
        members = world.peers[: world.count]
        here = [peer for peer in members if peer is self or world.can_reach(self.index, peer.index)]
        enough = world.roster.is_quorum(len(here)) or not self.is_member
        if len(here) < len(members) and not (world.now_ms > self._roster_deadline_ms and enough):
            self.later(50, self._boot)
            return
        if self._sync():
            self.later(20, self._boot)
            return
        assert self.engine is not None
        heads = self.engine.rounds.open_proposals()
        if heads:
            self.handle(e.HeadsSeen(heads, self.id))
        if self.engine is not None:
            self.running = True
            self._perform(self.engine.start_rounds(world.now_ms))
            self._after()

    def crash(self, restart_ms: int | None) -> None:
        """Die; come back after ``restart_ms``, or not before the end of chaos."""
        if self.engine is None:
            return
        self.engine = None
        self.world.note(self.index, "crash")
        self.world.relink()
        if restart_ms is not None:
            self.world.later(restart_ms, partial(self._restart, self.life))

    def _restart(self, life: int) -> None:
        if self.engine is None and life == self.life and not self.stays_dead:
            self.start()

    def later(self, delay_ms: float, call: Callable[[], None]) -> None:
        """Call back, in this life only."""
        self.world.later(delay_ms, partial(self._if_alive, self.life, call))

    def _if_alive(self, life: int, call: Callable[[], None]) -> None:
        if life == self.life and self.engine is not None:
            call()

    # -- the reactor --------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Take one event, perform its effects in order, then what they gave back."""
        if self.engine is None:
            return
        self._perform_event(event)
        while self._next and self.engine is not None:
            self._perform_event(self._next.popleft())
        self._after()

    def _perform_event(self, event: Event) -> None:
        assert self.engine is not None
        effects = self.engine.handle(event, self.world.now_ms)
        self.world.note(self.index, type(event).__name__, [_short(effect) for effect in effects])
        self._perform(effects)

    def _perform(self, effects: list[Effect]) -> None:
        world = self.world
        for effect in effects:
            cut = world.chaos and world.chance(world.options.cut)
            if cut or (self.crash_when is not None and self.crash_when(effect)):
                if isinstance(effect, f.Persist) and world.random.random() < 0.5:
                    self.disk.vote_state = JournalState.TORN
                self._next.clear()
                self.crash(world.draw_downtime_ms() if cut else None)
                return
            self._performers[type(effect)](self, effect)
            if self.engine is None:
                return

    def _after(self) -> None:
        if self.engine is not None:
            self.world.oracle.look(self)

    # -- finality's effects -------------------------------------------------------------------------------------------

    def _persist(self, effect: f.Persist) -> None:
        self.disk.votes.extend(effect.records)

    def _store_blocks(self, effect: f.StoreBlocks) -> None:
        for block in effect.blocks:
            self.disk.blocks[block.proposal.header.digest()] = block
        for certificate in effect.certificates:
            self.disk.certificates[certificate.view, certificate.kind] = certificate

    def _send(self, effect: f.Send) -> None:
        for peer in effect.to:
            self.world.send(self.index, self.world.index_of[peer], f.MessageReceived(self.id, effect.message))

    def _set_timer(self, effect: f.SetTimer) -> None:
        self._set_deadline(effect.timer, effect.at_ms, f.TimerFired(effect.timer))

    def _set_round_timer(self, effect: e.SetRoundTimer) -> None:
        if effect.at_ms <= self.world.now_ms:
            raise Broken(f"peer {self.index} set a timer in the past")
        self._set_deadline("round", effect.at_ms, e.RoundTimer())

    def _set_deadline(self, token: object, at_ms: int, event: Event) -> None:
        """One timer for a token: a later setting replaces an earlier one."""
        self._deadlines[token] = at_ms
        self.later(at_ms - self.world.now_ms, partial(self._fire, token, at_ms, event))

    def _fire(self, token: object, at_ms: int, event: Event) -> None:
        if self._deadlines.get(token) == at_ms:
            del self._deadlines[token]
            self.handle(event)

    def _finalized(self, effect: e.StoreFinalized) -> None:
        """Each block in one write with what it changed; a crash may come between two blocks."""
        disk, world = self.disk, self.world
        for committed in effect.blocks:
            block = committed.block
            if world.chaos and committed is not effect.blocks[0] and world.chance(world.options.cut):
                self.crash(world.draw_downtime_ms())
                return
            world.oracle.on_finalized(self, block)
            disk.ledger.append(block)
            disk.store_state(committed.changes)
            for receipt in committed.receipts:
                disk.payments.pop(receipt.id, None)
                world.oracle.paid[receipt.id] = receipt.refusal
            for head in decode(Body, block.body, limit_bytes=BODY_BYTES_MAX).heads:
                for key in [key for key in disk.candidates if key[0] == head.tile and key[2] < head.version - 1]:
                    del disk.candidates[key]
            view = block.header.view
            disk.blocks = {name: kept for name, kept in disk.blocks.items() if kept.proposal.header.view > view}
            disk.certificates = {at: kept for at, kept in disk.certificates.items() if at[0] > view}
        last = effect.blocks[-1].block
        if last.certificate is not None and last.header.proposer == self.member:
            self.later(5, partial(world.gossip, self.index, e.TipSeen(last.header, last.certificate)))

    def _fetch_blocks(self, effect: f.FetchBlocks) -> None:
        self.later(self.world.random.randrange(10, 300), lambda: self._sync() and None)

    def _poll(self) -> None:
        if not self.is_member:
            self._sync()
        self._say_payments()
        self.later(2_000, self._poll)

    def _sync(self) -> bool:
        """Take in what a peer's ledger has above ours; whether there was anything."""
        first = len(self.disk.ledger)
        for peer in self.world.random.sample(self.world.peers, len(self.world.peers)):
            if not self.world.can_reach(self.index, peer.index):
                continue
            assert self.engine is not None
            execution = self.engine.execution
            epoch = execution.roster.epoch
            blocks = [block for block in peer.disk.ledger[first : first + 64] if block.header.epoch == epoch]
            while blocks and blocks[-1].certificate is None:
                blocks = blocks[:-1]
            if blocks:
                rule = replace(CHAIN_RULE, epoch_heights=execution.rules.epoch_heights)
                self.handle(f.Synced(check_chain(blocks, execution.roster, CHAIN, rule, quick_verify)))
                return True
        return False

    def _score(self, effect: f.Score) -> None:
        liars = [peer.id for peer in self.world.peers if peer.lies_about_history]
        if self.id in liars or (effect.peer in liars and effect.reason is Reason.BAD_PROOF):
            return
        raise Broken(
            f"peer {self.index} blames honest peer {self.world.index_of[effect.peer]} for {effect.reason.name}"
        )

    def _evidence(self, effect: f.Evidence) -> None:
        raise Broken(f"evidence against honest member {effect.first.signer}: {effect.kind}")

    def _halt(self, effect: f.Halt) -> None:
        raise Broken(f"peer {self.index} halted: {effect.sentence}")

    def _blamed(self, effect: e.Blamed) -> None:
        raise Broken(f"peer {self.index} blames honest {self.world.index_of[effect.peer]}: {effect}")

    # -- heads and tiles ----------------------------------------------------------------------------------------------

    def _propose(self, effect: e.Propose) -> None:
        assert self.engine is not None
        heads = tuple(sign_head(head, self.key) for head in effect.heads)
        self.disk.proposals.extend(heads)
        for head in heads:
            self.world.oracle.on_proposed(self, head)
        self._next.append(self.engine.proposed_by_us(heads))
        self.later(1, partial(self.world.gossip, self.index, e.HeadsSeen(heads, self.id)))

    def _republish(self, effect: e.Republish) -> None:
        for head in effect.heads:
            self.world.oracle.on_proposed(self, head)
        self.later(1, partial(self.world.gossip, self.index, e.HeadsSeen(effect.heads, self.id)))

    def _verify_heads(self, effect: e.VerifyHeads) -> None:
        idle = not self._verify_queue
        self._verify_queue.extend(effect.heads)
        if idle:
            self.later(self.world.random.randrange(1, 200), partial(self._verify, 20))

    def _verify(self, patience: int) -> None:
        """All that wait together: parents applied, updates stored, roots computed; as node/services/tiles.py."""
        heads = list(self._verify_queue)
        behind = any(self.disk.newest(head.tile) < head.version - 1 for head in heads)
        for head in heads:
            if head.update not in self.disk.blobs:
                update = self.world.find_blob(self.index, head.update)
                if update is not None:
                    self.disk.blobs[head.update] = update
        missing = any(head.update not in self.disk.blobs for head in heads)
        if (behind or missing) and patience > 0:
            self.later(150, partial(self._verify, patience - 1))
            return
        known, unavailable = [], []
        for head in heads:
            parent = self.disk.tiles[head.tile].get(Version(head.version - 1))
            if parent is None or head.update not in self.disk.blobs:
                unavailable.append(head.digest())
            elif parent != head.parent_root or next_root(parent, head.update) != head.root:
                raise Broken(f"peer {self.index} finds a wrong root in {head.slot}")
            else:
                known.append((head.digest(), None))
        self._verify_queue.clear()
        self._say_after_write(e.HeadsVerified(tuple(known), tuple(sorted(unavailable))))

    def _say_after_write(self, event: Event) -> None:
        """A job has written; now it says so, unless the process dies between."""
        world = self.world
        if world.chaos and world.chance(world.options.cut_job):
            self.crash(world.draw_downtime_ms())
        else:
            self.later(world.random.randrange(1, 20), partial(self.handle, event))

    def _decide(self, effect: e.Decide) -> None:
        self._apply(effect.decided)

    def _apply(self, decided: Iterable[Decided]) -> None:
        idle = not self._apply_queue
        self._apply_queue.extend(decided)
        if idle and self._apply_queue:
            self.later(self.world.random.randrange(1, 150), self._apply_some)

    def _apply_some(self) -> None:
        """The first that waits; its update from whoever has it, or the whole tile."""
        decided = self._apply_queue[0]
        head, held = decided.head, self.disk.tiles[decided.slot.tile]
        if head.update not in self.disk.blobs:
            update = self.world.find_blob(self.index, head.update)
            if update is None:
                self.later(200, self._apply_some)
                return
            self.disk.blobs[head.update] = update
        if head.version not in held:
            held[head.version] = next_root(held[Version(head.version - 1)], head.update)
            for old in [version for version in held if version <= head.version - 4]:
                del held[old]
        self.world.oracle.on_root(head.slot, held[head.version])
        self._apply_queue.popleft()
        self._say_after_write(e.TilesApplied((decided.slot,)))
        if self._apply_queue:
            self.later(self.world.random.randrange(1, 50), self._apply_some)

    def _start_merge(self, effect: e.StartMerge) -> None:
        self.later(self.world.random.randrange(*self.merge_ms), partial(self._merge, effect))

    def _merge(self, request: e.StartMerge) -> None:
        for reference in request.deltas:
            if reference.delta not in self.disk.blobs:
                raise Broken(f"peer {self.index} merges a delta that it does not hold")
        unlucky = self.world.chaos and self.world.chance(self.world.options.job_failure)
        if unlucky or request.slot.tile in self.fails_to_merge:
            self._say_after_write(e.MergesDone((), ((request.slot, "the merge failed"),)))
            return
        update = make_update(reference.delta for reference in request.deltas)
        name = blob_digest(update)
        self.disk.blobs[name] = update
        root = next_root(request.parent_root, name)
        merged = e.Merged(request.slot, request.attempt, request.parent_root, root, name, len(update), request.deltas)
        self._say_after_write(e.MergesDone((merged,)))

    # -- history ------------------------------------------------------------------------------------------------------

    def _walk_history(self, effect: e.WalkHistory) -> None:
        ends = walk_segments(effect.start, effect.segment_ticks, HISTORY_SEGMENTS)
        if self.lies_about_history:
            ends = (*ends[:-1], digest("nock/history/1", ends[-1]))
        event = e.HistoryWalked(effect.start, ends)
        self.later(self.world.random.randrange(*self.history_ms), partial(self.handle, event))

    def _verify_history(self, effect: e.VerifyHistory) -> None:
        right = is_history(effect.start, segments_between(effect.start, effect.ends, effect.segment_ticks))
        if not (right or any(peer.lies_about_history for peer in self.world.peers)):
            raise Broken(f"peer {self.index} is told a wrong history by an honest one")
        self.verified_histories.append(right)
        event = e.HistoryVerified(effect.start, effect.ends, right)
        self.later(self.world.random.randrange(*self.history_ms), partial(self.handle, event))

    # -- learning -----------------------------------------------------------------------------------------------------

    def _start_learning(self, effect: e.StartLearning) -> None:
        usual = self.world.options.learn_ms if self.world.chaos else (500, 3_000)
        self.later(self.world.random.randrange(*(self.learn_ms or usual)), partial(self._learn, effect))

    def _learn(self, request: e.StartLearning) -> None:
        """The worker's answer: blobs, then one row; as node/services/learning.py."""
        world, disk = self.world, self.disk
        if world.chaos and world.chance(world.options.job_failure):
            self.later(1, partial(self.handle, e.LearnFailed(request.round, "the worker died")))
            return
        deltas = []
        for tile, base in request.bases:
            if tile in request.withheld:
                continue
            data = b"".join((self.id, tile.encode(), bytes([request.round % 256]), world.random.randbytes(8)))
            delta = e.Delta(tile, base, request.round, self.id, blob_digest(data), 100)
            disk.blobs[delta.digest] = data
            deltas.append(delta)
        settled = {*request.merged, *request.lost}
        kept = tuple(delta for delta in disk.learner.outstanding if delta.digest not in settled)
        world.oracle.on_learned(self, request, deltas)
        disk.learner = LearnerRecord(request.round, (*kept, *deltas))
        self.learned_rounds.append(request.round)
        self._say_after_write(e.LearnDone(request.round, tuple(deltas)))

    def _deliver(self, effect: e.DeliverDeltas) -> None:
        world = self.world
        for name in effect.deltas:
            if name not in self.disk.blobs:
                raise Broken("a delta is delivered that is not on the disk")
        delay = 1 + world.random.expovariate(1 / world.options.delay_mean)
        self.later(delay, partial(self._hand_over, effect))

    def _hand_over(self, effect: e.DeliverDeltas) -> None:
        world = self.world
        owner = world.peers[world.index_of[effect.owner]]
        world.crossed += len(effect.deltas) * (owner.region != self.region)
        failed = partial(self.handle, e.DeliveryFailed(effect.owner, effect.deltas))
        lost = world.chaos and world.chance(world.options.loss)
        if not world.can_reach(self.index, owner.index) or lost:
            self.later(1_500 if lost else 1, failed)
            return
        outcomes = owner.take_deltas(self, effect.deltas)
        if outcomes is None or (world.chaos and world.chance(world.options.loss)):
            self.later(1_500, failed)
            return
        accepted = tuple(name for name, why in outcomes if not why)
        refused = tuple((name, why) for name, why in outcomes if why)
        self.later(10, partial(self.handle, e.DeltasDelivered(effect.owner, accepted, refused)))

    def take_deltas(self, learner: Peer, names: Iterable[Digest]) -> list[tuple[Digest, str]] | None:
        """The owner's side: refuse, or store and acknowledge. None: it died before it answered."""
        outcomes, accepted = [], []
        for name in names:
            delta = self.world.oracle.find_delta(name)
            refusal = self.rounds.find_refusal(delta)
            outcomes.append((name, refusal.code if refusal else ""))
            if refusal is None:
                accepted.append(delta)
        for delta in accepted:
            self.disk.blobs[delta.digest] = learner.disk.blobs[delta.digest]
            self.disk.candidates[delta.tile, *delta.key] = delta
        if accepted:
            self._say_after_write(e.DeltasArrived(tuple(accepted)))
        return outcomes if self.engine is not None else None

    def _ask_carried(self, effect: e.AskCarried) -> None:
        self.later(1 + self.world.random.expovariate(1 / self.world.options.delay_mean), partial(self._ask, effect))

    def _ask(self, effect: e.AskCarried) -> None:
        world = self.world
        aggregator = world.peers[world.index_of[effect.aggregator]]
        carried: tuple[Digest, ...] = ()
        if world.can_reach(self.index, aggregator.index) and not (world.chaos and world.chance(world.options.loss)):
            carried = tuple(name for name in effect.deltas if aggregator.rounds.is_carried(name))
        left = tuple(name for name in effect.deltas if name not in carried)
        self.later(10, partial(self.handle, e.CarriedTold(effect.aggregator, carried, left)))

    def _start_aggregation(self, effect: e.StartAggregation) -> None:
        self.later(self.world.random.randrange(*self.merge_ms), partial(self._aggregate, effect))

    def _aggregate(self, request: e.StartAggregation) -> None:
        """Blob and row are one write, and only then anybody hears of it; as node/services/tiles.py."""
        world = self.world
        if any(each.delta not in self.disk.blobs for each in request.contributors):
            raise Broken(f"peer {self.index} gathers a delta that it does not hold")
        if world.chaos and world.chance(world.options.job_failure):
            self._say_after_write(e.AggregationsDone((), ((request.tile, request.base),)))
            return
        data = self.id + request.tile.encode() + b"".join(encode(each) for each in request.contributors)
        tokens = sum(each.weight for each in request.contributors)
        made = e.Delta(
            request.tile, request.base, request.round, self.id, blob_digest(data), tokens, request.contributors
        )
        self.disk.blobs[made.digest] = data
        if self.disk.candidates.setdefault((made.tile, *made.key), made) != made:
            raise Broken(f"peer {self.index} makes a second aggregate on {made.tile} version {made.base}")
        world.oracle.on_aggregated(made)
        self._say_after_write(e.AggregationsDone((made,)))

    def _announce(self, effect: e.Announce) -> None:
        self.later(1, partial(self.world.gossip, self.index, e.RoundAnnounced(self.id, effect.round)))

    # -- what it tells people -----------------------------------------------------------------------------------------

    def _round_opened(self, effect: e.RoundOpened) -> None:
        self.opened.append((self.world.now_ms, effect.round))

    def _round_closed(self, effect: e.RoundClosed) -> None:
        for lagging in effect.lagging:
            if not lagging.reason:
                raise Broken("a tile lags without a reason")
        self.closed.append((self.world.now_ms, effect))
        self.world.oracle.on_closed(self, effect)

    def _lagging(self, effect: e.Lagging) -> None:
        self.lagged.append(effect)

    # -- payments -----------------------------------------------------------------------------------------------------

    def pay(self, payee: Peer, amount_nano: int) -> None:
        """A user asks for a transfer; what is taken is on the disk before anybody hears of it."""
        if self.engine is None:
            return
        execution, key = self.engine.execution, account_key(self.id)
        nonce = execution.mempool.next_nonce(AccountId(key.public), execution.state)
        payload = Transfer(AccountId(account_key(payee.id).public), amount_nano)
        data = encode(sign_transaction(key, CHAIN, nonce, 10**6, payload))
        self._take_payment(check_transaction(data, CHAIN))

    def _take_payment(self, payment: SignedTransaction) -> None:
        assert self.engine is not None
        try:
            effects = self.engine.add_transaction(payment, self.world.now_ms)
        except Rejected:
            return  # a block has it, or the user is told
        self.disk.payments[payment.id] = payment
        self.world.oracle.acknowledged[payment.id] = self.index
        self._perform(effects)
        self._after()
        self._say_payments()

    def _say_payments(self) -> None:
        waiting = tuple(self.disk.payments.values())
        if waiting:
            self.world.gossip(self.index, e.TransactionsSeen(waiting, self.id))

    def _dropped(self, effect: e.TransactionsDropped) -> None:
        for dropped in effect.dropped:
            self.disk.payments.pop(dropped.id, None)
            if dropped.reason is not Reason.WRONG_NONCE:  # that is how a pool forgets what is in a block
                raise Broken(f"peer {self.index} drops a payment: {dropped}")

    def _stalled(self, effect: e.Stalled) -> None:
        self.stalls.append(effect.reason)

    _performers: ClassVar[dict[type, Callable[[Peer, Any], None]]] = {
        f.Persist: _persist,
        f.StoreBlocks: _store_blocks,
        f.Send: _send,
        f.SetTimer: _set_timer,
        e.StoreFinalized: _finalized,
        e.TransactionsDropped: _dropped,
        f.FetchBlocks: _fetch_blocks,
        f.Score: _score,
        f.Evidence: _evidence,
        f.Halt: _halt,
        e.Blamed: _blamed,
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
        e.Lagging: _lagging,
        e.Stalled: _stalled,
    }


_QUIET = (f.Persist, f.StoreBlocks, f.Send, f.SetTimer, e.StoreFinalized)


def _short(effect: Effect) -> str:
    """An effect in the log: finality's by name, the others whole."""
    return type(effect).__name__ if isinstance(effect, _QUIET) else repr(effect)
