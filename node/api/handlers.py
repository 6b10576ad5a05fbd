"""One function per route: a request in, a response out. They run in the event loop and wait for bytes, never for long."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import aclosing
from typing import Annotated, Any, Final, TypeVar

import msgspec
import trio
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from node.account_address import parse_account
from node.api.view import ChainFacts, NodeView
from node.metrics import CONTENT_TYPE, metrics_text
from protocol.ids import Digest, parse_hex32, parse_peer
from protocol.limits import KIB, TRANSACTION_BYTES_MAX
from protocol.rejection import Blame, Reason, Rejected

BODY_BYTES_MAX: Final = 64 * 1024  # a prompt of 16,384 characters of four bytes, and its frame
PROMPT_CHARACTERS_MAX: Final = 12_000
TOKENS_MAX: Final = 4096

TRANSACTION_REQUEST_BYTES_MAX: Final = 2 * TRANSACTION_BYTES_MAX + KIB  # in hexadecimal, and its frame
RAW_TYPE: Final = "application/octet-stream"

_STATUS_OF_REASON: Final = {Reason.BUSY: 503, Reason.NOT_FOUND: 404, Reason.TOO_LARGE: 413}
_STATUS_OF_BLAME: Final = {Blame.USER: 400, Blame.SENDER: 400, Blame.AUTHOR: 409, Blame.NOBODY: 409}


T = TypeVar("T")


class GenerateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What POST /generate takes."""

    prompt: Annotated[str, Meta(max_length=PROMPT_CHARACTERS_MAX)]
    tokens_max: Annotated[int, Meta(ge=1, le=TOKENS_MAX)] = 128
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.8
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


class TransactionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What POST /consensus/transactions takes as JSON: the signed bytes in hexadecimal."""

    transaction: Annotated[str, Meta(max_length=2 * TRANSACTION_BYTES_MAX, pattern=r"^(?:[0-9a-f]{2})+\Z")]


def node_of(request: Request) -> NodeView:
    """The node that this application serves."""
    node: NodeView = request.app.state.find_node()
    return node


async def get_status(request: Request) -> Response:
    return json_response(node_of(request).status())


async def get_rounds(request: Request) -> Response:
    return json_response(node_of(request).rounds())


async def get_round_slots(request: Request) -> Response:
    number = request.path_params["round"]
    slots = node_of(request).round_slots(number)
    if slots is None:
        raise Rejected(Reason.NOT_FOUND, f"nothing is kept of round {number}")
    return json_response(slots)


async def get_tiles(request: Request) -> Response:
    return json_response(node_of(request).tiles())


async def get_peers(request: Request) -> Response:
    return json_response(node_of(request).peers())


async def get_custody(request: Request) -> Response:
    return json_response(node_of(request).custody())


async def get_kept_tile(request: Request) -> Response:
    """The bytes of one tile of a blob, put together from its cells."""
    blob = Digest(parse_hex32(request.path_params["blob"], "the blob"))
    return Response(await node_of(request).read_kept(blob, request.path_params["tile"]), media_type=RAW_TYPE)


async def get_health(request: Request) -> Response:
    is_healthy, reasons = node_of(request).health()
    return json_response({"healthy": is_healthy, "reasons": list(reasons)}, 200 if is_healthy else 503)


async def get_metrics(request: Request) -> Response:
    return Response(metrics_text(node_of(request).metrics()), media_type=CONTENT_TYPE)


# -- the chain ---------------------------------------------------------------------------------------------------------


def chain_of(request: Request) -> ChainFacts:
    """The chain that this application serves."""
    return node_of(request).chain


async def get_chain_status(request: Request) -> Response:
    return json_response(chain_of(request).status())


async def get_block(request: Request) -> Response:
    """``?first=N``: the body's transactions from there on."""
    height = read_natural(request.path_params["height"], "the height")
    block = chain_of(request).block(height, read_natural(request.query_params.get("first", "0"), "first"))
    if block is None:
        raise Rejected(Reason.NOT_FOUND, f"no block {height} is kept")
    return json_response(block)


async def get_transaction(request: Request) -> Response:
    name = Digest(parse_hex32(request.path_params["id"], "a transaction's id"))
    found = chain_of(request).transaction(name)
    if found is None:
        raise Rejected(Reason.NOT_FOUND, f"no transaction {name.hex()} waits here or is in a block")
    return json_response(found)


async def get_account(request: Request) -> Response:
    return json_response(chain_of(request).account(parse_account(request.path_params["address"])))


async def get_proof(request: Request) -> Response:
    return json_response(await chain_of(request).proof(request.query_params.get("key", "")))


