"""Whole nodes keep each other's tiles and states as coded cells: what is kept can be read, whoever vanishes, whoever lies."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
from msgspec.structs import replace as replace_struct

from consensus.epochs import roster_of
from consensus.state import VALIDATORS, KeptEntry
from node.kept_cells import Custody, open_kernel_once
from node.node import Node
from p2p.requests import CELLS
from protocol.availability import StateCheckpoint, TileSnapshot
from protocol.cells import CellRequest, Cells, GetCells, GetLeaf
from protocol.codec import decode, encode
from protocol.coded_tables import make_tables
from protocol.digest import blob_digest
from protocol.erasure import LIVE
from protocol.ids import AccountId, Digest, PeerId, TileId, Version, after
from protocol.limits import FRAME_BYTES_MAX
from protocol.rejection import Reason, Rejected
from simnet.scenario import MustHold, Scenario
from simnet.scenario_file import find_scenario
from simnet.scenario_size import ci_sized
from simnet.virtual.disk import VirtualDisk
from simnet.virtual.machine import VirtualMachine
from simnet.virtual.world import VirtualWorld
from storage.erasure.blob import encode_blob
from storage.erasure.check import TileCheck
from storage.erasure.code import ErasureCode
from storage.erasure.tile import CheckedShard
from storage.tile_format import check_tile
from tests.simnet.virtual.test_state_sync import until_there
from tests.simnet.virtual.test_world import check, run_script
from tests.storage.erasure.samples import committed

pytestmark = pytest.mark.slow
SECONDS = 260.0  # two epochs of 32 blocks, and time to look


def calm() -> Scenario:
    """A quiet network that lives long enough for two epochs."""
    return replace(
        ci_sized(find_scenario("calm")),
        seconds=SECONDS,
        must_hold=MustHold(("chain_agrees", "roots_derivable", "counted_once", "no_failure")),
    )


def node_of(machine: VirtualMachine) -> Node:
    assert machine.node is not None
    return machine.node


async def read_back(node: Node, entry: KeptEntry) -> bytes:
    """A recorded blob, from whatever cells are to be had."""
    upkeep = node.keeping.upkeep
    manifest = await upkeep.find_manifest(entry.blob)
    assert manifest is not None
    tiles = [bytes(await upkeep.read_tile(entry, manifest, tile)) for tile in range(manifest.tile_count)]
    return b"".join(tiles)


async def check_readable(node: Node) -> int:
    """Everything that the record says is kept can be read, and is what the record says; how much there was."""
    for entry in node.keeping.upkeep.recorded():
        data = await read_back(node, entry)
        assert len(data) == entry.size_bytes
        match entry.subject:
            case TileSnapshot(tile, _, root):
                check_tile(tile, memoryview(data), root).verify()
            case StateCheckpoint():
                assert data.startswith(b"nock")
    return len(node.keeping.upkeep.recorded())


async def until_recorded(machine: VirtualMachine) -> None:
    """Wait until a node that comes back knows what is on the record."""
    while machine.node is None or not machine.node.keeping.upkeep.recorded():
        await trio.sleep(0.05)


async def check_complete(node: Node) -> None:
    """A node holds exactly what the ring gives it of everything that is recorded, or had in the epoch before."""
    for entry in node.keeping.upkeep.recorded():
        manifest = node.ground.cells.find_manifest(entry.blob)
        assert manifest is not None
        for tile in range(manifest.tile_count):
            ours = Custody(manifest, entry.tables, (entry.beacon,)).duty(node.ground.peer, node.roster, tile)
            assert set(ours) <= set(node.ground.cells.cells_held(entry.blob, tile))


def test_what_is_recorded_is_kept_and_can_be_read_by_everybody() -> None:
    """Every tile and the state have a certificate within an epoch; members have their cells, and others cells by name."""
    counts: list[int] = []

    async def look(world: VirtualWorld) -> None:
        await trio.sleep_until(SECONDS - 40.0)
        for machine in world.machines:
            await check_complete(node_of(machine))
        counts.extend([await check_readable(node_of(machine)) for machine in (world.machines[0], world.machines[-1])])
        node = node_of(world.machines[0])
        assert node.keeping.audit.faults.total() == 0
        assert node.keeping.audit.statistics().audits > 0
        subjects = [entry.subject for entry in node.keeping.upkeep.recorded()]
        tiles = {subject.tile for subject in subjects if isinstance(subject, TileSnapshot)}
        assert tiles == set(node.ground.genesis_roots)
        assert any(isinstance(subject, StateCheckpoint) for subject in subjects)

    check(run_script(calm(), 1, look))
    assert counts[0] == counts[1] > 8


def test_a_third_of_the_members_loses_its_disks() -> None:
    """What is kept is read while they are gone; back with empty disks, they have their cells again, rebuilt by few."""

    async def look(world: VirtualWorld) -> None:
        await trio.sleep_until(150.0)
        members = [machine for machine in world.machines if machine.plan.is_validator]
        victims = members[:2]
        lost_bytes = sum(node_of(victim).ground.cells.bytes_used for victim in victims)
        for victim in victims:
            await world.kill(victim)
            victim.disk = VirtualDisk(victim.disk.name, world.pool)
        assert await check_readable(node_of(members[-1])) > 0
        for victim in victims:
            world.start(victim)
            await until_recorded(victim)
            begun = node_of(victim).keeping.statistics()
            assert begun.missing_cells >= begun.recorded_blobs > 0  # what was not looked at yet is missing
        await trio.sleep_until(SECONDS - 40.0)
        moved_bytes = 0
        for victim in victims:
            node = node_of(victim)
            await check_complete(node)
            done = node.keeping.statistics()
            assert done.missing_cells == 0
            fetched_of = node.keeping.fetch.fetched_of
            assert 0 < sum(fetched_of[entry.blob] for entry in node.keeping.upkeep.recorded()) <= done.fetched_bytes
            moved_bytes += done.fetched_bytes
        assert moved_bytes >= lost_bytes // 2
        assert await check_readable(node_of(victims[0])) > 0

    check(run_script(calm(), 1, look))


def test_a_blob_that_is_not_what_it_is_said_to_be_is_kept_by_nobody() -> None:
    """A member codes other bytes than its tiles': whoever holds a tile codes it too and refuses, and another has it kept."""
    liars: list[PeerId] = []

    async def look(world: VirtualWorld) -> None:
        members = [machine for machine in world.machines if machine.plan.is_validator]
        await until_there(members[0])
        keeping = node_of(members[0]).keeping
        honest = keeping._tile_data

        async def other(tile: TileId, version: Version) -> memoryview | None:
            data = await honest(tile, version)
            liars.append(members[0].peer)
            return None if data is None else memoryview(bytes(data)[:-1] + bytes([data[-1] ^ 1]))

        keeping._tile_data = other
        await trio.sleep_until(SECONDS - 40.0)
        assert await check_readable(node_of(members[1])) > 8
        assert sum(node_of(machine).keeping.holder.refused for machine in members[1:]) > 0

    check(run_script(calm(), 1, look))
    assert liars


