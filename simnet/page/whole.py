"""The whole page: verdict, numbers, and the sections in the order in which somebody asks."""

from __future__ import annotations

from statistics import median
from typing import Final

from simnet.markup import Markup, clip, tag
from simnet.outcome import Outcome
from simnet.page.faults import spans_of, times_of
from simnet.page.over_time import draw_over_time
from simnet.page.rules import draw_rounds, draw_rules
from simnet.page.style import style
from simnet.page.words import NAME_MAX, SAYS_MAX, from_to, lags_of, loss_change, seconds_text, short_count
from simnet.page.world import draw_world
from simnet.scenario import Scenario
from simnet.text import count_text, duration_text, size_text

LEVELS: Final = {1: "engines alone", 2: "whole nodes in virtual time", 3: "real processes"}
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def render(outcome: Outcome, scenario: Scenario | None = None) -> str:
    """The page. `scenario`, where it is at hand, tells from when to when its faults last: they are drawn as bands."""
    faults = spans_of(scenario) if scenario is not None else []
    times = times_of(outcome, faults)
    verdict, _ = _verdict(outcome)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", f"{verdict}: {clip(outcome.scenario, NAME_MAX)}, seed {outcome.seed}"),
        tag("style", Markup(style())),
    )
    main = tag(
        "main",
        _header(outcome, scenario),
        _numbers(outcome),
        draw_world(outcome, scenario),
        draw_over_time(outcome, times, faults),
        draw_rules(outcome),
        draw_rounds(outcome),
        _footer(outcome),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', main), lang='en')}\n"


# -- verdict ------------------------------------------------------------------------------------------------------------


def _header(outcome: Outcome, scenario: Scenario | None) -> Markup:
    verdict, class_ = _verdict(outcome)
    level = LEVELS.get(outcome.level)
    kicker = f"simnet, level {outcome.level}" + (f": {level}" if level else "") + f" · seed {outcome.seed}"
    return tag(
        "header",
        tag("p", kicker, class_="kicker"),
        tag(
            "div",
            tag("h1", clip(outcome.scenario, NAME_MAX)),
            tag("span", verdict, class_=f"stamp {class_}"),
            class_="verdict",
        ),
        tag("p", clip(outcome.says, SAYS_MAX), class_="sentence"),
        tag("p", _set_up(scenario), class_="soft small set-up") if scenario is not None else "",
        _broken(outcome),
        tag("div", "The same run again, to the last byte:", tag("pre", clip(outcome.repeat, SAYS_MAX)), class_="repeat")
        if outcome.repeat
        else "",
    )


def _set_up(scenario: Scenario) -> str:
    """How the network learns, in a line."""
    learning = scenario.learning
    return " · ".join(
        (
            f"{count_text(learning.tiles, 'tile')} of {learning.tile_values:,} values",
            f"rounds of {duration_text(learning.round_seconds)} with {count_text(learning.inner_steps, 'local step')}",
            f"merge rule: {clip(learning.merge_rule, NAME_MAX).replace('_', ' ')}",
            "deltas are summed up by region" if learning.aggregation else "every delta travels by itself",
        )
    )


def _verdict(outcome: Outcome) -> tuple[str, str]:
    """In two words, and its class."""
    broken = sum(bool(each.breaches) for each in outcome.invariants.values())
    if broken:
        return f"✗ {count_text(broken, 'rule')} broken", "bad"
    if not any(each.checks for each in outcome.invariants.values()):
        return "nothing was checked", "warn"
    return "✓ passed", "good"


def _broken(outcome: Outcome) -> Markup:
    items = [
        tag(
            "li",
            tag("b", f"✗ {clip(name, NAME_MAX)}"),
            f": {clip(each.says, SAYS_MAX)}",
            tag(
                "ul",
                tag("li", clip(each.breaches[0], SAYS_MAX), class_="seen"),
                *_more(len(each.breaches) - 1, "breach", "breaches"),
            ),
        )
        for name, each in outcome.invariants.items()
        if each.breaches
    ]
    if not items:
        return Markup("")
    return tag("section", tag("h3", "What broke"), tag("ol", *items), class_="broken", aria_label="What broke")


def _more(count: int, word: str, words: str) -> list[Markup]:
    if count <= 0:
        return []
    return [tag("li", f"and {count:,} more {word if count == 1 else words} of it, below", class_="soft small")]


# -- numbers ------------------------------------------------------------------------------------------------------------


def _numbers(outcome: Outcome) -> Markup:
    lags = lags_of(outcome.samples)
    checks = sum(each.checks for each in outcome.invariants.values())
    broken = sum(bool(each.breaches) for each in outcome.invariants.values())
    idle = sum(not each.checks for each in outcome.invariants.values())
    deltas = sum(each.deltas for each in outcome.rounds)
    cells = [
        ("Peers", f"{outcome.peers:,}", f"{count_text(outcome.validators, 'validator')} at the beginning"),
        ("Virtual time", duration_text(outcome.virtual_seconds), count_text(len(outcome.rounds), "round")),
        ("Loss", from_to(outcome.rounds), loss_change(outcome.rounds)),
        (
            "Rules",
            f"{broken} broken" if broken else "none broken",
            f"{count_text(len(outcome.invariants), 'rule')}, checked {short_count(checks)} times"
            + (f", {idle} never" if idle else ""),
        ),
        (
            "WAN, a round",
            size_text(outcome.wan_bytes_per_round),
            f"{size_text(outcome.wan_bytes_per_step)} for each of {count_text(outcome.inner_steps, 'local step')}",
        ),
        (
            "Finality lag",
            seconds_text(median(lags)) if lags else "–",
            f"in the middle; {seconds_text(max(lags))} at worst" if lags else "nothing became final",
        ),
        (
            "Deltas counted",
            f"{deltas:,}",
            f"{count_text(sum(each.takeovers for each in outcome.rounds), 'head')} by a standby",
        ),
        ("Events", short_count(outcome.events), "in the whole run"),
    ]
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", value), tag("dd", more, class_="more")) for name, value, more in cells),
        class_="numbers",
    )


def _footer(outcome: Outcome) -> Markup:
    digest = clip(outcome.digest, 64)
    return tag(
        "footer",
        tag("p", "Digest of everything that was delivered and decided: ", tag("code", digest)) if digest else "",
        tag("p", "Made by nocknode simnet. The same command makes the same page."),
    )
