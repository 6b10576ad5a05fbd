"""Bytes between peers: serving what we hold, fetching what we lack, every piece verified before it is kept.

Whoever asks names bytes by digest, so it does not matter whom they come from: a peer that answers wrongly is reported and the
next one is asked. Tiles are fetched by root: first the page digests, which must lead to the root, then the pages, each
checked against its own digest, from several peers at once.

An update is wanted by everybody at the same time, and its proposer's line is thin. So one peer of a region fetches it from far
away, and each of the others asks a neighbour (consensus/regions.py). Who is fetching lets neighbours wait until it is done, for
some time after it began; two that have nothing by then cost the way to the proposer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog
import trio

from consensus.regions import Regions
from node.ground import Ground
from p2p.requests import BLOB, GENESIS, SYNC, RequestRule
from p2p.transport import RequestFailed, Transport
from protocol.codec import decode, encode
from protocol.digest import blob_digest
from protocol.epochs import is_boundary
from protocol.finality import Certificate, FinalizedBlock, Header
from protocol.ids import Digest, Height, PeerId, TileId, after
from protocol.learning import (
    BlobAnswer,
    BlobRequest,
    Blocks,
    GetBlobs,
    GetBlocks,
    GetTileLeaves,
    GetTilePages,
)
from protocol.limits import (
    BLOB_RANGE_BYTES_MAX,
    BLOBS_PER_REQUEST_MAX,
    FRAME_BYTES_MAX,
    KIB,
    PAGE_BYTES,
    SYNC_BLOCKS_PER_ANSWER_MAX,
)
from protocol.merkle import leaf_digest, merkle_root
from protocol.rejection import Reason, Rejected
from protocol.roster import Head
from storage.tensor_block import check_block
from storage.tile_format import CheckedTile, check_tile

log = structlog.get_logger()

DIGEST_BYTES = 32
PAGES_PER_REQUEST = 16  # 1 MiB: small enough that several peers share one tile
PARALLEL_PAGES = 4  # requests for one tile at once
RELAY_HEAD_START_SECONDS = 0.5  # a neighbour hears of a head as late as we do: gossip in a region takes less (a guess)
RELAY_PATIENCE_SECONDS = 20.0  # how long neighbours may wait for what we lack: a third of a request is left to send it
SYNC_BYTES_MAX = FRAME_BYTES_MAX - 64 * KIB

Report = Callable[[PeerId, Rejected], None]


@dataclass(frozen=True, slots=True)
class _Expected:
    """An update that we are fetching."""

    until: float  # neighbours wait no longer: whoever lets them wait anew each time stalls a region where nobody has it
    over: trio.Event = field(default_factory=trio.Event)


class Exchange:
    """One node's side of `blob`, `sync` and `genesis`."""

    def __init__(
        self,
        ground: Ground,
        transport: Transport,
        in_tile_thread: Callable[[Callable[[], CheckedTile]], Awaitable[CheckedTile]],
        report: Report,
        regions: Regions | None = None,
    ) -> None:
        self._ground = ground
        self._transport = transport
        self._in_tile_thread = in_tile_thread
        self._report = report
        self._regions = regions or Regions(transport.peer_id, "")
        self._expected: dict[Digest, _Expected] = {}  # until they are here or cannot be had
        self.fetched_bytes: Counter[PeerId] = (
            Counter()
        )  # what each peer's answers weighed; entries of connected peers matter
        # An older version may have to be made again, half a second of the tile thread: never two before the next merge.
        self._opening = trio.CapacityLimiter(1)
        self._unkept: Height | None = None  # the block that no connected peer keeps, once that was said
        transport.set_request_handler(GENESIS.protocol, self._serve_genesis)
        transport.set_request_handler(BLOB.protocol, self.serve_blob)
        transport.set_request_handler(SYNC.protocol, self._serve_sync)

    # -- serving --------------------------------------------------------------------------------------------------------

    async def _serve_genesis(self, peer: PeerId, data: bytes) -> bytes:
        return self._ground.genesis_bytes

    async def serve_blob(self, peer: PeerId, data: bytes) -> bytes:
        """The answer to one question; raises ``Rejected``."""
        request: BlobRequest = decode(BlobRequest, data, limit_bytes=BLOB.request_bytes_max)  # type: ignore[arg-type]  # a union
        match request:
            case GetBlobs():
                if self._regions.is_near(peer):
                    await self._wait_expected(request.digests)
                return encode(self._blobs(request.digests))
            case GetTileLeaves():
                tile = await self._open(TileId(request.tile), request.root)
                leaves = check_block(tile.memory).leaves()
                return encode(BlobAnswer((b"".join(leaves),), truncated=False))
            case GetTilePages():
                tile = await self._open(TileId(request.tile), request.root)
                block = check_block(tile.memory)
                last = min(request.first_page + min(request.page_count, PAGES_PER_REQUEST), block.shape.page_count)
                pages = (bytes(block.page(index)) for index in range(request.first_page, last))
                return encode(BlobAnswer(tuple(pages), truncated=False))
        raise Rejected(Reason.UNKNOWN_KIND, "blob request")

    async def _wait_expected(self, digests: Sequence[Digest]) -> None:
        """Until those that we fetch ourselves are here; not for ever."""
        for name in digests:
            if (expected := self._expected.get(name)) is not None and self._ground.blobs.size(name) is None:
                with trio.move_on_at(expected.until):
                    await expected.over.wait()

    def _blobs(self, digests: Sequence[Digest]) -> BlobAnswer:
        parts: list[bytes | None] = []
        room, truncated = BLOB_RANGE_BYTES_MAX, False
        for name in digests:
            size = self._ground.blobs.size(name)
            if size is None:
                parts.append(None)
            elif size > room and parts:
                parts.append(None)
                truncated = True
            else:
                blob = self._find(name)
                parts.append(None if blob is None else bytes(blob))
                room -= size
        return BlobAnswer(tuple(parts), truncated)

    def _find(self, name: Digest) -> memoryview | None:
        """A blob of ours; one that the disk changed is gone, and is fetched again by whoever needs it."""
        try:
            return self._ground.blobs.find(name)
        except Rejected:
            return None

    async def _open(self, tile: TileId, root: Digest) -> CheckedTile:
        """The held version of a tile with this root; raises ``Rejected(NOT_FOUND)``."""

        def open_tile() -> CheckedTile:
            for version in reversed(self._ground.tiles.versions(tile)):
                held = self._ground.tiles.find(tile, version)
                if held is not None and held.root == root:
                    return self._ground.tiles.open(tile, version)
            raise Rejected(Reason.NOT_FOUND, f"{tile} with root {root[:4].hex()}")

        async with self._opening:
            return await self._in_tile_thread(open_tile)

    async def _serve_sync(self, peer: PeerId, data: bytes) -> bytes:
        request = decode(GetBlocks, data, limit_bytes=SYNC.request_bytes_max)
        tip, oldest = self._ground.ledger.tip() or Height(0), self._ground.ledger.oldest() or Height(0)
        if request.first_height < oldest:
            raise Rejected(Reason.NOT_FOUND, f"blocks below {oldest} were pruned here")
        blocks: list[FinalizedBlock] = []
        size, certified = 0, 0
        last = min(request.first_height + min(request.count, SYNC_BLOCKS_PER_ANSWER_MAX) - 1, tip)
        height: int = request.first_height
        while height <= last:
            stored = self._ground.ledger.find(Height(height))
            if stored is None:
                break
            size += len(stored.header) + len(stored.body) + len(stored.certificate) + 64
            if size > SYNC_BYTES_MAX:
                break
            header = decode(Header, stored.header, limit_bytes=4 * KIB)
            if blocks and header.chain != blocks[-1].header.chain:
                break  # of the next fork, to whose certificates those before say nothing
            certificate = decode(Certificate, stored.certificate, limit_bytes=64 * KIB) if stored.certificate else None
            blocks.append(FinalizedBlock(header, stored.body, certificate))
            if certificate is not None:
                certified = len(blocks)
                if is_boundary(height, self._ground.genesis.chain.epoch_heights):
                    break  # certificates of one epoch say nothing to another: the asker goes on when it is there
            elif height == last and len(blocks) - certified < SYNC_BLOCKS_PER_ANSWER_MAX:
                last = min(last + 1, tip)  # an answer ends with a certificate
            height += 1
        return encode(Blocks(tuple(blocks[:certified][:SYNC_BLOCKS_PER_ANSWER_MAX]), tip))

    # -- fetching -------------------------------------------------------------------------------------------------------

    async def ask(self, peer: PeerId, rule: RequestRule, request: bytes) -> bytes | None:
        """One question to one peer; None when it cannot or will not answer."""
        try:
            return await self._get(peer, rule, request)
        except (RequestFailed, Rejected):
            return None

    async def _get(self, peer: PeerId, rule: RequestRule, request: bytes) -> bytes:
        """One question to one peer; raises ``RequestFailed`` when it cannot answer, ``Rejected`` when it will not."""
        answer = await self._transport.request(
            peer,
            rule.protocol,
            request,
            timeout_seconds=rule.timeout_seconds,
            response_bytes_max=rule.response_bytes_max,
        )
        self.fetched_bytes[peer] += len(answer)
        return answer

    def _sources(self, preferred: Iterable[PeerId]) -> list[PeerId]:
        """Connected peers to ask, the preferred ones first, then those of our region, then the others.

        They begin after our own id (``after``), so that the load of many askers is spread.
        """
        connected = self._transport.connected_peers()
        me = self._transport.peer_id
        ring = sorted(after(me, connected), key=lambda peer: not self._regions.is_near(peer))
        first = [peer for peer in dict.fromkeys(preferred) if peer in connected and peer != me]
        return [*first, *(peer for peer in ring if peer not in first)]

    async def fetch_spread(self, names: Iterable[Digest], preferred: Iterable[PeerId] = ()) -> dict[Digest, bytes]:
        """As ``fetch_blobs``, but from all peers at once, each asked for its share first: for a newcomer's downloads."""
        wanted, sources = list(dict.fromkeys(names)), self._sources(preferred)
        found: dict[Digest, bytes] = {}

        async def fetch_share(number: int, peer: PeerId) -> None:
            share = wanted[number :: len(sources)]
            found.update(await self.fetch_blobs(share, [peer]))

        async with trio.open_nursery() as nursery:
            for number, peer in enumerate(sources):
                nursery.start_soon(fetch_share, number, peer)
        return found

    async def fetch_blobs(self, names: Iterable[Digest], preferred: Iterable[PeerId] = ()) -> dict[Digest, bytes]:
        """As many of the named blobs as any connected peer gives, each with the digest of its name. Stores nothing."""
        missing = list(dict.fromkeys(names))
        found: dict[Digest, bytes] = {}
        for peer in self._sources(preferred):
            while missing:
                wanted = missing[:BLOBS_PER_REQUEST_MAX]
                data = await self.ask(peer, BLOB, encode(GetBlobs(tuple(wanted))))
                if data is None:
                    break
                try:
                    answer = decode(BlobAnswer, data, limit_bytes=FRAME_BYTES_MAX)
                    if len(answer.parts) != len(wanted):
                        raise Rejected(Reason.MALFORMED, f"{len(answer.parts)} parts for {len(wanted)} digests")
                    got = {name: part for name, part in zip(wanted, answer.parts, strict=True) if part is not None}
                    for name, part in got.items():
                        if blob_digest(part) != name:
                            raise Rejected(Reason.WRONG_DIGEST, f"blob {name[:4].hex()}")
                except Rejected as refusal:
                    self._report(peer, refusal)
                    break
                found.update(got)
                missing = [name for name in missing if name not in got]
                if not got or not answer.truncated:
                    break
            if not missing:
                break
        return found

    async def ensure_blobs(
        self, names: Iterable[Digest], preferred: Iterable[PeerId] = (), *, spread: bool = False
    ) -> set[Digest]:
        """Fetch and durably store those blobs that we lack; returns those that could not be had."""
        missing = [name for name in dict.fromkeys(names) if self._find(name) is None]
        if not missing:
            return set()
        found = await (self.fetch_spread if spread else self.fetch_blobs)(missing, preferred)
        self._ground.blobs.put_many(found.values())
        return {name for name in missing if name not in found}

    async def ensure_updates(self, heads: Iterable[Head]) -> set[Digest]:
        """As ``ensure_blobs``, for the updates of heads: a neighbour has them first, or is about to."""
        groups: dict[tuple[PeerId, ...], list[Head]] = {}
        for head in heads:
            if self._find(head.update) is None:
                groups.setdefault(self._find_sources(head), []).append(head)
        missing: set[Digest] = set()

        async def fetch(sources: tuple[PeerId, ...], group: list[Head]) -> None:
            missing.update(await self._ensure_group(sources, group))

        async with trio.open_nursery() as nursery:
            for sources, group in groups.items():
                nursery.start_soon(fetch, sources, group)
        return missing

    def _find_sources(self, head: Head) -> tuple[PeerId, ...]:
        """Neighbours to ask for a head's update before its proposer."""
        here = self._transport.connected_peers()
        return tuple(self._regions.find_sources(Digest(self._ground.network), head.tile, head.proposer, here))

    async def _ensure_group(self, sources: tuple[PeerId, ...], group: Sequence[Head]) -> set[Digest]:
        """The updates of heads that have the same sources."""
        names, proposers = [head.update for head in group], [head.proposer for head in group]
        until = trio.current_time() + RELAY_PATIENCE_SECONDS
        for name in names:
            self._expected.setdefault(name, _Expected(until))
        try:
            if sources:
                await trio.sleep(RELAY_HEAD_START_SECONDS)
            return await self.ensure_blobs(names, [*sources, *proposers])
        finally:
            for name in names:
                if (expected := self._expected.pop(name, None)) is not None:
                    expected.over.set()

    async def fetch_tile(self, tile: TileId, root: Digest, preferred: Iterable[PeerId] = ()) -> bytes | None:
        """A tile's file by its root, verified page by page, from several peers; None when nobody has it all."""
        sources = self._sources(preferred)
        leaves = await self._fetch_leaves(tile, root, sources)
        if leaves is None:
            return None
        pages: list[bytes | None] = [None] * len(leaves)
        for attempt in range(len(sources)):
            runs = [
                first
                for first in range(0, len(leaves), PAGES_PER_REQUEST)
                if any(page is None for page in pages[first : first + PAGES_PER_REQUEST])
            ]
            if not runs:
                break
            limiter = trio.CapacityLimiter(PARALLEL_PAGES)
            async with trio.open_nursery() as nursery:
                for number, first in enumerate(runs):
                    peer = sources[(number + attempt) % len(sources)]
                    nursery.start_soon(self._fetch_pages, peer, tile, root, first, leaves, pages, limiter)
        if any(page is None for page in pages):
            return None
        file = b"".join(page for page in pages if page is not None) + root + b"".join(leaves)
        check_tile(tile, memoryview(file), root)
        return file

    async def _fetch_leaves(self, tile: TileId, root: Digest, sources: Iterable[PeerId]) -> list[Digest] | None:
        for peer in sources:
            data = await self.ask(peer, BLOB, encode(GetTileLeaves(tile, root)))
            if data is None:
                continue
            try:
                answer = decode(BlobAnswer, data, limit_bytes=FRAME_BYTES_MAX)
                raw = answer.parts[0] if answer.parts else None
                if not raw or len(raw) % DIGEST_BYTES:
                    raise Rejected(Reason.BAD_PROOF, f"leaves of {tile}")
                leaves = [Digest(raw[at : at + DIGEST_BYTES]) for at in range(0, len(raw), DIGEST_BYTES)]
                if merkle_root(leaves) != root:
                    raise Rejected(Reason.BAD_PROOF, f"leaves of {tile}")
            except Rejected as refusal:
                self._report(peer, refusal)
                continue
            return leaves
        return None

    async def _fetch_pages(
        self,
        peer: PeerId,
        tile: TileId,
        root: Digest,
        first: int,
        leaves: Sequence[Digest],
        pages: list[bytes | None],
        limiter: trio.CapacityLimiter,
    ) -> None:
        count = min(PAGES_PER_REQUEST, len(leaves) - first)
        async with limiter:
            data = await self.ask(peer, BLOB, encode(GetTilePages(tile, root, first, count)))
        if data is None:
            return
        try:
            answer = decode(BlobAnswer, data, limit_bytes=FRAME_BYTES_MAX)
            for index, page in enumerate(answer.parts[:count], first):
                if page is None or len(page) > PAGE_BYTES or leaf_digest(page) != leaves[index]:
                    raise Rejected(Reason.WRONG_DIGEST, f"page {index} of {tile}")
                pages[index] = page
        except Rejected as refusal:
            self._report(peer, refusal)

    def is_pruned(self, height: Height) -> bool:
        """Whether all who answered said that they no longer keep a block."""
        return self._unkept == height

    async def fetch_blocks(
        self, first_height: Height, preferred: Iterable[PeerId] = ()
    ) -> tuple[Blocks, PeerId] | None:
        """Finalized blocks from a height upwards, unchecked, and who gave them; None when nobody has one.

        Peers that pruned it refuse, and the next one is asked. Where all that answer did, this node cannot catch up.
        """
        request = encode(GetBlocks(first_height, SYNC_BLOCKS_PER_ANSWER_MAX))
        pruned = 0
        for peer in self._sources(preferred):
            try:
                data = await self._get(peer, SYNC, request)
            except RequestFailed:
                continue
            except Rejected as refusal:
                pruned += refusal.reason is Reason.NOT_FOUND
                continue
            try:
                answer = decode(Blocks, data, limit_bytes=FRAME_BYTES_MAX)
            except Rejected as refusal:
                self._report(peer, refusal)
                continue
            if answer.blocks:
                return answer, peer
        if pruned and not self.is_pruned(first_height):
            self._unkept = first_height
            log.warning("no connected peer keeps the next block any more", height=first_height, pruned_by=pruned)
        return None
