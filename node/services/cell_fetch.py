"""Asking others for manifests, tables and cells of blobs. What is to be asked whom is decided in ``storage/gathering.py``.

Everything that comes back is checked before anybody sees it: hashing takes milliseconds for each megabyte, so in a thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, Final, TypeVar, cast

import structlog
import trio

from node.clock import Clock
from node.kept_cells import KeptCells
from p2p.requests import CELLS
from p2p.transport import RequestFailed, Transport
from protocol.availability import AvailabilityClaim, AvailabilityVote
from protocol.cells import (
    AskToKeep,
    CellRequest,
    Cells,
    GetCells,
    GetLeaf,
    GetManifest,
    GetTables,
    KeepAnswer,
    Leaf,
    Manifest,
    Tables,
    cells_per_answer,
)
from protocol.codec import Message, decode, encode
from protocol.coded_tables import TileTable, check_table
from protocol.erasure import CheckedManifest, LeafProof, check_manifest
from protocol.ids import Digest, PeerId, short
from protocol.limits import FRAME_BYTES_MAX, TABLES_PER_REQUEST_MAX
from protocol.rejection import Reason, Rejected, check_invariant
from storage.custodians import Accuse, Fault, Started, Wake, Woken
from storage.erasure.tile import CheckedShard, check_shard
from storage.gathering import Agreement, Answered, AskCells, Have, TileGatherer, Unanswered
from storage.gathering import Concluded as Gathered
from storage.sampling.sampler import Absent, Arrived, AskCell, Fetched, TileSampler
from storage.sampling.sampler import Concluded as Sampled

log = structlog.get_logger()

Answer = TypeVar("Answer", bound=Message)

# For what others have as well: as long as a sample waits; two megabits a second bring a megabyte.
ELSEWHERE_SECONDS: Final = 4.0
_ANSWERS_WAITING_MAX: Final = 64  # more than there are questions


AtHand = Callable[[CheckedManifest, int, Sequence[int]], Awaitable[dict[int, CheckedShard]]]


class CellFetch:
    """One node's questions to others. ``at_hand`` answers those that it asks itself."""

    def __init__(
        self, transport: Transport, clock: Clock, cells: KeptCells, generator: Random, at_hand: AtHand
    ) -> None:
        self._transport = transport
        self._clock = clock
        self.in_thread = cells.in_thread
        self._generator = generator
        self.at_hand = at_hand
        self.silent: dict[PeerId, None] = {}  # who did not answer, and has not since
        self.fetched_bytes = self.sampled_bytes = 0  # of cells: to keep them or to read, and to look at them
        self.fetched_of: Counter[Digest] = Counter()  # the former, by blob

    async def ask_to_keep(self, peer: PeerId, claim: AvailabilityClaim, size_bytes: int) -> AvailabilityVote | None:
        """A member's vote; None while it has none. Raises ``RequestFailed``, ``Rejected``."""
        return (await self._ask(peer, AskToKeep(claim, size_bytes), KeepAnswer)).vote

    async def find_manifest(self, blob: Digest, peers: Iterable[PeerId]) -> CheckedManifest | None:
        """From the first who has it."""
        for peer in peers:
            answer = await self._try(peer, GetManifest(blob), Manifest, ELSEWHERE_SECONDS)
            if answer is None:
                continue
            try:
                return check_manifest(answer.data, blob)
            except Rejected as refusal:
                self._transport.report(peer, refusal)
                if refusal.reason is Reason.BAD_MANIFEST:
                    return None  # nobody has a better one
        return None

    async def find_tables(
        self, manifest: CheckedManifest, root: Digest, peers: Iterable[PeerId]
    ) -> tuple[TileTable, ...] | None:
        """The tables of all tiles, under the tables' root, from the first who has them all."""
        for peer in peers:
            found = await self._tables_of(peer, manifest, root)
            if found is not None:
                return found
        return None

    async def _tables_of(self, peer: PeerId, manifest: CheckedManifest, root: Digest) -> tuple[TileTable, ...] | None:
        found: list[TileTable] = []
        while len(found) < manifest.tile_count:
            tiles = tuple(range(len(found), min(manifest.tile_count, len(found) + TABLES_PER_REQUEST_MAX)))
            answer = await self._try(peer, GetTables(manifest.root, root, tiles), Tables, ELSEWHERE_SECONDS)
            if answer is None:
                return None
            try:
                for tile, table in zip(tiles, answer.tables, strict=False):
                    if table.tile != tile:
                        raise Rejected(Reason.BAD_PROOF, "another table than was asked for")
                    check_table(manifest, root, table)
                    found.append(table)
            except Rejected as refusal:
                self._transport.report(peer, refusal)
                return None
        return tuple(found)

    async def gather(
        self,
        manifest: CheckedManifest,
        tile: int,
        custodians: Mapping[int, Sequence[PeerId]],
        *,
        cells: Collection[int] | None = None,
        held: Collection[int] = (),
        agreement: Agreement | None = None,
    ) -> list[CheckedShard]:
        """Cells of a tile, as many as come: ``cells``, or any that rebuild it together with those that are ``held``."""
        machine = TileGatherer(manifest, tile, custodians, self._generator, cells=cells, held=held, agreement=agreement)
        async with trio.open_nursery() as nursery:
            conversation = _Conversation(self, manifest, machine, nursery)
            await conversation.until_concluded()
            nursery.cancel_scope.cancel()
        return conversation.found

    async def sample(
        self, manifest: CheckedManifest, tile: int, custodians: Mapping[int, Sequence[PeerId]]
    ) -> tuple[Sampled, list[Accuse]]:
        """Whether a tile is to be had, by a few cells of it; and who did not give one that it is to keep."""
        machine = TileSampler(manifest, tile, custodians, self._generator)
        async with trio.open_nursery() as nursery:
            conversation = _Conversation(self, manifest, machine, nursery)
            verdict = await conversation.until_concluded()
            nursery.cancel_scope.cancel()
        check_invariant(isinstance(verdict, Sampled), "a sampler ends with a sampler's verdict")
        return cast("Sampled", verdict), conversation.accused

    async def given(
        self, peer: PeerId, manifest: CheckedManifest, tile: int, cells: Sequence[int], *, rebuild: bool = False
    ) -> list[CheckedShard]:
        """What one peer gives of some cells. ``rebuild``: it is to make those again that it does not have."""
        found: list[CheckedShard] = []
        most = cells_per_answer(manifest, tile)
        for first in range(0, len(cells), most):
            asked = tuple(cells[first : first + most])
            patience_seconds = CELLS.timeout_seconds if rebuild else ELSEWHERE_SECONDS
            answer = await self._try(peer, GetCells(manifest.root, tile, asked, rebuild), Cells, patience_seconds)
            if answer is None:
                break
            try:
                found += await self._check(manifest, tile, asked, answer)
            except Rejected as refusal:
                self._transport.report(peer, refusal)
                break
            self._count(manifest, answer)
        return found

    async def find_leaf(self, peer: PeerId, request: GetLeaf) -> LeafProof | None:
        """The answer to an audit, not checked; None where there is none."""
        answer = await self._try(peer, request, Leaf)
        return answer.proof if answer is not None else None

    async def gather_cells(self, peer: PeerId, manifest: CheckedManifest, tile: int, cells: tuple[int, ...]) -> Cells:
        """One question for cells that are to be kept or read; as ``_ask_cells``."""
        answer = await self._ask_cells(peer, manifest, tile, cells)
        if peer != self._transport.peer_id:
            self._count(manifest, answer)
        return answer

    async def sample_cell(self, peer: PeerId, manifest: CheckedManifest, tile: int, cell: int) -> Cells:
        """One question for a cell that is only looked at; as ``_ask_cells``."""
        answer = await self._ask_cells(peer, manifest, tile, (cell,))
        if peer != self._transport.peer_id:
            self.sampled_bytes += _cell_bytes(answer)
        return answer

    async def _ask_cells(self, peer: PeerId, manifest: CheckedManifest, tile: int, cells: tuple[int, ...]) -> Cells:
        """Raises ``RequestFailed``, ``Rejected``. The answer is not checked. We may ask ourselves."""
        if peer == self._transport.peer_id:
            own = await self.at_hand(manifest, tile, cells)
            return Cells(tuple(own[cell].shard for cell in cells if cell in own))
        return await self._ask(peer, GetCells(manifest.root, tile, cells, False), Cells)

    async def _check(
        self, manifest: CheckedManifest, tile: int, asked: Sequence[int], answer: Cells
    ) -> list[CheckedShard]:
        def check() -> list[CheckedShard]:
            for shard in answer.shards:
                if shard.tile != tile or shard.cell not in asked:
                    raise Rejected(Reason.BAD_PROOF, "another cell than was asked for")
            return [check_shard(manifest, shard) for shard in answer.shards]

        return await self.in_thread(check)

    def forget_others(self, blobs: Container[Digest]) -> None:
        """Count no more what was fetched of other blobs."""
        for blob in [blob for blob in self.fetched_of if blob not in blobs]:
            del self.fetched_of[blob]

    def now_ms(self) -> int:
        return self._clock.monotonic_ms()

    def report(self, peer: PeerId, refusal: Rejected) -> None:
        self._transport.report(peer, refusal)

    def _count(self, manifest: CheckedManifest, answer: Cells) -> None:
        size_bytes = _cell_bytes(answer)
        self.fetched_bytes += size_bytes
        self.fetched_of[manifest.root] += size_bytes

    async def _try(
        self, peer: PeerId, request: CellRequest, kind: type[Answer], patience_seconds: float = CELLS.timeout_seconds
    ) -> Answer | None:
        """One question; None where there is no answer."""
        try:
            return await self._ask(peer, request, kind, patience_seconds)
        except RequestFailed:
            return None
        except Rejected as refusal:
            log.debug("no answer", peer=short(peer), why=str(refusal))
            return None

    async def _ask(
        self, peer: PeerId, request: CellRequest, kind: type[Answer], patience_seconds: float = CELLS.timeout_seconds
    ) -> Answer:
        """Raises ``RequestFailed``, ``Rejected``."""
        try:
            data = await self._transport.request(
                peer,
                CELLS.protocol,
                encode(request),
                timeout_seconds=patience_seconds,
                response_bytes_max=CELLS.response_bytes_max,
            )
        except RequestFailed:
            self.silent[peer] = None
            raise
        self.silent.pop(peer, None)
        try:
            return decode(kind, data, limit_bytes=FRAME_BYTES_MAX)
        except Rejected as refusal:
            self._transport.report(peer, refusal)
            raise


