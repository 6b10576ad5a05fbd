"""What may be asked of a local network: the settings of a run, and faults written as ``PEER@ROUND[+SECONDS]``. Pure.

A kind of fault is a row of ``FAULTS``: what is said of it and how it ends. Who performs it is a row in ``watch``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from protocol.rejection import Reason, Rejected

PEERS_MAX: Final = 64  # one machine; a guess: each node is two processes and some 300 MB
ROUNDS_MAX: Final = 100_000
TIMEOUT_BASE_SECONDS: Final = 600.0  # start-up on a slow machine; a guess, generous on purpose
TIMEOUT_PER_ROUND_SECONDS: Final = 60.0
TIMEOUT_ROUNDS: Final = 6.0  # a round may take this many times its deadline (attempts, restarts) before we give up

FAULT_SECONDS: Final = 10.0  # of a fault that does not say how long: several rounds of a small network; a guess
FAULT_SECONDS_MAX: Final = 86_400.0
SLOW_DELAY_MS: Final = 200  # one way, on top of what the loopback takes: another continent over a poor line; a guess
SLOW_BYTES_PER_SECOND: Final = 125_000  # 1 Mbit/s each way: the upstream of a poor line; a guess

_TEXT = re.compile(r"(?P<who>[^@]+)@(?P<round>[0-9]{1,9})(?:\+(?P<seconds>[0-9]{1,5}(?:\.[0-9]{1,3})?))?")


class FaultKind(StrEnum):
    """What may be done to a peer in the middle of a round; ``--`` before it is the option."""

    KILL = "kill"
    PAUSE = "pause"
    FILL_DISK = "fill-disk"
    SLOW_LINK = "slow-link"


class RepairKind(StrEnum):
    """What ends a fault when a round opens; ``--`` before it is the option."""

    RESTART = "restart"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class FaultRow:
    """What is said of one kind of fault, and how it ends."""

    state: str  # of a peer that it has hit; also the name of all of these in its repair: "killed@9"
    began: str  # after "peer 2"
    ended: str
    seconds: float | None  # how long it lasts if nothing else is said; None: until its repair
    repair: RepairKind | None = None


FAULTS: Final[Mapping[FaultKind, FaultRow]] = {
    FaultKind.KILL: FaultRow("killed", "killed (kill -9)", "started again", None, RepairKind.RESTART),
    FaultKind.PAUSE: FaultRow("paused", "paused (SIGSTOP)", "goes on (SIGCONT)", FAULT_SECONDS, RepairKind.RESUME),
    FaultKind.FILL_DISK: FaultRow(
        "disk full", "has a full disk (no file may grow)", "has room on its disk again", FAULT_SECONDS
    ),
    FaultKind.SLOW_LINK: FaultRow(
        "slow link",
        f"has a slow link ({SLOW_DELAY_MS} ms and {SLOW_BYTES_PER_SECOND // 1000} kB/s each way)",
        "has its usual link again",
        FAULT_SECONDS,
    ),
}
REPAIRED: Final[Mapping[RepairKind, FaultKind]] = {
    row.repair: kind for kind, row in FAULTS.items() if row.repair is not None
}


@dataclass(frozen=True, slots=True)
class PeerIndex:
    """A peer by its number, 0 first."""

    index: int


@dataclass(frozen=True, slots=True)
class TileOwner:
    """Whichever peer owns this tile when the fault fires."""

    tile: str


@dataclass(frozen=True, slots=True)
class AllHit:
    """Every peer that is as the repaired fault left it: all that are killed, all that are paused."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` happens to `target` in the middle of `round`, for `seconds` (None: see ``FaultRow.seconds``)."""

    kind: FaultKind
    target: PeerIndex | TileOwner
    round: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Repair:
    """`target` is started again from its data directory, or resumed, when `round` opens."""

    kind: RepairKind
    target: PeerIndex | AllHit
    round: int


@dataclass(frozen=True, slots=True)
class NodeProgram:
    """The command line that begins every call of the node. Tests hand in a fake with the same commands."""

    command: tuple[str, ...] = (sys.executable, "-m", "node")


@dataclass(frozen=True, slots=True)
class Settings:
    """One run of a local network."""

    out: Path
    network: Path
    model: Path
    peers: int = 4
    rounds: int = 20
    corpus: Path | None = None
    round_seconds: float | None = None
    faults: tuple[Fault, ...] = ()
    repairs: tuple[Repair, ...] = ()
    device: str = "auto"
    threads: int = 1
    verify: bool = True
    keep: bool = False
    timeout_seconds: float = TIMEOUT_BASE_SECONDS
    program: NodeProgram = NodeProgram()

    def asks_for(self, kind: FaultKind) -> bool:
        """Whether any fault of this run is of that kind."""
        return any(fault.kind is kind for fault in self.faults)

    def data_directory(self, peer: int) -> Path:
        """Where peer number `peer` keeps everything."""
        return self.out / f"peer-{peer}"


