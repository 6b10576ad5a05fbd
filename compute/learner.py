"""One learner's part of a round: weights of a version in, H local AdamW steps, a delta for each tile out. No I/O, no
clock.

    load(weights) -> run_steps(round, batches) -> deltas(tile_map) ; export_state()  (journaled together by the caller)

The inner optimiser is AdamW (arXiv 1711.05101). Its moments belong to this learner and live on from round to round
while the weights are replaced by the decided ones (DiLoCo, arXiv 2311.08105); a learner that lost them starts with
none, which is allowed and costs it a few steps. Delta means old minus new: what an outer optimiser subtracts.

On a CPU with one thread the same inputs give the same bits, also when the state went through export and import in
between. On another device, or with more threads, they agree only closely (learning.md 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from compute.jobs import Diverged
from compute.model.config import MoEConfig
from compute.model.moe import HeldExperts, MoEModel, as_matrix, copy_into
from compute.model.tiling import Float32Array, TileMap
from compute.tokenizer import tokens_of_bytes
from protocol.genesis import MILLION, LearningRule
from protocol.ids import TileId

ADAM_EPSILON = 1e-8
"""PyTorch's default; gradients here are 1e-4 and more."""

STEPS_NAME = "steps"
FIRST_MOMENT = "first_moment/"
SECOND_MOMENT = "second_moment/"

BytesBatch = NDArray[numpy.uint8]
"""(sequences, context + 1) bytes of text: inputs, and targets one later."""


class Cancelled(Exception):
    """The caller's `on_step` asked to stop; the learner must be loaded again before it is used."""


@dataclass(frozen=True, slots=True)
class StepsReport:
    """What a run of local steps saw. Losses are cross-entropy in nats per byte, without the load-balance loss."""

    steps: int
    tokens: int
    loss_mean: float
    loss_last: float
    balance_loss_mean: float


