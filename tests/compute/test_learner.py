"""A learner repeats itself, resumes exactly, learns, and touches only what it holds."""

from __future__ import annotations

import numpy
import pytest
import torch

from compute.data import batch_windows, pack_corpus, tokens_of_windows, validation_windows
from compute.evaluation import evaluate
from compute.jobs import Diverged
from compute.learner import Learner, learning_rate_micro
from compute.model.genesis import genesis_weights
from protocol.rejection import Rejected

SEED = bytes(32)
ROOT = bytes(32)


@pytest.fixture(scope="module")
def shards():
    """Half a megabyte of a toy language: sums of small numbers."""
    lines = (f"{a} plus {b} is {a + b}; " for step in range(40) for a in range(25) for b in range(0, 25, 1 + step % 3))
    return pack_corpus(["".join(lines).encode()], 65_536)


@pytest.fixture(scope="module")
def weights(shape, tile_map):
    return genesis_weights(shape, tile_map, SEED)


def batches(shards, rule, context, round=0, steps=None, learner=b"learner"):
    lengths = [len(shard) for shard in shards]
    for step in range(rule.inner_steps if steps is None else steps):
        windows = batch_windows(ROOT, round, learner, step, rule.batch_sequences, context, lengths)
        yield tokens_of_windows(windows, context, shards)


def same(one, other):
    return one.keys() == other.keys() and all(numpy.array_equal(one[name], other[name]) for name in one)


def test_the_same_round_gives_the_same_bits(config, rule, tile_map, weights, shards):
    """Two learners, equal inputs: equal deltas, state and report."""
    results = []
    for _ in range(2):
        learner = Learner(config, rule)
        learner.load(weights)
        report = learner.run_steps(0, batches(shards, rule, config.context))
        results.append((report, learner.deltas(tile_map), learner.export_state()))
    (report, deltas, state), (other_report, other_deltas, other_state) = results
    assert report == other_report
    assert report.tokens == rule.inner_steps * rule.batch_sequences * config.context
    assert same(deltas, other_deltas)
    assert same(state, other_state)
    assert tuple(deltas) == tile_map.ids
    assert all(deltas[tile_id].any() for tile_id in tile_map.ids if tile_id != "trunk/1")  # embeddings of unseen bytes


def test_a_state_that_went_through_the_journal_continues_exactly(config, rule, tile_map, weights, shards):
    """Round 1 after export and import equals round 1 without."""
    straight = Learner(config, rule)
    straight.load(weights)
    straight.run_steps(0, batches(shards, rule, config.context))
    state, midway = straight.export_state(), straight.model.export()

    resumed = Learner(config, rule)
    resumed.import_state(state)
    for learner in (straight, resumed):
        learner.load(midway)
        learner.run_steps(1, batches(shards, rule, config.context, round=1))
    assert same(straight.deltas(tile_map), resumed.deltas(tile_map))
    assert same(straight.export_state(), resumed.export_state())


def test_a_fresh_state_is_importable(config, rule):
    """A learner that has done nothing exports a count of zero, and takes it back."""
    learner = Learner(config, rule)
    state = learner.export_state()
    assert list(state) == ["steps"]
    learner.import_state(state)
    learner.import_state({})
    assert same(learner.export_state(), state)


def test_a_state_of_another_model_is_refused(config, rule, weights, shards):
    """A moment of the wrong size is Rejected."""
    learner = Learner(config, rule)
    learner.load(weights)
    learner.run_steps(0, batches(shards, rule, config.context, steps=1))
    state = learner.export_state()
    state["first_moment/head"] = state["first_moment/head"][1:]
    with pytest.raises(Rejected, match="first_moment/head"):
        Learner(config, rule).import_state(state)


