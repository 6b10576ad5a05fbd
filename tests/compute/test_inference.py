"""Generation equals recomputation, repeats itself, and stops where it should."""

from __future__ import annotations

import pytest
import torch

from compute.inference import Sampling, choose, generate
from compute.model.genesis import genesis_weights
from compute.model.moe import MoEModel
from compute.tokenizer import END
from protocol.rejection import Reason, Rejected

PROMPT = [END, 100, 101, 102]


@pytest.fixture(scope="module")
def model(config, shape, tile_map):
    """Untrained, its head scaled up so that choices are not ties."""
    weights = genesis_weights(shape, tile_map, bytes(32))
    weights["head"] = weights["head"] * 50
    model = MoEModel(config)
    model.load(weights)
    return model


def recomputed(model, prompt, count):
    """Greedy generation without a cache: every token from one full pass."""
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits_BTV[0, -1, : END + 1].argmax()))
    return tokens[len(prompt) :]


def test_generation_with_a_cache_equals_full_recomputation(model):
    """Greedy, as far as the context reaches."""
    sampling = Sampling(max_tokens=24, stop_tokens=frozenset())
    assert list(generate(model, PROMPT, sampling)) == recomputed(model, PROMPT, 24)


def test_an_answer_may_outgrow_the_context(model, config):
    """The oldest half is dropped; the number of tokens is what was asked for, also after an overlong prompt."""
    sampling = Sampling(max_tokens=3 * config.context, stop_tokens=frozenset())
    assert len(list(generate(model, PROMPT, sampling))) == 3 * config.context
    assert len(list(generate(model, PROMPT * config.context, Sampling(4, stop_tokens=frozenset())))) == 4


def test_sampling_repeats_with_its_seed(model):
    """Equal seeds, equal tokens; another seed, others."""
    answers = [
        list(generate(model, PROMPT, Sampling(20, temperature=1.0, top_k=50, seed=seed, stop_tokens=frozenset())))
        for seed in (1, 1, 2)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(model):
    """Whatever comes third greedily, as a stop token, leaves two."""
    greedy = recomputed(model, PROMPT, 8)
    stop = next(token for index, token in enumerate(greedy) if index and token not in greedy[:index])
    expected = greedy[: greedy.index(stop)]
    assert list(generate(model, PROMPT, Sampling(8, stop_tokens=frozenset({stop})))) == expected


def test_top_k_leaves_only_the_likeliest():
    """Of four logits, two are ever chosen; ids that are never trained are not; logits that are no numbers are not."""
    logits = torch.full((300,), -20.0)
    logits[[5, 6, 7]] = torch.tensor([3.0, 2.0, 1.0])
    logits[290] = 100.0
    logits[8] = torch.nan
    generator = torch.Generator().manual_seed(0)
    sampling = Sampling(1, temperature=2.0, top_k=2)
    assert {choose(logits, sampling, generator) for _ in range(200)} == {5, 6}
    assert choose(logits, Sampling(1), generator) == 5


@pytest.mark.parametrize(
    ("prompt", "sampling"),
    [
        ([], Sampling(1)),
        ([999], Sampling(1)),
        ([-1], Sampling(1)),
        (PROMPT, Sampling(0)),
        (PROMPT, Sampling(1, temperature=-1.0)),
        (PROMPT, Sampling(1, temperature=float("nan"))),
        (PROMPT, Sampling(1, top_k=-1)),
    ],
)
def test_requests_that_make_no_sense_are_refused(model, prompt, sampling):
    """Before the first token."""
    with pytest.raises(Rejected) as refused:
        generate(model, prompt, sampling)
    assert refused.value.reason is Reason.BAD_ARGUMENT
