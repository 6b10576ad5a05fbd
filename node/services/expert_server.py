"""Computing experts for peers: rows in, rows out, on the worker of this node.

A caller says which versions of the expert's tiles it means, so that what comes back is what it would compute itself. Only the
two newest are computed: whoever follows the chain has them, and older ones would have to be made again for whoever asks. Calls
of peers wait for the worker in a queue that is short, and in which no peer has more than its part; whoever finds it full is
told so at once, and asks another holder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from compute.io.pool import JobError, JobLost, JobTimedOut
from compute.jobs import AnyJob, AnyReply, ComputeExpert, ExpertComputed, TileFile
from compute.model.layout import TRUNK
from compute.model.tiling import TileMap
from p2p.requests import EXPERT
from p2p.transport import Transport
from protocol.codec import decode, encode
from protocol.experts import CallExpert, ExpertCalled
from protocol.ids import PeerId, TileId, Version
from protocol.rejection import Reason, Rejected

CALLS_MAX: Final = 64  # that wait or are computed: a quarter of a second of small ones (a guess)
CALLS_PER_PEER_MAX: Final = 16  # a step of a caller's decoding calls a handful of experts at once
VERSIONS_SERVED: Final = 2


@dataclass(frozen=True, slots=True)
class ExpertStatistics:
    """Calls of peers: those that were answered since the start, with the bytes of their rows, and those under way."""

    served: int
    waiting: int
    given_bytes: int


class Computes(Protocol):
    """What is needed of a worker pool."""

    async def call(self, job: AnyJob, timeout_seconds: float = ...) -> AnyReply: ...


class ExpertServer:
    """One node's side of ``/nock/expert/1``."""

    def __init__(
        self,
        transport: Transport,
        tile_map: TileMap,
        newest: Callable[[TileId], Version | None],
        tile_files: Callable[[Sequence[tuple[TileId, Version]]], Awaitable[tuple[TileFile, ...]]],
        find_worker: Callable[[], Computes | None],
    ) -> None:
        """``find_worker``: None while this node computes nothing."""
        self._tile_map = tile_map
        self._newest = newest
        self._tile_files = tile_files
        self._find_worker = find_worker
        self._calls: Counter[PeerId] = Counter()  # that wait or are computed
        self._served = self._given_bytes = 0
        transport.set_request_handler(EXPERT.protocol, self.serve)

    async def serve(self, peer: PeerId, data: bytes) -> bytes:
        """The answer to one call; raises ``Rejected``."""
        request = decode(CallExpert, data, limit_bytes=EXPERT.request_bytes_max)
        bases = self._check(request)
        worker = self._find_worker()
        if worker is None:
            raise Rejected(Reason.BUSY, "this node computes nothing now")
        if self._calls.total() >= CALLS_MAX or self._calls[peer] >= CALLS_PER_PEER_MAX:
            raise Rejected(Reason.BUSY, f"{self._calls.total()} calls wait, {self._calls[peer]} of them yours")
        self._calls[peer] += 1
        try:
            rows = await self._compute(worker, request, bases)
        finally:
            self._calls[peer] -= 1
            self._calls += Counter()  # whoever waits for nothing is forgotten
        self._served += 1
        self._given_bytes += len(rows)
        return encode(ExpertCalled(rows))

    def statistics(self) -> ExpertStatistics:
        return ExpertStatistics(self._served, self._calls.total(), self._given_bytes)

    def _check(self, request: CallExpert) -> list[tuple[TileId, Version]]:
        """The tiles that are meant; raises ``Rejected``."""
        tiles = self._tile_map.group_tiles(request.expert)
        if not tiles or request.expert == TRUNK:
            raise Rejected(Reason.NOT_FOUND, f"this model has no expert {request.expert!r}")
        if len(tiles) != len(request.versions):
            raise Rejected(
                Reason.MALFORMED, f"{len(request.versions)} versions of the {len(tiles)} tiles of {request.expert}"
            )
        for tile, version in zip(tiles, request.versions, strict=True):
            newest = self._newest(tile.id)
            if newest is None or not newest - VERSIONS_SERVED < version <= newest:
                raise Rejected(Reason.NOT_FOUND, f"{tile.id} at version {version}; the newest here is {newest}")
        return [(tile.id, version) for tile, version in zip(tiles, request.versions, strict=True)]

    async def _compute(self, worker: Computes, request: CallExpert, bases: Sequence[tuple[TileId, Version]]) -> bytes:
        files = await self._tile_files(bases)
        if len(files) < len(bases):
            raise Rejected(Reason.NOT_FOUND, f"{request.expert} at these versions")
        job = ComputeExpert(files, request.expert, request.index, request.count, request.rows)
        try:
            reply = await worker.call(job, EXPERT.timeout_seconds)
        except Rejected as refusal:
            if refusal.reason is Reason.BAD_SHAPE:  # what the caller sent; a tile that is damaged is our affair
                raise Rejected(Reason.MALFORMED, refusal.detail) from None
            raise Rejected(Reason.BUSY, "this node's copy is being mended") from None
        except (JobLost, JobTimedOut, JobError):
            raise Rejected(Reason.BUSY, "this node's worker did not answer") from None
        if not isinstance(reply, ExpertComputed):
            raise Rejected(Reason.BUSY, "this node's worker did not answer")
        return reply.rows
