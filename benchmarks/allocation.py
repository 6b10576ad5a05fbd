"""Who holds which experts: what a plan takes, how even it makes the work, and what moves when the calls go elsewhere.

Calls fall off as 1 / rank over the experts; then the ranks turn by half, so that what was called least is called most. A
plan from nothing is a network's first one; every later one starts from what is held. Beside the copies that move stand those
that a plan would move which starts from nothing each time; the floor is what no plan can do without, when all are to come
within a fifth of their share: whoever has too little to do even with all the calls of what it holds needs more experts, and an
expert with more calls than its holders may have needs more holders. Processor time of one core.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import click

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, report, say, standard_options, time_calls
from consensus.expert_allocation import OFF_PERCENT, Demand, Holder, Plan, plan_allocation
from protocol.ids import PeerId
from protocol.limits import MIB

NETWORKS: Final = ((8, 16), (50, 64), (200, 256))  # peers and experts
QUICK: Final = NETWORKS[:2]
COPIES_ROOM: Final = 16  # a peer has room for so many experts
EXPERT_BYTES: Final = MIB
CALL_BYTES: Final = 2_048  # a width of 256 in float32, there and back
CALLS_PER_PEER: Final = 20_000  # in a period: thirty a second
REGIONS: Final = 4


def holders_of(peers: int) -> list[Holder]:
    """Peers of three speeds in four regions, who hold nothing."""
    return [
        Holder(
            PeerId(n.to_bytes(32, "big")),
            f"region-{n % REGIONS}",
            COPIES_ROOM * EXPERT_BYTES,
            n % 10,
            (100, 200, 400)[n % 3],
        )
        for n in range(peers)
    ]


def demands_of(experts: int, peers: int, turned: int) -> list[Demand]:
    """Calls by rank, the ranks turned by so many."""
    whole = sum(1 / rank for rank in range(1, experts + 1))
    calls = [int(CALLS_PER_PEER * peers / whole / (1 + (n + turned) % experts)) for n in range(experts)]
    return [Demand(f"layer{n // 16}.expert{n % 16}", EXPERT_BYTES, each, CALL_BYTES) for n, each in enumerate(calls)]


def carried_out(holders: Sequence[Holder], plan: Plan) -> list[Holder]:
    """When all did what the plan says."""
    return [replace(each, held=plan.held(each.peer)) for each in holders]


def off_percent(holders: Sequence[Holder], calls: dict[PeerId, float]) -> float:
    """How far off its share of calls the one is that is farthest off."""
    total, speed = sum(calls.values()), sum(each.speed for each in holders)
    return max(abs(100 * calls.get(each.peer, 0) * speed / (total * each.speed) - 100) for each in holders)


def divided(plan: Plan) -> dict[PeerId, float]:
    calls: dict[PeerId, float] = {}
    for copy in itertools.chain.from_iterable(plan.copies.values()):
        calls[copy.peer] = calls.get(copy.peer, 0) + copy.calls
    return calls


def divided_evenly(plan: Plan, demands: Sequence[Demand]) -> dict[PeerId, float]:
    """As if each copy of an expert had as many calls as the others."""
    by_expert = {each.expert: each.calls for each in demands}
    calls: dict[PeerId, float] = {}
    for name, copies in plan.copies.items():
        for copy in copies:
            calls[copy.peer] = calls.get(copy.peer, 0) + by_expert[name.expert] / len(copies)
    return calls


def moves_least(holders: Sequence[Holder], demands: Sequence[Demand]) -> int:
    """So many copies every plan adds that brings all within a fifth of their share: the larger of two lower bounds."""
    total, speed = sum(each.calls for each in demands), sum(each.speed for each in holders)
    calls = {each.expert: each.calls for each in demands}
    shares = {each.peer: total * each.speed / speed for each in holders}

    def few(missing: float, helps: Sequence[float]) -> int:
        return sum(1 for done in itertools.accumulate([0.0, *sorted(helps, reverse=True)]) if done < missing)

    idle = 0
    for each in holders:
        held = {name.expert for name in each.held}
        least = shares[each.peer] * (100 - OFF_PERCENT) / 100
        idle += few(
            least - sum(calls[expert] for expert in held), [calls[other] for other in calls if other not in held]
        )
    crowded = 0
    for demand in demands:
        most = {each.peer: shares[each.peer] * (100 + OFF_PERCENT) / 100 for each in holders}
        having = [each.peer for each in holders if any(name.expert == demand.expert for name in each.held)]
        others = [most[peer] for peer in most if peer not in having]
        crowded += few(demand.calls - sum(most[peer] for peer in having), others)
    return max(idle, crowded)


@click.command()
@standard_options
def main(as_json: bool, quick: bool) -> None:
    """Plans of networks of several sizes."""
    timed = partial(time_calls, seconds=0.0, calls_min=1, clock=time.thread_time)
    rows: list[Row] = []
    for peers, experts in QUICK if quick else NETWORKS:
        rows += measure(peers, experts, timed)
        say(f"{peers} peers, {experts} experts: done")
    report("allocation", rows, as_json)


def measure(peers: int, experts: int, timed: Callable[[Callable[[], object]], float]) -> list[Row]:
    nobody, before, after = holders_of(peers), demands_of(experts, peers, 0), demands_of(experts, peers, experts // 2)
    here = carried_out(nobody, plan_allocation(nobody, before))
    plan = plan_allocation(here, after)
    there = carried_out(here, plan)
    if plan_allocation(there, after).moves:
        raise SystemExit("a plan that was carried out moves something")
    held = {each.peer: each.held for each in here}
    anew = [move for move in plan_allocation(nobody, after).moves if move.slice not in held[move.peer]]
    rows = [
        compare("a plan from nothing", "ms", timed(lambda: plan_allocation(nobody, before))),
        compare("a plan that changes nothing", "ms", timed(lambda: plan_allocation(there, after))),
        compare("farthest off its share before", "%", off_percent(here, divided(plan_allocation(here, before)))),
        compare(
            "farthest off when calls went elsewhere",
            "%",
            off_percent(there, divided(plan)),
            off_percent(there, divided_evenly(plan, after)),
            "each copy alike",
        ),
        compare("copies that moved", "copies", len(plan.moves), len(anew), "from nothing", moves_least(here, after)),
    ]
    return [replace(row, name=f"{peers} peers, {experts} experts: {row.name}") for row in rows]


if __name__ == "__main__":
    main()
