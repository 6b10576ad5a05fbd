"""What any host promises. Each scenario runs on the libp2p host and on the one in memory."""

from __future__ import annotations

import pytest
import trio

from p2p import records
from p2p.framing import encode_frame
from p2p.requests import BLOB, DELTA, EXPERT, GENESIS, SYNC, VOTE
from p2p.topics import TOPICS, topic_text
from p2p.transport import (
    GossipReceived,
    MessageReceived,
    PeerConnected,
    PeerLost,
    PeerRefused,
    PeerUnreachable,
    RequestFailed,
)
from protocol.ids import ShardId, peer_text
from protocol.keys import KeyPair
from protocol.rejection import Reason, Rejected

from .conftest import World, accept_everybody, seed_of

TX = topic_text(bytes(32), "tx")
TILES = topic_text(bytes(32), "tiles", ShardId(3))


async def ask(host, peer, rule, data, timeout_seconds=10.0):
    return await host.transport.request(
        peer.peer_id,
        rule.protocol,
        data,
        timeout_seconds=timeout_seconds,
        response_bytes_max=rule.response_bytes_max,
    )


def test_connecting_is_told_once_on_each_side(run):
    """A host that dials another is told of it once, and so is the other, with an address that leads back."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        (told_a,) = await a.wait(PeerConnected)
        (told_b,) = await b.wait(PeerConnected)
        assert told_a.peer == b.peer_id
        assert told_b.peer == a.peer_id
        assert told_a.addresses == b.transport.addresses
        assert a.transport.connected_peers() == (b.peer_id,)
        assert a.transport.known_addresses(b.peer_id) == b.transport.addresses
        assert all(text.endswith(peer_text(a.peer_id)) for text in a.transport.addresses)

    run(scenario)


def test_a_newcomer_finds_everybody(run):
    """Who knows one address of a network is soon connected to all of it."""

    async def scenario(world: World) -> None:
        hosts = await world.network_of("a", "b", "c", "d", "e")
        for host in hosts:
            assert len(await host.wait(PeerConnected, 4)) == 4
            assert set(host.transport.connected_peers()) == {other.peer_id for other in hosts} - {host.peer_id}

    run(scenario)


def test_both_dialling_at_once_is_one_connection(run):
    """Two hosts that dial each other in the same moment are each told of one peer, and of its loss once."""

    async def scenario(world: World) -> None:
        a, b = await world.host("a"), await world.host("b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.transport.dial, b.transport.addresses[0])
            nursery.start_soon(b.transport.dial, a.transport.addresses[0])
        await a.wait(PeerConnected)
        await b.wait(PeerConnected)
        assert await ask_echo(a, b) == b"echo"
        await world.stop(b)
        await a.wait(PeerLost)
        assert len(a.all_of(PeerConnected)) == len(a.all_of(PeerLost)) == 1

    async def ask_echo(a, b):
        async def echo(peer, data):
            return data

        b.transport.set_request_handler(SYNC.protocol, echo)
        return await ask(a, b, SYNC, b"echo")

    run(scenario)


def test_gossip_reaches_all_once(run):
    """A published message reaches every other subscriber exactly once and does not come back to its author."""

    async def scenario(world: World) -> None:
        hosts = await world.gossiping(TX, "a", "b", "c", "d")
        for host in hosts:
            await host.transport.publish(TX, b"from " + host.peer_id)
        for host in hosts:
            received = await host.wait(GossipReceived, 3, lambda event: event.data.startswith(b"from "))
            expected = {b"from " + other.peer_id for other in hosts if other is not host}
            assert {event.data for event in received} == expected
            assert len(received) == 3
            assert {event.topic for event in received} == {TX}

    run(scenario)


def test_only_subscribers_are_told(run):
    """A message on a topic that a host did not join is not told there."""

    async def scenario(world: World) -> None:
        a, b = await world.gossiping(TX, "a", "b")
        await a.transport.subscribe(TILES)
        await a.transport.publish(TILES, b"tiles")
        await a.transport.publish(TX, b"afterwards")
        (received,) = await b.wait(GossipReceived, 1, lambda event: not event.data.startswith(b"warm up"))
        assert received.data == b"afterwards"

    run(scenario)


def test_a_burst_of_publishes_arrives_whole(run):
    """Two hundred messages said back to back all arrive."""

    async def scenario(world: World) -> None:
        a, b, c = await world.gossiping(TILES, "a", "b", "c")
        for number in range(200):
            await a.transport.publish(TILES, b"burst %d" % number)
        for host in (b, c):
            received = await host.wait(GossipReceived, 200, lambda event: event.data.startswith(b"burst"))
            assert {event.data for event in received} == {b"burst %d" % number for number in range(200)}

    run(scenario)


def test_a_steady_stream_of_gossip_arrives_whole(run):
    """Twenty messages a second on one topic for some seconds all arrive."""

    async def scenario(world: World) -> None:
        a, b, c = await world.gossiping(TX, "a", "b", "c")
        for number in range(60):
            await a.transport.publish(TX, b"steady %d" % number)
            await trio.sleep(0.05)
        for host in (b, c):
            assert len(await host.wait(GossipReceived, 60, lambda event: event.data.startswith(b"steady"))) == 60

    run(scenario)


def test_more_gossip_than_a_topic_allows_is_refused(run):
    """A message over the topic's size is our own mistake; a topic outside the table too."""

    async def scenario(world: World) -> None:
        a = await world.host("a")
        with pytest.raises(ValueError, match="at most 65536"):
            await a.transport.publish(TX, bytes(65_537))
        with pytest.raises(ValueError, match="not a topic"):
            await a.transport.subscribe("weather")

    run(scenario)


