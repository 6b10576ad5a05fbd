"""Generation equals recomputation, repeats itself, and stops where it should: alone, among others, with experts elsewhere."""

from __future__ import annotations

from random import Random

import pytest
import torch

from compute.decoding import ROWS_PER_STEP_MAX, Decoder, drive
from compute.model.genesis import genesis_weights
from compute.model.moe import TRUNK_ALONE, MoEModel
from compute.sampling import Sampling, race
from compute.tokenizer import END
from protocol.rejection import Reason, Rejected

PROMPT = [END, 100, 101, 102]


def choose(logits, sampling, generator):
    return int(race(logits, sampling, generator).argmax())


def replay(model, prompt, sampling, given):
    """What a decoder says of tokens that are given."""
    decoder = Decoder(model)
    decoder.add("", prompt, sampling, given)
    said = []
    while len(decoder):
        said += drive(decoder.step(), model)
    return said


def generate(model, prompt, sampling):
    """The tokens of an answer that is alone."""
    decoder = Decoder(model)
    decoder.add("", prompt, sampling)
    said = []
    while len(decoder):
        said += [decoded.token for decoded in drive(decoder.step(), model) if decoded.token is not None]
    return said


@pytest.fixture(scope="module")
def weights(shape, tile_map):
    """Untrained, the head scaled up so that choices are not ties."""
    weights = genesis_weights(shape, tile_map, bytes(32))
    weights["head"] = weights["head"] * 50
    return weights


@pytest.fixture(scope="module")
def model(config, weights):
    model = MoEModel(config)
    model.load(weights)
    return model


@pytest.fixture(scope="module")
def trunk(config, weights):
    """The same model without experts."""
    trunk = MoEModel(config, TRUNK_ALONE)
    trunk.load(weights)
    return trunk


def collect(decoder, model, answers):
    """One step; what it chose goes to ``answers``."""
    for decoded in drive(decoder.step(), model):
        if decoded.token is not None:
            answers.setdefault(decoded.name, []).append(decoded.token)


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


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_race_is_won_as_often_as_a_token_is_probable(temperature):
    """The same draws, from the same generator, as torch's own choice makes."""
    logits = torch.randn(300, generator=torch.Generator().manual_seed(3))
    sampling = Sampling(1, temperature=temperature)
    ours, theirs = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    probabilities = (logits[: END + 1] / temperature).softmax(dim=-1)
    for _ in range(200):
        assert choose(logits, sampling, ours) == int(torch.multinomial(probabilities, 1, generator=theirs))


SAMPLINGS = [
    Sampling(12, stop_tokens=frozenset()),
    Sampling(12, temperature=1.5, seed=3, stop_tokens=frozenset()),
    Sampling(12, temperature=0.7, seed=4, top_p=0.9, top_k=50, stop_tokens=frozenset()),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_answer_that_is_replayed_says_itself(model, sampling):
    """Each of its tokens is the one that would have been chosen; of another one it is said by how much it would not."""
    said = list(generate(model, PROMPT, sampling))
    assert [(each.token, each.margin) for each in replay(model, PROMPT, sampling, said)] == [
        (token, 0) for token in said
    ]
    changed = [*said[:5], (said[5] + 1) % 256, *said[6:]]
    again = replay(model, PROMPT, sampling, changed)
    assert [each.token for each in again] == changed
    assert [each.margin > 0 for each in again[:6]] == [False] * 5 + [True]
    assert [each.ends for each in again] == [False] * 11 + [True]


def test_a_token_that_could_not_be_chosen_is_behind_for_ever(model):
    """One that the nucleus leaves out has no chance, however the draws fall."""
    sampling = Sampling(1, temperature=0.5, top_p=0.01)
    (best,) = generate(model, PROMPT, sampling)
    (said,) = replay(model, PROMPT, sampling, [(best + 1) % 256])
    assert said.margin == float("inf")


def test_an_answer_that_ended_is_replayed_with_its_end(model):
    """The end is a choice like others: one that came too early is as wrong as another word."""
    stopping = Sampling(3, stop_tokens=frozenset({END}))
    said = replay(model, PROMPT, stopping, [*generate(model, PROMPT, Sampling(2)), END])
    assert [(each.token, each.ends, each.margin > 0) for each in said[2:]] == [(None, True, True)]


@pytest.mark.parametrize("given", [(1, 2), (1, 2, 257), (1, -1, 2), (1, END, 2)])
def test_tokens_that_cannot_be_an_answer_are_refused(model, given):
    """Too few, no byte, or going on behind the end."""
    with pytest.raises(Rejected) as refusal:
        Decoder(model).add("", PROMPT, Sampling(3), given)
    assert refusal.value.reason is Reason.BAD_ARGUMENT


@pytest.mark.parametrize(
    ("top_p", "chosen"), [(0.01, {5}), (0.59, {5}), (0.61, {5, 6}), (0.89, {5, 6}), (0.91, {5, 6, 7}), (1.0, {5, 6, 7})]
)
def test_top_p_leaves_just_enough_of_the_likeliest(top_p, chosen):
    """Of six, three and one tenth; the likeliest stays however little is asked for."""
    logits = torch.full((300,), -50.0)
    logits[[5, 6, 7]] = torch.tensor([0.6, 0.3, 0.1]).log()
    generator = torch.Generator().manual_seed(0)
    sampling = Sampling(1, temperature=1.0, top_p=top_p)
    assert {choose(logits, sampling, generator) for _ in range(300)} == chosen


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
        (PROMPT, Sampling(1, top_p=0.0)),
        (PROMPT, Sampling(1, top_p=1.1)),
    ],
)
def test_requests_that_make_no_sense_are_refused(model, prompt, sampling):
    """Before the first token."""
    with pytest.raises(Rejected) as refused:
        generate(model, prompt, sampling)
    assert refused.value.reason is Reason.BAD_ARGUMENT


