"""Frames survive every way of cutting a stream, and nothing else passes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.framing import (
    REFUSAL_BYTES_MAX,
    FrameReader,
    decode_answer,
    encode_answer,
    encode_frame,
    encode_refusal,
)
from protocol.rejection import Reason, Rejected


@given(st.lists(st.binary(max_size=64), max_size=8), st.data())
def test_frames_come_back_however_the_stream_is_cut(payloads, data):
    """Any partition of the bytes gives the same payloads in the same order."""
    stream = b"".join(encode_frame(payload) for payload in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader = FrameReader(64)
    received: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += reader.feed(stream[start:end])
    assert received == payloads
    assert reader.is_empty


@given(st.binary(min_size=1, max_size=32))
def test_a_frame_cut_short_is_not_a_frame(payload):
    """Without its last byte nothing comes out, and the reader knows that something is missing."""
    reader = FrameReader(64)
    assert reader.feed(encode_frame(payload)[:-1]) == []
    assert not reader.is_empty
    assert reader.feed(encode_frame(payload)[-1:]) == [payload]


def test_a_frame_over_the_limit_is_refused_by_its_header():
    """Four bytes are enough to refuse: nothing of the payload is waited for."""
    assert FrameReader(8).feed(encode_frame(bytes(8))) == [bytes(8)]
    with pytest.raises(Rejected) as caught:
        FrameReader(8).feed(encode_frame(bytes(9))[:4])
    assert caught.value.reason is Reason.TOO_LARGE


@given(st.binary(max_size=64))
def test_an_answer_comes_back(payload):
    """What a handler returned is what the caller gets."""
    assert decode_answer(encode_answer(payload)) == payload


@given(st.sampled_from(Reason), st.text(max_size=2000))
def test_a_refusal_comes_back_bounded(reason, detail):
    """A refusal keeps its reason; its detail is cut and printable."""
    frame = encode_refusal(Rejected(reason, detail))
    assert len(frame) <= REFUSAL_BYTES_MAX
    with pytest.raises(Rejected) as caught:
        decode_answer(frame)
    assert caught.value.reason is reason
    assert caught.value.detail.isprintable()


@given(st.binary(max_size=400))
def test_hostile_answers_are_only_ever_rejected(frame):
    """Any bytes are an answer or a Rejected, never another exception."""
    with contextlib.suppress(Rejected):
        assert frame[:1] + decode_answer(frame) == frame


@pytest.mark.parametrize("frame", [b"", b"\x02", b"\x01no_such_reason\nx", b"\x01" + b"x" * 1000])
def test_what_is_neither_answer_nor_refusal_is_malformed(frame):
    """An unknown status or reason is the sender's mistake."""
    with pytest.raises(Rejected) as caught:
        decode_answer(frame)
    assert caught.value.reason is Reason.MALFORMED
