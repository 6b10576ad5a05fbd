"""Many answers at once, a layer at a time, whoever has the experts.

    decoder.add("a", prompt, sampling)        at any time between two steps; so is remove("b")
    decoder.step()
        trunk, layer 0      -> ExpertRows(0, {3: rows, 5: rows})    yielded: what of the rows goes through which expert
        {3: rows, 5: rows}  ->                                      sent back: what the experts made of them
        trunk, layer 1      -> ...
        head                -> [Decoded("a", 104, False), Decoded("b", None, True)]     returned

A step reads one more token of every answer that is under way, and the whole prompt of those that begin: continuous batching, as
in Orca (Yu et al., OSDI 2022). The rows of all answers go to an expert in one call. Who computes an expert, where, and who else
if that one is gone, is decided by whoever drives the step; a model without experts (TRUNK_ALONE) is enough here. A step that
is given up (``close``) leaves all answers as they were. One step at a time. Knows nothing of text, of peers or of HTTP.

Each answer keeps one key-value cache a layer, so that a token costs one token's work. When prompt and answer outgrow the
context, the oldest half is dropped and the rest is read again: slower at that one token, never refused.

Legend: N rows, one for each token that is read; D width; P rows of one expert.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from compute.model.attention import KeyValueCache
from compute.model.moe import MoEModel, route
from compute.sampling import Sampling, check_given, check_request, race

ROWS_PER_STEP_MAX: Final = 512  # tokens that a step reads, unless one prompt has more: no answer waits long (a guess)


class ExpertRows(NamedTuple):
    """What a layer's experts are to compute: for each expert, ascending, the rows (P, D) that go through it."""

    layer: int
    rows: dict[int, Tensor]


class Decoded(NamedTuple):
    """The next token of an answer, and whether the answer ends with it; None where a stop token ended it, which is no part.

    ``margin``: where tokens are given, how far the given one was behind the one that would have been chosen, in logits; 0
    where it is that one.
    """

    name: str
    token: int | None
    ends: bool
    margin: float = 0.0


Step = Generator[ExpertRows, Mapping[int, Tensor], list[Decoded]]


@dataclass(slots=True)
class _Answer:
    """One answer under way. ``unread``: the tokens at the end that the caches have not seen."""

    tokens: list[int]
    sampling: Sampling
    generator: torch.Generator
    caches: list[KeyValueCache]
    unread: int
    given: Sequence[int]
    chosen: int = 0

    def reading(self) -> list[int]:
        return self.tokens[-self.unread :]


