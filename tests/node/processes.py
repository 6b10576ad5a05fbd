"""Networks of real node processes for tests: founded in this process, run as ``python -m node``, polled with a deadline.

Everything binds to 127.0.0.1. A :class:`Network` is a context manager; leaving it leaves no process, however the test ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import trio

from node.clock import Clock
from node.config import default_config_text, load_settings, load_template
from node.data_directory import DataDirectory
from node.genesis_file import found_network, write_genesis
from node.ground import Ground, open_ground
from node.keys import create_keys
from node.verify import VerifyReport, verify_tiles
from protocol.codec import decode, encode
from protocol.finality import Body
from protocol.ids import Height
from protocol.limits import BODY_BYTES_MAX
from storage.io.blob_store import BlobStore
from storage.io.files import DirectoryFiles
from storage.io.rocks import RocksKeyValue

PATIENCE_SECONDS = 240.0  # a machine with two cores that does other things too; it usually takes a twentieth
GRACE_SECONDS = 10.0  # a node promises to end within a few seconds of SIGTERM
POLL_SECONDS = 0.1  # a look costs the node a few milliseconds of a core that all share
CREATED_MS = 1_700_000_000_000
ROUND_SECONDS = 5.0
_NONE: dict[str, object] = {}


def wait_for(what: str, look: Callable[[], Any], patience_seconds: float = PATIENCE_SECONDS) -> Any:
    """The first true answer of ``look``; fails the test when there is none in time."""

    async def poll() -> Any:
        with trio.move_on_after(patience_seconds):
            while not (answer := look()):
                await trio.sleep(POLL_SECONDS)
            return answer
        raise AssertionError(f"waited {patience_seconds:.0f} s in vain for: {what}")

    return trio.run(poll)


def corpus() -> bytes:
    """Text that is the same for everybody and long enough for a few shards' worth of windows."""
    return b"".join(
        b"def method_%d(self, value):\n    return self.table[value + %d]\n\n" % (n, n * n) for n in range(4000)
    )


