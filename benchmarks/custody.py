"""Custody: four of thirteen real nodes die with their disks, and nothing that the network keeps is lost.

Thirteen members, each an operating-system process with its own directory, of which a few learn a small model. When one epoch
has every tile and a state on the record, and every member holds its cells, four die by kill -9 and their directories are
emptied but for keys, genesis and configuration: what an operator has a copy of. Then

    read      every blob that was on the record is read through the survivors, bit by bit as it was read before, and is what its
              subject says: a tile of that root, a state that the genesis proves
    liveness  the survivors decide blocks all the while
    repair    the four start again on empty disks, and at the end every node holds exactly the cells that are its own, each
              checked on its disk up to the blob's root
    bytes     cells that anybody fetched from the restart to that moment, beside the floor

Two things stand beside the bytes. What a repair takes that is done tile by tile: every cell that a node is to hold and does
not is moved once, and a tile of which somebody lacks a cell that nobody holds takes as many more as rebuild it, once. And the
floor, below which none goes that has only cells: whoever lacks many of a tile fetches no more than rebuild it, and makes the
rest. A node that remembers a tile coded whole needs no cells and beats it; so small a model is remembered whole by somebody.
Where an epoch ends meanwhile, what changes hands at its end is in all of them.
"""

from __future__ import annotations

import hashlib
import io
import random
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import click
import httpx
import msgspec
import trio

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, find_median, report, say, standard_options
from benchmarks.common.trial import conclude_trial, trial_folder, trial_settings
from consensus.custody import TileRing, ring_order, ring_parts
from node.checkpoint_file import read_checkpoint
from node.config import load_settings
from node.genesis_file import read_genesis
from node.ground import open_ground
from protocol.erasure import CheckedManifest
from protocol.genesis import Genesis
from protocol.ids import Digest, MemberIndex
from protocol.rejection import Rejected
from simnet.options import PEERS_MAX, Settings
from simnet.processes import ChildFailed, Fleet
from storage.tile_format import check_tile

ROUND_SECONDS: Final = 6.0  # the deadline
LEARNERS: Final = 2  # a worker is another process, and a machine has two cores
COPIED: Final = ("keys", "genesis.bin", "config.toml")  # what an operator has elsewhere
POLL_SECONDS: Final = 0.5
SILENCE_SECONDS_MAX: Final = 60.0  # a node that does not answer for so long on its own interface hangs
READ_SECONDS_MAX: Final = 60.0  # of one tile: others are asked for it
RETURN_SECONDS_MAX: Final = 300.0  # from a start until the node follows the chain
PATIENCE_EPOCHS: Final = 6  # until everything is on the record, and until everything is whole
EPOCH_SECONDS_MAX: Final = 600.0
BLOCKS_MEANWHILE: Final = 4  # at least, that the survivors decide before the others come back
GAP_SECONDS_MAX: Final = 60.0  # for each: a view whose leader is dead costs three, and several follow each other
QUICK: Final = (4, 1, 40)  # peers, victims, heights of an epoch
TROUBLES: Final = (httpx.HTTPError, msgspec.DecodeError)

NETWORK: Final = """\
name = "custodynet"
model = "model.toml"
tile_bytes = 16384

[learning]
inner_steps = 2
batch_sequences = 2
learning_rate = 0.005
round_seconds = {round_seconds}
validation_sequences = 8

[chain]
view_delta_ms = 1000
block_interval_ms_min = {interval_ms}
idle_interval_ms = {interval_ms}
epoch_heights = {epoch_heights}
"""


class Failed(Exception):
    """Going on is pointless."""


