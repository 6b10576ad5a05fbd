"""The door for OpenAI's clients: /v1/models, /v1/completions, /v1/chat/completions.

A request has choices, ``n`` for each prompt. Each is an answer of its own, whose seed is the request's and its number, and all
are written at once. The names of the fields are theirs, but for each choice's ``receipt``, which theirs pass over; what the
model has no meaning for is refused (``openai_requests``).
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import trio
from starlette.requests import Request
from starlette.responses import Response

from compute import tokenizer
from node.api.bodies import read_body
from node.api.openai_requests import (
    CHOICES_MAX,
    TURN,
    ChatRequest,
    CompletionRequest,
    conversation_text,
    decode_chat_request,
    decode_completion_request,
)
from node.api.responses import ApiError, json_response
from node.api.streams import LongResponse
from node.api.view import PROMPT_CHARACTERS_MAX, Asked, Facts, NodeView
from node.clock import Clock
from node.stop_text import StopText
from protocol.rejection import Rejected

COMPLETION_TOKENS: Final = 16  # as OpenAI's own, where nothing is said
CHAT_TOKENS: Final = 256
SEED_MAX: Final = 2**63 - 1
DONE: Final = "[DONE]"


async def get_models(request: Request) -> Response:
    """The model of this network, in a list."""
    return json_response({"object": "list", "data": [_model(_node(request))]})


async def get_model(request: Request) -> Response:
    """The model of this network."""
    node = _node(request)
    _check_model(node, request.path_params["model"])
    return json_response(_model(node))


async def post_completions(request: Request) -> Response:
    """A text goes on."""
    asked = decode_completion_request(await read_body(request))
    node = _node(request)
    _check_model(node, asked.model)
    choices = [
        _Choice(
            Asked(
                prompt, asked.max_tokens or COMPLETION_TOKENS, _temperature(asked), _seed(asked, number), _top_p(asked)
            ),
            asked.stops,
            prompt if asked.echo else "",
        )
        for prompt in asked.prompts
        for number in range(asked.n or 1)
    ]
    return _Completion(node, asked, choices, _TextForm)


async def post_chat_completions(request: Request) -> Response:
    """A conversation goes on."""
    asked = decode_chat_request(await read_body(request))
    node = _node(request)
    _check_model(node, asked.model)
    prompt = conversation_text(asked.messages)
    if len(prompt) > PROMPT_CHARACTERS_MAX:
        message = f"The messages have {len(prompt)} characters, at most {PROMPT_CHARACTERS_MAX} are read."
        raise ApiError(400, "context_length_exceeded", message, "messages")
    tokens_max = asked.max_completion_tokens or asked.max_tokens or CHAT_TOKENS
    choices = [
        _Choice(
            Asked(prompt, tokens_max, _temperature(asked), _seed(asked, number), _top_p(asked)), (*asked.stops, TURN)
        )
        for number in range(asked.n or 1)
    ]
    return _Completion(node, asked, choices, _ChatForm)


# -- what is asked -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Choice:
    """One answer: what is asked, and what came of it. ``echo``: what is shown before it."""

    asked: Asked
    stops: tuple[str, ...]
    echo: str = ""
    text: str = ""
    tokens: int = 0
    ends: str = ""
    receipt: Facts | None = None

    async def write(self, node: NodeView, say: Callable[[str], Awaitable[None]]) -> None:
        """The answer, to its end; what may be shown is said as soon as it is there."""
        cut = StopText(self.stops)
        if self.echo:
            await say(self.echo)
        async with node.generate(self.asked) as answer:
            async for piece in answer:
                self.tokens += piece.tokens
                if text := cut.push(piece.text):
                    await say(text)
                if cut.is_found:
                    break
            self.receipt = await answer.receipt()
        if text := cut.finish():
            await say(text)
        is_cut = not cut.is_found and self.tokens >= self.asked.tokens_max
        self.ends = "length" if is_cut else "stop"


def _node(request: Request) -> NodeView:
    node: NodeView = request.app.state.find_node()
    return node


def _model(node: NodeView) -> dict[str, Any]:
    facts = node.model()
    return {"id": facts["id"], "object": "model", "created": facts["created"], "owned_by": facts["network_id"]}


def _check_model(node: NodeView, name: str) -> None:
    known = node.model()["id"]
    if name != known:
        raise ApiError(404, "model_not_found", f"The model {name!r} is not here; there is {known!r}.", "model")


def _temperature(asked: CompletionRequest | ChatRequest) -> float:
    return 1.0 if asked.temperature is None else asked.temperature


def _top_p(asked: CompletionRequest | ChatRequest) -> float:
    return 1.0 if asked.top_p is None else asked.top_p


def _seed(asked: CompletionRequest | ChatRequest, number: int) -> int:
    first = secrets.randbits(63) if asked.seed is None else asked.seed
    return (first + number) & SEED_MAX


# -- what is said ------------------------------------------------------------------------------------------------------


class _TextForm:
    """/v1/completions."""

    prefix, whole_object, piece_object = "cmpl-", "text_completion", "text_completion"

    @staticmethod
    def whole(text: str) -> Mapping[str, Any]:
        return {"text": text, "logprobs": None}

    @staticmethod
    def piece(text: str | None) -> Mapping[str, Any]:
        return {"text": text or "", "logprobs": None}

    first: Mapping[str, Any] | None = None


class _ChatForm:
    """/v1/chat/completions."""

    prefix, whole_object, piece_object = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    @staticmethod
    def whole(text: str) -> Mapping[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": None}

    @staticmethod
    def piece(text: str | None) -> Mapping[str, Any]:
        return {"delta": {} if text is None else {"content": text}, "logprobs": None}

    first: Mapping[str, Any] | None = {"delta": {"role": "assistant", "content": ""}, "logprobs": None}


class _Completion(LongResponse):
    """The answers to one request."""

    def __init__(
        self,
        node: NodeView,
        asked: CompletionRequest | ChatRequest,
        choices: list[_Choice],
        form: type[_TextForm] | type[_ChatForm],
    ) -> None:
        super().__init__()
        if len(choices) > CHOICES_MAX:
            raise ApiError(400, "too_many_choices", f"At most {CHOICES_MAX} answers to one request.", "n")
        self._node, self._asked, self._choices, self._form = node, asked, choices, form
        facts = node.model()
        self._head = {
            "id": form.prefix + secrets.token_hex(12),
            "created": Clock().now_ms() // 1000,
            "model": facts["id"],
            "system_fingerprint": f"round-{facts['round']}",
        }

    async def work(self) -> None:
        refusals: list[Rejected] = []

        async def write(number: int, choice: _Choice, scope: trio.CancelScope) -> None:
            try:
                await self._write(number, choice)
            except Rejected as refusal:
                refusals.append(refusal)
                scope.cancel()

        async with trio.open_nursery() as nursery:
            for number, choice in enumerate(self._choices):
                nursery.start_soon(write, number, choice, nursery.cancel_scope)
        if refusals:
            raise refusals[0]
        if not self._asked.stream:
            choices = [
                {
                    "index": number,
                    **self._form.whole(choice.text),
                    "finish_reason": choice.ends,
                    "receipt": choice.receipt,
                }
                for number, choice in enumerate(self._choices)
            ]
            facts = {**self._head, "object": self._form.whole_object, "choices": choices, "usage": self._usage()}
            await self.whole(json_response(facts))
            return
        if self._asked.tells_usage:
            await self.event(self._chunk([], usage=self._usage()))
        await self.event(DONE)
        await self.end()

    async def _write(self, number: int, choice: _Choice) -> None:
        first = self._form.first if self._asked.stream else None

        async def begin() -> None:
            nonlocal first
            if first is not None:
                part, first = first, None
                await self._say(number, part)

        async def tell(text: str) -> None:
            await begin()  # not before there is an answer: who is refused gets a status
            await self._say(number, self._form.piece(text))

        async def keep(text: str) -> None:
            choice.text += text

        await choice.write(self._node, tell if self._asked.stream else keep)
        if self._asked.stream:
            await begin()
            await self._say(number, {**self._form.piece(None), "receipt": choice.receipt}, choice.ends)

    async def _say(self, number: int, part: Mapping[str, Any], ends: str | None = None) -> None:
        await self.event(self._chunk([{"index": number, **part, "finish_reason": ends}]))

    def _chunk(self, choices: list[dict[str, Any]], usage: Mapping[str, int] | None = None) -> dict[str, Any]:
        chunk = {**self._head, "object": self._form.piece_object, "choices": choices}
        return chunk | {"usage": usage} if self._asked.tells_usage else chunk

    def _usage(self) -> dict[str, int]:
        """A prompt is counted once, however many answers it has."""
        read = sum(len(tokenizer.encode(prompt)) for prompt in {choice.asked.prompt for choice in self._choices})
        written = sum(choice.tokens for choice in self._choices)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
