"""Experts between nodes: who has the right versions computes, who has not says so, and whoever gives nonsense is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from compute.io.pool import JobLost
from compute.jobs import ComputeExpert, TileFile
from compute.trainer import run_to_end
from node.services.expert_client import ExpertClient, open_expert_client
from node.services.expert_server import CALLS_MAX, CALLS_PER_PEER_MAX, ExpertServer, ExpertStatistics
from p2p.requests import EXPERT
from p2p.transport import Transport
from protocol.codec import decode, encode
from protocol.experts import CallExpert, ExpertCalled, ExpertSlice
from protocol.ids import PeerId, TileId, Version
from protocol.rejection import Reason, Rejected
from simnet.virtual.learner import ModelDevice, made_report
from tests.node.memory_hosts import connected_hosts, no_report
from tests.node.worker_samples import Bench, bench_in_memory

NAME = "layer0.expert1"
EXPERT_1 = ExpertSlice(NAME)


class Worker:
    """A holder's worker, which takes its time."""

    def __init__(self, bench: Bench, seconds: float = 0.01) -> None:
        self.main = bench.worker(ModelDevice(made_report("holder")))
        self.seconds = seconds
        self.calls = 0

    async def call(self, job: Any, timeout_seconds: float = 0.0) -> Any:
        self.calls += 1
        await trio.sleep(self.seconds)
        return run_to_end(self.main.compute_expert(job))


@pytest.fixture(scope="module")
def bench() -> Bench:
    return bench_in_memory()


def serve(bench: Bench, host: Transport, worker: Worker | None, newest: int = 0) -> ExpertServer:
    """A holder of the bench's tiles."""

    async def tile_files(bases: Sequence[tuple[TileId, Version]]) -> tuple[TileFile, ...]:
        by_name = {tile.tile: tile for tile in bench.tiles}
        return tuple(by_name[tile] for tile, version in bases if version == newest)

    return ExpertServer(host, bench.tile_map, lambda tile: Version(newest), tile_files, lambda: worker)


Talk = Callable[[list[Transport], ExpertClient], Awaitable[None]]


def converse(hosts: int, talk: Talk, refused: Counter[PeerId] | None = None) -> None:
    """A caller, the first, and so many others, all connected."""

    async def main() -> None:
        def count(peer: PeerId, refusal: Rejected) -> None:
            assert refused is not None
            refused[peer] += 1

        report = no_report if refused is None else count
        async with connected_hosts(hosts + 1) as made, open_expert_client(made[0], Random(1), report) as client:
            client.place({EXPERT_1: {host.peer_id: 1 for host in made[1:]}})
            await talk(made, client)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def rows_of(bench: Bench, count: int = 3) -> bytes:
    width = bench.genesis.model.width
    return np.random.default_rng(count).standard_normal((count, width)).astype("<f4").tobytes()


def right(bench: Bench, rows: bytes, index: int = 0, count: int = 1) -> bytes:
    tiles = tuple(tile for tile in bench.tiles if tile.tile.startswith(f"{NAME}/"))
    worker = bench.worker(ModelDevice(made_report("checker")))
    return run_to_end(worker.compute_expert(ComputeExpert(tiles, NAME, index, count, rows))).rows


def versions(bench: Bench, version: int = 0) -> list[Version]:
    return [Version(version)] * len(bench.tile_map.group_tiles(NAME))


def test_a_peer_computes_what_a_node_would_compute_itself(bench: Bench):
    """The same bits, whichever holder is asked; calls are divided among them; slices are asked for like experts."""
    rows = rows_of(bench)

    async def talk(hosts: list[Transport], client: ExpertClient) -> None:
        servers = [serve(bench, host, Worker(bench)) for host in hosts[1:]]
        for _ in range(10):
            assert await client.call(EXPERT_1, versions(bench), rows, 5.0) == right(bench, rows)
        assert [server.statistics().served for server in servers] == [5, 5]
        half = ExpertSlice(NAME, 1, 2)
        client.place({half: {hosts[1].peer_id: 1}})
        assert await client.call(half, versions(bench), rows, 5.0) == right(bench, rows, 1, 2)

    converse(2, talk)