def run_command(*arguments: str, timeout_seconds: float = PATIENCE_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run ``nocknode ARGUMENTS`` to its end."""
    command = [sys.executable, "-m", "node", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)


class NodeProcess:
    """One data directory, and the process that runs on it now, if any."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.places = DataDirectory(directory)
        self.process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(timeout=10.0, trust_env=False)

    # Starting and ending

    def start(self, *options: str, bootstrap: Sequence[str] = (), wait: bool = True) -> None:
        """Start the node; with ``wait``, until its interface is up."""
        assert self.process is None
        self.places.api_file.unlink(missing_ok=True)
        arguments = [
            sys.executable,
            "-m",
            "node",
            "start",
            "--data-dir",
            str(self.directory),
            "--device",
            "cpu",
            *options,
        ]
        for address in bootstrap:
            arguments += ["--bootstrap", address]
        with (self.directory / "stderr.txt").open("ab") as stream:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
            )
        if wait:
            wait_for(f"the interface of {self.directory.name}", self._is_up)

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.directory.name} ended: {self.said()}"
        return self.places.api_file.exists()

    def workers(self) -> list[psutil.Process]:
        """The processes below the node."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> list[psutil.Process]:
        """kill -9 of the node alone; returns the processes that were below it."""
        workers = self.workers()
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None
        return workers

    def ask_to_stop(self) -> None:
        """SIGTERM. Once: a second one ends the process at once, as a user in a hurry wants."""
        assert self.process is not None
        self.process.terminate()

    def wait_stopped(self) -> int:
        """The exit code after ``ask_to_stop``."""
        assert self.process is not None
        code = self.process.wait(3 * GRACE_SECONDS)
        self.process = None
        return code

    def wait_end(self) -> int:
        """Wait until the process has ended by itself; its exit code."""
        process = self.process
        assert process is not None
        wait_for(f"the end of {self.directory.name}", lambda: process.poll() is not None)
        self.process = None
        return process.returncode

    def end(self) -> None:
        """Whatever its state: no process is left."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
        self._client.close()

    # What it says

    def get(self, path: str) -> Any:
        """An answer of the interface, or None while it gives none."""
        try:
            api = json.loads(self.places.api_file.read_bytes())
            answer = self._client.get(api["url"] + path)
            answer.raise_for_status()
        except (FileNotFoundError, httpx.HTTPError, ValueError):
            assert self.process is None or self.process.poll() is None, f"{self.directory.name} ended: {self.said()}"
            return None
        return answer.json()

    @property
    def address(self) -> str:
        """Where peers reach it."""
        return str(json.loads(self.places.api_file.read_bytes())["addresses"][0])

    def status(self, key: str) -> Any:
        return (self.get("/status") or {}).get(key)

    def votes(self) -> int:
        """How many votes it gave; 0 also while it joins."""
        return (self.get("/consensus/status") or {}).get("votes") or 0

    def versions(self) -> dict[str, int]:
        """The decided version of each tile, as the interface says."""
        return {tile["tile"]: tile["version"] for tile in self.get("/tiles") or ()}

    def wait_rounds(self, count: int) -> None:
        """Until ``count`` rounds are closed, by its own count."""
        wait_for(f"{count} closed rounds at {self.directory.name}", lambda: (self.status("rounds") or 0) >= count)

    def log(self, event: str) -> list[dict[str, Any]]:
        """The entries of node.log with this event."""
        if not self.places.log.exists():
            return []
        entries = [json.loads(line) for line in self.places.log.read_text().splitlines() if line.startswith("{")]
        return [entry for entry in entries if entry.get("event") == event]

    def said(self) -> str:
        """What it wrote to the terminal."""
        path = self.directory / "stderr.txt"
        return path.read_text() if path.exists() else ""

    # What is on its disk

    def ground(self) -> Ground:
        """The opened data directory of a node that is not running; the caller closes it."""
        assert self.process is None
        return open_ground(load_settings(self.directory))

    def roots(self) -> dict[str, tuple[int, bytes]]:
        """Version and root of each tile's decided head."""
        ground = self.ground()
        try:
            return {tile: (at.version, at.root) for tile, at in ground.tile_heads().items()}
        finally:
            ground.close()

    def learners(self) -> set[bytes]:
        """Whose deltas are in the decided heads of its ledger."""
        ground = self.ground()
        try:
            blocks = ground.ledger.range(Height(1), ground.ledger.tip() or Height(0))
            bodies = [decode(Body, block.body, limit_bytes=BODY_BYTES_MAX) for block in blocks]
            return {bytes(delta.learner) for body in bodies for head in body.heads for delta in head.deltas}
        finally:
            ground.close()

    def newest_files(self) -> list[Path]:
        """The file of each tile's newest version, in order of tile."""
        folders = sorted({path.parent for path in self.places.tiles.glob("*/*/*.tblock")})
        return [max(folder.glob("*.tblock"), key=lambda path: int(path.stem)) for folder in folders]

    def verify(self) -> VerifyReport:
        """What ``nocknode tiles verify`` says."""
        assert self.process is None
        return verify_tiles(self.directory, lambda done, total, what: None)

    def problems(self) -> list[str]:
        """What it finds wrong."""
        return self.verify().problems


class Network:
    """Data directories of one network. The first ``members`` are its roster; the others know the genesis document only."""

    def __init__(
        self,
        folder: Path,
        members: int,
        strangers: int = 0,
        *,
        name: str = "network",
        rules: Mapping[str, object] = _NONE,
        config: Mapping[str, object] = _NONE,
        created_ms: int | None = None,
    ) -> None:
        """``rules`` of the network's template and ``config`` of every node are values by place; founded now, if not said."""
        self.nodes = [NodeProcess(folder / f"{name}-{index}") for index in range(members + strangers)]
        keys = [create_keys(node.places.keys) for node in self.nodes]
        shards = [corpus()[at : at + 65_536] for at in range(0, len(corpus()), 65_536)]
        template = load_template("test", overrides={"name": name, "learning.round_seconds": ROUND_SECONDS, **rules})
        genesis = found_network(
            template, [each.card() for each in keys[:members]], shards, 0, created_ms or Clock().now_ms()
        )
        self.network_id = genesis.network_id().hex()
        for number, node in enumerate(self.nodes):
            if number == 0:
                index = RocksKeyValue(node.places.database)
                BlobStore(DirectoryFiles(node.directory), index).put_many(shards)
                index.close()
            write_genesis(node.places.genesis, encode(genesis))
            node.places.config.write_text(default_config_text({"network.id": self.network_id, **config}))

    def start(self, *options: str) -> None:
        """Start every node that is not running, the first one first."""
        for node in self.nodes:
            if node.process is None:
                others = [other.address for other in self.nodes if other.process is not None]
                node.start(*options, bootstrap=others)

    def stop(self) -> list[int]:
        """SIGTERM to all that run, at the same time; their exit codes."""
        running = [node for node in self.nodes if node.process is not None]
        for node in running:
            node.ask_to_stop()
        return [node.wait_stopped() for node in running]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.end()
