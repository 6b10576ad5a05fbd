"""Rehearsals of what operators do when something has gone wrong, on whole nodes in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from consensus.execution import StateDisagreement
from consensus.finality.tally import check_certificate
from consensus.light_client import LightClientRule
from consensus.recovery import check_proposal, combine_proposals
from consensus.state import EVIDENCE, VALIDATORS, EvidenceEntry, ValidatorStatus
from node.config import RecoverySettings
from node.fork_rows import RECOVERY_FILE
from node.recovery_disagreement import disagreements, dump_name, forget_chain
from node.recovery_documents import make_proposal, sign_document, unsigned
from protocol.codec import decode, encode
from protocol.finality import Header
from protocol.genesis import genesis_roster
from protocol.ids import Height
from protocol.recovery import SignedRecovery
from protocol.rejection import Rejected
from simnet.scenario import Arrivals, MustHold, Scenario
from simnet.scenario_file import find_scenario
from simnet.scenario_size import ci_sized, resize
from simnet.virtual.machine import VirtualMachine
from simnet.virtual.world import VirtualWorld
from tests.consensus.ledger_samples import ACCOUNT_IDS
from tests.simnet.virtual.test_state_sync import scenario, until_there
from tests.simnet.virtual.test_world import check, run_script, tip

pytestmark = pytest.mark.slow
SPOILED_SECONDS = 240.0  # block 50 or so: the first epoch is over, and there is a checkpoint
ENDED_SECONDS_MAX = 60.0  # far above what a process that must end by itself takes


def watch_ends(machine: VirtualMachine) -> list[BaseException]:
    """How each of a machine's processes ends from now on, where the world would end with it."""
    ends: list[BaseException] = []
    usual = machine._run

    async def run() -> None:
        try:
            await usual()
        except* StateDisagreement as group:
            ends.extend(disagreements(group))
        except* Rejected as group:
            ends.extend(leaves(group))

    machine._run = run  # type: ignore[method-assign]  # this machine's alone
    return ends


def leaves(error: BaseException) -> list[BaseException]:
    """What is inside an exception, however deep."""
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return [leaf for each in inner for leaf in leaves(each)] or [error]


async def until_ended(machine: VirtualMachine, ends: list[BaseException], count: int) -> None:
    """Until so many of its processes have ended by themselves."""
    with trio.fail_after(ENDED_SECONDS_MAX):
        while len(ends) < count or machine.is_running:
            await trio.sleep(0.1)


def test_a_machine_whose_memory_lies_stops_and_begins_anew() -> None:
    """It disagrees about the next final block, keeps why, refuses to start, and joins again when its chain is forgotten."""

    async def spoil(world: VirtualWorld) -> None:
        machine = world.machines[0]
        ends = watch_ends(machine)
        await trio.sleep_until(SPOILED_SECONDS)
        assert machine.node is not None
        execution = machine.node.engine.execution
        with trio.fail_after(ENDED_SECONDS_MAX):
            while execution._outcomes:  # a block that was executed already is finalized from what it made then
                await trio.sleep(0.01)
        votes = dict(machine.disk.images)
        execution.state = execution.state.put(EVIDENCE, EvidenceEntry(ACCOUNT_IDS[0], 1), b"a bit that flipped")
        spoiled_at = tip(machine)
        await until_ended(machine, ends, 1)
        assert [type(end) for end in ends] == [StateDisagreement]
        name = dump_name(spoiled_at + 1)
        assert machine.disk.files.names(name)
        world.start(machine)
        await until_ended(machine, ends, 2)
        assert isinstance(ends[1], Rejected)
        assert "nocknode recovery resync" in ends[1].detail

        ground = machine._open_ground()
        forget_chain(ground)
        ground.close()
        assert all(machine.disk.images[journal].startswith(image) for journal, image in votes.items())
        world.start(machine)
        await until_there(machine)
        await trio.sleep(60.0)
        assert machine.node.ground.ledger.oldest() in (32, 64)  # the newest checkpoint of the moment
        assert abs(tip(machine) - tip(world.machines[1])) <= 1
        assert machine.node.engine.execution.state.find(EVIDENCE, b"a bit that flipped") is None
        assert machine.node.engine.finality.statistics().refusal is None
        assert Height(tip(machine)) > spoiled_at

    check(run_script(replace(scenario(0), seconds=360.0, arrivals=()), 1, spoil))


def four() -> Scenario:
    """Four machines, all of them validators: any two that are lost stop the chain. One more comes late."""
    calm = ci_sized(resize(find_scenario("calm"), 6))
    return replace(
        calm,
        seconds=770.0,
        validators=4,
        bootstraps=2,
        arrivals=(Arrivals(2, 600.0, 600.0),),
        must_hold=MustHold(("counted_once",)),
    )


def adopt(machine: VirtualMachine, signed: SignedRecovery) -> None:
    """What its operator does: the file, and its digest in the configuration."""
    machine.disk.files.write(RECOVERY_FILE, [encode(signed)])
    told = replace(machine._settings(), recovery=RecoverySettings(signed.recovery.digest().hex()))
    machine._settings = lambda: told  # type: ignore[method-assign]  # this machine's alone


async def recover(world: VirtualWorld, machines: list[VirtualMachine]) -> SignedRecovery:
    """Stop these machines, propose and sign with each, and start them on the new fork."""
    grounds = []
    for machine in machines:
        await world.kill(machine)
        grounds.append(machine._open_ground())
    proposals = [make_proposal(ground, "two of four are lost") for ground in grounds]
    for proposal in proposals:
        check_proposal(proposal, LightClientRule.of(world.genesis, grounds[0].chain.fork))
    made = combine_proposals(proposals, None, "two of four are lost", world.genesis.chain.epoch_heights)
    signed = unsigned(made)
    for ground in grounds:
        signed = sign_document(ground, signed)
        ground.close()
    for machine in machines:
        adopt(machine, signed)
        world.start(machine)
    return signed