def test_a_request_is_answered(run):
    """The answer of the handler reaches the caller, large ones whole."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")

        async def serve(peer, data):
            assert peer == a.peer_id
            return data * 1024

        b.transport.set_request_handler(BLOB.protocol, serve)
        assert await ask(a, b, BLOB, b"x") == b"x" * 1024
        data = bytes(range(256)) * 16
        assert await ask(a, b, BLOB, data) == data * 1024
        assert a.transport.statistics().protocols[BLOB.protocol].received_bytes == 1024 + 4096 * 1024

    run(scenario)


def test_a_refusal_travels_to_the_caller(run):
    """A handler that raises Rejected makes the caller's request raise it, with reason and detail; other peers do not pay."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")

        async def refuse(peer, data):
            raise Rejected(Reason.NOT_FOUND, "no such blob")

        b.transport.set_request_handler(BLOB.protocol, refuse)
        with pytest.raises(Rejected) as caught:
            await ask(a, b, BLOB, b"which?")
        assert caught.value.reason is Reason.NOT_FOUND
        assert caught.value.detail == "no such blob"
        with pytest.raises(Rejected) as caught:
            await ask(a, b, DELTA, b"nobody listens")
        assert caught.value.reason is Reason.UNKNOWN_KIND

    run(scenario)


def test_a_raising_handler_breaks_its_stream_only(run):
    """A bug in a handler fails that request; the next one on another protocol is served."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")

        async def buggy(peer, data):
            raise KeyError("bug")

        async def echo(peer, data):
            return data

        b.transport.set_request_handler(BLOB.protocol, buggy)
        b.transport.set_request_handler(SYNC.protocol, echo)
        with pytest.raises(RequestFailed):
            await ask(a, b, BLOB, b"boom")
        assert await ask(a, b, SYNC, b"still there") == b"still there"
        assert b.transport.statistics().drops["handler failed"] == 1

    run(scenario)


def test_a_slow_answer_is_given_up(run):
    """A request whose answer does not come in time fails with a sentence that says so."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")

        async def sleep(peer, data):
            await trio.sleep_forever()

        b.transport.set_request_handler(SYNC.protocol, sleep)
        with pytest.raises(RequestFailed, match="no answer within"):
            await ask(a, b, SYNC, b"?", timeout_seconds=0.3)

    run(scenario)


def test_an_answer_over_the_callers_bound_fails(run):
    """The caller's own bound on an answer holds even where the protocol would allow more."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")

        async def much(peer, data):
            return bytes(100_000)

        b.transport.set_request_handler(BLOB.protocol, much)
        with pytest.raises(RequestFailed, match="larger than its kind allows"):
            await a.transport.request(b.peer_id, BLOB.protocol, b"", timeout_seconds=10.0, response_bytes_max=1000)

    run(scenario)


def test_what_is_asked_again_and_again_goes_on_streams_that_stay_open(run):
    """As many as are asked at once; each answer is that of its own question, also after a refusal or one that was given up."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        opened = 0
        open_stream = a.transport._open_stream

        async def counted(peer, protocol):
            nonlocal opened
            opened += protocol == EXPERT.protocol
            return await open_stream(peer, protocol)

        a.transport._open_stream = counted

        async def echo(peer, data):
            if data == b"wait":
                await trio.sleep_forever()
            if data == b"no":
                raise Rejected(Reason.BUSY, "not now")
            return data

        b.transport.set_request_handler(EXPERT.protocol, echo)
        for number in range(20):
            assert await ask(a, b, EXPERT, b"%d" % number) == b"%d" % number
            with pytest.raises(Rejected, match="not now"):
                await ask(a, b, EXPERT, b"no")
        assert opened == 1
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(ask, a, b, EXPERT, b"%d" % number)
        assert opened <= 40
        before = opened
        with pytest.raises(RequestFailed, match="no answer within"):
            await ask(a, b, EXPERT, b"wait", timeout_seconds=0.3)
        for number in range(EXPERT.kept_streams):
            assert await ask(a, b, EXPERT, b"%d" % number) == b"%d" % number
        assert opened == before  # others were kept

    run(scenario)


