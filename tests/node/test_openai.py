"""OpenAI's own client, and what it sends, against the API over a real socket."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
import trio
from structlog.testing import capture_logs

from node.api.openai_requests import CHOICES_MAX
from node.api_keys import add_key
from tests.node.samples import MODEL
from tests.node.test_api import Served, serve

MODEL_ID = MODEL["id"]
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "to be or not"}]

Client = Callable[..., Awaitable[Any]]


def talk(root: Path, conversation: Callable[[Served, openai.OpenAI], Awaitable[None]]) -> None:
    """One conversation with OpenAI's client, which has a key of this node and never asks twice."""

    async def main(served: Served) -> None:
        _, key = add_key(served.places.api_keys, "a friend", now_ms=1)
        with (
            openai.OpenAI(base_url=f"{served.address.url}/v1", api_key=key, max_retries=0, timeout=10) as client,
            capture_logs(),
        ):
            await conversation(served, client)

    serve(root, main)


async def ask(method: Callable[..., Any], **what: Any) -> Any:
    """A blocking call of the client, in a thread."""
    return await trio.to_thread.run_sync(partial(method, **what))


def test_its_models_are_the_model_of_the_network(tmp_path):
    """One, by the name of the network; another name is not found, with the sentence that says which there is."""

    async def conversation(served: Served, client: openai.OpenAI) -> None:
        models = await ask(client.models.list)
        assert [(model.id, model.owned_by) for model in models.data] == [(MODEL_ID, MODEL["network_id"])]
        assert (await ask(client.models.retrieve, model=MODEL_ID)).created == MODEL["created"]
        with pytest.raises(openai.NotFoundError, match=f"there is '{MODEL_ID}'"):
            await ask(client.models.retrieve, model="gpt-4")
        with pytest.raises(openai.NotFoundError) as refused:
            await ask(client.completions.create, model="gpt-4", prompt="a")
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")

    talk(tmp_path, conversation)


def test_a_text_is_completed(tmp_path):
    """Whole or in pieces the same text; its length, its end and its tokens are told."""

    async def conversation(served: Served, client: openai.OpenAI) -> None:
        create = partial(client.completions.create, model=MODEL_ID, prompt="to be or not", seed=5)
        whole = await ask(create, max_tokens=3, temperature=0, top_p=0.5)
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("to be or ", "length")
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (13, 3, 16)
        asked = served.node.asked[-1]
        assert (asked.prompt, asked.tokens_max, asked.temperature, asked.top_p) == ("to be or not", 3, 0.0, 0.5)
        stream = await ask(create, stream=True, stream_options={"include_usage": True})
        *pieces, last, usage = await trio.to_thread.run_sync(list, stream)
        assert [piece.choices[0].text for piece in pieces] == ["to ", "be ", "or ", "not "]
        assert last.choices[0].finish_reason == "stop"
        assert (usage.choices, usage.usage.completion_tokens) == ([], 4)
        assert len({chunk.id for chunk in (*pieces, last, usage)}) == 1
        assert served.node.asked[-1].seed == 5

    talk(tmp_path, conversation)


def test_a_conversation_goes_on(tmp_path):
    """Turn after turn in one prompt; the answer ends before the model speaks for the other."""

    async def conversation(served: Served, client: openai.OpenAI) -> None:
        create = partial(client.chat.completions.create, model=MODEL_ID, messages=TURNS, temperature=0)
        served.node.says = "that is"
        whole = await ask(create, max_completion_tokens=2)
        assert whole.choices[0].message.role == "assistant"
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("that is ", "length")
        assert served.node.asked[-1].prompt == "System: Be brief.\n\nUser: to be or not\n\nAssistant: "
        chunks = await trio.to_thread.run_sync(list, await ask(create, stream=True))
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "that is "
        assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]

    talk(tmp_path, conversation)


def test_a_text_ends_before_what_is_to_stop_it(tmp_path):
    """Wherever pieces are cut, no part of it is shown; the work ends with it."""

    async def conversation(served: Served, client: openai.OpenAI) -> None:
        create = partial(client.completions.create, model=MODEL_ID, prompt="one two three four")
        for stop, text in (("o t", "one tw"), ([" four", "three"], "one two "), ("xyz", "one two three four ")):
            whole = await ask(create, stop=stop)
            assert (whole.choices[0].text, whole.choices[0].finish_reason) == (text, "stop")
        pieces = await trio.to_thread.run_sync(list, await ask(create, stop="o t", stream=True))
        assert "".join(piece.choices[0].text for piece in pieces) == "one tw"
        assert served.node.generations_open == 0

    talk(tmp_path, conversation)


