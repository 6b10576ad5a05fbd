"""A worker's rounds, file to file: what it loads, what it says, what it keeps. In a process and in a simulated world alike."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from compute.delta.codec import decode
from compute.delta.feedback import begin_ahead, compress_with_feedback
from compute.io.torch_device import TorchDevice
from compute.io.worker_loop import JobCancelled, in_steps
from compute.jobs import (
    BeginAnswer,
    ComputeExpert,
    Dataset,
    Decoded,
    DecodeStep,
    EndAnswer,
    ExpertPart,
    Progress,
    RowsWanted,
    TileDelta,
)
from compute.learner import Learner
from compute.model.config import check_config
from compute.model.layout import expert_group
from compute.model.moe import MoEModel
from compute.trainer import run_to_end
from node.tile_work import matrices_of
from node.worker import RESIDUAL, WorkerMain
from protocol.genesis import MILLION
from protocol.rejection import Reason, Rejected
from simnet.compute import Valley
from simnet.villains import Conspiracy
from simnet.virtual.learner import AnalyticDevice, Landscape, ModelDevice, made_report
from tests.node.worker_samples import Bench, answer, bench_in_memory, bench_on_disk, learn, three_rounds

REPORT = made_report("bench")


@pytest.fixture(params=["process", "simulated"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return bench_on_disk(tmp_path) if request.param == "process" else bench_in_memory()


def model(bench: Bench) -> WorkerMain:
    """A worker that learns with the real model, on one thread as both kinds do."""
    return bench.worker(ModelDevice(REPORT))


def valley(bench: Bench) -> WorkerMain:
    """A worker that learns in the analytic model."""
    landscape = Landscape(Valley(bench.tile_map, bytes(32)), Conspiracy(0))
    return bench.worker(AnalyticDevice(landscape, REPORT))


MakeWorker = Callable[[Bench], WorkerMain]
both_models = pytest.mark.parametrize("worker_of", [model, valley])


def test_a_round_begins_ahead_of_the_decided_weights_by_a_share_of_the_residual(bench: Bench) -> None:
    """The deltas of a second round are, bit for bit, those of a learner that was loaded with weights less half the residual."""
    rule = bench.genesis.learning
    worker = model(bench)
    first = learn(worker, bench.first)
    residuals = bench.residuals(first)
    assert any(residual.any() for residual in residuals.values())
    second = learn(worker, replace(bench.first, round=1, state_path=first.state_path))

    learner = Learner(check_config(bench.genesis.model), rule)
    learner.import_state({name: array for name, array in bench.state(first).items() if not name.startswith(RESIDUAL)})
    start = Fraction(rule.residual_start_micro, MILLION)
    assert start > 0
    learner.load(
        bench.tile_map.assemble(
            {tile: begin_ahead(values, residuals[tile], start) for tile, values in bench.weights.items()}
        )
    )
    job = replace(bench.first, round=1)
    learner.run_steps(1, worker._batches(job, bench.genesis))
    said = {delta.tile: delta.payload for delta in second.deltas}
    for tile, change in learner.deltas(bench.tile_map).items():
        payload, _ = compress_with_feedback(
            change,
            residuals[tile],
            rule.delta_pipeline,
            Fraction(rule.residual_decay_micro, MILLION),
            matrices_of(bench.tile_map.tile(tile)),
        )
        assert said[tile] == payload


@both_models
def test_a_worker_that_was_killed_goes_on_from_the_state_file(bench: Bench, worker_of: MakeWorker) -> None:
    """A new worker with the state file says in round 1 what the old one says: residuals and moments came along."""
    worker = worker_of(bench)
    first = learn(worker, bench.first)
    job = replace(bench.first, round=1, state_path=first.state_path)
    assert learn(worker, job).deltas == learn(worker_of(bench), job).deltas


@both_models
def test_what_is_withheld_or_lost_waits_in_the_residual(bench: Bench, worker_of: MakeWorker) -> None:
    """A withheld tile has no delta and its whole change waits; a lost delta comes back before the steps begin."""
    tile = bench.tile_map.ids[0]
    values = bench.tile_map.tile(tile).values
    withheld = learn(worker_of(bench), replace(bench.first, withheld=(tile,)))
    waiting = bench.residuals(withheld)[tile]  # read now: the next state of round 0 takes its name
    plain = learn(worker_of(bench), bench.first)
    assert tile not in {delta.tile for delta in withheld.deltas}
    payload = next(delta.payload for delta in plain.deltas if delta.tile == tile)
    decay = np.float32(bench.genesis.learning.residual_decay_micro / MILLION)
    rest = waiting - decode(payload, values).dense()
    assert np.allclose(bench.residuals(plain)[tile], decay * rest, rtol=1e-5, atol=1e-9)

    lost = TileDelta(tile, 0, payload)
    given_back = learn(worker_of(bench), replace(bench.first, round=1, state_path=plain.state_path, lost=(lost,)))
    forgotten = learn(worker_of(bench), replace(bench.first, round=1, state_path=plain.state_path))
    said = [next(each.payload for each in done.deltas if each.tile == tile) for done in (given_back, forgotten)]
    assert said[0] != said[1]


@both_models
def test_a_simulated_disk_changes_no_byte(tmp_path: Path, worker_of: MakeWorker) -> None:
    """The same rounds on a real disk and on a simulated one: the same deltas, and state files of the same bytes."""
    real, made = (
        (bench, *three_rounds(bench, worker_of(bench))) for bench in (bench_on_disk(tmp_path), bench_in_memory())
    )
    assert [done.deltas for done in real[1]] == [done.deltas for done in made[1]]
    assert real[2] == made[2]


def test_a_model_in_this_process_learns_what_a_worker_process_learns(tmp_path: Path) -> None:
    """Without a benchmark at its greeting, to the bit."""
    bench = bench_on_disk(tmp_path)
    said = [learn(bench.worker(device), bench.first).deltas for device in (TorchDevice(), ModelDevice(REPORT))]
    assert said[0] == said[1]


@both_models
def test_work_is_done_in_shares(bench: Bench, worker_of: MakeWorker) -> None:
    """Every job's shares rise to the whole; learning says how far it is."""
    worker, rule = worker_of(bench), bench.genesis.learning
    for work in (
        worker.learn(bench.first),
        worker.evaluate(bench.evaluation),
        worker.begin_answer(bench.answer(3)),
        worker.decode_step(DecodeStep(1, ())),
    ):
        shares = [checkpoint.share for checkpoint in work]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
    replies = [checkpoint.reply for checkpoint in worker.learn(bench.first)]
    assert [(reply.step, reply.steps) for reply in replies] == [
        (n + 1, rule.inner_steps) for n in range(rule.inner_steps)
    ]


