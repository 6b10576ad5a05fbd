"""A world of a few members: one heap, one generator, everything drawn from a seed.

The network loses, delays, repeats, reorders and partitions; members crash between any two effects and come back with
their journal kept, torn or lost; a villain with a real key may be among them. After ``HEAL_MS`` everything works again.
The checks are an oracle of their own: they look at what was sent and stored, never at the machine's insides.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from dataclasses import dataclass, field
from typing import Any

from consensus.finality.core import FinalityCore, check_chain
from consensus.finality.events import (
    Anchor,
    BodyBuilt,
    BodyChecked,
    Effect,
    Event,
    Evidence,
    FetchBlocks,
    Finalized,
    Halt,
    MessageReceived,
    NothingToBuild,
    Nudge,
    Persist,
    RequestBuild,
    RequestCheck,
    Restored,
    Score,
    Send,
    SetTimer,
    Started,
    StoreBlocks,
    StoredBlock,
    Synced,
    TimerFired,
)
from consensus.finality.signer import JournalState, VoteSigner
from protocol.digest import digest
from protocol.finality import (
    EMPTY_BODY,
    NO_BLOCK,
    BodyMessage,
    Certificate,
    ChainId,
    FinalizedBlock,
    Header,
    Proposal,
    Status,
    Vote,
    VoteKind,
    Want,
    body_root,
    vote_text,
)
from protocol.genesis import ChainRule
from protocol.ids import Digest, Epoch, Height, MemberIndex, PeerId, Signature, View, VoteKey
from protocol.keys import KeyPair
from protocol.rejection import Reason
from protocol.roster import Member, Roster

DELTA_MS = 1_000
HEAL_MS = 25_000
LIVE_MS = 60 * DELTA_MS
FINALIZATIONS_MIN = 10
HEIGHTS_APART_MAX = 8  # a villain may keep one member a repair or two behind
GENESIS_MS = 1_000_000
CHAIN = ChainId(b"test", 0)
RULE = ChainRule(view_delta_ms=DELTA_MS, block_interval_ms_min=300, idle_interval_ms=600, tile_shards=1)
GENESIS_ROOT = digest("nock/state/1", b"genesis")


class QuickKey(KeyPair):
    """A key whose signatures are hashes: a thousand times faster, and villains of ours do not forge."""

    __slots__ = ()

    def sign(self, message: bytes) -> Signature:
        return quick_signature(self.public, message)


def quick_signature(public: bytes, message: bytes) -> Signature:
    return Signature(hashlib.sha512(public + message).digest())


def quick_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    return signature == quick_signature(public, message)


def make_keys(count: int, kind: type[KeyPair] = QuickKey) -> list[KeyPair]:
    return [kind(bytes([index + 1]) * 32) for index in range(count)]


def make_roster(keys: list[KeyPair], kind: type[Roster] = Roster, weights: tuple[int, ...] | None = None) -> Roster:
    members = tuple(Member(PeerId(bytes([i]) * 32), VoteKey(key.public)) for i, key in enumerate(keys))
    return kind(Epoch(0), members, weights or (1,) * len(keys), digest("nock/beacon/1", b"test"))


def genesis_anchor() -> Anchor:
    return Anchor.genesis(GENESIS_ROOT, GENESIS_MS)


def execute(parent_root: Digest, body: bytes) -> Digest:
    """The application of this world: the state is the hash of every body that is not empty."""
    return parent_root if body == EMPTY_BODY else digest("nock/state/1", parent_root, body)


class Broken(Exception):
    """The oracle saw a rule broken."""


@dataclass(frozen=True)
class Options:
    """What one seed draws. Times in milliseconds, probabilities of one."""

    loss: float
    repeat: float
    delay_mean: float
    tail: float
    crashes: int
    cut: float  # a crash between two effects of one event
    partitions: int
    lost_journals: bool
    villain: bool

    @classmethod
    def draw(cls, random_: random.Random) -> Options:
        return cls(
            loss=random_.choice((0.0, 0.05, 0.1, 0.3, 0.4)),
            repeat=random_.choice((0.0, 0.2, 0.5)),
            delay_mean=random_.choice((20.0, 60.0, 150.0)),
            tail=random_.choice((0.0, 0.02, 0.1)),
            crashes=random_.choice((0, 2, 5)),
            cut=random_.choice((0.0, 0.002, 0.01)),
            partitions=random_.choice((0, 1, 3)),
            lost_journals=random_.random() < 0.2,
            villain=random_.random() < 0.4,
        )


CALM = Options(0.0, 0.0, 20.0, 0.0, 0, 0.0, 0, lost_journals=False, villain=False)


@dataclass
class Disk:
    """What survives a crash of one member."""

    journal: list[bytes] = field(default_factory=list)
    state: JournalState = JournalState.CLEAN
    blocks: dict[Digest, StoredBlock] = field(default_factory=dict)
    certificates: dict[tuple[View, VoteKind], Certificate] = field(default_factory=dict)
    ledger: list[FinalizedBlock] = field(default_factory=list)

    def anchor(self) -> Anchor:
        if not self.ledger:
            return genesis_anchor()
        return Anchor.of(self.ledger[-1].header, self.ledger[-1].certificate)

    def restored(self) -> Restored:
        return Restored(tuple(self.blocks.values()), tuple(self.certificates.values()))


@dataclass(frozen=True)
class Mutant:
    """A wrong part in place of a right one; the default is right."""

    core: type[FinalityCore] = FinalityCore
    signer: type[VoteSigner] = VoteSigner
    roster: type[Roster] = Roster
    forgets_journal: bool = False


RIGHT = Mutant()


class World:
    """``run`` it. Raises ``Broken`` as soon as a rule is broken."""

    def __init__(
        self,
        seed: int,
        count: int,
        options: Options | None = None,
        mutant: Mutant = RIGHT,
        *,
        chaos_ms: int = HEAL_MS,
        cut_at: tuple[int, int] | None = None,
    ) -> None:
        """``cut_at`` (event, position): member 0 crashes there, counting its events that have effects."""
        self.cut_at = cut_at
        self.chaos_ms = chaos_ms
        self.random = random.Random(seed)
        self.options = options or Options.draw(self.random)
        self.mutant = mutant
        self.count = count
        self.faulty_max = (count - 1) // 3
        self.keys = make_keys(count)
        self.roster = make_roster(self.keys, mutant.roster)
        self.now_ms = GENESIS_MS + 1_000
        self.heal_ms = self.now_ms + chaos_ms
        self.heap: list[tuple[int, int, Any]] = []
        self.sequence = 0
        self.events = 0
        self.log = hashlib.sha256()
        self.partition: list[int] = [0] * count
        self.settled = False
        self.torn = 0
        self.oracle = Oracle(self)
        villains = self.faulty_max if self.options.villain else 0
        self.villains = [Villain(self, MemberIndex(index)) for index in range(count - villains, count)]
        self.nodes = [Node(self, MemberIndex(index)) for index in range(count - villains)]
        self._plan_faults()
        for node in self.nodes:
            node.start()
        for villain in self.villains:
            self.later(100, villain.tick)

    @property
    def chaos(self) -> bool:
        return self.now_ms < self.heal_ms

    def later(self, delay_ms: int, call: Any, *arguments: Any) -> None:
        self.sequence += 1
        heapq.heappush(self.heap, (self.now_ms + max(0, delay_ms), self.sequence, (call, arguments)))

    def run(self) -> World:
        """Run through the faults and until every member is live again, 60 Delta at the most; raises ``Broken``."""
        end_ms = self.heal_ms + LIVE_MS
        while self.heap and self.heap[0][0] <= end_ms and not self.settled:
            self.now_ms, _, (call, arguments) = heapq.heappop(self.heap)
            call(*arguments)
        self.check_liveness()
        return self

    def _look(self) -> None:
        """Once a Delta after the heal: are we there?"""
        heights = [len(node.disk.ledger) for node in self.nodes]
        gained = [len(node.disk.ledger) - node.height_at_heal for node in self.nodes]
        self.settled = min(gained) >= FINALIZATIONS_MIN and max(heights) - min(heights) <= HEIGHTS_APART_MAX
        self.later(DELTA_MS, self._look)

    def note(self, *words: object) -> None:
        self.events += 1
        self.log.update(f"{self.now_ms} {words}\n".encode())

    # -- faults -------------------------------------------------------------------------------------------------------

    def _plan_faults(self) -> None:
        for _ in range(self.options.crashes):
            node = self.random.choice(self.nodes)
            self.later(self.random.randrange(self.chaos_ms), node.crash)
        for _ in range(self.options.partitions):
            start = self.random.randrange(self.chaos_ms)
            sides = [self.random.randrange(2) for _ in range(self.count)]
            self.later(start, self._split, sides)
            self.later(start + self.random.randrange(1_000, 12_000), self._split, [0] * self.count)
        self.later(self.chaos_ms, self._heal)

    def _split(self, sides: list[int]) -> None:
        if self.chaos:
            self.partition = sides

    def _heal(self) -> None:
        self.partition = [0] * self.count
        for node in self.nodes:
            node.height_at_heal = len(node.disk.ledger)
            if node.core is None:
                node.start()
        self.later(DELTA_MS, self._look)

    # -- network ------------------------------------------------------------------------------------------------------

    def send(self, source: MemberIndex, to: MemberIndex, message: Any) -> None:
        chance = self.random.random
        copies = 1
        if self.chaos:
            if self.partition[source] != self.partition[to] or chance() < self.options.loss:
                return
            copies += chance() < self.options.repeat
        for _ in range(copies):
            delay = self.random.expovariate(1 / self.options.delay_mean)
            if self.chaos and chance() < self.options.tail:
                delay += self.random.uniform(0, 6_000)
            if not self.chaos:
                delay = min(delay, 0.4 * DELTA_MS)
            self.later(1 + int(delay), self._deliver, source, to, message)

    def broadcast(self, source: MemberIndex, message: Any) -> None:
        for to in range(self.count):
            if to != source:
                self.send(source, MemberIndex(to), message)

    def _deliver(self, source: MemberIndex, to: MemberIndex, message: Any) -> None:
        if to < len(self.nodes):
            self.nodes[to].receive(MessageReceived(source, message))
        else:
            self.villains[to - len(self.nodes)].receive(message)

    # -- the end ------------------------------------------------------------------------------------------------------

    def check_liveness(self) -> None:
        for node in self.nodes:
            gained = len(node.disk.ledger) - node.height_at_heal
            if gained < FINALIZATIONS_MIN:
                raise Broken(f"not live: member {node.me} finalized {gained} blocks after the heal; {self.options}")
        heights = [len(node.disk.ledger) for node in self.nodes]
        if max(heights) - min(heights) > HEIGHTS_APART_MAX:
            raise Broken(f"not live: heights {heights} are apart")
        for node in self.nodes:
            if node.core is not None:
                numbers = node.core.statistics()
                if numbers.blocks_open > 70 or numbers.certificates_open > 40:
                    raise Broken(f"memory grows: {numbers}")


class Node:
    """One honest member: a disk that survives and a core that does not."""

    def __init__(self, world: World, me: MemberIndex) -> None:
        self.world = world
        self.me = me
        self.disk = Disk()
        self.core: FinalityCore | None = None
        self.life = 0
        self.height_at_heal = 0
        self.roots: dict[Digest, Digest] = {}
        self.active = 0  # events with effects so far

    def start(self) -> None:
        self.life += 1
        mutant, disk = self.world.mutant, self.disk
        if mutant.forgets_journal and disk.journal:
            disk.journal, disk.blocks, disk.certificates = [], {}, {}
        key = self.world.keys[self.me]
        signer = mutant.signer(key, CHAIN, self.world.roster, disk.journal, disk.state)
        if disk.state is JournalState.TORN:
            disk.state = JournalState.CLEAN
        anchor = disk.anchor()
        self.roots = {anchor.block: anchor.state_root}
        self.core = mutant.core(
            self.world.roster, CHAIN, signer, self.me, RULE, anchor, restored=disk.restored(), verify=quick_verify
        )
        self.receive(Started())

    def crash(self) -> None:
        if self.core is None or not self.world.chaos:
            return
        self.core = None
        self.world.note("crash", self.me)
        if self.world.options.lost_journals and self.world.oracle.may_lose(self.me):
            self.disk.journal, self.disk.state = [], JournalState.MISSING
        self.world.later(self.world.random.randrange(50, 6_000), self._restart, self.life)

    def _restart(self, life: int) -> None:
        if self.core is None and life == self.life:
            self.start()

    def alive_later(self, delay_ms: int, event: Event) -> None:
        self.world.later(delay_ms, self._if_same_life, self.life, event)

    def _if_same_life(self, life: int, event: Event) -> None:
        if life == self.life:
            self.receive(event)

    def receive(self, event: Event) -> None:
        if self.core is None:
            return
        effects = self.core.handle(event, self.world.now_ms)
        self.world.note(self.me, type(event).__name__, [type(effect).__name__ for effect in effects])
        random_, options = self.world.random, self.world.options
        position = len(effects)
        if effects and self.world.chaos and options.cut and random_.random() < options.cut * len(effects):
            position = random_.randrange(len(effects))
            records = [index for index, effect in enumerate(effects) if isinstance(effect, Persist)]
            if records and random_.random() < 0.5:
                position = records[0]
        if effects and self.me == 0 and self.world.cut_at is not None:
            self.active += 1
            if self.active == self.world.cut_at[0]:
                position = self.world.cut_at[1]
        if position < len(effects):
            self._perform(effects[:position])
            if isinstance(effects[position], Persist) and random_.random() < 0.5:
                self.world.torn += 1
                self.disk.state = JournalState.TORN  # half of the record was written; the shell cut it off
            self.crash()
        else:
            self._perform(effects)

    def _perform(self, effects: list[Effect]) -> None:
        world, disk = self.world, self.disk
        for effect in effects:
            match effect:
                case Persist(records):
                    disk.journal.extend(records)
                case StoreBlocks(blocks, certificates):
                    for block in blocks:
                        disk.blocks[block.proposal.header.digest()] = block
                    for certificate in certificates:
                        disk.certificates[certificate.view, certificate.kind] = certificate
                        world.oracle.on_certificate(certificate)
                case Send(to, message):
                    world.oracle.on_sent(self.me, message)
                    if to is None:
                        world.broadcast(self.me, message)
                    else:
                        world.send(self.me, to, message)
                case SetTimer(timer, at_ms):
                    self.alive_later(at_ms - world.now_ms, TimerFired(timer))
                case RequestBuild():
                    self._build(effect)
                case RequestCheck():
                    self._check(effect)
                case Finalized(blocks):
                    self._finalize(blocks)
                case FetchBlocks(from_height, target):
                    world.later(world.random.randrange(20, 400), self._sync, self.life, from_height, target)
                case Evidence():
                    world.oracle.on_evidence(effect)
                case Halt(sentence):
                    raise Broken(f"unsafe: member {self.me} halted: {sentence}")
                case Score(member, reason):
                    world.oracle.on_score(member, reason)

    def _build(self, request: RequestBuild) -> None:
        random_ = self.world.random
        delay = random_.randrange(1, 60)
        if random_.random() < 0.5 and request.parent in self.roots:
            body = random_.randbytes(random_.randrange(1, 40))
            self.alive_later(delay, BodyBuilt(request.view, body, execute(self.roots[request.parent], body)))
            return
        self.alive_later(delay, NothingToBuild(request.view))
        if random_.random() < 0.3:
            self.alive_later(random_.randrange(100, 500), Nudge())

    def _check(self, request: RequestCheck) -> None:
        header, random_ = request.header, self.world.random
        delay = random_.randrange(1, 60)
        if header.parent not in self.roots:
            raise Broken(f"member {self.me} was asked to execute a block whose parent it does not know")
        if self.world.chaos and random_.random() < 0.1:
            self.alive_later(delay, BodyChecked(request.block, None))
            return
        root = execute(self.roots[header.parent], request.body)
        if root == header.state_root:
            self.roots[request.block] = root
        self.alive_later(delay, BodyChecked(request.block, True, root))

    def _finalize(self, blocks: tuple[FinalizedBlock, ...]) -> None:
        for block in blocks:
            self.world.oracle.on_finalized(self, block)
            self.roots[block.header.digest()] = block.header.state_root
        self.disk.ledger.extend(blocks)
        view = blocks[-1].header.view
        self.disk.blocks = {
            name: stored for name, stored in self.disk.blocks.items() if stored.proposal.header.view > view
        }
        self.disk.certificates = {at: held for at, held in self.disk.certificates.items() if at[0] > view}

    def _sync(self, life: int, from_height: Height, target: Certificate) -> None:
        """The sync protocol of this world: look into the other members' ledgers."""
        if life != self.life or self.core is None:
            return
        for other in self.world.nodes:
            ledger = other.disk.ledger
            for height in range(len(ledger), from_height - 1, -1):
                if ledger[height - 1].certificate is not None and ledger[height - 1].header.view <= target.view:
                    blocks = check_chain(ledger[from_height - 1 : height], self.world.roster, CHAIN, quick_verify)
                    self.receive(Synced(blocks))
                    return


