"""Answering what others ask of coded blobs: from what is kept here, what we offer, and what was coded or rebuilt lately."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from node.kept_cells import Custody, KeptCells
from node.services.keep_author import KeepAuthor
from node.services.keep_holder import KeepHolder
from node.services.keep_upkeep import KeepUpkeep
from p2p.requests import CELLS
from p2p.transport import Transport
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
from protocol.erasure import CheckedManifest
from protocol.ids import Digest, PeerId
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster
from storage.erasure.tile import prove_leaf


class CellServer:
    """One node's side of ``/nock/cells/1``."""

    def __init__(
        self,
        cells: KeptCells,
        transport: Transport,
        roster: Callable[[], Roster],
        author: KeepAuthor,
        holder: KeepHolder,
        upkeep: KeepUpkeep,
    ) -> None:
        self._cells = cells
        self._roster = roster
        self._author = author
        self._holder = holder
        self._upkeep = upkeep
        self.given_bytes = 0  # of cells
        transport.set_request_handler(CELLS.protocol, self.serve)

    async def serve(self, peer: PeerId, data: bytes) -> bytes:
        """The answer to one question; raises ``Rejected``."""
        request: CellRequest = decode(CellRequest, data, limit_bytes=CELLS.request_bytes_max)  # type: ignore[arg-type]  # a union
        return encode(await self._answer(peer, request))

    async def _answer(self, peer: PeerId, request: CellRequest) -> Message:
        match request:
            case GetManifest(blob):
                return Manifest(encode(self._find_manifest(blob).manifest))
            case GetTables(blob, tables_root, tiles):
                return await self._tables(blob, tables_root, tiles)
            case GetCells(blob, tile, cells, rebuild):
                return await self._give(peer, self._find_manifest(blob), tile, cells, rebuild)
            case GetLeaf():
                return await self._show(request)
            case AskToKeep(claim, size_bytes):
                return KeepAnswer(self._holder.consider(peer, claim, size_bytes))

    def _find_manifest(self, blob: Digest) -> CheckedManifest:
        offer = self._author.find(blob)
        found = offer.manifest if offer is not None else self._cells.store.find_manifest(blob)
        if found is None:
            raise Rejected(Reason.NOT_FOUND, f"blob {blob.hex()[:16]}")
        return found

    async def _tables(self, blob: Digest, tables_root: Digest, tiles: Sequence[int]) -> Tables:
        offer = self._author.find(blob)
        if offer is not None and offer.claim.tables == tables_root:
            found = [offer.tables[tile] for tile in tiles if tile < len(offer.tables)]
        else:
            find = self._cells.store.find_table
            looked = await self._cells.in_thread(lambda: [find(blob, tables_root, tile) for tile in tiles])
            found = [table for table in looked if table is not None]
        if not found:
            raise Rejected(Reason.NOT_FOUND, f"tables of blob {blob.hex()[:16]}")
        return Tables(tuple(found))

    async def _give(
        self, peer: PeerId, manifest: CheckedManifest, tile: int, cells: Sequence[int], rebuild: bool
    ) -> Cells:
        if tile >= manifest.tile_count:
            raise Rejected(Reason.NOT_FOUND, f"tile {tile} of {manifest.tile_count}")
        chosen = [cell for cell in cells if cell < manifest.geometry.cells][: cells_per_answer(manifest, tile)]
        found = await self._upkeep.at_hand(manifest, tile, chosen)
        lost = [cell for cell in chosen if cell not in found]
        custody = self._upkeep.find_custody(manifest) if lost else None
        if custody is not None and rebuild and self._are_its_own(peer, custody, tile, lost):
            coded = await self._upkeep.rebuild(custody, tile)
            if coded is not None:
                found.update({cell: coded.checked(cell) for cell in lost})
        shards = tuple(found[cell].shard for cell in chosen if cell in found)
        self.given_bytes += sum(len(shard.data) for shard in shards)
        return Cells(shards)

    def _are_its_own(self, peer: PeerId, custody: Custody, tile: int, cells: Sequence[int]) -> bool:
        """Rebuilding costs 64 cells: it is done for members that lack what is theirs, and for nobody else."""
        roster = self._roster()
        return roster.find_index(peer) is not None and set(cells) <= set(custody.duty(peer, roster, tile))

    async def _show(self, request: GetLeaf) -> Leaf:
        """The answer to an audit."""

        def prove() -> Leaf | None:
            checked = self._cells.store.find(request.blob, request.tile, request.cell)
            return None if checked is None else Leaf(prove_leaf(checked, request.leaf))

        try:
            found = await self._cells.in_thread(prove)
        except IndexError:
            found = None
        if found is None:
            self._upkeep.doubt(request.blob)
            raise Rejected(Reason.NOT_FOUND, f"leaf {request.leaf} of cell {request.cell} of tile {request.tile}")
        return found
