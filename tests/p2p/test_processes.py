"""What only separate processes can show: a peer that is stopped, killed, and comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2p.requests import SYNC
from p2p.transport import PeerConnected, PeerLost

from .conftest import PATIENCE_SECONDS, Host, World

ROOT = Path(__file__).parents[2]


class Process:
    """A `lone_host` and the lines that it printed."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._unread = b""

    async def read(self) -> dict:
        assert self._process.stdout is not None
        with trio.fail_after(PATIENCE_SECONDS):
            while b"\n" not in self._unread:
                data = await self._process.stdout.receive_some()
                assert data, "the process ended"
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)


@asynccontextmanager
async def lone_host(listen: str, *bootstrap: Host) -> AsyncIterator[Process]:
    addresses = [address for host in bootstrap for address in host.transport.addresses]
    command = [sys.executable, "-m", "tests.p2p.lone_host", "lone", listen, *addresses]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            lambda task_status: trio.run_process(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=None, check=False, task_status=task_status
            )
        )
        try:
            yield Process(process)
        finally:
            process.kill()


def run(scenario) -> None:
    async def main() -> None:
        with trio.fail_after(4 * PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                world = World("libp2p", nursery)
                await scenario(world)
                for host in world.hosts:
                    host.stop.set()

    trio.run(main)


@pytest.mark.slow
def test_a_stopped_process_is_dropped_and_returns():
    """A peer that keeps its sockets open and says nothing (SIGSTOP) is dropped for silence; woken up, it is admitted again."""

    async def scenario(world: World) -> None:
        a = await world.host("a")
        async with lone_host("/ip4/127.0.0.1/tcp/0", a) as lone:
            await lone.read()
            await a.wait(PeerConnected)
            lone.signal(signal.SIGSTOP)
            (lost,) = await a.wait(PeerLost)
            assert "silent" in lost.reason
            assert a.transport.connected_peers() == ()
            lone.signal(signal.SIGCONT)
            await a.wait(PeerConnected, 2)

    run(scenario)


@pytest.mark.slow
def test_a_killed_process_is_lost_at_once_and_returns():
    """kill -9 is noticed by the closed socket; the next process under the same key and port is admitted and asked again."""

    async def scenario(world: World) -> None:
        a = await world.host("a")
        async with lone_host("/ip4/127.0.0.1/tcp/0", a) as lone:
            address = (await lone.read())["addresses"][0]
            (connected,) = await a.wait(PeerConnected)
            lone.signal(signal.SIGKILL)
            await a.wait(PeerLost)
        async with lone_host(address.partition("/p2p/")[0]) as lone:
            await lone.read()
            await a.wait(PeerConnected, 2)
            answer = await a.transport.request(
                connected.peer, SYNC.protocol, b"again", timeout_seconds=10.0, response_bytes_max=10
            )
            assert answer == b"again"

    run(scenario)


def test_closing_leaves_nothing_behind():
    """After a host is closed its port is free, its sockets are closed and no thread of it runs."""

    async def scenario(world: World) -> None:
        threads_before = threading.active_count()
        a = await world.host("a")
        b = await world.host("b", [a])
        await b.wait(PeerConnected)
        address = a.transport.addresses[0].partition("/p2p/")[0]
        await world.stop(a)
        await b.wait(PeerLost)
        await world.stop(b)
        again = await world.host("a", listen=address)
        assert again.transport.addresses[0].startswith(address)
        assert threading.active_count() == threads_before

    run(scenario)
