"""Answers that take their time: a caller who leaves ends the work."""

from __future__ import annotations

from typing import Any

import msgspec
import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from node.api.responses import ApiError, api_error
from protocol.rejection import Rejected


class LongResponse(Response):
    """Work for one caller, said as server-sent events while it goes on, or as one answer at its end.

    ``work`` says it by ``event`` or ``whole``. What it raises before the first event is an answer with a status; after it, the
    stream's last event.
    """

    def __init__(self) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        # Starlette counts an empty body's length into the headers; a stream has none.
        self.raw_headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        self.is_begun = False
        self._watching = trio.CancelScope()
        self._saying = trio.Lock()  # several answers of one request speak in turn

    async def work(self) -> None:
        """Everything, from the first byte of the answer to the last."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            await self._work()
            nursery.cancel_scope.cancel()

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Cancel when the caller is gone, until the last bytes are said: their end is a disconnect to the server too.

        It would be interrupted while it closes the connection.
        """
        with self._watching:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            scope.cancel()

    async def _work(self) -> None:
        try:
            await self.work()
        except Rejected as refusal:
            await self._fail(api_error(refusal))
        except ApiError as error:
            await self._fail(error)

    async def _fail(self, error: ApiError) -> None:
        if self.is_begun:
            await self.event(error.facts())
            await self.end()
        else:
            await self.whole(error.response())

    async def whole(self, response: Response) -> None:
        """One answer instead of a stream."""
        self.is_begun = True
        self._watching.cancel()
        await response(self._scope, self._receive, self._send)

    async def event(self, value: Any) -> None:
        """One event; text as it is, anything else as JSON."""
        data = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
        async with self._saying:
            if not self.is_begun:
                self.is_begun = True
                await self._send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            line = b"data: " + data + b"\n\n"
            await self._send({"type": "http.response.body", "body": line, "more_body": True})

    async def end(self) -> None:
        """No event comes after this."""
        self._watching.cancel()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
