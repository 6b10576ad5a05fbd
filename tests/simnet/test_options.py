"""What may be asked of a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.rejection import Reason, Rejected
from simnet.options import (
    FAULT_SECONDS_MAX,
    FAULTS,
    REPAIRED,
    AllHit,
    Fault,
    FaultKind,
    PeerIndex,
    Repair,
    RepairKind,
    TileOwner,
    check_repairs,
    default_timeout_seconds,
    parse_fault,
    parse_repair,
)

ENDING = [kind for kind, row in FAULTS.items() if row.seconds is not None]


def kill(peer: int, number: int) -> Fault:
    return Fault(FaultKind.KILL, PeerIndex(peer), number)


@given(peer=st.integers(0, 7), number=st.integers(0, 19), kind=st.sampled_from(FaultKind))
def test_a_fault_that_is_in_range_is_read_as_written(peer, number, kind):
    """Every peer and round of the run can be named."""
    assert parse_fault(kind, f"{peer}@{number}", 8, 20) == Fault(kind, PeerIndex(peer), number)
    for repair in RepairKind:
        assert parse_repair(repair, f"{peer}@{number}", 8, 20) == Repair(repair, PeerIndex(peer), number)


@given(kind=st.sampled_from(ENDING), tenths=st.integers(1, 10 * int(FAULT_SECONDS_MAX)))
def test_what_ends_by_itself_may_say_when(kind, tenths):
    """Whole seconds or parts of them, up to a day."""
    assert parse_fault(kind, f"1@3+{tenths / 10}", 4, 20) == Fault(kind, PeerIndex(1), 3, tenths / 10)


@given(
    st.text(max_size=20)
    | st.from_regex(r"(\d{1,3}|owner:\S{1,9}|killed|paused)@\d{1,12}(\+[\d.]{1,9})?", fullmatch=True)
)
def test_any_text_is_a_fault_or_one_sentence(text):
    """Nothing but Rejected comes out of an option, and it names the option and the text."""
    parsers = [(kind, parse_fault) for kind in FaultKind] + [(kind, parse_repair) for kind in RepairKind]
    refused = {}
    for kind, parse in parsers:
        try:
            asked = parse(kind, text, 4, 20)
        except Rejected as rejected:
            refused[kind] = rejected
        else:
            assert asked.round < 20
            assert getattr(asked, "seconds", None) is None or 0 < asked.seconds <= FAULT_SECONDS_MAX
    assert {rejected.reason for rejected in refused.values()} <= {Reason.BAD_ARGUMENT}
    assert all(rejected.detail.startswith(f"--{kind} {text}: ") for kind, rejected in refused.items())


def test_targets_may_be_described():
    """A tile's owner can be hit, and all that are down, or asleep, can be brought back."""
    for kind in FaultKind:
        assert parse_fault(kind, "owner:layer1.expert2/0@3", 4, 20) == Fault(kind, TileOwner("layer1.expert2/0"), 3)
    assert parse_repair(RepairKind.RESTART, "killed@5", 4, 20) == Repair(RepairKind.RESTART, AllHit(), 5)
    assert parse_repair(RepairKind.RESUME, "paused@5", 4, 20) == Repair(RepairKind.RESUME, AllHit(), 5)


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
        "1@2+",
        "1@2+0",
        "1@2+0.0",
        "1@2+-1",
        "1@2+86401",
        "1@2+1e3",
        "1@2+nan",
        "killed@2",
    ],
)
@pytest.mark.parametrize("kind", FaultKind)
def test_faults_outside_of_the_run_are_refused(kind, text):
    """A peer, tile, round or time that cannot be meant is a mistake of the user."""
    with pytest.raises(Rejected):
        parse_fault(kind, text, 4, 20)


def test_what_lasts_for_ever_takes_no_time():
    """A kill has no end of its own, nor has a repair."""
    with pytest.raises(Rejected, match="write PEER@ROUND, for example --kill 1@5"):
        parse_fault(FaultKind.KILL, "1@2+3", 4, 20)
    with pytest.raises(Rejected, match="write PEER@ROUND, for example"):
        parse_repair(RepairKind.RESUME, "1@2+3", 4, 20)


@pytest.mark.parametrize("repair", RepairKind)
def test_a_repair_needs_its_fault_before_it(repair):
    """Who was never killed cannot be restarted, and who was never paused cannot be resumed."""
    kind = REPAIRED[repair]
    fault, owner = Fault(kind, PeerIndex(1), 5), Fault(kind, TileOwner("trunk/0"), 5)
    other = Fault(next(each for each in FaultKind if each is not kind), PeerIndex(1), 2)
    check_repairs([fault], [Repair(repair, PeerIndex(1), 6), Repair(repair, AllHit(), 7)])
    check_repairs([owner], [Repair(repair, PeerIndex(3), 6)])
    for wrong in (Repair(repair, PeerIndex(2), 6), Repair(repair, PeerIndex(1), 5), Repair(repair, AllHit(), 4)):
        with pytest.raises(Rejected, match=f"nothing is {FAULTS[kind].state} before that round"):
            check_repairs([fault, other], [wrong])


def test_longer_rounds_have_longer_patience():
    """The time-out grows with the rounds, with their deadline, and with the faults that are waited for."""
    assert default_timeout_seconds(20, None) < default_timeout_seconds(21, None) < default_timeout_seconds(21, 600.0)
    asleep = Fault(FaultKind.PAUSE, PeerIndex(0), 1, 3600.0)
    assert default_timeout_seconds(20, None, [asleep, kill(1, 2)]) == default_timeout_seconds(20, None) + 3600