async def get_validators(request: Request) -> Response:
    return json_response(chain_of(request).validators())


async def get_validator(request: Request) -> Response:
    text = request.path_params["id"]
    found = chain_of(request).validator(parse_peer(text))
    if found is None:
        raise Rejected(Reason.NOT_FOUND, f"no validator {text}")
    return json_response(found)


async def get_epoch(request: Request) -> Response:
    return json_response(chain_of(request).epoch())


async def get_kept(request: Request) -> Response:
    """``?first=N``: the entries from there on."""
    return json_response(chain_of(request).kept(read_natural(request.query_params.get("first", "0"), "first")))


async def post_transaction(request: Request) -> Response:
    return json_response(await chain_of(request).submit(await read_transaction(request)), 202)


async def post_register(request: Request) -> Response:
    return json_response(await chain_of(request).register(await read_transaction(request)), 202)


async def read_transaction(request: Request) -> bytes:
    """The bytes of a transaction, sent as they are (``RAW_TYPE``) or as a ``TransactionRequest``; raises ``Rejected``."""
    body = await read_body(request, TRANSACTION_REQUEST_BYTES_MAX)
    if request.headers.get("content-type") == RAW_TYPE:
        return body
    return bytes.fromhex(decode_request(body, TransactionRequest).transaction)


def read_natural(text: str, what: str) -> int:
    """A number from a path or query; raises ``Rejected(BAD_ARGUMENT)``. ``int`` takes more than digits, and any length."""
    if not re.fullmatch(r"[0-9]{1,19}", text, re.ASCII):
        raise Rejected(Reason.BAD_ARGUMENT, f"{what} must be a number")
    return int(text)


# -- joining -----------------------------------------------------------------------------------------------------------


async def get_state_sync(request: Request) -> Response:
    return json_response(node_of(request).state_sync())


async def get_checkpoints(request: Request) -> Response:
    return json_response({"checkpoints": list(node_of(request).checkpoints())})


# -- changes -----------------------------------------------------------------------------------------------------------


async def post_stop(request: Request) -> Response:
    node_of(request).request_stop()
    return json_response({"stopping": True}, 202)


async def post_generate(request: Request) -> Response:
    """Server-sent events: {"text"} for each piece, at the end {"done", "tokens", "round"} or {"error"}."""
    return GeneratedText(node_of(request), decode_request(await read_body(request), GenerateRequest))


class GeneratedText(Response):
    """The stream of one generation. A caller who leaves stops it; what fails before the first piece is a plain answer."""

    def __init__(self, node: NodeView, asked: GenerateRequest) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        # Starlette counts an empty body's length into the headers; a stream has none.
        self.raw_headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        self._node = node
        self._asked = asked
        self._is_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
            await self._stream(scope, receive, send)
            nursery.cancel_scope.cancel()

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = self._asked
        tokens = 0
        try:
            async with self._node.generate(asked.prompt, asked.tokens_max, asked.temperature, asked.seed) as pieces:
                async for piece in pieces:
                    tokens += 1
                    if piece:
                        await self._say(send, {"text": piece})
        except Rejected as error:
            if not self._is_started:
                await rejection_response(error)(scope, receive, send)
                return
            await self._say(send, error_facts(error))
        else:
            await self._say(send, {"done": True, "tokens": tokens, "round": self._node.status()["round"]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _say(self, send: Send, event: Mapping[str, Any]) -> None:
        if not self._is_started:
            self._is_started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        line = b"data: " + msgspec.json.encode(event) + b"\n\n"
        await send({"type": "http.response.body", "body": line, "more_body": True})


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def decode_request(body: bytes, kind: type[T]) -> T:
    """A JSON body as what it should be; raises ``Rejected(BAD_ARGUMENT)``."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(Reason.BAD_ARGUMENT, f"the request is not as it should be: {error}") from None


async def read_body(request: Request, limit_bytes: int = BODY_BYTES_MAX) -> bytes:
    """The whole body; raises ``Rejected(TOO_LARGE)`` as soon as it is over the bound."""
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit_bytes:
                raise Rejected(Reason.TOO_LARGE, f"at most {limit_bytes} bytes")
    return bytes(body)


def json_response(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def error_facts(error: Rejected) -> dict[str, object]:
    return {"error": {"code": error.reason.code, "message": str(error)}}


def rejection_response(error: Rejected) -> Response:
    """A refusal as an answer: its code and sentence, and the status that fits."""
    status = _STATUS_OF_REASON.get(error.reason, _STATUS_OF_BLAME[error.reason.blame])
    return json_response(error_facts(error), status)
