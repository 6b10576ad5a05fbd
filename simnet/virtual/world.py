r"""Level two: the whole node by the hundred, in one process, in virtual time.

    scenario, seed --> machines (disk, clock, place) --> the node's own program on each, over links between regions
                   \--> faults, each a task of its own          simnet/virtual/faults.py
                   everything that nodes decide  --> Watch      simnet/checkers/

One generator from the seed, one event loop whose schedule follows from it, one clock that jumps: one seed is one history. What
hundreds of nodes of one process share is told once: a signature that one of them checked, and the bytes of equal files.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import structlog
import trio

from compute.jobs import Hello
from compute.model.tiling import TileMap
from node.chain_words import subject_words
from node.ground import Ground
from node.kept_cells import TILE_CHECKS
from p2p.io.memory_host import MemoryNetwork
from protocol.finality import Header
from protocol.ids import PeerId, short
from protocol.keys import begin_remembering, end_remembering
from simnet.checkers.watch import Watch
from simnet.compute import make_valley
from simnet.network import CREATED_MS, PeerPlan, make_genesis, make_shards, plan_peers
from simnet.outcome import Happening, Outcome, RegionOutcome, Sample
from simnet.scenario import Scenario
from simnet.shadow import shadow_losses
from simnet.villains import VILLAINS, Conspiracy, Villain
from simnet.virtual.disk import Pool
from simnet.virtual.faults import start_faults
from simnet.virtual.learner import AnalyticDevice, Landscape, ModelDevice, ModelLoss, made_report
from simnet.virtual.links import RegionLinks
from simnet.virtual.machine import Program, VirtualMachine, WatchedNode, World, address_of
from simnet.virtual.time import end_of_time, run_virtually
from simnet.virtual.worker import NamedFiles, VirtualWorker

LEVEL: Final = 2
TILE_CHECKS_MAX: Final = 32  # of all tiles of such a network, and of its state: five megabytes each
SIGNATURES_MAX: Final = 65_536  # remembered at once: some minutes of two hundred nodes
GARBAGE_THRESHOLDS: Final = (50_000, 20, 50)  # of the collector: ten times fewer full passes (a guess)
SAMPLES: Final = 120  # of a run, for its pictures
SAMPLE_SECONDS_MIN: Final = 1.0
EVALUATE_SHARE: Final = 20  # an evaluation takes this part of a round's learning (a guess)
STOP_SECONDS_MAX: Final = 60.0  # a node that was told to stop and has not by then never will
RESTART_SECONDS: Final = 10.0  # after which a process that ended by itself is started again, as service managers do

RIGHT: Final = Program(WatchedNode)


class VirtualWorld:
    """``run`` it in virtual time, then ask for its ``outcome``."""

    def __init__(
        self, scenario: Scenario, seed: int, on_progress: Callable[[float], None] | None, program: Program = RIGHT
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.draw = random.Random(seed)
        self._on_progress = on_progress or (lambda seconds: None)
        plans = plan_peers(scenario, seed)
        genesis = make_genesis(scenario, [plan.keys for plan in plans], seed)
        tile_map = TileMap.from_shape(genesis.model, genesis.tile_bytes)
        valley = make_valley(tile_map, seed)
        self._landscape = Landscape(valley, Conspiracy(seed))
        self.pool = Pool()
        is_analytic = scenario.learning.compute == "analytic"
        self.watch = Watch(
            genesis,
            scenario,
            self.pool.find,
            valley if is_analytic else ModelLoss(genesis, tile_map, make_shards()),
            partial(shadow_losses, scenario, seed) if is_analytic else None,
        )
        self.links = RegionLinks(scenario, random.Random(self.draw.getrandbits(64)))
        self.network = MemoryNetwork(random.Random(self.draw.getrandbits(64)), links=self.links)
        self._world = World(
            network=self.network,
            genesis=genesis,
            shards=make_shards(),
            pool=self.pool,
            watch=self.watch,
            make_learner=self._make_learner,
            bootstrap=tuple(address_of(plan) for plan in plans if plan.is_bootstrap),
            aggregation=scenario.learning.aggregation,
            draw=self.draw,
            finalized=self._finalized,
            closing=self._closing,
            program=program,
        )
        for plan in plans:
            self.links.connect(plan.peer, plan.region, plan.hardware)
        self.machines = [VirtualMachine(plan, self._world) for plan in plans]
        self.strangers = itertools.count()  # hosts that are none of its machines
        self.genesis = genesis
        self.tiles = sorted(tile_map.ids)
        self.happenings: list[Happening] = []
        self.samples: list[Sample] = []
        self._wanted: dict[int, bool] = {}  # machine -> its owner wants it to run
        self._nursery: trio.Nursery | None = None
        self._log = hashlib.sha256()
        self._finals: Counter[int] = Counter()  # height -> peers that have it
        self._lag_seconds = 0.0
        self._told = (0, 0, Counter[str]())  # traffic at the last sample
        self._quorum = True
        self._villains: dict[int, Villain] = {}
        self._last_final = 0.0
        self._closed = -1  # the newest round that anybody closed

    # -- the life of the world ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """From the first start to the last stop."""
        async with trio.open_nursery() as self._nursery:
            for machine in self.machines:
                self._nursery.start_soon(self._arrive, machine)
            start_faults(self, self._nursery)
            self._nursery.start_soon(self._sample)
            await trio.sleep_until(self.scenario.seconds)
            now, running = trio.current_time(), [machine.peer for machine in self.machines if machine.is_running]
            self._take_sample()
            self._wanted.clear()
            async with trio.open_nursery() as stopping:
                for machine in self.machines:
                    stopping.start_soon(self._stop, machine)
            self.watch.finish(now, running)
            if any(machine.is_running for machine in self.machines):
                end_of_time()  # a task that cannot be cancelled would go on for ever
            self._nursery.cancel_scope.cancel()

    async def _stop(self, machine: VirtualMachine) -> None:
        """Every node ends when it is told to, and leaves nothing."""
        with trio.move_on_after(STOP_SECONDS_MAX) as patience:
            await machine.stop()
        if patience.cancelled_caught:
            now = trio.current_time()
            self.watch.left_behind(machine.peer, f"it did not stop within {STOP_SECONDS_MAX:.0f} s", now)

    async def _arrive(self, machine: VirtualMachine) -> None:
        await trio.sleep_until(machine.plan.arrives_seconds)
        self.start(machine)

    def start(self, machine: VirtualMachine) -> None:
        """Start a machine's process, and again when it ends by itself."""
        index = machine.plan.index
        if not self._wanted.get(index):
            self._wanted[index] = True
            assert self._nursery is not None
            self._nursery.start_soon(self._keep_alive, machine)

    async def _keep_alive(self, machine: VirtualMachine) -> None:
        while self._wanted.get(machine.plan.index):
            await machine.live()
            self.judge_quorum()
            if self._wanted.get(machine.plan.index):
                await trio.sleep(RESTART_SECONDS)

    async def kill(self, machine: VirtualMachine) -> None:
        """kill -9; it stays down until ``start``."""
        self._wanted[machine.plan.index] = False
        await machine.kill()
        self.judge_quorum()

    def tell(self, says: str) -> None:
        """Something of the scenario took place."""
        now = trio.current_time()
        self.happenings.append(Happening(round(now, 3), says))
        self._log.update(f"{now:.3f} {says}\n".encode())

    def address(self, machine: VirtualMachine) -> str:
        """Where anybody can dial a machine."""
        return address_of(machine.plan)

    # -- what nodes take from their machine -----------------------------------------------------------------------------

    def _make_learner(self, machine: VirtualMachine, ground: Ground) -> VirtualWorker:
        plan, compute = machine.plan, ground.settings.compute
        report = made_report(plan.hardware.name)
        device: AnalyticDevice | ModelDevice
        if self.scenario.learning.compute == "model":
            device = ModelDevice(report)
        else:
            device = AnalyticDevice(self._landscape, report, self._villain(plan), plan.villain_from_round)
        return VirtualWorker(
            device,
            NamedFiles(machine.disk.files, machine.disk.name_of),
            greeting=Hello(compute.device, compute.threads, ground.genesis_bytes),
            learn_seconds=plan.hardware.learn_seconds,
            evaluate_seconds=plan.hardware.learn_seconds / EVALUATE_SHARE,
            on_log=lambda line: self.watch.failed(plan.peer, f"its learner said: {line}", trio.current_time()),
        )

    def _villain(self, plan: PeerPlan) -> Villain | None:
        """What a learner is led by, if it is a villain's. It remembers what it did, also when its process begins again."""
        if plan.villain is not None and plan.index not in self._villains:
            self._villains[plan.index] = VILLAINS[plan.villain](plan.peer, self.seed, self._landscape.conspiracy)
        return self._villains.get(plan.index)

    # -- what is seen ---------------------------------------------------------------------------------------------------

    def _finalized(self, peer: PeerId, header: Header) -> None:
        """A peer has a final block; when two thirds of those that run have it, it is final for the network."""
        now = trio.current_time()
        self._log.update(f"{now:.3f} {short(peer)} {header.height} ".encode() + header.digest())
        self._finals[header.height] += 1
        running = sum(machine.is_running for machine in self.machines)
        if self._finals[header.height] == (2 * running + 2) // 3:
            self._lag_seconds = max(self._lag_seconds, now - (header.time_ms - CREATED_MS) / 1000)
            self._last_final = now

    def _closing(self, round_number: int) -> None:
        """Somebody closes a round: the first to do so closes its account of traffic."""
        if round_number > self._closed:
            self._closed = round_number
            wan_bytes, local_bytes, _ = self.links.totals()
            self.watch.traffic(trio.current_time(), wan_bytes, local_bytes)

    def judge_quorum(self) -> None:
        """Tell the checkers whether more than two thirds of the validators run and reach each other."""
        validators = self.machines[: self.scenario.validators]
        groups = Counter(
            machine.plan.region.name if machine.plan.region.name in self.links.cut else ""
            for machine in validators
            if machine.is_running and not machine.disk.is_full
        )
        possible = 3 * max(groups.values(), default=0) > 2 * len(validators)
        if possible != self._quorum:
            self._quorum = possible
            self.watch.quorum_possible(trio.current_time(), possible)

    def links_changed(self) -> None:
        """Regions were cut or joined again."""
        self.network.links_changed()
        self.judge_quorum()

    async def _sample(self) -> None:
        step = max(SAMPLE_SECONDS_MIN, self.scenario.seconds / SAMPLES)
        while True:
            await trio.sleep(step)
            self._take_sample()
            self._on_progress(trio.current_time())

    def _take_sample(self) -> None:
        now, longest = trio.current_time(), 0
        late = now - self._last_final - self.genesis.chain.idle_interval_ms / 1000  # while nothing becomes final
        lag_seconds = max(self._lag_seconds, late if late > self.genesis.chain.view_delta_ms / 1000 else 0.0)
        for machine in self.machines:
            for name, (length, length_max) in machine.queues().items():
                longest = max(longest, length)
                self.watch.queue(machine.peer, name, length, length_max, now)
        self._count_cells(now)
        wan_bytes, local_bytes, kinds = self._told
        wan_total, local_total, count = self.links.totals()
        self.watch.traffic(now, wan_total, local_total)
        self.samples.append(
            Sample(
                seconds=round(now, 3),
                peers=sum(machine.is_running for machine in self.machines),
                connections=self.network.connection_count,
                wan_bytes=wan_total - wan_bytes,
                local_bytes=local_total - local_bytes,
                by_kind={kind_text(kind): count for kind, count in sorted((self.links.by_kind - kinds).items())},
                finality_lag_seconds=round(lag_seconds, 3),
                height=max(self._finals, default=0),
                queue_max=longest,
            )
        )
        self._told = (wan_total, local_total, Counter(self.links.by_kind))
        self._lag_seconds = 0.0
        self._log.update(f"{now:.3f} {count} {wan_total} {local_total}\n".encode())

    def _count_cells(self, now: float) -> None:
        """Of one recorded blob after the other, one at each sample."""
        nodes = [machine.node for machine in self.machines if machine.node is not None]
        if not nodes:
            return
        newest = max(nodes, key=lambda node: node.engine.execution.height)
        recorded = newest.keeping.upkeep.recorded()
        if not recorded:
            return
        entry = recorded[len(self.samples) % len(recorded)]
        for tile in range(entry.geometry.tile_count(entry.size_bytes)):
            cells = {cell for node in nodes for cell in node.ground.cells.cells_held(entry.blob, tile)}
            self.watch.kept(subject_words(entry.subject), tile, len(cells), entry.geometry.data_cells, now)

    def outcome(self) -> Outcome:
        """What the run showed; ask once it has ended."""
        between = self.links.sent_between()
        counts = Counter(machine.plan.region.name for machine in self.machines)
        for each in self.watch.rounds:
            self._log.update(f"{each.round} {each.loss!r} {each.deltas}\n".encode())
        return Outcome(
            scenario=self.scenario.name,
            says=self.scenario.says,
            seed=self.seed,
            level=LEVEL,
            repeat=f"nocknode simnet run {self.scenario.name} --seed {self.seed}",
            peers=self.scenario.peers,
            validators=self.scenario.validators,
            virtual_seconds=self.scenario.seconds,
            inner_steps=self.scenario.learning.inner_steps,
            invariants=self.watch.invariants,
            rounds=self.watch.rounds,
            samples=self.samples,
            regions=[
                RegionOutcome(region.name, region.at, counts[region.name], between[region.name])
                for region in self.scenario.regions
            ],
            moves=self.watch.moves,
            happenings=self.happenings,
            events=self.links.totals()[2],
            digest=self._log.hexdigest(),
        )