# -- what is kept --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """A blob on the record; ``beacons`` give its cells to holders, one for each epoch in which it was certified.

    ``digest``: SHA-256 of its bytes as they were first read.
    """

    what: str
    blob: Digest
    size_bytes: int
    tiles: int
    epoch: int
    beacons: tuple[Digest, ...]
    subject: Mapping[str, Any]
    digest: bytes = b""

    @property
    def is_state(self) -> bool:
        return "state_root" in self.subject


def by_blob(record: Sequence[Kept]) -> list[Kept]:
    """Each blob once: of bytes that are on the record more than once the first counts, with the beacons of all."""
    found: dict[Digest, Kept] = {}
    for kept in sorted(record, key=lambda each: each.epoch):
        first = found.get(kept.blob, kept)
        found[kept.blob] = replace(first, beacons=tuple(dict.fromkeys((*first.beacons, *kept.beacons))))
    return list(found.values())


def check_subject(kept: Kept, data: bytes, genesis: Genesis) -> None:
    """Whether a blob's bytes are what its record says that they are. Raises ``Rejected``, and ``Failed``."""
    if len(data) != kept.size_bytes:
        raise Failed(f"{kept.what}: {len(data)} bytes, {kept.size_bytes} are on the record")
    if not kept.is_state:
        check_tile(kept.subject["tile"], memoryview(data), Digest(bytes.fromhex(kept.subject["root"]))).verify()
        return
    head, parts = read_checkpoint(io.BytesIO(data), genesis, int(time.time() * 1000))
    for _ in parts:
        pass
    header = head.manifest.block.header
    if (header.height, header.state_root.hex()) != (kept.subject["height"], kept.subject["state_root"]):
        raise Failed(f"{kept.what}: the state of height {header.height}")


@dataclass(frozen=True, slots=True)
class Ring:
    """A roster, as far as custody goes: who keeps how much."""

    nodes: tuple[str, ...]
    weights: tuple[int, ...]

    def duties(self, beacons: Sequence[Digest], tile_root: Digest, cells: int) -> dict[str, frozenset[int]]:
        """What each node keeps of a tile."""
        parts = ring_parts(self.weights, cells)
        rings = [TileRing(ring_order(beacon, tile_root, cells), parts) for beacon in beacons]
        return {
            node: frozenset(cell for ring in rings for cell in ring.cells_of(MemberIndex(index)))
            for index, node in enumerate(self.nodes)
        }


@dataclass(slots=True)
class Floor:
    """What must be moved at the least, by the rings."""

    lost_cells: int = 0  # of the dead
    lost_bytes: int = 0
    bytes: int = 0
    by_tile_bytes: int = 0  # every cell that somebody is to have and has not, and one rebuild where nobody has it
    rebuilt_tiles: int = 0  # with a cell that somebody is to have and nobody has


def add_floor(
    floor: Floor,
    kept: Kept,
    tile: int,
    manifest: CheckedManifest,
    rings: Mapping[int, Ring],
    victims: Sequence[str],
    died: int,
    returned: int,
    whole: int,
) -> None:
    """Add one tile: dead in the epoch ``died``, back in ``returned``, whole again in ``whole``.

    A node holds what the rings of an epoch and of the one before give it, as far as the blob was on the record then.
    """
    cells, cell_bytes = manifest.geometry.cells, manifest.cell_bytes(tile)
    duties = {
        epoch: rings[epoch].duties(kept.beacons, manifest.tile_root(tile), cells)
        for epoch in range(max(kept.epoch, died - 1), whole + 1)
    }
    nodes = rings[whole].nodes
    held = {node: duties[died][node] | duties.get(died - 1, {}).get(node, frozenset()) for node in nodes}
    floor.lost_cells += sum(len(duties[died][node]) for node in victims)
    floor.lost_bytes += cell_bytes * sum(len(duties[died][node]) for node in victims)
    for node in victims:
        held[node] = frozenset()
    for epoch in range(died + 1, returned + 1):  # handed over before anybody counts
        for node in nodes:
            if node not in victims:
                held[node] = duties[epoch][node] | (held[node] & duties[epoch - 1][node])
    for epoch in range(returned, whole + 1):
        there = frozenset().union(*held.values())
        wanted = {node: duties[epoch][node] - held[node] for node in nodes}
        is_lost = not frozenset().union(*wanted.values()) <= there
        count, least = fewest_cells(wanted, held, manifest.geometry.data_cells, is_lost=is_lost)
        floor.bytes += cell_bytes * least
        floor.by_tile_bytes += cell_bytes * (count + is_lost * manifest.geometry.data_cells)
        floor.rebuilt_tiles += is_lost
        before = duties.get(epoch - 1, {})
        held = {node: duties[epoch][node] | (held[node] & before.get(node, frozenset())) for node in nodes}


