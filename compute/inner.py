"""The inner optimiser: AdamW that steps as on the mean gradient of many batches like its own.

AdamW (arXiv 1711.05101) divides by the root of E[g^2] = mu^2 + s^2: mu the gradient of the whole text, s^2 the variance of a
batch's. Small batches have a large s: n learners of a small batch each take shorter steps than one that steps on their n
batches together, where the variance is s^2/n, and averaging their weights does not bring that back (docs/log.md,
docs/decisions/0011).

So the divisor here is the second moment of the mean gradient of n batches. Each batch is halved; the halves' gradients a and b
are independent, and E[a*b] = mu^2 whatever their sizes. With E[g^2] for the whole batch,

    mu^2 + s^2/n  =  E[g^2]/n + (1 - 1/n) E[a*b]

Both are moving averages with AdamW's beta2. A negative estimate of mu^2 counts as none, so that no step is longer than
sqrt(n) of AdamW's. n = 1 is AdamW, and needs no halves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

ADAM_EPSILON: Final = 1e-8
"""PyTorch's default; gradients here are 1e-4 and more."""

CLIP_EPSILON: Final = 1e-6
"""As in `torch.nn.utils.clip_grad_norm_`: no division by a norm of zero."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Moving averages for one parameter, of its shape."""

    first: Tensor  # of the gradient
    second: Tensor  # of its square
    agreed: Tensor  # of the product of the halves' gradients: the square of what they agree on

    @classmethod
    def none(cls, parameter: Tensor) -> Moments:
        """Those of a parameter that was never stepped."""
        return cls(*(torch.zeros_like(parameter, requires_grad=False) for _ in range(3)))

    def parts(self) -> dict[str, Tensor]:
        """By name, as a learner's state is exported."""
        return {"first_moment": self.first, "second_moment": self.second, "agreed_moment": self.agreed}


class MeanGradientAdamW:
    """AdamW with the divisor of the mean gradient of `batches` batches. Holds no gradients between steps."""

    def __init__(
        self, decays: Mapping[nn.Parameter, float], beta1: float, beta2: float, batches: int, gradient_clip: float
    ) -> None:
        """`decays`: every parameter with its decoupled weight decay."""
        self.steps = 0
        self.batches = batches
        self.moments = {parameter: Moments.none(parameter) for parameter in decays}
        self._decays = dict(decays)
        self._beta1, self._beta2 = beta1, beta2
        self._gradient_clip = gradient_clip

    def forget(self) -> None:
        """Begin anew."""
        self.steps = 0
        self.moments = {parameter: Moments.none(parameter) for parameter in self._decays}

    def split(self, batch: Tensor) -> Sequence[Tensor]:
        """The parts of a batch (sequences, ...) whose gradients `step` wants to have apart, one after another."""
        return batch.tensor_split(2) if self.batches > 1 and len(batch) > 1 else (batch,)

    @torch.no_grad()
    def step(self, rate: float, parts: Sequence[tuple[float, Mapping[nn.Parameter, Tensor]]]) -> None:
        """One step on a batch in one or two parts: each one's share of the batch, and its mean gradients.

        A batch in one part says nothing of what halves agree on: it is stepped on as by AdamW.
        """
        self.steps += 1
        (share, gradients), (_, last_gradients) = parts[0], parts[-1]
        means = {parameter: share * gradient for parameter, gradient in gradients.items()}
        for share, more in parts[1:]:
            for parameter, gradient in more.items():
                means[parameter].add_(gradient, alpha=share)
        clip = self._clip(means.values())
        for parameter, mean in means.items():
            moments = self.moments[parameter]
            mean.mul_(clip)
            product = gradients[parameter] * last_gradients[parameter] * (clip * clip)
            moments.first.lerp_(mean, 1 - self._beta1)
            moments.second.lerp_(mean * mean, 1 - self._beta2)
            moments.agreed.lerp_(product, 1 - self._beta2)
            divisor = self._second_moment_of_mean(moments).div_(1 - self._beta2**self.steps).sqrt_().add_(ADAM_EPSILON)
            parameter.mul_(1 - rate * self._decays[parameter])
            parameter.addcdiv_(moments.first, divisor, value=-rate / (1 - self._beta1**self.steps))

    def _second_moment_of_mean(self, moments: Moments) -> Tensor:
        """What E[g^2] would be for the mean gradient of all batches."""
        alone = 1 / self.batches
        return moments.second.mul(alone).add_(moments.agreed.clamp(min=0), alpha=1 - alone)

    def _clip(self, gradients: Iterable[Tensor]) -> Tensor:
        """The factor, at most 1, that bounds the norm of all gradients together."""
        norm = nn.utils.get_total_norm(list(gradients))
        return (self._gradient_clip / (norm + CLIP_EPSILON)).clamp(max=1.0)
