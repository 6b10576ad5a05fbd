"""Joining: the newest checkpoint's state, before there is a node (chain.md 4).

    trust      genesis, or a block whose digest the user gave
      | proof, from anybody: consensus/light_client.py
    target     the newest checkpoint that anybody proved
      | parts, from everybody: storage/state_sync.py decides, this file asks and stores
    state      complete: the ledger begins at the target, and the node with it

What was proved is on disk before the next question, so a fetch that was killed goes on where it was. As long as it is not
complete the node does not start; where nobody has a checkpoint, or none gives anything for a while, all blocks are
fetched instead, as ``--from-genesis`` does.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog
import trio

from consensus.light_client import (
    CheckedTip,
    LightClientRule,
    Trust,
    check_checkpoint,
    check_light_client_proof,
)
from node.clock import Clock
from node.ground import Ground
from node.part_work import PartWork, open_part_work
from node.state_rows import (
    FetchRow,
    begin_fetch,
    digests_below,
    expect_part,
    fetched_parts,
    find_fetch,
    forget_state,
    keep_part,
    keep_split,
    mark_part,
)
from node.threads import InThread
from p2p.requests import STATE, SYNC, RequestRule
from p2p.transport import RequestFailed, Transport
from protocol.codec import decode, encode
from protocol.epochs import boundary_of, epoch_of, is_boundary
from protocol.finality import body_root
from protocol.ids import Digest, Height, PeerId, short
from protocol.learning import Blocks, GetBlocks
from protocol.light_client import LightBlock, LightClientProof
from protocol.limits import FRAME_BYTES_MAX, MIB
from protocol.rejection import Reason, Rejected
from protocol.state_sync import (
    Checkpoint,
    Children,
    GetCheckpoint,
    GetEntries,
    GetTrusted,
    StateRequest,
    Trusted,
)
from storage import state_sync as sync
from storage.kv import Batch
from storage.ledger import FinalizedBlock

log = structlog.get_logger()

FIRST_PEER_SECONDS: Final = 10.0  # for a network that begins at this moment, or is gone
FOUNDING_MS: Final = 600_000  # so long a network's first node is the one that has nobody to dial (a guess)
ASKED_MAX: Final = 8  # peers that are asked for a checkpoint
OTHERS_SECONDS: Final = (
    2.0  # after the first proof of a checkpoint, for newer ones; after the first denial, for any (a guess)
)
DENIALS_BELIEVED: Final = 3  # who say that there is none: fewer may be the liars that one met first (a guess)
STEPS_MAX: Final = 64  # parts of one proof: 256 MiB, centuries
TICK_SECONDS: Final = 1.0
PROGRESS_SECONDS: Final = 5.0
STUCK_SECONDS: Final = 60.0  # chain.md 4: without anything new, another checkpoint is looked for, and then none


class JoinPhase(enum.Enum):
    """How far joining is; the sentence of each is said to users."""

    IDLE = "idle"  # nothing is to be fetched
    CONNECTING = "connecting"
    PROVING = "proving"
    FETCHING = "fetching"
    COMPLETE = "complete"
    REPLAYING = "replaying"


SENTENCES: Final = {
    JoinPhase.IDLE: "nothing was to be fetched",
    JoinPhase.CONNECTING: "waiting for somebody to ask",
    JoinPhase.PROVING: "asking for the newest checkpoint and its proof",
    JoinPhase.COMPLETE: "the state of a checkpoint was fetched",
    JoinPhase.REPLAYING: "no checkpoint was to be had: blocks are fetched from the first on",
}


async def _nobody(fetch: StateFetch) -> None:
    """Whoever does not want to know."""


@dataclass(slots=True)
class StateFetch:
    """Fetches one node's state. ``on_fetch`` is called when parts are about to be fetched."""

    ground: Ground
    transport: Transport
    clock: Clock
    in_thread: InThread
    on_fetch: Callable[[StateFetch], Awaitable[None]] = _nobody
    phase: JoinPhase = JoinPhase.IDLE
    row: FetchRow | None = None  # what is being fetched, or was
    progress: sync.Progress | None = None
    _trust: Trust | None = None
    _denied_at: list[float] = field(default_factory=list)  # when somebody said that there is no checkpoint, asked last
    _rule: LightClientRule = field(init=False)
    _proving: trio.Lock = field(default_factory=trio.Lock)
    _proved: dict[tuple[Height, Digest], tuple[CheckedTip, tuple[LightBlock, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rule = self.ground.trust()[1]

    def sentence(self) -> str:
        """What users are told."""
        if self.phase is not JoinPhase.FETCHING or self.row is None:
            return SENTENCES[self.phase]
        at = self.progress or sync.NO_PROGRESS
        return (
            f"fetching the state of height {self.row.block.header.height}: {at.parts_kept} of {at.parts} parts "
            f"verified, {at.bytes_fetched / MIB:.1f} MiB from {at.sources} sources"
        )

    async def run(self, *, is_behind: bool = False) -> bool:
        """Fetch and adopt a checkpoint where that is the way to join; returns whether it did.

        That is where this node has no block yet, where it has begun to fetch a state, and where it ``is_behind``: its peers no
        longer keep the block that it needs next.
        """
        row = find_fetch(self.ground.index)
        if self.ground.settings.run.from_genesis:
            if row is not None:
                self._give_up()
            return False
        if row is None and self.ground.ledger.tip() is not None and not is_behind:
            return False
        self.phase = JoinPhase.CONNECTING
        if not await self._wait_for_peers() and row is None:
            self.phase = JoinPhase.IDLE
            return False
        self.phase = JoinPhase.PROVING
        newest = await self.find_newest()
        if newest is not None and (row is None or newest.block.header.height > row.block.header.height):
            row = newest
            begin_fetch(self.ground.index, row)
        if row is None:
            self.phase = JoinPhase.REPLAYING
            log.info("nobody has a checkpoint: blocks are fetched from the first on")
            return False
        self.phase, self.row = JoinPhase.FETCHING, row
        await self.on_fetch(self)
        log.info("fetching the state", height=row.block.header.height, root=row.block.header.state_root.hex()[:16])
        complete = await self._fetch(row)
        if complete is None:
            self.phase = JoinPhase.REPLAYING
            log.warning("no checkpoint could be fetched: blocks are fetched from the first on")
            self._give_up()
            return False
        row, block = complete
        self.ground.adopt_checkpoint(row, block)
        self.phase, self.row = JoinPhase.COMPLETE, row
        log.info("state complete", height=block.height, bytes=self.progress.bytes_fetched if self.progress else 0)
        return True

    def _give_up(self) -> None:
        """Begin at the genesis: of the state there are only parts, and the blocks that led to an older one lead nowhere."""
        self.ground.ledger.forget()
        forget_state(self.ground.index)

    async def _wait_for_peers(self) -> bool:
        """Whether anybody is connected, after a while at most.

        Who is told of nobody to dial is not waiting for anybody where the network is its own, or was founded a moment ago.
        """
        genesis = self.ground.genesis
        is_alone = [founder.card.node for founder in genesis.founders] == [self.transport.peer_id]
        is_first = is_alone or self.clock.now_ms() - genesis.created_ms < FOUNDING_MS
        if is_first and not self.ground.settings.network.bootstrap:
            return bool(self.transport.connected_peers())
        with trio.move_on_after(FIRST_PEER_SECONDS):
            while not self.transport.connected_peers():
                await trio.sleep(0.05)
        return bool(self.transport.connected_peers())

    # -- what is newest -------------------------------------------------------------------------------------------------

    async def find_newest(self) -> FetchRow | None:
        """The newest checkpoint that a connected peer proves, if it is above our own tip.

        Where all who are asked say nothing, or something wrong, or one or two that there is none, those who are connected later
        are asked as well: whom a newcomer meets first may be anybody.
        """
        self._proved.clear()
        self._denied_at.clear()
        trust = await self._find_trust()
        if trust is None:
            return None
        found: list[FetchRow] = []

        async def ask(peer: PeerId) -> None:
            row = await self._ask_way(peer, trust)
            if row is not None:
                found.append(row)
                scope = nursery.cancel_scope  # whoever is much slower than the first is not waited for
                scope.deadline = min(scope.deadline, trio.current_time() + OTHERS_SECONDS)

        async with trio.open_nursery() as nursery:
            begun = trio.current_time()
            nursery.cancel_scope.deadline = begun + STATE.timeout_seconds
            asked: dict[PeerId, None] = {}
            while not (found or self._is_denied(trust)) and trio.current_time() <= begun + FIRST_PEER_SECONDS:
                connected = self.transport.connected_peers()
                if not connected:
                    break
                for peer in connected:
                    if peer not in asked and len(asked) < ASKED_MAX:
                        asked[peer] = None
                        nursery.start_soon(ask, peer)
                await trio.sleep(0.05)
        tip = self.ground.ledger.tip() or 0
        above = (row for row in found if row.block.header.height > tip)
        return max(above, key=lambda row: row.block.header.height, default=None)

    def _is_denied(self, trust: Trust) -> bool:
        """Whether to believe that there is no checkpoint: several said so, or nobody else was there to ask for a while.

        One is enough where the chain cannot have come to the end of an epoch yet, so that a founding waits for nobody.
        """
        if not self._denied_at:
            return False
        rule = self.ground.genesis.chain
        blocks = boundary_of(epoch_of(trust.height + 1, rule.epoch_heights), rule.epoch_heights) - trust.height
        is_young = self.clock.now_ms() - trust.time_ms < blocks * rule.block_interval_ms_min
        waited_seconds = trio.current_time() - self._denied_at[0]
        return is_young or len(self._denied_at) >= DENIALS_BELIEVED or waited_seconds >= OTHERS_SECONDS

    async def _find_trust(self) -> Trust | None:
        """Where proofs begin; None where that cannot be had, or is too old."""
        named = self.ground.settings.network.trusted_block
        if self._trust is None and not named:
            self._trust = self.ground.trust()[0]
        if self._trust is None:
            height, block = _parse_trusted(named)
            for peer in self.transport.connected_peers():
                tip = await self._ask_trusted(peer, height, block)
                if tip is not None:
                    self._trust = tip.trust
                    break
            else:
                log.warning("nobody shows the block that is trusted", height=height)
        if self._trust is not None and self.clock.now_ms() - self._trust.time_ms >= self._rule.trusting_period_ms:
            log.warning(
                "what is trusted is too old to prove anything: give a newer block with network.trusted_block",
                height=self._trust.height,
                days=self._rule.trusting_period_ms // 86_400_000,
            )
            return None
        return self._trust

    async def _ask_trusted(self, peer: PeerId, height: Height, block: Digest) -> CheckedTip | None:
        data = await self._ask(peer, STATE, GetTrusted(height))
        try:
            light = decode(Trusted, data, limit_bytes=FRAME_BYTES_MAX).block if data is not None else None
            if light is None or light.roster is None:
                return None
            return check_checkpoint(light.header, light.roster, block)
        except Rejected as refusal:  # of the peer or of the user's word: who is wrong cannot be told
            log.info("another block than the one that is trusted", peer=short(peer), why=str(refusal))
            return None

    async def _ask_way(self, peer: PeerId, trust: Trust) -> FetchRow | None:
        """A peer's newest checkpoint, proved from what is trusted, in as many parts as it takes."""
        way: list[LightBlock] = []
        try:
            for _ in range(STEPS_MAX):
                try:
                    data = await self.get(peer, STATE, GetCheckpoint(trust.height))
                except Rejected:  # it has none, or is as new as we are
                    self._denied_at.append(trio.current_time())
                    return None
                answer = decode(Checkpoint, data, limit_bytes=FRAME_BYTES_MAX)
                tip, steps = await self._prove(trust, answer.proof)
                way += steps
                if answer.sub_roots:
                    if not is_boundary(tip.header.height, self.ground.genesis.chain.epoch_heights):
                        raise Rejected(Reason.BAD_PROOF, f"height {tip.header.height} is no checkpoint")
                    sub_roots = answer.check_roots(tip.header.state_root)
                    return FetchRow(LightBlock(tip.header, way[-1].certificate, tip.roster), tuple(way), sub_roots)
                trust = tip.trust
        except RequestFailed:
            return None
        except Rejected as refusal:
            if (
                refusal.reason is not Reason.WRONG_CHAIN
            ):  # it went on after a recovery that we do not know of, or the other way
                self.transport.report(peer, refusal)
            log.info("a checkpoint was refused", peer=short(peer), why=str(refusal))
        return None

    async def _prove(self, trust: Trust, proof: LightClientProof) -> tuple[CheckedTip, tuple[LightBlock, ...]]:
        """The last block of a proof and the way to it. What one peer has proved is not verified for the next: a second a
        thousand epochs. Raises ``Rejected``."""
        async with self._proving:
            name = (trust.height, proof.blocks[-1].header.digest())
            if name not in self._proved:
                check = partial(check_light_client_proof, proof, trust, self._rule, self.clock.now_ms())
                self._proved[name] = await self.in_thread(check), proof.blocks
            return self._proved[name]

    async def _ask(self, peer: PeerId, rule: RequestRule, request: StateRequest | GetBlocks) -> bytes | None:
        """One question; None where there is no answer."""
        try:
            return await self.get(peer, rule, request)
        except (RequestFailed, Rejected):
            return None

    async def get(self, peer: PeerId, rule: RequestRule, request: StateRequest | GetBlocks) -> bytes:
        """One question; raises ``RequestFailed`` when the peer cannot answer, ``Rejected`` when it will not."""
        return await self.transport.request(
            peer,
            rule.protocol,
            encode(request),
            timeout_seconds=rule.timeout_seconds,
            response_bytes_max=rule.response_bytes_max,
        )

    # -- fetching -------------------------------------------------------------------------------------------------------

    async def _fetch(self, row: FetchRow) -> tuple[FetchRow, FinalizedBlock] | None:
        """Fetch until the state of some checkpoint is complete; None where nobody gives anything for too long."""
        async with (
            open_part_work(self.in_thread, self.ground.disk.row_files) as part_work,
            trio.open_nursery() as nursery,
        ):
            run = _Run(self, row, nursery, part_work)
            complete = await run.until_complete()
            nursery.cancel_scope.cancel()
        return complete

    async def fetch_block(self, row: FetchRow) -> FinalizedBlock | None:
        """The block of a checkpoint with its body, from anybody; the header is known."""
        header = row.block.header
        for peer in self.transport.connected_peers():
            data = await self._ask(peer, SYNC, GetBlocks(header.height, 1))
            if data is None:
                continue
            try:
                blocks = decode(Blocks, data, limit_bytes=FRAME_BYTES_MAX).blocks
            except Rejected as refusal:
                self.transport.report(peer, refusal)
                continue
            if blocks and blocks[0].header == header and body_root(blocks[0].body) == header.body_root:
                return FinalizedBlock(header.height, encode(header), blocks[0].body, encode(row.block.certificate))
        return None


class _Run:
    """One fetch, until it is complete or given up."""

    def __init__(self, fetch: StateFetch, row: FetchRow, nursery: trio.Nursery, part_work: PartWork) -> None:
        self._fetch = fetch
        self._index = fetch.ground.index
        self._row = row
        self._nursery = nursery
        self._part_work = part_work
        self._say, self._events = trio.open_memory_channel[sync.Event](sync.QUESTIONS_MAX + 2)
        self._machine = sync.StateSync(_target(row), partial(digests_below, self._index), fetched_parts(self._index))
        self._told: dict[PeerId, None] = {}  # of sources that were told to the machine
        self._is_complete = False
        self._kept = 0
        self._kept_at = trio.current_time()

    async def until_complete(self) -> tuple[FetchRow, FinalizedBlock] | None:
        self._nursery.start_soon(self._tick)
        async for event in self._events:
            for effect in await self._handle(event):
                self._perform(effect)
            self._fetch.progress = self._machine.progress
            if self._machine.progress.parts_kept != self._kept or not self._fetch.transport.connected_peers():
                self._kept, self._kept_at = self._machine.progress.parts_kept, trio.current_time()
            if self._is_complete:
                block = await self._fetch.fetch_block(self._row)
                if block is not None:
                    return self._row, block
            if trio.current_time() - self._kept_at > STUCK_SECONDS and not await self._retarget():
                return None
        return None

    async def _handle(self, event: sync.Event) -> list[sync.Effect]:
        """The machine's answer, and what it keeps: megabytes are written, so in a thread."""
        now_ms = self._fetch.clock.monotonic_ms()

        def work() -> list[sync.Effect]:
            effects, batch = self._machine.handle(event, now_ms), Batch()
            self._take_rows([effect for effect in effects if isinstance(effect, sync.Keep) and effect.part.rows_file])
            for effect in effects:
                match effect:
                    case sync.Keep(name, part, digest) if part.rows_file:
                        mark_part(batch, name, part.checked, digest)
                    case sync.Keep(name, part, digest):
                        keep_part(batch, self._index, name, part.entries, part.checked, digest)
                    case sync.Split(name, digests):
                        keep_split(batch, name, digests)
            if batch:
                self._index.write(batch, durable=False)  # the next durable write makes it so
            if isinstance(event, sync.Answered) and isinstance(event.answer, sync.ProvedEntries):
                self._part_work.drop(event.answer)
            return effects

        return await self._fetch.in_thread(work)

    def _take_rows(self, keeps: Sequence[sync.Keep]) -> None:
        """Let the database have the file of an answer.

        Its other parts are here already, with the same rows. That they count for nothing yet is durable before the rows are.
        """
        if not keeps:
            return
        batch = Batch()
        for keep in keeps:
            expect_part(batch, self._index, keep.name)
        self._index.write(batch)
        self._part_work.take(keeps[0].part.rows_file)

    def _perform(self, effect: sync.Effect) -> None:
        match effect:
            case sync.Ask():
                self._nursery.start_soon(self._ask, effect)
            case sync.Report(peer, refusal):
                log.warning("a part of the state was refused", peer=short(peer), why=str(refusal))
                self._fetch.transport.report(peer, refusal)
            case sync.Finished():
                self._is_complete = True

    async def _ask(self, ask: sync.Ask) -> None:
        event: sync.Event
        try:
            data = await self._fetch.get(ask.peer, STATE, ask.request)
        except RequestFailed:
            event = sync.Unanswered(ask.number)
        except Rejected as refusal:
            event = sync.Unanswered(ask.number, is_absent=refusal.reason is Reason.NOT_FOUND)
        else:
            event = sync.Answered(ask.number, await self._read(ask, data))
        await self._say.send(event)

    async def _read(self, ask: sync.Ask, data: bytes) -> Children | sync.ProvedEntries:
        """An answer as the machine takes it."""
        if isinstance(ask.request, GetEntries):
            return await self._part_work.prove(ask.request.names, ask.digests, data)
        try:
            return decode(Children, data, limit_bytes=FRAME_BYTES_MAX)
        except Rejected as refusal:
            return sync.ProvedEntries((), refusal)

    async def _tick(self) -> None:
        """Tell the machine of time and of who is there; tell the user how far it is."""
        told_at = 0.0
        while True:
            connected = self._fetch.transport.connected_peers()
            for peer in connected:
                if peer not in self._told:
                    self._told[peer] = None
                    await self._say.send(sync.SourceFound(peer))
            for peer in [peer for peer in self._told if peer not in connected]:
                del self._told[peer]
                await self._say.send(sync.SourceLost(peer))
            await self._say.send(sync.Ticked())
            if trio.current_time() - told_at >= PROGRESS_SECONDS:
                told_at, at = trio.current_time(), self._machine.progress
                log.info(
                    "fetching the state",
                    parts=f"{at.parts_kept} of {at.parts}",
                    sources=at.sources,
                    bytes=at.bytes_fetched,
                )
            await trio.sleep(TICK_SECONDS)

    async def _retarget(self) -> bool:
        """Go on with the newest checkpoint there is, if it is another one; whether there is any."""
        newest = await self._fetch.find_newest()
        if newest is None or newest.block.header.height <= self._row.block.header.height:
            return False
        log.info("going on with a newer checkpoint", height=newest.block.header.height)
        self._fetch.row = newest
        self._row, self._is_complete, self._kept_at = newest, False, trio.current_time()
        begin_fetch(self._index, newest)
        self._told.clear()
        for effect in await self._handle(sync.Retargeted(_target(newest))):
            self._perform(effect)
        return True


def _parse_trusted(text: str) -> tuple[Height, Digest]:
    """HEIGHT:DIGEST, of which the form was checked when the settings were read."""
    height, _, block = text.partition(":")
    return Height(int(height)), Digest(bytes.fromhex(block))


def _target(row: FetchRow) -> sync.Target:
    return sync.Target(row.block.header.height, row.sub_roots)
