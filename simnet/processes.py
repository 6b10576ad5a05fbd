"""The operating-system processes of a local network: started, killed, and never left behind.

Each node is a session of its own (``setsid``), so that a Ctrl-C at the terminal reaches us and not them, and so that one
signal to the group reaches a node and its workers. Three nets catch what could outlive us:

    we end as planned, by an exception or by a signal     `Fleet.__exit__`: SIGTERM, a grace, SIGKILL of the group and of all
                                                          descendants noted before
    we are killed with kill -9                            the kernel kills each node when the thread that started it dies
                                                          (PR_SET_PDEATHSIG; Linux), hence every start is made by the main
                                                          thread; a worker ends when its node's pipe closes
    a node is killed on purpose                           its group and its descendants are killed with it, as if the power
                                                          had failed

We signal only processes that we started, by number, and check a descendant's start time before we trust its number (psutil).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self

import msgspec
import psutil
import trio

from simnet import facts
from simnet.options import NodeProgram, Settings

STOP_GRACE_SECONDS: Final = 8.0  # a node promises to end within a few seconds of SIGTERM
POLL_SECONDS: Final = 0.05
START_WAIT_SECONDS: Final = (
    120.0  # until a node's interface is up; imports on a busy small machine take tens of seconds
)
COMMAND_WAIT_SECONDS: Final = 600.0  # keys, init, verify; a large corpus takes its time
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
USER_MISTAKE: Final = 2  # the exit code of the node for bad input

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ChildFailed(Exception):
    """A process of ours did not do what it was started for. `sentence` is for the user; `exit_code` is what we end with."""

    def __init__(self, sentence: str, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.exit_code = exit_code


@dataclass(slots=True)
class NodeProcess:
    """A running node: its peer number, process, and the interface it announced."""

    index: int
    process: subprocess.Popen[bytes]
    log: Path
    api: facts.ApiFile | None = None


class Fleet:
    """Every process of one run. Use as a context manager around the event loop: leaving it leaves no process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._commands: set[subprocess.Popen[bytes]] = set()  # short-lived: keys, init, verify
        self.nodes: dict[int, NodeProcess] = {}
        self._hurry = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop_all()

    # Short commands

    async def run_command(self, *arguments: str) -> dict[str, Any]:
        """Run ``nocknode ARGUMENTS --json`` and return the object it prints last; raises ChildFailed."""
        code, output, errors = await self._finish(*arguments, "--json")
        if code != 0:
            what = " ".join(arguments[:2])
            said = last_line(errors).removeprefix("nocknode: ")
            raise ChildFailed(
                said or f"nocknode {what} ended with code {code} and said nothing.",
                USER_MISTAKE if code == USER_MISTAKE else 1,
            )
        return last_object(output)

    async def verify(self, index: int) -> dict[str, object]:
        """Run ``nocknode tiles verify`` on a stopped node's directory: {"ok", "report", "error"}."""
        directory = str(self._settings.data_directory(index))
        code, output, errors = await self._finish("tiles", "verify", "--data-dir", directory, "--json")
        try:
            report: dict[str, Any] | None = last_object(output)
        except ChildFailed:
            report = None
        error = (last_line(errors).removeprefix("nocknode: ") or f"it ended with code {code}") if code else None
        return {"ok": code == 0, "report": report, "error": error}

    async def _finish(self, *arguments: str) -> tuple[int, bytes, bytes]:
        process = self._spawn(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._commands.add(process)
        try:
            with trio.fail_after(COMMAND_WAIT_SECONDS):
                output, errors = await trio.to_thread.run_sync(
                    _outputs,
                    process,
                    abandon_on_cancel=True,  # type: ignore[call-arg]  # mypy loses keywords behind *args: Unpack
                )
        except trio.TooSlowError:
            raise ChildFailed(
                f"nocknode {' '.join(arguments[:2])} did not end within {COMMAND_WAIT_SECONDS:.0f} s."
            ) from None
        finally:
            if process.poll() is None:
                _kill_tree([process.pid])
            self._commands.discard(process)
        return process.returncode, output, errors

    # Nodes

    def start_node(self, index: int, bootstrap: Iterable[str], options: Sequence[str] = ()) -> NodeProcess:
        """Start peer `index` from its data directory, with more `options`. Must be called by the main thread (see above)."""
        settings = self._settings
        directory = settings.data_directory(index)
        (directory / "api.json").unlink(missing_ok=True)  # left by a killed process; the new one writes its own
        arguments = ["start", "--data-dir", str(directory), "--listen", "/ip4/127.0.0.1/tcp/0"]
        for address in bootstrap:
            arguments += ["--bootstrap", address]
        arguments += ["--device", settings.device, "--threads", str(settings.threads), "--rounds", str(settings.rounds)]
        arguments += options
        log = settings.out / "logs" / f"peer-{index}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            process = self._spawn(arguments, stdout=stream, stderr=stream)
        self.nodes[index] = NodeProcess(index, process, log)
        return self.nodes[index]

    async def wait_ready(self, node: NodeProcess) -> facts.ApiFile:
        """Wait until the node has written ``api.json``; raises ChildFailed if it ends first or takes too long."""
        path = self._settings.data_directory(node.index) / "api.json"
        with trio.move_on_after(START_WAIT_SECONDS):
            while not _has_ended(node.process):
                try:
                    node.api = facts.read(facts.ApiFile, path.read_bytes())
                    return node.api
                except (FileNotFoundError, msgspec.DecodeError):  # not there yet, or half written
                    await trio.sleep(POLL_SECONDS)
        if not _has_ended(node.process):
            raise ChildFailed(f"Peer {node.index} was not up after {START_WAIT_SECONDS:.0f} s; its log is {node.log}.")
        code = node.process.wait()
        said = last_line(node.log.read_bytes()).removeprefix("nocknode: ") or "it said nothing"
        raise ChildFailed(f"Peer {node.index} did not start: {said}", USER_MISTAKE if code == USER_MISTAKE else 1)

    def kill_node(self, index: int) -> None:
        """kill -9 of a node and of its workers, as if the power had failed."""
        process = self.nodes.pop(index).process
        _kill_tree([process.pid])
        process.wait()

    def exit_of(self, index: int) -> str | None:
        """How a node ended that nobody stopped, in words; None while it runs."""
        node = self.nodes.get(index)
        if node is None or not _has_ended(node.process):
            return None
        _kill_tree([node.process.pid])  # workers that it left
        code = node.process.wait()
        del self.nodes[index]
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return f"{how}; {last_line(node.log.read_bytes()) or 'it said nothing'}"

    def stop_nodes(self) -> None:
        """SIGTERM to every node, SIGKILL after a grace to what is left. A second signal from the user skips the grace."""
        nodes = list(self.nodes.values())
        descendants = _descendants([node.process.pid for node in nodes])
        for node in nodes:
            node.process.terminate()
        deadline = time.monotonic() + STOP_GRACE_SECONDS
        while not all(_has_ended(node.process) for node in nodes) and time.monotonic() < deadline:
            if self._hurry.wait(POLL_SECONDS):
                break
        _kill_tree([node.process.pid for node in nodes], descendants)
        for node in nodes:
            node.process.wait()
        self.nodes.clear()

    def stop_all(self) -> None:
        """End everything that this run started, whatever state it is in."""
        with _on_signals(self._note_hurry):
            _kill_tree([process.pid for process in self._commands if process.poll() is None])
            self.stop_nodes()

    def _note_hurry(self, signal_number: int, frame: FrameType | None) -> None:
        self._hurry.set()

    def _spawn(self, arguments: Sequence[str], *, stdout: Any, stderr: Any) -> subprocess.Popen[bytes]:
        program: NodeProgram = self._settings.program
        return subprocess.Popen(
            [*program.command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_die_with_parent(os.getpid()) if _libc is not None else None,
        )


def _outputs(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    return process.communicate()


def last_line(output: bytes) -> str:
    """The last line that says something; of a node's error output that is its sentence."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def last_object(output: bytes) -> dict[str, Any]:
    """The JSON object on the last line; raises ChildFailed."""
    line = last_line(output)
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ChildFailed(f"The node printed {line[:80]!r} where a JSON object belongs.")
    return value


def _die_with_parent(parent: int) -> Callable[[], None]:
    """What the child does between fork and exec: ask to be killed when we die, and see whether that has happened already."""

    def arrange() -> None:
        assert _libc is not None
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return arrange


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process has ended, without reaping it: while it is a zombie, nobody else gets its number or its group."""
    if process.returncode is not None or not hasattr(os, "waitid"):
        return process.poll() is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _descendants(pids: Iterable[int]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for pid in pids:
        try:
            found += psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            continue
    return found


def _kill_tree(pids: Sequence[int], descendants: Sequence[psutil.Process] = ()) -> None:
    """SIGKILL to the groups that `pids` lead and to everything below them. psutil refuses a number that was used again."""
    below = [*descendants, *_descendants(pids)]
    for pid in pids:
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # empty group; on macOS a group of zombies is a permission error
            continue
    for process in below:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


@contextmanager
def _on_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While inside, SIGINT, SIGTERM and SIGHUP call `handler` and interrupt nothing."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)
