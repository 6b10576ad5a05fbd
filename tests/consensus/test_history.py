"""Proof of history and hash onions: what was made checks, and nothing else does."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.history import (
    History,
    HistoryEvent,
    HistorySegment,
    Onion,
    check_joined,
    check_reveal,
    check_segment,
    mix_beacon,
    segments_between,
    walk_segments,
)
from protocol.codec import decode, encode
from protocol.digest import blob_digest
from protocol.ids import Digest
from protocol.limits import (
    HISTORY_EVENTS_PER_SEGMENT_MAX,
    HISTORY_TICKS_PER_SEGMENT_MAX,
    ONION_LAYERS_MAX,
)
from protocol.rejection import Reason, Rejected
from tests.strategies import digests, wound

START = blob_digest(b"genesis")
STEPS = st.lists(st.one_of(st.integers(0, 50), digests.map(Digest)), max_size=12)


def write(steps: list[int | Digest], start: Digest = START) -> HistorySegment:
    """A segment of ticks and events."""
    history = History.after(start)
    for step in steps:
        if isinstance(step, int):
            history.advance(step)
        else:
            history.mix(step)
    return history.cut()


def is_refused(segment: HistorySegment) -> bool:
    try:
        check_segment(segment)
    except Rejected as refusal:
        return refusal.reason is Reason.BAD_PROOF
    return False


@given(STEPS)
def test_what_was_written_checks(steps):
    """Ticks and events in any order, none at all too; and the segment travels."""
    segment = write(steps)
    check_segment(segment)
    assert decode(HistorySegment, encode(segment), limit_bytes=1 << 16) == segment


@given(st.integers(1, 6), st.integers(1, 20), st.data())
def test_what_was_walked_in_segments_is_one_walk_and_any_other_end_is_found(count, ticks, data):
    """Each end is that of one long segment; change any, and the segments at both of its sides are wrong, and they alone."""
    ends = walk_segments(START, ticks, count)
    whole = write([ticks * count])
    segments = segments_between(START, ends, ticks)
    assert check_joined(START, segments) == whole.end == ends[-1]
    assert not any(is_refused(segment) for segment in segments)
    index = data.draw(st.integers(0, count - 1))
    other = data.draw(digests.map(Digest).filter(lambda end: end != ends[index]))
    tampered = segments_between(START, (*ends[:index], other, *ends[index + 1 :]), ticks)
    assert [is_refused(segment) for segment in tampered] == [at in (index, index + 1) for at in range(count)]


@given(st.lists(STEPS, min_size=1, max_size=5))
def test_segments_are_checked_alone_and_joined_by_their_ends(pieces):
    """In any order, on any core; cutting changes nothing about what is hashed."""
    history, segments = History.after(START), []
    for steps in pieces:
        for step in steps:
            history.advance(step) if isinstance(step, int) else history.mix(step)
        segments.append(history.cut())
    for segment in reversed(segments):
        check_segment(segment)
    whole = write([step for steps in pieces for step in steps])
    assert check_joined(START, segments) == segments[-1].end == whole.end


def test_segments_that_do_not_follow_each_other_are_refused():
    """Another beginning, another order, one left out."""
    one = write([3])
    two = write([blob_digest(b"event"), 2], one.end)
    for checkpoint, segments in [(one.end, [one]), (START, [two, one]), (START, [two]), (START, [one, one])]:
        with pytest.raises(Rejected) as caught:
            check_joined(checkpoint, segments)
        assert caught.value.reason is Reason.BAD_PROOF
    assert check_joined(START, []) == START


@settings(max_examples=40)
@given(STEPS, st.integers(0, 2**32))
def test_every_changed_segment_is_refused(steps, seed):
    """Whatever is changed, and still is a segment."""
    random, segment = Random(seed), write([7, blob_digest(b"event"), *steps])
    data = encode(segment)
    for _ in range(30):
        try:
            changed = decode(HistorySegment, wound(random, data), limit_bytes=1 << 16)
        except Rejected:
            continue
        if changed.ticks < 10_000:  # the work of the check is what the segment says: bounded, and two seconds at most
            assert changed == segment or is_refused(changed)


def test_an_event_cannot_be_moved_or_dropped():
    """Neither to another tick, nor behind another event, nor beyond the end."""
    first, second = blob_digest(b"first"), blob_digest(b"second")
    segment = write([2, first, 3, second, 1])
    check_segment(segment)
    moved = [
        (HistoryEvent(1, first), HistoryEvent(5, second)),
        (HistoryEvent(2, second), HistoryEvent(5, first)),
        (HistoryEvent(5, second), HistoryEvent(2, first)),
        (HistoryEvent(2, first),),
        (HistoryEvent(2, first), HistoryEvent(7, second)),
        (),
    ]
    assert all(is_refused(replace(segment, events=events)) for events in moved)
    ends_with_an_event = write([2, first])
    assert is_refused(replace(ends_with_an_event, ticks=1))


def test_a_segment_is_bounded():
    """In ticks and in events: the writer cuts before."""
    history = History.after(START)
    for ticks in (-1, HISTORY_TICKS_PER_SEGMENT_MAX + 1):
        with pytest.raises(ValueError, match="do not fit"):
            history.advance(ticks)
    assert not history.is_full
    for _ in range(HISTORY_EVENTS_PER_SEGMENT_MAX):
        history.mix(START)
    assert history.is_full
    with pytest.raises(ValueError, match="full"):
        history.mix(START)
    assert len(history.cut().events) == HISTORY_EVENTS_PER_SEGMENT_MAX
    assert not history.is_full


@given(digests, st.integers(1, 40))
def test_reveals_go_from_the_outside_in(secret, layers):
    """Each checks against the one before; the last is the secret, and then there is none."""
    onion = Onion(secret, layers)
    commitment = onion.commitment
    for index in range(layers):
        commitment = check_reveal(commitment, onion.reveal(index))
    assert commitment == secret
    for index in (-1, layers):
        with pytest.raises(ValueError, match="no reveal"):
            onion.reveal(index)


@given(digests)
def test_a_reveal_is_the_one_that_was_committed_to(secret):
    """Not one further in, not the commitment itself, not another's."""
    onion, other = Onion(secret, 3), Onion(blob_digest(secret), 3)
    for reveal in (onion.reveal(1), onion.commitment, other.reveal(0)):
        with pytest.raises(Rejected) as caught:
            check_reveal(onion.commitment, reveal)
        assert caught.value.reason is Reason.BAD_PROOF


@pytest.mark.parametrize(("secret", "layers"), [(b"", 1), (bytes(32), 0), (bytes(32), ONION_LAYERS_MAX + 1)])
def test_an_onion_has_a_secret_and_layers(secret, layers):
    """32 bytes, and at least one layer to reveal."""
    with pytest.raises(ValueError, match="an onion has"):
        Onion(secret, layers)


@given(st.lists(digests.map(Digest), max_size=5, unique=True), st.randoms(use_true_random=False))
def test_a_beacon_does_not_depend_on_who_came_first(reveals, random):
    """But on every reveal, on the beacon before it and on history."""
    beacon = mix_beacon(START, START, reveals)
    shuffled = list(reveals)
    random.shuffle(shuffled)
    assert mix_beacon(START, START, shuffled) == beacon
    other = blob_digest(b"other")
    different = [mix_beacon(other, START, reveals), mix_beacon(START, other, reveals)]
    different += [mix_beacon(START, START, [*reveals, other]), mix_beacon(START, START, reveals[:-1])]
    assert all(value != beacon for value in different[: 4 if reveals else 3])
