"""Everything over one time axis: what happened, loss, traffic, finality, peers, connections, queues, owners."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Final

from p2p.topics import find_topic_rule
from simnet.charts import (
    Span,
    Times,
    area_path,
    axis_of,
    between,
    columns,
    dots,
    even_steps,
    highest_of,
    line_path,
    mean_of,
    median_of,
    picture,
    plot,
    stacked_areas,
    step_path,
    thinned,
    time_labels,
    whole_steps,
)
from simnet.markup import Markup, clip, join, number, tag
from simnet.outcome import Happening, Outcome, RoundOutcome, Sample
from simnet.page.faults import SPANS_MAX, FaultSpan
from simnet.page.figures import figure, legend_of, square, stroke
from simnet.page.owners import draw_owners
from simnet.page.style import COLOURS
from simnet.page.words import (
    NAME_MAX,
    SEEN_MAX,
    finite,
    from_to,
    has_lag,
    lags_of,
    loss_text,
    or_nan,
    percent,
    rate_text,
    seconds_text,
    short_count,
    signed_percent,
)
from simnet.text import count_text, duration_text, size_text

NUMBERED_MAX: Final = 9  # happenings with a number on the time axis; of more only the moments are marked
HAPPENINGS_MAX: Final = 60  # listed
TICKS_MAX: Final = 100  # moments on the time axis that are told apart
KINDS_TOLD: Final = 2  # of the kinds of traffic, where a pointer is: more would not fit beside it on a narrow page
REST: Final = "everything else"


def draw_over_time(outcome: Outcome, times: Times, faults: Sequence[FaultSpan]) -> Markup:
    figures = [
        _happened(outcome.happenings, times, faults),
        _loss(outcome.rounds, times),
        _crossing(outcome.samples, times),
        _kinds(outcome.samples, times),
        _finality(outcome.samples, times),
        _counts(
            outcome.samples, times, "peers", "Peers running", lambda sample: sample.peers,
        ),
        _counts(
            outcome.samples, times, "connections", "Connections", lambda sample: sample.connections,
        ),
        _queues(outcome.samples, times),
        draw_owners(outcome.moves, times),
    ]  # fmt: skip
    if not any(figures):
        return Markup("")
    lead = "One time axis for all, in hours, minutes and seconds of the run's own clock."
    if times.bands or times.moments:
        lead += " What was done to the network is drawn through every picture."
    return tag("section", tag("h2", "Over time"), tag("p", lead, class_="lead"), *figures, class_="times")


NARROW_GUTTER: Final = 60  # pixels left of a plot on a narrow page, where words begin that would not fit
LANE: Final = 30  # pixels of a fault's row: its words, and its bar below
MARKS: Final = 22  # of a row of numbered moments
TOO_CLOSE: Final = 0.055  # of the time axis: two numbers nearer than that touch on a narrow page


def _happened(happenings: Sequence[Happening], times: Times, faults: Sequence[FaultSpan]) -> Markup:
    """Each fault's bar with its words, below them the moments with their numbers, and the list that the numbers name."""
    if not happenings and not faults:
        return Markup("")
    drawn, shown = [], list(faults[:SPANS_MAX])
    for index, span in enumerate(shown):
        top, is_late = index * LANE, times.share(span.begins) > 0.5
        drawn += [
            tag("text", clip(span.says, 2 * NAME_MAX), class_="what wide", y=top + 14,
                x=times.percent(span.ends if is_late else span.begins), text_anchor="end" if is_late else "start"),
            tag("text", clip(span.says, 2 * NAME_MAX), class_="what narrow", y=top + 14, x=-NARROW_GUTTER),
            tag("rect", class_="bar", x=times.percent(span.begins), y=top + 19, height=5, rx=2.5,
                width=times.width(span.begins, span.ends)),
        ]  # fmt: skip
    height = len(shown) * LANE
    ordered = sorted(happenings, key=lambda each: each.seconds)
    if ordered:
        is_numbered = len(ordered) <= NUMBERED_MAX
        marks, rows = (_numbered if is_numbered else _ticked)(ordered, times, height)
        drawn += marks
        height += rows * MARKS
    items = [
        tag("li", tag("time", duration_text(each.seconds)), tag("b", f"{index} ") if len(ordered) <= NUMBERED_MAX else "",
            clip(each.says, SEEN_MAX))
        for index, each in enumerate(ordered[:HAPPENINGS_MAX], 1)
    ]  # fmt: skip
    left_out = len(ordered) - len(items)
    if left_out > 0:
        items.append(tag("li", f"and {left_out:,} more", class_="soft"))
    listed = tag("ol", *items, class_="happened") if items else Markup("")
    if len(items) > NUMBERED_MAX:
        listed = tag("details", tag("summary", f"All {len(ordered):,}, with their times"), listed)
    lasting = [f"{duration_text(span.begins)} to {duration_text(span.ends)}: {span.says}" for span in shown]
    drawing = picture(
        "happened", "What happened, and when", "; ".join(lasting) or "Moments; the list after it has them in words.",
        height + 20,
        *drawn, time_labels(times, height + 15),
        columns(times, height, lambda begins, ends: duration_text(begins), y=height + 15),
    )  # fmt: skip
    return tag("figure", tag("figcaption", tag("h3", "What happened")), drawing, listed)


