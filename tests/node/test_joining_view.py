"""A node that joins, as its user sees it: how far it is, over the same API that a running node has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
import trio
import trio.testing

from consensus.state import State
from node.api.server import ApiAddress, serve_api
from node.clock import Clock
from node.data_directory import DataDirectory
from node.joining_view import JoiningView
from node.services.state_fetch import FIRST_PEER_SECONDS, FOUNDING_MS, JoinPhase, StateFetch
from node.state_rows import FetchRow
from node.threads import in_thread
from p2p.transport import TransportStatistics
from protocol.ids import PeerId, peer_text
from storage.state_sync import Progress
from tests.consensus.ledger_samples import GENESIS
from tests.node.ground_samples import SETTINGS, make_ground
from tests.node.samples import STATUS, FakeNode
from tests.node.test_checkpoints import light_block

PEER = PeerId(bytes([7]) * 32)


class Transport:
    """As much of one as a view looks at."""

    peer_id = PeerId(bytes([8]) * 32)

    def connected_peers(self) -> tuple[PeerId, ...]:
        return (PEER,)

    def known_addresses(self, peer: PeerId) -> tuple[str, ...]:
        return ("/ip4/127.0.0.1/tcp/4001",)

    def statistics(self) -> TransportStatistics:
        return TransportStatistics()


def joining(stop: trio.Event) -> tuple[JoiningView, StateFetch]:
    ground: Any = make_ground()
    ground.keys = SimpleNamespace(node=SimpleNamespace(public=bytes([8]) * 32))
    transport: Any = Transport()
    fetch = StateFetch(ground, transport, Clock(), in_thread)
    return JoiningView(ground, transport, Clock(), fetch, stop), fetch


def row(state: State) -> FetchRow:
    block = light_block(8, state)
    return FetchRow(block, (block,), state.sub_roots())


def test_the_api_answers_while_a_state_is_fetched(tmp_path: Path) -> None:
    """What there is, is told; what needs a state is refused with 503; then the same server tells of the node."""

    async def main() -> None:
        stop = trio.Event()
        view, fetch = joining(stop)
        shown: list[Any] = [view]
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                address: ApiAddress = await nursery.start(
                    serve_api, lambda: shown[0], DataDirectory(tmp_path), "127.0.0.1:0", "", []
                )
                async with httpx.AsyncClient(
                    base_url="http://node", transport=httpx.AsyncHTTPTransport(uds=str(address.socket))
                ) as client:

                    async def get(path: str) -> Any:
                        return msgspec.json.decode((await client.get(path)).content)

                    fetch.phase = JoinPhase.PROVING
                    assert (await get("/consensus/state_sync/status"))["phase"] == "proving"
                    fetch.phase, fetch.row = JoinPhase.FETCHING, row(GENESIS)
                    fetch.progress = Progress(9, 4, ((PEER, 2**20),), 2**20, is_finished=False)
                    facts = await get("/consensus/state_sync/status")
                    assert (facts["height"], facts["parts"], facts["parts_verified"]) == (8, 9, 4)
                    assert facts["sources"] == [{"peer": peer_text(PEER), "bytes": 2**20}]
                    assert facts["state_root"] == GENESIS.root().hex()
                    status = await get("/status")
                    assert status.keys() == STATUS.keys()
                    assert status["state"] == "joining"
                    assert "4 of 9 parts verified, 1.0 MiB from 1 sources" in status["detail"]
                    assert (await get("/peers"))[0]["fetched_bytes"] == 2**20
                    assert (await get("/consensus/state_sync/checkpoints")) == {"checkpoints": []}
                    assert [await get(path) for path in ("/rounds", "/tiles")] == [[], []]
                    assert (await client.get("/health")).status_code == 503
                    assert "nocknode_state_sync_parts_kept 4.0" in (await client.get("/metrics")).text
                    for path in (
                        "/consensus/status",
                        "/consensus/blocks/1",
                        "/consensus/validators",
                        "/v1/models",
                        "/experts",
                        "/experts/calls",
                    ):
                        answer = await client.get(path)
                        assert (answer.status_code, "no state yet" in answer.text) == (503, True)
                    for path in ("quarantine_node", "recover_node"):
                        answer = await client.post(f"/security/{path}/{STATUS['peer']}")
                        assert (answer.status_code, "no state yet" in answer.text) == (503, True)
                    asked = {"prompt": "to be", "tokens_max": 3}
                    assert (await client.post("/generate", json=asked)).status_code == 503
                    shown[0] = FakeNode()
                    assert (await get("/status")) == STATUS
                    shown[0] = view
                    assert (await client.post("/stop")).status_code == 202
                    assert stop.is_set()
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_every_phase_has_a_sentence() -> None:
    """Whatever it does, its user is told."""
    _, fetch = joining(trio.Event())
    fetch.row = row(GENESIS)
    said = []
    for phase in JoinPhase:
        fetch.phase = phase
        said.append(fetch.sentence())
    assert len(set(said)) == len(JoinPhase)


@pytest.mark.parametrize(
    ("age_ms", "bootstrap", "waits"),
    [(0, (), False), (FOUNDING_MS, (), True), (0, ("/ip4/127.0.0.1/tcp/1",), True)],
)
def test_the_first_node_of_a_network_waits_for_nobody(age_ms: int, bootstrap: tuple[str, ...], waits: bool) -> None:
    """It has nobody to dial and was founded a moment ago; whoever has, or may have been away for long, waits for a caller."""
    ground: Any = make_ground(settings=replace(SETTINGS, network=replace(SETTINGS.network, bootstrap=bootstrap)))
    transport: Any = Transport()
    transport.connected_peers = lambda: ()
    clock: Any = SimpleNamespace(now_ms=lambda: ground.genesis.created_ms + age_ms)

    async def main() -> float:
        began = trio.current_time()
        assert not await StateFetch(ground, transport, clock, in_thread).run()
        return trio.current_time() - began

    waited_seconds = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert waited_seconds == pytest.approx(FIRST_PEER_SECONDS if waits else 0)
