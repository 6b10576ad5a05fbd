"""The API's server: Starlette on hypercorn's trio worker, inside the node's nursery, on loopback and a unix socket.

A web page in the user's browser can reach loopback too, so every request must name a loopback host (no rebinding of names),
a page of another origin is refused, and whatever changes something needs the bearer token of the data directory or comes
through the unix socket, which only its owner can open.
"""

from __future__ import annotations

import hmac
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import hypercorn.trio
import msgspec
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from node.api.handlers import error_facts, json_response, rejection_response
from node.api.routes import ROUTES, Access, ApiRoute
from node.api.view import NodeView
from node.data_directory import SOCKET_PATH_BYTES_MAX, DataDirectory
from protocol.rejection import Reason, Rejected

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # trio-stubs, which libp2p brings, hide trio's own types

FindNode = Callable[[], NodeView]
LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
KEEP_ALIVE_SECONDS: Final = 5.0
STOP_SECONDS: Final = 1.0  # what an answer under way gets when the node stops


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """Where the API is served."""

    url: str
    socket: Path | None  # None: the data directory's path is too long for a unix socket


def make_app(find_node: FindNode, token: str) -> Starlette:
    """The application: the table of routes, each behind its guard. ``token`` is the bearer token for changes.

    ``find_node`` is asked for each request: a node that joins is another one than the one that has joined.
    """
    app = Starlette(
        routes=[Route(row.path, _guarded(row, token), methods=[row.method]) for row in ROUTES],
        exception_handlers={Rejected: _answer_rejection, 404: _answer_unknown, 405: _answer_unknown},
    )
    app.state.find_node = find_node
    return app


async def serve_api(
    find_node: FindNode,
    places: DataDirectory,
    listen: str,
    peer: str,
    addresses: Sequence[str],
    listening: Sequence[str] = (),
    *,
    task_status: TaskStatus[ApiAddress] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. When it can be reached, write ``api.json`` and report the address; remove both at the end.

    ``listen`` is IP:PORT; ``addresses`` are where peers reach the node, ``listening`` are its own sockets. Raises ``OSError``
    with a sentence for a busy port.
    """
    token = ensure_token(places.api_token)
    app = make_app(find_node, token)
    listener = _listen(listen)
    port = listener.getsockname()[1]
    socket_path = places.api_socket.absolute()
    unix_listener = _listen_unix(socket_path)
    address = ApiAddress(f"http://{listen.rpartition(':')[0]}:{port}", socket_path if unix_listener else None)

    config = Config()
    config.bind = [f"fd://{sock.detach()}" for sock in (listener, unix_listener) if sock is not None]
    config.errorlog = logging.getLogger("hypercorn.error")
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.graceful_timeout = STOP_SECONDS
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_serve, app, config)
            _write_api_file(places.api_file, address, peer, addresses, listening)
            task_status.started(address)
    finally:
        places.api_file.unlink(missing_ok=True)
        socket_path.unlink(missing_ok=True)


async def _serve(app: Starlette, config: Config, *, task_status: TaskStatus[list[str]]) -> None:
    # hypercorn describes ASGI with closed types, Starlette with open ones: they mean the same.
    await hypercorn.trio.serve(
        cast(Any, app), config, shutdown_trigger=trio.sleep_forever, task_status=task_status, mode="asgi"
    )


def ensure_token(path: Path) -> str:
    """The bearer token of a data directory, made at the first start; 0600."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        token = os.urandom(32).hex()
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(token + "\n")
        return token


# -- guards ------------------------------------------------------------------------------------------------------------


def _guarded(row: ApiRoute, token: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        if not is_unix_socket(request):
            refusal = _refusal(request, row.access, token)
            if refusal is not None:
                return json_response({"error": {"code": "forbidden", "message": refusal}}, 403)
        return await row.handler(request)

    return answer


def is_unix_socket(request: Request) -> bool:
    """Whether a request came through the unix socket: only there the server has no address."""
    return request.scope.get("server") is None


def _refusal(request: Request, access: Access, token: str) -> str | None:
    """Why a request over TCP is refused, in a sentence; None when it is not."""
    host = request.headers.get("host", "")
    name, _, port = host.rpartition(":")
    if (name if port.isdigit() else host) not in LOOPBACK_NAMES:
        return "The Host header must name this machine: 127.0.0.1 or localhost."
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return "A page of another origin may not call this API."
    given = request.headers.get("authorization", "")
    if access is Access.CHANGE and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        return "This needs 'Authorization: Bearer TOKEN' with the content of api.token, or the unix socket api.sock."
    return None


async def _answer_rejection(request: Request, error: Exception) -> Response:
    if not isinstance(error, Rejected):
        raise error
    return rejection_response(error)


async def _answer_unknown(request: Request, error: Exception) -> Response:
    paths = ", ".join(f"{row.method} {row.path}" for row in ROUTES)
    facts = error_facts(Rejected(Reason.NOT_FOUND, f"{request.method} {request.url.path}; there are {paths}"))
    return json_response(facts, getattr(error, "status_code", 404))


# -- sockets -----------------------------------------------------------------------------------------------------------


def _listen(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
        listener.listen()
    except OSError as error:
        listener.close()
        raise OSError(
            f"The API cannot listen on {listen} ({error.strerror}): choose another port with --api, or 127.0.0.1:0."
        ) from error
    return listener


def _listen_unix(path: Path) -> socket.socket | None:
    """A listening socket that only its owner can open; None where the path is too long for one."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        return None
    path.unlink(missing_ok=True)  # left by a killed process; the caller holds the data directory's lock
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # the mode must be right from the first moment
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen()
    return listener


def _write_api_file(
    path: Path, address: ApiAddress, peer: str, addresses: Sequence[str], listening: Sequence[str]
) -> None:
    """Tell other processes where we are. Renamed into place: nobody reads half of it."""
    facts = {
        "pid": os.getpid(),
        "url": address.url,
        "socket": str(address.socket) if address.socket else None,
        "peer": peer,
        "addresses": list(addresses),
        "listening": list(listening),
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(facts) + b"\n")
    os.replace(temporary, path)
