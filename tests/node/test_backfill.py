"""Blocks below a checkpoint, from peers of whom some lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import trio
from msgspec.structs import replace

from node.services.backfill import Backfill
from node.threads import in_thread
from p2p.requests import STATE, SYNC
from p2p.transport import RequestFailed
from protocol.codec import decode, encode
from protocol.finality import EMPTY_BODY, NO_BLOCK, FinalizedBlock, body_root
from protocol.ids import Height, PeerId
from protocol.keys import KeyPair
from protocol.learning import Blocks, GetBlocks
from protocol.rejection import Reason
from protocol.state_sync import GetTrusted, StateRequest, Trusted
from storage.keys import own_key, pack_u64
from storage.kv import Batch
from storage.ledger import FinalizedBlock as StoredBlock
from tests.consensus import light_chain
from tests.node.ground_samples import MemoryGround, make_ground

TIP = 28
PEERS = [PeerId(bytes([number]) * 32) for number in range(3)]
Answer = Callable[[tuple[FinalizedBlock, ...]], tuple[FinalizedBlock, ...]]


class Network:
    """A chain in epochs of eight blocks, the even ones certified; each peer changes what it says of it in its own way."""

    def __init__(self, *answers: Answer) -> None:
        self.ground: MemoryGround = make_ground()
        genesis = self.ground.genesis
        self.ground.genesis = replace(genesis, chain=replace(genesis.chain, epoch_heights=light_chain.EPOCH_HEIGHTS))
        keys = [KeyPair(bytes([9, number]) * 16) for number in range(4)]
        self.chain = light_chain.LightChain([{0: 1, 1: 1, 2: 1, 3: 1}], keys)
        self.blocks: list[FinalizedBlock] = []
        parent = NO_BLOCK
        for height in range(1, TIP + 1):
            header = replace(
                self.chain.header(height), parent=parent, body_root=body_root(EMPTY_BODY), body_bytes=len(EMPTY_BODY)
            )
            parent = header.digest()
            certificate = self.chain.certify(header, self.chain.roster(header.epoch)).certificate
            self.blocks.append(FinalizedBlock(header, EMPTY_BODY, None if height % 2 else certificate))
        tip = self.blocks[-1]
        stored = StoredBlock(Height(TIP), encode(tip.header), tip.body, encode(tip.certificate))
        self.ground.ledger.append(stored)
        self.answers = dict(zip(PEERS, answers, strict=False))
        self.reported: list[tuple[PeerId, Reason]] = []
        self.backfill = Backfill(
            self.ground,
            self,  # type: ignore[arg-type]  # as much of a transport as is asked for
            light_chain.CHAIN,
            in_thread,
            lambda peer, refusal: self.reported.append((peer, refusal.reason)),
        )

    def connected_peers(self) -> tuple[PeerId, ...]:
        return tuple(self.answers)

    async def request(
        self, peer: PeerId, protocol: str, data: bytes, *, timeout_seconds: float, response_bytes_max: int
    ) -> bytes:
        if protocol == SYNC.protocol:
            asked = decode(GetBlocks, data, limit_bytes=1024)
            found = [block for block in self.blocks if asked.first_height <= block.header.height]
            last = asked.first_height + asked.count - 1 + (asked.first_height + asked.count - 1) % 2
            return encode(
                Blocks(self.answers[peer](tuple(each for each in found if each.header.height <= last)), Height(TIP))
            )
        assert protocol == STATE.protocol
        request: StateRequest = decode(StateRequest, data, limit_bytes=1024)  # type: ignore[arg-type]  # a union
        assert isinstance(request, GetTrusted)
        if request.height > TIP:
            raise RequestFailed(peer, protocol, "nothing is there yet")
        return encode(Trusted(self.chain.block(request.height)))

    def run(self, steps: int) -> None:
        async def main() -> None:
            for _ in range(steps):
                await self.backfill.step()

        trio.run(main)

    @property
    def oldest(self) -> int:
        return self.ground.ledger.oldest() or 0


def _roster_row(network: Network) -> Batch:
    """The roster of the epoch that is not over, of which nobody can show a boundary."""
    batch, epoch = Batch(), network.blocks[-1].header.epoch
    batch.put(own_key("roster", pack_u64(epoch)), encode(network.chain.roster(epoch)))
    return batch


def honestly(blocks: tuple[FinalizedBlock, ...]) -> tuple[FinalizedBlock, ...]:
    return blocks


def with_header(blocks: tuple[FinalizedBlock, ...]) -> tuple[FinalizedBlock, ...]:
    """Another block in the middle."""
    at = len(blocks) // 2
    return (*blocks[:at], replace(blocks[at], header=replace(blocks[at].header, time_ms=1)), *blocks[at + 1 :])


def with_body(blocks: tuple[FinalizedBlock, ...]) -> tuple[FinalizedBlock, ...]:
    return (replace(blocks[0], body=blocks[0].body + b"x"), *blocks[1:])


def with_signatures(blocks: tuple[FinalizedBlock, ...]) -> tuple[FinalizedBlock, ...]:
    """A certificate of which one signature is none."""
    return tuple(
        block
        if block.certificate is None
        else replace(
            block,
            certificate=replace(block.certificate, signatures=(bytes(64), *block.certificate.signatures[1:])),
        )
        for block in blocks
    )


def nothing(blocks: tuple[FinalizedBlock, ...]) -> tuple[FinalizedBlock, ...]:
    return ()


def test_the_way_down_to_the_first_block():
    """Epoch by epoch, with a certificate in each step and the rosters that prove them."""
    network = Network(honestly)
    assert network.backfill.next_height() == TIP - 1
    network.ground.index.write(_roster_row(network))
    network.run(4)
    assert network.oldest == 1
    assert network.backfill.next_height() is None
    kept = network.ground.ledger.range(Height(1), Height(TIP))
    assert [block.header for block in kept] == [encode(block.header) for block in network.blocks]
    assert [block.height for block in kept if block.certificate] == [8, 16, 24, 26, 28]
    assert all(network.ground.find_light_block(Height(height)) is not None for height in (8, 16, 24))
    assert not network.reported


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (with_header, Reason.WRONG_ANCESTRY),
        (with_body, Reason.WRONG_DIGEST),
        (with_signatures, Reason.BAD_SIGNATURE),
        (nothing, None),
    ],
)
def test_a_liar_is_reported_and_the_next_peer_asked(lie, reason):
    """What it said is not kept, whatever is wrong with it."""
    network = Network(lie, honestly)
    network.ground.index.write(_roster_row(network))
    network.run(4)
    assert network.oldest == 1
    assert {peer for peer, _ in network.reported} == ({PEERS[0]} if reason else set())
    assert {found for _, found in network.reported} == ({reason} if reason else set())


def test_nothing_is_fetched_where_there_is_no_room():
    """Above three quarters of the ledger's allowance blocks would soon be pruned again."""
    network = Network(honestly)
    used = network.ground.ledger.statistics().bytes_used
    settings = network.ground.settings
    network.ground.settings = dataclasses.replace(
        settings, storage=dataclasses.replace(settings.storage, chain_bytes_max=used + used // 4)
    )
    assert network.backfill.next_height() is None
    network.run(2)
    assert network.oldest == TIP


def test_nobody_has_it():
    """Fewer blocks are asked for then, which always fit into an answer, and later again."""
    network = Network(nothing)
    network.run(9)
    assert network.oldest == TIP
    assert network.backfill._count == 1
    assert not network.reported
