"""What rounds, compression and publication cost in loss: three ways to learn from the same text, side by side.

    rounds         the rounds as nodes run them: four learners, H local steps, compressed deltas with error feedback, merge,
                   published update, outer step. The very functions that node and worker call, in one process
    uncompressed   the same with float32 deltas and updates
    synchronous    one learner; a step's batch is the four learners' batches of that step in one. The same inner
                   optimiser, with as many sequences in its divisor: stronger than plain AdamW (docs/decisions/0011)

Model, text, tokens, batches, schedule and first weights are the same in all three; a seed chooses first weights and learner
ids, and with these the batches. Losses are nats per byte on the fixed validation windows. Seeds differ by about 1 %: judge on
means.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, report, say, standard_options

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from protocol.genesis import Genesis

ROUNDS_AS_THEY_RUN, UNCOMPRESSED, SYNCHRONOUS = "rounds", "uncompressed", "synchronous"
LETTERS: Final = {"a": ROUNDS_AS_THEY_RUN, "b": UNCOMPRESSED, "c": SYNCHRONOUS}
GOALS_PERCENT: Final = {
    UNCOMPRESSED: 1.0,
    SYNCHRONOUS: 2.0,
}  # the rounds are at most so much worse, on the mean of the seeds
EVALUATION_BATCH_SEQUENCES: Final = 8  # as a worker evaluates
CREATED_MS: Final = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One arm with one seed: what a process runs from beginning to end."""

    arm: str
    seed: int
    rounds: int
    learners: int
    network: str
    corpus: Path | None
    device: str
    overrides: tuple[tuple[str, str], ...] = ()  # keys of the template and their values, as TOML


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case. Bytes are of the whole run; ``update_bytes`` counts each published update once."""

    case: Case
    losses: tuple[float, ...]  # after every round, nats per byte
    first_loss: float  # of the first weights
    tokens: int
    dataset_root: str
    delta_float32_bytes: int
    delta_bytes: int
    update_float32_bytes: int
    update_bytes: int
    seconds: float


@click.command()
@click.option("--seeds", default="0,1,2", show_default=True, help="Of weights and learner ids.")
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True)
@click.option("--learners", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option("--arms", default="a,b,c", show_default=True, help="a: rounds, b: uncompressed, c: synchronous.")
@click.option(
    "--corpus", type=click.Path(path_type=Path), help="File or folder of text. [default: the standard library]"
)
@click.option(
    "--device", default="cpu", show_default=True, help="cpu or cuda:N, of the local steps and the evaluation."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Of the template: learning.inner_steps=5. Repeatable."
)
@click.option("--jobs", type=click.IntRange(1), help="Processes at once, one core each. [default: the cores]")
@standard_options
def main(
    seeds: str,
    rounds: int,
    learners: int,
    arms: str,
    corpus: Path | None,
    device: str,
    settings: tuple[str, ...],
    jobs: int | None,
    as_json: bool,
    quick: bool,
) -> None:
    """Loss of the rounds as they run, beside the same without compression, and one synchronous process."""
    names = [LETTERS.get(arm, arm) for arm in arms.split(",")]
    unknown = sorted(set(names) - set(LETTERS.values()))
    if unknown:
        raise click.UsageError(f"there is no arm {', '.join(unknown)}; there are {', '.join(LETTERS)}")
    network = "test" if quick else "devnet"
    if quick:
        rounds, corpus = min(rounds, 3), corpus or Path(asyncio.__file__).parent  # some 0.5 MB of text
    overrides = tuple((key.strip(), value.strip()) for key, _, value in (each.partition("=") for each in settings))
    cases = [
        Case(arm, int(seed), rounds, learners, network, corpus, device, overrides)
        for seed in (seeds.split(",")[:1] if quick else seeds.split(","))
        for arm in names
    ]
    outcomes = run_all(cases, min(jobs or os.cpu_count() or 1, len(cases)), run_case)
    rows = make_rows(outcomes)
    facts = {
        "dataset_root": outcomes[0].dataset_root,
        "network": network,
        "settings": dict(overrides),
        "rounds": cases[0].rounds,
        "quick": quick,
        "learners": learners,
        "tokens": outcomes[0].tokens,
        "device": device,
        "goals": goals(outcomes),
        "runs": [
            {
                "arm": outcome.case.arm,
                "seed": outcome.case.seed,
                "first_loss": outcome.first_loss,
                "losses": outcome.losses,
                "seconds": round(outcome.seconds, 1),
            }
            for outcome in outcomes
        ],
    }
    if len({(outcome.dataset_root, outcome.tokens) for outcome in outcomes}) != 1:
        raise click.ClickException("the arms did not learn from the same text and the same number of tokens")
    say(f"data set {outcomes[0].dataset_root[:16]}, {outcomes[0].tokens:,} tokens in each run")
    report("parity", rows, as_json, facts)


def run_all(cases: Sequence[Case], jobs: int, run: Callable[[Any], Outcome]) -> list[Outcome]:
    """Every case in a process of its own, `jobs` at a time; in the order of `cases`."""
    from compute.io.pool import worker_environment

    os.environ.update(worker_environment(threads=1))  # read by the children before they import torch
    outcomes: dict[Case, Outcome] = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = [pool.submit(run, case) for case in cases]
        for future in as_completed(waiting):
            outcome = future.result()
            outcomes[outcome.case] = outcome
            say(
                f"{title(outcome.case)}: {outcome.losses[-1]:.4f} nats per byte after {outcome.case.rounds} rounds, "
                f"{outcome.seconds:.0f} s"
            )
    return [outcomes[case] for case in cases]


# -- the rows -------------------------------------------------------------------------------------------------------------


def make_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Final losses by arm and seed, their means, how the rounds stand to the other arms, and the bytes."""
    rows = [compare(f"{title(outcome.case)}, final loss", "nats/byte", outcome.losses[-1]) for outcome in outcomes]
    means = _means(outcomes)
    rows += [
        compare(f"{arm}, mean of the seeds", "nats/byte", means[arm], means.get(other), other)
        for arm, other in ((ROUNDS_AS_THEY_RUN, UNCOMPRESSED), (ROUNDS_AS_THEY_RUN, SYNCHRONOUS))
        if arm in means and other in means
    ]
    rows += [
        compare(
            f"rounds worse than {goal['against']} (goal: at most {goal['limit_percent']:g} %)", "%", goal["percent"]
        )
        for goal in goals(outcomes)
    ]
    ours = [outcome for outcome in outcomes if outcome.case.arm == ROUNDS_AS_THEY_RUN]
    if ours:
        plain, deltas = (sum(getattr(each, name) for each in ours) for name in ("delta_float32_bytes", "delta_bytes"))
        plain_updates = sum(each.update_float32_bytes for each in ours)
        updates = sum(each.update_bytes for each in ours)
        copies = max(1, ours[0].case.learners - 1)
        whole, plain_whole = deltas + copies * updates, plain + copies * plain_updates
        rows += [
            compare(what, "x", ratio, floor_ratio, "float32", more_is_better=True)
            for what, ratio, floor_ratio in (
                ("deltas: float32 bytes over payload bytes", plain / deltas, 1.0),
                ("updates: float32 bytes over payload bytes", plain_updates / updates, 1.0),
                (
                    f"deltas' float32 bytes over deltas and {copies} copies of updates",
                    plain / whole,
                    plain / plain_whole,
                ),
            )
        ]
    return rows


