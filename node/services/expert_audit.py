"""Computing experts with our own worker, from tiles whose roots the chain decided: what holders gave, or nobody is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from compute.io.pool import JobError, JobLost, JobTimedOut
from compute.jobs import ComputeExpert, ExpertComputed, ExpertPart, RowsWanted, TileFile
from compute.model.layout import expert_group
from compute.model.tiling import TileMap
from compute.spot_checks import find_deviation_micro
from node.services.expert_server import Computes
from p2p.requests import EXPERT
from protocol.experts import CallExpert
from protocol.ids import TileId, Version
from protocol.rejection import Reason, Rejected

log = structlog.get_logger()


class ExpertAudit:
    """What an expert makes of rows, as this node sees it."""

    def __init__(
        self,
        tile_map: TileMap,
        tile_files: Callable[[Sequence[tuple[TileId, Version]]], Awaitable[tuple[TileFile, ...]]],
        find_worker: Callable[[], Computes | None],
        width: int,
    ) -> None:
        """``width``: of a row."""
        self._tile_map = tile_map
        self._tile_files = tile_files
        self._find_worker = find_worker
        self._width = width

    async def find_deviation_micro(self, call: CallExpert, given: bytes) -> int | None:
        """How far off the answer to a call is; None where this node cannot compute it."""
        try:
            rows = await self._answer(call)
        except Rejected as failure:
            log.info("a holder's answer could not be computed again", expert=call.expert, why=str(failure))
            return None
        return find_deviation_micro(given, rows, self._width)

    async def compute(self, versions: Mapping[TileId, Version], wanted: RowsWanted) -> tuple[ExpertPart, ...]:
        """What the experts of a layer make of their rows, one after the other. Raises ``Rejected``."""
        parts = []
        for part in wanted.parts:
            name = expert_group(wanted.layer, part.expert)
            meant = tuple(versions[tile.id] for tile in self._tile_map.group_tiles(name))
            parts.append(ExpertPart(part.expert, await self._answer(CallExpert(name, 0, 1, meant, part.rows))))
        return tuple(parts)

    async def _answer(self, call: CallExpert) -> bytes:
        worker = self._find_worker()
        bases = [
            (tile.id, version)
            for tile, version in zip(self._tile_map.group_tiles(call.expert), call.versions, strict=True)
        ]
        if worker is None:
            raise Rejected(Reason.BUSY, "this node's worker is not there")
        files = await self._tile_files(bases)
        if len(files) < len(bases):
            raise Rejected(Reason.NOT_FOUND, f"{call.expert} at these versions")
        job = ComputeExpert(files, call.expert, call.index, call.count, call.rows)
        try:
            reply = await worker.call(job, EXPERT.timeout_seconds)
        except (JobLost, JobTimedOut, JobError) as failure:
            raise Rejected(Reason.BUSY, f"this node's worker did not go on: {failure}") from None
        if not isinstance(reply, ExpertComputed):
            raise Rejected(Reason.BUSY, "this node's worker did not answer")
        return reply.rows
