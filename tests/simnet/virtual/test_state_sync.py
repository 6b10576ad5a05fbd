"""Whole nodes that join a network which is no longer young: from its newest checkpoint, killed on the way, lied to."""

from __future__ import annotations

import io
import random
from dataclasses import replace

import pytest
import trio

from consensus.finality.chain import check_chain
from node.checkpoint_file import export_checkpoint, import_checkpoint, read_checkpoint
from node.checkpoints import list_checkpoints
from node.ground import Ground, stand_on
from node.recall import first_needed
from node.state_rows import find_fetch, scan_state
from protocol.codec import decode, encode
from protocol.finality import Header
from protocol.genesis import genesis_roster
from protocol.ids import Height
from protocol.learning import Blocks, GetBlocks
from protocol.limits import FRAME_BYTES_MAX
from protocol.rejection import Rejected
from simnet.scenario import Arrivals, MustHold, Scenario
from simnet.scenario_file import find_scenario
from simnet.scenario_size import ci_sized, resize
from simnet.virtual.disk import Pool, VirtualDisk
from simnet.virtual.machine import VirtualMachine
from simnet.virtual.state_liars import LIES, Corrupt
from simnet.virtual.world import VirtualWorld, run_scenario
from storage.kv import Batch
from storage.ledger import PruneRule
from tests.simnet.virtual.test_world import check, run_script, tip

pytestmark = pytest.mark.slow
ARRIVES_SECONDS = 240.0  # block 50 or more: the first epoch, of 32 blocks, is over


def scenario(newcomers: int) -> Scenario:
    """A calm network, into which some come late: seven vote, and three learn or come."""
    calm = ci_sized(resize(find_scenario("calm"), 10))
    return replace(
        calm,
        seconds=330.0,
        arrivals=(Arrivals(newcomers, ARRIVES_SECONDS, ARRIVES_SECONDS),),
        must_hold=MustHold(("chain_agrees", "roots_derivable", "counted_once", "no_failure")),
    )


async def until_there(machine: VirtualMachine) -> None:
    """Until a machine runs a node."""
    while machine.node is None:
        await trio.sleep(0.1)


def state_rows(ground: Ground) -> list[tuple[bytes, bytes]]:
    return list(scan_state(ground.index))


def check_joined(newcomer: VirtualMachine, other: VirtualMachine) -> None:
    """Of one mind with a node that was there all the time, without having seen the first epoch's blocks."""
    assert newcomer.node is not None
    assert other.node is not None
    ground = newcomer.node.ground
    assert find_fetch(ground.index) is None
    assert ground.ledger.oldest() in (32, 64)  # the newest checkpoint of the moment
    if tip(newcomer) == tip(other):
        assert state_rows(ground) == state_rows(other.node.ground)
    assert newcomer.node.engine.execution.state.root() == newcomer.node.ground.load_state().root()


def test_a_newcomer_begins_with_the_newest_checkpoint() -> None:
    """It fetches the state after the last epoch and the blocks since then, and learns like the others."""

    async def look(world: VirtualWorld) -> None:
        newcomer = world.machines[-1]
        await trio.sleep_until(ARRIVES_SECONDS + 1.0)
        await until_there(newcomer)
        await trio.sleep_until(ARRIVES_SECONDS + 80.0)
        check_joined(newcomer, world.machines[0])
        assert newcomer.node is not None
        tiles = newcomer.node.ground.tiles
        assert all(tiles.newest(tile) == at.version for tile, at in newcomer.node.ground.tile_heads().items())

    check(run_script(scenario(1), 1, look))