def test_a_stream_that_was_kept_and_broke_is_not_the_end_of_a_request(run):
    """The other side was done with it: the question is asked again on another one."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")

        async def echo(peer, data):
            return data

        b.transport.set_request_handler(EXPERT.protocol, echo)
        assert await ask(a, b, EXPERT, b"first") == b"first"
        (stream,) = a.transport._links[b.peer_id].kept[EXPERT.protocol]
        await stream.reset()
        assert await ask(a, b, EXPERT, b"second") == b"second"

    run(scenario)


def test_three_hundred_requests_at_once(run):
    """More requests than a connection has streams are all answered; they take turns."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")

        async def echo(peer, data):
            await trio.sleep(0.01)
            return data

        b.transport.set_request_handler(SYNC.protocol, echo)
        answers: set[bytes] = set()

        async def one(number: int) -> None:
            answers.add(await ask(a, b, SYNC, b"%d" % number, timeout_seconds=25.0))

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(one, number)
        assert answers == {b"%d" % number for number in range(300)}

    run(scenario)


def test_too_many_open_requests_fail_with_an_error(run):
    """When every stream stays busy, a further request fails in its own time instead of hanging, and says why."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        started = 0

        async def hold(peer, data):
            nonlocal started
            started += 1
            await trio.sleep_forever()

        b.transport.set_request_handler(SYNC.protocol, hold)

        async def hang() -> None:
            with pytest.raises(RequestFailed):
                await ask(a, b, SYNC, b"", timeout_seconds=60.0)

        async with trio.open_nursery() as nursery:
            for _ in range(160):
                nursery.start_soon(hang)
            with trio.fail_after(25):
                while started < 160:
                    await trio.sleep(0.02)
            with pytest.raises(RequestFailed, match="too many requests"):
                await ask(a, b, SYNC, b"", timeout_seconds=0.3)
            nursery.cancel_scope.cancel()

    run(scenario)


def test_messages_arrive_in_order(run):
    """One-way messages to one peer on one protocol arrive in the order in which they were sent."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        for number in range(500):
            await a.transport.send(b.peer_id, VOTE.protocol, b"%d" % number)
        received = await b.wait(MessageReceived, 500)
        assert [event.data for event in received] == [b"%d" % number for number in range(500)]
        assert {event.peer for event in received} == {a.peer_id}

    run(scenario)


def test_sending_goes_on_after_a_reconnect(run):
    """After a peer was away and is back, one-way messages reach it again, in order."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        await a.transport.send(b.peer_id, VOTE.protocol, b"before")
        await b.wait(MessageReceived)
        listen = b.transport.addresses[0].partition("/p2p/")[0]
        await world.stop(b)
        await a.wait(PeerLost)
        with pytest.raises(RequestFailed, match="not connected"):
            await a.transport.send(b.peer_id, VOTE.protocol, b"nobody")
        again = await world.host("b", listen=listen)
        await a.wait(PeerConnected, 2)
        for number in range(20):
            await a.transport.send(again.peer_id, VOTE.protocol, b"%d" % number)
        received = await again.wait(MessageReceived, 20)
        assert [event.data for event in received] == [b"%d" % number for number in range(20)]

    run(scenario)


def test_a_full_send_queue_drops_the_oldest(run):
    """A queue that nobody empties keeps the newest messages and counts what it dropped."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        big = bytes(4 * 1024 * 1024)
        for _ in range(40):
            await a.transport.send(b.peer_id, VOTE.protocol, big)
        assert a.transport.statistics().drops.get("send queue full", 0) > 0

    run(scenario)


