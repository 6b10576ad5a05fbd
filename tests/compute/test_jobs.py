"""Jobs and replies survive their frames; anything else is Rejected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.jobs import (
    FRAME_BYTES_MAX,
    LENGTH,
    URGENCY,
    Answer,
    BeginAnswer,
    Call,
    Cancel,
    ComputeExpert,
    Dataset,
    Decoded,
    DecodedToken,
    DecodeStep,
    EndAnswer,
    Evaluate,
    ExpertComputed,
    ExpertPart,
    Hello,
    JobFailed,
    Learn,
    LearnDone,
    Noted,
    Progress,
    RowsWanted,
    Shutdown,
    TileDelta,
    TileFile,
    check_frame_length,
    frame,
    parse_answer,
    parse_call,
)
from protocol.rejection import Reason, Rejected

TILES = (TileFile("trunk/0", 3, bytes(32), "tiles/trunk-0.3"),)
DATASET = Dataset(bytes(32), ("shards/0", "shards/1"))
JOBS = [
    Hello("auto", 1, b"genesis"),
    Learn(2, b"k" * 32, TILES, DATASET, ((0, 1), (2,)), "state", "out", (TileDelta("trunk/0", 2, b"lost"),)),
    Evaluate(TILES, DATASET, 64),
    ComputeExpert(TILES, "layer0.expert1", 1, 2, bytes(64)),
    BeginAnswer(1, TILES, "answer-1", (256, 65), 10, 0.5, 40, 7, (256,)),
    DecodeStep(1, (ExpertPart(3, bytes(64)),)),
    EndAnswer(1, "answer-1"),
    Cancel(),
    Shutdown(),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
def test_a_call_survives_its_frame(job):
    """The length says how much follows."""
    data = frame(Call(5, job))
    assert LENGTH.unpack_from(data)[0] == len(data) - LENGTH.size
    assert parse_call(data[LENGTH.size :]) == Call(5, job)


@pytest.mark.parametrize(
    "reply",
    [
        Progress(1, 30, 2.5),
        LearnDone(2, (TileDelta("trunk/0", 3, b"delta"),), "state", 1000, 2.5, 3000),
        ExpertComputed(bytes(64)),
        Noted(),
        RowsWanted(2, (ExpertPart(3, bytes(64)),)),
        Decoded((DecodedToken("answer-1", 65, False), DecodedToken("answer-2", -1, True))),
        JobFailed("error", "why"),
    ],
    ids=lambda reply: type(reply).__name__,
)
def test_an_answer_survives_its_frame(reply):
    """Nested parts included."""
    assert parse_answer(frame(Answer(9, reply))[LENGTH.size :]) == Answer(9, reply)


@given(st.binary(max_size=200))
def test_other_bytes_are_rejected(data):
    """Random bytes are a message or Rejected(MALFORMED), nothing else."""
    reasons = set()
    for parse in (parse_call, parse_answer):
        try:
            parse(data)
        except Rejected as rejected:
            reasons.add(rejected.reason)
    assert reasons <= {Reason.MALFORMED}


def test_text_that_is_no_utf_8_is_rejected():
    """msgspec raises its own error for most mistakes, and Python's for this one. Found by tests/fuzz."""
    call = frame(Call(5, Hello("auto", 1, b"genesis")))[LENGTH.size :].replace(b"auto", b"au\xffo")
    answer = frame(Answer(9, JobFailed("error", "why")))[LENGTH.size :].replace(b"why", b"w\xffy")
    for parse, data in ((parse_call, call), (parse_answer, answer)):
        with pytest.raises(Rejected) as caught:
            parse(data)
        assert caught.value.reason is Reason.MALFORMED


def test_frames_are_bounded():
    """One byte more than the limit is refused."""
    assert check_frame_length(FRAME_BYTES_MAX) == FRAME_BYTES_MAX
    with pytest.raises(Rejected):
        check_frame_length(FRAME_BYTES_MAX + 1)


def test_people_come_before_training():
    """Answers, our own and those of others, are more urgent than evaluation, evaluation than learning."""
    assert URGENCY[ComputeExpert] == URGENCY[DecodeStep] < URGENCY[Evaluate] < URGENCY[Learn]
