"""How well weights predict text that they were not trained on: nats per byte. No I/O, no randomness."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping

import torch
from torch.nn import functional

from compute.model.config import MoEConfig
from compute.model.moe import MoEModel
from compute.model.tiling import Float32Array
from compute.tokenizer import tokens_of_bytes
from compute.trainer import BytesBatch, run_to_end


def evaluate(
    config: MoEConfig,
    weights: Mapping[str, Float32Array],
    batches: Iterable[BytesBatch],
    device: torch.device | str = "cpu",
) -> float:
    """Mean cross-entropy in nats per byte of `weights` over all targets of `batches`; infinite if a logit is no number.

    Raises Rejected(BAD_SHAPE).
    """
    model = MoEModel(config).to(device)
    model.load(weights)
    return evaluate_model(model, batches)


def evaluate_model(model: MoEModel, batches: Iterable[BytesBatch]) -> float:
    """`evaluate` for a model that was loaded before."""
    return run_to_end(evaluate_batches(model, batches))


def evaluate_batches(model: MoEModel, batches: Iterable[BytesBatch]) -> Generator[int, None, float]:
    """`evaluate_model`, which stops after every batch: yields its number."""
    model.eval()
    nats: list[float] = []
    targets = 0
    for index, batch in enumerate(batches):
        with torch.inference_mode():  # not around the yield, where other jobs may run
            tokens_BT = torch.from_numpy(tokens_of_bytes(batch)).to(model.head_VD.device)
            logits_BTV = model(tokens_BT[:, :-1]).logits_BTV
            targets_N = tokens_BT[:, 1:].flatten()
            nats.append(functional.cross_entropy(logits_BTV.flatten(0, 1), targets_N, reduction="sum").item())
        targets += targets_N.numel()
        yield index
    if not targets:
        raise ValueError("nothing to evaluate on")
    total = math.fsum(nats)
    return total / targets if math.isfinite(total) else math.inf
