"""One run of a local network, as a straight line:

1 keys of the other founders    2 genesis by peer 0    3 peer 0 up    4 the others join    5 rounds, faults, repairs
6 roots compared    7 nodes stopped    8 directories verified    9 report
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any, Final

import trio

from protocol.rejection import Rejected
from simnet.observed import Agreement, Network
from simnet.options import Settings
from simnet.processes import ChildFailed, Fleet
from simnet.report import Verdicts, draw, facts_of_run, passed, summary, write_json
from simnet.view import Display, open_display
from simnet.watch import Watcher

INTERRUPTED: Final = 130  # the shell's code for Ctrl-C
FAILED: Final = 1


def run(settings: Settings, as_json: bool) -> int:
    """Run a network, print what came of it, and return the exit code: 0 if it finished and agrees.

    Raises Rejected for a user's mistake and ChildFailed for a node that could not be started; no process is left either way.
    """
    try:
        with Fleet(settings) as fleet:
            return trio.run(_Run(settings, fleet, as_json).until_interrupted)
    except BaseExceptionGroup as group:
        known = group.subgroup((Rejected, ChildFailed))
        if known is None or group.split((Rejected, ChildFailed))[1] is not None:
            raise
        raise _first(known) from None


class _Run:
    """The steps of one run and what they share."""

    def __init__(self, settings: Settings, fleet: Fleet, as_json: bool) -> None:
        self._settings = settings
        self._fleet = fleet
        self._as_json = as_json
        self._began = time.monotonic()
        self._network = Network(settings.peers, settings.rounds, settings.round_seconds)
        self._display: Display = open_display()
        self._watcher = Watcher(settings, fleet, self._network, self._now, self._show)
        self._processors = trio.CapacityLimiter(max(2, os.cpu_count() or 1))  # short commands at the same time
        self._exit_code = FAILED
        self._interrupted = False
        self._reported = False

    async def until_interrupted(self) -> int:
        """All steps, ended early by SIGINT, SIGTERM or SIGHUP."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_on_signal, nursery.cancel_scope)
                await self._steps()
                nursery.cancel_scope.cancel()
        finally:
            self._display.close()
        if self._interrupted and not self._reported:
            said = (
                f"Stopped after {self._network.rounds_closed} rounds; the data directories are in {self._settings.out}."
            )
            print(said, file=sys.stderr if self._as_json else sys.stdout)
            return INTERRUPTED
        return self._exit_code

    async def _steps(self) -> None:
        settings, display, watcher = self._settings, self._display, self._watcher
        async with trio.open_nursery() as watching:
            display.phase(f"Making {settings.peers} sets of keys in {settings.out}")
            members = await self._make_keys()

            display.phase("Making the genesis: keys, model, corpus")
            network_id = await self._make_genesis(members)

            display.phase("Starting peer 0")
            await watcher.open_links(watching)
            await watcher.start_peer(0, watching)

            if settings.peers > 1:
                display.phase(f"Starting {settings.peers - 1} more, which fetch genesis and corpus from peer 0")
            async with trio.open_nursery() as joining:
                for index in range(1, settings.peers):
                    joining.start_soon(self._join, index, network_id, watching)

            display.phase("All nodes are up; Ctrl-C stops them")
            finished = await watcher.run_until_done(watching)
            if not finished:
                display.phase(f"Not finished after {settings.timeout_seconds:.0f} s: {self._network.why_unfinished()}")

            display.phase("Comparing the roots of all nodes")
            agreement = await watcher.settle(finished)
            if settings.keep:
                self._report(agreement, finished, None)
                await trio.sleep_forever()
            watching.cancel_scope.cancel()

        display.phase("Stopping the nodes")
        await trio.to_thread.run_sync(self._fleet.stop_nodes)
        verdicts = await self._verify() if settings.verify else None
        self._report(agreement, finished, verdicts)

    async def _make_keys(self) -> list[str]:
        """Keys of every founder but the first, whose own are made with the genesis; their public lines, in order."""
        members = [""] * self._settings.peers

        async def make(index: int) -> None:
            made = await self._command("keys", "new", "--data-dir", str(self._settings.data_directory(index)))
            members[index] = str(made["member"])

        async with trio.open_nursery() as nursery:
            for index in range(1, self._settings.peers):
                nursery.start_soon(make, index)
        return members[1:]

    async def _make_genesis(self, members: list[str]) -> str:
        """Peer 0 founds the network; returns its id."""
        settings = self._settings
        arguments = ["init", "--new", "--network", str(settings.network), "--model", str(settings.model)]
        if settings.corpus is not None:
            arguments += ["--corpus", str(settings.corpus)]
        if settings.round_seconds is not None:
            arguments += ["--round-seconds", f"{settings.round_seconds:g}"]
        for member in members:
            arguments += ["--member", member]
        made = await self._command(*arguments, "--data-dir", str(settings.data_directory(0)))
        return str(made["network_id"])

    async def _join(self, index: int, network_id: str, watching: trio.Nursery) -> None:
        """One founder fetches the genesis from peer 0 and starts."""
        directory = str(self._settings.data_directory(index))
        address = self._watcher.address_of(0)
        await self._command("init", "--join", address, "--network-id", network_id, "--data-dir", directory)
        await self._watcher.start_peer(index, watching)

    async def _command(self, *arguments: str) -> dict[str, Any]:
        async with self._processors:
            return await self._fleet.run_command(*arguments)

    async def _verify(self) -> dict[int, dict[str, object]]:
        """``nocknode tiles verify`` on every directory, those of dead peers included."""
        self._display.phase("Deriving every root again from genesis, updates and deltas, on every node")
        verdicts: dict[int, dict[str, object]] = {}

        async def verify(index: int) -> None:
            async with self._processors:
                verdicts[index] = await self._fleet.verify(index)

        async with trio.open_nursery() as nursery:
            for index in range(self._settings.peers):
                nursery.start_soon(verify, index)
        return verdicts

    def _report(self, agreement: Agreement, finished: bool, verdicts: Verdicts | None) -> None:
        """Write the files, print the object or the summary, and settle the exit code."""
        network, settings = self._network, self._settings
        facts = facts_of_run(network, agreement, settings, self._now(), finished, verdicts)
        write_json(settings.out / "report.json", facts, network)
        draw(settings.out / "report.png", network)
        self._exit_code = 0 if passed(facts) else FAILED
        self._reported = True
        self._display.close()
        print(json.dumps(facts) if self._as_json else "\n" + summary(facts, network, settings), flush=True)

    async def _cancel_on_signal(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for _ in signals:
                self._interrupted = True
                scope.cancel()

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _show(self) -> None:
        self._display.update(self._network, self._now())


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
