"""What OpenAI's clients send, checked: https://platform.openai.com/docs/api-reference, completions and chat completions.

A field that this model has no meaning for is refused by its name, unless it says what would be done without it; so nobody
believes in a setting that does nothing. A few say nothing of the text (`user`, `metadata`) and are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from node.api.bodies import decode_request
from node.api.responses import ApiError
from node.api.view import PROMPT_CHARACTERS_MAX
from protocol.limits import ANSWER_TOKENS_MAX

PROMPTS_MAX: Final = 16
CHOICES_MAX: Final = 16  # of all prompts of one request
MESSAGES_MAX: Final = 256
STOPS_MAX: Final = 4

_Text = Annotated[str, Meta(max_length=PROMPT_CHARACTERS_MAX)]
_Stop = Annotated[str, Meta(max_length=256)]
_Tokens = Annotated[int, Meta(ge=1, le=ANSWER_TOKENS_MAX)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said besides, in a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False  # ignored: no padding hides the lengths of pieces


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What both kinds of request have in common."""

    model: Annotated[str, Meta(max_length=256)]
    max_tokens: _Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=10)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Stop | Annotated[tuple[_Stop, ...], Meta(max_length=STOPS_MAX)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # Ignored: they say nothing of the text.
    user: Any = UNSET
    metadata: Any = UNSET

    # Taken where they change nothing; see _UNCHANGED.
    frequency_penalty: Any = UNSET
    presence_penalty: Any = UNSET
    logit_bias: Any = UNSET
    logprobs: Any = UNSET

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings before which the text ends."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the tokens that were read and written."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Asked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/completions."""

    prompt: _Text | Annotated[tuple[_Text, ...], Meta(min_length=1, max_length=PROMPTS_MAX)]
    echo: bool | None = None
    best_of: Any = UNSET
    suffix: Any = UNSET

    @property
    def prompts(self) -> tuple[str, ...]:
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A part of a message; other kinds than text are not read here."""

    text: _Text


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Annotated[str, Meta(pattern=r"^(system|developer|user|assistant)\Z")]
    content: _Text | Annotated[tuple[TextPart, ...], Meta(max_length=MESSAGES_MAX)]
    name: Annotated[str, Meta(max_length=64)] | None = None
    refusal: None = None  # as it comes back in a conversation that goes on

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(_Asked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[tuple[ChatMessage, ...], Meta(min_length=1, max_length=MESSAGES_MAX)]
    max_completion_tokens: _Tokens | None = None

    store: Any = UNSET
    service_tier: Any = UNSET
    safety_identifier: Any = UNSET
    prompt_cache_key: Any = UNSET

    top_logprobs: Any = UNSET
    response_format: Any = UNSET
    tools: Any = UNSET
    tool_choice: Any = UNSET
    parallel_tool_calls: Any = UNSET
    functions: Any = UNSET
    function_call: Any = UNSET
    modalities: Any = UNSET
    reasoning_effort: Any = UNSET


_UNCHANGED: Final[dict[str, tuple[object, ...]]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "best_of": (1,),
    "suffix": ("",),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
}
"""Fields that this model has no meaning for, and the values that do not ask for any; null is one for each."""


def decode_completion_request(body: bytes) -> CompletionRequest:
    """Raises ``Rejected`` and ``ApiError``."""
    asked = decode_request(body, CompletionRequest)
    _check_fields(asked)
    return asked


def decode_chat_request(body: bytes) -> ChatRequest:
    """Raises ``Rejected`` and ``ApiError``."""
    asked = decode_request(body, ChatRequest)
    _check_fields(asked)
    return asked


def _check_fields(asked: _Asked) -> None:
    for field, unchanged in _UNCHANGED.items():
        value = getattr(asked, field, UNSET)
        # 0 == False in Python, and not in JSON
        if not isinstance(value, UnsetType | None) and not any(
            value == each and isinstance(value, bool) == isinstance(each, bool) for each in unchanged
        ):
            message = f"'{field}' is not supported by this model: leave it out."
            raise ApiError(400, "unsupported_parameter", message, field)


def conversation_text(messages: tuple[ChatMessage, ...]) -> str:
    """A conversation as a text that the model continues: each turn with who speaks, the last one begun.

    The model is a plain one, trained on text and on no conversations of a certain form, so this form is as good as another.
    """
    return "".join(
        f"{message.name or message.role.capitalize()}: {message.text.strip()}\n\n" for message in messages
    ) + ("Assistant: ")


TURN: Final = "\n\nUser:"
"""Where an answer ends, if it does not end before: the model begins to speak for the other."""
