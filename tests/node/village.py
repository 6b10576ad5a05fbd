"""A node without experts among holders of them: real services and real weights on a network in memory, in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random
from typing import Any, TypeVar

import trio
from msgspec.structs import replace
from trio.testing import MockClock

from compute.io.pool import JobLost
from compute.jobs import TileFile
from compute.spot_checks import SpotCheckRule, SpotChecks
from compute.trainer import Device, run_to_end
from node.adverts import Adverts
from node.answer_book import AnswerBook
from node.clock import Clock
from node.services.answer_audit import AnswerAudit
from node.services.answer_receipts import AnswerReceipts, Weights
from node.services.answering import Answering, cache_bytes
from node.services.expert_audit import ExpertAudit
from node.services.expert_client import ExpertClient, open_expert_client
from node.services.expert_server import ExpertServer
from node.services.remote_experts import RemoteExperts
from protocol.answers import AnswerRecord
from protocol.ids import Digest, NetworkId, PeerId, TileId, Version
from protocol.keys import KeyPair
from protocol.learning import Advert
from protocol.limits import EXPERT_ROWS_BYTES_MAX
from protocol.rejection import Rejected
from simnet.virtual.learner import ModelDevice, made_report
from storage.kv import MemoryKeyValue
from tests.node.memory_hosts import connected_hosts, no_report
from tests.node.worker_samples import Bench, answer

NETWORK = NetworkId(bytes([7]) * 32)
DOOR = KeyPair(bytes([8]) * 32)
TOKENS = 12
ANSWERS = 64  # that fit, each with a whole context


T = TypeVar("T")


async def inline(work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
    """Virtual time has no threads."""
    await trio.lowlevel.checkpoint()
    return work()


class Worker:
    """A worker whose jobs take a moment, one after the other; dead from some job on, if it is told so."""

    def __init__(self, bench: Bench, seconds: float = 0.002, device: Device | None = None) -> None:
        self.main = bench.worker(device or ModelDevice(made_report("node")))
        self.seconds = seconds
        self.dies_after: int | None = None
        self.jobs: list[Any] = []
        self._one = trio.Lock()

    async def call(self, job: Any, timeout_seconds: float = 0.0) -> Any:
        async with self._one:
            self.jobs.append(job)
            if self.dies_after is not None and len(self.jobs) > self.dies_after:
                raise JobLost("it was killed")
            await trio.sleep(self.seconds)
            return run_to_end(self.main.work[type(job)](job))


class Known(Adverts):
    """Adverts of peers with a device."""

    def __init__(self, able: set[PeerId]) -> None:
        super().__init__()
        self.able = able

    def find(self, peer: PeerId) -> Advert | None:
        device = "cpu" if peer in self.able else ""
        return Advert((), "", (), device, 0, 0, 0, 0, 0, 0, 0, 0)  # type: ignore[arg-type]  # rounds and heights are numbers


class Village:
    """A node without experts, and holders."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.version = Version(0)
        self.tiles: dict[int, Sequence[TileFile]] = {0: bench.tiles, 1: bench.tiles}
        self.door = Worker(bench)
        self.holders: list[Worker | None] = []
        self.peers: list[PeerId] = []  # of the holders
        self.answering: Answering
        self.client: ExpertClient
        self.book = AnswerBook(MemoryKeyValue(), inline, 1 << 20)
        self.weights = Weights(self.find_root)
        self.receipts = AnswerReceipts(NETWORK, DOOR, self.weights, self.book, Clock())
        self.audit: AnswerAudit

    def find_root(self, tile: TileId, version: Version) -> Digest | None:
        return next((Digest(each.root) for each in self.tiles.get(version, ()) if each.tile == tile), None)

    async def record(self, prompt: str, tokens: int = TOKENS, temperature: float = 0.0) -> AnswerRecord:
        """An answer with its receipt, as the book has it."""
        async with self.answering.generate(list(prompt.encode()), tokens, temperature, 1) as said:
            opened = self.receipts.begin(said)
            async for _ in said:
                pass
        receipt = await self.receipts.end(opened)
        record = self.book.find(receipt.claim.digest())
        assert record is not None
        return record

    async def tile_files(self, bases: Any) -> Any:
        return tuple(each for name, version in bases for each in self.tiles[version] if each.tile == name)

    def newest(self, tile: TileId) -> Version:
        return self.version

    async def answer(self, prompt: str, tokens: int = TOKENS, temperature: float = 0.0) -> list[int]:
        async with self.answering.generate(list(prompt.encode()), tokens, temperature, 1) as decoded:
            return [token async for token in decoded]

    def whole(self, prompt: str, tokens: int = TOKENS, temperature: float = 0.0) -> list[int]:
        """What a worker with all of the model says."""
        job = replace(
            self.bench.answer(tokens),
            tiles=tuple(self.tiles[self.version]),
            prompt=tuple(prompt.encode()),
            temperature=temperature,
            seed=1,
        )
        return answer(self.bench.worker(ModelDevice(made_report("all"))), job)


def live(
    bench: Bench,
    holders: int,
    talk: Callable[[Village], Awaitable[None]],
    call_bytes_max: int = EXPERT_ROWS_BYTES_MAX,
    *,
    is_whole: bool = False,
    devices: Sequence[Device] = (),
    report: Callable[[PeerId, Rejected], None] = no_report,
    rule: SpotCheckRule | None = None,
) -> None:
    """A village with so many holders; ``is_whole``: whose door needs none. ``devices``: of the first of them."""

    async def main() -> None:
        village = Village(bench)
        audit = ExpertAudit(bench.tile_map, village.tile_files, lambda: village.door, width=bench.genesis.model.width)
        checks = SpotChecks(Random(2), rule)
        async with (
            connected_hosts(holders + 1) as hosts,
            open_expert_client(hosts[0], Random(1), report, audit=audit, checks=checks) as client,
            trio.open_nursery() as nursery,
        ):
            village.client = client
            for number, host in enumerate(hosts[1:]):
                village.holders.append(Worker(bench, device=devices[number] if number < len(devices) else None))
                village.peers.append(host.peer_id)
                ExpertServer(
                    host,
                    bench.tile_map,
                    village.newest,
                    village.tile_files,
                    lambda number=number: village.holders[number],
                )
            cache_bytes_of = partial(cache_bytes, bench.genesis.model)
            experts = RemoteExperts(
                hosts[0],
                Known({host.peer_id for host in hosts[1:]}),
                client,
                bench.tile_map,
                row_bytes=4 * bench.genesis.model.width,
                call_bytes_max=call_bytes_max,
            )
            nursery.start_soon(experts.run)
            village.answering = Answering(
                bench.tile_map,
                village.newest,
                village.tile_files,
                lambda: village.door,
                nursery,
                None if is_whole else experts,
                cache_bytes_of=cache_bytes_of,
                cache_bytes_max=ANSWERS * cache_bytes_of(bench.genesis.model.context),
            )
            own = None if is_whole else audit
            village.audit = AnswerAudit(NETWORK, bench.tile_map, village.weights, village.answering, own)
            await trio.sleep(0.1)
            await talk(village)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
