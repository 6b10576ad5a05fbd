"""Whole nodes in two regions: what each learned crosses between them once a tile, counts once, and is derived again."""

from __future__ import annotations

from node.verify import VerifyReport, verify_ground
from protocol.codec import decode
from protocol.finality import Body
from protocol.ids import Height
from protocol.limits import BODY_BYTES_MAX
from protocol.roster import Head
from simnet.scenario import HardwareClass, Learning, MustHold, Region, Scenario, check_scenario
from simnet.virtual.machine import VirtualMachine
from simnet.virtual.world import run_world

SCENARIO = check_scenario(
    Scenario(
        name="two-regions",
        says="Ten nodes, five here and five there.",
        seconds=60.0,
        peers=10,
        validators=4,
        bootstraps=2,
        regions=(Region("here", 1.0, (10.0, 50.0)), Region("there", 1.0, (-90.0, 40.0))),
        routes=(),
        hardware=(HardwareClass("machine", 1.0, 5.0, 100.0, 500.0),),
        learning=Learning(round_seconds=40.0, tiles=12, tile_values=1024),
        must_hold=MustHold(("chain_agrees", "counted_once", "no_failure")),
    )
)


def decided_heads(machine: VirtualMachine) -> list[Head]:
    """Every head in the ledger of a node that has ended."""
    ground = machine._open_ground()
    try:
        blocks = ground.ledger.range(Height(1), ground.ledger.tip() or Height(0))
        return [head for block in blocks for head in decode(Body, block.body, limit_bytes=BODY_BYTES_MAX).heads]
    finally:
        ground.close()


def verify(machine: VirtualMachine) -> VerifyReport:
    """What ``nocknode tiles verify`` finds on a machine."""
    ground = machine._open_ground()
    try:
        return verify_ground(ground, lambda done, total, what: None)
    finally:
        ground.close()


def test_a_region_sends_one_delta_of_a_tile() -> None:
    """Heads hold aggregates of a whole region, no delta is counted twice, and every aggregate is derived by its maker."""
    world = run_world(SCENARIO, 1)
    assert not [breach for each in world.outcome().invariants.values() for breach in each.breaches]
    machines = world.machines
    heads = decided_heads(machines[0])
    aggregates = [reference for head in heads for reference in head.deltas if reference.contributors]
    assert max(reference.learners for reference in aggregates) == 5
    counted = [name for head in heads for name in head.counted()]
    assert len(counted) == len(set(counted))
    for machine in machines:  # each by its aggregator, whose ledger may end a block earlier than another's
        report = verify(machine)
        assert not report.problems
        made = [each for head in decided_heads(machine) for each in head.deltas if each.contributors]
        assert report.aggregates_derived == sum(each.learner == machine.peer for each in made)
