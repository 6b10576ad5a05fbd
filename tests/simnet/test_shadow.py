"""The learning of a world alone: what poison costs under the default merge, and what plain averaging would have lost."""

from __future__ import annotations

import functools

import pytest

from protocol.ids import PeerId
from simnet.network import plan_peers
from simnet.scenario import HardwareClass, Learning, MustHold, Region, Scenario, Villains
from simnet.shadow import LOSS_MAX, Shadow, shadow_losses
from simnet.villains import VILLAINS

ROUNDS = 12


def scenario(*villains: Villains, merge_rule: str = "agreement") -> Scenario:
    """Ten learners of a model of six tiles."""
    return Scenario(
        name="shadow",
        says="Ten learners, some of them poison.",
        seconds=6_000.0,
        peers=10,
        validators=4,
        bootstraps=1,
        regions=(Region("here", 1.0, (0.0, 0.0)),),
        routes=(),
        hardware=(HardwareClass("laptop", 1.0, 60.0, 20.0, 100.0),),
        learning=Learning(tiles=6, merge_rule=merge_rule),
        must_hold=MustHold(()),
        villains=villains,
    )


def everybody(world: Scenario, rounds: int = ROUNDS) -> list[list[PeerId]]:
    return [[plan.peer for plan in plan_peers(world, 0)]] * rounds


def losses_of(world: Scenario, shadow: Shadow, rounds: int = ROUNDS) -> tuple[float, ...]:
    return _losses_of(world.villains, world.learning.merge_rule, shadow, rounds)


@functools.cache
def _losses_of(villains: tuple[Villains, ...], merge_rule: str, shadow: Shadow, rounds: int) -> tuple[float, ...]:
    world = scenario(*villains, merge_rule=merge_rule)
    return tuple(shadow_losses(world, 0, everybody(world, rounds), shadow))


def final(world: Scenario, shadow: Shadow) -> float:
    return losses_of(world, shadow)[-1]


def test_the_honest_learn_and_their_order_changes_nothing() -> None:
    """Losses fall; sets and lists of the same learners give the same bits."""
    world = scenario()
    losses = losses_of(world, Shadow.AS_MERGED)
    assert list(losses) == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * 5.5
    backwards = [list(reversed(present)) for present in everybody(world, 3)]
    assert tuple(shadow_losses(world, 0, backwards, Shadow.AS_MERGED)) == losses[:3]


def test_without_villains_all_shadows_agree_within_a_hundredth() -> None:
    """The rule for strangers costs the honest nearly nothing."""
    world = scenario()
    merged, plain, honest = (final(world, shadow) for shadow in Shadow)
    assert merged == honest
    assert abs(merged / plain - 1) < 0.01


@pytest.mark.parametrize("kind", list(VILLAINS))
def test_three_villains_in_ten_cost_at_most_two_hundredths(kind: str) -> None:
    """Each kind alone, under the default merge, against the same honest learners without them, after twelve rounds."""
    world = scenario(Villains(kind, 0.3))
    assert final(world, Shadow.AS_MERGED) <= 1.02 * final(world, Shadow.HONEST)


def test_a_mixture_costs_no_more() -> None:
    """Three kinds at once."""
    world = scenario(Villains("colluding", 0.1), Villains("label_flip", 0.1), Villains("lazy", 0.1))
    assert final(world, Shadow.AS_MERGED) <= 1.02 * final(world, Shadow.HONEST)


def test_plain_averaging_loses_what_the_report_shows() -> None:
    """Shouted at or turned round, a plain average is worse than untrained; lost for good, it says so in a finite number."""
    assert final(scenario(Villains("sign_flipped", 0.3)), Shadow.PLAIN) > 1.1 * final(scenario(), Shadow.PLAIN)
    assert final(scenario(Villains("scaled", 0.3)), Shadow.PLAIN) > 100
    losses = losses_of(scenario(Villains("sign_flipped", 0.9)), Shadow.PLAIN, 50)  # beyond what any delta may hold
    assert losses[-1] == LOSS_MAX
    assert losses.count(LOSS_MAX) == len(losses) - losses.index(LOSS_MAX)


def test_villains_are_honest_before_their_round() -> None:
    """Up to its first round a villain learns as all do."""
    late = scenario(Villains("colluding", 0.3, from_round=4))
    losses, honest = (losses_of(world, Shadow.AS_MERGED) for world in (late, scenario()))
    assert losses[:4] == honest[:4]
    assert losses[4:] != honest[4:]


def test_a_round_of_nobody_changes_nothing() -> None:
    """Rounds without deltas keep the loss; the honest shadow of villains alone has such rounds."""
    world = scenario(Villains("noise", 1.0))
    assert len(set(shadow_losses(world, 0, everybody(world, 3), Shadow.HONEST))) == 1
    assert shadow_losses(world, 0, [], Shadow.PLAIN) == []


def test_another_rule_is_another_shadow() -> None:
    """The scenario's rule is the one that merges."""
    poisoned = scenario(Villains("sign_flipped", 0.3))
    mean = scenario(*poisoned.villains, merge_rule="mean")
    assert final(mean, Shadow.AS_MERGED) > 1.1 * final(poisoned, Shadow.AS_MERGED)