def test_cells_that_contradict_their_table_are_passed_over() -> None:
    """An author commits to wrong cells, and whoever is to keep them signed all the same: the tile is read from the others."""
    kernel = open_kernel_once()
    data = bytes(range(256)) * 8
    (honest,) = encode_blob(ErasureCode(kernel, LIVE), [data])
    cells = [bytes(cell) for cell in honest.cells]
    wrong = range(100, 200)  # so many that hardly any 64 of the 256 are without one
    manifest, shards = committed(
        [bytes(len(cell)) if at in wrong else cell for at, cell in enumerate(cells)], len(data), LIVE
    )
    tables_root, tables = make_tables(
        manifest, [TileCheck.of(kernel, manifest, 0).sums(cells[: LIVE.data_cells]).tobytes()]
    )
    read: list[bytes] = []

    async def look(world: VirtualWorld) -> None:
        members = [machine for machine in world.machines if machine.plan.is_validator]
        await until_there(members[0])
        await trio.sleep(10.0)
        roster = node_of(members[0]).roster
        entry = KeptEntry(
            blob=manifest.root,
            tables=tables_root,
            geometry=LIVE,
            size_bytes=len(data),
            epoch=roster.epoch,
            beacon=roster.beacon,
            kept_until=None,
            subject=TileSnapshot(TileId("trunk/0"), Version(1), blob_digest(data)),
            author=AccountId(bytes(32)),
            height=1,
        )
        for machine in members:
            store = node_of(machine).ground.cells
            store.put_blob(manifest, tables_root, tables, None)
            duty = Custody.of(manifest, [entry]).duty(machine.peer, roster, 0)
            store.put_cells(manifest.root, [shards[cell] for cell in duty])
        reader = node_of(world.machines[-1])
        read.append(bytes(await reader.keeping.upkeep.read_tile(entry, manifest, 0)))

    check(run_script(replace(calm(), seconds=60.0), 1, look))
    assert read == [data]


