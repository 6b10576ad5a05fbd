"""Sync: a node fetches the state of a checkpoint from a source over real sockets, until it is complete; then another one does.

    kept PARTS        so many parts were proved, and are on the disk: they are not asked for again
    complete ROOT     the state is whole, the node's ledger begins with the checkpoint's block

The source is in the witness' process, and counts what it gives.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import trio

from benchmarks.common import Row, compare
from benchmarks.common import say as tell
from benchmarks.common.network import found
from benchmarks.kills import CORPUS, EPOCH_HEIGHTS, Say, Witness, opened, sample_template
from benchmarks.kills.blocks import finalized_block
from consensus.state import ACCOUNTS, ROSTERS, Account, State, all_rows, load_state
from node.checkpoints import take_checkpoint
from node.clock import Clock
from node.config import load_settings
from node.ground import Ground, open_ground
from node.services.state_fetch import StateFetch
from node.services.state_server import StateServer
from node.state_rows import ON_ITS_WAY, entries_below, fetched_parts, find_fetch, scan_state, store_changes
from node.threads import in_thread
from p2p.io.libp2p_host import open_libp2p_host
from p2p.requests import STATE, SYNC
from p2p.transport import PeerUnreachable, Transport
from protocol.codec import decode, encode
from protocol.digest import blob_digest
from protocol.finality import FinalizedBlock
from protocol.genesis import genesis_roster
from protocol.ids import Digest, Epoch, PeerId, VoteKey
from protocol.learning import Blocks
from protocol.light_client import LightBlock
from protocol.limits import FRAME_BYTES_MAX, STATE_ANSWER_BYTES_MAX
from protocol.rejection import Rejected
from protocol.roster import Member, Roster
from protocol.state_sync import EMPTY, Entries, GetEntries, StateRequest, check_entries
from storage import ledger
from storage.keys import own_key, pack_u64
from storage.kv import Batch, KeyValue
from storage.state_sync import QUESTIONS_PER_SOURCE_MAX

STRANGERS: Final = 5_000  # accounts
ROSTERS_MADE: Final = 6_000  # entries of many bytes: most of the state
ROSTER_MEMBERS: Final = 100
DIAL_SECONDS_MAX: Final = 30.0
GIVEN_BYTES_MAX: Final = QUESTIONS_PER_SOURCE_MAX * STATE_ANSWER_BYTES_MAX  # on their way when a process dies

NOTHING: Final = (ON_ITS_WAY, *EMPTY)  # marks of names of which nothing is here

T = TypeVar("T")

# -- the process --------------------------------------------------------------------------------------------------------


def work(folder: Path, seed: int, say: Say, address: str) -> None:
    """Fetch what is missing, and begin with the checkpoint's block."""
    say("opening")
    with opened(folder) as ground:
        say("open")
        trio.run(_fetch, ground, address, say)
        say("complete", ground.load_state().root().hex())


