"""How a command talks to the running node: over the unix socket of its data directory, or loopback with its token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from node.data_directory import DataDirectory
from node.errors import CommandFailed, NodeRefused

ANSWER_SECONDS_MAX = 10.0  # the API only reads memory; silence for so long means that the node hangs
OTHERS_SECONDS_MAX = 60.0  # where the node asks other nodes
TEXT_SECONDS_MAX = 600.0  # a whole text that is computed again
TOKEN_SECONDS_MAX = 120.0  # between two pieces of a generation: it may wait for a step of learning


class NodeClient:
    """Requests to the node of a data directory; raises ``CommandFailed`` with the remedy when there is none."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._places = DataDirectory(data_dir)
        try:
            facts = msgspec.json.decode(self._places.api_file.read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.DecodeError):
            raise self._not_running() from None
        self._url = str(facts.get("url"))
        self._socket = facts.get("socket")
        self._headers = {}
        if self._socket is None or not Path(self._socket).exists():
            self._socket = None
            try:
                self._headers["authorization"] = f"Bearer {self._places.api_token.read_text().strip()}"
            except OSError:
                raise self._not_running() from None

    def get(self, path: str) -> Any:
        """The JSON of a GET; raises ``CommandFailed`` when it is refused."""
        with self._reached() as http:
            return _checked(http.get(path))

    def read(self, path: str) -> bytes:
        """The bytes of a GET, for which others may have to be asked; raises ``CommandFailed`` when it is refused."""
        with self._reached() as http:
            response = http.get(path, timeout=httpx.Timeout(ANSWER_SECONDS_MAX, read=OTHERS_SECONDS_MAX))
            if response.status_code != 200:
                _checked(response)
            return response.content

    def find(self, path: str, **query: str) -> Any | None:
        """The same, and None where there is no such thing."""
        with self._reached() as http:
            response = http.get(path, params=query)
            return None if response.status_code == 404 else _checked(response)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of a POST; raises ``CommandFailed`` when it is refused."""
        with self._reached() as http:
            return _checked(http.post(path, json=body))

    def post_long(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The same for work that takes as long as a text."""
        with self._reached() as http:
            return _checked(
                http.post(path, json=body, timeout=httpx.Timeout(ANSWER_SECONDS_MAX, read=TEXT_SECONDS_MAX))
            )

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a POST that answers in server-sent events."""
        timeout = httpx.Timeout(ANSWER_SECONDS_MAX, read=TOKEN_SECONDS_MAX)
        with self._reached() as http, http.stream("POST", path, json=body, timeout=timeout) as response:
            if response.status_code != 200:
                response.read()
                _checked(response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    event = msgspec.json.decode(line.removeprefix("data: "), type=dict[str, Any])
                    if "error" in event:
                        raise CommandFailed(event["error"]["message"])
                    yield event

    @contextmanager
    def _reached(self) -> Iterator[httpx.Client]:
        transport = httpx.HTTPTransport(uds=self._socket) if self._socket is not None else None
        try:
            with httpx.Client(
                base_url=self._url,
                transport=transport,
                headers=self._headers,
                timeout=httpx.Timeout(ANSWER_SECONDS_MAX),
                trust_env=False,  # a proxy has no business with loopback
            ) as http:
                yield http
        except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError):
            raise self._not_running() from None
        except httpx.TimeoutException:
            raise CommandFailed(
                f"the node of {self._data_dir} does not answer; see {self._places.log}, or restart it"
            ) from None

    def _not_running(self) -> CommandFailed:
        return CommandFailed(
            f"no node runs with the data directory {self._data_dir}; "
            f"start it with: nocknode start --data-dir {self._data_dir}"
        )


def _checked(response: httpx.Response) -> Any:
    """The facts of an answer. That of /health has status 503 for a sick node, and no error."""
    facts = msgspec.json.decode(response.content)
    if isinstance(facts, dict) and "error" in facts:
        raise NodeRefused(facts["error"]["code"], facts["error"]["message"])
    return facts