def test_the_history_follows_in_the_background() -> None:
    """Downwards to the first block, killed on the way and begun again; then it is given to others like any."""

    async def look(world: VirtualWorld) -> None:
        newcomer, other = world.machines[-1], world.machines[0]
        usual = newcomer._settings()
        told = replace(usual, storage=replace(usual.storage, history=True))
        newcomer._settings = lambda: told
        await trio.sleep_until(ARRIVES_SECONDS + 1.0)
        for _ in range(3):
            await until_there(newcomer)
            assert newcomer.node is not None
            newcomer.node.backfill._count = 4
            while not newcomer.node.backfill.fetched_blocks:
                await trio.sleep(0.1)
            assert (newcomer.node.ground.ledger.oldest() or 0) < 64
            await world.kill(newcomer)  # with the power: what was written and not synced is fetched again
            world.start(newcomer)
        await until_there(newcomer)
        await trio.sleep_until(ARRIVES_SECONDS + 80.0)
        assert newcomer.node is not None
        assert other.node is not None
        ours, theirs = newcomer.node.ground, other.node.ground
        assert ours.ledger.oldest() == 1
        assert newcomer.node.backfill.next_height() is None
        last = min(ours.ledger.tip() or 0, theirs.ledger.tip() or 0)
        for height in range(1, last + 1):
            mine, one = ours.ledger.get(Height(height)), theirs.ledger.get(Height(height))
            assert (mine.header, mine.body) == (one.header, one.body)
        answer = decode(
            Blocks,
            await newcomer.node.exchange._serve_sync(other.peer, encode(GetBlocks(Height(1), 64))),
            limit_bytes=FRAME_BYTES_MAX,
        )
        rules = world.genesis.chain
        assert [each.header.height for each in answer.blocks] == list(range(1, 33))
        check_chain(answer.blocks, genesis_roster(world.genesis), newcomer.node.chain, rules)
        assert ours.find_light_block(Height(32)) is not None

    check(run_script(scenario(1), 6, look))


def test_a_checkpoint_travels_as_a_file() -> None:
    """Exported by one machine it proves itself to another of the same genesis; cut or changed anywhere it is refused."""

    async def carry(world: VirtualWorld) -> None:
        await trio.sleep_until(ARRIVES_SECONDS)
        node, now_ms = world.machines[0].node, world.machines[0].clock.now_ms()
        assert node is not None
        newest = next(list_checkpoints(node.ground.disk))
        file = b"".join(export_checkpoint(node.ground, newest, lambda done, count: None))
        draw, certificate = random.Random(1), encode(newest.block.certificate)
        of_the_manifest = file.rfind(certificate) + len(certificate) - 1  # a signature that no proof is made of
        for at in (of_the_manifest, *(draw.randrange(len(file)) for _ in range(60))):
            for spoiled in (file[:at], file[:at] + bytes([file[at] ^ 1 << draw.randrange(8)]) + file[at + 1 :]):
                with pytest.raises(Rejected):
                    list(read_checkpoint(io.BytesIO(spoiled), world.genesis, now_ms)[1])
        with pytest.raises(Rejected):
            list(read_checkpoint(io.BytesIO(file + b"x"), world.genesis, now_ms)[1])
        late = world.machines[-1]
        ground = stand_on(VirtualDisk("elsewhere", Pool()).open(), node.ground.settings, late.plan.keys, world.genesis)
        import_checkpoint(ground, io.BytesIO(file), now_ms, lambda done, count: None)
        assert ground.ledger.tip() == newest.height
        assert ground.load_state().root() == newest.block.header.state_root
        with pytest.raises(Rejected, match="is here"):
            import_checkpoint(ground, io.BytesIO(file), now_ms, lambda done, count: None)
        ground.close()

    check(run_script(replace(scenario(1), seconds=ARRIVES_SECONDS + 10.0), 3, carry))


def test_a_fetch_that_is_killed_goes_on_where_it_was() -> None:
    """Ten kills at different moments of joining: what was proved stays, and the node ends like the others."""

    async def kill(world: VirtualWorld) -> None:
        newcomer = world.machines[-1]
        await trio.sleep_until(ARRIVES_SECONDS)
        for after in range(10):
            await trio.sleep(0.3 + 0.05 * after)
            await world.kill(newcomer)
            world.start(newcomer)
        await until_there(newcomer)
        await trio.sleep_until(ARRIVES_SECONDS + 80.0)
        check_joined(newcomer, world.machines[0])

    check(run_script(scenario(1), 2, kill))