async def _fetch(ground: Ground, address: str, say: Say) -> None:
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        host = await stack.enter_async_context(
            open_libp2p_host(
                ground.keys.node.seed,
                listen=["/ip4/127.0.0.1/tcp/0"],
                hello=b"",
                check_hello=lambda peer, hello: None,
            )
        )
        nursery.start_soon(_drain, host)
        await _dial(host, address)

        async def told(work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
            result = await in_thread(work, limiter)
            if fetch.progress is not None:
                say("kept", fetch.progress.parts_kept)
            return result

        fetch = StateFetch(ground, host, Clock(), told)
        await fetch.run()
        nursery.cancel_scope.cancel()


async def _drain(host: Transport) -> None:
    async for _ in host.events:
        pass


async def _dial(host: Transport, address: str) -> None:
    """The source may not have noticed yet that the process before is dead."""
    with trio.fail_after(DIAL_SECONDS_MAX):
        while True:
            try:
                await host.dial(address)
            except (PeerUnreachable, Rejected):
                await trio.sleep(0.1)
            else:
                return


# -- the witness --------------------------------------------------------------------------------------------------------


def large_state(ground: Ground) -> State:
    """The genesis' state, with strangers' accounts and rosters of other epochs."""
    rows = {row: encode(entry) for row, entry in all_rows(ground.genesis_state()) if entry is not None}
    for number in range(STRANGERS):
        key = blob_digest(pack_u64(number))
        rows[bytes([ACCOUNTS.chain]) + ACCOUNTS.prefix + key] = encode(Account(number, 0))
    names = [blob_digest(pack_u64(number)) for number in range(ROSTER_MEMBERS)]
    members = tuple(Member(PeerId(name), VoteKey(name)) for name in sorted(names))
    for epoch in range(2, 2 + ROSTERS_MADE):
        roster = Roster(Epoch(epoch), members, (1,) * len(members), blob_digest(pack_u64(epoch)))
        rows[bytes([ROSTERS.chain]) + ROSTERS.prefix + pack_u64(epoch)] = encode(roster)
    return load_state(rows.items())


class _Source:
    """A node's ground with one checkpoint, and what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.ground = open_ground(load_settings(folder))
        state = large_state(self.ground)
        self.root = state.root()
        genesis = self.ground.genesis
        block = finalized_block(genesis, self.ground.keys.vote, EPOCH_HEIGHTS, None, state)
        assert block.certificate is not None
        light = LightBlock(block.header, block.certificate, genesis_roster(genesis))
        rows, extra = Batch(), Batch()
        store_changes(rows, all_rows(state), state)
        self.ground.index.write(rows)
        extra.put(own_key("roster", pack_u64(0)), encode(light.roster))
        stored = ledger.FinalizedBlock(block.header.height, encode(block.header), block.body, encode(block.certificate))
        self.ground.ledger.begin_at(stored, extra, EPOCH_HEIGHTS)
        take_checkpoint(self.ground.disk, light, state)
        self.block: FinalizedBlock = block
        self.rows = dict(scan_state(self.ground.index))
        self.state_bytes = sum(len(key) + len(value) for key, value in self.rows.items())
        self.given_bytes = 0  # of entries
        self.names: list[bytes] = []  # whose entries were given, since somebody last looked

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its address."""
        async with (
            trio.open_nursery() as nursery,
            open_libp2p_host(
                self.ground.keys.node.seed,
                listen=["/ip4/127.0.0.1/tcp/0"],
                hello=b"",
                check_hello=lambda peer, hello: None,
            ) as host,
        ):
            nursery.start_soon(_drain, host)
            server = StateServer(self.ground, host, in_thread)

            async def give(peer: PeerId, data: bytes) -> bytes:
                request: StateRequest = decode(StateRequest, data, limit_bytes=STATE.request_bytes_max)  # type: ignore[arg-type]  # a union
                answer = await server.serve(peer, data)
                if isinstance(request, GetEntries):
                    parts = decode(Entries, answer, limit_bytes=FRAME_BYTES_MAX).parts
                    self.names += request.names[: len(parts)]
                    self.given_bytes += sum(len(entry.key) + len(entry.value) for part in parts for entry in part or ())
                return answer

            async def give_block(peer: PeerId, data: bytes) -> bytes:
                return encode(Blocks((self.block,), self.block.header.height))

            host.set_request_handler(STATE.protocol, give)
            host.set_request_handler(SYNC.protocol, give_block)
            yield host.addresses[0]
            server.close()
            nursery.cancel_scope.cancel()
        self.ground.close()


@dataclass(slots=True)
class Joining:
    """One node's way to the state."""

    lives: int = 0
    parts: dict[bytes, Digest] = field(default_factory=dict)  # on the disk when it was looked at last
    parts_said: int = 0
    given_bytes: int = 0


class SyncWitness(Witness):
    """Which parts there must be, and what need not be given again."""

    name = "sync"
    life_seconds = 3.0
    end_seconds = 120.0

    def __init__(self, out: Path, seed: int) -> None:
        super().__init__(out, seed)
        self.joinings = [Joining()]
        self._deaths_between = 0  # of nodes that had some parts and not all
        self._again = 0  # parts that were given though they were kept
        self._address = ""
        self._is_over = False

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        """Make a source and nodes that know nothing, and let the source serve."""
        source = self.out / "source"
        found([source, self.out / "new"], 1, sample_template(), [CORPUS])
        shutil.copytree(self.out / "new", self.folder)
        self._source = await trio.to_thread.run_sync(_Source, source)
        tell(f"sync: a state of {len(self._source.rows)} entries, {self._source.state_bytes / 1e6:.1f} MB")
        async with self._source.serving() as self._address:
            yield

    def arguments(self) -> Sequence[str]:
        return [self._address]

    def hear(self, words: Sequence[str]) -> None:
        match words:
            case ["kept", parts]:
                self.joinings[-1].parts_said = int(parts)
            case ["complete", _]:
                self._is_over = True

    @property
    def may_end(self) -> bool:
        return self._is_over

    def look(self, left: Path) -> list[str]:
        at, source = self.joinings[-1], self._source
        at.lives += 1
        again = [name for name in source.names if name in at.parts]
        self._again += len(again)
        wrong = [f"{len(again)} parts that were kept were given again"] if again else []
        at.given_bytes += source.given_bytes
        source.names, source.given_bytes = [], 0
        if at.given_bytes > source.state_bytes + at.lives * GIVEN_BYTES_MAX:
            wrong.append(f"{at.given_bytes} bytes were given for {source.state_bytes}, in {at.lives} lives")
        with opened(left) as ground:
            if ground.ledger.tip() is not None and find_fetch(ground.index) is None:
                wrong += self._wrong_state(ground)
                self._begin_another()
            elif self._is_over:
                wrong.append("a state that was said to be complete is none")
            else:
                wrong += self._wrong_parts(at, ground.index)
        return wrong

    def _wrong_parts(self, at: Joining, index: KeyValue) -> list[str]:
        parts = {name: digest for name, digest in fetched_parts(index).items() if digest not in NOTHING}
        lost = [name for name, digest in at.parts.items() if parts.get(name) != digest]
        wrong = [f"{len(lost)} parts were kept and are gone"] if lost else []
        if len(parts) < at.parts_said:
            wrong.append(f"{at.parts_said} parts were acknowledged, {len(parts)} are there")
        for name, digest in parts.items():
            try:
                check_entries(name, tuple(entries_below(index, name)), digest)
            except Rejected as refusal:
                wrong.append(f"part {name.hex()} is not what was proved: {refusal}")
        at.parts = parts
        self._deaths_between += bool(parts)
        return wrong

    def _wrong_state(self, ground: Ground) -> list[str]:
        wrong = []
        if dict(scan_state(ground.index)) != self._source.rows:
            wrong.append("other rows than the source's")
        if ground.load_state().root() != self._source.root or ground.ledger.tip() != EPOCH_HEIGHTS:
            wrong.append("another state than the source's")
        return wrong

    def _begin_another(self) -> None:
        shutil.rmtree(self.folder)
        self.folder = self.out / f"node-{len(self.joinings)}"
        shutil.copytree(self.out / "new", self.folder)
        self.joinings.append(Joining())
        self._is_over = False

    def rows(self) -> list[Row]:
        over = self.joinings[:-1]
        given = sum(at.given_bytes for at in over)
        return [
            Row("kills of a node that had some parts", "kills", self._deaths_between),
            Row("nodes that joined", "nodes", len(over)),
            Row("most lives that one of them took", "lives", max((at.lives for at in over), default=0)),
            compare(
                "bytes given to those that joined, of their states'",
                "%",
                100 * given / (self._source.state_bytes * len(over)) if over else None,
                floor=100.0,
            ),
            Row("parts that were given again though they were kept", "parts", self._again),
        ]