def parse_fault(kind: FaultKind, text: str, peers: int, rounds: int) -> Fault:
    """``2@7``, ``owner:trunk/0@7`` or, of what ends by itself, ``2@7+30``; raises Rejected(BAD_ARGUMENT)."""
    option = f"--{kind}"
    who, number, seconds = _split(option, text, rounds, lasts=FAULTS[kind].seconds is not None)
    if not who.startswith("owner:"):
        return Fault(kind, _peer(option, text, who, peers), number, seconds)
    if "/" not in who:
        raise Rejected(
            Reason.BAD_ARGUMENT, f"{option} {text}: a tile is written group/index, for example owner:trunk/0@{number}"
        )
    return Fault(kind, TileOwner(who.removeprefix("owner:")), number, seconds)


def parse_repair(kind: RepairKind, text: str, peers: int, rounds: int) -> Repair:
    """``2@9``, or ``killed@9`` and ``paused@9`` for all of them; raises Rejected(BAD_ARGUMENT)."""
    option = f"--{kind}"
    who, number, _ = _split(option, text, rounds, lasts=False)
    everybody = who == FAULTS[REPAIRED[kind]].state
    return Repair(kind, AllHit() if everybody else _peer(option, text, who, peers), number)


def check_repairs(faults: Sequence[Fault], repairs: Sequence[Repair]) -> None:
    """Refuse a repair of a peer that nothing has broken before; raises Rejected(BAD_ARGUMENT)."""
    for repair in repairs:
        kind = REPAIRED[repair.kind]
        if not any(fault.round < repair.round and repairs_fault(repair, fault) for fault in faults):
            state = FAULTS[kind].state
            who = repair.target.index if isinstance(repair.target, PeerIndex) else state
            raise Rejected(
                Reason.BAD_ARGUMENT,
                f"--{repair.kind} {who}@{repair.round}: nothing is {state} before that round (add --{kind})",
            )


def repairs_fault(repair: Repair, fault: Fault) -> bool:
    """Whether a repair is meant for whom this fault hits, or may hit."""
    if fault.kind is not REPAIRED[repair.kind]:
        return False
    return isinstance(repair.target, AllHit) or isinstance(fault.target, TileOwner) or repair.target == fault.target


def default_timeout_seconds(rounds: int, round_seconds: float | None, faults: Iterable[Fault] = ()) -> float:
    """How long a run may take before it is called stuck."""
    asleep = sum(fault.seconds or 0.0 for fault in faults)
    per_round = max(TIMEOUT_PER_ROUND_SECONDS, TIMEOUT_ROUNDS * (round_seconds or 0.0))
    return TIMEOUT_BASE_SECONDS + asleep + rounds * per_round


def _split(option: str, text: str, rounds: int, *, lasts: bool) -> tuple[str, int, float | None]:
    """Who, in which round, for how long. `lasts`: whether a number of seconds may be said."""
    match = _TEXT.fullmatch(text)
    if match is None or (match["seconds"] is not None and not lasts):
        form, example = ("PEER@ROUND[+SECONDS]", "1@5+30") if lasts else ("PEER@ROUND", "1@5")
        raise Rejected(Reason.BAD_ARGUMENT, f"{option} {text}: write {form}, for example {option} {example}")
    number, seconds = int(match["round"]), None if match["seconds"] is None else float(match["seconds"])
    if number >= rounds:
        raise Rejected(
            Reason.BAD_ARGUMENT, f"{option} {text}: the rounds of this run are 0 to {rounds - 1} (see --rounds)"
        )
    if seconds is not None and not 0 < seconds <= FAULT_SECONDS_MAX:
        raise Rejected(
            Reason.BAD_ARGUMENT, f"{option} {text}: it lasts more than 0 and at most {FAULT_SECONDS_MAX:.0f} seconds"
        )
    return match["who"], number, seconds


def _peer(option: str, text: str, who: str, peers: int) -> PeerIndex:
    # int() raises for thousands of digits
    if not (who.isascii() and who.isdigit() and len(who) <= len(str(peers)) and int(who) < peers):
        raise Rejected(
            Reason.BAD_ARGUMENT, f"{option} {text}: the peers of this run are 0 to {peers - 1} (see --peers)"
        )
    return PeerIndex(int(who))
