"""Keys of callers: shown once, kept as a digest, known at once to a running node; and who may call from where."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.requests import HTTPConnection

from node.api.guards import Access, Doorkeeper
from node.api.responses import ApiError
from node.api_keys import KeyRing, add_key, read_keys, remove_key
from node.cli import nocknode
from protocol.rejection import Reason, Rejected

TOKEN = "ab" * 32
NEAR, FAR = ("127.0.0.1", 1), ("203.0.113.7", 1)


def test_a_key_opens_until_it_is_removed(tmp_path: Path) -> None:
    """A ring sees what changes in the file; the file has no key in it, and is its owner's alone."""
    path = tmp_path / "api-keys.json"
    ring = KeyRing(path)
    assert ring.find("nock_00000000_" + "a" * 43) is None
    key, text = add_key(path, "Ann", 5, per_minute=7)
    assert ring.find(text) == key
    assert ring.find(text[:-1] + ("a" if text[-1] != "a" else "b")) is None
    assert text not in path.read_text()
    assert text.split("_", 2)[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other, _ = add_key(path, "Bob", 6)
    assert ring.find(text) == key
    remove_key(path, key.id)
    assert ring.find(text) is None
    assert read_keys(path) == [other]
    assert len(ring) == 1
    with pytest.raises(Rejected) as refused:
        remove_key(path, key.id)
    assert refused.value.reason is Reason.NOT_FOUND


@pytest.mark.parametrize("data", [b"", b"{}", b"[{}]", b"[1]", b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    """It names the file, and nobody gets in by it."""
    path = tmp_path / "api-keys.json"
    path.write_bytes(data)
    with pytest.raises(Rejected, match=r"api-keys\.json is no list of keys"):
        read_keys(path)
    with pytest.raises(Rejected):
        KeyRing(path).find("nock_00000000_" + "a" * 43)


def test_keys_are_made_listed_and_ended_by_commands(tmp_path: Path) -> None:
    """The key alone is on standard output, so that a script can keep it."""

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(nocknode, ["api-key", *arguments, "--data-dir", str(tmp_path)])

    assert "is no data directory" in str(run("new", "Ann").exception)
    (tmp_path / "config.toml").touch()
    assert "Nobody has a key" in run("list").stdout
    made = run("new", "Ann", "--per-minute", "5")
    text = made.stdout.strip()
    assert KeyRing(tmp_path / "api-keys.json").find(text) is not None
    (shown,) = json.loads(run("list", "--json").stdout)["keys"]
    assert (shown["name"], shown["per_minute"], "digest" in shown) == ("Ann", 5, False)
    assert "Ann" in run("list").stdout
    assert json.loads(run("new", "Bob", "--json").stdout)["key"].startswith("nock_")
    assert "no key any more" in run("remove", shown["id"]).stdout.replace(f" {shown['id']}", "")
    assert KeyRing(tmp_path / "api-keys.json").find(text) is None
    assert run("new", "x" * 65).exit_code == 2


def connection(
    client: tuple[str, int] | None, bearer: str = "", host: str = "node.example:8080", **headers: str
) -> Any:
    """A request as the server hands it over; no client: over the unix socket."""
    lines = {"host": host} | ({"authorization": f"Bearer {bearer}"} if bearer else {}) | headers
    encoded = [(name.encode(), value.encode()) for name, value in lines.items()]
    server = None if client is None else ("0.0.0.0", 8080)
    return HTTPConnection({"type": "http", "client": client, "server": server, "headers": encoded})


def test_who_may_call_from_where(tmp_path: Path) -> None:
    """The table at the head of ``node/api/guards.py``, row by row."""
    key, text = add_key(tmp_path / "keys", "Ann", 1)
    doorkeeper = Doorkeeper(TOKEN, KeyRing(tmp_path / "keys"), frozenset({"https://chat.example"}), lambda: 0.0)

    def answer(access: Access, *where: Any, **headers: Any) -> str:
        try:
            caller = doorkeeper.admit(connection(*where, **headers), access)
        except ApiError as error:
            return str(error.status)
        return caller.name or "owner"

    read, ask, change = Access.READ, Access.ASK, Access.CHANGE
    assert [answer(access, None) for access in Access] == ["owner"] * 3
    near = {"host": "127.0.0.1:8080"}
    assert [answer(access, NEAR, **near) for access in Access] == ["owner", "401", "403"]
    assert [answer(access, NEAR, TOKEN, **near) for access in Access] == ["owner"] * 3
    assert [answer(access, NEAR, text, **near) for access in Access] == [key.id, key.id, "403"]
    assert [answer(access, FAR) for access in Access] == ["401", "401", "403"]
    assert [answer(access, FAR, host="127.0.0.1") for access in Access] == ["401", "401", "403"]
    assert [answer(access, FAR, TOKEN) for access in Access] == ["owner", "owner", "403"]
    assert [answer(access, FAR, text) for access in Access] == [key.id, key.id, "403"]
    # A name that somebody made point to this machine, and pages of other origins.
    assert [answer(access, NEAR) for access in Access] == ["403", "401", "403"]
    assert answer(change, NEAR, TOKEN) == "403"
    assert answer(ask, NEAR, text, origin="https://evil.example") == "403"
    assert answer(ask, NEAR, text, origin="https://chat.example") == key.id
    assert answer(read, FAR, text, origin="https://node.example:8080") == key.id
