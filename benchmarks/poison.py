"""What poison costs the real model: a share of the learners is of one kind of villain, for each kind and each merge rule.

A run is the rounds as nodes run them (``benchmarks/parity.py``: the very functions of node and worker, in one process), in
which the last learners send what ``simnet/villains`` makes of their changes. It is judged against the same honest learners
without villains, merged by plain mean: same text, same batches, same first weights. The goal is at most 2 % of the loss
with the rule for strangers, on the mean of the seeds, which differ by about 1 % themselves.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, report, say, standard_options
from benchmarks.parity import Case, Outcome, World, run_all

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

HONEST: Final = "honest"
MIXED: Final = "mixed"
MIXTURE: Final = ("colluding", "label_flip", "lazy")
KINDS: Final = (
    "scaled",
    "sign_flipped",
    "noise",
    "stale",
    "lazy",
    "free_rider",
    "label_flip",
    "colluding",
    "subtle",
    MIXED,
)
STRANGERS_RULE: Final = "agreement"
GOAL_PERCENT: Final = 2.0
SETTINGS: Final = (
    ("learning.inner_steps", "8"),
    ("learning.batch_sequences", "8"),
)  # of the small network, so that it learns more than the frequency of letters
PRINTABLE: Final = (32, 127)
SHIFT: Final = 47  # half of the printable characters: a wrong label is another character, always the same


@dataclass(frozen=True, slots=True)
class PoisonCase(Case):
    """A case with villains: their kinds, for the last learners. ``left_away``: so many last learners are not there."""

    villains: tuple[str, ...] = ()
    left_away: int = 0


@click.command()
@click.option("--seeds", default="0,1,2", show_default=True, help="Of weights, learner ids and villains.")
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True)
@click.option("--learners", type=click.IntRange(2, 64), default=10, show_default=True)
@click.option("--share", type=click.FloatRange(0, 0.49), default=0.3, show_default=True, help="Of villains.")
@click.option("--kinds", default=",".join(KINDS), show_default=True, help="Of villains.")
@click.option(
    "--rules", default=f"mean,centred_clip,{STRANGERS_RULE}", show_default=True, help="How deltas are merged."
)
@click.option("--network", default="test", show_default=True, help="A template of configs/: test or devnet.")
@click.option("--corpus", type=click.Path(path_type=Path), help="Text. [default: 0.5 MB of the library]")
@click.option("--jobs", type=click.IntRange(1), help="Processes at once, one core each. [default: the cores]")
@standard_options
def main(
    seeds: str,
    rounds: int,
    learners: int,
    share: float,
    kinds: str,
    rules: str,
    network: str,
    corpus: Path | None,
    jobs: int | None,
    as_json: bool,
    quick: bool,
) -> None:
    """Loss with villains, by kind and merge rule, beside that of the same honest learners without them."""
    unknown = sorted(set(kinds.split(",")) - set(KINDS))
    if unknown:
        raise click.UsageError(f"there is no villain {', '.join(unknown)}; there are {', '.join(KINDS)}")
    if quick:
        seeds, rounds, kinds = seeds.split(",")[0], min(rounds, 3), "sign_flipped"
        rules = f"mean,{STRANGERS_RULE}"
    villains = max(1, round(share * learners))
    corpus = corpus or Path(asyncio.__file__).parent

    def make_case(arm: str, seed: str, rule: str, kinds_there: tuple[str, ...]) -> PoisonCase:
        settings = (*(SETTINGS if network == "test" else ()), ("learning.merge_rule", f'"{rule}"'))
        left_away = 0 if kinds_there else villains
        return PoisonCase(arm, int(seed), rounds, learners, network, corpus, "cpu", settings, kinds_there, left_away)

    cases = [make_case(f"{HONEST}, {rule}", seed, rule, ()) for rule in _with_mean(rules) for seed in seeds.split(",")]
    cases += [
        make_case(f"{kind}, {rule}", seed, rule, _kinds_of(kind, villains))
        for kind in kinds.split(",")
        for rule in rules.split(",")
        for seed in seeds.split(",")
    ]
    outcomes = run_all(cases, min(jobs or os.cpu_count() or 1, len(cases)), run_case)
    rows, costs = make_rows(outcomes)
    facts = {
        "network": network,
        "rounds": rounds,
        "learners": learners,
        "villains": villains,
        "quick": quick,
        "goal_percent": GOAL_PERCENT,
        "costs_percent": costs,
        "met": all(cost <= GOAL_PERCENT for arm, cost in costs.items() if arm.endswith(f", {STRANGERS_RULE}")),
    }
    say(f"{villains} villains among {learners} learners, {rounds} rounds")
    report("poison", rows, as_json, facts)


def make_rows(outcomes: Sequence[Outcome]) -> tuple[list[Row], dict[str, float]]:
    """The mean final loss of each arm beside that of the honest merged by mean, and its cost in per cent."""
    finals: dict[str, list[float]] = {}
    for outcome in outcomes:
        finals.setdefault(outcome.case.arm, []).append(outcome.losses[-1])
    means = {arm: sum(losses) / len(losses) for arm, losses in finals.items()}
    honest = means[f"{HONEST}, mean"]
    costs = {arm: 100 * (loss / honest - 1) for arm, loss in means.items()}
    rows = [
        compare(f"{arm} ({costs[arm]:+.2f} %)", "nats/byte", loss, honest, f"{HONEST}, mean")
        for arm, loss in means.items()
    ]
    return rows, costs


def _with_mean(rules: str) -> list[str]:
    """The rules, and the one that the honest are judged by."""
    return ["mean", *(rule for rule in rules.split(",") if rule != "mean")]


def _kinds_of(kind: str, villains: int) -> tuple[str, ...]:
    kinds = MIXTURE if kind == MIXED else (kind,)
    return tuple(kinds[index % len(kinds)] for index in range(villains))


def run_case(case: PoisonCase) -> Outcome:
    """Learn from the first weights to the last round."""
    import torch

    torch.set_num_threads(1)
    started = time.monotonic()
    return _make_world(case).learn_in_rounds()(seconds=time.monotonic() - started)


def _make_world(case: PoisonCase) -> World:
    from protocol.ids import PeerId, Version
    from simnet.villains import VILLAINS, Conspiracy

    class Poisoned(World):
        """The last learners are villains, or not there."""

        def __init__(self) -> None:
            super().__init__(case)
            conspiracy = self._conspiracy = Conspiracy(case.seed)
            there = len(self.learners) - case.left_away
            self.learners = self.learners[:there]
            self._villains = {
                peer: VILLAINS[kind](PeerId(peer), case.seed, conspiracy)
                for peer, kind in zip(self.learners[there - len(case.villains) :], case.villains, strict=False)
            }

        def read(self, number: int, peer: bytes) -> Iterator[NDArray[numpy.uint8]]:
            villain = self._villains.get(peer)
            batches = super().read(number, peer)
            return map(flip_labels, batches) if villain is not None and villain.FLIPS_LABELS else batches

        def send(self, number: int, peer: bytes, tile: Any, weights_N: Any, change_N: Any) -> Any:
            villain = self._villains.get(peer)
            if villain is None:
                self._conspiracy.saw(PeerId(peer), tile, number, change_N)
                return change_N
            return villain.change(tile, number, Version(number), weights_N, change_N)

    return Poisoned()


def flip_labels(batch: NDArray[numpy.uint8]) -> NDArray[numpy.uint8]:
    """The same text with every printable character replaced by another one: what follows what is wrong everywhere."""
    first, end = PRINTABLE
    wrong = batch.copy()
    printable = (batch >= first) & (batch < end)
    wrong[printable] = first + (batch[printable].astype(int) - first + SHIFT) % (end - first)
    return wrong


if __name__ == "__main__":
    main()
