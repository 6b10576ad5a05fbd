"""The operating-system processes of a local network: started, killed, and never left behind.

Each node is a session of its own (``setsid``), so that a Ctrl-C at the terminal reaches us and not them, and so that one
signal to the group reaches a node and its workers. Four nets catch what could outlive us:

    we end as planned, by an exception or by a signal     `Fleet.__exit__`: SIGTERM, a grace, SIGKILL of the group and of all
                                                          descendants noted before
    we are killed with kill -9                            the kernel kills each node when the thread that started it dies
                                                          (PR_SET_PDEATHSIG; Linux), hence every start is made by the main
                                                          thread; a worker ends when its node's pipe closes
    a node is killed on purpose                           its group and its descendants are killed with it, as if the power
                                                          had failed
    we end, however, while a node is paused               a guard, a shell that waits for our pipe to close, wakes its groups:
                                                          a stopped worker would never see that its node has gone

A full disk is a soft limit of nought on the size of every file that the node writes (RLIMIT_FSIZE, set on the running process
by prlimit; Linux): no root, no mount, no other node is touched, and the limit goes as it came. It is not quite a full disk:
the error is EFBIG and not ENOSPC, the temporary directory and the log are full too, and bytes that would replace others are
refused as well. All of that is harder for the node than the real thing. So that its last words are not lost, the log of such
a run goes through a pipe.

We signal only processes that we started, by number, and check a descendant's start time before we trust its number (psutil).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Final, Self

import msgspec
import psutil
import trio

from protocol.rejection import Reason, Rejected
from simnet import facts
from simnet.options import Fault, FaultKind, NodeProgram, Settings

STOP_GRACE_SECONDS: Final = 8.0  # a node promises to end within a few seconds of SIGTERM
POLL_SECONDS: Final = 0.05
START_WAIT_SECONDS: Final = (
    120.0  # until a node's interface is up; imports on a busy small machine take tens of seconds
)
COMMAND_WAIT_SECONDS: Final = 600.0  # keys, init, verify; a large corpus takes its time
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
USER_MISTAKE: Final = 2  # the exit code of the node for bad input

# Wakes the process groups that it is given when its input ends, that is when we let go of it or die.
GUARD: Final = ("sh", "-c", 'read -r _; for group; do kill -s CONT -- "-$group"; done', "sh")

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ChildFailed(Exception):
    """A process of ours did not do what it was started for. `sentence` is for the user; `exit_code` is what we end with."""

    def __init__(self, sentence: str, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.exit_code = exit_code


class FaultRefused(Exception):
    """The system does not let us break a node in that way; its text is for the user."""


@dataclass(slots=True)
class NodeProcess:
    """A running node: its peer number, process, and the interface it announced."""

    index: int
    process: subprocess.Popen[bytes]
    log: Path
    api: facts.ApiFile | None = None
    copier: threading.Thread | None = None  # of what it says, where that goes through a pipe
    guard: subprocess.Popen[bytes] | None = None  # while it is paused

    def said(self) -> str:
        """Its last line, once it has ended."""
        if self.copier is not None:
            self.copier.join(POLL_SECONDS * 20)
        return last_line(self.log.read_bytes())


def check_system(faults: Iterable[Fault]) -> None:
    """Refuse faults that this system has no means for; raises Rejected(BAD_ARGUMENT)."""
    if any(fault.kind is FaultKind.FILL_DISK for fault in faults) and not hasattr(resource, "prlimit"):
        raise Rejected(
            Reason.BAD_ARGUMENT, "--fill-disk: only Linux can take the room from a running process without root"
        )


class Fleet:
    """Every process of one run. Use as a context manager around the event loop: leaving it leaves no process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._commands: set[subprocess.Popen[bytes]] = set()  # short-lived: keys, init, verify
        self.nodes: dict[int, NodeProcess] = {}
        self._full: set[int] = set()  # peers whose disk is full, running or not
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
        if not settings.asks_for(FaultKind.FILL_DISK):
            with log.open("ab") as stream:
                process = self._spawn(arguments, stdout=stream, stderr=stream)
            self.nodes[index] = NodeProcess(index, process, log)
            return self.nodes[index]
        process = self._spawn(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, full=index in self._full)
        copier = threading.Thread(target=_copy, args=(process.stdout, log), daemon=True)
        copier.start()
        self.nodes[index] = NodeProcess(index, process, log, copier=copier)
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
        said = node.said().removeprefix("nocknode: ") or "it said nothing"
        raise ChildFailed(f"Peer {node.index} did not start: {said}", USER_MISTAKE if code == USER_MISTAKE else 1)

    def kill_node(self, index: int) -> None:
        """kill -9 of a node and of its workers, as if the power had failed."""
        node = self.nodes.pop(index)
        _kill_tree([node.process.pid])
        node.process.wait()
        _let_go(node)

    def pause_node(self, index: int) -> None:
        """SIGSTOP to a node and to its workers, which lead groups of their own."""
        node = self.nodes[index]
        _signal_groups([node.process.pid], signal.SIGSTOP)  # first: now it starts no further worker
        groups = [node.process.pid, *_groups_below(node.process.pid)]
        _signal_groups(groups, signal.SIGSTOP)
        node.guard = subprocess.Popen(
            [*GUARD, *map(str, groups)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def resume_node(self, index: int) -> None:
        """SIGCONT to all of a paused node."""
        if index in self.nodes:
            _let_go(self.nodes[index])

    def fill_disk(self, index: int) -> None:
        """No file of a running node, or of its workers, may grow from now on; raises FaultRefused."""
        self._full.add(index)
        try:
            self._limit_files(index, 0)
        except PermissionError as error:
            self._full.discard(index)
            raise FaultRefused(f"the system does not let us limit another process ({error.strerror})") from error

    def free_disk(self, index: int) -> None:
        """Files may grow again."""
        if index not in self._full:
            return
        self._full.discard(index)
        with suppress(PermissionError):  # then it was refused before, too
            self._limit_files(index, resource.getrlimit(resource.RLIMIT_FSIZE)[0])

    def _limit_files(self, index: int, size_bytes_max: int) -> None:
        """The node first: a worker that it starts from now on has the limit from birth."""
        if index not in self.nodes:
            return
        pid = self.nodes[index].process.pid
        _limit_file_size(pid, size_bytes_max)
        for process in _descendants([pid]):
            _limit_file_size(process.pid, size_bytes_max)

    def exit_of(self, index: int) -> tuple[str, int] | None:
        """How a node ended that nobody stopped, in words and as an exit code; None while it runs."""
        node = self.nodes.get(index)
        if node is None or not _has_ended(node.process):
            return None
        _kill_tree([node.process.pid])  # workers that it left
        code = node.process.wait()
        del self.nodes[index]
        _let_go(node)
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return f"{how}; {node.said() or 'it said nothing'}", code

    def process_numbers(self) -> dict[int, int]:
        """The peer of every node process that was started and not stopped: by process number."""
        return {node.process.pid: index for index, node in self.nodes.items()}

    def stop_nodes(self) -> None:
        """SIGTERM to every node, SIGKILL after a grace to what is left. A second signal from the user skips the grace."""
        nodes = list(self.nodes.values())
        for node in nodes:
            _let_go(node)  # a stopped process does not hear SIGTERM
            self.free_disk(node.index)  # what it writes on its way out has room
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

    def _spawn(
        self, arguments: Sequence[str], *, stdout: Any, stderr: Any, full: bool = False
    ) -> subprocess.Popen[bytes]:
        program: NodeProgram = self._settings.program
        return subprocess.Popen(
            [*program.command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_die_with_parent(os.getpid(), full) if _libc is not None else None,
        )


def _copy(source: IO[bytes], log: Path) -> None:
    """Append all that a node says to its log, in a thread of its own, until nobody can say anything any more."""
    with source, log.open("ab") as file:
        while data := os.read(source.fileno(), 65_536):
            file.write(data)
            file.flush()


def _let_go(node: NodeProcess) -> None:
    """End a pause, if there is one."""
    if node.guard is None:
        return
    guard, node.guard = node.guard, None
    if not _has_ended(node.process):  # else its number may mean somebody else
        _signal_groups([node.process.pid, *_groups_below(node.process.pid)], signal.SIGCONT)
    guard.communicate()


def _groups_below(pid: int) -> list[int]:
    """The process groups that descendants lead."""
    return [process.pid for process in _descendants([pid]) if _leads_group(process.pid)]


def _leads_group(pid: int) -> bool:
    with suppress(ProcessLookupError):
        return os.getpgid(pid) == pid
    return False


def _signal_groups(groups: Iterable[int], number: signal.Signals) -> None:
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, number)


def _limit_file_size(pid: int, size_bytes_max: int) -> None:
    """The soft limit of a running process, which it may be given back: the hard one stays. Raises PermissionError."""
    with suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes_max, hard))


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


def _die_with_parent(parent: int, full: bool) -> Callable[[], None]:
    """What the child does between fork and exec: ask to be killed when we die, and see whether that has happened already.

    `full`: it begins on a full disk.
    """

    def arrange() -> None:
        assert _libc is not None
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        if full:
            _limit_file_size(0, 0)

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
