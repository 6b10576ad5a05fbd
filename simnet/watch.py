"""Watching a running network and breaking it on request: the shell around ``observed``.

One task per peer asks its interface four times a second, so that a hung node holds up nobody else; one task, the director,
kills, restarts, notices ends, shows, and decides when the run is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import httpx
import msgspec
import trio

from protocol.rejection import Reason, Rejected
from simnet import facts
from simnet.observed import Agreement, FaultPlan, Network, compare_roots, kill_target, killed_peers
from simnet.options import Kill, Restart, Settings, TileOwner
from simnet.processes import ChildFailed, Fleet, NodeProcess

T = TypeVar("T")

POLL_SECONDS: Final = 0.25
ROUNDS_EVERY_SECONDS: Final = 1.0  # /rounds and /tiles grow with the run; they change once a round
PEERS_EVERY_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0  # a busy machine answers late; a dead one is noticed by its process
OWNERS_SECONDS: Final = 2.0  # the director waits no longer for one node; the next one knows the owners too
SETTLE_SECONDS: Final = 30.0  # until the last round's roots and losses have reached every node
TROUBLES: Final = (httpx.HTTPError, msgspec.DecodeError)  # the node is starting, dying or busy


class Watcher:
    """Drives one run. `show` is called after every look at the network."""

    def __init__(
        self, settings: Settings, fleet: Fleet, network: Network, now: Callable[[], float], show: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._network = network
        self._now = now
        self._show = show
        self._plan = FaultPlan(settings.kills, settings.restarts)
        self._client = httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False)
        self._addresses: dict[int, tuple[str, ...]] = {}  # where each peer was last reached
        self.agreement = Agreement(False, ())

    # Starting

    async def start_peer(self, index: int, nursery: trio.Nursery) -> None:
        """Start a node, wait until its interface is up, and have `nursery` watch it; raises ChildFailed."""
        await self._follow(self._launch(index), nursery)

    def address_of(self, index: int) -> str:
        """A multiaddress of a running peer; raises ChildFailed if it announced none."""
        addresses = self._addresses.get(index, ())
        if not addresses:
            raise ChildFailed(f"Peer {index} announced no address in its api.json.")
        return addresses[0]

    # Watching

    async def run_until_done(self, nursery: trio.Nursery) -> bool:
        """Watch, kill and restart until every running peer has closed every round; False when the time is over first."""
        network = self._network
        look_at_tiles = 0.0
        give_up_at = self._now() + self._settings.timeout_seconds
        while not (network.done and self._nothing_pending()):
            if self._now() > give_up_at:
                return False
            self._note_ends()
            if self._now() >= look_at_tiles:
                look_at_tiles = self._now() + ROUNDS_EVERY_SECONDS
                await self._look_at_tiles()
            for kill in self._plan.take_due_kills(network, self._now()):
                await self._kill(kill)
            for restart in self._plan.take_due_restarts(network, self._now()):
                self._restart(restart, nursery)
            self._show()
            await trio.sleep(POLL_SECONDS)
        return True

    async def settle(self, finished: bool) -> Agreement:
        """Read roots and rounds from every running peer until they agree everywhere, or for half a minute.

        A run that did not finish is read once, and so is one that is torn: different roots of one version never heal.
        """
        network = self._network
        with trio.move_on_after(SETTLE_SECONDS):
            while True:
                await self._read_all()
                numbers = [totals.round for totals in network.totals()]
                measured = all(totals.val_loss is not None for totals in network.totals())
                self._show()
                if not finished or self.agreement.torn:
                    break
                if self.agreement.roots_agree and len(self.agreement.rounds_agreed) == len(numbers) and measured:
                    break
                await trio.sleep(1.0)
        return self.agreement

    async def close(self) -> None:
        """Give up the connections."""
        await self._client.aclose()

    # Parts

    def _launch(self, index: int) -> NodeProcess:
        others = [self._addresses[other.index] for other in self._network.live if other.index in self._addresses]
        node = self._fleet.start_node(index, [addresses[0] for addresses in others if addresses])
        self._network.started(index, self._now())
        return node

    async def _follow(self, node: NodeProcess, nursery: trio.Nursery) -> None:
        try:
            api = await self._fleet.wait_ready(node)
        except ChildFailed:
            if self._fleet.nodes.get(node.index) is not node:
                return  # killed again, or its end was noted, while it was starting
            raise
        self._addresses[node.index] = api.addresses
        nursery.start_soon(self._poll_peer, node.index, api.url, self._network.peers[node.index].starts)

    def _nothing_pending(self) -> bool:
        """Whether no restart can still fire. Kills that came too late are dropped with the run."""
        return not any(restart.round <= self._network.round for restart in self._plan.restarts)

    async def _poll_peer(self, index: int, url: str, start: int) -> None:
        """Ask one process of one peer until it is stopped or replaced."""
        network, peer = self._network, self._network.peers[index]
        next_rounds = next_peers = 0.0
        closed = -1
        while peer.running and peer.starts == start:
            try:
                status = await self._get(f"{url}/status", facts.Status)
                network.saw_status(index, status, self._now())
                if status.rounds != closed or self._now() >= next_rounds:
                    network.saw_rounds(
                        index, await self._get(f"{url}/rounds", tuple[facts.RoundFacts, ...]), self._now()
                    )
                    closed, next_rounds = status.rounds, self._now() + ROUNDS_EVERY_SECONDS
                if self._now() >= next_peers:
                    network.saw_peers(index, await self._get(f"{url}/peers", tuple[facts.PeerFacts, ...]))
                    next_peers = self._now() + PEERS_EVERY_SECONDS
            except TROUBLES:
                if peer.running and peer.starts == start:
                    network.saw_silence(index)
            await trio.sleep(POLL_SECONDS)

    async def _look_at_tiles(self) -> None:
        """Who owns what, from the first peer that answers."""
        for peer in self._network.live:
            node = self._fleet.nodes.get(peer.index)
            if node is None or node.api is None or not peer.answering:
                continue
            try:
                with trio.fail_after(OWNERS_SECONDS):
                    tiles = await self._get(f"{node.api.url}/tiles", tuple[facts.TileFacts, ...])
            except (*TROUBLES, trio.TooSlowError):
                continue
            self._check_tile_names(tiles)
            self._network.saw_tiles(tiles)
            return

    def _check_tile_names(self, tiles: Iterable[facts.TileFacts]) -> None:
        """Refuse a kill of the owner of a tile that the model does not have; raises Rejected(BAD_ARGUMENT)."""
        names = [tile.tile for tile in tiles]
        for kill in self._settings.kills:
            if names and isinstance(kill.target, TileOwner) and kill.target.tile not in names:
                raise Rejected(
                    Reason.BAD_ARGUMENT,
                    f"--kill owner:{kill.target.tile}@{kill.round}: there is no such tile; there are {names[0]} to {names[-1]}",
                )

    def _note_ends(self) -> None:
        for peer in self._network.live:
            how = self._fleet.exit_of(peer.index)
            if how is not None:
                self._network.exited(peer.index, self._now(), how)
        if not self._network.live and not self._plan.restarts:
            raise ChildFailed(
                "No node is running any more; their logs are in " + str(self._settings.out / "logs") + "."
            )

    async def _kill(self, kill: Kill) -> None:
        why = ""
        if isinstance(kill.target, TileOwner):
            await self._look_at_tiles()  # ownership moves with every round: ask once more
            why = f", the owner of {kill.target.tile}"
        index = kill_target(self._network, kill.target)
        if index is None or index not in self._fleet.nodes:
            self._network.tell(self._now(), "note", f"kill in round {kill.round} skipped: its target is not running")
            return
        self._fleet.kill_node(index)
        self._network.killed(index, self._now(), why)

    def _restart(self, restart: Restart, nursery: trio.Nursery) -> None:
        indexes = killed_peers(self._network, restart.target)
        if not indexes:
            self._network.tell(self._now(), "note", f"restart in round {restart.round} skipped: no such peer is down")
        for index in indexes:
            nursery.start_soon(self._follow, self._launch(index), nursery)

    async def _read_all(self) -> None:
        """Tiles, rounds and roots of every running peer, at the same time."""
        tiles: dict[int, tuple[facts.TileFacts, ...]] = {}
        slots: dict[int, dict[int, facts.RoundSlots]] = {totals.round: {} for totals in self._network.totals()}

        async def read_peer(index: int, url: str) -> None:
            try:
                self._network.saw_rounds(
                    index, await self._get(f"{url}/rounds", tuple[facts.RoundFacts, ...]), self._now()
                )
                tiles[index] = await self._get(f"{url}/tiles", tuple[facts.TileFacts, ...])
                for number in slots:
                    held = await self._find(f"{url}/rounds/{number}", facts.RoundSlots)
                    if held is not None:
                        slots[number][index] = held
            except TROUBLES:
                tiles[index] = ()  # a running peer that does not answer agrees with nobody
                self._network.saw_silence(index)

        async with trio.open_nursery() as nursery:
            for index, node in self._fleet.nodes.items():
                if node.api is not None:
                    nursery.start_soon(read_peer, index, node.api.url)
        self._network.saw_tiles(next((held for held in tiles.values() if held), ()))
        self.agreement = compare_roots(tiles, slots, self._settings.rounds)

    async def _get(self, url: str, kind: type[T]) -> T:
        answer = await self._client.get(url)
        answer.raise_for_status()
        return facts.read(kind, answer.content)

    async def _find(self, url: str, kind: type[T]) -> T | None:
        answer = await self._client.get(url)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        answer.raise_for_status()
        return facts.read(kind, answer.content)