def fewest_cells(
    wanted: Mapping[str, frozenset[int]], held: Mapping[str, frozenset[int]], data_cells: int, *, is_lost: bool
) -> tuple[int, int]:
    """Cells of a tile that are wanted, and how many must be moved: each, or to some nodes only what rebuilds the tile.

    ``is_lost``: something that is wanted nobody holds, so that somebody rebuilds the tile, wherever that costs least.
    """
    rebuilding = {node: max(0, data_cells - len(held[node])) for node in wanted}
    least = {node: min(len(cells), rebuilding[node]) for node, cells in wanted.items()}
    extra = min(rebuilding[node] - least[node] for node in wanted) if is_lost else 0
    return sum(map(len, wanted.values())), sum(least.values()) + extra


# -- the trial -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Seen:
    """What came of it, as far as it came."""

    kept: list[Kept] = field(default_factory=list)
    floor: Floor = field(default_factory=Floor)
    read_back: int = 0  # blobs, bit-identical, while the dead were away
    read_by_the_returned: int = 0
    read_ms: list[float] = field(default_factory=list)  # of each tile, while they were away
    blocks_meanwhile: int = 0
    gap_seconds: float = 0.0
    away_seconds: float = 0.0
    whole_seconds: float | None = None
    fetched_bytes: int = 0
    fetched_by_the_dead_bytes: int = 0
    rebuilt_tiles: int = 0
    faults: int = 0
    cells_checked: int = 0
    epochs: tuple[int, int, int] = (0, 0, 0)  # in which they died, came back, were whole


