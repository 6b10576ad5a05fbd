"""Scenarios as files: TOML, in which every table is a dataclass of ``simnet/scenario.py`` and every key one of its fields.

::

    base = "calm"              # everything of that scenario, but for what is said here (that one has no base itself)
    says = "One sentence."
    seconds = 3600             # keys of Scenario
    [learning]                 # of a table, single keys replace the base's
    round_seconds = 600
    [[faults]]                 # of a list, the whole list does
    kind = "cut_region"        # which class of Fault; the other keys are its fields

A scenario is called as its file. The shipped ones are in ``configs/scenarios/``. A number with a point is read as exact and
becomes a float; nothing of it is hashed or voted on.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from node.toml_table import (
    Document,
    Key,
    Reader,
    choice,
    flag,
    listed,
    number,
    parse_document,
    read_entries,
    read_toml,
    text,
    whole,
)
from protocol.rejection import Reason, Rejected
from simnet.scenario import (
    PEERS_MAX,
    Arrivals,
    Churn,
    Crash,
    CutRegion,
    Eclipse,
    FillDisks,
    GenesisLiars,
    HardwareClass,
    KillBootstraps,
    KillOwners,
    Learning,
    MustHold,
    Region,
    Route,
    Scenario,
    SkewClocks,
    SlowRegion,
    StateLiars,
    Villains,
    check_scenario,
)

SHIPPED: Final = Path(__file__).resolve().parent.parent / "configs" / "scenarios"
SECONDS_MAX: Final = 30 * 86_400  # of virtual time; a guess, beyond what anybody waits for
ROUNDS_MAX: Final = 100_000  # a round of half a minute, for as long
ENTRIES_MAX: Final = 256  # of one list: each fault is looked at by everything that watches

TABLES: Final[Mapping[str, type]] = {"learning": Learning, "must_hold": MustHold, "churn": Churn}
LISTS: Final[Mapping[str, type]] = {
    "regions": Region,
    "routes": Route,
    "hardware": HardwareClass,
    "arrivals": Arrivals,
    "villains": Villains,
}
FAULTS: Final[Mapping[str, type]] = {
    "cut_region": CutRegion,
    "slow_region": SlowRegion,
    "kill_bootstraps": KillBootstraps,
    "kill_owners": KillOwners,
    "crash": Crash,
    "fill_disks": FillDisks,
    "skew_clocks": SkewClocks,
    "genesis_liars": GenesisLiars,
    "eclipse": Eclipse,
    "state_liars": StateLiars,
}
# Words of other packages, which reading a file need not import: simnet/villains, simnet/checkers, compute/merge.py.
VILLAIN_KINDS: Final = (
    *("scaled", "sign_flipped", "noise", "stale", "lazy", "free_rider", "label_flip", "colluding", "subtle"),
)
INVARIANTS: Final = (
    *("chain_agrees", "roots_derivable", "counted_once", "tiles_owned", "all_applied", "queues_bounded"),
    *("nothing_left_behind", "no_failure", "loss_falls", "joiners_contribute", "loss_bounded", "joined_state"),
    "kept_readable",
)
MERGE_RULES: Final = ("mean", "trimmed_mean", "median", "centred_clip", "agreement")
NOT_IN_A_FILE: Final = ("name", "_routes")  # of Scenario: the file's own name, and a cache


def pair(first: Reader, second: Reader) -> Reader:
    """A list of two."""

    def read(value: Any) -> tuple[Any, Any]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ValueError("must be a list of two: [first, second]")
        return first(value[0]), second(value[1])

    return read


_NAME: Final = text("[a-z0-9][a-z0-9_-]{0,63}", "a name: small letters, digits, - and _, at most 64")
_SENTENCE: Final = text(r"[^\x00-\x1f\x7f]{10,300}", "one sentence of 10 to 300 characters")
_SECONDS: Final = number(0, SECONDS_MAX)
_SHARE: Final = number(0, 1)
_RELATIVE: Final = number(0, 1_000_000)
_COUNT: Final = whole(1, PEERS_MAX)
_ROUND: Final = whole(0, ROUNDS_MAX)
_MEGABITS: Final = number(0.01, 100_000)

# How each field is read, by its name; where a name means two things, with its class before it.
READERS: Final[Mapping[str, Reader]] = {
    "says": _SENTENCE,
    "seconds": number(1, SECONDS_MAX),
    "peers": _COUNT,
    "validators": _COUNT,
    "bootstraps": _COUNT,
    "default_latency_ms": number(0, 60_000),
    # who and where
    "name": _NAME,
    "Region.share": _RELATIVE,
    "at": pair(number(-180, 180), number(-90, 90)),
    "between": pair(_NAME, _NAME),
    "latency_ms": number(0, 60_000),
    "jitter_ms": number(0, 60_000),
    "loss": number(0, 0.99),
    "HardwareClass.share": _RELATIVE,
    "learn_seconds": _SECONDS,
    "upload_megabits": _MEGABITS,
    "download_megabits": _MEGABITS,
    # when
    "from_seconds": _SECONDS,
    "until_seconds": _SECONDS,
    "at_seconds": _SECONDS,
    "for_seconds": number(0.001, SECONDS_MAX),
    "back_seconds": number(0.001, SECONDS_MAX),
    "away_seconds": pair(number(0.001, SECONDS_MAX), number(0.001, SECONDS_MAX)),
    "from_round": _ROUND,
    "until_round": _ROUND,
    # how much
    "share": _SHARE,
    "share_per_hour": number(0, 1000),
    "latency_factor": number(1, 10_000),
    "rate_share": number(0.000_001, 1),
    "offset_seconds": number(-SECONDS_MAX, SECONDS_MAX),
    "attackers": _COUNT,
    "region": _NAME,
    "kind": choice(*VILLAIN_KINDS),  # a fault's is read by itself
    # what is learned, and what must hold
    "round_seconds": number(1, SECONDS_MAX),
    "inner_steps": whole(1, 100_000),
    "tiles": whole(1, 10_000),
    "tile_values": whole(1024, 1 << 22),
    "merge_rule": choice(*MERGE_RULES),
    "compute": choice("analytic", "model"),
    "aggregation": flag,
    "invariants": listed(choice(*INVARIANTS)),
    "loss_cost_max": number(0, 1000),
    "contributes_within_rounds": whole(1, ROUNDS_MAX),
    "loss_share_max": number(0, 1000),
}


def find_scenario(name_or_path: str) -> Scenario:
    """The shipped scenario of this name, or the one in this file (whatever ends in ``.toml`` or has a slash).

    Raises ``Rejected(BAD_CONFIG)``: one sentence with the line where there is one, and the remedy.
    """
    if not _is_path(name_or_path):
        return parse_scenario(_read_shipped(name_or_path), name_or_path, f"{name_or_path}.toml", _read_shipped)
    path = Path(name_or_path).expanduser()

    def read_base(name: str) -> str:
        return read_toml(path.parent / name) if _is_path(name) else _read_shipped(name)

    return parse_scenario(read_toml(path), path.stem, str(path), read_base)


def list_scenarios() -> tuple[Scenario, ...]:
    """The shipped ones, by name."""
    return tuple(find_scenario(name) for name in _shipped_names())


def parse_scenario(text: str, name: str, source: str, read_base: Callable[[str], str]) -> Scenario:
    """The scenario that a text says. ``read_base`` gives the text of another one by its name; see ``find_scenario``."""
    own = _read_part(parse_document(text, source))
    parts = {}
    if (base := own.pop("base", None)) is not None:
        parts = _read_part(parse_document(read_base(base), f"{source}: base {base}"))
        if "base" in parts:
            raise Rejected(
                Reason.BAD_CONFIG, f"{source}: {base} has a base itself; say what it says here, or name its base"
            )
    for key, value in own.items():
        parts[key] = {**parts.get(key, {}), **value} if key in TABLES else value
    for key, kind in TABLES.items():
        if key in parts or key in _needed(Scenario):
            parts[key] = _make(kind, parts.get(key, {}), f"{source}: [{key}]")
    if not re.fullmatch("[a-z0-9][a-z0-9_-]{0,63}", name):
        raise Rejected(Reason.BAD_CONFIG, f"{source}: a scenario is called as its file: small letters, digits, - and _")
    return check_scenario(_make(Scenario, {**parts, "name": name}, source))


# -- inside ------------------------------------------------------------------------------------------------------------


def _is_path(name: str) -> bool:
    return name.endswith(".toml") or "/" in name or "\\" in name


def _shipped_names() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def _read_shipped(name: str) -> str:
    names = _shipped_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise Rejected(
            Reason.BAD_CONFIG, f"there is no scenario {name!r}; {hint} (a file of yours is named with its .toml)"
        )
    return read_toml(SHIPPED / f"{name}.toml")


def _read_part(document: Document) -> dict[str, Any]:
    """What one file says, checked: tables as dictionaries of their fields, lists as tuples of their dataclass."""
    part: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for name, value in document.values.items():
        if name in TABLES:
            part[name] = _fields_of(document, name, value, TABLES[name])
        elif name in LISTS or name == "faults":
            part[name] = _list_of(document, name, value)
        else:
            plain[name] = value
    return {**part, **read_entries(plain, _top_keys(), document.where)}


def _list_of(document: Document, name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise Rejected(
            Reason.BAD_CONFIG, f"{document.where(name)}: {name} is a list of tables; write [[{name}]] above each"
        )
    if len(value) > ENTRIES_MAX:
        raise Rejected(
            Reason.BAD_CONFIG, f"{document.where(name)}: {len(value)} {name}; at most {ENTRIES_MAX} are read"
        )
    made = []
    for index, entry in enumerate(value):
        place = f"{name}[{index}]"
        if name == "faults":
            kind, entry = _kind_of(document, place, entry)
        else:
            kind = LISTS[name]
        made.append(_make(kind, _fields_of(document, place, entry, kind), document.where(place)))
    return tuple(made)


def _kind_of(document: Document, place: str, entry: dict[str, Any]) -> tuple[type, dict[str, Any]]:
    """The class of a fault, and its other keys."""
    named = {"kind": entry.get("kind", "")}
    key = Key("kind", choice(*FAULTS), "", "which fault")
    kind = read_entries(named, (key,), lambda _: document.where(f"{place}.kind"))["kind"]
    return FAULTS[kind], {name: value for name, value in entry.items() if name != "kind"}


def _fields_of(document: Document, place: str, value: Any, kind: type) -> dict[str, Any]:
    """The checked fields that a table says; ``place`` is where it stands: ``learning``, ``faults[0]``."""
    if not isinstance(value, dict):
        raise Rejected(
            Reason.BAD_CONFIG, f"{document.where(place)}: {place} is a table; write [{place}] above its keys"
        )
    section = place.partition("[")[0]
    entries = {f"{section}.{name}": entry for name, entry in value.items()}
    read = read_entries(entries, _keys(kind, section), lambda told: document.where(place + told[len(section) :]))
    return {name.removeprefix(f"{section}."): entry for name, entry in read.items()}


def _make(kind: type, values: Mapping[str, Any], where: str) -> Any:
    missing = [name for name in _needed(kind) if name not in values]
    if missing:
        raise Rejected(Reason.BAD_CONFIG, f"{where}: {missing[0]} is missing; say it, because it has no default")
    return kind(**values)


def _needed(kind: type) -> tuple[str, ...]:
    return tuple(
        each.name
        for each in dataclasses.fields(kind)
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    )


@functools.cache
def _keys(kind: type, section: str) -> tuple[Key, ...]:
    """One for each field of a class."""
    return tuple(
        Key(f"{section}.{each.name}", reader_of(kind, each.name), None, "simnet/scenario.py has the defaults")
        for each in dataclasses.fields(kind)
    )


@functools.cache
def _top_keys() -> tuple[Key, ...]:
    names = [each.name for each in dataclasses.fields(Scenario) if each.name not in NOT_IN_A_FILE]
    tables = {*TABLES, *LISTS, "faults"}
    plain = [Key(name, READERS[name], None, "simnet/scenario.py") for name in names if name not in tables]
    # Those that are tables are read elsewhere; here they are words that a slip of the finger may have meant.
    meant = [Key(name, flag, None, "a table") for name in names if name in tables]
    return (
        Key("base", text(r"[^\x00-\x1f\x7f]{1,200}", "the name of a scenario"), None, "what is not said"),
        *plain,
        *meant,
    )


def reader_of(kind: type, field: str) -> Reader:
    """How a field of a class is read; every field of every class in a scenario has one."""
    return READERS.get(f"{kind.__name__}.{field}") or READERS[field]
