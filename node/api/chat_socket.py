"""/ws/chat: several texts at once on one connection, each of which can be stopped.

    --> {"type": "ask", "id": "a", "prompt": "def ", "tokens_max": 128, ...}    the rest as in POST /generate
    <-- {"type": "text", "id": "a", "text": "main"}                again and again
    --> {"type": "stop", "id": "a"}
    <-- {"type": "end", "id": "a", "tokens": 17, "is_stopped": true, "receipt": {...}}      null: it had not begun
    <-- {"type": "error", "id": "a", "error": {...}}            instead of an end; id null for what is no message

An id is the caller's own; it may be used again once its text has ended. A connection that is closed stops all of its texts.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
import trio
from msgspec import Meta
from starlette.websockets import WebSocket, WebSocketDisconnect

from node.api.bodies import BODY_BYTES_MAX, decode_request
from node.api.guards import Access, Caller, Doorkeeper
from node.api.responses import ApiError, api_error
from node.api.view import Asked, NodeView
from protocol.rejection import Reason, Rejected

TEXTS_MAX: Final = 8  # at a time on one connection
WAITING_MAX: Final = 64  # messages that its reader has not taken; then its texts wait

_Id = Annotated[str, Meta(min_length=1, max_length=64)]


class Ask(Asked, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="ask"):
    """A text that is to be continued."""

    id: _Id


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="stop"):
    """No more of it."""

    id: _Id


def decode_chat_message(data: bytes) -> Ask | Stop:
    """Raises ``Rejected``."""
    if len(data) > BODY_BYTES_MAX:
        raise Rejected(Reason.TOO_LARGE, f"at most {BODY_BYTES_MAX} bytes")
    message: Ask | Stop = decode_request(data, Ask | Stop)  # type: ignore[arg-type]  # a union is a type to msgspec
    return message


async def serve_chat(socket: WebSocket) -> None:
    """One connection, from its greeting to its end."""
    doorkeeper: Doorkeeper = socket.app.state.doorkeeper
    try:
        caller = doorkeeper.admit(socket, Access.ASK)
    except ApiError as error:
        await socket.send_denial_response(error.response())
        return
    await socket.accept()
    try:
        async with trio.open_nursery() as nursery:
            await _Conversation(socket, doorkeeper, caller, nursery).listen()
            nursery.cancel_scope.cancel()
    except* WebSocketDisconnect:
        pass


class _Conversation:
    """What is under way on one connection."""

    def __init__(self, socket: WebSocket, doorkeeper: Doorkeeper, caller: Caller, nursery: trio.Nursery) -> None:
        self._socket, self._doorkeeper, self._caller, self._nursery = socket, doorkeeper, caller, nursery
        self._texts: dict[str, trio.CancelScope] = {}
        self._out, self._waiting = trio.open_memory_channel[dict[str, Any]](WAITING_MAX)

    async def listen(self) -> None:
        """Take messages until the connection is closed."""
        self._nursery.start_soon(self._speak)
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes")
            try:
                await self._take(decode_chat_message((message.get("text") or "").encode() if data is None else data))
            except Rejected as refusal:
                await self._out.send({"type": "error", "id": None, **api_error(refusal).facts()})

    async def _take(self, message: Ask | Stop) -> None:
        if isinstance(message, Stop):
            if message.id in self._texts:
                self._texts[message.id].cancel()
            return
        if message.id in self._texts:
            raise Rejected(Reason.BAD_ARGUMENT, f"a text called {message.id!r} is under way")
        if len(self._texts) >= TEXTS_MAX:
            raise Rejected(Reason.OVER_BUDGET, f"{TEXTS_MAX} texts are under way on this connection")
        self._texts[message.id] = trio.CancelScope()
        self._nursery.start_soon(self._write, message)

    async def _write(self, asked: Ask) -> None:
        node: NodeView = self._socket.app.state.find_node()
        tokens, receipt, reading = 0, None, trio.CancelScope()
        try:
            with self._texts[asked.id] as beginning:
                self._doorkeeper.charge(self._caller)
                with self._doorkeeper.place(self._caller):
                    async with node.generate(asked) as answer:
                        self._texts[asked.id] = reading  # what is stopped from now on has a receipt
                        with reading:
                            async for piece in answer:
                                tokens += piece.tokens
                                if piece.text:
                                    await self._out.send({"type": "text", "id": asked.id, "text": piece.text})
                        receipt = await answer.receipt()
        except Rejected as refusal:
            last = {"type": "error", "id": asked.id, **api_error(refusal).facts()}
        except ApiError as error:
            last = {"type": "error", "id": asked.id, **error.facts()}
        else:
            is_stopped = beginning.cancelled_caught or reading.cancelled_caught
            last = {"type": "end", "id": asked.id, "tokens": tokens, "is_stopped": is_stopped, "receipt": receipt}
        finally:
            del self._texts[asked.id]
        await self._out.send(last)

    async def _speak(self) -> None:
        """Say one message after the other: whoever stops a text does not stop in the middle of one."""
        async for message in self._waiting:
            await self._socket.send_text(msgspec.json.encode(message).decode())
