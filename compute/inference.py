"""Token ids in, token ids out. Knows nothing of text, of peers or of HTTP.

A generation keeps one key-value cache a layer, so that a token costs one token's work. When prompt and answer outgrow
the model's context, the oldest half of it is dropped and the rest is read again: slower at that one token, never
refused.

Sampling uses a generator of its own, seeded by the request: the same weights, prompt, request and device give the same
ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compute.model.attention import KeyValueCache
from compute.model.moe import MoEModel
from compute.tokenizer import BYTE_TOKENS, END
from protocol.rejection import Reason, Rejected


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    temperature: 0 takes the likeliest token (greedy); 1 samples from the model's own distribution.
    top_k: sample among the k likeliest only; 0 among all.
    """

    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    seed: int = 0
    stop_tokens: frozenset[int] = frozenset({END})


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
    if sampling.top_k < 0:
        raise Rejected(Reason.BAD_ARGUMENT, f"top_k is {sampling.top_k}, it must be 0 (all) or more")


def generate(model: MoEModel, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Yield the answer's tokens one by one, at most `max_tokens`; ends before a stop token. Close it to stop early.

    Only bytes and END are ever chosen: ids that training never shows have untrained rows in the head.
    Raises Rejected(BAD_ARGUMENT) before the first token.
    """
    check_request(prompt, sampling, model.config.vocabulary)
    return _generate(model, list(prompt), sampling)


def _generate(model: MoEModel, tokens: list[int], sampling: Sampling) -> Iterator[int]:
    context = model.config.context
    device = model.head_VD.device
    generator = torch.Generator(device="cpu").manual_seed(sampling.seed % (1 << 63))
    caches: list[KeyValueCache] = []
    model.eval()
    for _ in range(sampling.max_tokens):
        if not caches or caches[0].length >= context:
            kept = tokens[-context:] if not caches else tokens[-max(1, context // 2) :]
            caches = [KeyValueCache() for _ in model.blocks]
            new_tokens = kept
        else:
            new_tokens = tokens[-1:]
        with torch.inference_mode():
            logits_V = model(torch.tensor([new_tokens], device=device), caches).logits_BTV[0, -1]
            token = choose(logits_V.float().cpu(), sampling, generator)
        if token in sampling.stop_tokens:
            return
        tokens.append(token)
        yield token


def choose(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token among bytes and END. Logits that are no numbers count as impossible."""
    scores_V = torch.nan_to_num(logits_V[: BYTE_TOKENS + 1], nan=-1e30, posinf=1e30, neginf=-1e30)
    if sampling.temperature == 0.0:
        return int(scores_V.argmax())
    if 0 < sampling.top_k < scores_V.numel():
        least = scores_V.topk(sampling.top_k).values[-1]
        scores_V = scores_V.masked_fill(scores_V < least, -torch.inf)
    probabilities_V = (scores_V / sampling.temperature).softmax(dim=-1)
    return int(torch.multinomial(probabilities_V, 1, generator=generator))