def test_the_loss_falls_on_a_toy_text(config, rule, weights, shards):
    """From uniform to below half of it in 80 steps, on text that was not trained on."""
    lengths = [len(shard) for shard in shards]
    held_out = validation_windows(ROOT, 64, config.context, lengths)
    validation = [tokens_of_windows(held_out, config.context, shards)]
    learner = Learner(config, rule)
    learner.load(weights)
    before = evaluate(config, weights, validation)
    for round in range(10):
        report = learner.run_steps(round, batches(shards, rule, config.context, round=round))
    after = evaluate(config, learner.model.export(), validation)
    assert before == pytest.approx(numpy.log(config.vocabulary), abs=0.05)
    assert after < before / 2
    assert 0.9 < report.balance_loss_mean < 2.0


def test_experts_that_are_not_held_are_not_touched(config, rule, tile_map, weights, shards):
    """They have no delta, and their router rows have a delta of exactly zero, with old moments or without."""
    whole = Learner(config, rule)
    whole.load(weights)
    whole.run_steps(0, batches(shards, rule, config.context))
    partial = Learner(config, rule, held=[[0, 1], [2, 3]])
    partial.import_state(whole.export_state())
    partial.load(weights)
    partial.run_steps(1, batches(shards, rule, config.context, round=1))
    deltas = partial.deltas(tile_map)
    groups = {tile_map.tile(tile_id).group for tile_id in deltas}
    assert groups == {"trunk", "layer0.expert0", "layer0.expert1", "layer1.expert2", "layer1.expert3"}
    routers = tile_map.assemble(deltas)
    assert not routers["layer0.router"][2:].any()
    assert not routers["layer1.router"][:2].any()
    assert routers["layer0.router"][:2].any()


def test_steps_may_be_taken_one_by_one(config, rule, weights, shards):
    """Each says its number and its loss as it is taken; the report comes after the last, and is that of an undivided run."""
    seen = []

    def steps(learner):
        learner.load(weights)
        seen.append((yield from learner.steps(0, batches(shards, rule, config.context))))

    taken = list(steps(Learner(config, rule)))
    assert [step for step, _ in taken] == list(range(rule.inner_steps))
    undivided = Learner(config, rule)
    undivided.load(weights)
    assert seen == [undivided.run_steps(0, batches(shards, rule, config.context))]
    assert taken[-1][1] == seen[0].loss_last


def test_weights_that_are_no_numbers_are_noticed(config, rule, weights, shards):
    """A loss that is not finite raises Diverged instead of training on."""
    learner = Learner(config, rule)
    learner.load({**weights, "head": numpy.full_like(weights["head"], numpy.nan)})
    with pytest.raises(Diverged):
        learner.run_steps(0, batches(shards, rule, config.context))


def test_the_learning_rate_rises_then_falls_to_its_floor(rule):
    """Integers: linear warm-up over one round of 8 steps, then linear decay over 10."""
    rates = [learning_rate_micro(rule, round, step) for round in range(13) for step in range(rule.inner_steps)]
    assert rates[0] == 625
    assert rates[8] == rule.learning_rate_micro == max(rates)
    assert rates[:9] == sorted(rates[:9])
    assert rates[8:] == sorted(rates[8:], reverse=True)
    assert rates[88:] == [rule.learning_rate_floor_micro] * 16
    assert all(isinstance(rate, int) for rate in rates)


@pytest.mark.gpu
def test_a_gpu_learns_the_same_within_rounding(config, rule, tile_map, weights, shards):
    """Deltas of two steps agree with the CPU's to a hundredth of their norm."""
    deltas = {}
    for device in ("cpu", "cuda:0"):
        learner = Learner(config, rule, device)
        learner.load(weights)
        learner.run_steps(0, batches(shards, rule, config.context, steps=2))
        deltas[device] = numpy.concatenate(list(learner.deltas(tile_map).values()))
    error = numpy.linalg.norm(deltas["cuda:0"] - deltas["cpu"]) / numpy.linalg.norm(deltas["cpu"])
    assert torch.cuda.is_available()
    assert error < 0.01