class Trial:
    """One network, its loss, and what was seen."""

    def __init__(self, fleet: Fleet, settings: Settings, victims: int, seed: int, tell: Callable[[str], None]) -> None:
        self._fleet, self._settings, self._tell = fleet, settings, tell
        generator = random.Random(seed)
        # Whom the others called first stays, because their configuration says where it is; it also learns.
        self.victims = sorted(generator.sample(range(1, settings.peers), victims))
        self._client = httpx.AsyncClient(timeout=10.0, trust_env=False)
        self._names: dict[int, str] = {}
        self._rings: dict[int, Ring] = {}
        self._genesis: Genesis | None = None
        self.seen = Seen()
        self.problems: list[str] = []

    @property
    def genesis(self) -> Genesis:
        if self._genesis is None:
            self._genesis = read_genesis(self._settings.data_directory(0) / "genesis.bin")
        return self._genesis

    async def run(self) -> None:
        """Everything; raises ``Failed``, ``Rejected`` and ``ChildFailed``."""
        await self._found()
        await self._wait_kept()
        survivors = [index for index in range(self._settings.peers) if index not in self.victims]
        async with trio.open_nursery() as nursery:
            died = await self._lose()
            began = trio.current_time()
            first = await self._height(0)
            nursery.start_soon(self._watch_blocks)
            await self._read_again(survivors)
            self.seen.blocks_meanwhile = await self._wait_blocks(first)
            before = {index: await self._kept(index) for index in survivors}
            returned = await self._return()
            self.seen.away_seconds = trio.current_time() - began
            whole = await self._wait_whole()
            nursery.cancel_scope.cancel()
        self.seen.epochs = (died, returned, whole)
        await self._count(before)
        await self._read_by_the_returned()
        await self._client.aclose()
        self._fleet.stop_nodes()
        self._tell("stopped; reading every disk")
        for index in range(self._settings.peers):
            await trio.to_thread.run_sync(self._check_disk, index, whole)

    # -- starting -------------------------------------------------------------------------------------------------------

    async def _found(self) -> None:
        settings, fleet = self._settings, self._fleet
        members: list[str] = []
        for index in range(1, settings.peers):
            made = await fleet.run_command("keys", "new", "--data-dir", str(settings.data_directory(index)))
            members += ["--member", str(made["member"])]
        made = await fleet.run_command(
            *("init", "--new", "--network", str(settings.network), "--corpus", str(settings.corpus)),
            *members,
            *("--data-dir", str(settings.data_directory(0))),
        )
        await fleet.wait_ready(self._start(0))
        for index in range(1, settings.peers):
            directory = str(settings.data_directory(index))
            await fleet.run_command(
                "init", "--join", self._address(0), "--network-id", str(made["network_id"]), "--data-dir", directory
            )
        for index in range(1, settings.peers):
            await fleet.wait_ready(self._start(index))
        for index in range(settings.peers):
            self._names[index] = (await self._wait_following(index))["peer"]
        self._tell(f"{settings.peers} nodes are up")

    def _start(self, index: int) -> Any:
        others = [self._address(other) for other, node in sorted(self._fleet.nodes.items()) if node.api is not None]
        return self._fleet.start_node(index, others, [] if index < LEARNERS else ["--no-learn"])

    def _address(self, index: int) -> str:
        api = self._fleet.nodes[index].api
        if api is None:
            raise Failed(f"peer {index} is not up")
        return api.addresses[0]

    async def _wait_following(self, index: int) -> dict[str, Any]:
        """Wait until a node has caught up and knows everybody."""
        deadline = trio.current_time() + RETURN_SECONDS_MAX
        while True:
            status = await self._get(index, "/status")
            if status["state"] not in ("booting", "syncing") and status["reachable"] == self._settings.peers:
                return dict(status)
            if trio.current_time() > deadline:
                raise Failed(f"peer {index} does not follow: {status['state']}, {status['detail']}")
            await trio.sleep(POLL_SECONDS)

    # -- what is on the record ------------------------------------------------------------------------------------------

    async def _wait_kept(self) -> None:
        """Until one epoch has every tile and a state on the record, and no member lacks a cell of it; then read it all."""
        tiles = {tile["tile"] for tile in await self._get(0, "/tiles")}
        deadline = trio.current_time() + PATIENCE_EPOCHS * EPOCH_SECONDS_MAX
        said = -1
        while True:
            epoch = await self._note_ring()
            on_record = await self._record()
            now = [kept for kept in on_record if kept.epoch == epoch]
            roots = {tile["tile"]: tile["root"] for tile in await self._get(0, "/tiles")}
            fresh = {kept.subject["tile"] for kept in now if not kept.is_state}
            # What does not change is not kept again in each epoch.
            names = {each.subject["tile"]: each.subject["root"] for each in on_record if not each.is_state}
            fresh |= {tile for tile, root in names.items() if roots.get(tile) == root}
            if epoch > said:
                said = epoch
                self._tell(f"epoch {epoch}: {len(on_record)} blobs are on the record")
            if tiles == fresh and any(kept.is_state for kept in now) and await self._are_whole(on_record, epoch):
                break
            if trio.current_time() > deadline:
                raise Failed(f"epoch {epoch}: {len(fresh)} of {len(tiles)} tiles are on the record")
            await trio.sleep(POLL_SECONDS)
        blobs = by_blob(on_record)
        self._tell(f"all {len(tiles)} tiles of epoch {epoch} are kept; reading {len(blobs)} blobs")
        for kept in blobs:
            data = await self._read(0, kept)
            check_subject(kept, data, self.genesis)
            self.seen.kept.append(replace(kept, digest=hashlib.sha256(data).digest()))

    async def _record(self) -> list[Kept]:
        """Everything on the record, by peer 0."""
        found: list[Kept] = []
        while True:
            page = await self._get(0, f"/consensus/kept?first={len(found)}")
            for row in page["kept"]:
                geometry = row["geometry"]
                tile_bytes = geometry["data_cells"] * geometry["cell_bytes_max"]
                found.append(
                    Kept(
                        row["subject"]["is"],
                        Digest(bytes.fromhex(row["blob"])),
                        row["size_bytes"],
                        -(-row["size_bytes"] // tile_bytes),
                        row["epoch"],
                        (Digest(bytes.fromhex(row["beacon"])),),
                        row["subject"],
                    )
                )
            if not page["kept"] or len(found) >= page["kept_total"]:
                return list({kept.subject["id"]: kept for kept in found}.values())

    async def _note_ring(self) -> int:
        """The epoch; its roster is kept for later."""
        facts = await self._get(0, "/consensus/epochs/current")
        for roster in (facts["roster"], facts["next_roster"]):
            if roster is not None and roster["epoch"] not in self._rings:
                self._rings[roster["epoch"]] = Ring(
                    tuple(member["node"] for member in roster["members"]),
                    tuple(member["weight"] for member in roster["members"]),
                )
        return int(facts["epoch"])

    async def _are_whole(self, blobs: Sequence[Kept], epoch: int) -> bool:
        """Whether every node says that it lacks nothing of some blobs, and all of them in the same epoch."""
        for index in sorted(self._fleet.nodes):
            missing = {row["blob"]: row["missing"] for row in (await self._get(index, "/kept"))["blobs"]}
            if any(missing.get(kept.blob.hex(), 1) for kept in blobs):
                return False
            if (await self._get(index, "/consensus/epochs/current"))["epoch"] != epoch:
                return False
        return True

    async def _read(self, index: int, kept: Kept) -> bytes:
        """A blob, through one node."""
        token = (self._settings.data_directory(index) / "api.token").read_text().strip()
        api = self._fleet.nodes[index].api
        if api is None:
            raise Failed(f"peer {index} is not up")
        parts = []
        for tile in range(kept.tiles):
            try:
                answer = await self._client.get(
                    f"{api.url}/kept/{kept.blob.hex()}/{tile}",
                    headers={"authorization": f"Bearer {token}"},
                    timeout=READ_SECONDS_MAX,
                )
            except httpx.HTTPError as trouble:
                raise Failed(f"peer {index} does not read {kept.what}: {trouble!r}") from trouble
            if answer.status_code != 200:
                raise Failed(f"peer {index} does not read {kept.what}: {answer.text}")
            parts.append(answer.content)
        return b"".join(parts)

    # -- the loss -------------------------------------------------------------------------------------------------------

    async def _lose(self) -> int:
        """kill -9, and the disk with it; returns the epoch."""
        self._check_alive()
        epoch = await self._note_ring()
        for index in self.victims:
            self._fleet.kill_node(index)
        for index in self.victims:
            empty(self._settings.data_directory(index))
        self._tell(f"epoch {epoch}: peers {self.victims} are dead and their disks empty")
        return epoch

    async def _read_again(self, survivors: Sequence[int]) -> None:
        for number, kept in enumerate(self.seen.kept):
            began = time.monotonic()
            data = await self._read(survivors[number % len(survivors)], kept)
            self.seen.read_ms.append(1000 * (time.monotonic() - began))
            check_subject(kept, data, self.genesis)
            if hashlib.sha256(data).digest() == kept.digest:
                self.seen.read_back += 1
            else:
                self.problems.append(f"{kept.what} is read back otherwise than it was")
        self._tell(f"{self.seen.read_back} of {len(self.seen.kept)} blobs are read back bit-identical")

    async def _watch_blocks(self) -> None:
        """How long the survivors are without a new block."""
        height, since = await self._height(0), trio.current_time()
        while True:
            await trio.sleep(POLL_SECONDS)
            await self._note_ring()
            now = await self._height(0)
            if now > height:
                height, since = now, trio.current_time()
            self.seen.gap_seconds = max(self.seen.gap_seconds, trio.current_time() - since)

    async def _wait_blocks(self, first: int) -> int:
        """Until the survivors have decided some blocks since the height ``first``; how many."""
        deadline = trio.current_time() + BLOCKS_MEANWHILE * GAP_SECONDS_MAX
        while (count := await self._height(0) - first) < BLOCKS_MEANWHILE:
            if trio.current_time() > deadline:
                raise Failed(f"the survivors decided {count} blocks in {BLOCKS_MEANWHILE * GAP_SECONDS_MAX:.0f} s")
            await trio.sleep(POLL_SECONDS)
        return count

    # -- the return -----------------------------------------------------------------------------------------------------

    async def _return(self) -> int:
        epoch = await self._note_ring()
        started = [self._start(index) for index in self.victims]
        for node in started:
            await self._fleet.wait_ready(node)
        self._tell(f"epoch {epoch}: they are started again")
        return epoch

    async def _wait_whole(self) -> int:
        """Until every node holds all of its cells of what was on the record; returns the epoch."""
        began = trio.current_time()
        deadline = began + PATIENCE_EPOCHS * EPOCH_SECONDS_MAX
        while True:
            self._check_alive()
            epoch = await self._note_ring()
            if await self._are_whole(self.seen.kept, epoch):
                self.seen.whole_seconds = trio.current_time() - began
                self._tell(f"epoch {epoch}: whole again after {self.seen.whole_seconds:.1f} s")
                return epoch
            if trio.current_time() > deadline:
                raise Failed(f"not whole after {trio.current_time() - began:.0f} s: {await self._lacking()}")
            await trio.sleep(POLL_SECONDS)

    async def _lacking(self) -> str:
        rows = {index: (await self._get(index, "/kept"))["blobs"] for index in sorted(self._fleet.nodes)}
        return "; ".join(
            f"peer {index} lacks {sum(row['missing'] for row in kept)} cells" for index, kept in rows.items()
        )

    async def _count(self, before: Mapping[int, Mapping[str, Any]]) -> None:
        """Cells fetched since the restart, of what was on the record before."""
        for index in sorted(self._fleet.nodes):
            after = await self._kept(index)
            was = before.get(index, {"rebuilt_tiles": 0, "fetched": {}})
            fetched = sum(
                after["fetched"].get(kept.blob.hex(), 0) - was["fetched"].get(kept.blob.hex(), 0)
                for kept in self.seen.kept
            )
            self.seen.fetched_bytes += fetched
            self.seen.fetched_by_the_dead_bytes += fetched if index in self.victims else 0
            self.seen.rebuilt_tiles += after["rebuilt_tiles"] - was["rebuilt_tiles"]

    async def _read_by_the_returned(self) -> None:
        """Each of those that came back reads its part of everything."""
        for number, kept in enumerate(self.seen.kept):
            data = await self._read(self.victims[number % len(self.victims)], kept)
            if hashlib.sha256(data).digest() == kept.digest:
                self.seen.read_by_the_returned += 1
            else:
                self.problems.append(f"{kept.what} is read otherwise by a peer that came back")

    # -- the disks ------------------------------------------------------------------------------------------------------

    def _check_disk(self, index: int, whole: int) -> None:
        """Every cell that is a stopped node's own is on its disk, leads to the blob's root, and it has no others."""
        who = self._names[index]
        ground = open_ground(load_settings(self._settings.data_directory(index)))
        try:
            for kept in self.seen.kept:
                manifest = ground.cells.find_manifest(kept.blob)
                if manifest is None:
                    self.problems.append(f"peer {index} knows nothing of {kept.what}")
                    continue
                for tile in range(manifest.tile_count):
                    self._check_cells(index, who, kept, manifest, tile, whole, ground.cells.find)
                    if index == 0:
                        self._add_floor(kept, manifest, tile)
        finally:
            ground.close()

    def _check_cells(
        self,
        index: int,
        who: str,
        kept: Kept,
        manifest: CheckedManifest,
        tile: int,
        whole: int,
        find: Callable[[Digest, int, int], object | None],
    ) -> None:
        cells = manifest.geometry.cells
        root = manifest.tile_root(tile)
        held = {cell for cell in range(cells) if find(kept.blob, tile, cell) is not None}
        self.seen.cells_checked += len(held)
        near = [self._rings[epoch] for epoch in range(whole - 1, whole + 2) if epoch in self._rings]
        allowed = frozenset().union(*(ring.duties(kept.beacons, root, cells)[who] for ring in near))
        lacking = self._rings[whole].duties(kept.beacons, root, cells)[who] - held
        if lacking:
            self.problems.append(f"peer {index} lacks {len(lacking)} cells of {kept.what} on its disk")
        if held - allowed:
            self.problems.append(f"peer {index} holds {len(held - allowed)} cells of {kept.what} that are not its own")

    def _add_floor(self, kept: Kept, manifest: CheckedManifest, tile: int) -> None:
        died, returned, whole = self.seen.epochs
        victims = [self._names[index] for index in self.victims]
        add_floor(self.seen.floor, kept, tile, manifest, self._rings, victims, died, returned, whole)

    # -- looking --------------------------------------------------------------------------------------------------------

    def _check_alive(self) -> None:
        for index in sorted(self._fleet.nodes):
            how = self._fleet.exit_of(index)
            if how is not None:
                raise Failed(f"peer {index} ended by itself: {how}")

    async def _height(self, index: int) -> int:
        return int((await self._get(index, "/status"))["height"])

    async def _kept(self, index: int) -> dict[str, Any]:
        """GET /kept, and what was fetched of each blob."""
        facts = await self._get(index, "/kept")
        return {**facts, "fetched": {row["blob"]: row["fetched_bytes"] for row in facts["blobs"]}}

    async def _get(self, index: int, path: str) -> Any:
        """Ask a live node, again while it is busy; raises ``Failed`` when it has ended or stays silent."""
        deadline = trio.current_time() + SILENCE_SECONDS_MAX
        while True:
            node = self._fleet.nodes.get(index)
            if node is None or node.api is None:
                raise Failed(f"peer {index} is not running")
            try:
                answer = await self._client.get(node.api.url + path)
                answer.raise_for_status()
                return msgspec.json.decode(answer.content)
            except TROUBLES as trouble:
                self._check_alive()
                if trio.current_time() > deadline:
                    raise Failed(f"peer {index} does not answer {path}: {trouble!r}") from None
                await trio.sleep(POLL_SECONDS)


def empty(directory: Path) -> None:
    """Remove everything from a data directory but what an operator has elsewhere."""
    for path in sorted(directory.iterdir()):
        if path.name not in COPIED:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


# -- what came of it -----------------------------------------------------------------------------------------------------


def judge(seen: Seen, problems: Sequence[str], failure: str) -> list[str]:
    """Every check that failed, in sentences."""
    found = [failure] if failure else []
    found += problems
    if not failure and seen.read_back < len(seen.kept):
        found.append(f"only {seen.read_back} of {len(seen.kept)} blobs were read back")
    return list(dict.fromkeys(found))


def rows_of(seen: Seen, peers: int, victims: int) -> list[Row]:
    """The numbers, one a row."""
    floor = seen.floor
    ratio = seen.fetched_bytes / floor.bytes if floor.bytes else None
    return [
        Row("members", "nodes", peers),
        Row("killed, their disks removed", "nodes", victims),
        Row("blobs on the record", "blobs", len(seen.kept)),
        Row("of them states", "blobs", sum(kept.is_state for kept in seen.kept)),
        compare("their bytes", "kB", sum(kept.size_bytes for kept in seen.kept) / 1000),
        Row("read back bit-identical by survivors", "blobs", seen.read_back),
        Row("read bit-identical by those that came back", "blobs", seen.read_by_the_returned),
        compare("reading one, median", "ms", find_median(seen.read_ms)),
        Row("blocks decided meanwhile", "blocks", seen.blocks_meanwhile),
        compare("longest time without a block", "s", seen.gap_seconds),
        compare("the dead were away", "s", seen.away_seconds),
        compare("whole again after their return", "s", seen.whole_seconds),
        Row("cells lost", "cells", floor.lost_cells),
        compare("bytes of the cells lost", "kB", floor.lost_bytes / 1000),
        compare("cells fetched by everybody", "kB", seen.fetched_bytes / 1000, floor=floor.bytes / 1000),
        compare("the same by the floor", "times", ratio, floor=1.0),
        compare("what a repair tile by tile takes", "kB", floor.by_tile_bytes / 1000, floor=floor.bytes / 1000),
        compare("of them by those that came back", "kB", seen.fetched_by_the_dead_bytes / 1000),
        Row("tiles made again", "tiles", seen.rebuilt_tiles, floor=floor.rebuilt_tiles),
        Row("cells checked on the disks", "cells", seen.cells_checked),
    ]


def run(out: Path, peers: int, victims: int, heights: int, interval_ms: int, seed: int, as_json: bool) -> list[str]:
    """One trial; prints what came of it, and returns what failed."""
    network = NETWORK.format(round_seconds=ROUND_SECONDS, interval_ms=interval_ms, epoch_heights=heights)
    settings = trial_settings(out, network, peers, ROUND_SECONDS)
    began = time.monotonic()
    failure = ""
    with Fleet(settings) as fleet:
        trial = Trial(fleet, settings, victims, seed, lambda line: say(f"{time.monotonic() - began:7.1f} s  {line}"))
        try:
            trio.run(trial.run)
        except* (Failed, ChildFailed, Rejected) as problems:
            failure = "; ".join(str(problem) for problem in leaves_of(problems))
    found = judge(trial.seen, trial.problems, failure)
    facts = {"seed": seed, "problems": found, "victims": trial.victims, "epochs": trial.seen.epochs}
    report("custody", rows_of(trial.seen, peers, victims), as_json, facts)
    return found


def leaves_of(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    """The exceptions of a group, without its nesting."""
    found: list[BaseException] = []
    for each in group.exceptions:
        found += leaves_of(each) if isinstance(each, BaseExceptionGroup) else [each]
    return found


@click.command()
@standard_options
@click.option("--peers", type=click.IntRange(4, PEERS_MAX), default=13, show_default=True, help="Members.")
@click.option("--victims", type=click.IntRange(min=1), default=4, show_default=True, help="Who die; less than a third.")
@click.option("--heights", type=click.IntRange(min=16), default=192, show_default=True, help="Blocks of an epoch.")
@click.option(
    "--interval-ms", type=click.IntRange(10, 60_000), default=1_000, show_default=True, help="Between blocks."
)
@click.option("--seed", type=click.IntRange(min=0), help="Who dies; else drawn and told.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep directories and logs here. [default: removed]")
def main(
    peers: int,
    victims: int,
    heights: int,
    interval_ms: int,
    seed: int | None,
    out: Path | None,
    as_json: bool,
    quick: bool,
) -> None:
    """Take the disks of a third of a real network, read everything back, repair it. --quick: one of four nodes."""
    if quick:
        peers, victims, heights = QUICK
    if 3 * victims >= peers:
        raise click.UsageError(f"--victims {victims}: less than a third of {peers}, or the others decide nothing")
    seed = secrets.randbits(32) if seed is None else seed
    folder = trial_folder(out, "custody")
    again = (
        f"python -m benchmarks.custody --peers {peers} --victims {victims} --heights {heights} "
        f"--interval-ms {interval_ms} --seed {seed}"
    )
    say(f"seed {seed}; the same again: {again}")
    problems = run(folder, peers, victims, heights, interval_ms, seed, as_json)
    conclude_trial(problems, again, folder, keep=out is not None)


if __name__ == "__main__":
    main()