def test_a_refused_peer_is_told_why_and_never_heard(run):
    """A hello that is rejected ends the connection on both sides with the reason; neither is admitted."""

    async def scenario(world: World) -> None:
        def only_ours(peer, hello):
            if hello != b"same network":
                raise Rejected(Reason.FOREIGN_NETWORK, "another genesis")

        a = await world.host("a", check_hello=only_ours)
        b = await world.host("b", hello=b"another network")
        with pytest.raises(Rejected) as caught:
            await b.transport.dial(a.transport.addresses[0])
        assert caught.value.reason is Reason.FOREIGN_NETWORK
        (told_a,) = await a.wait(PeerRefused)
        (told_b,) = await b.wait(PeerRefused)
        assert told_a.peer == b.peer_id
        assert "another genesis" in told_a.reason_sentence
        assert told_b.reason_sentence.startswith("it refused us:")
        assert a.transport.connected_peers() == b.transport.connected_peers() == ()
        assert not a.all_of(PeerConnected)
        assert not a.all_of(PeerLost)

    run(scenario)


def test_the_dialler_may_refuse_too(run):
    """The listener learns the reason when the dialler refuses it."""

    async def scenario(world: World) -> None:
        def nobody(peer, hello):
            raise Rejected(Reason.FOREIGN_NETWORK, "not mine")

        a = await world.host("a")
        b = await world.host("b", check_hello=nobody)
        with pytest.raises(Rejected):
            await b.transport.dial(a.transport.addresses[0])
        (told,) = await a.wait(PeerRefused)
        assert "not mine" in told.reason_sentence
        assert not a.all_of(PeerConnected)

    run(scenario)


def test_losing_a_peer_is_told(run):
    """A host that closes is lost to its peers, who may not be asked any more."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        await world.stop(b)
        (lost,) = await a.wait(PeerLost)
        assert lost.peer == b.peer_id
        assert a.transport.connected_peers() == ()
        with pytest.raises(RequestFailed, match="not connected"):
            await ask(a, b, SYNC, b"")

    run(scenario)


def test_a_peer_that_returns_is_dialled_again(run):
    """A host dials a lost peer for ever, so one that comes back at its address is connected again without anybody's help."""

    async def scenario(world: World) -> None:
        a = await world.host("a")
        listen = a.transport.addresses[0].partition("/p2p/")[0]
        b = await world.host("b", [a])
        await b.wait(PeerConnected)
        await world.stop(a)
        await b.wait(PeerLost)
        again = await world.host("a", listen=listen)
        await b.wait(PeerConnected, 2)
        await again.wait(PeerConnected)

    run(scenario)


def test_disconnect_is_told_on_both_sides(run):
    """Disconnecting tells both; the one who asked for it does not dial again."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        await a.transport.disconnect(b.peer_id)
        await a.wait(PeerLost)
        await b.wait(PeerLost)

    run(scenario)


def test_dialling_nobody_fails_with_a_sentence(run):
    """A port where nobody listens is the world's failure; a bad address is the user's."""

    async def scenario(world: World) -> None:
        a = await world.host("a")
        b = await world.host("b")
        address = b.transport.addresses[0]
        await world.stop(b)
        with pytest.raises(PeerUnreachable, match=r"nobody answers at /ip4/127\.0\.0\.1/tcp/"):
            await a.transport.dial(address)
        with pytest.raises(Rejected) as caught:
            await a.transport.dial("/ip4/127.0.0.1/tcp/99999999")
        assert caught.value.reason is Reason.BAD_ADDRESS

    run(scenario)


def test_a_record_is_found_by_others(run):
    """A peer's signed record is found by everybody; a higher sequence wins, an older one is refused where it is known."""

    async def scenario(world: World) -> None:
        hosts = await world.network_of("a", "b", "c", "d")
        a, b, c, d = hosts
        keys = KeyPair.from_seed(seed_of("a"))
        key = records.peer_key(a.peer_id)
        first = records.build_peer_record(keys, 1, a.transport.addresses)
        second = records.build_peer_record(keys, 2, a.transport.addresses)
        assert await d.transport.find_record(key) is None
        await a.transport.put_record(key, first)
        await a.transport.put_record(key, first)
        for host in (b, c, d):
            assert await host.transport.find_record(key) == first
        await b.transport.put_record(key, second)
        for host in hosts:
            assert await host.transport.find_record(key) == second
        with pytest.raises(Rejected) as caught:
            await b.transport.put_record(key, first)
        assert caught.value.reason is Reason.REPEATED

    run(scenario)


