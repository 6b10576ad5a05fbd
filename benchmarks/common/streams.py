"""Streams of text from a node's door, read as they come: what OpenAI's clients do, with the time of every piece."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Said:
    """What one stream said: when it was asked for, when each piece of it came, and how it ended."""

    asked_at: float = 0.0
    at: list[float] = field(default_factory=list)
    text: str = ""
    tokens: int = 0
    is_whole: bool = False
    error: str = ""

    def gaps_ms(self) -> list[float]:
        """Between its pieces."""
        return [1000 * (after - before) for before, after in itertools.pairwise(self.at)]

    def first_ms(self) -> float:
        """Until the first."""
        return 1000 * (self.at[0] - self.asked_at) if self.at else 0.0


async def read_stream(url: str, key: str, asked: Mapping[str, Any], said: Said) -> None:
    """One answer to its end, or to where it broke off. ``asked``: the fields of a completion, but for those of a stream."""
    import trio

    body = json.dumps({**asked, "stream": True, "stream_options": {"include_usage": True}})
    host, _, port = url.removeprefix("http://").rpartition(":")
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {key}\r\n"
        f"content-length: {len(body.encode())}\r\nconnection: close\r\n\r\n"
    )
    said.asked_at = trio.current_time()
    async with await trio.open_tcp_stream(host, int(port)) as connection:
        await connection.send_all((head + body).encode())
        rest = b""
        async for data in connection:
            *events, rest = (rest + data).split(b"\n\n")
            for event in events:
                _take(event, said, trio.current_time())
    if rest and not said.is_whole:
        said.error = said.error or rest.decode(errors="replace")[-200:]


def _take(event: bytes, said: Said, now: float) -> None:
    if b"[DONE]" in event:
        said.is_whole = not said.error
    elif b"data: {" in event:
        facts = json.loads(event[event.index(b"data: ") + 6 :].splitlines()[0])
        if "error" in facts:
            said.error = facts["error"]["message"]
        for choice in facts.get("choices", ()):
            if choice["finish_reason"] is None:
                said.at.append(now)
                said.text += choice["text"]
        if facts.get("usage"):
            said.tokens = facts["usage"]["completion_tokens"]
