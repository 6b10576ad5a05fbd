"""The application behind the server: each route behind its guard, and what every answer carries."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.chat_socket import serve_chat
from node.api.guards import Access, Doorkeeper
from node.api.openapi import CHAT_SOCKET
from node.api.responses import ApiError, api_error, json_response
from node.api.routes import ROUTES, ApiRoute
from node.api.times import ApiTimes
from node.api.view import NodeView
from node.clock import Clock
from protocol.rejection import Reason, Rejected

log = structlog.get_logger()

FindNode = Callable[[], NodeView]
_ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    ),
)


def make_app(find_node: FindNode, doorkeeper: Doorkeeper, times: ApiTimes, origins: Sequence[str] = ()) -> ASGIApp:
    """The application: the table of routes, each behind its guard.

    ``find_node`` is asked for each request: a node that joins is another one than the one that has joined. ``origins``: whose
    pages a browser lets read the answers.
    """
    app = Starlette(
        routes=[
            *(Route(row.path, _Guarded(row, doorkeeper), methods=[row.method]) for row in ROUTES),
            WebSocketRoute(CHAT_SOCKET, serve_chat),
        ],
        exception_handlers={
            Rejected: _answer_rejection,
            ApiError: _answer_error,
            404: _answer_unknown,
            405: _answer_unknown,
            500: _answer_bug,
        },
    )
    app.state.find_node = find_node
    app.state.doorkeeper = doorkeeper
    app.state.times = times
    outside: ASGIApp = _Outside(app)
    if origins:
        outside = CORSMiddleware(
            outside,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return outside


class _Guarded:
    """One route, for those who may."""

    def __init__(self, row: ApiRoute, doorkeeper: Doorkeeper) -> None:
        self._row = row
        self._doorkeeper = doorkeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        caller = self._doorkeeper.admit(request, self._row.access)
        scope["nocknode"]["caller"] = caller.name
        if self._row.access is not Access.ASK:
            await (await self._row.handler(request))(scope, receive, send)
            return
        told = self._doorkeeper.charge(caller)
        scope["nocknode"]["headers"].extend((name.encode(), value.encode()) for name, value in told.items())
        with self._doorkeeper.place(caller):
            await (await self._row.handler(request))(scope, receive, send)


class _Outside:
    """Numbers every request, adds the headers that every answer has, and logs how it went."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._clock = Clock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number, began_ms, status = secrets.token_hex(8), self._clock.monotonic_ms(), 0
        facts: dict[str, Any] = {"caller": "", "headers": []}
        scope["nocknode"] = facts

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), *_ALWAYS, *facts["headers"], (b"x-request-id", number.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:  # answered below (_answer_bug), or the answer was under way and ends here
            log.exception("a bug met a request", request=number)
        finally:
            tell = log.info if scope["method"] == "POST" or status >= 400 else log.debug
            tell(
                "request",
                request=number,
                method=scope["method"],
                path=scope["path"][:200],
                status=status,
                milliseconds=self._clock.monotonic_ms() - began_ms,
                caller=facts["caller"],
            )


async def _answer_rejection(request: Request, error: Exception) -> Response:
    if not isinstance(error, Rejected):
        raise error
    return api_error(error).response()


async def _answer_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return error.response()


async def _answer_bug(request: Request, error: Exception) -> Response:
    """Starlette raises the error again afterwards, for whoever logs it."""
    return ApiError(500, "bug", "This node has a bug; its log says more, under this answer's x-request-id.").response()


async def _answer_unknown(request: Request, error: Exception) -> Response:
    paths = ", ".join(f"{row.method} {row.path}" for row in ROUTES)
    refusal = api_error(Rejected(Reason.NOT_FOUND, f"{request.method} {request.url.path}; there are {paths}"))
    return json_response(refusal.facts(), getattr(error, "status_code", 404))
