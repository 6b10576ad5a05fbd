"""The model computes what its shape legend says, causally, with the experts it holds."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch.nn import functional

from compute.model.attention import KeyValueCache, rotary_table, rotate
from compute.model.genesis import genesis_weights
from compute.model.moe import Experts, MoEModel
from protocol.rejection import Reason, Rejected

SEED = bytes(32)


@pytest.fixture
def model(config, shape, tile_map):
    model = MoEModel(config)
    model.load(genesis_weights(shape, tile_map, SEED))
    return model


def random_tokens(*size, seed=0):
    return torch.randint(0, 256, size, generator=torch.Generator().manual_seed(seed))


def test_shapes_follow_the_legend(model, config):
    """(B, T) tokens give (B, T, V) logits and a scalar."""
    output = model(random_tokens(3, 20))
    assert output.logits_BTV.shape == (3, 20, config.vocabulary)
    assert output.balance_loss.shape == ()


def test_an_untrained_model_is_nearly_uniform(model, config):
    """Its loss is the logarithm of the vocabulary within a twentieth of a nat."""
    tokens = random_tokens(8, 32)
    loss = functional.cross_entropy(model(tokens).logits_BTV[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - numpy.log(config.vocabulary)) < 0.05


def test_later_tokens_do_not_change_earlier_logits(model):
    """Attention and routing are causal."""
    tokens = random_tokens(2, 30)
    changed = tokens.clone()
    changed[:, 17:] = random_tokens(2, 13, seed=1)
    before, after = model(tokens).logits_BTV, model(changed).logits_BTV
    assert torch.equal(before[:, :17], after[:, :17])
    assert not torch.equal(before[:, 17:], after[:, 17:])


def test_positions_matter(model):
    """The same token at another place gives other logits: rotary embedding is there."""
    logits_BTV = model(torch.tensor([[65, 66, 65, 66, 65]])).logits_BTV
    assert not torch.allclose(logits_BTV[0, 2], logits_BTV[0, 4])


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    """RoFormer's property: dot products are a function of the difference of positions."""
    cosines, sines = rotary_table(16, 8)
    x, y = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    turned_x, turned_y = (rotate(vector.expand(16, 8), cosines, sines) for vector in (x, y))
    assert torch.allclose(turned_x.norm(dim=-1), x.norm().expand(16), atol=1e-5)
    assert torch.allclose(turned_x[3] @ turned_y[1], turned_x[12] @ turned_y[10], atol=1e-4)


def test_a_key_value_cache_changes_nothing_but_the_work(model, config):
    """Token by token with caches gives the logits of one pass."""
    tokens = random_tokens(1, 24)
    whole = model(tokens).logits_BTV
    caches = [KeyValueCache() for _ in range(config.layers)]
    parts = [model(tokens[:, :10], caches).logits_BTV]
    parts += [model(tokens[:, index : index + 1], caches).logits_BTV for index in range(10, 24)]
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)


def test_more_tokens_than_the_context_are_refused(model, config):
    """The caller cuts its text."""
    with pytest.raises(ValueError, match="context"):
        model(random_tokens(1, config.context + 1))


def dense_experts(experts: Experts, x_ND: torch.Tensor) -> torch.Tensor:
    """The same mixture, every expert over every token: slow and obvious."""
    logits_NE = x_ND @ experts.router_ED.T
    chosen_logits_NK, chosen_NK = logits_NE.topk(experts.experts_per_token, dim=-1)
    gates_NE = torch.zeros_like(logits_NE).scatter(1, chosen_NK, chosen_logits_NK.softmax(-1))
    hidden_NEF = torch.einsum("nd,efd->nef", x_ND, experts.up_GFD).relu().square()
    return torch.einsum("nef,edf,ne->nd", hidden_NEF, experts.down_GDF, gates_NE)


def test_sorting_by_expert_equals_computing_all(config):
    """Values and gradients of the sorted form agree with the dense one."""
    experts = Experts(config, range(config.experts))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    x_ND = torch.randn(50, config.width, generator=generator)
    sorted_ND, _ = experts(x_ND)
    dense_ND = dense_experts(experts, x_ND)
    assert torch.allclose(sorted_ND, dense_ND, atol=1e-5)
    target_ND = torch.randn(50, config.width, generator=generator)
    parameters = list(experts.parameters())
    for ours, plain in zip(
        torch.autograd.grad((sorted_ND * target_ND).sum(), parameters),
        torch.autograd.grad((dense_ND * target_ND).sum(), parameters),
        strict=True,
    ):
        assert torch.allclose(ours, plain, atol=1e-3, rtol=1e-3)


def test_the_balance_loss_is_one_when_even_and_more_when_not(config):
    """A router that prefers one expert pays; Switch Transformer's scale."""
    experts = Experts(config, range(config.experts))
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(4000, config.width, generator=generator)
    with torch.no_grad():
        experts.router_ED.copy_(torch.randn(experts.router_ED.shape, generator=generator))
        even = experts(x_ND)[1].item()
        x_ND[:, 0] = 10.0
        experts.router_ED[0, 0] = 10.0
        uneven = experts(x_ND)[1].item()
    assert 0.95 < even < 1.2
    assert 1.8 < uneven <= config.experts / config.experts_per_token + 0.01


def test_a_model_of_some_experts_sends_tokens_to_no_other(config, shape, tile_map):
    """Changing an expert that is not held, or its router row, changes nothing."""
    weights = genesis_weights(shape, tile_map, SEED)
    held = [[0, 2], [3]]
    model = MoEModel(config, held)
    model.load(weights)
    tokens = random_tokens(2, 16)
    before = model(tokens).logits_BTV
    weights["layer0.expert1.up"] = weights["layer0.expert1.up"] + 1
    weights["layer1.router"] = weights["layer1.router"].copy()
    weights["layer1.router"][0] += 5
    model.load(weights)
    assert torch.equal(model(tokens).logits_BTV, before)
    assert "layer0.expert1.up" not in model.export()


@pytest.mark.parametrize("held", [[[0]], [[0], []], [[0], [9]], [[-1], [0]]])
def test_wrong_sets_of_experts_are_refused(config, held):
    """Every layer needs one, and they must exist."""
    with pytest.raises(Rejected) as refused:
        MoEModel(config, held)
    assert refused.value.reason is Reason.BAD_ARGUMENT


def test_weights_come_out_as_they_went_in(model, shape, tile_map):
    """Every parameter of the layout, bit for bit, as a matrix."""
    weights = genesis_weights(shape, tile_map, SEED)
    exported = model.export()
    assert exported.keys() == weights.keys()
    assert all(numpy.array_equal(exported[name], weights[name]) for name in weights)


def test_missing_or_misshapen_weights_are_refused(model, shape, tile_map):
    """With the parameter's name."""
    weights = genesis_weights(shape, tile_map, SEED)
    for wrong in (None, weights["layer0.router"][:-1], weights["layer0.router"].T.copy()):
        changed = {name: matrix for name, matrix in weights.items() if name != "layer0.router"}
        if wrong is not None:
            changed["layer0.router"] = wrong
        with pytest.raises(Rejected, match=r"layer0\.router") as refused:
            model.load(changed)
        assert refused.value.reason is Reason.BAD_SHAPE