def _numbered(happenings: Sequence[Happening], times: Times, top: int) -> tuple[list[Markup], int]:
    """Numbers in circles; one that would touch the last of a row goes to the next row."""
    lasts: list[float] = []
    drawn = []
    for index, each in enumerate(happenings, 1):
        share = times.share(each.seconds)
        row = next((row for row, last in enumerate(lasts) if share - last > TOO_CLOSE), len(lasts))
        lasts[row : row + 1] = [share]
        x, y = times.percent(each.seconds), top + row * MARKS + 11
        drawn += [
            tag("circle", class_="mark", cx=x, cy=y, r=8),
            tag("text", str(index), class_="number", x=x, y=y + 4, text_anchor="middle"),
        ]
    return drawn, len(lasts)


def _ticked(happenings: Sequence[Happening], times: Times, top: int) -> tuple[list[Markup], int]:
    """One dot for each moment that can be told from the one before."""
    places = sorted({round(times.share(each.seconds) * TICKS_MAX) for each in happenings})
    drawn = [
        tag("circle", class_="mark", cx=f"{number(100 * place / TICKS_MAX)}%", cy=top + 11, r=3) for place in places
    ]
    return drawn, 1


def _loss(rounds: Sequence[RoundOutcome], times: Times) -> Markup:
    """Our loss; and where they are known, that of plain averaging and that without villains."""
    ours = [(each.seconds, each.loss) for each in rounds]
    plain = [(each.seconds, or_nan(each.loss_plain)) for each in rounds]
    honest = [(each.seconds, or_nan(each.loss_honest)) for each in rounds]
    known = finite(ours) + finite(honest)
    if not known:
        return Markup("")
    low, high = min(known), max(known)
    # A mean that poison drives away would flatten everything else: it leaves through the roof.
    roof = high + max(0.6 * (high - low), 0.1 * abs(high), 1e-9)
    axis = axis_of([*known, *(min(value, roof) for value in finite(plain))], from_zero=False, count=6)
    paths = join(
        line_path(times, axis, 220, plain, "c6 dashed"),
        line_path(times, axis, 220, honest, "c3 dotted"),
        line_path(times, axis, 220, ours, "c1 thick"),
    )
    entries = [("the network", stroke("c1 thick"))]
    if finite(plain):
        is_over = max(finite(plain)) > axis.high
        over = f" (up to {loss_text(max(finite(plain)))}, beyond the picture)" if is_over else ""
        entries.append((f"plain averaging would have lost{over}", stroke("c6 dashed")))
    if finite(honest):
        entries.append(("without villains", stroke("c3 dotted")))
    drawing = plot(
        times,
        axis,
        220,
        paths,
        name="loss",
        title="Loss of each round",
        description=f"From {from_to(rounds)} in {count_text(len(rounds), 'round')}. The table of rounds has every value.",
        label=lambda value: f"{value:.4g}",
        steps=even_steps(axis.low, axis.high, 4),
        over=dots(times, axis, 220, ours, "c1") if len(ours) <= 60 else Markup(""),
        told=lambda begins, ends: _loss_at(rounds, ends),
    )
    legend = legend_of(*entries) if len(entries) > 1 else Markup("")
    return figure("Loss", _loss_says(rounds), drawing, legend)


def _loss_at(rounds: Sequence[RoundOutcome], seconds: float) -> str:
    """Of the last round that was closed then."""
    last = next((each for each in reversed(rounds) if each.seconds <= seconds), None)
    if last is None:
        return ""
    others = (("plain", last.loss_plain), ("without villains", last.loss_honest))
    told = [f"round {last.round}: {loss_text(last.loss)}"]
    return ", ".join(told + [f"{name} {loss_text(value)}" for name, value in others if value is not None])


def _loss_says(rounds: Sequence[RoundOutcome]) -> str:
    """What the lines say, in words."""
    last = next((each for each in reversed(rounds) if math.isfinite(each.loss)), None)
    if last is None:
        return ""
    says = [f"{from_to(rounds)} in {count_text(len(rounds), 'round')}."]
    honest, plain = or_nan(last.loss_honest), or_nan(last.loss_plain)
    if math.isfinite(honest) and honest > 0:
        cost = last.loss / honest - 1
        says.append(f"The villains cost {signed_percent(cost) if cost > 0 else 'nothing'}.")
    if math.isfinite(plain) and last.loss > 0:
        says.append(
            f"Plain averaging of the same deltas would have ended at {loss_text(plain)}"
            f" ({signed_percent(plain / last.loss - 1)})."
        )
    elif last.loss_plain is not None and not math.isfinite(plain):
        says.append("Plain averaging of the same deltas would not have ended at any number.")
    return " ".join(says)


