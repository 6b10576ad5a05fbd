"""``nocknode simnet``: networks on this machine. Registered with the command line by entry point."""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime
from pathlib import Path

import click

from node.clock import Clock
from protocol.rejection import Reason, Rejected
from simnet.options import (
    FAULT_SECONDS,
    PEERS_MAX,
    ROUNDS_MAX,
    SLOW_BYTES_PER_SECOND,
    SLOW_DELAY_MS,
    FaultKind,
    NodeProgram,
    RepairKind,
    Settings,
    check_repairs,
    default_timeout_seconds,
    parse_fault,
    parse_repair,
)
from simnet.scenario_cli import run as run_worlds
from simnet.scenario_cli import swarm

DEFAULT_MODEL = "configs/model/tiny.toml"
DEFAULT_NETWORK = "configs/devnet.toml"


@click.group()
def simnet() -> None:
    """Networks on this machine: real nodes and sockets with faults on request, and virtual worlds drawn from a seed."""


simnet.add_command(run_worlds)
simnet.add_command(swarm)


@simnet.command(
    epilog="""\b
Examples:
  nocknode simnet up                       4 nodes, 20 rounds, standard library
  nocknode simnet up --peers 8 --rounds 50 --corpus ~/books
  nocknode simnet up --kill 1@5 --restart 1@7     lose peer 1 for two rounds
  nocknode simnet up --kill owner:trunk/0@3 --json
  nocknode simnet up --pause 2@4+20               hang peer 2 for 20 seconds
  nocknode simnet up --pause 2@4 --resume 2@6     or until round 6 opens
  nocknode simnet up --fill-disk 1@3+15 --slow-link 3@3+60

A fault hits in the middle of its round; all but a kill end by themselves. A node that stops on its full disk, as it may, is
started again when there is room: 0 means that it came back and lost nothing.


Exit codes: 0 the network finished and agrees; 1 it did not, or a node ended that should not have;
2 a mistake in the options, or a fault that this system cannot make; 130 stopped by Ctrl-C."""
)
@click.option(
    "--peers", default=4, show_default=True, metavar="N", help="How many nodes, each a process. E.g. --peers 8"
)
@click.option("--rounds", default=20, show_default=True, metavar="N", help="Learn this many rounds. E.g. --rounds 50")
@click.option(
    "--corpus",
    metavar="PATH",
    help="File or folder of text to learn; else Python's standard library. E.g. --corpus ~/books",
)
@click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, metavar="PATH", help="Shape of the model. E.g. --model my.toml"
)
@click.option(
    "--round-seconds", type=float, metavar="S", help="Deadline of a round; else the template's. E.g. --round-seconds 5"
)
@click.option(
    "--kill", "kills", multiple=True, metavar="PEER@ROUND",
    help="kill -9 in the middle of the round; PEER is a number from 0, or owner:TILE. Repeatable. E.g. --kill owner:trunk/0@9",
)  # fmt: skip
@click.option(
    "--restart", "restarts", multiple=True, metavar="PEER@ROUND",
    help="Start it again when the round opens; PEER may be 'killed': all that are down. Repeatable. E.g. --restart killed@7",
)  # fmt: skip
@click.option(
    "--pause", "pauses", multiple=True, metavar="PEER@ROUND[+SECONDS]",
    help=f"SIGSTOP to its processes for {FAULT_SECONDS:.0f} s, SECONDS, or until --resume. Repeatable. E.g. --pause 1@5+30",
)  # fmt: skip
@click.option(
    "--resume", "resumes", multiple=True, metavar="PEER@ROUND",
    help="Wake it when the round opens; PEER may be 'paused': all that are. Repeatable. E.g. --resume 1@7",
)  # fmt: skip
@click.option(
    "--fill-disk", "full_disks", multiple=True, metavar="PEER@ROUND[+SECONDS]",
    help="None of its files may grow for a while (Linux). Repeatable. E.g. --fill-disk 1@5",
)  # fmt: skip
@click.option(
    "--slow-link", "slow_links", multiple=True, metavar="PEER@ROUND[+SECONDS]",
    help=f"{SLOW_DELAY_MS} ms more and {SLOW_BYTES_PER_SECOND // 1000} kB/s at most, each way, between it and the others. "
    "Repeatable. E.g. --slow-link 1@5+60",
)  # fmt: skip
@click.option(
    "--out", metavar="DIR", help="Where data and report go; new or empty; else ./devnet/TIME. E.g. --out /tmp/run"
)
@click.option(
    "--json", "as_json", is_flag=True, help="Facts as one JSON object, the last line of stdout. E.g. --json | tail -1"
)
@click.option(
    "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu or cuda:N. E.g. --device cpu"
)
@click.option(
    "--threads", type=int, metavar="N", help="Threads of each worker; else the cores shared out. E.g. --threads 2"
)
@click.option(
    "--verify/--no-verify", default=True, show_default=True,
    help="At the end derive every root again, on every node ('nocknode tiles verify'). E.g. --no-verify",
)  # fmt: skip
@click.option(
    "--keep", is_flag=True, help="Leave the nodes running until Ctrl-C, to chat; nothing is verified. E.g. --keep"
)
@click.option(
    "--timeout-seconds", type=float, metavar="S",
    help="Give up so long after the start, and say why; else 10 minutes and some a round. E.g. --timeout-seconds 900",
)  # fmt: skip
@click.pass_context
def up(
    context: click.Context,
    peers: int,
    rounds: int,
    corpus: str | None,
    model: str,
    round_seconds: float | None,
    kills: tuple[str, ...],
    restarts: tuple[str, ...],
    pauses: tuple[str, ...],
    resumes: tuple[str, ...],
    full_disks: tuple[str, ...],
    slow_links: tuple[str, ...],
    out: str | None,
    as_json: bool,
    device: str,
    threads: int | None,
    verify: bool,
    keep: bool,
    timeout_seconds: float | None,
) -> None:
    """Start a network of real nodes on this machine, watch it learn, and see whether it agrees.

    Each node is a process with its own keys, data directory and port. On a terminal you watch a live page; elsewhere there is
    one line a round. In the end there is a summary, a picture (report.png), the facts (report.json), and the command with which
    to talk to the model. Ctrl-C stops everything and leaves no process.
    """
    from simnet.processes import (  # these draw in the event loop and the terminal; --help needs neither
        ChildFailed,
        check_system,
    )
    from simnet.up import run

    _check_range("--peers", peers, 1, PEERS_MAX)
    _check_range("--rounds", rounds, 1, ROUNDS_MAX)
    _check_range("--threads", threads, 1, 1024)
    _check_range("--round-seconds", round_seconds, 0.1, 86_400)
    _check_range("--timeout-seconds", timeout_seconds, 1, 10**9)
    asked_faults = {
        FaultKind.KILL: kills,
        FaultKind.PAUSE: pauses,
        FaultKind.FILL_DISK: full_disks,
        FaultKind.SLOW_LINK: slow_links,
    }
    asked_repairs = {RepairKind.RESTART: restarts, RepairKind.RESUME: resumes}
    faults = tuple(parse_fault(kind, text, peers, rounds) for kind, texts in asked_faults.items() for text in texts)
    repairs = tuple(parse_repair(kind, text, peers, rounds) for kind, texts in asked_repairs.items() for text in texts)
    check_repairs(faults, repairs)
    check_system(faults)
    settings = Settings(
        network=_find_template("--network", DEFAULT_NETWORK),
        model=_find_template("--model", model),
        corpus=_check_corpus(corpus),
        peers=peers,
        rounds=rounds,
        round_seconds=round_seconds,
        faults=faults,
        repairs=repairs,
        device=device,
        threads=threads or max(1, (os.cpu_count() or 1) // peers),
        verify=verify and not keep,
        keep=keep,
        timeout_seconds=timeout_seconds or default_timeout_seconds(rounds, round_seconds, faults),
        program=context.find_object(NodeProgram) or NodeProgram(),
        out=_make_out(out),
    )
    try:
        code = run(settings, as_json)
    except ChildFailed as failure:
        click.echo(f"nocknode: {failure.sentence}", err=True)
        code = failure.exit_code
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # everything is stopped: one more Ctrl-C must not change the exit code
    sys.exit(code)  # not context.exit: click would hand the code back to a caller that prints nothing


def _check_range(option: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise Rejected(Reason.BAD_ARGUMENT, f"{option} {value:g}: it must be {low:g} to {high:g}")


def _find_template(option: str, name: str) -> Path:
    """A template by its path, or the one that comes with the program; raises Rejected(BAD_ARGUMENT)."""
    beside_us = Path(__file__).resolve().parent.parent
    for path in (Path(name).expanduser(), beside_us / name):
        if path.is_file():
            return path.resolve()
    raise Rejected(Reason.BAD_ARGUMENT, f"{option} {name}: there is no such file")


def _check_corpus(name: str | None) -> Path | None:
    if name is None:
        return None
    path = Path(name).expanduser().resolve()
    if not os.access(path, os.R_OK):
        raise Rejected(Reason.BAD_CORPUS, f"--corpus {name}: there is no file or folder that we may read")
    return path


def _make_out(name: str | None) -> Path:
    """The directory of this run, made; raises Rejected(BAD_ARGUMENT) if something is there already."""
    path = (
        Path(name).expanduser()
        if name
        else Path("devnet") / f"{datetime.fromtimestamp(Clock().now_ms() // 1000):%Y-%m-%d-%H%M%S}"
    )
    path = path.resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = any(path.iterdir())
    except OSError as error:
        raise Rejected(Reason.BAD_ARGUMENT, f"--out {path}: {error.strerror}") from error
    if taken:
        raise Rejected(Reason.BAD_ARGUMENT, f"--out {path}: the directory is not empty; name a new one")
    return path
