"""Being there: adverts, announcements, records in the distributed table, finding others, judging our own clock."""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import count, islice
from typing import TYPE_CHECKING

import structlog
import trio

from consensus.events import ClockJudged
from node.adverts import ADVERT_SECONDS, advert_seconds
from node.config import HERE
from node.inbound import AuthorRejected
from node.services.learning import dataset_key
from p2p.addresses import parse_address
from p2p.records import build_peer_record, peer_key, record_key
from p2p.requests import ADVERTS
from p2p.transport import PeerUnreachable, RequestFailed
from protocol.codec import decode, encode
from protocol.ids import Height, NetworkId, PeerId, Round, after, peer_text, short
from protocol.learning import Advert, GetAdverts, RoundAnnouncement
from protocol.rejection import Rejected
from storage.kv import DatabaseCorrupt

if TYPE_CHECKING:
    from node.node import Node

log = structlog.get_logger()

FIRST_ADVERTS_SECONDS = (1.0, 4.0)  # after the first connection: gossip takes a moment to find its ways
ASK_AFTER_SECONDS = (1.0, 4.0, 16.0)  # who else is here, each time somebody else: three must not all lie
ANNOUNCE_APART_MS = 1_000  # between two announcements of a round; then twice as long each time
ANNOUNCES_PER_ROUND = 16  # so that whoever comes early in a round hears of it early (a guess)
PROVIDERS_WANTED = 8  # to download from at once (a guess)
RECORD_SECONDS = 12 * 3600.0  # libp2p.md 4: records are put again well before they die at 24 h
LOOK_SECONDS = 2.0
ROUND_SHARE_OF_CLOCK = 20  # learning.md 1: a clock off by more than a twentieth of the round does not propose
FIND_SECONDS_MAX = 5.0
PEERS_REMEMBERED_MAX = 128  # across a restart: some kilobytes (a guess)
LOOKS_BETWEEN = 32  # at the latest, for a member of whom nobody speaks; at first sooner (a guess)


def model_key(network: NetworkId) -> str:
    """Where the providers of a network's model are found."""
    return record_key("model", network)


