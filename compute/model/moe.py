"""The model: embedding, blocks of attention and a mixture of experts, head.

    tokens -> embedding -> [ x + attention(norm x) ; x + experts(norm x) ] x layers -> norm -> head -> logits

A router gives every token to `experts_per_token` of the layer's experts (Shazeer et al., arXiv 1701.06538); their
outputs are added with weights that are the softmax over the chosen logits only. So that experts are used evenly,
training adds the load-balance loss of Switch Transformer (arXiv 2101.03961, section 2.2), which is 1 when routing is
even.

A peer may hold only some experts of a layer. Then only those exist here, and the router's logits of the others are
minus infinity: no token is sent to them, and neither they nor their rows of the router are touched by training.

How the experts are computed: all (token, expert) pairs are sorted by expert, so that each expert is one matrix product
over its own rows and nothing is padded. One busy core, float32, 8 experts of 128 x 256, 1,024 tokens, forward and
backward: 36 ms; batched products of every expert over every token, gated with zeros, 156 ms; the same by einsum 201 ms.

Legend: B sequences, T tokens of each, N = B T tokens, D width, V vocabulary, E experts of the layer, G experts held
here, K experts per token, P = N K pairs of token and expert, F width of an expert.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

from compute.model.attention import Attention, KeyValueCache, rotary_table
from compute.model.config import MoEConfig
from compute.model.layout import expert_group
from compute.model.tiling import Float32Array
from protocol.rejection import Reason, Rejected

NORM_EPSILON = 1e-6

HeldExperts = Sequence[Sequence[int]]
"""For each layer the experts that exist here, ascending, at least one. Or nothing: the trunk alone (`compute.decoding`)."""

TRUNK_ALONE: HeldExperts = ()


class Output(NamedTuple):
    """What a forward pass gives: logits (B, T, V) and the load-balance loss, the mean over layers (1 when even)."""

    logits_BTV: Tensor
    balance_loss: Tensor


class Slot(NamedTuple):
    """Where a parameter of the layout lives in the module: a tensor, or one index of a stacked one."""

    tensor: nn.Parameter
    place: int | None

    def of(self, tensor: Tensor) -> Tensor:
        """The part of `tensor` (the parameter, its gradient or a moment) that belongs to this slot."""
        return tensor if self.place is None else tensor[self.place]


class Norm(nn.Module):
    """Root-mean-square norm with a gain (arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain_D = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.gain_D.shape, self.gain_D, NORM_EPSILON)


class _ReluSquared(torch.autograd.Function):
    """Half the passes over memory that autograd would make of relu and square."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        positive = x.clamp_min(0.0)
        context.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (positive,) = context.saved_tensors
        doubled: Tensor = (gradient * positive).mul_(2.0)
        return doubled


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0) squared: what an expert does between its two projections (Primer, arXiv 2109.08668)."""
    y: Tensor = _ReluSquared.apply(x)  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
    return y