def kind_text(kind: str) -> str:
    """A topic or protocol as people call it: ``nock/1a2b3c4d/tiles/0`` is tiles, ``/nock/delta/1`` is delta."""
    parts = kind.strip("/").split("/")
    if len(parts) < 2 or parts[0] != "nock":
        return kind
    return parts[2] if len(parts) > 2 and kind.startswith("nock/") else parts[1]


# -- one run ------------------------------------------------------------------------------------------------------------


class _Failures(logging.Handler):
    """A task of a host that failed is contained there and logged: in this world it is a failure."""

    def __init__(self, watch: Watch, anybody: PeerId) -> None:
        super().__init__(logging.ERROR)
        self._watch = watch
        self._anybody = anybody

    def emit(self, record: logging.LogRecord) -> None:
        why = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            why += f" ({record.exc_info[1]!r})"
        self._watch.failed(self._anybody, why, trio.current_time())


@contextmanager
def _quiet(watch: Watch, anybody: PeerId) -> Iterator[None]:
    """Hundreds of nodes write no log; what their hosts contain is counted."""
    before: dict[str, Any] = structlog.get_config()
    handler, logger = _Failures(watch, anybody), logging.getLogger("nock")
    propagates = logger.propagate
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        structlog.configure(**before)
        logger.removeHandler(handler)
        logger.propagate = propagates