@both_models
def test_a_round_that_was_given_up_leaves_nothing(bench: Bench, worker_of: MakeWorker) -> None:
    """Closed after its first step, with a delta already back in the residual: the round begins again as if never begun."""
    worker = worker_of(bench)
    first = learn(worker, bench.first)
    job = replace(bench.first, round=1, state_path=first.state_path, lost=first.deltas[:1])
    work = worker.learn(job)
    assert isinstance(next(work).reply, Progress)
    work.close()
    again = learn(worker, job)
    assert again.deltas == learn(worker_of(bench), job).deltas


def test_a_worker_process_does_the_work_between_its_checkpoints(bench: Bench) -> None:
    """The loop's handler sends every reply, then lets others go first; a cancellation gives the round up there."""

    class Desk:
        """Cancels after so many checkpoints."""

        def __init__(self, checkpoints: int) -> None:
            self.left = checkpoints
            self.heard: list[Any] = []

        def send(self, reply: Any) -> None:
            self.heard.append(reply)

        def checkpoint(self) -> None:
            if not self.left:
                raise JobCancelled
            self.left -= 1

    worker = valley(bench)
    handle, patient, hasty = in_steps(worker.learn), Desk(99), Desk(1)
    done = handle(bench.first, patient)  # type: ignore[arg-type]  # a desk without a loop behind it
    assert [type(reply) for reply in patient.heard] == [Progress] * bench.genesis.learning.inner_steps
    with pytest.raises(JobCancelled):
        handle(bench.first, hasty)  # type: ignore[arg-type]  # as above
    assert len(hasty.heard) == 2
    assert handle(bench.first, Desk(99)).deltas == done.deltas  # type: ignore[arg-type]  # as above


@both_models
def test_a_tile_that_is_not_what_was_decided_is_refused(bench: Bench, worker_of: MakeWorker) -> None:
    """Its file is gone, or a bit of it is another: the node fetches it again."""
    good = bench.tiles[0]
    gone = replace(good, path=bench.path("nowhere"))
    other = replace(
        bench.store_tile(bench.tile_map.ids[0], bench.weights[bench.tile_map.ids[0]] + 1, bench.path("other"))
    )
    worker = worker_of(bench)
    for bad in (gone, replace(other, root=good.root)):
        tiles = (bad, *bench.tiles[1:])
        for work in (
            worker.learn(replace(bench.first, tiles=tiles)),
            worker.evaluate(replace(bench.evaluation, tiles=tiles)),
        ):
            with pytest.raises(Rejected) as refused:
                run_to_end(work)
            assert refused.value.reason is Reason.TILE_CORRUPT