def _crossing(samples: Sequence[Sample], times: Times) -> Markup:
    wan = _rates(samples, lambda sample: sample.wan_bytes)
    local = _rates(samples, lambda sample: sample.local_bytes)
    if not wan:
        return Markup("")
    axis = axis_of([one.value + other.value for one, other in zip(wan, local, strict=True)])
    far, near = sum(sample.wan_bytes for sample in samples), sum(sample.local_bytes for sample in samples)
    says = f"{size_text(far)} between regions, {size_text(near)} inside them."
    drawing = plot(
        times, axis, 150, stacked_areas(times, axis, 150, [("c1", wan), ("c5", local)]), name="crossing",
        title="Traffic between regions and inside them", description=says, label=rate_text,
        told=lambda begins, ends: _told([("WAN", wan), ("local", local)], begins, ends, mean_of, rate_text),
    )  # fmt: skip
    return figure(
        "Traffic, WAN and local",
        says,
        drawing,
        legend_of(("between regions", square("c1")), ("inside a region", square("c5"))),
    )


def _kinds(samples: Sequence[Sample], times: Times) -> Markup:
    """The largest kinds on each other, the rest as one."""
    names = {text: kind_name(text) for text in dict.fromkeys(text for sample in samples for text in sample.by_kind)}
    by_sample = [_kinds_of(sample, names) for sample in samples]
    totals: Counter[str] = Counter()
    for kinds in by_sample:
        totals.update(kinds)
    everything = sum(totals.values())
    ranked = sorted((name for name in totals if totals[name]), key=lambda name: (-totals[name], name))
    if not ranked:
        return Markup("")
    named = ranked if len(ranked) <= COLOURS else ranked[: COLOURS - 1]
    is_named = frozenset(named)
    series = [(name, [kinds[name] for kinds in by_sample]) for name in named]
    if len(named) < len(ranked):
        rest = [sum(count for name, count in sorted(kinds.items()) if name not in is_named) for kinds in by_sample]
        series.append((REST, rest))
        totals[REST] = sum(rest)
    layers = [
        (f"c{index}", _rates_of(samples, counts)) for index, (_, counts) in enumerate(series, 1)
    ]  # fmt: skip
    axis = axis_of([sum(spans) for spans in zip(*([span.value for span in layer] for _, layer in layers), strict=True)])
    most = f"{clip(ranked[0], NAME_MAX)}, {percent(totals[ranked[0]] / everything)}"
    says = f"{size_text(everything)} of payload; most of it {most}."
    drawing = plot(
        times, axis, 170, stacked_areas(times, axis, 170, layers), name="kinds", title="Payload by kind of message",
        description=says, label=rate_text,
        told=lambda begins, ends: _told(
            [(clip(name, 16), spans) for (name, _), (_, spans) in zip(series[:KINDS_TOLD], layers, strict=False)],
            begins, ends, mean_of, rate_text,
        ),
    )  # fmt: skip
    entries = [
        (f"{clip(name, NAME_MAX)}, {size_text(totals[name])}", square(f"c{index}"))
        for index, (name, _) in enumerate(series, 1)
    ]
    return figure("Traffic by kind", says, drawing, legend_of(*entries))


def _kinds_of(sample: Sample, names: Mapping[str, str]) -> Counter[str]:
    """A topic of many shards is one kind."""
    kinds: Counter[str] = Counter()
    for text, count in sample.by_kind.items():
        kinds[names[text]] += count
    return kinds


def kind_name(text: str) -> str:
    """``tiles`` of a topic's text, whatever network and shard; ``delta`` of ``/nock/delta/1``; any other text as it is."""
    rule = find_topic_rule(text)
    if rule is not None:
        return rule.name
    protocol = re.fullmatch(r"/nock/([a-z-]+)/\d+", text)
    return protocol.group(1) if protocol else text