@dataclass(slots=True)
class Decoder:
    """The answers that one model is giving."""

    model: MoEModel
    _answers: dict[str, _Answer] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, name: object) -> bool:
        return name in self._answers

    def add(self, name: str, prompt: Sequence[int], sampling: Sampling, given: Sequence[int] = ()) -> None:
        """Begin an answer; ``given``: all of its tokens, which are read whatever would be chosen, to see what that is.

        Raises Rejected(BAD_ARGUMENT), and ValueError for a name that is in use.
        """
        if name in self._answers:
            raise ValueError(f"an answer called {name!r} is under way")
        check_request(prompt, sampling, self.model.config.vocabulary)
        check_given(given, sampling)
        generator = torch.Generator(device="cpu").manual_seed(sampling.seed % (1 << 63))
        self._answers[name] = answer = _Answer(list(prompt), sampling, generator, [], 0, given)
        self._read_again(answer, self.model.config.context)

    def remove(self, name: str) -> None:
        """Forget an answer, whatever its state; no error where there is none."""
        self._answers.pop(name, None)

    @torch.inference_mode()
    def step(self) -> Step:
        """One more token for every answer that has its turn. Send what the experts made of the rows that are yielded.

        Raises KeyError where an expert's rows are missing. With no answer it ends at once.
        """
        self.model.eval()
        turn = self._turn()
        before = {name: answer.caches[0].length for name, answer in turn.items()}
        try:
            logits_BV = (yield from self._forward(list(turn.values()))) if turn else torch.empty(0)
        except BaseException:  # also when the step is closed
            for name, length in before.items():
                for cache in turn[name].caches:
                    cache.truncate(length)
            raise
        return [
            self._decoded(name, answer, logits_V)
            for (name, answer), logits_V in zip(turn.items(), logits_BV.float().cpu(), strict=True)
            if self._answers.get(name) is answer  # else it was removed meanwhile
        ]

    def _decoded(self, name: str, answer: _Answer, logits_V: Tensor) -> Decoded:
        scores_V = race(logits_V, answer.sampling, answer.generator)
        token, margin = int(scores_V.argmax()), 0.0
        if answer.given:
            best, token = token, answer.given[answer.chosen]
            margin = float(scores_V[best] - scores_V[token])
        answer.chosen += 1
        is_stop = token in answer.sampling.stop_tokens
        ends = is_stop or answer.chosen == answer.sampling.max_tokens
        del self._answers[name]
        if not ends:
            self._answers[name] = answer  # whoever had its turn is the last to have the next one
            answer.tokens.append(token)
            answer.unread = 1
            if answer.caches[0].length >= self.model.config.context:
                self._read_again(answer, max(1, self.model.config.context // 2))
        return Decoded(name, None if is_stop else token, ends, margin)

    def _turn(self) -> dict[str, _Answer]:
        """Whose tokens are read in this step: all that go on, and of those who begin as many as there is room for."""
        order = sorted(self._answers.items(), key=lambda item: item[1].unread > 1)
        rows = itertools.accumulate(answer.unread for _, answer in order)
        return {
            name: answer for (name, answer), end in zip(order, rows, strict=True) if end <= ROWS_PER_STEP_MAX
        } or dict(order[:1])

    def _read_again(self, answer: _Answer, tokens: int) -> None:
        """Begin with empty caches at so many tokens before the end."""
        del answer.tokens[:-tokens]
        answer.caches = [KeyValueCache() for _ in self.model.blocks]
        answer.unread = len(answer.tokens)

    def _forward(self, answers: Sequence[_Answer]) -> Generator[ExpertRows, Mapping[int, Tensor], Tensor]:
        """The logits after the last token of each."""
        model, device = self.model, self.model.head_VD.device
        lengths = [answer.unread for answer in answers]
        positions = [
            position
            for answer in answers
            for position in range(answer.caches[0].length, answer.caches[0].length + answer.unread)
        ]
        tokens = [token for answer in answers for token in answer.reading()]
        positions_N = torch.tensor(positions, device=device)
        rotary = (model.cosines[positions_N], model.sines[positions_N])
        x_ND = functional.embedding(torch.tensor(tokens, device=device), model.embedding_VD)
        for layer, block in enumerate(model.blocks):
            caches = [answer.caches[layer] for answer in answers]
            x_ND = x_ND + block.attention.forward_each(block.attention_norm(x_ND), rotary, lengths, caches)
            normed_ND = block.expert_norm(x_ND)
            routed = route(normed_ND, block.experts.router_ED, model.config.experts_per_token)
            pairs = routed.pairs_per_expert_G.tolist()
            parts = routed.gather(normed_ND).split_with_sizes(pairs)
            rows = {expert: part for expert, part in enumerate(parts) if len(part)}
            outputs = yield ExpertRows(layer, rows)
            x_ND = x_ND + routed.combine(torch.cat([outputs[expert].to(device) for expert in rows]), normed_ND)
        last_B = torch.tensor([end - 1 for end in itertools.accumulate(lengths)], device=device)
        return functional.linear(model.final_norm(x_ND[last_B]), model.head_VD)


def drive(step: Step, model: MoEModel) -> list[Decoded]:
    """Do a step with a model that has all experts."""
    try:
        asked = next(step)
        while True:
            experts = model.blocks[asked.layer].experts
            asked = step.send({expert: experts.compute(expert, rows) for expert, rows in asked.rows.items()})
    except StopIteration as end:
        decoded: list[Decoded] = end.value
        return decoded
