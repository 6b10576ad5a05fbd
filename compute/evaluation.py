"""How well weights predict text that they were not trained on: nats per byte. No I/O, no randomness."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch.nn import functional

from compute.learner import BytesBatch, Cancelled
from compute.model.config import MoEConfig
from compute.model.moe import MoEModel
from compute.model.tiling import Float32Array
from compute.tokenizer import tokens_of_bytes


def evaluate(
    config: MoEConfig,
    weights: Mapping[str, Float32Array],
    batches: Iterable[BytesBatch],
    device: torch.device | str = "cpu",
    on_batch: Callable[[int], bool] | None = None,
) -> float:
    """Mean cross-entropy in nats per byte of `weights` over all targets of `batches`; infinite if a logit is no number.

    `on_batch(index)` is called after every batch; False from it raises Cancelled. Raises Rejected(BAD_SHAPE).
    """
    model = MoEModel(config).to(device)
    model.load(weights)
    return evaluate_model(model, batches, on_batch)


def evaluate_model(
    model: MoEModel, batches: Iterable[BytesBatch], on_batch: Callable[[int], bool] | None = None
) -> float:
    """`evaluate` for a model that was loaded before."""
    model.eval()
    nats: list[float] = []
    targets = 0
    for index, batch in enumerate(batches):
        with torch.inference_mode():  # not around `on_batch`, which may run other jobs
            tokens_BT = torch.from_numpy(tokens_of_bytes(batch)).to(model.head_VD.device)
            logits_BTV = model(tokens_BT[:, :-1]).logits_BTV
            targets_N = tokens_BT[:, 1:].flatten()
            nats.append(functional.cross_entropy(logits_BTV.flatten(0, 1), targets_N, reduction="sum").item())
        targets += targets_N.numel()
        if on_batch is not None and not on_batch(index):
            raise Cancelled(f"after batch {index}")
    if not targets:
        raise ValueError("nothing to evaluate on")
    total = math.fsum(nats)
    return total / targets if math.isfinite(total) else math.inf