def _finality(samples: Sequence[Sample], times: Times) -> Markup:
    lags = lags_of(samples)
    if not lags:
        return Markup("")
    # Where nothing became final there is a gap: no lag was seen, and none is not a short one.
    seen = _gauge(samples, lambda sample: sample.finality_lag_seconds)
    spans = [span for span, sample in zip(seen, samples, strict=True) if has_lag(sample)]
    worst, middle = thinned(spans, highest_of), thinned(spans, median_of)
    axis = axis_of([span.value for span in worst])
    highest = max(lags)
    at = next(sample.seconds for sample in samples if has_lag(sample) and sample.finality_lag_seconds == highest)
    says = (
        f"Half of the time within {seconds_text(median(lags))}; at worst {seconds_text(highest)}, at {duration_text(at)}. "
        f"{max(sample.height for sample in samples):,} blocks final{_longest_still(samples)}."
    )
    paths = join(
        area_path(times, axis, 140, worst, "c1 pale"),
        step_path(times, axis, 140, middle, "c1"),
    )
    drawing = plot(
        times, axis, 140, paths, name="finality", title="Finality lag", label=seconds_text,
        told=lambda begins, ends: _told([("", spans)], begins, ends, highest_of, seconds_text),
        description=f"From a block's time to its being final at two thirds of the running peers. {says}",
    )  # fmt: skip
    return figure("Finality lag", says, drawing)


def _longest_still(samples: Sequence[Sample]) -> str:
    """For how long no block became final; as exact as samples are far from each other."""
    still, until, height, since = 0.0, 0.0, 0, 0.0
    for sample in samples:
        if sample.height > height:
            height, since = sample.height, sample.seconds
        elif height and sample.seconds - since > still:
            still, until = sample.seconds - since, sample.seconds
    apart = max((after.seconds - before.seconds for before, after in pairwise(samples)), default=0.0)
    return f"; none for {duration_text(still)} until {duration_text(until)}" if still > 2 * apart else ""


def _counts(
    samples: Sequence[Sample],
    times: Times,
    name: str,
    heading: str,
    count: Callable[[Sample], int],
) -> Markup:
    if not samples:
        return Markup("")
    seen = _gauge(samples, count)
    spans = thinned(seen, median_of)
    axis = axis_of([span.value for span in spans], count=2)
    low, high = min(map(count, samples)), max(map(count, samples))
    words = f"Between {low:,} and {high:,}." if low < high else f"Always {low:,}."
    paths = join(area_path(times, axis, 90, spans, "c3 pale"), step_path(times, axis, 90, spans, "c3"))
    drawing = plot(
        times, axis, 90, paths, name=name, title=heading, description=words, label=short_count,
        steps=whole_steps(axis.low, axis.high, 2),
        told=lambda begins, ends: _told([("", seen)], begins, ends, median_of, short_count),
    )  # fmt: skip
    return figure(heading, words, drawing)


def _queues(samples: Sequence[Sample], times: Times) -> Markup:
    if not samples:
        return Markup("")
    longest = max(samples, key=lambda sample: sample.queue_max)
    spans = thinned(_gauge(samples, lambda sample: sample.queue_max), highest_of)
    axis = axis_of([span.value for span in spans], count=2)
    says = (
        f"Nobody's held more than {longest.queue_max:,}, at {duration_text(longest.seconds)}."
        if longest.queue_max
        else "Nobody's ever held one at the moments that were looked at."
    )
    paths = join(area_path(times, axis, 90, spans, "c4 pale"), step_path(times, axis, 90, spans, "c4"))
    drawing = plot(
        times, axis, 90, paths, name="queues", title="Longest inbound queue of anybody", description=says, label=short_count,
        steps=whole_steps(axis.low, axis.high, 2),
        told=lambda begins, ends: _told([("", spans)], begins, ends, highest_of, short_count),
    )  # fmt: skip
    return figure("Longest inbound queue", says, drawing)


# -- series -------------------------------------------------------------------------------------------------------------


def _gauge(samples: Sequence[Sample], value: Callable[[Sample], float]) -> list[Span]:
    """What was seen at a sample, taken to hold since the sample before."""
    spans, before = [], 0.0
    for sample in samples:
        spans.append(Span(before, sample.seconds, value(sample)))
        before = sample.seconds
    return spans


def _rates(samples: Sequence[Sample], count: Callable[[Sample], int]) -> list[Span]:
    return _rates_of(samples, [count(sample) for sample in samples])


def _rates_of(samples: Sequence[Sample], counts: Sequence[int]) -> list[Span]:
    """Counts since the sample before as rates a second, thinned. What came in no time is told with the next sample."""
    spans, before, carried = [], 0.0, 0
    for sample, count in zip(samples, counts, strict=True):
        carried += count
        if sample.seconds > before:
            spans.append(Span(before, sample.seconds, carried / (sample.seconds - before)))
            before, carried = sample.seconds, 0
    return thinned(spans, mean_of)


def _told(
    series: Sequence[tuple[str, Sequence[Span]]],
    begins: float,
    ends: float,
    fold: Callable[[list[Span]], float],
    text: Callable[[float], str],
) -> str:
    """What the series were in a column of time, in words."""
    parts = [(name, between(spans, begins, ends)) for name, spans in series]
    return ", ".join(f"{name} {text(fold(spans))}".strip() for name, spans in parts if spans)
