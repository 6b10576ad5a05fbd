"""Watching a running network and breaking it on request: the shell around ``observed``.

One task per peer asks its interface four times a second, so that a hung node holds up nobody else; one task, the director,
breaks and mends, notices ends, shows, and decides when the run is over. What a fault does and what undoes it are a row each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import httpx
import msgspec
import trio

from protocol.rejection import Reason, Rejected
from simnet import facts
from simnet.observed import (
    Agreement,
    FaultPlan,
    Network,
    compare_roots,
    ended_faults,
    fault_target,
    repaired_peers,
)
from simnet.options import (
    SLOW_BYTES_PER_SECOND,
    SLOW_DELAY_MS,
    Fault,
    FaultKind,
    Repair,
    RepairKind,
    Settings,
    TileOwner,
)
from simnet.processes import ChildFailed, FaultRefused, Fleet, NodeProcess
from simnet.relay import Relays

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
        self._plan = FaultPlan(settings.faults, settings.repairs)
        self._relays = Relays(settings.peers, fleet.process_numbers) if settings.asks_for(FaultKind.SLOW_LINK) else None
        self._break: Mapping[FaultKind, Callable[[int], None]] = {
            FaultKind.KILL: self._kill,
            FaultKind.PAUSE: fleet.pause_node,
            FaultKind.FILL_DISK: fleet.fill_disk,
            FaultKind.SLOW_LINK: self._slow_down,
        }
        self._mend: Mapping[FaultKind, Callable[[int], None]] = {
            FaultKind.PAUSE: fleet.resume_node,
            FaultKind.FILL_DISK: fleet.free_disk,
            FaultKind.SLOW_LINK: self._speed_up,
        }
        self._client = httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False)
        self._addresses: dict[int, tuple[str, ...]] = {}  # where each peer was last reached
        self.agreement = Agreement(False, ())

    # Starting

    async def open_links(self, nursery: trio.Nursery) -> None:
        """Before the first peer starts: what stands between peers as long as `nursery` is open, if anything must."""
        if self._relays is not None:
            await self._relays.open(nursery)

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
        """Watch, break and mend until every running peer has closed every round; False when the time is over first.

        Whatever ails a peer then is undone: what comes next is about what the nodes hold.
        """
        try:
            return await self._direct(nursery)
        finally:
            for peer in self._network.peers:
                for kind in list(peer.faults):
                    self._undo(peer.index, kind)

    async def _direct(self, nursery: trio.Nursery) -> bool:
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
            for fault in self._plan.take_due_faults(network, self._now()):
                await self._do(fault)
            for index, kind in ended_faults(network, self._now()):
                self._undo(index, kind)
            for repair in self._plan.take_due_repairs(network, self._now()):
                self._repair(repair, nursery)
            for index in network.waiting_to_start:
                self._start_again(index, nursery)
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
        announced = ["--announce", self._relays.address(index)] if self._relays is not None else []
        node = self._fleet.start_node(index, [addresses[0] for addresses in others if addresses], announced)
        self._network.started(index, self._now())
        return node

    async def _follow(self, node: NodeProcess, nursery: trio.Nursery) -> None:
        try:
            api = await self._fleet.wait_ready(node)
        except ChildFailed:
            if self._fleet.nodes.get(node.index) is not node or self._network.peers[node.index].was_full:
                return  # killed again, or its end was or will be noted, while it was starting
            raise
        self._addresses[node.index] = api.addresses
        if self._relays is not None:
            self._relays.lead_to(node.index, api.listening)
        nursery.start_soon(self._poll_peer, node.index, api.url, self._network.peers[node.index].starts)

    def _nothing_pending(self) -> bool:
        """Whether nobody comes back any more. Faults that came too late are dropped with the run."""
        due = any(repair.round <= self._network.round for repair in self._plan.repairs)
        return not due and not self._network.hindered

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
            if node is None or node.api is None or not peer.answering or FaultKind.PAUSE in peer.faults:
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
        """Refuse a fault of the owner of a tile that the model does not have; raises Rejected(BAD_ARGUMENT)."""
        names = [tile.tile for tile in tiles]
        for fault in self._settings.faults:
            if names and isinstance(fault.target, TileOwner) and fault.target.tile not in names:
                raise Rejected(
                    Reason.BAD_ARGUMENT,
                    f"--{fault.kind} owner:{fault.target.tile}@{fault.round}: there is no such tile; "
                    f"there are {names[0]} to {names[-1]}",
                )

    def _note_ends(self) -> None:
        for peer in self._network.live:
            ended = self._fleet.exit_of(peer.index)
            if ended is not None:
                self._network.exited(peer.index, self._now(), *ended)
        if not self._network.live and not self._plan.repairs and not self._network.hindered:
            raise ChildFailed(
                "No node is running any more; their logs are in " + str(self._settings.out / "logs") + "."
            )

    async def _do(self, fault: Fault) -> None:
        why = ""
        if isinstance(fault.target, TileOwner):
            await self._look_at_tiles()  # ownership moves with every round: ask once more
            why = f", the owner of {fault.target.tile}"
        index = fault_target(self._network, fault)
        if index is None or index not in self._fleet.nodes:
            self._skip(fault, "its target is not running, or is so already")
            return
        try:
            self._break[fault.kind](index)
        except FaultRefused as refused:
            self._skip(fault, str(refused))
            return
        self._network.hit(index, fault.kind, self._now(), why, self._plan.ends_at(fault, self._now()))

    def _undo(self, index: int, kind: FaultKind) -> None:
        self._mend[kind](index)
        self._network.recovered(index, kind, self._now())

    def _repair(self, repair: Repair, nursery: trio.Nursery) -> None:
        indexes = repaired_peers(self._network, repair)
        if not indexes:
            self._skip(repair, "there is no such peer")
        for index in indexes:
            if repair.kind is RepairKind.RESTART:
                self._start_again(index, nursery)
            else:
                self._undo(index, FaultKind.PAUSE)

    def _skip(self, asked: Fault | Repair, why: str) -> None:
        self._network.tell(self._now(), "note", f"{asked.kind} in round {asked.round} skipped: {why}")

    def _start_again(self, index: int, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._follow, self._launch(index), nursery)

    def _kill(self, index: int) -> None:
        self._fleet.kill_node(index)
        if self._relays is not None:
            self._relays.lead_to(index, ())

    def _slow_down(self, index: int) -> None:
        if self._relays is not None:
            self._relays.set_speed(index, SLOW_DELAY_MS / 1000, SLOW_BYTES_PER_SECOND)

    def _speed_up(self, index: int) -> None:
        if self._relays is not None:
            self._relays.set_speed(index, 0.0, None)

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