def test_whoever_cannot_compute_says_so_and_another_is_asked(bench: Bench):
    """No worker, no such version, a worker that died: each is answered at once, and nobody is blamed."""
    rows = rows_of(bench)

    class Dying(Worker):
        async def call(self, job: Any, timeout_seconds: float = 0.0) -> Any:
            raise JobLost("killed")

    async def talk(hosts: list[Transport], client: ExpertClient) -> None:
        serve(bench, hosts[1], None)
        serve(bench, hosts[2], Worker(bench), newest=7)
        serve(bench, hosts[3], Dying(bench))
        good = serve(bench, hosts[4], Worker(bench))
        for _ in range(8):
            began = trio.current_time()
            assert await client.call(EXPERT_1, versions(bench), rows, 5.0) == right(bench, rows)
            assert trio.current_time() - began < 1.0
        assert good.statistics().served == 8
        with pytest.raises(Rejected) as refused:
            await client.call(EXPERT_1, versions(bench, 3), rows, 1.0)
        assert refused.value.reason is Reason.BUSY

    converse(4, talk)


def test_a_holder_that_dies_or_hangs_costs_a_second_at_most(bench: Bench):
    """Whoever does not answer is passed over; the call has the other's answer, and later calls do not wait for it again."""
    rows = rows_of(bench)

    async def talk(hosts: list[Transport], client: ExpertClient) -> None:
        hung = Worker(bench, seconds=1000.0)
        serve(bench, hosts[1], hung)
        serve(bench, hosts[2], Worker(bench))
        began = trio.current_time()
        for _ in range(50):
            assert await client.call(EXPERT_1, versions(bench), rows, 5.0) == right(bench, rows)
        assert trio.current_time() - began < 50 * 0.05 + 1.0
        assert hung.calls <= 8
        assert client.statistics().taken == 50

    converse(2, talk)


@pytest.mark.parametrize("answer", [b"", b"nonsense", encode(ExpertCalled(bytes(8)))])
def test_whoever_gives_what_is_no_answer_is_reported_and_left_out(bench: Bench, answer: bytes):
    """Bytes that do not decode, or other rows than were asked for: the call goes on to somebody else, as do all later ones."""
    rows, blamed = rows_of(bench), Counter[PeerId]()

    async def talk(hosts: list[Transport], client: ExpertClient) -> None:
        async def lie(peer: PeerId, data: bytes) -> bytes:
            return answer

        hosts[1].set_request_handler(EXPERT.protocol, lie)
        serve(bench, hosts[2], Worker(bench))
        for _ in range(6):
            assert await client.call(EXPERT_1, versions(bench), rows, 5.0) == right(bench, rows)
        assert blamed == {hosts[1].peer_id: 1}

    converse(2, talk, blamed)


def test_whoever_is_asked_too_often_is_busy_and_does_not_rest(bench: Bench):
    """A holder over whose budget a caller is answers it again a moment later; meanwhile others do."""
    rows = rows_of(bench)

    async def talk(hosts: list[Transport], client: ExpertClient) -> None:
        asked = []

        async def refuse(peer: PeerId, data: bytes) -> bytes:
            asked.append(trio.current_time())
            raise Rejected(Reason.OVER_BUDGET, "too often")

        hosts[1].set_request_handler(EXPERT.protocol, refuse)
        serve(bench, hosts[2], Worker(bench))
        for _ in range(40):
            assert await client.call(EXPERT_1, versions(bench), rows, 5.0) == right(bench, rows)
        assert len(asked) >= 5  # one that rests would be asked after one second, two, four

    converse(2, talk)


