"""Merging, verifying and applying: the jobs that execution and rounds ask for, done in the tile thread.

    VerifyHeads   fetch updates, store them durably -> recompute roots -> HeadsVerified
    StartMerge    collect payloads -> merge -> store the update durably -> MergesDone
    StartAggregation  collect payloads -> merge -> sign, store with its row -> AggregationsDone
    Decide        fetch what is missing -> put the tile's next version -> TilesApplied; then fold what has become too long
    repair        a damaged tile -> make it again from what it rests on, or fetch the same version from peers

Jobs of one kind that wait together are done together: one request for many blobs, one pass of the thread. Each kind has
its own task, because an application must never wait for a verification whose update cannot be fetched. Neither must a
verification wait for another's update: neighbours give each other what they fetch, and would wait in circles.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import structlog
import trio

from consensus.events import (
    AggregationsDone,
    Delta,
    HeadsVerified,
    Merged,
    MergesDone,
    StartAggregation,
    StartMerge,
    TilesApplied,
)
from node.ground import Ground
from node.services.exchange import Exchange
from node.threads import InThread, in_thread
from node.tile_work import AggregateJob, MergeJob
from protocol.codec import decode, encode
from protocol.ids import Digest, Signature, TileId, Version
from protocol.learning import SignedDelta, sign_delta
from protocol.limits import FRAME_BYTES_MAX
from protocol.rejection import Reason, Rejected
from protocol.roster import Decided, Head
from storage.kv import Batch

log = structlog.get_logger()

T = TypeVar("T")
PostEvent = Callable[[HeadsVerified | MergesDone | AggregationsDone | TilesApplied], Awaitable[None]]
UPDATES_BEFORE_TILE = (
    8  # further behind than this, the tile itself costs less than its updates (each 10 to 16 times smaller)
)
RETRY_SECONDS = 1.0
PARENT_PATIENCE_SECONDS = 10.0
JOBS_MAX = 65_536  # that wait, of one kind; the engine asks for each head and slot once


class TileService:
    """Runs the tile thread of one node."""

    def __init__(
        self, ground: Ground, exchange_of: Callable[[], Exchange], post: PostEvent, in_thread: InThread = in_thread
    ) -> None:
        self._ground = ground
        self._in_thread = in_thread
        self._exchange_of = exchange_of
        self._post = post
        self._thread = trio.CapacityLimiter(1)
        self._fetch_in, self._fetch_out = trio.open_memory_channel[Sequence[Head]](JOBS_MAX)
        self._verify_in, self._verify_out = trio.open_memory_channel[Head](JOBS_MAX)
        self._merge_in, self._merge_out = trio.open_memory_channel[StartMerge](JOBS_MAX)
        self._aggregate_in, self._aggregate_out = trio.open_memory_channel[StartAggregation](JOBS_MAX)
        self._apply_in, self._apply_out = trio.open_memory_channel[Decided](JOBS_MAX)
        self._applied = trio.Condition()
        self._fetches = 0  # under way
        self.fetched_tiles = 0
        self.repaired_tiles = 0

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fetch_forever)
            nursery.start_soon(self._verify_forever)
            nursery.start_soon(self._merge_forever)
            nursery.start_soon(self._aggregate_forever)
            nursery.start_soon(self._apply_forever)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run ``work`` in the tile thread: the only place that may touch the tile store."""
        return await self._in_thread(work, self._thread)

    def waiting(self) -> dict[str, int]:
        """How many jobs of each kind wait."""
        channels: dict[str, trio.MemoryReceiveChannel[Any]] = {
            "verify": self._verify_out,
            "merge": self._merge_out,
            "aggregate": self._aggregate_out,
            "apply": self._apply_out,
        }
        waiting = {name: channel.statistics().current_buffer_used for name, channel in channels.items()}
        return {"fetch": self._fetches + self._fetch_out.statistics().current_buffer_used, **waiting}

    # -- what the reactor asks ------------------------------------------------------------------------------------------

    def verify(self, heads: Sequence[Head]) -> None:
        self._fetch_in.send_nowait(heads)

    def merge(self, request: StartMerge) -> None:
        self._merge_in.send_nowait(request)

    def aggregate(self, request: StartAggregation) -> None:
        self._aggregate_in.send_nowait(request)

    def apply(self, decided: Iterable[Decided]) -> None:
        for each in decided:
            self._apply_in.send_nowait(each)

    # -- verifying ------------------------------------------------------------------------------------------------------

    async def _fetch_forever(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._fetch, await self._fetch_out.receive())

    async def _fetch(self, heads: Sequence[Head]) -> None:
        """Had or not, they are looked at next."""
        self._fetches += 1
        await self._exchange_of().ensure_updates(heads)
        self._fetches -= 1
        for head in heads:
            self._verify_in.send_nowait(head)

    async def _verify_forever(self) -> None:
        while True:
            heads = await _take_all(self._verify_out)
            parents = {head.tile: Version(head.version - 1) for head in heads}
            with trio.move_on_after(PARENT_PATIENCE_SECONDS):
                await self._wait_applied(parents)
            ready = [(head, self._blob(head.update)) for head in heads]
            jobs = [(head, update) for head, update in ready if update is not None]
            verdicts = await self.in_thread(lambda: self._ground.work.verify(jobs))  # noqa: B023 - awaited here
            unavailable = {head.digest() for head in heads} - {head.digest() for head, _ in jobs}
            known = []
            for (head, _), verdict in zip(jobs, verdicts, strict=True):
                if verdict in (Reason.NOT_FOUND, Reason.TILE_CORRUPT):  # our own lack, not the head's fault
                    unavailable.add(head.digest())
                else:
                    known.append((head.digest(), verdict))
            await self._post(HeadsVerified(tuple(known), tuple(sorted(unavailable))))
            for tile, version in parents.items():
                await self._repair_if_damaged(tile, version)

    async def _wait_applied(self, parents: dict[TileId, Version]) -> None:
        """Wait until every parent is on disk: a head may be proposed while its parent is still being applied here."""
        async with self._applied:
            while any((self._ground.tiles.newest(tile) or 0) < version for tile, version in parents.items()):
                await self._applied.wait()

    def _blob(self, name: Digest) -> bytes | None:
        try:
            blob = self._ground.blobs.find(name)
        except Rejected:
            return None
        return None if blob is None else bytes(blob)

    # -- merging --------------------------------------------------------------------------------------------------------

    async def _merge_forever(self) -> None:
        while True:
            requests = await _take_all(self._merge_out)
            jobs, failed = [], []
            gone: list[Digest] = []
            for request in requests:
                payloads = [(reference, self._payload(reference.delta)) for reference in request.deltas]
                if missing := [reference.delta for reference, payload in payloads if payload is None]:
                    failed.append((request.slot, "a delta that was given to us is no longer on our disk"))
                    gone += missing
                    continue
                jobs.append(MergeJob(request.slot, tuple((ref, data) for ref, data in payloads if data is not None)))
            results = await self.in_thread(lambda: self._ground.work.merge(jobs))  # noqa: B023 - awaited here
            merged = [result for result in results if not result.why]
            names = self._ground.blobs.put_many(result.update for result in merged)
            asked = {request.slot: request for request in requests}
            # Not the deltas' fault but ours: the parent's file. The engine asks for the merge again as soon as it hears of it.
            troubled = [result for result in results if result.why and not result.unusable]
            for result in troubled:
                log.warning("merge failed", slot=str(result.slot), why=result.why)
                await self._repair_if_damaged(result.slot.tile, Version(result.slot.version - 1))
            if troubled:
                await trio.sleep(RETRY_SECONDS)
            await self._post(
                MergesDone(
                    merged=tuple(
                        Merged(
                            slot=result.slot,
                            attempt=asked[result.slot].attempt,
                            parent_root=asked[result.slot].parent_root,
                            root=result.root,
                            update=name,
                            update_bytes=len(result.update),
                            deltas=asked[result.slot].deltas,
                        )
                        for result, name in zip(merged, names, strict=True)
                    ),
                    failed=tuple(failed) + tuple((result.slot, result.why) for result in results if result.why),
                    unusable=(*gone, *(name for result in results for name in result.unusable)),
                )
            )

    def _payload(self, delta: Digest) -> bytes | None:
        data = self._blob(delta)
        return None if data is None else decode(SignedDelta, data, limit_bytes=FRAME_BYTES_MAX).payload

    # -- aggregating ----------------------------------------------------------------------------------------------------

    async def _aggregate_forever(self) -> None:
        while True:
            requests = await _take_all(self._aggregate_out)
            made: list[Delta] = []
            failed, unusable = [], []
            asked, jobs = [], []
            for request in requests:
                earlier = self._ground.find_aggregate(request.tile, request.base)
                if earlier is not None:  # before a crash: it may be known to others, and we never say another
                    made.append(earlier)
                    continue
                payloads = [(each, self._payload(each.delta)) for each in request.contributors]
                if missing := [each.delta for each, payload in payloads if payload is None]:
                    failed.append((request.tile, request.base))
                    unusable += missing
                    continue
                asked.append(request)
                jobs.append(
                    AggregateJob(request.tile, tuple((each, data) for each, data in payloads if data is not None))
                )
            results = await self.in_thread(lambda: self._ground.work.aggregate(jobs))  # noqa: B023 - awaited here
            signed = []
            for request, result in zip(asked, results, strict=True):
                if result.why:
                    log.warning("aggregation failed", tile=request.tile, why=result.why)
                    failed.append((request.tile, request.base))
                    unusable += result.unusable
                else:
                    signed.append(self._sign(request, result.payload))
            made += self._store_aggregates(signed)
            await self._post(AggregationsDone(tuple(made), tuple(failed), tuple(unusable)))

    def _sign(self, request: StartAggregation, payload: bytes) -> SignedDelta:
        unsigned = SignedDelta(
            tile=request.tile,
            base=request.base,
            round=request.round,
            learner=self._ground.peer,
            tokens=sum(each.weight for each in request.contributors),
            payload=payload,
            signature=Signature(bytes(64)),
            contributors=request.contributors,
        )
        return sign_delta(unsigned, self._ground.keys.node)

    def _store_aggregates(self, signed: Sequence[SignedDelta]) -> list[Delta]:
        """Bytes, then rows: what has a row is what we say for ever, and nobody has heard of it before."""
        names = self._ground.blobs.put_many(encode(each) for each in signed)
        deltas = [
            Delta(each.tile, each.base, each.round, each.learner, name, each.tokens, each.contributors)
            for each, name in zip(signed, names, strict=True)
        ]
        batch = Batch()
        self._ground.store_candidates(batch, deltas)
        if batch:
            self._ground.index.write(batch)
        return deltas

    # -- applying -------------------------------------------------------------------------------------------------------

    async def _apply_forever(self) -> None:
        while True:
            decided = await _take_all(self._apply_out)
            by_tile: dict[TileId, list[Decided]] = {}
            for each in decided:
                by_tile.setdefault(each.slot.tile, []).append(each)
            quick = [chain for chain in by_tile.values() if len(chain) <= UPDATES_BEFORE_TILE]
            await self._exchange_of().ensure_updates(each.head for chain in quick for each in chain)
            await self._apply_updates(quick)
            for tile, chain in by_tile.items():
                while not await self._bring_up(tile, chain):
                    log.warning(
                        "tile is behind", tile=tile, version=chain[-1].slot.version, why="nobody gives its bytes"
                    )
                    await trio.sleep(RETRY_SECONDS)
            async with self._applied:
                self._applied.notify_all()
            await self._post(TilesApplied(tuple(each.slot for each in decided)))
            for tile in by_tile:
                await self._fold(tile)

    async def _apply_updates(self, chains: Iterable[Sequence[Decided]]) -> None:
        """Apply, in one pass of the thread, every chain of updates that is complete here."""
        jobs: list[tuple[Head, bytes]] = []
        for chain in chains:
            held = self._ground.tiles.newest(chain[0].slot.tile)
            ahead = [each.head for each in chain if held is None or each.slot.version > held]
            updates = [(head, data) for head in ahead if (data := self._blob(head.update)) is not None]
            if updates and len(updates) == len(ahead) and held == ahead[0].version - 1:
                jobs += updates
        if not jobs:
            return
        try:
            await self.in_thread(lambda: self._ground.work.apply(jobs))
        except Rejected as refusal:  # a parent's file is damaged: those tiles are fetched whole
            log.warning("a tile file is damaged", why=str(refusal))

    async def _bring_up(self, tile: TileId, chain: Sequence[Decided]) -> bool:
        """Get a tile to the last head of ``chain``, if its updates did not: by fetching its file."""
        held = self._ground.tiles.newest(tile)
        return (held is not None and held >= chain[-1].slot.version) or await self._adopt(tile, chain[-1].head)

    async def _fold(self, tile: TileId) -> None:
        """One tile at a time, behind the round: nobody waits for its sync, and merges come in between."""
        try:
            trigger = await self.in_thread(lambda: self._ground.work.fold(tile))
        except Rejected as refusal:  # found now instead of when it is next used
            log.warning("a tile file is damaged", why=str(refusal))
            return
        if trigger is not None:
            log.debug("folded", tile=tile, trigger=trigger.value)

    async def _adopt(self, tile: TileId, head: Head) -> bool:
        file = await self._exchange_of().fetch_tile(tile, head.root, [head.proposer])
        if file is None:
            return False
        await self.in_thread(lambda: self._ground.work.adopt(tile, head.version, file, head.root))
        self.fetched_tiles += 1
        return True

    async def _derive(self, tile: TileId, head: Head) -> bool:
        """A tile's version again from the version before and the update, if both are here and whole."""
        update = self._blob(head.update)
        if update is None or self._ground.tiles.newest(tile) != head.version - 1:
            return False
        try:
            await self.in_thread(lambda: self._ground.work.apply([(head, update)]))
        except Rejected:
            return False
        return True

    # -- repairing ------------------------------------------------------------------------------------------------------

    async def _repair_if_damaged(self, tile: TileId, version: Version) -> None:
        """A version that should be held but is not, or no longer verifies, is fetched again."""
        if (self._ground.tiles.newest(tile) or Version(0)) > version or await self._is_whole(tile, version):
            return
        await self.repair(tile)

    async def repair(self, tile: TileId) -> bool:
        """Make the decided version of a tile whole again; nothing else of the node stops meanwhile."""
        at = self._ground.tile_heads()[tile]
        if await self._is_whole(tile, at.version):
            return True
        if at.head is None:
            await self.in_thread(self._ground.work.ensure_genesis)
        elif not (await self._derive(tile, at.head) or await self._adopt(tile, at.head)):
            return False
        self.repaired_tiles += 1
        log.warning("tile repaired", tile=tile, version=at.version)
        async with self._applied:
            self._applied.notify_all()
        return True

    async def is_newest_whole(self, tile: TileId) -> bool | None:
        """Whether all of the newest version verifies; None where none is held. A damaged one is put aside."""

        def look() -> bool | None:
            newest = self._ground.tiles.newest(tile)
            return None if newest is None else self._ground.work.is_whole(tile, newest)

        return await self.in_thread(look)

    async def _is_whole(self, tile: TileId, version: Version) -> bool:
        return await self.in_thread(lambda: self._ground.work.is_whole(tile, version))


async def _take_all(channel: trio.MemoryReceiveChannel[Any]) -> list[Any]:
    """The next thing, and whatever else waits behind it."""
    things = [await channel.receive()]
    while True:
        try:
            things.append(channel.receive_nowait())
        except trio.WouldBlock:
            return things