def check_goes_on(machine: VirtualMachine, members: list[VirtualMachine], above: int, fork: int = 1) -> None:
    """It is on the new fork, whose members these are, and blocks became final there; all that it holds agrees."""
    assert machine.node is not None
    ground, state = machine.node.ground, machine.node.engine.execution.state
    assert tip(machine) > above
    newest = ground.ledger.find_header(Height(tip(machine)))
    assert newest is not None
    assert decode(Header, newest, limit_bytes=4096).chain == ground.chain
    assert ground.chain.fork == fork
    assert [member.node for member in machine.node.roster.members] == sorted(each.peer for each in members)
    assert ground.load_state().root() == state.root()
    assert abs(tip(machine) - tip(members[0])) <= 1


def test_two_of_four_go_on_without_the_others() -> None:
    """The chain stands; two operators sign a recovery, and it goes on from the last final block that any of them has.

    Old votes are refused on the new fork, old journals stay, who is left out leaves. One of the lost comes back, adopts and
    follows; the other does not, and hurts nobody. Whoever comes later joins from a checkpoint of the new fork, or, where
    nobody told it of the recovery, stands at the anchor and blames nobody.
    """

    async def lose(world: VirtualWorld) -> None:
        left, gone, (late, unaware) = world.machines[:2], world.machines[2:4], world.machines[4:]
        await trio.sleep_until(120.0)
        assert len(genesis_roster(world.genesis).members) == 4
        for machine in gone:
            await world.kill(machine)
        await trio.sleep_until(200.0)
        stood = [tip(machine) for machine in left]
        await trio.sleep_until(240.0)
        assert [tip(machine) for machine in left] == stood
        old = {machine.plan.index: machine.disk.images["votes.journal"] for machine in left}
        signed = await recover(world, left)
        adopt(late, signed)
        await trio.sleep_until(300.0)
        for machine in left:
            check_goes_on(machine, left, max(stood))
            assert machine.node is not None
            state, chain = machine.node.engine.execution.state, machine.node.chain
            statuses = [state.get(VALIDATORS, each.peer).status for each in (*left, *gone)]
            assert statuses == [ValidatorStatus.ACTIVE] * 2 + [ValidatorStatus.LEFT] * 2
            assert machine.disk.images["votes.journal"].startswith(old[machine.plan.index])
            anchor = signed.recovery.anchor
            with pytest.raises(Rejected):
                check_certificate(anchor.certificate, genesis_roster(world.genesis), chain)

        adopt(gone[0], signed)
        for machine in gone:
            world.start(machine)
        await world.kill(left[0])
        world.start(left[0])
        await trio.sleep_until(400.0)
        for machine in (*left, gone[0]):
            check_goes_on(machine, left, max(stood) + 5)
        assert gone[1].node is not None
        assert gone[1].node.blamed == {}
        assert gone[1].node.ground.chain.fork == 0
        assert tip(gone[1]) <= max(stood)

        await trio.sleep_until(700.0)
        for machine in (*left, gone[0], late):
            check_goes_on(machine, left, 2 * world.genesis.chain.epoch_heights)
        assert late.node is not None
        assert (late.node.ground.ledger.oldest() or 0) > max(stood)
        assert tip(unaware) == signed.recovery.anchor.header.height
        assert unaware.node is not None
        assert unaware.node.blamed == {}

        await world.kill(gone[0])
        ground = gone[0]._open_ground()
        forget_chain(ground)
        ground.close()
        world.start(gone[0])
        await trio.sleep_until(760.0)
        check_goes_on(gone[0], left, 2 * world.genesis.chain.epoch_heights)

    check(run_script(four(), 7, lose))


def test_a_chain_that_stood_at_the_end_of_an_epoch_goes_on_in_the_next_one() -> None:
    """The next epoch's members decide, although no block of it was ever final; and a recovery may follow a recovery.

    One of the two was a block behind then: it stays on the old fork until the other has given it that block, and nobody blames
    it for what it says there.
    """

    async def lose(world: VirtualWorld) -> None:
        left, gone = world.machines[:2], world.machines[2:4]
        last = world.genesis.chain.epoch_heights
        await trio.sleep_until(60.0)
        while max(tip(machine) for machine in left) < last:
            await trio.sleep(0.01)
        for machine in gone:
            await world.kill(machine)
        await trio.sleep(60.0)
        assert [tip(machine) for machine in left] == [last, last]
        signed = await recover(world, left)
        assert signed.recovery.following is not None
        await trio.sleep(200.0)
        for machine in left:
            check_goes_on(machine, left, 2 * last)
        while tip(left[0]) == tip(left[1]):
            await trio.sleep(0.001)
        behind, ahead = sorted(left, key=tip)
        missing_from, below = tip(behind), tip(ahead)
        signed = await recover(world, [behind, ahead])
        assert signed.recovery.anchor.header.height > missing_from
        await trio.sleep(60.0)
        for machine in left:
            check_goes_on(machine, left, below, fork=2)
            assert machine.node is not None
            assert machine.node.blamed == {}
            assert {"votes.journal", "votes-1.journal", "votes-2.journal"} <= set(machine.disk.images)

    check(run_script(replace(four(), seconds=540.0, arrivals=(), peers=4), 3, lose))