def test_a_call_that_makes_no_sense_is_refused_with_its_reason(bench: Bench):
    """An expert that the model has not, the trunk, too few versions, versions that are not kept, rows that are none."""
    rows = rows_of(bench)
    good = CallExpert(NAME, 0, 1, tuple(versions(bench)), rows)

    async def talk(hosts: list[Transport], client: ExpertClient) -> None:
        server = serve(bench, hosts[1], Worker(bench))
        other = serve(bench, hosts[2], Worker(bench), newest=2)
        trunk = tuple(Version(0) for _ in bench.tile_map.group_tiles("trunk"))
        for request, reason, at in (
            (CallExpert("layer0.expert99", 0, 1, good.versions, rows), Reason.NOT_FOUND, server),
            (CallExpert("trunk", 0, 1, trunk, rows), Reason.NOT_FOUND, server),
            (CallExpert(NAME, 0, 1, (*good.versions, Version(0)), rows), Reason.MALFORMED, server),
            (CallExpert(NAME, 0, 1, tuple(versions(bench, 1)), rows), Reason.NOT_FOUND, server),
            (good, Reason.NOT_FOUND, other),
            (CallExpert(NAME, 0, 1, tuple(versions(bench, 1)), rows), Reason.NOT_FOUND, other),  # known, but not held
            (CallExpert(NAME, 0, 1, good.versions, rows[:-4]), Reason.MALFORMED, server),
            (CallExpert(NAME, 1, 1, good.versions, rows), Reason.MALFORMED, server),
        ):
            with pytest.raises(Rejected) as refused:
                await at.serve(hosts[0].peer_id, encode(request))
            assert refused.value.reason is reason, request
        answer = await server.serve(hosts[0].peer_id, encode(good))
        assert decode(ExpertCalled, answer, limit_bytes=EXPERT.response_bytes_max).rows == right(bench, rows)
        assert server.statistics() == ExpertStatistics(served=1, waiting=0, given_bytes=len(rows))

    converse(2, talk)


def test_no_peer_takes_all_the_room_and_nobody_waits_without_bound(bench: Bench):
    """A peer has a part of the queue, all together have the whole; whoever is over it is told so, and room comes back."""
    request = encode(CallExpert(NAME, 0, 1, tuple(versions(bench)), rows_of(bench)))

    async def talk(hosts: list[Transport], client: ExpertClient) -> None:
        worker = Worker(bench, seconds=1.0)
        server = serve(bench, hosts[1], worker)
        outcomes = Counter[tuple[int, str]]()

        async def ask(number: int) -> None:
            try:
                await server.serve(PeerId(bytes([number]) * 32), request)
            except Rejected as refusal:
                outcomes[number, refusal.reason.code] += 1
            else:
                outcomes[number, "served"] += 1

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    for _ in range(CALLS_PER_PEER_MAX + 1):
                        nursery.start_soon(ask, number)
        served = sum(count for (_, outcome), count in outcomes.items() if outcome == "served")
        assert served == worker.calls == 2 * CALLS_MAX
        assert all(outcomes[number, "served"] <= 2 * CALLS_PER_PEER_MAX for number in range(5))
        assert {outcome for _, outcome in outcomes} == {"served", "busy"}

    converse(1, talk)


def test_whoever_stops_waiting_takes_its_questions_back(bench: Bench):
    """A caller that leaves costs its holder nothing: it is asked again at once, and it is not thought slow."""
    rows = rows_of(bench)

    async def talk(hosts: list[Transport], client: ExpertClient) -> None:
        worker = Worker(bench, seconds=0.15)
        serve(bench, hosts[1], worker)
        for _ in range(5):
            with trio.move_on_after(0.1) as left:
                await client.call(EXPERT_1, versions(bench), rows, 5.0)
            assert left.cancelled_caught
        began = trio.current_time()
        assert await client.call(EXPERT_1, versions(bench), rows, 5.0) == right(bench, rows)
        assert trio.current_time() - began < 0.3
        asked = worker.calls
        with trio.move_on_after(0) as left:
            await client.call(EXPERT_1, versions(bench), rows, 5.0)
        assert left.cancelled_caught
        await trio.sleep(1.0)
        assert worker.calls == asked  # it was taken back before it was sent

    converse(1, talk)
