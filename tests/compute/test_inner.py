"""The inner optimiser is AdamW, but for the noise that it takes out of the divisor."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from compute.inner import MeanGradientAdamW

RATE, BETA1, BETA2, DECAY = 0.01, 0.9, 0.99, 0.1
NO_CLIP = 1e9


def optimizer(parameter: nn.Parameter, batches: int, *, decay: float = 0.0, clip: float = NO_CLIP) -> MeanGradientAdamW:
    return MeanGradientAdamW({parameter: decay}, BETA1, BETA2, batches, clip)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def halves(parameter: nn.Parameter, one: torch.Tensor, other: torch.Tensor):
    return [(0.5, {parameter: one}), (0.5, {parameter: other})]


def test_for_one_batch_it_is_adamw() -> None:
    """Twenty steps with decay and clipping end where PyTorch's AdamW ends."""
    ours, theirs = nn.Parameter(drawn(0, 8, 5)), nn.Parameter(drawn(0, 8, 5))
    one = optimizer(ours, 1, decay=DECAY, clip=1.0)
    reference = torch.optim.AdamW([theirs], lr=RATE, betas=(BETA1, BETA2), weight_decay=DECAY)
    for step in range(20):
        gradient = drawn(step + 1, 8, 5)
        one.step(RATE, halves(ours, gradient, gradient))
        theirs.grad = gradient.clone()
        nn.utils.clip_grad_norm_([theirs], 1.0)
        reference.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("batches", [4, 16])
def test_without_noise_it_is_adamw(batches: int) -> None:
    """Halves that agree leave nothing to take out, and so does a batch in one part: all three end at the same weights."""
    parameters = [nn.Parameter(drawn(0, 6)) for _ in range(3)]
    plain, halved, whole = (
        optimizer(parameter, count) for parameter, count in zip(parameters, (1, batches, batches), strict=True)
    )
    for step in range(10):
        gradient = drawn(step + 1, 6)
        plain.step(RATE, halves(parameters[0], gradient, gradient))
        halved.step(RATE, halves(parameters[1], gradient, gradient))
        whole.step(RATE, [(1.0, {parameters[2]: gradient})])
    torch.testing.assert_close(parameters[1], parameters[0])
    torch.testing.assert_close(parameters[2], parameters[0])


@pytest.mark.parametrize("batches", [4, 16])
def test_the_divisor_is_that_of_the_mean_gradient(batches: int) -> None:
    """Gradients of mean mu and noise s: the divisor's square comes to mu^2 + s^2 / n, where AdamW's is mu^2 + s^2."""
    mu, noise, steps = 0.5, 2.0, 400
    parameter = nn.Parameter(torch.zeros(2000))
    learner = optimizer(parameter, batches)
    for step in range(steps):
        one, other = (mu + noise * math.sqrt(2) * drawn(2 * step + half, 2000) for half in range(2))
        learner.step(RATE, halves(parameter, one, other))
    moments = learner.moments[parameter]
    assert moments.second.mean().item() == pytest.approx((mu**2 + noise**2) * (1 - BETA2**steps), rel=0.05)
    corrected = moments.second / batches + (1 - 1 / batches) * moments.agreed
    assert corrected.mean().item() == pytest.approx((mu**2 + noise**2 / batches) * (1 - BETA2**steps), rel=0.1)


def test_no_step_is_longer_than_the_root_of_n() -> None:
    """Halves that contradict each other entirely: exactly sqrt(n) of AdamW's step, for the first step and every other."""
    one, other = drawn(1, 50), -0.5 * drawn(1, 50)
    ends = []
    for batches in (1, 9):
        parameter = nn.Parameter(torch.zeros(50))
        learner = optimizer(parameter, batches)
        for _ in range(5):
            learner.step(RATE, halves(parameter, one, other))
        ends.append(parameter.detach())
    torch.testing.assert_close(ends[1], 3 * ends[0])


def test_parts_count_by_their_share_and_a_batch_of_one_has_one_part() -> None:
    """Seven sequences are four and three; the first moment is the mean over all seven."""
    parameter = nn.Parameter(torch.zeros(3))
    learner = optimizer(parameter, 4)
    batch = drawn(0, 7, 3)
    parts = learner.split(batch)
    assert [len(part) for part in parts] == [4, 3]
    assert len(learner.split(batch[:1])) == 1
    assert len(optimizer(parameter, 1).split(batch)) == 1
    learner.step(RATE, [(len(part) / 7, {parameter: part.mean(0)}) for part in parts])
    torch.testing.assert_close(learner.moments[parameter].first, (1 - BETA1) * batch.mean(0))