def goals(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """How much worse than the other arms the rounds are, in per cent of the loss, and whether that is within the goal."""
    means = _means(outcomes)
    if ROUNDS_AS_THEY_RUN not in means:
        return []
    percents = {arm: 100 * (means[ROUNDS_AS_THEY_RUN] / means[arm] - 1) for arm in GOALS_PERCENT if arm in means}
    return [
        {"against": arm, "percent": percent, "limit_percent": GOALS_PERCENT[arm], "met": percent <= GOALS_PERCENT[arm]}
        for arm, percent in percents.items()
    ]


def _means(outcomes: Sequence[Outcome]) -> dict[str, float]:
    finals: dict[str, list[float]] = {}
    for outcome in outcomes:
        finals.setdefault(outcome.case.arm, []).append(outcome.losses[-1])
    return {arm: sum(losses) / len(losses) for arm, losses in finals.items()}


def title(case: Case) -> str:
    return f"{case.arm}, seed {case.seed}"


# -- one case, in its own process -------------------------------------------------------------------------------------------


def run_case(case: Case) -> Outcome:
    """Learn from the first weights to the last round."""
    import torch

    torch.set_num_threads(1)
    started = time.monotonic()
    world = World(case)
    outcome = world.learn_together() if case.arm == SYNCHRONOUS else world.learn_in_rounds()
    return outcome(seconds=time.monotonic() - started)


class World:
    """A network's genesis and text, and the functions of a node and its worker over them."""

    def __init__(self, case: Case) -> None:
        from compute.model.config import check_config
        from compute.model.moe import MoEModel
        from compute.model.tiling import TileMap
        from node.config import load_template
        from node.genesis_file import found_network, read_shards

        self.case = case
        values = {
            key: tomllib.loads(f"value = {value}", parse_float=Fraction)["value"] for key, value in case.overrides
        }
        template = load_template(case.network, overrides=values)
        self.shards = read_shards(case.corpus)
        self.genesis = found_network(template, _cards(case.seed, case.learners), self.shards, case.seed, CREATED_MS)
        self.rule = _rule_of(self.genesis, case.arm)
        self.tile_map = TileMap.from_shape(self.genesis.model, self.genesis.tile_bytes)
        self.config = check_config(self.genesis.model)
        self.learners = [founder.card.node for founder in self.genesis.founders]
        self._reader = MoEModel(self.config).to(case.device)
        self._validation = list(self._validation_batches())

    # -- what a benchmark may have otherwise ------------------------------------------------------------------------------

    def read(self, number: int, peer: bytes) -> Iterator[NDArray[numpy.uint8]]:
        """The batches of a learner's round."""
        return self._batches(number, [peer])

    def send(self, number: int, peer: bytes, tile: Any, weights_N: Any, change_N: Any) -> Any:
        """What a learner sends as its change of a tile; None: nothing."""
        return change_N

    # -- the arms ---------------------------------------------------------------------------------------------------------

    def learn_in_rounds(self) -> Callable[..., Outcome]:
        """What four nodes do when no delta is lost: learn from the same versions, merge all deltas, apply the updates."""
        from compute.delta.codec import decode
        from compute.delta.feedback import begin_ahead, compress_with_feedback, empty_residual
        from compute.learner import Learner
        from compute.model.genesis import genesis_tile
        from compute.outer import apply_update, initial_state
        from node.tile_work import matrices_of, outer_rule
        from protocol.genesis import MILLION
        from protocol.ids import Version

        rule, outer = self.rule, outer_rule(self.rule)
        states = {
            tile.id: initial_state(
                genesis_tile(self.genesis.model, self.tile_map, self.genesis.model_seed, tile.id), outer
            )
            for tile in self.tile_map.tiles
        }
        learners = {peer: Learner(self.config, rule, self.case.device) for peer in self.learners}
        residuals = {
            (peer, tile.id): empty_residual(tile.values) for peer in self.learners for tile in self.tile_map.tiles
        }
        first_loss = self._evaluate({tile: state[0] for tile, state in states.items()})
        start = Fraction(rule.residual_start_micro, MILLION)
        losses: list[float] = []
        tokens = delta_bytes = update_bytes = 0
        for number in range(self.case.rounds):
            payloads: dict[Any, list[tuple[bytes, int, bytes]]] = {tile: [] for tile in states}
            for peer, learner in learners.items():
                learner.load(
                    self.tile_map.assemble(
                        {tile: begin_ahead(state[0], residuals[peer, tile], start) for tile, state in states.items()}
                    )
                )
                seen = learner.run_steps(number, self.read(number, peer)).tokens
                tokens += seen
                for tile, change in sorted(learner.deltas(self.tile_map).items()):
                    sent = self.send(number, peer, tile, states[tile][0], change)
                    if sent is None:
                        continue
                    payload, residuals[peer, tile] = compress_with_feedback(
                        sent,
                        residuals[peer, tile],
                        rule.delta_pipeline,
                        Fraction(rule.residual_decay_micro, MILLION),
                        matrices_of(self.tile_map.tile(tile)),
                    )
                    delta_bytes += len(payload)
                    payloads[tile].append((peer, seen, payload))
            for tile, contributions in payloads.items():
                update = self._merge(tile, contributions)
                update_bytes += len(update)
                said = decode(update, self.tile_map.tile(tile).values)
                states[tile] = apply_update(states[tile], said, outer, Version(number + 1))
            losses.append(self._evaluate({tile: state[0] for tile, state in states.items()}))
            say(f"{title(self.case)}, round {number}: {losses[-1]:.4f}")
        return self._outcome(losses, first_loss, tokens, delta_bytes, update_bytes)

    def learn_together(self) -> Callable[..., Outcome]:
        """One learner that steps on the batches of all."""
        from compute.learner import Learner
        from compute.model.genesis import genesis_weights

        learner = Learner(self.config, self.rule, self.case.device)
        learner.load(genesis_weights(self.genesis.model, self.tile_map, self.genesis.model_seed))
        first_loss = self._loss_of(learner.model)
        losses: list[float] = []
        tokens = 0
        for number in range(self.case.rounds):
            tokens += learner.run_steps(number, self._batches(number, self.learners)).tokens
            losses.append(self._loss_of(learner.model))
            say(f"{title(self.case)}, round {number}: {losses[-1]:.4f}")
        return self._outcome(losses, first_loss, tokens, 0, 0)

    def _merge(self, tile: Any, contributions: Sequence[tuple[bytes, int, bytes]]) -> bytes:
        """The published update of a tile, as its owner makes it."""
        from compute.delta.codec import decode, encode
        from compute.merge import merge
        from node.tile_work import matrices_of, merge_rule

        values = self.tile_map.tile(tile).values
        decoded = [(peer, weight, decode(payload, values)) for peer, weight, payload in contributions]
        gradient = merge(decoded, merge_rule(self.rule)).gradient_N
        return encode(gradient, self.rule.update_pipeline, matrices_of(self.tile_map.tile(tile)))

    def _batches(self, number: int, peers: Sequence[bytes]) -> Iterator[NDArray[numpy.uint8]]:
        """The batches of a round; those of several learners' same step in one."""
        import numpy as np

        from compute.data import batch_windows, tokens_of_windows

        manifest, context = self.genesis.datasets[0], self.genesis.model.context
        root = manifest.root()
        for step in range(self.rule.inner_steps):
            yield np.concatenate(
                [
                    tokens_of_windows(
                        batch_windows(
                            root,
                            number,
                            peer,
                            step,
                            self.rule.batch_sequences,
                            context,
                            manifest.shard_bytes,
                            manifest.split_micro,
                        ),
                        context,
                        self.shards,
                    )
                    for peer in peers
                ]
            )

    def _validation_batches(self) -> Iterator[NDArray[numpy.uint8]]:
        from compute.data import tokens_of_windows, validation_windows

        manifest, context = self.genesis.datasets[0], self.genesis.model.context
        windows = validation_windows(
            manifest.root(), self.rule.validation_sequences, context, manifest.shard_bytes, manifest.split_micro
        )
        for first in range(0, len(windows), EVALUATION_BATCH_SEQUENCES):
            yield tokens_of_windows(windows[first : first + EVALUATION_BATCH_SEQUENCES], context, self.shards)

    def _evaluate(self, tiles: Any) -> float:
        self._reader.load(self.tile_map.assemble(tiles))
        return self._loss_of(self._reader)

    def _loss_of(self, model: Any) -> float:
        from compute.evaluation import evaluate_model

        return evaluate_model(model, self._validation)

    def _outcome(
        self, losses: Sequence[float], first_loss: float, tokens: int, delta_bytes: int, update_bytes: int
    ) -> Callable[..., Outcome]:
        model_bytes = 4 * self.tile_map.values
        return partial(
            Outcome,
            case=self.case,
            losses=tuple(losses),
            first_loss=first_loss,
            tokens=tokens,
            dataset_root=self.genesis.datasets[0].root().hex(),
            delta_float32_bytes=model_bytes * self.case.rounds * self.case.learners if delta_bytes else 0,
            delta_bytes=delta_bytes,
            update_float32_bytes=model_bytes * self.case.rounds if update_bytes else 0,
            update_bytes=update_bytes,
        )


def _cards(seed: int, count: int) -> list[Any]:
    """The founders' cards: their keys follow from the seed, so that a run can be repeated."""
    from hashlib import sha256

    from protocol.keys import KeyPair
    from protocol.roster import MemberCard

    def pair(index: int, name: str) -> KeyPair:
        return KeyPair(sha256(f"benchmarks/parity {seed} {index} {name}".encode()).digest())

    return [MemberCard.bind(pair(index, "node"), pair(index, "vote"), pair(index, "account")) for index in range(count)]


def _rule_of(genesis: Genesis, arm: str) -> Any:
    """The genesis' rule. Uncompressed, float32 travels and nothing is left for a residual.

    One process has the batches of all learners in one, so that as many sequences are so many fewer batches.
    """
    from msgspec.structs import replace

    if arm == UNCOMPRESSED:
        return replace(genesis.learning, delta_pipeline="none", update_pipeline="none", residual_decay_micro=0)
    if arm == SYNCHRONOUS:
        batches = max(1, genesis.learning.averaged_batches // len(genesis.founders))
        return replace(genesis.learning, averaged_batches=batches)
    return genesis.learning


if __name__ == "__main__":
    main()
