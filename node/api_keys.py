"""Keys for callers of the API: who may ask this node for text, and how often.

    api-keys.json, 0600     [{"id", "name", "digest", "per_minute", "at_once", "created_ms"}, ...]
    a key                   nock_ID_SECRET, shown once; here is only its SHA-256

A secret has 256 random bits, so a plain hash is enough: there is nothing to guess. The file is written by
``nocknode api-key`` and looked at again by the running node when it changes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocol.rejection import Reason, Rejected
from storage.io.files import write_file

KEYS_MAX: Final = 10_000
PER_MINUTE: Final = 60
AT_ONCE: Final = 8
_KEY: Final = re.compile(r"nock_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key. ``per_minute``: requests, as many of them at once as it likes; ``at_once``: that are under way."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{8}\Z")]
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    per_minute: Annotated[int, Meta(ge=1, le=1_000_000)]
    at_once: Annotated[int, Meta(ge=1, le=100_000)]
    created_ms: int


_Keys = Annotated[list[ApiKey], Meta(max_length=KEYS_MAX)]


def read_keys(path: Path) -> list[ApiKey]:
    """All keys; none where there is no file. Raises ``Rejected(BAD_CONFIG)`` for a file that is no list of keys."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Keys)
    except FileNotFoundError:
        return []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(
            Reason.BAD_CONFIG, f"{path} is no list of keys ({error}); restore it, or remove it and make the keys anew"
        ) from None


def add_key(
    path: Path, name: str, now_ms: int, per_minute: int = PER_MINUTE, at_once: int = AT_ONCE
) -> tuple[ApiKey, str]:
    """Make a key; returns it with the text that its holder must keep, for it is nowhere else."""
    keys = read_keys(path)
    if len(keys) >= KEYS_MAX:
        raise Rejected(Reason.BAD_ARGUMENT, f"there are {KEYS_MAX} keys already; remove one")
    identity, secret = secrets.token_hex(4), base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    text = f"nock_{identity}_{secret}"
    key = ApiKey(identity, name, _digest(text), per_minute, at_once, now_ms)
    _write_keys(path, [*keys, key])
    return key, text


def remove_key(path: Path, identity: str) -> ApiKey:
    """Nobody gets in by it any more. Raises ``Rejected(NOT_FOUND)``."""
    keys = read_keys(path)
    found = next((key for key in keys if key.id == identity), None)
    if found is None:
        raise Rejected(Reason.NOT_FOUND, f"no key {identity}; nocknode api-key list shows those that there are")
    _write_keys(path, [key for key in keys if key is not found])
    return found


class KeyRing:
    """The keys of a running node, as they are in the file now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, ApiKey] = {}

    def find(self, text: str) -> ApiKey | None:
        """Whose key this is. Raises ``Rejected(BAD_CONFIG)`` where the file is damaged."""
        match = _KEY.fullmatch(text)
        if match is None:
            return None
        self._look()
        key = self._keys.get(match[1])
        return key if key is not None and hmac.compare_digest(key.digest, _digest(text)) else None

    def __len__(self) -> int:
        self._look()
        return len(self._keys)

    def _look(self) -> None:
        try:
            facts = self._path.stat()
            seen = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        except FileNotFoundError:
            seen = None
        if seen != self._seen or seen is None:
            self._keys = {key.id: key for key in read_keys(self._path)}
            self._seen = seen


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write_keys(path: Path, keys: list[ApiKey]) -> None:
    write_file(path, [msgspec.json.format(msgspec.json.encode(keys)), b"\n"], 0o600)
