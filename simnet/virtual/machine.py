"""One simulated machine: a disk that lasts, a clock, and the process that runs on it now and then.

The process is the node's own (``node/node.py``) with every service it has. It ends by itself when something is wrong, is killed
at any await, and begins again on what the disk has.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from consensus.events import RoundClosed, StoreFinalized, TilesApplied
from node.config import Settings, load_settings
from node.ground import Ground, stand_on
from node.node import Machine, Node, live
from p2p.io.host import EVENTS_MAX
from p2p.io.memory_host import MemoryHost, MemoryNetwork, open_memory_host
from protocol.finality import Header
from protocol.genesis import Genesis
from protocol.ids import Digest, PeerId, TileId, Version, peer_text
from protocol.rejection import Reason, Rejected
from simnet.network import PeerPlan
from simnet.virtual.clock import VirtualClock
from simnet.virtual.disk import Pool, VirtualDisk
from simnet.virtual.time import run_inline

if TYPE_CHECKING:
    from compute.io.pool import WorkerHandle
    from simnet.checkers.watch import Watch

PORT: Final = 4001
CONNECTIONS: Final = 8  # that each looks for: enough for a mesh, few enough for hundreds of machines in one process
MakeLearner = Callable[["VirtualMachine", Ground], "WorkerHandle"]
OpenHost = Callable[..., AbstractAsyncContextManager[MemoryHost]]


def listen_address(plan: PeerPlan) -> str:
    """Where a machine listens, without its peer id."""
    return f"/ip4/10.{plan.index >> 16 & 255}.{plan.index >> 8 & 255}.{plan.index & 255}/tcp/{PORT}"


def address_of(plan: PeerPlan) -> str:
    """Where anybody can dial a machine."""
    return f"{listen_address(plan)}/p2p/{peer_text(plan.peer)}"


@dataclass(frozen=True, slots=True)
class Program:
    """What every machine runs. Tests hand in programs with a bug, and see whether it is found."""

    node: type[WatchedNode]
    open_host: OpenHost = open_memory_host


@dataclass(slots=True)
class World:
    """What all machines of one world share."""

    network: MemoryNetwork
    genesis: Genesis
    shards: tuple[bytes, ...]
    pool: Pool
    watch: Watch
    make_learner: MakeLearner
    bootstrap: tuple[str, ...]
    aggregation: bool  # between regions
    draw: random.Random
    finalized: Callable[[PeerId, Header], None]
    closing: Callable[[int], None]
    program: Program


class WatchedNode(Node):
    """The node, telling the checkers what it did. It hears nothing from them."""

    def __init__(self, machine: VirtualMachine, *parts: Any) -> None:
        self._machine = machine
        super().__init__(*parts)
        ledger, execution = self.ground.ledger, self.engine.execution
        machine.world.watch.began(
            self.ground.peer, ledger.oldest() or 0, execution.height, execution.state.root(), trio.current_time()
        )
        if machine.corrupt is not None:
            machine.corrupt(self)

    async def _store_finalized(self, effect: StoreFinalized) -> None:
        await super()._store_finalized(effect)
        for committed in effect.blocks:
            self._machine.world.watch.finalized(self.ground.peer, committed.block, trio.current_time())
            self._machine.world.finalized(self.ground.peer, committed.block.header)

    async def _round_closed(self, effect: RoundClosed) -> None:
        await super()._round_closed(effect)
        self._machine.world.closing(effect.round)
        self._machine.world.watch.round_closed(self.ground.peer, effect.round, trio.current_time())

    async def _post_tiles(self, event: Any) -> None:
        if isinstance(event, TilesApplied):
            for slot in event.slots:
                self._machine.applied(self.ground, slot.tile)
        await super()._post_tiles(event)


class VirtualMachine:
    """See the top of the file. ``plan`` says where it is and what it can do."""

    def __init__(self, plan: PeerPlan, world: World) -> None:
        self.plan = plan
        self.world = world
        self.disk = VirtualDisk(f"peer-{plan.index:04d}", world.pool)
        self.clock = VirtualClock(plan.clock_offset_ms)
        self.node: Node | None = None
        self.lives = 0
        self.corrupt: Callable[[Node], None] | None = None  # what a fault does to each of its nodes
        self._host: MemoryHost | None = None
        self._scope: trio.CancelScope | None = None
        self._stop = trio.Event()
        self._ended = trio.Event()
        self._ended.set()
        if plan.arrives_seconds == 0.0:
            self._put_data_set()

    @property
    def peer(self) -> PeerId:
        return self.plan.peer

    @property
    def is_running(self) -> bool:
        return self._scope is not None

    def _put_data_set(self) -> None:
        """Founders and whoever was there from the beginning have the text; others fetch it."""
        ground = self._open_ground()
        ground.blobs.put_many(self.world.shards)
        ground.close()

    def _settings(self) -> Settings:
        settings = load_settings(Path(self.disk.name))
        return replace(
            settings,
            network=replace(
                settings.network,
                region=self.plan.region.name,
                aggregate=self.world.aggregation,
                connections=CONNECTIONS,
                bootstrap=self._bootstrap(),
            ),
            storage=replace(settings.storage, history=False),  # a script that wants it says so
        )

    def _bootstrap(self) -> tuple[str, ...]:
        return tuple(each for each in self.world.bootstrap if each != address_of(self.plan))

    def _open_ground(self) -> Ground:
        return stand_on(self.disk.open(), self._settings(), self.plan.keys, self.world.genesis)

    def applied(self, ground: Ground, tile: TileId) -> None:
        """The node put a tile's newest version on its disk."""
        version = ground.tiles.newest(tile) or Version(0)
        held = ground.tiles.find(tile, version)
        if held is not None:
            self.world.watch.applied(self.peer, tile, version, Digest(held.root), trio.current_time())

    # -- life and death -------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """One process, from its start to its end, however that comes."""
        if self._scope is not None:
            return
        self.lives += 1
        self._ended, self._stop = trio.Event(), trio.Event()
        watch, now = self.world.watch, trio.current_time
        watch.arrived(self.peer, now(), is_new=self.lives == 1)
        with trio.CancelScope() as self._scope:
            try:
                await self._run()
            except Exception as error:
                if not self._is_excused(error):
                    watch.failed(self.peer, _sentence(error), now())
        self._scope = self.node = self._host = None
        self._look_behind()
        watch.left(self.peer, now())
        self._ended.set()

    async def _run(self) -> None:
        network = self.world.genesis.network_id()

        def check_hello(peer: PeerId, hello: bytes) -> None:
            if hello != network:
                raise Rejected(Reason.FOREIGN_NETWORK, f"its network is {hello[:8].hex()}...")

        ground = self._open_ground()
        for tile in ground.genesis_roots if self.lives > 1 else ():
            self.applied(ground, tile)
        try:
            async with self.world.program.open_host(
                self.world.network,
                ground.keys.node.seed,
                listen=(listen_address(self.plan),),
                hello=network,
                check_hello=check_hello,
                bootstrap=self._bootstrap(),
                generator=random.Random(self.world.draw.getrandbits(64)),
                clock_milliseconds=self.clock.now_ms,
                connections_wanted=CONNECTIONS,
            ) as self._host:
                machine = Machine(
                    lambda ground: self.world.make_learner(self, ground),
                    run_inline,
                    random.Random(self.peer),
                )

                def make_node(ground: Ground) -> Node:
                    return self.world.program.node(self, ground, self._host, self.clock, machine)

                await live(ground, self._host, self.clock, machine, make_node, self._run_node, self._stop)
        finally:
            ground.close()

    async def _run_node(self, node: Node) -> None:
        self.node = node
        await node.run()

    def _is_excused(self, error: BaseException) -> bool:
        """A node whose disk is full may end: it says so, and is started again by whoever looks after it."""
        if isinstance(error, BaseExceptionGroup):
            return all(map(self._is_excused, error.exceptions))
        return isinstance(error, OSError) and self.disk.is_full

    def _look_behind(self) -> None:
        """Whether the process left something that its machine still has."""
        left = self.world.network.connections_of(self.peer)
        if left:
            self.world.watch.left_behind(self.peer, f"{left} open connections", trio.current_time())

    async def kill(self) -> None:
        """kill -9 at any await: what was not synced is lost, and the others see their connections break."""
        if self._scope is None:
            return
        self._scope.cancel()
        await self._ended.wait()
        self.disk.lose_power(self.world.draw)

    async def stop(self) -> None:
        """As SIGTERM does."""
        self._stop.set()
        if self.node is not None:
            self.node.stop_requested.set()
        await self._ended.wait()

    def queues(self) -> dict[str, tuple[int, int]]:
        """What waits inside its process now: name -> (how many, how many there may be)."""
        if self.node is None or self._host is None:
            return {}
        return {
            "from the network": (self._host.events.statistics().current_buffer_used, EVENTS_MAX),
            **self.node.queues(),
        }


def _sentence(error: BaseException) -> str:
    """What an exception says, without its trace: that of the first in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
