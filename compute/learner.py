"""One learner's part of a round: weights of a version in, H local AdamW steps, a delta for each tile out. No I/O, no
clock.

    load(weights) -> steps(round, batches) -> deltas(tile_map) ; export_state()  (journaled together by the caller)

The inner optimiser (compute/inner.py) is AdamW with its divisor corrected for small batches. Its moments belong to this learner
and live on from round to round while the weights are replaced by the decided ones (DiLoCo, arXiv 2311.08105); a
learner that lost them starts with none, which is allowed and costs it a few steps. Delta means old minus new: what an
outer optimiser subtracts.

On a CPU with one thread the same inputs give the same bits, also when the state went through export and import in
between. On another device, or with more threads, they agree only closely (learning.md 5).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import cast

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

from compute.inner import MeanGradientAdamW, Moments
from compute.jobs import Diverged
from compute.model.config import MoEConfig
from compute.model.moe import HeldExperts, MoEModel, as_matrix, copy_into
from compute.model.tiling import Float32Array, TileMap
from compute.tokenizer import tokens_of_bytes
from compute.trainer import BytesBatch, StepsReport, run_to_end
from protocol.genesis import MILLION, LearningRule
from protocol.ids import TileId

STEPS_NAME = "steps"


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
        self._loaded: dict[str, Float32Array] = {}
        self._optimizer = MeanGradientAdamW(
            {
                each: rule.weight_decay_micro / MILLION if _decays(each, self.model) else 0.0
                for each in self.model.parameters()
            },
            rule.beta1_micro / MILLION,
            rule.beta2_micro / MILLION,
            rule.averaged_batches,
            rule.gradient_clip_micro / MILLION,
        )

    def load(self, weights: Mapping[str, Float32Array]) -> None:
        """Begin from these weights (rows, columns) by name. Raises Rejected(BAD_SHAPE)."""
        self.model.load(weights)
        self._loaded = self.model.export()

    def run_steps(self, round: int, batches: Iterable[BytesBatch]) -> StepsReport:
        """`steps` to their end."""
        return run_to_end(self.steps(round, batches))

    def steps(self, round: int, batches: Iterable[BytesBatch]) -> Generator[tuple[int, float], None, StepsReport]:
        """One AdamW step per batch; the n-th batch is step n of the round. Yields (step, loss) after every step.

        A learner whose steps were not taken to their end must be loaded again before it is used. Raises Diverged on a
        loss that is no finite number.
        """
        losses: list[float] = []
        balance_losses: list[float] = []
        tokens = 0
        self.model.train()
        for step, batch in enumerate(batches):
            loss, balance_loss = self._step(batch, learning_rate_micro(self.rule, round, step) / MILLION)
            losses.append(loss)
            balance_losses.append(balance_loss)
            tokens += batch.shape[0] * (batch.shape[1] - 1)
            if not math.isfinite(loss):
                raise Diverged(f"the loss of step {step} of round {round} is {loss}")
            yield step, loss
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
        """The inner optimiser as named float32 matrices: the moments of every parameter, and the count of steps."""
        state = {STEPS_NAME: numpy.full((1, 1), self._optimizer.steps, dtype=numpy.float32)}
        if self._optimizer.steps:
            state |= {name: as_matrix(moment) for name, moment in self._moments()}
        return state

    def import_state(self, state: Mapping[str, Float32Array]) -> None:
        """Inverse of `export_state`. Parameters that the state does not name, such as those of an expert taken
        on since, begin with none.

        Raises Rejected(BAD_SHAPE) when a moment has another size than its parameter.
        """
        self._optimizer.forget()
        steps = state.get(STEPS_NAME)
        self._optimizer.steps = int(steps.item()) if steps is not None and steps.size == 1 else 0
        if not self._optimizer.steps:
            return
        with torch.no_grad():
            for name, moment in self._moments():
                if name in state:
                    copy_into(moment, name, state)
            for block in self.model.blocks:
                block.experts.forget_unheld_rows(self._moments_of(block.experts.router_ED).parts().values())

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        """Every moment under its name in an exported state, in layout order."""
        for name, slot in self.model.slots():
            for part, moment in self._moments_of(slot.tensor).parts().items():
                yield f"{part}/{name}", slot.of(moment)

    def _moments_of(self, parameter: Tensor) -> Moments:
        return self._optimizer.moments[cast(nn.Parameter, parameter)]

    def _step(self, batch: BytesBatch, rate: float) -> tuple[float, float]:
        """Cross-entropy and load-balance loss of the batch, before the step on it."""
        losses: list[tuple[float, float]] = []
        parts = []
        for part_BT in self._optimizer.split(torch.from_numpy(tokens_of_bytes(batch)).to(self.device)):
            output = self.model(part_BT[:, :-1])
            loss = functional.cross_entropy(output.logits_BTV.flatten(0, 1), part_BT[:, 1:].flatten())
            total = loss + self.rule.balance_loss_micro / MILLION * output.balance_loss
            parameters = list(self.model.parameters())
            share = len(part_BT) / len(batch)
            parts.append((share, dict(zip(parameters, torch.autograd.grad(total, parameters), strict=True))))
            losses.append((share * loss.item(), share * output.balance_loss.item()))
        self._optimizer.step(rate, parts)
        return math.fsum(loss for loss, _ in losses), math.fsum(balance for _, balance in losses)


def _decays(parameter: Tensor, model: MoEModel) -> bool:
    """Projections and experts decay. Norms, the embedding and routers do not: the router's row of an expert that is
    not held here must stay as it is."""
    routers = {id(block.experts.router_ED) for block in model.blocks}
    return parameter.ndim >= 2 and parameter is not model.embedding_VD and id(parameter) not in routers
