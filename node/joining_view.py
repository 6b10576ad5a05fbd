"""What the outside may see of a node that is not there yet: it joins, and its state is on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

import trio
from prometheus_client.core import Metric

from node.api.view import Answer, Asked, ChainFacts, Facts
from node.clock import Clock
from node.ground import Ground
from node.metrics import node_metrics
from node.services.state_fetch import StateFetch
from node.sync_facts import checkpoint_facts, join_facts
from p2p.transport import Transport
from protocol.ids import Digest, PeerId, peer_text, short
from protocol.rejection import Reason, Rejected


class JoiningView:
    """The API's side of joining (``node.api.view.NodeView``): what needs a state is refused, the rest is what there is."""

    def __init__(self, ground: Ground, transport: Transport, clock: Clock, fetch: StateFetch, stop: trio.Event) -> None:
        self._ground = ground
        self._transport = transport
        self._clock = clock
        self._fetch = fetch
        self._stop = stop
        self._started_ms = clock.monotonic_ms()

    @property
    def chain(self) -> ChainFacts:
        raise self._refusal()

    def _refusal(self) -> Rejected:
        return Rejected(Reason.BUSY, "this node has no state yet: see `nocknode status` for how far it is")

    def status(self) -> Facts:
        ground, wire = self._ground, self._transport.statistics()
        return {
            "peer": peer_text(ground.peer),
            "short": short(ground.peer),
            "network": ground.genesis.network_name,
            "network_id": ground.network.hex(),
            "state": "joining",
            "detail": self._fetch.sentence(),
            "member": False,
            "roster": len(ground.genesis.founders),
            "reachable": 0,
            "quorum": 0,
            "connected": len(self._transport.connected_peers()),
            "round": -1,
            "rounds": 0,
            "height": ground.ledger.tip() or 0,
            "view": 0,
            "tokens": 0,
            "tokens_per_second": 0.0,
            "val_loss": None,
            "tiles": len(ground.genesis_roots),
            "tiles_owned": 0,
            "lagging": [],
            "takeovers": 0,
            "rejected": {},
            "bytes_sent": wire.bytes_sent_total,
            "bytes_received": wire.bytes_received_total,
            "device": "",
            "tier": 0,
            "uptime_seconds": (self._clock.monotonic_ms() - self._started_ms) / 1000,
            "verified_seconds_ago": None,
            "storage_bytes": ground.tiles.bytes_used + ground.blobs.bytes_used,
            "version": version("nocknode"),
        }

    def state_sync(self) -> Facts:
        return join_facts(self._fetch)

    def checkpoints(self) -> Sequence[Facts]:
        return checkpoint_facts(self._ground.disk)

    def rounds(self) -> Sequence[Facts]:
        return []

    def round_slots(self, round: int) -> Facts | None:
        return None

    def tiles(self) -> Sequence[Facts]:
        return []

    def peers(self) -> Sequence[Facts]:
        """Those that are connected; nobody has said anything about itself yet."""
        wire = self._transport.statistics()
        given = {share["peer"]: share["bytes"] for share in join_facts(self._fetch)["sources"]}
        return [
            {
                "peer": peer_text(peer),
                "short": short(peer),
                "addresses": list(self._transport.known_addresses(peer)),
                "connected": True,
                "member": False,
                "rtt_ms": wire.round_trip_milliseconds.get(peer),
                "clock_offset_ms": wire.clock_offset_milliseconds,
                "score": 0,
                "fetched_bytes": given.get(peer_text(peer), 0),
                "region": "",
                "device": "",
                "round": None,
                "height": None,
                "advert_age_ms": None,
            }
            for peer in sorted(self._transport.connected_peers())
        ]

    def custody(self) -> Facts:
        raise self._refusal()

    async def read_kept(self, blob: Digest, tile: int) -> bytes:
        raise self._refusal()

    def health(self) -> tuple[bool, Sequence[str]]:
        return False, [f"joining: {self._fetch.sentence()}"]

    def metrics(self) -> Iterable[Metric]:
        return self._metrics()

    def _metrics(self) -> Iterator[Metric]:
        yield from node_metrics(self.status(), {"state_sync": self._fetch.progress})

    def model(self) -> Facts:
        raise self._refusal()

    def experts(self) -> Sequence[Facts]:
        raise self._refusal()

    def expert_calls(self) -> Facts:
        raise self._refusal()

    def quarantine(self, peer: PeerId) -> None:
        raise self._refusal()

    def recover(self, peer: PeerId) -> None:
        raise self._refusal()

    @asynccontextmanager
    async def generate(self, asked: Asked) -> AsyncIterator[Answer]:
        raise self._refusal()
        yield  # type: ignore[unreachable]  # what makes this a generator

    def alerts(self) -> Sequence[Facts]:
        return []

    def badge(self) -> Facts:
        raise self._refusal()

    def answers(self, first: int = 0) -> Sequence[Facts]:
        return []

    def answer(self, name: Digest) -> Facts | None:
        return None

    def answer_record(self, name: Digest) -> bytes | None:
        return None

    async def audit_answer(self, record: bytes) -> Facts:
        raise self._refusal()

    def request_stop(self) -> None:
        self._stop.set()
