"""Hypothesis strategies for everything that travels, made from the types themselves.

A new message joins by being declared: :func:`message_types` finds every ``Message``, and :func:`values` reads bounds,
patterns and unions where msgspec reads them, so that no strategy can drift from its type.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from random import Random
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect as kinds

from protocol.codec import Message
from protocol.ids import PeerId
from protocol.keys import KeyPair

HOMES = ("protocol", "p2p", "consensus")
ITEMS_MAX = 3  # of any list: long lists find nothing that three entries do not
PAYLOAD_BYTES_MAX = 48
INT_MAX = 2**63 - 1


def message_types() -> list[type[Message]]:
    """Every message of the packages that speak to peers, by name; ``io/`` folders declare none."""
    for home in HOMES:
        for module in pkgutil.walk_packages(importlib.import_module(home).__path__, f"{home}."):
            if ".io" not in module.name:
                importlib.import_module(module.name)
    found, waiting = set(), [Message]
    while waiting:
        below = waiting.pop().__subclasses__()
        found.update(kind for kind in below if kind.__module__.split(".")[0] in HOMES)
        waiting.extend(below)
    return sorted(found, key=lambda kind: (kind.__module__, kind.__name__))


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of any type that a message may hold, within the bounds that the type declares."""
    return _of(kinds.type_info(kind))


@functools.singledispatch
def _of(info: kinds.Type) -> st.SearchStrategy[Any]:
    raise NotImplementedError(f"tests/strategies.py does not know {info}: teach it")


@_of.register
def _(info: kinds.IntType) -> st.SearchStrategy[int]:
    low = info.ge if info.ge is not None else (info.gt + 1 if info.gt is not None else -(2**63))
    high = info.le if info.le is not None else (info.lt - 1 if info.lt is not None else INT_MAX)
    edges = [edge for edge in (low, high, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32) if low <= edge <= high]
    return st.one_of(st.sampled_from(edges), st.integers(low, high))


@_of.register
def _(info: kinds.BytesType) -> st.SearchStrategy[bytes]:
    low = info.min_length or 0
    high = info.max_length if info.max_length is not None else PAYLOAD_BYTES_MAX
    return st.binary(min_size=low, max_size=max(low, min(high, PAYLOAD_BYTES_MAX)))


@_of.register
def _(info: kinds.StrType) -> st.SearchStrategy[str]:
    low, high = info.min_length or 0, info.max_length if info.max_length is not None else 32
    if info.pattern:
        text = st.from_regex(info.pattern, fullmatch=True)
        return text.filter(lambda value: low <= len(value) <= high and re.search(info.pattern or "", value))
    return st.text(st.characters(codec="utf-8"), min_size=low, max_size=max(low, min(high, 32)))


@_of.register
def _(info: kinds.BoolType) -> st.SearchStrategy[bool]:
    return st.booleans()


@_of.register
def _(info: kinds.NoneType) -> st.SearchStrategy[None]:
    return st.none()


@_of.register
def _(info: kinds.EnumType) -> st.SearchStrategy[Any]:
    return st.sampled_from(info.cls)


@_of.register
def _(info: kinds.VarTupleType) -> st.SearchStrategy[tuple[Any, ...]]:
    low = info.min_length or 0
    high = info.max_length if info.max_length is not None else ITEMS_MAX
    return st.lists(_of(info.item_type), min_size=low, max_size=max(low, min(high, ITEMS_MAX))).map(tuple)


@_of.register
def _(info: kinds.UnionType) -> st.SearchStrategy[Any]:
    return st.one_of([_of(member) for member in info.types])


@_of.register
def _(info: kinds.StructType) -> st.SearchStrategy[Any]:
    return _struct(info.cls)


@functools.cache
def _struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    info = kinds.type_info(kind)
    assert isinstance(info, kinds.StructType)
    return st.builds(kind, **{field.name: _of(field.type) for field in info.fields})


digests = st.binary(min_size=32, max_size=32)
seeds = st.binary(min_size=32, max_size=32)
key_pairs = st.integers(0, 2**16).map(lambda number: KeyPair(number.to_bytes(32, "big")))
peers = digests.map(PeerId)


def wound(random: Random, data: bytes) -> bytes:
    """``data`` with one wound: a flipped bit, a cut, an insertion, a deletion, a repeated or overwritten piece."""
    start, length = random.randrange(len(data) + 1), random.randint(1, 8)
    match random.randrange(6):
        case 0 if data:
            index = random.randrange(len(data))
            return data[:index] + bytes([data[index] ^ 1 << random.randrange(8)]) + data[index + 1 :]
        case 1:
            return data[:start]
        case 2:
            return data[:start] + data[start + length :]
        case 3:
            return data[: start + length] + data[start:]
        case 4:
            return data[:start] + random.randbytes(length) + data[start + length :]
        case _:
            return data[:start] + random.randbytes(length) + data[start:]