def test_answers_that_are_given_together_are_what_each_would_be_alone(model, trunk, config):
    """Whatever comes and goes meanwhile, however long their prompts are, greedy and sampled; the trunk needs no experts."""
    draw = Random(1)
    requests = {
        str(number): (
            [draw.randrange(256) for _ in range(draw.randint(1, 2 * config.context))],
            Sampling(
                draw.randint(1, 3 * config.context),
                draw.choice([0.0, 1.0]),
                20,
                number,
                frozenset({draw.randrange(256)}),
            ),
        )
        for number in range(12)
    }
    decoder, answers, waiting = Decoder(trunk), {}, list(requests)
    while waiting or len(decoder):
        if waiting and draw.random() < 0.3:
            decoder.add(waiting[0], *requests[waiting.pop(0)])
        collect(decoder, model, answers)
    for name, (prompt, sampling) in requests.items():
        assert answers.get(name, []) == list(generate(model, prompt, sampling)), name


def test_an_expert_is_asked_once_a_layer_for_the_rows_of_all(model, trunk, config):
    """Each layer asks for as many rows of experts as tokens are read, times experts a token; none for experts without rows."""
    decoder = Decoder(trunk)
    decoder.add("a", PROMPT, Sampling(2))
    decoder.add("b", PROMPT[:2], Sampling(2))
    for tokens in (6, 2):
        step = decoder.step()
        asked = next(step)
        for layer in range(config.layers):
            assert asked.layer == layer
            assert sum(len(rows) for rows in asked.rows.values()) == tokens * config.experts_per_token
            assert list(asked.rows) == sorted(asked.rows)
            assert all(rows.shape[1] == config.width and len(rows) for rows in asked.rows.values())
            experts = model.blocks[layer].experts
            outputs = {expert: experts.compute(expert, rows) for expert, rows in asked.rows.items()}
            if layer < config.layers - 1:
                asked = step.send(outputs)
        with pytest.raises(StopIteration) as end:
            step.send(outputs)
        assert [each.name for each in end.value.value] == ["a", "b"]


def test_a_step_that_is_given_up_leaves_all_answers_as_they_were(model, trunk, config):
    """At any layer, because nobody answered or because what came was no answer: the next step chooses what it would have."""
    sampling = Sampling(6, temperature=1.0, seed=7, stop_tokens=frozenset())
    decoder, answers = Decoder(trunk), {}
    decoder.add("a", PROMPT, sampling)
    while len(decoder):
        for layers in range(config.layers):
            step = decoder.step()
            asked = next(step)
            for layer in range(layers):
                experts = model.blocks[layer].experts
                asked = step.send({expert: experts.compute(expert, rows) for expert, rows in asked.rows.items()})
            step.close()
            step = decoder.step()
            next(step)
            with pytest.raises(KeyError):
                step.send({})
        collect(decoder, model, answers)
    assert answers["a"] == list(generate(model, PROMPT, sampling))


def test_an_answer_that_is_removed_in_mid_step_is_not_heard_of_again(model):
    """The others get their token; the name may be used again at once, for another answer."""
    decoder = Decoder(model)
    decoder.add("a", PROMPT, Sampling(5))
    decoder.add("b", PROMPT, Sampling(5))
    with pytest.raises(ValueError, match="under way"):
        decoder.add("b", PROMPT, Sampling(5))
    step = decoder.step()

    class Removing:
        """Removes an answer while the experts work."""

        blocks = property(lambda self: self.remove())

        def remove(self):
            decoder.remove("a")
            if "a" not in decoder:
                decoder.add("a", PROMPT[:1], Sampling(1))
            return model.blocks

    assert [each.name for each in drive(step, Removing())] == ["b"]
    assert {each.name for each in drive(decoder.step(), model)} == {"a", "b"}
    decoder.remove("nobody")
    assert "a" not in decoder
    assert "b" in decoder


def test_more_answers_than_a_step_reads_take_turns(model):
    """Nobody has two turns before everybody had one, and a step never reads more than it may."""
    decoder, count = Decoder(model), ROWS_PER_STEP_MAX + 100
    for number in range(count):
        decoder.add(str(number), [number % 256], Sampling(3, stop_tokens=frozenset()))
    turns = {}
    while len(decoder):
        decoded = drive(decoder.step(), model)
        assert 0 < len(decoded) <= ROWS_PER_STEP_MAX
        for each in decoded:
            turns[each.name] = turns.get(each.name, 0) + 1
        assert max(turns.values()) - min(turns.get(str(number), 0) for number in range(count)) <= 1
    assert set(turns.values()) == {3}


def test_a_trunk_alone_learns_nothing_and_says_so(trunk):
    """Without experts a whole pass is a mistake of ours; without answers a step is nothing."""
    with pytest.raises(ValueError, match="no experts"):
        trunk(torch.tensor([PROMPT]))
    assert drive(Decoder(trunk).step(), trunk) == []