def call_of(bench: Bench, expert: str, rows: np.ndarray, index: int = 0, count: int = 1) -> ComputeExpert:
    tiles = tuple(tile for tile in bench.tiles if tile.tile.startswith(f"{expert}/"))
    return ComputeExpert(tiles, expert, index, count, rows.astype("<f4").tobytes())


def compute(worker: WorkerMain, job: ComputeExpert, width: int) -> np.ndarray:
    return np.frombuffer(run_to_end(worker.compute_expert(job)).rows, "<f4").reshape(-1, width)


def test_an_expert_computes_for_others_what_the_model_computes_with_it(bench: Bench) -> None:
    """Bit for bit, from its own tiles alone; its slices give the same in sum; after another expert's call as before it."""
    worker = model(bench)
    config = check_config(bench.genesis.model)
    whole = MoEModel(config)
    whole.load(bench.tile_map.assemble(bench.weights))
    rows = np.random.default_rng(1).standard_normal((5, config.width)).astype(np.float32)
    for layer, expert in ((0, 1), (config.layers - 1, config.experts - 1), (0, 1)):
        name = expert_group(layer, expert)
        right = whole.blocks[layer].experts.compute(expert, torch.from_numpy(rows)).numpy()
        assert np.array_equal(compute(worker, call_of(bench, name, rows), config.width), right)
        for count in (2, 3):
            slices = [compute(worker, call_of(bench, name, rows, index, count), config.width) for index in range(count)]
            assert np.allclose(sum(slices), right, rtol=1e-4, atol=1e-6)


@both_models
def test_slices_of_an_expert_add_up(bench: Bench, worker_of: MakeWorker) -> None:
    """Whatever an expert is in a world, as many rows come back as went in, and the slices are the whole."""
    width = bench.genesis.model.width
    rows = np.arange(3 * width, dtype=np.float32).reshape(3, width) / width
    worker = worker_of(bench)
    whole = compute(worker, call_of(bench, "layer0.expert0", rows), width)
    assert whole.shape == rows.shape
    slices = [compute(worker, call_of(bench, "layer0.expert0", rows, index, 4), width) for index in range(4)]
    assert np.allclose(sum(slices), whole, rtol=1e-4, atol=1e-6)


def begin_of(bench: Bench, name: str, prompt: tuple[int, ...], max_tokens: int) -> BeginAnswer:
    trunk = tuple(tile for tile in bench.tiles if tile.tile.startswith("trunk/"))
    return BeginAnswer(1, trunk, name, prompt, max_tokens, 0.0, 0, 3, (256,))


def decode_all(bench: Bench, gateway: WorkerMain, holder: WorkerMain) -> list[Decoded]:
    """Steps of decoder 1, whose experts another worker computes, while each gives somebody a token."""
    said = []
    while True:
        reply = run_to_end(gateway.decode_step(DecodeStep(1, ())))
        while isinstance(reply, RowsWanted):
            outputs = []
            for part in reply.parts:
                expert = expert_group(reply.layer, part.expert)
                tiles = tuple(tile for tile in bench.tiles if tile.tile.startswith(f"{expert}/"))
                computed = run_to_end(holder.compute_expert(ComputeExpert(tiles, expert, 0, 1, part.rows)))
                outputs.append(ExpertPart(part.expert, computed.rows))
            reply = run_to_end(gateway.decode_step(DecodeStep(1, tuple(outputs))))
        if not reply.tokens:
            return said
        said.append(reply)


def test_a_trunk_answers_with_experts_of_another_worker_as_a_whole_model_does(bench: Bench) -> None:
    """Two answers in one decoder, of which one is stopped: the other has the tokens of a worker with all of the model."""
    gateway, holder = model(bench), model(bench)
    whole = answer(holder, replace(bench.answer(12), prompt=(65, 66)))
    for name, prompt in (("a", (65, 66)), ("b", (67,))):
        run_to_end(gateway.begin_answer(begin_of(bench, name, prompt, 12)))
    run_to_end(gateway.end_answer(EndAnswer(1, "b")))
    said = decode_all(bench, gateway, holder)
    assert [token.token for reply in said for token in reply.tokens if token.token >= 0] == whole
    assert said[-1].tokens[0].ends
    assert {token.name for reply in said for token in reply.tokens} == {"a"}


@both_models
def test_answers_end_where_they_were_told_to(bench: Bench, worker_of: MakeWorker) -> None:
    """As many tokens as were asked for, unless a stop token comes; then the decoder may go, and is not known any more."""
    gateway, holder = worker_of(bench), worker_of(bench)
    run_to_end(gateway.begin_answer(begin_of(bench, "a", (65,), 3)))
    with pytest.raises(Rejected, match="under way"):
        run_to_end(gateway.begin_answer(begin_of(bench, "a", (65,), 3)))
    said = decode_all(bench, gateway, holder)
    assert 1 <= len(said) <= 3
    assert [reply.tokens[0].ends for reply in said] == [False] * (len(said) - 1) + [True]
    run_to_end(gateway.end_answer(EndAnswer(1, "")))
    run_to_end(gateway.end_answer(EndAnswer(1, "")))
    with pytest.raises(Rejected, match="no decoder"):
        run_to_end(gateway.decode_step(DecodeStep(1, ())))