def test_several_answers_to_several_prompts(tmp_path):
    """Each has its index and its seed; a prompt is counted once."""

    async def conversation(served: Served, client: openai.OpenAI) -> None:
        create = partial(client.completions.create, model=MODEL_ID, prompt=["to be", "or not"], n=2, seed=2**63 - 1)
        whole = await ask(create, echo=True)
        assert [(choice.index, choice.text) for choice in whole.choices] == [
            (0, "to beto be "),
            (1, "to beto be "),
            (2, "or notor not "),
            (3, "or notor not "),
        ]
        assert sorted(asked.seed for asked in served.node.asked) == [0, 0, 2**63 - 1, 2**63 - 1]
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (6 + 7, 8)
        pieces = await trio.to_thread.run_sync(list, await ask(create, stream=True))
        texts = dict.fromkeys(range(4), "")
        for piece in pieces:
            texts[piece.choices[0].index] += piece.choices[0].text
        assert texts == {0: "to be ", 1: "to be ", 2: "or not ", 3: "or not "}
        with pytest.raises(openai.BadRequestError, match="At most"):
            await ask(client.completions.create, model=MODEL_ID, prompt=["a"] * 3, n=CHOICES_MAX // 2)

    talk(tmp_path, conversation)


@pytest.mark.parametrize(
    ("what", "param"),
    [
        ({"logprobs": 3}, "logprobs"),
        ({"logprobs": 0}, "logprobs"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"temperature": -1}, None),
        ({"max_tokens": 0}, None),
        ({"n": 0}, None),
        ({"prompt": []}, None),
        ({"prompt": [1, 2, 3]}, None),
        ({"extra_body": {"beam": 5}}, None),
    ],
)
def test_what_the_model_has_no_meaning_for_is_refused_by_its_name(tmp_path, what, param):
    """As a bad request, before any work; null and what changes nothing are taken."""

    async def conversation(served: Served, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(client.completions.create, **({"model": MODEL_ID, "prompt": "a"} | what))
        assert refused.value.param == param
        name = next(iter(what.get("extra_body", what)))
        assert name in str(refused.value)
        assert served.node.asked == []
        ask_for_nothing = {
            "logprobs": None,
            "best_of": 1,
            "suffix": "",
            "presence_penalty": 0,
            "logit_bias": {},
            "user": "me",
        }
        await ask(client.completions.create, model=MODEL_ID, prompt="a", **ask_for_nothing)

    talk(tmp_path, conversation)


def test_tools_and_other_parts_than_text_are_refused(tmp_path):
    """A conversation that needs them would be answered as if they were not there."""

    async def conversation(served: Served, client: openai.OpenAI) -> None:
        create = partial(client.chat.completions.create, model=MODEL_ID)
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
        for what in (
            {"messages": TURNS, "tools": [tool]},
            {"messages": TURNS, "response_format": {"type": "json_object"}},
            {"messages": [{"role": "user", "content": [image]}]},
            {"messages": [{"role": "tool", "content": "a", "tool_call_id": "b"}]},
            {"messages": []},
            {"messages": [{"role": "user", "content": "long " * 2_000}] * 2},
        ):
            with pytest.raises(openai.BadRequestError):
                await ask(create, **what)
        assert served.node.asked == []
        parts = [{"type": "text", "text": "to be"}, {"type": "text", "text": " or not"}]
        await ask(create, messages=[{"role": "user", "content": parts, "name": "Ann"}], tools=[], tool_choice="none")
        assert served.node.asked[-1].prompt == "Ann: to be or not\n\nAssistant: "

    talk(tmp_path, conversation)


def test_a_busy_node_is_a_503_and_a_lost_answer_an_error_in_the_stream(tmp_path):
    """What is refused before the first token has a status that clients try again on; after it, the stream says so."""

    async def conversation(served: Served, client: openai.OpenAI) -> None:
        served.node.is_busy = True
        for create in (
            partial(client.completions.create, prompt="a"),
            partial(client.chat.completions.create, messages=TURNS),
        ):
            for stream in (False, True):
                with pytest.raises(openai.InternalServerError) as refused:
                    await ask(create, model=MODEL_ID, stream=stream)
                assert (refused.value.status_code, refused.value.code) == (503, "busy")
                assert refused.value.response.headers["retry-after"] == "1"
        served.node.is_busy, served.node.fails_after = False, 1
        stream = await ask(client.completions.create, model=MODEL_ID, prompt="to be", stream=True)
        with pytest.raises(openai.APIError, match="its worker was lost"):
            await trio.to_thread.run_sync(list, stream)
        with pytest.raises(openai.InternalServerError, match="its worker was lost"):
            await ask(client.completions.create, model=MODEL_ID, prompt=["to be", "or not"], n=2)
        assert served.node.generations_open == 0

    talk(tmp_path, conversation)


def test_a_caller_who_leaves_stops_all_of_its_answers(tmp_path):
    """In the middle of a stream, and while it waits for a whole answer."""

    async def conversation(served: Served, client: openai.OpenAI) -> None:
        served.node.waits_for_ever = True
        stream = await ask(client.completions.create, model=MODEL_ID, prompt="to be", stream=True, n=2)
        await trio.to_thread.run_sync(next, iter(stream))
        assert served.node.generations_open == 2
        await trio.to_thread.run_sync(stream.close)
        while served.node.generations_open:
            await trio.lowlevel.checkpoint()
        with pytest.raises(openai.APITimeoutError):
            await ask(client.with_options(timeout=0.2).completions.create, model=MODEL_ID, prompt="to be")
        while served.node.generations_open:
            await trio.lowlevel.checkpoint()

    talk(tmp_path, conversation)


def test_without_a_key_nothing_is_written(tmp_path):
    """None, a wrong one, one that was ended: 401, with what to do; the token of the owner is as good as a key."""

    async def conversation(served: Served, client: openai.OpenAI) -> None:
        for key in ("sk-wrong", "nock_00000000_" + "a" * 43, client.api_key[:-1]):
            with pytest.raises(openai.AuthenticationError) as refused:
                await ask(client.with_options(api_key=key).completions.create, model=MODEL_ID, prompt="a")
            assert refused.value.code == "invalid_api_key"
            assert "nocknode api-key new" in str(refused.value)
        owner = client.with_options(api_key=served.places.api_token.read_text().strip())
        await ask(owner.completions.create, model=MODEL_ID, prompt="a")
        served.places.api_keys.unlink()
        with pytest.raises(openai.AuthenticationError):
            await ask(client.completions.create, model=MODEL_ID, prompt="a")

    talk(tmp_path, conversation)


def test_a_key_has_its_rate(tmp_path):
    """Requests a minute, and answers under way; whoever asks more is told when to come again."""

    async def conversation(served: Served, client: openai.OpenAI) -> None:
        _, key = add_key(served.places.api_keys, "twice a minute", 2, per_minute=2, at_once=1)
        limited = client.with_options(api_key=key)
        for left in ("1", "0"):
            raw = await ask(limited.completions.with_raw_response.create, model=MODEL_ID, prompt="a")
            assert raw.headers["x-ratelimit-remaining-requests"] == left
        with pytest.raises(openai.RateLimitError) as refused:
            await ask(limited.completions.create, model=MODEL_ID, prompt="a")
        assert refused.value.code == "rate_limit_exceeded"
        assert 20 <= int(refused.value.response.headers["retry-after"]) <= 30
        await ask(client.completions.create, model=MODEL_ID, prompt="a")  # another key has its own
        _, key = add_key(served.places.api_keys, "one at a time", 3, at_once=1)
        one = client.with_options(api_key=key)
        served.node.waits_for_ever = True
        stream = await ask(one.completions.create, model=MODEL_ID, prompt="to be", stream=True)
        await trio.to_thread.run_sync(next, iter(stream))
        with pytest.raises(openai.RateLimitError, match="1 answers under way"):
            await ask(one.completions.create, model=MODEL_ID, prompt="a")
        await trio.to_thread.run_sync(stream.close)
        served.node.waits_for_ever = False
        while served.node.generations_open:
            await trio.lowlevel.checkpoint()
        await ask(one.completions.create, model=MODEL_ID, prompt="a")

    talk(tmp_path, conversation)


def test_a_stream_is_what_curl_shows(tmp_path):
    """Lines of `data: `, JSON in each but the last, which says that it is done."""

    async def conversation(served: Served, client: openai.OpenAI) -> None:
        body = {"model": MODEL_ID, "messages": TURNS, "stream": True, "max_tokens": 1}
        answer = await served.unix.post("/v1/chat/completions", json=body)
        assert answer.headers["content-type"].startswith("text/event-stream")
        *events, done = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        assert done == "[DONE]"
        assert {json.loads(event)["object"] for event in events} == {"chat.completion.chunk"}
        assert all("usage" not in json.loads(event) for event in events)

    talk(tmp_path, conversation)
