"""What can be looked into, under /security: this node's word about itself (badge), and answers that were given."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from node.api.bodies import decode_request, read_body
from node.api.handlers import RAW_TYPE, node_of, read_natural
from node.api.responses import json_response
from node.api.streams import LongResponse
from node.api.view import NodeView
from protocol.ids import Digest, parse_hex32
from protocol.limits import ANSWER_RECORD_BYTES_MAX, KIB
from protocol.rejection import Reason, Rejected

AUDIT_REQUEST_BYTES_MAX: Final = 2 * ANSWER_RECORD_BYTES_MAX + KIB  # in hexadecimal, and its frame


class AuditRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What POST /security/verify_audit takes as JSON: the bytes of a record in hexadecimal."""

    record: Annotated[str, Meta(max_length=2 * ANSWER_RECORD_BYTES_MAX, pattern=r"^(?:[0-9a-f]{2})+\Z")]


async def get_badge(request: Request) -> Response:
    return json_response(node_of(request).badge())


async def get_answers(request: Request) -> Response:
    """``?first=N``: from the N newest on."""
    first = read_natural(request.query_params.get("first", "0"), "first")
    return json_response({"answers": list(node_of(request).answers(first))})


async def get_answer(request: Request) -> Response:
    name = _name(request)
    facts = node_of(request).answer(name)
    if facts is None:
        raise _not_kept(name)
    return json_response(facts)


async def get_answer_record(request: Request) -> Response:
    """The bytes of an answer with its prompt: what another node audits."""
    return Response(_record(request), media_type=RAW_TYPE)


async def post_audit(request: Request) -> Response:
    """An answer that this node gave."""
    return _Audit(node_of(request), _record(request))


async def post_audit_record(request: Request) -> Response:
    """An answer of any door, sent as it is (``RAW_TYPE``) or as an ``AuditRequest``."""
    body = await read_body(request, AUDIT_REQUEST_BYTES_MAX)
    if request.headers.get("content-type") != RAW_TYPE:
        body = bytes.fromhex(decode_request(body, AuditRequest).record)
    return _Audit(node_of(request), body)


class _Audit(LongResponse):
    """One answer that is computed again."""

    def __init__(self, node: NodeView, record: bytes) -> None:
        super().__init__()
        self._node, self._record = node, record

    async def work(self) -> None:
        await self.whole(json_response(await self._node.audit_answer(self._record)))


def _name(request: Request) -> Digest:
    return Digest(parse_hex32(request.path_params["id"], "an answer's name"))


def _record(request: Request) -> bytes:
    name = _name(request)
    record = node_of(request).answer_record(name)
    if record is None:
        raise _not_kept(name)
    return record


def _not_kept(name: Digest) -> Rejected:
    return Rejected(Reason.NOT_FOUND, f"no answer {name.hex()} is kept here")