@both_models
def test_outputs_of_other_rows_are_refused_and_the_step_goes_on(bench: Bench, worker_of: MakeWorker) -> None:
    """Missing, too many, too short: the same rows are wanted still."""
    gateway = worker_of(bench)
    run_to_end(gateway.begin_answer(begin_of(bench, "a", (65,), 3)))
    for wrong in ((ExpertPart(0, bytes(4)),), (ExpertPart(99, bytes(4 * bench.genesis.model.width)),)):
        with pytest.raises(Rejected) as refused:
            run_to_end(gateway.decode_step(DecodeStep(1, wrong)))
        assert refused.value.reason is Reason.BAD_SHAPE
    wanted = run_to_end(gateway.decode_step(DecodeStep(1, ())))
    assert isinstance(wanted, RowsWanted)
    for wrong in ((), wanted.parts[1:], (*wanted.parts, ExpertPart(99, b"")), (replace(wanted.parts[0], rows=b""),)):
        if wrong != wanted.parts:
            with pytest.raises(Rejected) as refused:
                run_to_end(gateway.decode_step(DecodeStep(1, wrong)))
            assert refused.value.reason is Reason.BAD_SHAPE
    assert run_to_end(gateway.decode_step(DecodeStep(1, wanted.parts))) != wanted


def test_what_is_no_call_of_an_expert_is_refused(bench: Bench) -> None:
    """Bytes that are no whole rows, slices that are none, tiles that are not the expert's or not what was decided."""
    worker, width = model(bench), bench.genesis.model.width
    good = call_of(bench, "layer0.expert0", np.ones((2, width)))
    for bad in (
        replace(good, rows=good.rows[:-1]),
        replace(good, rows=b""),
        replace(good, index=1),
        replace(good, index=3, count=2),
        replace(good, count=10**6),
        replace(good, expert="layer9.expert9"),
        replace(good, tiles=good.tiles[:-1]) if len(good.tiles) > 1 else replace(good, tiles=()),
        replace(good, tiles=bench.tiles[:1]),
    ):
        with pytest.raises(Rejected) as refused:
            run_to_end(worker.compute_expert(bad))
        assert refused.value.reason is Reason.BAD_SHAPE
    with pytest.raises(Rejected) as refused:
        run_to_end(
            worker.compute_expert(replace(good, tiles=(replace(good.tiles[0], root=bytes(32)), *good.tiles[1:])))
        )
    assert refused.value.reason is Reason.TILE_CORRUPT


def test_experts_are_kept_within_their_bytes(bench: Bench) -> None:
    """Those that were used last stay; one is kept however large it is."""
    width = bench.genesis.model.width
    sizes = 4 * sum(tile.values for tile in bench.tile_map.group_tiles("layer0.expert0"))
    worker = model(bench)
    worker.experts_bytes_max = 2 * sizes
    rows = np.ones((1, width))
    for number in (0, 1, 0, 2):
        compute(worker, call_of(bench, f"layer0.expert{number}", rows), width)
    assert [name for name, _ in worker.experts_kept] == ["layer0.expert0", "layer0.expert2"]
    worker.experts_bytes_max = 1
    compute(worker, call_of(bench, "layer0.expert3", rows), width)
    assert len(worker.experts_kept) == 1


def test_only_the_real_model_reads_text(bench: Bench) -> None:
    """Without its shards the analytic model learns and is measured all the same."""
    nowhere = Dataset(bench.dataset.root, (bench.path("nowhere"),))
    worker = valley(bench)
    assert learn(worker, replace(bench.first, dataset=nowhere)).deltas == learn(valley(bench), bench.first).deltas
    done = run_to_end(worker.evaluate(replace(bench.evaluation, dataset=nowhere)))
    assert done.loss_micro > 0
    with pytest.raises(FileNotFoundError):
        learn(model(bench), replace(bench.first, dataset=nowhere))


def test_a_worker_that_knows_no_genesis_learns_nothing(bench: Bench) -> None:
    """It was greeted without one."""
    worker = WorkerMain(ModelDevice(REPORT), bench.files, lambda: 0, process=1)
    run_to_end(worker.hello(replace(bench.greeting, genesis=b"")))
    with pytest.raises(Rejected) as refused:
        learn(worker, bench.first)
    assert refused.value.reason is Reason.BAD_ARGUMENT
