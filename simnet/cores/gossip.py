"""Gossip as trees: one copy for each receiver, over whoever runs and is not cut off, a new tree where that changes.

    source -> FANOUT peers -> FANOUT of each ...      a hop takes the route's latency, and a heartbeat more where it was lost

A real mesh sends some copies twice and chooses its hops by what it measures; the trees here are drawn. What they get right is
that every receiver costs one copy, that depth grows with the logarithm of the peers, and which regions the copies go between.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from simnet.cores.network import Network
from simnet.cores.peer import Peer

FANOUT: Final = 6  # gossipsub's degree
HOP_MS: Final = 2.0  # to check an envelope and pass it on (measured with real nodes: one to three)
HEARTBEAT_MS: Final = 1_000.0  # after which a lost message is asked for


@dataclass(frozen=True, slots=True)
class Tree:
    """From one source: every receiver with its delay, and how many copies go between which regions."""

    delays: tuple[tuple[Peer, int], ...]
    waiting: tuple[tuple[Peer, int], ...]  # those among them that wait for learners: owners and aggregators
    hops: tuple[tuple[str, str, int], ...]


class Gossip:
    """The trees of one world."""

    def __init__(self, network: Network, peers: Sequence[Peer], draw: random.Random) -> None:
        self._network = network
        self._order = list(peers)
        draw.shuffle(self._order)
        self._trees: dict[int, Tree] = {}
        self._rings: dict[str, list[Peer]] = {}
        self._changes = -1

    def tree(self, source: Peer) -> Tree:
        """The tree from a running peer, as the network is now."""
        if self._changes != self._network.changes:
            self._changes = self._network.changes
            self._trees.clear()
            self._rings.clear()
        found = self._trees.get(source.index)
        if found is None:
            found = self._trees[source.index] = self._grow(source)
        return found

    def ring(self, source: Peer) -> list[Peer]:
        """Everybody who runs on this side of every cut, in the order of the trees."""
        side = self._network.side(source.region)
        ring = self._rings.get(side)
        if ring is None:
            ring = self._rings[side] = [
                peer for peer in self._order if peer.is_running and self._network.side(peer.region) == side
            ]
        return ring

    def _grow(self, source: Peer) -> Tree:
        ring, network = self.ring(source), self._network
        start = ring.index(source)
        line = ring[start:] + ring[:start]
        delays = [0.0] * len(line)
        hops: Counter[tuple[str, str]] = Counter()
        for at in range(1, len(line)):
            above = (at - 1) // FANOUT
            one, other = line[above].region, line[at].region
            hops[one, other] += 1
            delay = delays[above] + HOP_MS + network.latency_ms(one, other)
            if network.is_lost(one, other):
                delay += HEARTBEAT_MS
            delays[at] = delay
        reached = tuple((peer, 1 + int(delay)) for peer, delay in zip(line[1:], delays[1:], strict=True))
        waiting = tuple((peer, delay) for peer, delay in reached if peer.is_hub)
        return Tree(reached, waiting, tuple((*pair, count) for pair, count in hops.items()))