class Routed(NamedTuple):
    """Which experts are to compute which rows: pairs of token and expert, sorted by expert.

    logits_NG: of the experts that could be chosen, in their order; pairs_per_expert_G: how many of the pairs are each one's.
    """

    logits_NG: Tensor
    weights_NK: Tensor
    order_P: Tensor
    pairs_per_expert_G: Tensor

    def gather(self, x_ND: Tensor) -> Tensor:
        """The row of each pair, (P, D)."""
        return x_ND.index_select(0, self.order_P // self.weights_NK.shape[1])

    def combine(self, y_PD: Tensor, x_ND: Tensor) -> Tensor:
        """What the experts gave for the pairs, weighted and added for each token: as many rows as `x_ND` has."""
        y_PD = y_PD * self.weights_NK.reshape(-1, 1).index_select(0, self.order_P)
        return torch.zeros_like(x_ND).index_add(0, self.order_P // self.weights_NK.shape[1], y_PD)


def route(x_ND: Tensor, router_GD: Tensor, experts_per_token: int) -> Routed:
    """Give each token to the experts with the largest logits among those whose rows of the router these are."""
    logits_NG = functional.linear(x_ND, router_GD)
    chosen_logits_NK, chosen_NK = logits_NG.topk(experts_per_token, dim=-1)
    pair_expert_P = chosen_NK.reshape(-1)
    return Routed(
        logits_NG,
        chosen_logits_NK.softmax(dim=-1),
        pair_expert_P.argsort(stable=True),
        torch.bincount(pair_expert_P, minlength=router_GD.shape[0]),
    )


def apply_expert(x_PD: Tensor, up_FD: Tensor, down_DF: Tensor) -> Tensor:
    """What one expert makes of rows: (P, D) -> (P, D)."""
    return functional.linear(relu_squared(functional.linear(x_PD, up_FD)), down_DF)


class Experts(nn.Module):
    """Router and experts of one layer: (N, D) -> (N, D), load-balance loss."""

    def __init__(self, config: MoEConfig, held: Sequence[int]) -> None:
        super().__init__()
        self.held = tuple(held)
        self.experts_per_token = min(config.experts_per_token, len(self.held))
        self.router_ED = nn.Parameter(torch.zeros(config.experts, config.width))
        self.up_GFD = nn.Parameter(torch.zeros(len(self.held), config.expert_width, config.width))
        self.down_GDF = nn.Parameter(torch.zeros(len(self.held), config.width, config.expert_width))
        self.held_G: Tensor
        self.register_buffer("held_G", torch.tensor(self.held, dtype=torch.int64), persistent=False)
        self.holds_all = len(self.held) == config.experts

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        if not self.held:
            raise ValueError("a trunk alone has no experts to send tokens to")
        router_GD = self.router_ED if self.holds_all else self.router_ED[self.held_G]
        routed = route(x_ND, router_GD, self.experts_per_token)
        y_PD = self._apply_sorted(routed.gather(x_ND), routed.pairs_per_expert_G.tolist())
        return routed.combine(y_PD, x_ND), self._balance_loss(routed.logits_NG, routed.pairs_per_expert_G)

    @torch.inference_mode()
    def compute(self, expert: int, x_PD: Tensor) -> Tensor:
        """What one of the held experts makes of rows, without gradients. Raises ValueError for another one."""
        place = self.held.index(expert)
        return apply_expert(x_PD, self.up_GFD[place], self.down_GDF[place])

    def forget_unheld_rows(self, moments: Iterable[Tensor]) -> None:
        """Zero an optimiser's moments of the router rows of experts that are not held, or old ones would move them."""
        if not self.holds_all:
            held = set(self.held)
            unheld = [expert for expert in range(self.router_ED.shape[0]) if expert not in held]
            for moment in moments:
                moment[unheld] = 0.0

    def _apply_sorted(self, x_PD: Tensor, pairs_per_expert: list[int]) -> Tensor:
        """Each expert over its own run of rows."""
        outputs = [
            apply_expert(rows_D, up_FD, down_DF)
            for rows_D, up_FD, down_DF in zip(
                x_PD.split_with_sizes(pairs_per_expert), self.up_GFD.unbind(0), self.down_GDF.unbind(0), strict=True
            )
        ]
        return torch.cat(outputs)

    def _balance_loss(self, logits_NG: Tensor, pairs_per_expert_G: Tensor) -> Tensor:
        """Experts x sum over experts of (share of pairs) x (mean router probability): 1 when even, up to experts / K."""
        share_G = pairs_per_expert_G.to(logits_NG.dtype) / pairs_per_expert_G.sum()
        return len(self.held) * (share_G * logits_NG.softmax(dim=-1).mean(dim=0)).sum()


class Block(nn.Module):
    """One layer: attention, then experts, each on the normed stream and added to it."""

    def __init__(self, config: MoEConfig, held: Sequence[int]) -> None:
        super().__init__()
        self.attention_norm = Norm(config.width)
        self.attention = Attention(config)
        self.expert_norm = Norm(config.width)
        self.experts = Experts(config, held)

    def forward(
        self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], cache: KeyValueCache | None
    ) -> tuple[Tensor, Tensor]:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotary, cache)
        y_ND, balance_loss = self.experts(self.expert_norm(x_BTD).flatten(0, 1))
        return x_BTD + y_ND.view_as(x_BTD), balance_loss


