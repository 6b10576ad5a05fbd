"""The learner's shell: one worker process, the learner's journal, and the way of deltas to their owners.

    StartLearning  -> worker: Learn -> state file (durable, by the worker)
                   -> sign each delta, store it as a blob, then one row: state file + deltas without a fate    (durable)
                   -> LearnDone
    DeliverDeltas  -> `delta` request to the owner or aggregator -> DeltasDelivered or DeliveryFailed
    AskCarried     -> `delta` request that only asks -> CarriedTold
    a peer's deltas -> signature, shape and rules checked, stored, then acknowledged -> DeltasArrived

Because the row is written last and names everything else, a crash at any moment leaves the learner either before the round
or after it, with residuals that fit; what was journaled is sent again, bit for bit.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import structlog
import trio

from compute.delta.codec import payload_bytes_max
from compute.io.pool import JobError, JobLost, JobTimedOut, Worker, WorkerHandle, worker_environment
from compute.jobs import (
    Dataset,
    DeviceReport,
    Evaluate,
    EvaluateDone,
    Hello,
    Learn,
    Progress,
    Ready,
    TileDelta,
    TileFile,
)
from compute.jobs import (
    LearnDone as WorkerLearnDone,
)
from consensus.events import (
    AskCarried,
    CarriedTold,
    DeliverDeltas,
    DeliveryFailed,
    Delta,
    DeltasArrived,
    DeltasDelivered,
    LearnDone,
    LearnFailed,
    StartLearning,
)
from node.clock import Clock
from node.faults import CrashPoints
from node.ground import DeltaRow, Ground, LearnerRecord
from node.records import Records
from node.services.exchange import Exchange, Report
from node.services.tiles import TileService
from node.threads import InThread
from p2p.records import record_key
from p2p.requests import DELTA
from p2p.transport import RequestFailed, Transport
from protocol.codec import decode, encode
from protocol.digest import blob_digest
from protocol.ids import Digest, PeerId, Round, Signature, TileId, Version
from protocol.learning import (
    DeltaBundle,
    DeltaReceipt,
    SignedDelta,
    check_contributors,
    check_delta_signature,
    sign_delta,
)
from protocol.limits import FRAME_BYTES_MAX, KIB
from protocol.rejection import Reason, Rejected
from storage.blobs import blob_file_name, is_inline
from storage.kv import Batch, DatabaseCorrupt

log = structlog.get_logger()

PostEvent = Callable[
    [LearnDone | LearnFailed | DeltasArrived | DeltasDelivered | DeliveryFailed | CarriedTold], Awaitable[None]
]
FindRefusal = Callable[[Delta], Reason | None]
BUNDLE_BYTES_MAX = FRAME_BYTES_MAX - 64 * KIB
LEARN_ATTEMPTS = 3
GREETING_SECONDS_MAX = 120.0
WORKER_COMMAND = (sys.executable, "-m", "node.worker")
LEARNER_FOLDER = "learner"  # of the data directory, as node/data_directory.py draws it
MakeWorker = Callable[[Ground], WorkerHandle]


def worker_process(ground: Ground, command: Sequence[str] = WORKER_COMMAND) -> Worker:
    """The learner's process; runs once it is told to."""
    compute = ground.settings.compute
    return Worker(
        command,
        on_log=lambda line: log.info("worker", line=line),
        environment=worker_environment(compute.threads),
        greeting=Hello(compute.device, compute.threads, ground.genesis_bytes),
    )


def dataset_key(root: Digest) -> str:
    """Where the providers of a data set are found."""
    return record_key("dataset", root)


