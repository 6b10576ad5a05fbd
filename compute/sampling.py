"""How the next token of an answer is chosen.

Sampling uses a generator of its own, seeded by the request: the same weights, prompt, request and device give the same
ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compute.tokenizer import BYTE_TOKENS, END
from protocol.rejection import Reason, Rejected


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    temperature: 0 takes the likeliest token (greedy); 1 samples from the model's own distribution.
    top_k: sample among the k likeliest only; 0 among all.
    top_p: sample among the likeliest only, of which there are just enough to have this probability together
        (nucleus sampling: Holtzman et al., ICLR 2020); 1 among all.
    """

    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    seed: int = 0
    stop_tokens: frozenset[int] = frozenset({END})
    top_p: float = 1.0


def check_request(prompt: Sequence[int], sampling: Sampling, vocabulary: int) -> None:
    """Raises Rejected(BAD_ARGUMENT) for an empty prompt, an unknown token, or a sampling parameter out of range."""
    if not prompt:
        raise Rejected(Reason.BAD_ARGUMENT, "the prompt has no token")
    wrong = next((token for token in prompt if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise Rejected(Reason.BAD_ARGUMENT, f"the prompt holds token {wrong}, the vocabulary ends at {vocabulary - 1}")
    if sampling.max_tokens < 1:
        raise Rejected(Reason.BAD_ARGUMENT, f"max_tokens is {sampling.max_tokens}, it must be at least 1")
    if not 0.0 <= sampling.temperature <= 100.0:
        raise Rejected(Reason.BAD_ARGUMENT, f"temperature is {sampling.temperature}, it must be between 0 and 100")
    if not 0.0 < sampling.top_p <= 1.0:
        raise Rejected(Reason.BAD_ARGUMENT, f"top_p is {sampling.top_p}, it must be above 0 and at most 1")
    if sampling.top_k < 0:
        raise Rejected(Reason.BAD_ARGUMENT, f"top_k is {sampling.top_k}, it must be 0 (all) or more")


def check_given(given: Sequence[int], sampling: Sampling) -> None:
    """Raises Rejected(BAD_ARGUMENT) unless all tokens of an answer, if they are given, are such as could have been chosen."""
    if not given:
        return
    if len(given) != sampling.max_tokens:
        raise Rejected(Reason.BAD_ARGUMENT, f"{len(given)} tokens are given for an answer of {sampling.max_tokens}")
    if any(not 0 <= token <= BYTE_TOKENS for token in given):
        raise Rejected(Reason.BAD_ARGUMENT, "a given token is neither a byte nor the end")
    if not sampling.stop_tokens.isdisjoint(given[:-1]):
        raise Rejected(Reason.BAD_ARGUMENT, "an answer goes on behind its end")


def race(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """What each byte and END brings to the choice of the next token (bytes + 1): the highest is the choice.

    At temperature 0 the logits. Above, each has a time drawn from an exponential distribution, divided by its probability, and
    the first to arrive is chosen as often as it is probable; what is compared is the logarithm, times the temperature: logits
    again, with a drawn advantage (the Gumbel trick). So how close a choice was means the same at every temperature. Logits that
    are no numbers count as impossible.
    """
    scores_V = torch.nan_to_num(logits_V[: BYTE_TOKENS + 1], nan=-1e30, posinf=1e30, neginf=-1e30)
    if sampling.temperature == 0.0:
        return scores_V
    if 0 < sampling.top_k < scores_V.numel():
        least = scores_V.topk(sampling.top_k).values[-1]
        scores_V = scores_V.masked_fill(scores_V < least, -torch.inf)
    probabilities_V = (scores_V / sampling.temperature).softmax(dim=-1)
    if sampling.top_p < 1.0:
        ranked_V, order_V = probabilities_V.sort(descending=True, stable=True)
        before_V = ranked_V.cumsum(dim=-1) - ranked_V  # of all that are likelier: none of the first, which stays
        probabilities_V = probabilities_V.index_fill(0, order_V[before_V >= sampling.top_p], 0.0)
    times_V = torch.empty_like(probabilities_V).exponential_(generator=generator)
    return sampling.temperature * (probabilities_V.log() - times_V.log())
