"""hypercorn's connections, on streams that do not wait for ever for whoever does not read.

hypercorn shields what it sends from cancellation: a caller who takes nothing would hold its answer, and the end of the node,
until it goes. So its streams end a connection whose caller took nothing for a while, and all of them when the server ends. The
application then hears that its caller has gone, as of anybody else who goes.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Final, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp

PIECE_BYTES: Final = 64 * 1024  # that a caller is to take in the time: a slow line is not one that is gone


async def serve_connections(
    app: ASGIApp, config: Config, sockets: Sequence[socket.socket], read_seconds: float
) -> None:
    """Serve on these listening sockets until cancelled. ``read_seconds``: in which a caller is to take something."""
    wrapped, context = ASGIWrapper(cast(Any, app)), WorkerContext(None)
    sending = _Sending()

    async def serve(stream: trio.SocketStream) -> None:
        patient = _PatientStream(stream, read_seconds, sending)
        await TCPServer(wrapped, config, context, ConnectionState({}), cast(Any, patient))

    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in sockets]
    async with trio.open_nursery() as connections:
        try:
            await trio.serve_listeners(serve, listeners, handler_nursery=connections)
        finally:
            sending.end()


class _Sending:
    """What is being sent on all connections of a server."""

    def __init__(self) -> None:
        self.scopes: set[trio.CancelScope] = set()
        self.is_over = False

    def end(self) -> None:
        """Nothing is sent any more."""
        self.is_over = True
        for scope in self.scopes:
            scope.cancel()


class _PatientStream:
    """A socket's stream, as far as hypercorn uses it."""

    def __init__(self, stream: trio.SocketStream, read_seconds: float, sending: _Sending) -> None:
        self.socket = stream.socket
        self.receive_some = stream.receive_some
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose
        self._stream = stream
        self._read_seconds = read_seconds
        self._sending = sending

    async def send_all(self, data: bytes) -> None:
        """Raises ``trio.BrokenResourceError`` where the other side takes too little for too long."""
        rest = memoryview(data)
        while rest:
            with trio.move_on_after(0 if self._sending.is_over else self._read_seconds) as scope:
                self._sending.scopes.add(scope)
                try:
                    await self._stream.send_all(rest[:PIECE_BYTES])
                finally:
                    self._sending.scopes.discard(scope)
            if scope.cancelled_caught:
                raise trio.BrokenResourceError("nobody reads")
            rest = rest[PIECE_BYTES:]