class Presence:
    """One node's standing in its network."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.met = trio.Event()  # somebody is here, for the first time
        self._clock_trusted = True
        self._announced: Round | None = None  # the newest round that was announced
        self._announce_apart_ms = ANNOUNCE_APART_MS
        self._announce_again_ms = 0  # not before
        self._is_announce_owed = False  # somebody came who has not heard it
        node.transport.set_request_handler(ADVERTS.protocol, self._answer)

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._advertise)
            nursery.start_soon(self._ask_around)
            nursery.start_soon(self._look_around)
            nursery.start_soon(self._keep_record)

    async def announce(self, number: Round) -> None:
        """Tell owners that our learner takes part in a round: at once, and again when others have come, less and less often.

        Everybody hears it: in a crowd that arrives each newcomer must not be told of each round by a word to all.
        """
        now = self._node.clock.monotonic_ms()
        if number == self._announced:
            if now < self._announce_again_ms:
                self._is_announce_owed = True
                return
            self._announce_apart_ms = min(2 * self._announce_apart_ms, self._node.round_ms // ANNOUNCES_PER_ROUND)
        else:
            self._announced, self._announce_apart_ms = number, ANNOUNCE_APART_MS
        self._announce_again_ms, self._is_announce_owed = now + self._announce_apart_ms, False
        device = self._node.learning.device
        await self._node.gossip.publish(RoundAnnouncement(number, device.device if device else "cpu"))

    async def _advertise(self) -> None:
        """Everybody hears an advert. Whoever comes later asks for those that it missed."""
        await self.met.wait()
        for seconds in FIRST_ADVERTS_SECONDS:
            await trio.sleep(seconds)
            await self._node.gossip.publish(self._advert())
        while True:
            await trio.sleep(advert_seconds(len(self._node.inbound.adverts)))
            await self._node.gossip.publish(self._advert())

    async def _ask_around(self) -> None:
        """Hear of those who are here already, whose adverts are on their way only now and then."""
        await self.met.wait()
        node, asked = self._node, set[PeerId]()
        for seconds in ASK_AFTER_SECONDS:
            await trio.sleep(seconds)
            ring = after(node.ground.peer, node.transport.connected_peers())
            peer = next((peer for peer in ring if peer not in asked), None)
            if peer is not None:
                asked.add(peer)
                await self._ask(peer)

    async def _ask(self, peer: PeerId) -> None:
        """Ask one peer whom it knows. What it should have refused is its fault; what an author sealed wrongly, the author's."""
        node, now_ms = self._node, self._node.clock.now_ms
        question = encode(node.inbound.adverts.question(node.ground.peer, now_ms()))
        data = await node.exchange.ask(peer, ADVERTS, question)
        if data is None:
            return
        try:
            for event in node.inbound.adverts_told(data, now_ms()):
                await node.reactor.post(event)
        except AuthorRejected as refusal:
            node.report(refusal.author, refusal)
        except Rejected as refusal:
            node.report(peer, refusal)

    async def _answer(self, peer: PeerId, data: bytes) -> bytes:
        """Somebody asks whom we know."""
        question = decode(GetAdverts, data, limit_bytes=ADVERTS.request_bytes_max)
        return encode(self._node.inbound.adverts.answer(peer, question, self._node.clock.now_ms()))

    def _advert(self) -> Advert:
        node = self._node
        device = (
            node.learning.device if node.ground.settings.compute.experts == HERE else None
        )  # others ask for experts
        statistics = node.engine.rounds.statistics()
        learns = node.ground.settings.compute.learn
        roles = (("member",) if node.me is not None else ()) + (("learner",) if learns else ())
        return Advert(
            addresses=node.transport.addresses[:8],
            region=node.ground.settings.network.region,
            roles=roles,
            device=device.device if device else "",
            tier=device.tier if device else 0,
            memory_bytes=device.memory_bytes if device else 0,
            flops_giga=device.float32_gigaflops if device else 0,
            load_percent=100 if statistics.learning else 0,
            tiles_held=len(node.ground.genesis_roots),
            round=Round(max(0, statistics.round)),
            height=node.ground.ledger.tip() or Height(0),
            time_ms=node.clock.now_ms(),
        )

    async def _look_around(self) -> None:
        """Dial peers that adverts speak of, and judge our clock by theirs."""
        remembered = {address.peer: str(address) for address in map(parse_address, self._node.ground.known_peers())}
        here: tuple[PeerId, ...] = ()
        for look in count(1):
            await trio.sleep(LOOK_SECONDS)
            before, here = here, self._node.transport.connected_peers()
            connected = set(here)
            if here and here != before:
                remembered = self._remember(remembered)
            missed = [address for peer, address in remembered.items() if self._is_missed(peer, connected, look)]
            if missed:
                async with trio.open_nursery() as nursery:  # those that are dead keep nobody waiting for the others
                    for address in missed:
                        nursery.start_soon(self._dial_at, address)
                connected = set(self._node.transport.connected_peers())
            for peer, advert in self._strangers(connected):
                if await self._dial(peer, advert.addresses):
                    connected.add(peer)
            if self._is_announce_owed and self._announced is not None:
                await self.announce(self._announced)
            await self._judge_clock()

    def _is_missed(self, peer: PeerId, connected: Container[PeerId], look: int) -> bool:
        """Whether to dial where a peer was before: anybody while nobody is here, and members of whom nobody speaks.

        Nobody may be willing to: to a node that begins among liars, all whom it meets are liars.
        """
        if not connected:
            return True
        is_due = look & (look - 1) == 0 or look % LOOKS_BETWEEN == 0
        return is_due and peer not in connected and self._node.roster.find_index(peer) is not None

    def _strangers(self, connected: Container[PeerId]) -> list[tuple[PeerId, Advert]]:
        """Whom to dial: every member of the roster, because owners take deltas and members vote; others while few are here."""
        node, adverts = self._node, self._node.inbound.adverts
        members = [member.node for member in node.roster.members]
        wanted = [peer for peer in members if peer in adverts and peer not in connected]
        room = node.ground.settings.network.connections - len(node.transport.connected_peers()) - len(wanted)
        if room > 0:
            known = set(members)
            others = (peer for peer in adverts if peer not in connected and peer not in known)
            wanted += islice(others, room + 1)  # one of them may be this node itself
        found = ((peer, adverts.find(peer)) for peer in wanted if peer != node.ground.peer)
        return [(peer, advert) for peer, advert in found if advert is not None]

    def _remember(self, remembered: Mapping[PeerId, str]) -> dict[PeerId, str]:
        """Write down who is here, when that has changed; members of the roster first, and also those who left."""
        node = self._node
        known = {peer: address for peer, address in remembered.items() if node.roster.find_index(peer) is not None}
        for peer in node.transport.connected_peers():
            known.update((peer, address) for address in node.transport.known_addresses(peer)[:1])
        ranked = sorted(known.items(), key=lambda each: node.roster.find_index(each[0]) is None)
        now = dict(ranked[:PEERS_REMEMBERED_MAX])
        if now != remembered:
            try:
                node.ground.store_known_peers(now.values())
            except DatabaseCorrupt:
                raise
            except OSError as error:  # a full disk: what is written there is old, and better than nothing
                log.warning("peers could not be written down", why=str(error))
        return now

    async def _dial_at(self, address: str) -> bool:
        try:
            await self._node.transport.dial(address)
        except (PeerUnreachable, Rejected):
            return False
        return True

    async def reach(self, peer: PeerId) -> bool:
        """Whether a peer is connected; it is dialled where its advert says."""
        if peer in self._node.transport.connected_peers():
            return True
        advert = self._node.inbound.adverts.find(peer)
        return advert is not None and await self._dial(peer, advert.addresses)

    async def _dial(self, peer: PeerId, addresses: tuple[str, ...]) -> bool:
        for address in addresses:
            if not address.endswith(peer_text(peer)):
                continue
            if await self._dial_at(address):
                return True
        self._node.inbound.adverts.forget(peer)  # not there any more; it will advertise again
        return False

    async def _judge_clock(self) -> None:
        offset = self._node.transport.statistics().clock_offset_milliseconds
        trusted = offset is None or abs(offset) * ROUND_SHARE_OF_CLOCK <= self._node.round_ms
        if trusted != self._clock_trusted:
            self._clock_trusted = trusted
            if not trusted:
                log.warning("our clock is off; we do not propose", offset_ms=offset, remedy="set the system's clock")
            await self._node.reactor.post(ClockJudged(trusted, offset or 0))

    async def _keep_record(self) -> None:
        """Our peer record in the distributed table: put again long before it dies, with a raised sequence."""
        node = self._node
        while True:
            while not node.transport.connected_peers():
                await trio.sleep(1.0)
            value = build_peer_record(node.ground.keys.node, node.clock.now_ms(), node.transport.addresses)
            try:
                await node.transport.put_record(peer_key(node.ground.peer), value)
            except (RequestFailed, Rejected) as failure:
                log.info("our peer record was not stored", why=str(failure))
                await trio.sleep(ADVERT_SECONDS)
                continue
            await trio.sleep(RECORD_SECONDS)

    async def provide(self) -> None:
        """Say in the distributed table that we hold the data set and the model."""
        network = self._node.ground.network
        keys = [dataset_key(self._node.ground.genesis.datasets[0].root()), model_key(network)]
        for key in keys:
            with trio.move_on_after(FIND_SECONDS_MAX):
                await self._node.transport.provide(key)

    async def find_providers(self, key: str) -> tuple[PeerId, ...]:
        """Peers that say they provide ``key``, some of them connected to where possible: in a crowd everybody provides."""
        node = self._node
        providers: tuple[PeerId, ...] = ()
        if not node.transport.connected_peers():
            return providers
        with trio.move_on_after(FIND_SECONDS_MAX):
            providers = await node.transport.find_providers(key)
        for peer in after(node.ground.peer, providers):
            connected = node.transport.connected_peers()
            if sum(each in connected for each in providers) >= PROVIDERS_WANTED:
                break
            if peer not in connected:
                for address in node.transport.known_addresses(peer):
                    if await self._dial_at(address):
                        break
        log.info("providers", key=key[-8:], peers=[short(peer) for peer in providers])
        return providers