def test_who_does_not_show_what_it_keeps_is_named_and_missed_by_nobody() -> None:
    """One member gives no cell and no leaf, another gives cells of other places: all is read, and audits name them both."""

    async def look(world: VirtualWorld) -> None:
        members = [machine for machine in world.machines if machine.plan.is_validator]
        silent, liar = members[1], members[2]
        await trio.sleep_until(130.0)  # they voted for what was recorded so far as everybody did

        async def nothing(peer: PeerId, data: bytes) -> bytes:
            raise Rejected(Reason.NOT_FOUND)

        node_of(silent).transport.set_request_handler(CELLS.protocol, nothing)
        honest = node_of(liar).keeping.server.serve

        async def another(peer: PeerId, data: bytes) -> bytes:
            answer = await honest(peer, data)
            request = decode(CellRequest, data, limit_bytes=CELLS.request_bytes_max)  # type: ignore[arg-type]  # a union
            if isinstance(request, GetCells):
                shards = decode(Cells, answer, limit_bytes=FRAME_BYTES_MAX).shards
                return encode(Cells(tuple(replace_struct(shard, data=bytes(len(shard.data))) for shard in shards)))
            if isinstance(request, GetLeaf):
                raise Rejected(Reason.NOT_FOUND)
            return answer

        node_of(liar).transport.set_request_handler(CELLS.protocol, another)
        await trio.sleep_until(SECONDS - 40.0)
        honest_node = node_of(members[0])
        assert await check_readable(honest_node) > 0
        named = set(honest_node.keeping.audit.faults)
        assert silent.peer in named
        assert named <= {silent.peer, liar.peer}

    check(run_script(calm(), 1, look))


def test_a_member_whose_disk_is_full_signs_nothing_until_there_is_room() -> None:
    """The others have everything kept without it; with room again it has its cells too, and votes for what comes next."""

    async def look(world: VirtualWorld) -> None:
        members = [machine for machine in world.machines if machine.plan.is_validator]
        full = members[1]
        await until_there(full)
        store, holder = node_of(full).ground.cells, node_of(full).keeping.holder
        put = store.put_cells

        def refuse(blob: Digest, shards: Sequence[CheckedShard]) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        store.put_cells = refuse  # type: ignore[method-assign]  # this machine's alone
        await until_recorded(members[0])
        await trio.sleep(20.0)
        upkeep = node_of(full).keeping.upkeep
        assert len(upkeep.recorded()) > 4
        assert (holder.voted, upkeep.is_complete) == (0, False)
        assert node_of(full).keeping.recorded > 0  # what it offers itself is kept by the others
        store.put_cells = put  # type: ignore[method-assign]
        await trio.sleep_until(SECONDS - 40.0)
        await check_complete(node_of(full))
        assert holder.voted > 0

    check(run_script(calm(), 1, look))


def test_a_member_that_never_answers_holds_nobody_up() -> None:
    """Whoever would ask it first is not kept waiting for each thing anew: it asks others, and has its cells."""

    async def look(world: VirtualWorld) -> None:
        await trio.sleep_until(130.0)
        reader = node_of(world.machines[-1])
        first = next(
            peer
            for peer in after(reader.ground.peer, reader.transport.connected_peers())
            if reader.roster.find_index(peer) is not None
        )
        silent = next(machine for machine in world.machines if machine.peer == first)

        async def never(peer: PeerId, data: bytes) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        node_of(silent).transport.set_request_handler(CELLS.protocol, never)
        known = set(reader.keeping.upkeep.by_blob())
        await trio.sleep_until(SECONDS - 60.0)
        assert len(set(reader.keeping.upkeep.by_blob()) - known) > 4
        with trio.fail_after(30.0):
            while reader.keeping.statistics().missing_cells:
                await trio.sleep(0.1)
        await check_complete(reader)

    check(run_script(calm(), 1, look))


def test_who_dropped_its_cells_has_nothing_to_show_and_is_jailed() -> None:
    """At a boundary it is jailed, and chosen for no roster; the others answered, none of them is, and the chain goes on."""
    jailed: list[bool] = []

    async def look(world: VirtualWorld) -> None:
        members = [machine for machine in world.machines if machine.plan.is_validator]
        lazy = members[1]
        await until_there(lazy)
        keeping = node_of(lazy).keeping
        store = node_of(lazy).ground.cells

        async def forget() -> None:
            for kept in list(store.blobs()):
                store.drop_blob(kept.manifest.root)

        keeping.upkeep.look = forget
        await trio.sleep_until(SECONDS - 10.0)
        node = node_of(members[0])
        state = node.engine.execution.state
        boundary = node.ground.genesis.chain.epoch_heights * 2
        assert node.engine.execution.height > boundary
        jailed.extend(state.get(VALIDATORS, machine.peer).jailed_until > 0 for machine in members)
        chosen = [member.node for member in roster_of(state, node.roster.epoch + 1).members]
        assert [machine.peer in chosen for machine in members] == [machine is not lazy for machine in members]
        assert keeping.proof.answered == 0
        assert all(node_of(machine).keeping.proof.answered for machine in members if machine is not lazy)

    check(run_script(calm(), 1, look))
    assert jailed == [False, True, *[False] * (len(jailed) - 2)]
