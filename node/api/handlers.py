"""One function per route: a request in, a response out. They run in the event loop and wait for bytes, never for long."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from node.account_address import parse_account
from node.api.bodies import decode_request, read_body
from node.api.responses import ApiError, json_response
from node.api.streams import LongResponse
from node.api.view import Asked, ChainFacts, NodeView
from node.metrics import CONTENT_TYPE, metrics_text
from protocol.ids import Digest, parse_hex32, parse_peer, peer_text
from protocol.limits import KIB, TRANSACTION_BYTES_MAX
from protocol.rejection import Reason, Rejected

TRANSACTION_REQUEST_BYTES_MAX: Final = 2 * TRANSACTION_BYTES_MAX + KIB  # in hexadecimal, and its frame
RAW_TYPE: Final = "application/octet-stream"


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


async def get_experts(request: Request) -> Response:
    return json_response(node_of(request).experts())


async def get_expert(request: Request) -> Response:
    name = request.path_params["expert"]
    found = next((expert for expert in node_of(request).experts() if expert["expert"] == name), None)
    if found is None:
        raise Rejected(Reason.NOT_FOUND, f"no expert {name!r}; GET /experts lists them")
    return json_response(found)


async def get_expert_calls(request: Request) -> Response:
    return json_response(node_of(request).expert_calls())


async def get_integrity(request: Request) -> Response:
    """What this node refused, and whom it found at fault."""
    node = node_of(request)
    status, custody, calls = node.status(), node.custody(), node.expert_calls()
    return json_response(
        {
            "verified_seconds_ago": status["verified_seconds_ago"],
            "rejected": status["rejected"],
            "custody_faults": custody["faults"],
            "audits": custody["audits"],
            "audits_failed": custody["audits_failed"],
            "answers_checked": calls["checks"],
            "quarantined": {
                holder["peer"]: holder["quarantined_seconds"]
                for holder in calls["holders"]
                if holder["quarantined_seconds"] is not None
            },
        }
    )


async def get_node_status(request: Request) -> Response:
    """What a holder of experts gave this node."""
    peer = peer_text(parse_peer(request.path_params["id"]))
    found = next((holder for holder in node_of(request).expert_calls()["holders"] if holder["peer"] == peer), None)
    if found is None:
        raise Rejected(Reason.NOT_FOUND, f"this node asked {peer} for no expert")
    return json_response(found)


async def post_quarantine(request: Request) -> Response:
    node_of(request).quarantine(parse_peer(request.path_params["id"]))
    return json_response({"quarantined": request.path_params["id"]}, 202)


async def post_recover(request: Request) -> Response:
    node_of(request).recover(parse_peer(request.path_params["id"]))
    return json_response({"recovered": request.path_params["id"]}, 202)


async def get_alerts(request: Request) -> Response:
    return json_response({"alerts": list(node_of(request).alerts())})


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
    """Server-sent events: {"text"} for each piece, at the end {"done", "tokens", "round", "receipt"} or {"error"}."""
    return _Text(node_of(request), decode_request(await read_body(request), Asked), is_stream=True)


async def post_chat(request: Request) -> Response:
    """The whole text at once: {"text", "tokens", "round", "receipt"}."""
    return _Text(node_of(request), decode_request(await read_body(request), Asked), is_stream=False)


async def post_chat_distributed(request: Request) -> Response:
    """The same, by the experts of peers or not at all."""
    if node_of(request).model()["experts"] != "elsewhere":
        message = "This node does not call the experts of peers: start it with --experts elsewhere, or ask /chat."
        raise ApiError(409, "not_distributed", message)
    return await post_chat(request)


class _Text(LongResponse):
    """One text that goes on."""

    def __init__(self, node: NodeView, asked: Asked, *, is_stream: bool) -> None:
        super().__init__()
        self._node, self._asked, self._is_stream = node, asked, is_stream

    async def work(self) -> None:
        texts, tokens = [], 0
        async with self._node.generate(self._asked) as answer:
            async for piece in answer:
                tokens += piece.tokens
                texts.append(piece.text)
                if piece.text and self._is_stream:
                    await self.event({"text": piece.text})
            receipt = await answer.receipt()
        facts = {"tokens": tokens, "round": self._node.status()["round"], "receipt": receipt}
        if self._is_stream:
            await self.event({"done": True, **facts})
            await self.end()
        else:
            await self.whole(json_response({"text": "".join(texts), **facts}))
