"""The API's server: Starlette on hypercorn's trio worker, inside the node's nursery, on a port and a unix socket.

The port is on loopback unless the configuration says otherwise. Who may call is decided by ``node/api/guards.py``.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio
from hypercorn.config import Config

from node.api.application import FindNode, make_app
from node.api.bodies import BODY_BYTES_MAX
from node.api.connections import serve_connections
from node.api.guards import Doorkeeper
from node.api.times import ApiTimes
from node.api_keys import KeyRing
from node.clock import Clock
from node.data_directory import SOCKET_PATH_BYTES_MAX, DataDirectory

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # trio-stubs, which libp2p brings, hide trio's own types

log = structlog.get_logger()

ORDINARY_TIMES: Final = ApiTimes()
PING_SECONDS: Final = 20.0  # on an open /ws/chat: a line that is gone is noticed


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """Where the API is served."""

    url: str
    socket: Path | None  # None: the data directory's path is too long for a unix socket


async def serve_api(
    find_node: FindNode,
    places: DataDirectory,
    listen: str,
    peer: str,
    addresses: Sequence[str],
    listening: Sequence[str] = (),
    *,
    origins: Sequence[str] = (),
    times: ApiTimes = ORDINARY_TIMES,
    task_status: TaskStatus[ApiAddress] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. When it can be reached, write ``api.json`` and report the address; remove both at the end.

    ``listen`` is IP:PORT; ``addresses`` are where peers reach the node, ``listening`` are its own sockets; ``origins`` are
    those of pages that may call. Raises ``OSError`` with a sentence for a busy port.
    """
    keys = KeyRing(places.api_keys)
    doorkeeper = Doorkeeper(ensure_token(places.api_token), keys, frozenset(origins), Clock().monotonic_seconds)
    app = make_app(find_node, doorkeeper, times, origins)
    listener = _listen(listen)
    port = listener.getsockname()[1]
    socket_path = places.api_socket.absolute()
    unix_listener = _listen_unix(socket_path)
    host = listen.rpartition(":")[0]
    address = ApiAddress(f"http://{_near(host)}:{port}", socket_path if unix_listener else None)
    if not ipaddress.ip_address(host.strip("[]")).is_loopback:
        log.warning(
            "the API can be reached from other machines, by those who have a key",
            keys=len(keys),
            remedy="nocknode api-key new NAME makes one; put a proxy with TLS in front of it, or keys travel in plain text",
        )

    config = Config()
    config.errorlog = logging.getLogger("hypercorn.error")
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = times.idle_seconds
    config.websocket_max_message_size = BODY_BYTES_MAX
    config.websocket_ping_interval = PING_SECONDS
    try:
        async with trio.open_nursery() as nursery:
            sockets = [sock for sock in (listener, unix_listener) if sock is not None]
            nursery.start_soon(serve_connections, app, config, sockets, times.read_seconds)
            _write_api_file(places.api_file, address, peer, addresses, listening)
            task_status.started(address)
    finally:
        places.api_file.unlink(missing_ok=True)
        socket_path.unlink(missing_ok=True)


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


def _near(host: str) -> str:
    """The same host as this machine calls it: nobody dials 0.0.0.0."""
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)


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
