"""Bytes from a peer: an event, nothing, or a refusal that names whose fault it is."""

from __future__ import annotations

import pytest

from consensus.events import HeadsSeen, TransactionsSeen
from consensus.finality.events import MessageReceived
from node.inbound import AuthorRejected, Inbound
from p2p.requests import HEADS, VOTE
from p2p.transport import GossipReceived
from p2p.transport import MessageReceived as Told
from protocol.codec import Message, encode
from protocol.envelope import seal
from protocol.finality import ChainId, ValidatorFrame, VoteKind
from protocol.ids import PeerId
from protocol.learning import HeadProposals
from protocol.messages import KIND_OF
from protocol.rejection import Reason, Rejected
from protocol.transactions import TransactionBundle, check_transaction, sign_transaction
from tests.consensus.samples import make_head
from tests.protocol.samples import ACCOUNT_KEYS, NODE_KEYS, genesis, payloads, vote

NETWORK = genesis().network_id()
CHAIN = ChainId.of(NETWORK)
NOW_MS = 1_000
FORWARDER = PeerId(bytes([9]) * 32)
AUTHOR = PeerId(NODE_KEYS[0].public)
VOTE_SAID = vote(0, VoteKind.NOTARIZE, b"one")
PAID = encode(sign_transaction(ACCOUNT_KEYS[0], CHAIN, 0, 10**6, payloads()["transfer"]))


def inbound(*validators: PeerId) -> Inbound:
    return Inbound(NETWORK, lambda peer: peer in validators)


def sealed(message: Message, number: int = 1) -> GossipReceived:
    """What an author said, as somebody else passes it on."""
    data = seal(NODE_KEYS[0], NETWORK, KIND_OF[type(message)], number, NOW_MS + 60_000, encode(message))
    return GossipReceived("a topic", FORWARDER, data)


def test_transactions_come_in_with_their_signatures_checked() -> None:
    """The event holds what a pool can take without looking again."""
    said = inbound().gossip(sealed(TransactionBundle((PAID,))), NOW_MS)
    assert said == TransactionsSeen((check_transaction(PAID, CHAIN),), AUTHOR)


@pytest.mark.parametrize(("data", "reason"), [(b"nothing", Reason.MALFORMED), (b"", Reason.BAD_SIGNATURE)])
def test_who_passes_a_bad_transaction_on_is_not_blamed(data: bytes, reason: Reason) -> None:
    """Mesh peers pass envelopes on before anybody has looked inside: their author answers for a forgery."""
    bad = data or PAID[:-1] + bytes([PAID[-1] ^ 1])
    with pytest.raises(AuthorRejected) as caught:
        inbound().gossip(sealed(TransactionBundle((PAID, bad))), NOW_MS)
    assert (caught.value.author, caught.value.reason) == (AUTHOR, reason)


def test_who_passes_a_forged_envelope_on_is() -> None:
    """That much everybody can check."""
    said = sealed(TransactionBundle((PAID,)))
    with pytest.raises(Rejected) as caught:
        inbound().gossip(GossipReceived(said.topic, FORWARDER, said.data[:-1] + bytes([said.data[-1] ^ 1])), NOW_MS)
    assert not isinstance(caught.value, AuthorRejected)


def test_a_vote_from_outside_is_dropped_without_blame() -> None:
    """Whoever says it may be in a roster of which we have not heard yet; it is counted, and costs no signature check."""
    data = encode(ValidatorFrame(0, vote(0, VoteKind.NOTARIZE, b"block")))
    stranger = inbound()
    assert stranger.validator(AUTHOR, data) is None
    assert stranger.rejected == {Reason.NOT_A_MEMBER.code: 1}
    assert isinstance(inbound(AUTHOR).validator(AUTHOR, data), MessageReceived)


@pytest.mark.parametrize(("here", "there"), [(1, 0), (1, 2)])
def test_who_stands_on_another_fork_is_not_blamed(here: int, there: int) -> None:
    """Its votes would look forged, and a peer that is banned for them could not fetch the last blocks before the anchor."""
    followed = Inbound(NETWORK, lambda peer: True, ChainId.of(NETWORK, here))
    assert followed.validator(AUTHOR, encode(ValidatorFrame(there, VOTE_SAID))) is None
    assert followed.rejected == {Reason.OTHER_FORK.code: 1}
    assert followed.validator(AUTHOR, encode(ValidatorFrame(here, VOTE_SAID))) == MessageReceived(AUTHOR, VOTE_SAID)


def test_heads_come_from_their_proposer_directly_too() -> None:
    """Who tells them is who is asked for their updates; what is no heads is its fault, and votes come by another way."""
    heads = HeadProposals((make_head(),))
    assert inbound().message(Told(FORWARDER, HEADS.protocol, encode(heads))) == HeadsSeen(heads.heads, FORWARDER)
    for data in (b"", b"nothing", encode(VOTE_SAID)):
        with pytest.raises(Rejected) as caught:
            inbound().message(Told(FORWARDER, HEADS.protocol, data))
        assert not isinstance(caught.value, AuthorRejected)
    said = Told(AUTHOR, VOTE.protocol, encode(ValidatorFrame(0, VOTE_SAID)))
    assert inbound(AUTHOR).message(said) == MessageReceived(AUTHOR, VOTE_SAID)