class Oracle:
    """Watches what is sent, stored and finalized; knows the rules in its own words."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.chain: list[Digest] = []
        self.final_views: list[View] = []
        self.notarized: dict[View, Digest] = {}
        self.nullified: set[View] = set()
        self.signed: dict[tuple[MemberIndex, View], dict[VoteKind, Digest]] = {}
        self.lost: set[MemberIndex] = set()
        self.evidence: set[tuple[MemberIndex, View]] = set()

    def may_lose(self, member: MemberIndex) -> bool:
        """Losing a journal costs a voter: no more of them than the network can bear."""
        if len(self.lost | {member}) + len(self.world.villains) > self.world.faulty_max:
            return False
        self.lost.add(member)
        return True

    def on_sent(self, member: MemberIndex, message: object) -> None:
        vote = message.vote if isinstance(message, Proposal) else message
        if not isinstance(vote, Vote) or vote.signer != member:
            return
        said = self.signed.setdefault((member, vote.view), {})
        if said.setdefault(vote.kind, vote.block) != vote.block:
            raise Broken(f"framed: member {member} signed two {vote.kind.name} in view {vote.view}")
        if VoteKind.FINALIZE in said:
            if VoteKind.NULLIFY in said:
                raise Broken(f"framed: member {member} signed NULLIFY and FINALIZE in view {vote.view}")
            if said.get(VoteKind.NOTARIZE, said[VoteKind.FINALIZE]) != said[VoteKind.FINALIZE]:
                raise Broken(f"framed: member {member} finalized another block than it notarized in view {vote.view}")

    def on_certificate(self, certificate: Certificate) -> None:
        if certificate.kind is VoteKind.NULLIFY:
            self.nullified.add(certificate.view)
        elif certificate.kind is VoteKind.NOTARIZE:
            known = self.notarized.setdefault(certificate.view, certificate.block)
            if known != certificate.block:
                raise Broken(f"unsafe: two blocks notarized in view {certificate.view}")

    def on_evidence(self, evidence: Evidence) -> None:
        self.evidence.add((evidence.first.signer, evidence.first.view))
        if evidence.first.signer < len(self.world.nodes):
            raise Broken(f"framed: evidence against honest member {evidence.first.signer}: {evidence.kind}")

    def on_score(self, member: MemberIndex, reason: Reason) -> None:
        if member < len(self.world.nodes):
            raise Broken(f"framed: honest member {member} was blamed for {reason.name}")

    def on_finalized(self, node: Node, block: FinalizedBlock) -> None:
        header = block.header
        height, name = int(header.height), header.digest()
        previous = self.chain[height - 2] if height > 1 else NO_BLOCK
        if height > len(self.chain) + 1 or height < 1 or header.parent != previous:
            raise Broken(f"unsafe: height {height} does not extend the finalized chain")
        if height <= len(self.chain):
            if self.chain[height - 1] != name:
                raise Broken(f"unsafe: two blocks final at height {height}")
        else:
            self._on_new(node, header, name)
        self._check_order(node, block)
        if body_root(block.body) != header.body_root:
            raise Broken(f"the body of height {height} is another's")

    def _check_order(self, node: Node, block: FinalizedBlock) -> None:
        finalized = len(node.disk.ledger)
        if node.disk.ledger and block.header.height <= node.disk.ledger[-1].header.height:
            raise Broken(f"member {node.me} finalized height {block.header.height} again after {finalized}")

    def _on_new(self, node: Node, header: Header, name: Digest) -> None:
        self.chain.append(name)
        self.final_views.append(header.view)
        skipped = range(header.parent_view + 1, header.view)
        missing = [view for view in skipped if View(view) not in self.nullified]
        if missing:
            raise Broken(f"unsafe: views {missing} were skipped without a nullification")
        holders = [each for each in self.world.nodes if name in each.disk.blocks or name in each.roots]
        if len(holders) < self.world.faulty_max + 1 and not self.world.mutant.forgets_journal:
            raise Broken(f"height {header.height} is final and {len(holders)} honest members hold its body")


class Villain:
    """An active equivocator: votes for everything it sees, proposes twice, skips views without right, withholds."""

    def __init__(self, world: World, me: MemberIndex) -> None:
        self.world = world
        self.me = me
        self.key = world.keys[me]
        self.certificates: dict[View, dict[VoteKind, Certificate]] = {}
        self.headers: dict[Digest, Header] = {}
        self.voted: set[tuple[View, VoteKind, Digest]] = set()
        self.led: set[View] = set()

    @property
    def view(self) -> View:
        return View(max(self.certificates, default=0) + 1)

    def receive(self, message: object) -> None:
        match message:
            case Certificate():
                self._learn(message)
            case Proposal():
                self.headers[message.header.digest()] = message.header
                for certificate in (message.parent_certificate, *message.nullifications):
                    if certificate is not None:
                        self._learn(certificate)
                self._react(message.vote)
            case Vote():
                self._react(message)
            case _:
                pass
        self._lead()

    def tick(self) -> None:
        """Now and then: stale certificates, statuses from nowhere, votes far ahead, garbage."""
        random_ = self.world.random
        choice = random_.randrange(6)
        far = View(self.view + random_.choice((1, 3, 60, 10**6)))
        if choice == 0:
            self.world.broadcast(self.me, self._vote(far, VoteKind.NULLIFY, NO_BLOCK))
        elif choice == 1:
            self.world.broadcast(self.me, Status(Epoch(0), View(10**6), Height(10**6), far))
        elif choice == 2:
            vote = self._vote(self.view, VoteKind.NULLIFY, NO_BLOCK)
            forged = Vote(vote.epoch, vote.view, vote.kind, vote.block, MemberIndex(0), vote.signature)
            self.world.broadcast(self.me, forged)
        elif choice == 3:
            self.world.broadcast(self.me, Want(tuple(list(self.headers)[-64:])))
        elif choice == 4:
            self.world.broadcast(self.me, BodyMessage(random_.choice(list(self.headers) or [NO_BLOCK]), b"no"))
        elif self.certificates:
            held = self.certificates[random_.choice(list(self.certificates))]
            self.world.send(self.me, self._somebody(), random_.choice(list(held.values())))
        self._lead()
        self.world.later(random_.randrange(200, 900), self.tick)

    def _somebody(self) -> MemberIndex:
        return MemberIndex(self.world.random.randrange(self.world.count))

    def _vote(self, view: View, kind: VoteKind, block: Digest) -> Vote:
        text = vote_text(CHAIN, 0, view, kind, block)
        return Vote(Epoch(0), view, kind, block, self.me, self.key.sign(text))

    def _learn(self, certificate: Certificate) -> None:
        self.certificates.setdefault(certificate.view, {})[certificate.kind] = certificate
        if len(self.certificates) > 200:
            del self.certificates[min(self.certificates)]

    def _react(self, seen: Vote) -> None:
        """Every vote seen is echoed, to some; its contradiction goes to others."""
        for kind in VoteKind:
            block = NO_BLOCK if kind is VoteKind.NULLIFY else seen.block
            if (kind is not VoteKind.NULLIFY and block == NO_BLOCK) or (seen.view, kind, block) in self.voted:
                continue
            self.voted.add((seen.view, kind, block))
            vote = self._vote(seen.view, kind, block)
            for to in range(self.world.count):
                if to != self.me and self.world.random.random() < 0.6:
                    self.world.send(self.me, MemberIndex(to), vote)

    def _lead(self) -> None:
        view = self.view
        if view in self.led or schedule_leader(self.world, view) != self.me:
            return
        self.led.add(view)
        attack = self.world.random.choice(("twice", "skip", "skip", "silent", "once", "bad root"))
        parents = self._parents(view)
        if attack == "silent" or not parents:
            return
        proposals = []
        for copy in range(2 if attack == "twice" else 1):
            index = self.world.random.randrange(len(parents)) if attack == "skip" else 0
            proposals.append(self._propose(view, parents[index], copy, bad_root=attack == "bad root"))
        for to in range(self.world.count):
            if to != self.me:
                self.world.send(self.me, MemberIndex(to), proposals[to % len(proposals)])

    def _parents(self, view: View) -> list[tuple[Certificate | None, Header | None]]:
        """Blocks to build on, the newest first, genesis last."""
        found: list[tuple[Certificate | None, Header | None]] = []
        for at in sorted(self.certificates, reverse=True)[:4]:
            certificate = self.certificates[at].get(VoteKind.NOTARIZE)
            if certificate is not None and certificate.block in self.headers and at < view:
                found.append((certificate, self.headers[certificate.block]))
        if view < 5:
            found.append((None, None))
        return found

    def _propose(self, view: View, parent: Any, copy: int, *, bad_root: bool) -> Proposal:
        certificate, above = parent
        parent_view = above.view if above else View(0)
        header = Header(
            version=1,
            chain=CHAIN,
            epoch=Epoch(0),
            view=view,
            height=Height(above.height + 1 if above else 1),
            parent=certificate.block if certificate else NO_BLOCK,
            parent_view=parent_view,
            time_ms=max(self.world.now_ms, above.time_ms if above else 0) + 1 + copy,
            proposer=self.me,
            body_root=body_root(EMPTY_BODY),
            body_bytes=len(EMPTY_BODY),
            state_root=NO_BLOCK if bad_root else (above.state_root if above else GENESIS_ROOT),
            roster=self.world.roster.digest(),
            next_roster=self.world.roster.digest(),
            beacon=self.world.roster.beacon,
            evidence_root=Digest(bytes(32)),
        )
        block = header.digest()
        self.headers[block] = header
        between = [self.certificates.get(View(at), {}) for at in range(parent_view + 1, view)]
        skipped = tuple(held[VoteKind.NULLIFY] for held in between if VoteKind.NULLIFY in held)
        return Proposal(header, certificate, skipped, self._vote(view, VoteKind.NOTARIZE, block))


def schedule_leader(world: World, view: View) -> MemberIndex:
    """The leader by the formula, in the test's own words (equal weights)."""
    point = digest("nock/leader/1", world.roster.beacon, int(view).to_bytes(8, "big"))
    return MemberIndex(int.from_bytes(point, "big") % world.count)
