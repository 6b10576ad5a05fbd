"""What every checker may know of a run: told once, in order, before any of them looks.

    peers    who runs, since when, how high its chain is, what it applied
    blocks   the first block that anybody finalized at each height
    heads    what those blocks decided, tile by tile and version by version
    rounds   when the first peer closed each

Nothing here comes from a node's own bookkeeping: it is what reached the disks, in the order in which it did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from compute.exact import Float32
from compute.model.tiling import TileMap
from protocol.genesis import Genesis
from protocol.ids import Digest, Height, PeerId, TileId, Version, short
from protocol.roster import Head
from simnet.scenario import Scenario

FindBlob = Callable[[Digest], bytes | None]


class LossModel(Protocol):
    """What turns weights into a loss: ``simnet.compute.Valley``, or anything else that can."""

    def loss(self, weights: Mapping[TileId, Float32]) -> float:
        """The loss at these weights of every tile: positive, and lower is better."""


@dataclass(slots=True)
class Peer:
    """One peer as it is seen. ``since``: when it last began to run without anything that hinders it.

    What a process wrote in its last moment may never have been told: after a restart the disk may know more than ``height``
    and ``versions`` say.
    """

    id: PeerId
    arrived_at: float  # for the first time
    arrived_in: int  # the round that was open then
    since: float
    started_at: float  # its process
    lives: int = 1
    runs: bool = True
    is_hindered: bool = False
    learns: bool = True
    height: int = 0  # of the newest block that it finalized
    is_fresh: bool = True  # this process has finalized nothing yet
    versions: dict[TileId, Version] = field(default_factory=dict)  # applied

    @property
    def name(self) -> str:
        return short(self.id)

    def has_run(self, seconds: float, now: float) -> bool:
        """Whether it runs, and has for so long, without hindrance."""
        return self.runs and not self.is_hindered and now - self.since >= seconds


@dataclass(frozen=True, slots=True)
class KnownBlock:
    """The first block that was finalized at its height."""

    name: Digest
    state_root: Digest
    body: bytes
    peer: PeerId  # that finalized it first
    seconds: float


@dataclass(frozen=True, slots=True)
class Counted:
    """One learner's delta that a head counts, by itself or inside an aggregate."""

    delta: Digest
    learner: PeerId
    base: Version


@dataclass(frozen=True, slots=True)
class DecidedHead:
    """A head of a final block. ``peer`` is the one that finalized it first, at ``seconds``."""

    head: Head
    height: Height
    peer: PeerId
    seconds: float
    counted: tuple[Counted, ...]

    def __str__(self) -> str:
        return f"{self.head.slot} (height {self.height}, round {self.head.round}, by {short(self.head.proposer)})"


class Facts:
    """Kept by ``Watch``, read by checkers."""

    def __init__(self, genesis: Genesis, scenario: Scenario) -> None:
        self.genesis = genesis
        self.scenario = scenario
        self.tile_map = TileMap.from_shape(genesis.model, genesis.tile_bytes)
        self.round_seconds = genesis.learning.round_ms / 1000
        self.began_at: float | None = None  # when the first peer arrived
        self.peers: dict[PeerId, Peer] = {}
        self.blocks: dict[int, KnownBlock] = {}
        self.tip = 0  # the highest of them
        self.heads: dict[TileId, dict[Version, DecidedHead]] = {tile: {} for tile in self.tile_map.ids}
        self.newest: dict[TileId, DecidedHead] = {}
        self.closed_at: dict[int, float] = {}  # round -> when the first peer closed it
        self.open_round = 0  # above every round that anybody closed

    def peer(self, peer: PeerId, now: float) -> Peer:
        """What is known of a peer; one that never said that it arrived arrives now."""
        known = self.peers.get(peer)
        if known is None:
            known = self.peers[peer] = Peer(peer, arrived_at=now, arrived_in=self.open_round, since=now, started_at=now)
            if self.began_at is None:
                self.began_at = now
        return known
