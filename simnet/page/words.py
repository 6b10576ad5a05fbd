"""Numbers and names of a run in few letters, as the page says them everywhere. ``simnet/text.py`` has the units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from simnet.outcome import RoundOutcome, Sample
from simnet.text import duration_text, size_text

NAME_MAX: Final = 48  # letters of a name
SAYS_MAX: Final = 300  # letters of a sentence
SEEN_MAX: Final = 200  # letters of what was seen, of which there may be much


def loss_text(loss: float) -> str:
    return (f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.2e}") if math.isfinite(loss) else "–"


def seconds_text(seconds: float) -> str:
    """``0.8 s``, ``14 s``; above ten minutes as a clock shows it."""
    if seconds >= 600:
        return duration_text(seconds)
    digits = f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"
    return f"{digits.removesuffix('.0')} s"


def rate_text(bytes_per_second: float) -> str:
    return f"{size_text(bytes_per_second)}/s" if bytes_per_second else "0"


def short_count(count: float) -> str:
    """``950``, ``12.4 k``, ``3.1 M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if count >= size:
            return f"{count / min(size, 1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{count:,.0f}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if math.isfinite(share) else "–"


def signed_percent(share: float) -> str:
    if not math.isfinite(share):
        return "beyond all numbers"
    text = f"{share:+.1%}" if abs(share) < 0.1 else f"{share:+,.0%}"
    return text.replace("-", "−").replace("%", " %")


# -- of an outcome ------------------------------------------------------------------------------------------------------


def from_to(rounds: Sequence[RoundOutcome]) -> str:
    losses = [each.loss for each in rounds if math.isfinite(each.loss)]
    return f"{loss_text(losses[0])} → {loss_text(losses[-1])}" if losses else "–"


def loss_change(rounds: Sequence[RoundOutcome]) -> str:
    losses = [each.loss for each in rounds if math.isfinite(each.loss)]
    if not losses or losses[0] <= 0:
        return "not measured"
    return f"{signed_percent(losses[-1] / losses[0] - 1)} since the first round"


def has_lag(sample: Sample) -> bool:
    """Whether something became final: a lag of nothing is no lag."""
    return sample.height > 0 and 0 < sample.finality_lag_seconds < math.inf


def lags_of(samples: Iterable[Sample]) -> list[float]:
    """Of the samples that have one."""
    return [sample.finality_lag_seconds for sample in samples if has_lag(sample)]


def finite(points: Iterable[tuple[float, float]]) -> list[float]:
    return [value for _, value in points if math.isfinite(value)]


def or_nan(value: float | None) -> float:
    return math.nan if value is None else value