class MoEModel(nn.Module):
    """The whole model, float32, its weights all zero until `load`."""

    def __init__(self, config: MoEConfig, held: HeldExperts | None = None) -> None:
        """`held`: for each layer the experts that exist here; None means all of them, TRUNK_ALONE none."""
        super().__init__()
        self.config = config
        self.held = check_held(config, held)
        self.embedding_VD = nn.Parameter(torch.zeros(config.vocabulary, config.width))
        self.layers = nn.ModuleList(Block(config, experts) for experts in self.held)
        self.final_norm = Norm(config.width)
        self.head_VD = nn.Parameter(torch.zeros(config.vocabulary, config.width))
        cosines, sines = rotary_table(config.context, config.head_width)
        self.cosines: Tensor
        self.sines: Tensor
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def forward(self, tokens_BT: Tensor, caches: Sequence[KeyValueCache] | None = None) -> Output:
        """Logits of every position. With `caches` (one a layer) the tokens continue what the caches have seen.

        Positions beyond the context are refused with ValueError: the caller cuts its text.
        """
        first = caches[0].length if caches else 0
        last = first + tokens_BT.shape[1]
        if last > self.config.context:
            raise ValueError(f"{last} tokens do not fit a context of {self.config.context}")
        rotary = (self.cosines[first:last], self.sines[first:last])
        x_BTD = functional.embedding(tokens_BT, self.embedding_VD)
        balance_losses = []
        for layer, block in enumerate(self.blocks):
            x_BTD, balance_loss = block(x_BTD, rotary, caches[layer] if caches else None)
            balance_losses.append(balance_loss)
        logits_BTV = functional.linear(self.final_norm(x_BTD), self.head_VD)
        return Output(logits_BTV, torch.stack(balance_losses).mean())

    @property
    def blocks(self) -> list[Block]:
        """The layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, Block)]

    def slots(self) -> Iterator[tuple[str, Slot]]:
        """Name in the layout -> place in this module, for every parameter that exists here, in layout order."""
        yield "embedding", Slot(self.embedding_VD, None)
        for layer, block in enumerate(self.blocks):
            yield f"layer{layer}.attention_norm", Slot(block.attention_norm.gain_D, None)
            yield f"layer{layer}.attention_in", Slot(block.attention.weight_in, None)
            yield f"layer{layer}.attention_out", Slot(block.attention.weight_out, None)
            yield f"layer{layer}.expert_norm", Slot(block.expert_norm.gain_D, None)
            yield f"layer{layer}.router", Slot(block.experts.router_ED, None)
        yield "final_norm", Slot(self.final_norm.gain_D, None)
        yield "head", Slot(self.head_VD, None)
        for layer, block in enumerate(self.blocks):
            for index, expert in enumerate(self.held[layer]):
                yield f"{expert_group(layer, expert)}.up", Slot(block.experts.up_GFD, index)
                yield f"{expert_group(layer, expert)}.down", Slot(block.experts.down_GDF, index)

    def load(self, weights: Mapping[str, Float32Array]) -> None:
        """Copy the weights (rows, columns) of every parameter that exists here; others are ignored.

        Raises Rejected(BAD_SHAPE) for a missing parameter or one of another size.
        """
        with torch.no_grad():
            for name, slot in self.slots():
                copy_into(slot.of(slot.tensor), name, weights)

    def export(self) -> dict[str, Float32Array]:
        """Copies of the weights by name, each (rows, columns)."""
        return {name: as_matrix(slot.of(slot.tensor)) for name, slot in self.slots()}


def check_held(config: MoEConfig, held: HeldExperts | None) -> tuple[tuple[int, ...], ...]:
    """The held experts of every layer, ascending; none for TRUNK_ALONE.

    Raises Rejected(BAD_ARGUMENT) if a layer has none otherwise, or names a wrong one.
    """
    if held is None:
        return (tuple(range(config.experts)),) * config.layers
    if held == TRUNK_ALONE:
        return ((),) * config.layers
    if len(held) != config.layers:
        raise Rejected(Reason.BAD_ARGUMENT, f"experts are named for {len(held)} layers, the model has {config.layers}")
    checked = tuple(tuple(sorted(set(experts))) for experts in held)
    for layer, experts in enumerate(checked):
        if not experts or experts[0] < 0 or experts[-1] >= config.experts:
            raise Rejected(
                Reason.BAD_ARGUMENT, f"layer {layer} needs one or more of {config.experts} experts, not {experts}"
            )
    return checked


def as_matrix(tensor: Tensor) -> Float32Array:
    """A copy as float32 (rows, columns); a vector becomes one row."""
    matrix: Float32Array = numpy.array(tensor.detach().cpu().numpy(), dtype=numpy.float32)
    return matrix.reshape(1, -1) if matrix.ndim == 1 else matrix


def copy_into(target: Tensor, name: str, arrays: Mapping[str, Float32Array]) -> None:
    """Copy array `name` into `target`. Raises Rejected(BAD_SHAPE) if it is missing or of another size."""
    source = arrays.get(name)
    if source is None or source.size != target.numel() or source.shape[-1] != target.shape[-1]:
        found = "missing" if source is None else f"of shape {source.shape}"
        raise Rejected(Reason.BAD_SHAPE, f"{name} is {found}, it must have {tuple(target.shape)}")
    target.copy_(torch.from_numpy(numpy.ascontiguousarray(source)).view(target.shape))
