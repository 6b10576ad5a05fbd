"""Texts over a WebSocket: several at once, each of which can be stopped."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio_websocket
from structlog.testing import capture_logs

from node.api.chat_socket import TEXTS_MAX
from node.api_keys import add_key
from tests.node.samples import RECEIPT
from tests.node.test_api import Served, serve


class Talk:
    """One open connection."""

    def __init__(self, served: Served, socket: trio_websocket.WebSocketConnection) -> None:
        self.served, self.node, self._socket = served, served.node, socket

    async def say(self, **message: Any) -> None:
        await self._socket.send_message(json.dumps(message))

    async def say_raw(self, message: str | bytes) -> None:
        await self._socket.send_message(message)

    async def hear(self) -> dict[str, Any]:
        return dict(json.loads(await self._socket.get_message()))

    async def text(self, name: str) -> tuple[str, dict[str, Any]]:
        """What is said of one text until its last message, when it is alone."""
        text = ""
        while (message := await self.hear())["type"] == "text":
            assert message["id"] == name
            text += message["text"]
        return text, message


def talk(root: Path, conversation: Callable[[Talk], Awaitable[None]], **key: Any) -> None:
    """One conversation over /ws/chat, with a key."""

    async def main(served: Served) -> None:
        _, text = add_key(served.places.api_keys, "a friend", 1, **key)
        with capture_logs():
            async with trio_websocket.open_websocket_url(
                served.address.url.replace("http:", "ws:") + "/ws/chat",
                extra_headers=[(b"authorization", b"Bearer " + text.encode())],
            ) as socket:
                await conversation(Talk(served, socket))

    serve(root, main)


def test_a_text_is_said_to_its_end(tmp_path):
    """In pieces under its id; the last message says how many tokens, and that nobody stopped it."""

    async def conversation(chat: Talk) -> None:
        await chat.say(type="ask", id="a", prompt="to be or not", tokens_max=3)
        end = {"type": "end", "id": "a", "tokens": 3, "is_stopped": False, "receipt": RECEIPT}
        assert await chat.text("a") == ("to be or ", end)
        await chat.say(type="ask", id="a", prompt="again")
        assert (await chat.text("a"))[0] == "again "

    talk(tmp_path, conversation)


def test_a_text_that_is_stopped_before_it_begins_has_no_receipt(tmp_path):
    """Nothing was read of it, and nothing is signed."""

    async def conversation(chat: Talk) -> None:
        chat.node.begins_never = True
        await chat.say(type="ask", id="a", prompt="to be")
        await chat.say(type="stop", id="a")
        assert await chat.hear() == {"type": "end", "id": "a", "tokens": 0, "is_stopped": True, "receipt": None}

    talk(tmp_path, conversation)


def test_texts_are_stopped_one_by_one(tmp_path):
    """The others go on; when the connection is closed, all are stopped."""

    async def conversation(chat: Talk) -> None:
        chat.node.waits_for_ever = True
        for name in ("a", "b", "c"):
            await chat.say(type="ask", id=name, prompt="to be")
        said = [await chat.hear() for _ in range(6)]
        assert {message["id"] for message in said} == {"a", "b", "c"}
        await chat.say(type="stop", id="b")
        assert await chat.hear() == {"type": "end", "id": "b", "tokens": 2, "is_stopped": True, "receipt": RECEIPT}
        assert chat.node.generations_open == 2
        await chat.say(type="stop", id="nobody")
        chat.node.waits_for_ever = False
        await chat.say(type="ask", id="b", prompt="again")
        assert (await chat.text("b"))[0] == "again "

    served: list[Served] = []

    async def outer(chat: Talk) -> None:
        served.append(chat.served)
        await conversation(chat)

    talk(tmp_path, outer)
    assert served[0].node.generations_open == 0


@pytest.mark.parametrize(
    "message",
    [
        "",
        "[]",
        "{}",
        '{"type": "ask"}',
        '{"type": "ask", "id": "", "prompt": "a"}',
        '{"type": "sing", "id": "a"}',
        b"\xff",
    ],
)
def test_what_is_no_message_is_answered_with_a_sentence(tmp_path, message):
    """And the connection goes on."""

    async def conversation(chat: Talk) -> None:
        await chat.say_raw(message)
        answer = await chat.hear()
        assert (answer["type"], answer["id"], answer["error"]["code"]) == ("error", None, "bad_argument")
        await chat.say(type="ask", id="a", prompt="to be")
        assert (await chat.text("a"))[0] == "to be "

    talk(tmp_path, conversation)


def test_limits_are_told(tmp_path):
    """As many texts on a connection as may be, as many a minute as its key has, none under an id that is taken."""

    async def conversation(chat: Talk) -> None:
        chat.node.waits_for_ever = True
        for number in range(TEXTS_MAX):
            await chat.say(type="ask", id=str(number), prompt="a")
        for _ in range(TEXTS_MAX):
            assert (await chat.hear())["type"] == "text"
        for name, code in (("0", "bad_argument"), ("more", "over_budget")):
            await chat.say(type="ask", id=name, prompt="a")
            assert (await chat.hear())["error"]["code"] == code
        for number in range(TEXTS_MAX):
            await chat.say(type="stop", id=str(number))
            assert (await chat.hear())["type"] == "end"
        await chat.say(type="ask", id="too often", prompt="a")
        answer = await chat.hear()
        assert (answer["id"], answer["error"]["code"]) == ("too often", "rate_limit_exceeded")

    talk(tmp_path, conversation, per_minute=TEXTS_MAX)


def test_refusals_of_the_node_end_one_text(tmp_path):
    """Before its first token or after."""

    async def conversation(chat: Talk) -> None:
        chat.node.is_busy = True
        await chat.say(type="ask", id="a", prompt="to be")
        assert (await chat.text("a"))[1]["error"]["code"] == "busy"
        chat.node.is_busy, chat.node.fails_after = False, 1
        await chat.say(type="ask", id="a", prompt="to be")
        text, last = await chat.text("a")
        assert (text, last["type"], last["error"]["code"]) == ("to ", "error", "busy")

    talk(tmp_path, conversation)


def test_without_a_key_there_is_no_connection(tmp_path):
    """Refused before it begins, with the same words as everywhere; also for pages of other origins."""

    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }

    async def conversation(served: Served) -> None:
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer wrong"}, 401),
            (served.bearer | {"origin": "http://attacker.example"}, 403),
        ):
            async with httpx.AsyncClient(base_url=served.address.url, trust_env=False) as client:  # its connection ends
                answer = await client.get("/ws/chat", headers=upgrade | headers)
            assert answer.status_code == status
            assert answer.json()["error"]["message"]

    serve(tmp_path, conversation)