@contextmanager
def _sparing() -> Iterator[None]:
    """What one process that plays hundreds of nodes need not do each time: check a signature that it has checked before, make
    the matrices of a tile again, and look for garbage among millions of objects that live to the end of the run."""
    thresholds, checks_max = gc.get_threshold(), TILE_CHECKS.count_max
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    TILE_CHECKS.count_max = TILE_CHECKS_MAX
    begin_remembering(SIGNATURES_MAX)
    try:
        yield
    finally:
        end_remembering()
        TILE_CHECKS.count_max = checks_max
        gc.set_threshold(*thresholds)


def run_scenario(
    scenario: Scenario,
    seed: int,
    *,
    on_progress: Callable[[float], None] | None = None,
    program: Program = RIGHT,
) -> Outcome:
    """One run of whole nodes. ``on_progress`` hears the virtual seconds gone."""
    return run_world(scenario, seed, on_progress=on_progress, program=program).outcome()


def run_world(
    scenario: Scenario,
    seed: int,
    *,
    on_progress: Callable[[float], None] | None = None,
    program: Program = RIGHT,
) -> VirtualWorld:
    """The same for whoever looks at the machines afterwards: the world, in which nothing runs any more."""
    worlds: list[VirtualWorld] = []

    async def main() -> None:
        world = VirtualWorld(scenario, seed, on_progress, program)
        worlds.append(world)
        with _quiet(world.watch, world.machines[0].peer):
            await world.run()

    with _sparing():
        run_virtually(seed, main)
    return worlds[0]