def learning_rate_micro(rule: LearningRule, round: int, step: int) -> int:
    """The learning rate of a local step, in millionths; the same integer on every machine.

    It rises linearly over `warmup_rounds`, then falls linearly to `learning_rate_floor_micro` over `decay_rounds` (0:
    never).
    """
    peak, floor = rule.learning_rate_micro, min(rule.learning_rate_floor_micro, rule.learning_rate_micro)
    position = round * rule.inner_steps + step
    warmup = rule.warmup_rounds * rule.inner_steps
    decay = rule.decay_rounds * rule.inner_steps
    if position < warmup:
        return max(1, peak * (position + 1) // warmup)
    if not decay:
        return peak
    return peak - (peak - floor) * min(position - warmup, decay) // decay


class Learner:
    """A model, its inner optimiser, and the weights that it was last loaded with."""

    def __init__(
        self,
        config: MoEConfig,
        rule: LearningRule,
        device: torch.device | str = "cpu",
        held: HeldExperts | None = None,
    ) -> None:
        """`held`: the experts of each layer that exist here (None: all); of others there is no delta."""
        self.rule = rule
        self.device = torch.device(device)
        self.model = MoEModel(config, held).to(self.device)
        self._steps_done = 0
        self._loaded: dict[str, Float32Array] = {}
        self._optimizer = torch.optim.AdamW(
            [
                {
                    "params": [p for p in self.model.parameters() if _decays(p, self.model)],
                    "weight_decay": _decay(rule),
                },
                {"params": [p for p in self.model.parameters() if not _decays(p, self.model)], "weight_decay": 0.0},
            ],
            lr=0.0,
            betas=(rule.beta1_micro / MILLION, rule.beta2_micro / MILLION),
            eps=ADAM_EPSILON,
            fused=True,
        )

    def load(self, weights: Mapping[str, Float32Array]) -> None:
        """Begin from these weights (rows, columns) by name. Raises Rejected(BAD_SHAPE)."""
        self.model.load(weights)
        self._loaded = self.model.export()

    def run_steps(
        self, round: int, batches: Iterable[BytesBatch], on_step: Callable[[int, float], bool] | None = None
    ) -> StepsReport:
        """One AdamW step per batch; the n-th batch is step n of the round.

        `on_step(step, loss)` is called after every step; False from it raises Cancelled. Raises Diverged on a loss that
        is no finite number.
        """
        losses: list[float] = []
        balance_losses: list[float] = []
        tokens = 0
        self.model.train()
        for step, batch in enumerate(batches):
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate_micro(self.rule, round, step) / MILLION
            loss, balance_loss = self._step(batch)
            losses.append(loss)
            balance_losses.append(balance_loss)
            tokens += batch.shape[0] * (batch.shape[1] - 1)
            if not math.isfinite(loss):
                raise Diverged(f"the loss of step {step} of round {round} is {loss}")
            if on_step is not None and not on_step(step, loss):
                raise Cancelled(f"after step {step} of round {round}")
        count = max(1, len(losses))
        return StepsReport(
            steps=len(losses),
            tokens=tokens,
            loss_mean=math.fsum(losses) / count,
            loss_last=losses[-1] if losses else 0.0,
            balance_loss_mean=math.fsum(balance_losses) / count,
        )

    def deltas(self, tile_map: TileMap) -> dict[TileId, Float32Array]:
        """Loaded weights minus present ones, for every tile of the trunk and of the held experts."""
        present = self.model.export()
        return tile_map.split({name: self._loaded[name] - present[name] for name in present})

    def export_state(self) -> dict[str, Float32Array]:
        """The inner optimiser as named float32 matrices: both moments of every parameter, and the count of steps."""
        state = {STEPS_NAME: numpy.full((1, 1), self._steps_done, dtype=numpy.float32)}
        if not self._steps_done:
            return state
        for name, slot in self.model.slots():
            moments = self._optimizer.state[slot.tensor]
            state[FIRST_MOMENT + name] = as_matrix(slot.of(moments["exp_avg"]))
            state[SECOND_MOMENT + name] = as_matrix(slot.of(moments["exp_avg_sq"]))
        return state

    def import_state(self, state: Mapping[str, Float32Array]) -> None:
        """Inverse of `export_state`. Parameters that the state does not name, such as those of an expert taken
        on since, begin with none.

        Raises Rejected(BAD_SHAPE) when a moment has another size than its parameter.
        """
        steps = state.get(STEPS_NAME)
        self._steps_done = int(steps.item()) if steps is not None and steps.size == 1 else 0
        self._optimizer.state.clear()
        if not self._steps_done:
            return
        for parameter in self.model.parameters():
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(self._steps_done), dtype=torch.float32, device=self.device),
                "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
            }
        with torch.no_grad():
            for name, slot in self.model.slots():
                moments = self._optimizer.state[slot.tensor]
                for prefix, key in ((FIRST_MOMENT, "exp_avg"), (SECOND_MOMENT, "exp_avg_sq")):
                    if prefix + name in state:
                        copy_into(slot.of(moments[key]), prefix + name, state)
            for block in self.model.blocks:
                block.experts.forget_unheld_rows(self._optimizer.state[block.experts.router_ED])

    def _step(self, batch: BytesBatch) -> tuple[float, float]:
        tokens_BT = torch.from_numpy(tokens_of_bytes(batch)).to(self.device)
        output = self.model(tokens_BT[:, :-1])
        loss = functional.cross_entropy(output.logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())
        (loss + self.rule.balance_loss_micro / MILLION * output.balance_loss).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.rule.gradient_clip_micro / MILLION)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._steps_done += 1
        return loss.item(), output.balance_loss.item()


def _decay(rule: LearningRule) -> float:
    return rule.weight_decay_micro / MILLION


def _decays(parameter: Tensor, model: MoEModel) -> bool:
    """Projections and experts decay. Norms, the embedding and routers do not: the router's row of an expert that is
    not held here must stay as it is."""
    routers = {id(block.experts.router_ED) for block in model.blocks}
    return parameter.ndim >= 2 and parameter is not model.embedding_VD and id(parameter) not in routers
