"""Numbers for people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simnet.text import BARS, count_text, duration_text, ratio_text, size_text, sparkline


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (3.2e11, "320 GB"), (5e12, "5.0 TB")],
)
def test_sizes_keep_two_or_three_digits(count, text):
    """A size is read at a glance."""
    assert size_text(count) == text


def test_times_ratios_and_counts():
    """As a person would write them."""
    assert [duration_text(seconds) for seconds in (7, 67, 3753)] == ["0:07", "1:07", "1:02:33"]
    assert [ratio_text(value) for value in (None, 3.14, 41.2)] == ["–", "3.1×", "41×"]
    assert [count_text(number, "tile") for number in (0, 1, 1200)] == ["0 tiles", "1 tile", "1,200 tiles"]


@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=50), st.integers(0, 60))
def test_a_sparkline_has_one_character_a_value_and_never_more_than_its_width(values, width):
    """Gaps stay gaps; the newest values are the ones shown."""
    line = sparkline(values, width)
    shown = values[-width:] if width else []
    assert len(line) == (len(shown) if any(value is not None for value in shown) else 0)
    assert set(line) <= {*BARS, " "}


def test_a_falling_loss_falls():
    """Highest first, lowest last."""
    assert sparkline([3.0, 2.0, 1.0], 10) == "█▅▁"