def test_a_record_that_does_not_prove_itself_is_refused(run):
    """A record under another peer's key, or with a broken signature, is refused before it leaves."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        value = records.build_peer_record(KeyPair.from_seed(seed_of("a")), 1, [])
        with pytest.raises(Rejected) as caught:
            await a.transport.put_record(records.peer_key(b.peer_id), value)
        assert caught.value.reason is Reason.WRONG_DIGEST

    run(scenario)


def test_providers_are_found(run):
    """Who provides a name is found by the others, and by many at once."""

    async def scenario(world: World) -> None:
        a, b, c, d = await world.network_of("a", "b", "c", "d")
        keys = [records.blob_key(bytes([number]) * 32) for number in range(15)]
        for key in keys:
            await b.transport.provide(key)
        await c.transport.provide(keys[0])
        assert await d.transport.find_providers(keys[0]) == tuple(sorted([b.peer_id, c.peer_id]))
        for key in keys[1:]:
            assert await a.transport.find_providers(key) == (b.peer_id,)
        assert await a.transport.find_providers(records.blob_key(b"nothing")) == ()

    run(scenario)


def test_genesis_may_be_asked_before_admission(run):
    """The one open protocol is served to a peer whose greeting is not yet decided."""

    async def scenario(world: World) -> None:
        a = await world.host("a")
        asked = trio.Event()
        answered = trio.Event()

        async def genesis(peer, data):
            asked.set()
            return b"document"

        a.transport.set_request_handler(GENESIS.protocol, genesis)
        b = await world.host("b", [a])
        await b.wait(PeerConnected)
        assert await ask(b, a, GENESIS, b"") == b"document"
        answered.set()

    run(scenario)


def test_sockets_are_counted(run):
    """Bytes on the wire are at least the payload, on both ends."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        await a.transport.send(b.peer_id, VOTE.protocol, bytes(100_000))
        await b.wait(MessageReceived)
        sent, received = a.transport.statistics(), b.transport.statistics()
        assert sent.bytes_sent_total >= 100_000 + len(encode_frame(b""))
        assert received.bytes_received_total >= 100_000
        assert sent.protocols[VOTE.protocol].sent_bytes == received.protocols[VOTE.protocol].received_bytes == 100_000

    run(scenario)


def test_pings_tell_the_clock_offset(run):
    """After the first ping a host knows the round trip of its peer and how far its clock is ahead."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        with trio.fail_after(25):
            while b.peer_id not in a.transport.statistics().round_trip_milliseconds:
                await trio.sleep(0.02)
        offset = a.transport.statistics().clock_offset_milliseconds
        assert offset is not None
        assert abs(offset) < 60_000

    run(scenario)


def test_an_error_of_the_body_comes_out_as_itself(run):
    """Whoever opens a host and fails inside sees their own error, not a group of a host's making, and not silence."""

    async def scenario(world: World) -> None:
        with pytest.raises(LookupError, match="mine"):
            async with world.open(
                seed_of("a"), listen=["/ip4/127.0.0.1/tcp/0"], hello=b"", check_hello=accept_everybody
            ):
                raise LookupError("mine")

    run(scenario)


def test_what_misbehaves_is_banned(run):
    """A peer reported for what only its sender can be blamed for is dropped and refused; what blames nobody costs nothing."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        for _ in range(20):
            a.transport.report(b.peer_id, Rejected(Reason.EXPIRED))
        assert a.transport.connected_peers() == (b.peer_id,)
        for _ in range(5):
            a.transport.report(b.peer_id, Rejected(Reason.BAD_SIGNATURE))
        (lost,) = await a.wait(PeerLost)
        assert "banned" in lost.reason
        await b.wait(PeerLost)
        with pytest.raises((Rejected, PeerUnreachable)):
            await b.transport.dial(a.transport.addresses[0])
        assert a.transport.connected_peers() == ()

    run(scenario)


def test_a_gossip_flood_is_cut_at_the_authors_allowance(run):
    """What an author says beyond its allowance on a topic is dropped by those who hear it, and counted."""

    async def scenario(world: World) -> None:
        usage = topic_text(bytes(32), "usage")
        a, b = await world.network_of("a", "b")
        await a.transport.subscribe(usage)
        await b.transport.subscribe(usage)
        with trio.fail_after(25):
            while not b.transport.statistics().drops.get("gossip over_budget"):
                await a.transport.publish(usage, b"again and again")
                await trio.sleep(0.05)
        assert len(b.all_of(GossipReceived)) <= TOPICS["usage"].burst_count

    run(scenario)
