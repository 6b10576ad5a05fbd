"""What may be asked of a local network: the settings of a run, and faults written as ``PEER@ROUND``. Pure."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.rejection import Reason, Rejected

PEERS_MAX: Final = 64  # one machine; a guess: each node is two processes and some 300 MB
ROUNDS_MAX: Final = 100_000
TIMEOUT_BASE_SECONDS: Final = 600.0  # start-up on a slow machine; a guess, generous on purpose
TIMEOUT_PER_ROUND_SECONDS: Final = 60.0
TIMEOUT_ROUNDS: Final = 6.0  # a round may take this many times its deadline (attempts, restarts) before we give up

_FAULT = re.compile(r"(?P<who>[^@]+)@(?P<round>[0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class PeerIndex:
    """A peer by its number, 0 first."""

    index: int


@dataclass(frozen=True, slots=True)
class TileOwner:
    """Whichever peer owns this tile when the fault fires."""

    tile: str


@dataclass(frozen=True, slots=True)
class AllKilled:
    """Every peer that was killed and is not running."""


@dataclass(frozen=True, slots=True)
class Kill:
    """kill -9 of `target` in the middle of `round`."""

    target: PeerIndex | TileOwner
    round: int


@dataclass(frozen=True, slots=True)
class Restart:
    """Start `target` again, from its data directory, when `round` opens."""

    target: PeerIndex | AllKilled
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
    kills: tuple[Kill, ...] = ()
    restarts: tuple[Restart, ...] = ()
    device: str = "auto"
    threads: int = 1
    verify: bool = True
    keep: bool = False
    timeout_seconds: float = TIMEOUT_BASE_SECONDS
    program: NodeProgram = NodeProgram()

    def data_directory(self, peer: int) -> Path:
        """Where peer number `peer` keeps everything."""
        return self.out / f"peer-{peer}"


def parse_kill(text: str, peers: int, rounds: int) -> Kill:
    """``2@7`` or ``owner:trunk/0@7``; raises Rejected(BAD_ARGUMENT)."""
    who, number = _split("--kill", text, rounds)
    if who.startswith("owner:"):
        if "/" not in who:
            raise Rejected(
                Reason.BAD_ARGUMENT, f"--kill {text}: a tile is written group/index, for example owner:trunk/0@{number}"
            )
        return Kill(TileOwner(who.removeprefix("owner:")), number)
    return Kill(_peer("--kill", text, who, peers), number)


def parse_restart(text: str, peers: int, rounds: int) -> Restart:
    """``2@9`` or ``killed@9``; raises Rejected(BAD_ARGUMENT)."""
    who, number = _split("--restart", text, rounds)
    return Restart(AllKilled() if who == "killed" else _peer("--restart", text, who, peers), number)


def check_restarts(kills: Sequence[Kill], restarts: Sequence[Restart]) -> None:
    """Refuse a restart of a peer that no kill has stopped before; raises Rejected(BAD_ARGUMENT)."""
    for restart in restarts:
        before = [kill for kill in kills if kill.round < restart.round]
        who = restart.target.index if isinstance(restart.target, PeerIndex) else "killed"
        if not any(
            isinstance(kill.target, TileOwner) or kill.target.index == who or who == "killed" for kill in before
        ):
            raise Rejected(
                Reason.BAD_ARGUMENT,
                f"--restart {who}@{restart.round}: nothing is killed before that round (add --kill)",
            )


def default_timeout_seconds(rounds: int, round_seconds: float | None) -> float:
    """How long a run may take before it is called stuck."""
    return TIMEOUT_BASE_SECONDS + rounds * max(TIMEOUT_PER_ROUND_SECONDS, TIMEOUT_ROUNDS * (round_seconds or 0.0))


def _split(option: str, text: str, rounds: int) -> tuple[str, int]:
    match = _FAULT.fullmatch(text)
    if match is None:
        raise Rejected(Reason.BAD_ARGUMENT, f"{option} {text}: write PEER@ROUND, for example {option} 1@5")
    number = int(match["round"])
    if number >= rounds:
        raise Rejected(
            Reason.BAD_ARGUMENT, f"{option} {text}: the rounds of this run are 0 to {rounds - 1} (see --rounds)"
        )
    return match["who"], number


def _peer(option: str, text: str, who: str, peers: int) -> PeerIndex:
    # int() raises for thousands of digits
    if not (who.isascii() and who.isdigit() and len(who) <= len(str(peers)) and int(who) < peers):
        raise Rejected(
            Reason.BAD_ARGUMENT, f"{option} {text}: the peers of this run are 0 to {peers - 1} (see --peers)"
        )
    return PeerIndex(int(who))
