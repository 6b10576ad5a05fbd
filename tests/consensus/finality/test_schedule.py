"""Leaders and timeouts are functions of view and roster alone."""

from __future__ import annotations

from collections import Counter

from consensus.finality.schedule import Schedule
from protocol.digest import digest
from protocol.ids import View
from protocol.limits import VIEW_TIMEOUT_MS_MAX
from simnet.finality.genesis import RULE, make_keys, make_roster

KEYS = make_keys(4)


def test_leader_is_the_formula():
    """leader(v) = H(beacon | v) as a fraction of all weight, on the line of cumulative weights."""
    roster = make_roster(KEYS, weights=(1, 3, 0, 2))
    schedule = Schedule(roster, RULE)
    line = [0, 1, 1, 1, 3, 3]
    for view in range(1, 200):
        point = digest("nock/leader/1", roster.beacon, view.to_bytes(8, "big"))
        assert schedule.leader(View(view)) == line[6 * int.from_bytes(point, "big") // 2**256]


def test_a_little_more_weight_changes_few_leaders():
    """Whoever knows the beacon cannot draw another schedule by moving a little stake: only what was at an edge moves."""
    weights = (10**13, 3 * 10**13, 2 * 10**13)
    before, after = (
        Schedule(make_roster(KEYS[:3], weights=each), RULE) for each in (weights, (10**13 + 1, *weights[1:]))
    )
    assert [before.leader(View(view)) for view in range(2_000)] == [after.leader(View(view)) for view in range(2_000)]


def test_leaders_follow_the_weights():
    """Over many views each member leads about in proportion to its weight; without weight, never."""
    counts = Counter(Schedule(make_roster(KEYS, weights=(1, 3, 0, 2)), RULE).leader(View(v)) for v in range(6_000))
    assert counts[2] == 0
    for member, share in ((0, 1_000), (1, 3_000), (3, 2_000)):
        assert abs(counts[member] - share) < 150


def test_delta_grows_by_half_up_to_eight_seconds():
    """Delta is min(8 s, 1.5^c Delta_0), in whole milliseconds, and never overflows."""
    schedule = Schedule(make_roster(KEYS), RULE)
    assert [schedule.delta_ms(c) for c in range(7)] == [1_000, 1_500, 2_250, 3_375, 5_062, 7_593, VIEW_TIMEOUT_MS_MAX]
    assert schedule.delta_ms(10**9) == VIEW_TIMEOUT_MS_MAX


def test_view_timer_leaves_room_for_an_idle_leader():
    """A leader that waits for something to propose is not a dead one."""
    schedule = Schedule(make_roster(KEYS), RULE)
    assert schedule.view_timeout_ms(1_000, 0) == RULE.idle_interval_ms + 3_000
    assert schedule.view_timeout_ms(1_000, 100) == RULE.idle_interval_ms + 2_900
    assert schedule.view_timeout_ms(1_000, RULE.idle_interval_ms) == RULE.block_interval_ms_min + 3_000
    assert schedule.retry_ms(1_000) == 2_000
