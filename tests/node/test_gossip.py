"""What goes into one message of gossip."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.services.gossip import ENTRY_FRAME_BYTES, bundles
from protocol.codec import decode, encode
from protocol.envelope import PAYLOAD_BYTES_MAX
from protocol.learning import HeadProposals
from protocol.limits import HEADS_PER_BODY_MAX, TRANSACTION_BYTES_MAX, TRANSACTIONS_PER_BUNDLE_MAX
from protocol.transactions import TransactionBundle
from tests.protocol.samples import head


@given(st.lists(st.sampled_from([1, 150, 400, TRANSACTION_BYTES_MAX]), max_size=600))
def test_each_message_is_one_that_everybody_decodes(sizes: list[int]) -> None:
    """However long and however many the transactions are; all are said, in their order, and no message could take one more."""
    waiting = [bytes([index % 256]) * size for index, size in enumerate(sizes)]
    sized = ((data, len(data) + ENTRY_FRAME_BYTES) for data in waiting)
    made = list(bundles(sized, TRANSACTIONS_PER_BUNDLE_MAX))
    assert [data for bundle in made for data in bundle] == waiting
    for index, bundle in enumerate(made):
        message = TransactionBundle(bundle)
        assert decode(TransactionBundle, encode(message), limit_bytes=PAYLOAD_BYTES_MAX) == message
        if index + 1 < len(made) and len(bundle) < TRANSACTIONS_PER_BUNDLE_MAX:
            assert len(encode(TransactionBundle((*bundle, made[index + 1][0])))) > PAYLOAD_BYTES_MAX - 64


def test_more_heads_than_a_message_names_go_in_two() -> None:
    """A hundred small heads fit in the bytes of one message, and not in the number that it may have."""
    heads = [head()] * 100
    made = list(bundles(((each, len(encode(each))) for each in heads), HEADS_PER_BODY_MAX))
    assert [len(bundle) for bundle in made] == [HEADS_PER_BODY_MAX, 100 - HEADS_PER_BODY_MAX]
    for bundle in made:
        decode(HeadProposals, encode(HeadProposals(bundle)), limit_bytes=PAYLOAD_BYTES_MAX)