class LearningService:
    """The worker of one device and everything that is journaled about its learning."""

    def __init__(
        self,
        ground: Ground,
        transport: Transport,
        exchange: Exchange,
        tiles: TileService,
        records: Records,
        crash_points: CrashPoints,
        clock: Clock,
        post: PostEvent,
        find_refusal: FindRefusal,
        is_carried: Callable[[Digest], bool],
        report: Report,
        find_shortage: Callable[[], str | None],
        find_providers: Callable[[str], Awaitable[tuple[PeerId, ...]]],
        reach: Callable[[PeerId], Awaitable[object]],
        make_worker: MakeWorker,
        in_thread: InThread,
    ) -> None:
        self._ground = ground
        self._transport = transport
        self._exchange = exchange
        self._tiles = tiles
        self._records = records
        self._crash_points = crash_points
        self._clock = clock
        self._post = post
        self._find_refusal = find_refusal
        self._is_carried = is_carried
        self._report = report
        self._find_shortage = find_shortage
        self._find_providers = find_providers
        self._reach = reach
        self._in_thread = in_thread
        self.worker = make_worker(ground)
        self.record = ground.learner_record()
        self.device: DeviceReport | None = None
        self.tokens_per_second = 0.0
        self.step: tuple[int, int] | None = None  # of the round that is being learned
        self._dataset: Dataset | None = None
        self._evaluating = trio.CapacityLimiter(1)
        transport.set_request_handler(DELTA.protocol, self._take_deltas)

    # -- the worker -----------------------------------------------------------------------------------------------------

    async def wait_greeted(self) -> DeviceReport:
        """The device that the worker chose; raises ``Rejected(BAD_DEVICE)`` with the remedy."""
        reply = None
        with trio.move_on_after(GREETING_SECONDS_MAX):
            reply = await self.worker.wait_greeted()
        if not isinstance(reply, Ready):
            raise Rejected(
                Reason.BAD_DEVICE, reply.detail if reply else "the worker process did not start; see node.log"
            )
        self.device = reply.device
        return reply.device

    async def ensure_dataset(self) -> Dataset:
        """The shards of data set 0 on our disk, fetched from peers where missing, as files that the worker maps."""
        if self._dataset is not None:
            return self._dataset
        manifest = self._ground.genesis.datasets[0]
        waited = False
        while missing := await self._exchange.ensure_blobs(manifest.shards, await self._providers(), spread=True):
            if not waited:
                log.info("waiting for the data set", missing_shards=len(missing), of=len(manifest.shards))
                waited = True
            await trio.sleep(1.0)
        files = self._ground.disk.files
        paths = []
        for shard in manifest.shards:
            name = blob_file_name(shard)
            if is_inline(self._ground.blobs.size(shard) or 0):
                name = f"{LEARNER_FOLDER}/shard-{shard.hex()}"
                blob = self._ground.blobs.find(shard)
                if files.size(name) is None and blob is not None:
                    await self._in_thread(partial(files.write, name, [blob]))
            paths.append(self._ground.disk.path(name))
        self._dataset = Dataset(manifest.root(), tuple(paths))
        return self._dataset

    async def _providers(self) -> tuple[PeerId, ...]:
        """Who says in the distributed table that it holds the data set; connected to, if it can be."""
        return await self._find_providers(dataset_key(self._ground.genesis.datasets[0].root()))

    async def tile_files(self, bases: Sequence[tuple[TileId, Version]]) -> tuple[TileFile, ...]:
        """Files for the worker to map; raises ``Rejected(TILE_CORRUPT)`` for a version that is not here."""

        def find_files() -> tuple[TileFile, ...]:
            names = self._ground.work.ensure_files(bases)
            held = [self._ground.tiles.find(tile, version) for tile, version in bases]
            return tuple(
                TileFile(each.tile_id, each.version, each.root, self._ground.disk.path(name))
                for name, each in zip(names, held, strict=True)
                if each is not None
            )

        return await self._tiles.in_thread(find_files)

    # -- learning -------------------------------------------------------------------------------------------------------

    async def learn(self, request: StartLearning) -> None:
        """One round; posts LearnDone or LearnFailed."""
        why = ""
        for _ in range(LEARN_ATTEMPTS):
            try:
                await self._learn(request)
                return
            except Rejected as refusal:
                why = str(refusal)
                if refusal.reason is Reason.TILE_CORRUPT:
                    for tile, _ in request.bases:
                        await self._tiles.repair(tile)
            except (JobLost, JobTimedOut, JobError) as failure:
                why = str(failure)
            finally:
                self.step = None
            log.warning("learning failed", round=request.round, why=why)
        await self._post(LearnFailed(request.round, why))

    async def _learn(self, request: StartLearning) -> None:
        self._check_room()
        dataset = await self.ensure_dataset()
        settled = {*request.merged, *request.lost}
        disk = self._ground.disk
        job = Learn(
            round=request.round,
            learner=self._ground.peer,
            tiles=await self.tile_files(request.bases),
            dataset=dataset,
            held=(),
            state_path=disk.path(f"{LEARNER_FOLDER}/{self.record.state_file}") if self.record.state_file else "",
            output_folder=disk.path(LEARNER_FOLDER),
            withheld=request.withheld,
            lost=tuple(delta for name in request.lost if (delta := self._lost(name)) is not None),
        )
        started = self._clock.monotonic_ms()
        done = await self._run_learn(job)
        deltas = self._sign(request.round, done)
        elapsed = max(1, self._clock.monotonic_ms() - started)
        self.tokens_per_second = 1000 * done.tokens / elapsed
        previous = self.record
        outstanding = tuple(row for row in previous.outstanding if row.digest not in settled)
        self.record = LearnerRecord(
            round=request.round,
            state_file=Path(done.state_path).name,
            outstanding=outstanding + tuple(DeltaRow.of(delta) for delta in deltas),
            tokens_total=previous.tokens_total + done.tokens,
        )
        self._ground.store_learner(self.record)
        self._crash_points.reach("delta-journaled", request.round)
        record = self._records.of(request.round)
        values = sum(self._ground.work.tile_map.tile(TileId(delta.tile)).values for delta in done.deltas)
        record.delta_float32_bytes += 4 * values
        record.delta_payload_bytes += sum(self._ground.blobs.size(delta.digest) or 0 for delta in deltas)
        if previous.state_file and previous.state_file != self.record.state_file:
            disk.files.remove(f"{LEARNER_FOLDER}/{previous.state_file}")
        await self._post(LearnDone(request.round, deltas))

    async def _run_learn(self, job: Learn) -> WorkerLearnDone:
        """The worker's final answer, its progress noted on the way."""
        async with self.worker.stream(job) as replies:
            async for reply in replies:
                if isinstance(reply, Progress):
                    self.step = (reply.step, reply.steps)
                elif isinstance(reply, WorkerLearnDone):
                    return reply
        raise JobLost("the worker ended a round without an answer")

    def _check_room(self) -> None:
        """Refuse work that would write more than the disk allowance; raises ``Rejected(BUSY)``."""
        shortage = self._find_shortage()
        if shortage is not None:
            raise Rejected(Reason.BUSY, shortage)

    def _lost(self, name: Digest) -> TileDelta | None:
        """One of our earlier deltas, as the worker needs it to return it to the residual."""
        blob = self._ground.blobs.find(name)
        if blob is None:
            return None
        delta = decode(SignedDelta, bytes(blob), limit_bytes=FRAME_BYTES_MAX)
        return TileDelta(delta.tile, delta.base, delta.payload)

    def _sign(self, round_number: Round, done: WorkerLearnDone) -> tuple[Delta, ...]:
        """Sign and durably store the deltas of a round."""
        key = self._ground.keys.node
        encoded = []
        deltas = []
        for each in done.deltas:
            signed = sign_delta(
                SignedDelta(
                    tile=TileId(each.tile),
                    base=Version(each.base),
                    round=round_number,
                    learner=self._ground.peer,
                    tokens=done.tokens,
                    payload=each.payload,
                    signature=Signature(bytes(64)),
                ),
                key,
            )
            data = encode(signed)
            encoded.append(data)
            deltas.append(
                Delta(signed.tile, signed.base, signed.round, signed.learner, blob_digest(data), signed.tokens)
            )
        self._ground.blobs.put_many(encoded)
        return tuple(deltas)

    # -- delivering -----------------------------------------------------------------------------------------------------

    async def deliver(self, request: DeliverDeltas) -> None:
        """Give deltas to an owner; posts what became of them."""
        bundle: list[tuple[Digest, bytes]] = []
        size = 0
        for name in request.deltas:
            blob = self._ground.blobs.find(name)
            if blob is None:
                continue
            if bundle and size + len(blob) > BUNDLE_BYTES_MAX:
                await self._deliver(request.owner, bundle)
                bundle, size = [], 0
            bundle.append((name, bytes(blob)))
            size += len(blob)
        await self._deliver(request.owner, bundle)

    async def _deliver(self, owner: PeerId, bundle: Sequence[tuple[Digest, bytes]]) -> None:
        names = tuple(name for name, _ in bundle)
        receipt = await self._hand_over(owner, DeltaBundle(tuple(data for _, data in bundle)))
        if receipt is None:
            await self._post(DeliveryFailed(owner, names))
            return
        outcomes = list(zip(names, receipt.outcomes, strict=True))
        await self._post(
            DeltasDelivered(
                owner,
                accepted=tuple(name for name, outcome in outcomes if not outcome),
                refused=tuple((name, outcome) for name, outcome in outcomes if outcome),
            )
        )

    async def _hand_over(self, peer: PeerId, bundle: DeltaBundle) -> DeltaReceipt | None:
        """One bundle, and what an owner or aggregator says to it; None when it says nothing that makes sense."""
        await self._reach(peer)  # an aggregator need not be our neighbour
        try:
            data = await self._transport.request(
                peer,
                DELTA.protocol,
                encode(bundle),
                timeout_seconds=DELTA.timeout_seconds,
                response_bytes_max=DELTA.response_bytes_max,
            )
            receipt = decode(DeltaReceipt, data, limit_bytes=DELTA.response_bytes_max)
            if len(receipt.outcomes) != len(bundle.deltas) + len(bundle.carried):
                raise Rejected(Reason.MALFORMED, "a receipt for another bundle")
        except RequestFailed as failure:
            log.info("delivery failed", owner=peer[:4].hex(), why=failure.why)
            return None
        except Rejected as refusal:
            self._report(peer, refusal)
            return None
        return receipt

    async def ask_carried(self, request: AskCarried) -> None:
        """Ask an aggregator what became of deltas of ours; silence says that it has nothing for an owner."""
        receipt = await self._hand_over(request.aggregator, DeltaBundle((), request.deltas))
        outcomes = receipt.outcomes if receipt is not None else (Reason.NOT_FOUND.code,) * len(request.deltas)
        carried = tuple(name for name, outcome in zip(request.deltas, outcomes, strict=True) if not outcome)
        left = tuple(name for name in request.deltas if name not in carried)
        await self._post(CarriedTold(request.aggregator, carried, left))

    async def _take_deltas(self, peer: PeerId, data: bytes) -> bytes:
        """The side of the owner or aggregator: check, store durably, then acknowledge."""
        bundle = decode(DeltaBundle, data, limit_bytes=FRAME_BYTES_MAX)
        if bundle.deltas:
            self._check_room()
        outcomes: list[str] = []
        accepted: list[Delta] = []
        kept: list[bytes] = []
        for encoded in bundle.deltas:
            try:
                accepted.append(self._check_delta(encoded))
                kept.append(encoded)
                outcomes.append("")
            except Rejected as refusal:
                self._report(peer, refusal)
                outcomes.append(refusal.reason.code)
        try:
            self._keep(kept, accepted)
        except DatabaseCorrupt:
            raise
        except OSError as error:  # whoever gave them keeps them, and tries again
            raise Rejected(Reason.BUSY, f"this node's disk takes nothing: {error.strerror or error}") from None
        if accepted:
            await self._post(DeltasArrived(tuple(accepted)))
        outcomes += ["" if self._is_carried(name) else Reason.NOT_FOUND.code for name in bundle.carried]
        return encode(DeltaReceipt(tuple(outcomes)))

    def _keep(self, encoded: Sequence[bytes], deltas: Sequence[Delta]) -> None:
        """Durable on return: only then are they acknowledged."""
        self._ground.blobs.put_many(encoded)
        batch = Batch()
        self._ground.store_candidates(batch, deltas)
        if batch:
            self._ground.index.write(batch)

    def _check_delta(self, encoded: bytes) -> Delta:
        signed = decode(SignedDelta, encoded, limit_bytes=FRAME_BYTES_MAX)
        check_contributors(signed.contributors, signed.tokens)
        delta = Delta(
            signed.tile,
            signed.base,
            signed.round,
            signed.learner,
            blob_digest(encoded),
            signed.tokens,
            signed.contributors,
        )
        reason = self._find_refusal(delta)
        if reason is not None:
            raise Rejected(reason, f"{signed.tile} on version {signed.base}")
        if len(signed.payload) > payload_bytes_max(self._ground.work.tile_map.tile(signed.tile).values):
            raise Rejected(Reason.TOO_LARGE, f"a delta of {len(signed.payload)} bytes for {signed.tile}")
        check_delta_signature(signed)
        return delta

    # -- reading the model ----------------------------------------------------------------------------------------------

    async def evaluate(self, round_number: int) -> None:
        """Measure the newest tiles; the loss goes to the round's record."""
        if self._evaluating.available_tokens < 1:
            return  # the one before is still running: this machine is too slow for every round
        async with self._evaluating:
            try:
                dataset = await self.ensure_dataset()
                job = Evaluate(await self._newest(), dataset, self._ground.genesis.learning.validation_sequences)
                reply = await self.worker.call(job)
            except (Rejected, JobLost, JobTimedOut, JobError) as failure:
                log.warning("evaluation failed", round=round_number, why=str(failure))
                return
        if isinstance(reply, EvaluateDone):
            self._records.of(round_number).val_loss = reply.loss_micro / 1e6
            log.info("evaluated", round=round_number, val_loss=round(reply.loss_micro / 1e6, 4))

    async def _newest(self) -> tuple[TileFile, ...]:
        newest = [(tile, self._ground.tiles.newest(tile)) for tile in self._ground.work.tile_map.ids]
        return await self.tile_files([(tile, version) for tile, version in newest if version is not None])
