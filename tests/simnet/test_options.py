"""What may be asked of a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.rejection import Reason, Rejected
from simnet.options import (
    AllKilled,
    Kill,
    PeerIndex,
    Restart,
    TileOwner,
    check_restarts,
    default_timeout_seconds,
    parse_kill,
    parse_restart,
)


@given(peer=st.integers(0, 7), number=st.integers(0, 19))
def test_a_fault_that_is_in_range_is_read_as_written(peer, number):
    """Every peer and round of the run can be named."""
    assert parse_kill(f"{peer}@{number}", 8, 20) == Kill(PeerIndex(peer), number)
    assert parse_restart(f"{peer}@{number}", 8, 20) == Restart(PeerIndex(peer), number)


@given(st.text(max_size=20))
def test_any_text_is_a_fault_or_one_sentence(text):
    """Nothing but Rejected comes out of an option."""
    said = []
    for parse in (parse_kill, parse_restart):
        try:
            fault = parse(text, 4, 20)
        except Rejected as rejected:
            said.append(rejected.reason)
        else:
            assert fault.round < 20
    assert set(said) <= {Reason.BAD_ARGUMENT}


def test_targets_may_be_described():
    """A tile's owner can be killed, and all that are down can be brought back."""
    assert parse_kill("owner:layer1.expert2/0@3", 4, 20) == Kill(TileOwner("layer1.expert2/0"), 3)
    assert parse_restart("killed@5", 4, 20) == Restart(AllKilled(), 5)


@pytest.mark.parametrize(
    "text",
    [
        "4@1",
        "1@20",
        "1",
        "@1",
        "1@",
        "-1@2",
        "owner:trunk@2",
        "x@2",
        "1@-2",
        "owner:trunk/0@99",
        "²@1",
        "9" * 5_000 + "@1",
    ],
)
def test_faults_outside_of_the_run_are_refused(text):
    """A peer, tile or round that cannot be meant is a mistake of the user."""
    with pytest.raises(Rejected):
        parse_kill(text, 4, 20)


def test_a_restart_needs_a_kill_before_it():
    """Who was never killed cannot be restarted."""
    kill, owner = Kill(PeerIndex(1), 5), Kill(TileOwner("trunk/0"), 5)
    check_restarts([kill], [Restart(PeerIndex(1), 6), Restart(AllKilled(), 7)])
    check_restarts([owner], [Restart(PeerIndex(3), 6)])
    for wrong in (Restart(PeerIndex(2), 6), Restart(PeerIndex(1), 5), Restart(AllKilled(), 4)):
        with pytest.raises(Rejected):
            check_restarts([kill], [wrong])


def test_longer_rounds_have_longer_patience():
    """The time-out grows with the rounds and with their deadline."""
    assert default_timeout_seconds(20, None) < default_timeout_seconds(21, None) < default_timeout_seconds(21, 600.0)