def test_a_node_whose_peers_pruned_its_next_block_joins_anew() -> None:
    """It was away for epochs; what it has of the state is compared, and it goes on from a checkpoint, in the same process."""
    grown = replace(scenario(0), seconds=620.0, arrivals=())

    async def be_away(world: VirtualWorld) -> None:
        away = world.machines[-1]
        await trio.sleep_until(60.0)
        await world.kill(away)
        await trio.sleep_until(540.0)
        for machine in world.machines[:-1]:
            node = machine.node
            assert node is not None
            heights = node.ground.genesis.chain.epoch_heights
            rule = PruneRule(0, first_needed(node.ground), heights)
            while node.ground.ledger.prune(rule, lambda block: Batch(), blocks_max=100, bytes_max=2**30):
                pass
            assert (node.ground.ledger.oldest() or 0) > heights
        world.start(away)
        await trio.sleep_until(610.0)
        assert away.node is not None
        ground = away.node.ground
        assert (ground.ledger.oldest() or 0) % ground.genesis.chain.epoch_heights == 0
        assert (ground.ledger.oldest() or 0) > 32
        assert abs(tip(away) - tip(world.machines[0])) <= 1
        assert away.lives == 2

    check(run_script(grown, 4, be_away))


@pytest.mark.parametrize("seed", [3, 16])
def test_whoever_meets_a_liar_first_asks_others_too(seed: int) -> None:
    """Three newcomers of the second seed are connected to nobody but one with a false checkpoint when they begin to ask."""
    outcome = run_scenario(ci_sized(find_scenario("state-liars")), seed)
    assert outcome.passed, outcome.invariants["joined_state"].breaches


def test_two_who_say_that_there_is_no_checkpoint_are_not_believed_at_once() -> None:
    """All whom a newcomer calls first deny politely: it waits a while, and asks somebody who calls it meanwhile."""

    async def deny(world: VirtualWorld) -> None:
        newcomer = world.machines[-1]
        liars = [machine for machine in world.machines if machine.plan.is_bootstrap]
        for liar in liars:
            liar.corrupt = Corrupt(LIES["that it has none"], random.Random(1))
        await trio.sleep_until(ARRIVES_SECONDS)
        while world.network.connections_of(newcomer.peer) < 2:
            await trio.sleep(0.01)
        await trio.sleep(1.0)
        honest = world.machines[len(liars)].node
        assert honest is not None
        await honest.transport.dial(world.address(newcomer))
        await until_there(newcomer)
        await trio.sleep_until(ARRIVES_SECONDS + 60.0)
        assert newcomer.node is not None
        assert newcomer.node.ground.ledger.oldest() in (32, 64)

    check(run_script(scenario(1), 2, deny))


def test_trust_may_begin_at_a_block_that_the_user_names() -> None:
    """Its digest is enough: the block comes from anybody. Nobody shows one that is not there, and then blocks are fetched."""

    async def name(world: VirtualWorld) -> None:
        right, wrong = world.machines[-1], world.machines[-2]
        await trio.sleep_until(ARRIVES_SECONDS - 1.0)
        node = world.machines[0].node
        assert node is not None
        header = node.ground.ledger.find_header(Height(32))
        assert header is not None
        digest = decode(Header, header, limit_bytes=4096).digest()
        for machine, block in ((right, digest), (wrong, bytes(32))):
            usual = machine._settings()
            told = replace(usual, network=replace(usual.network, trusted_block=f"32:{block.hex()}"))
            machine._settings = lambda told=told: told
        await trio.sleep_until(410.0)
        assert right.node is not None
        assert wrong.node is not None
        assert right.node.ground.ledger.oldest() in (64, 96)
        assert wrong.node.ground.ledger.oldest() == 1

    later = replace(scenario(2), arrivals=(Arrivals(2, 330.0, 330.0),), seconds=420.0)
    check(run_script(later, 5, name))
