"""Rows and their ratios."""

from __future__ import annotations

import json

import pytest

from benchmarks.common import compare, find_median, report


def test_ratio_is_above_one_when_ours_is_better() -> None:
    """Half of the peer's time and twice the peer's throughput are both a ratio of 2."""
    assert compare("time", "ms", 5.0, 10.0, "peer").ratio == 2.0
    assert compare("speed", "MB/s", 10.0, 5.0, "peer", more_is_better=True).ratio == 2.0


def test_row_without_a_peer_has_no_ratio() -> None:
    """Nothing to compare with is null, not zero or one."""
    row = compare("time", "ms", 5.0)
    assert (row.peer, row.peer_name, row.floor, row.ratio) == (None, None, None, None)


def test_median_passes_over_what_is_missing() -> None:
    """A round that failed has no value; with no value at all there is no median."""
    assert find_median([None, 1.0, 3.0, 2.0]) == 2.0
    assert find_median([None]) is None


def test_json_is_one_line_with_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """The object names the benchmark and the machine, and its rows have plain values."""
    report("example", [compare("time", "ms", 5.0, 10.0, "peer", 1.0)], as_json=True, facts={"peers": 4})
    answer = json.loads(capsys.readouterr().out)
    assert answer["benchmark"] == "example"
    assert answer["peers"] == 4
    assert answer["environment"]["cores"] >= 1
    assert answer["rows"] == [
        {"name": "time", "unit": "ms", "ours": 5.0, "peer": 10.0, "peer_name": "peer", "floor": 1.0, "ratio": 2.0}
    ]


def test_table_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json the rows are a table on stdout."""
    report("example", [compare("time of a round", "ms", 5.0)], as_json=False)
    assert "time of a round" in capsys.readouterr().out