def _cell_bytes(answer: Cells) -> int:
    return sum(len(shard.data) for shard in answer.shards)


class _Conversation:
    """One gatherer or sampler between its questions and its clock, until it concludes."""

    def __init__(
        self, fetch: CellFetch, manifest: CheckedManifest, machine: TileGatherer | TileSampler, nursery: trio.Nursery
    ) -> None:
        self._fetch = fetch
        self._manifest = manifest
        self._machine = machine
        self._nursery = nursery
        self._say, self._events = trio.open_memory_channel[Any](_ANSWERS_WAITING_MAX)
        self._alarm: trio.CancelScope | None = None
        self.found: list[CheckedShard] = []
        self.accused: list[Accuse] = []

    async def until_concluded(self) -> Gathered | Sampled:
        event: Any = Started()
        while True:
            handle: Callable[[], Sequence[object]] = partial(self._machine.handle, event, self._fetch.now_ms())
            for effect in await self._fetch.in_thread(handle):  # it hashes what came
                if isinstance(effect, Gathered | Sampled):
                    return effect
                self._perform(effect)
            event = await self._events.receive()

    def _perform(self, effect: object) -> None:
        match effect:
            case AskCells(number, peer, tile, cells):
                self._nursery.start_soon(self._ask_many, number, peer, tile, cells)
            case AskCell(peer, tile, cell):
                self._nursery.start_soon(self._ask_one, peer, tile, cell)
            case Have(checked) | Fetched(checked):
                self.found.append(checked)
            case Wake(at_ms):
                self._nursery.start_soon(self._wake, at_ms)
            case Accuse(peer, cell, fault):
                self.accused.append(effect)
                log.info("a cell was not given", peer=short(peer), cell=cell, fault=fault.value)
                if fault is Fault.WRONG:
                    self._fetch.report(peer, Rejected(Reason.BAD_PROOF, f"cell {cell}"))

    async def _ask_many(self, number: int, peer: PeerId, tile: int, cells: tuple[int, ...]) -> None:
        try:
            answer = await self._fetch.gather_cells(peer, self._manifest, tile, cells)
        except RequestFailed:
            await self._say.send(Unanswered(number))
        except Rejected as refusal:
            await self._say.send(Unanswered(number, is_absent=refusal.reason is Reason.NOT_FOUND))
        else:
            await self._say.send(Answered(number, answer.shards))

    async def _ask_one(self, peer: PeerId, tile: int, cell: int) -> None:
        try:
            answer = await self._fetch.sample_cell(peer, self._manifest, tile, cell)
        except (RequestFailed, Rejected):
            await self._say.send(Absent(peer, cell))
        else:
            await self._say.send(Arrived(peer, cell, answer.shards[0]) if answer.shards else Absent(peer, cell))

    async def _wake(self, at_ms: int) -> None:
        """The last one counts: one that is overtaken is called back."""
        if self._alarm is not None:
            self._alarm.cancel()
        with trio.CancelScope() as self._alarm:
            await trio.sleep(max(0, at_ms - self._fetch.now_ms()) / 1000)
            await self._say.send(Woken())
