"""What had to hold, and the rounds behind it: tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from simnet.markup import Markup, clip, tag
from simnet.outcome import Invariant, Outcome, RoundOutcome
from simnet.page.words import NAME_MAX, SAYS_MAX, SEEN_MAX, loss_text, or_nan
from simnet.text import count_text, duration_text, size_text

BREACHES_MAX: Final = 8  # of one invariant
ROUNDS_MAX: Final = 60  # rows


def draw_rules(outcome: Outcome) -> Markup:
    invariants = outcome.invariants
    if not invariants:
        return tag("section", tag("h2", "Rules"), tag("p", "No rule was watched.", class_="lead"))
    broken = sum(bool(each.breaches) for each in invariants.values())
    checks = sum(each.checks for each in invariants.values())
    ordered = sorted(invariants.items(), key=lambda item: not item[1].breaches)
    head = tag(
        "tr",
        tag("th", "", tag("span", "verdict"), scope="col"),
        tag("th", "rule", scope="col"),
        tag("th", "checked", scope="col", class_="n"),
        tag("th", "broken", scope="col", class_="n"),
    )
    return tag(
        "section",
        tag("h2", f"{count_text(len(invariants), 'rule')}, checked {checks:,} times, {broken or 'none'} broken"),
        tag("div", tag("table", tag("caption", "What had to hold, whatever happened."), tag("thead", head),
            tag("tbody", *(_rule(name, each) for name, each in ordered)), class_="wide"), class_="scroll", tabindex="0"),
    )  # fmt: skip


def _rule(name: str, each: Invariant) -> Markup:
    verdict, class_ = (
        ("✗ broken", "bad") if each.breaches else ("✓ held", "good") if each.checks else ("not checked", "warn")
    )
    seen = [tag("li", clip(text, SEEN_MAX)) for text in each.breaches[:BREACHES_MAX]]
    if len(each.breaches) > len(seen):
        seen.append(tag("li", f"and {len(each.breaches) - len(seen):,} more", class_="soft"))
    return tag(
        "tr",
        tag("td", tag("b", verdict), class_=class_, style="white-space:nowrap"),
        tag("td", tag("b", clip(name, NAME_MAX)), tag("br"), clip(each.says, SAYS_MAX),
            tag("ul", *seen, class_="seen") if seen else "", class_="says"),
        tag("td", f"{each.checks:,}", class_="n"),
        tag("td", f"{len(each.breaches):,}", class_="n"),
    )  # fmt: skip


def draw_rounds(outcome: Outcome) -> Markup:
    rounds = outcome.rounds
    if not rounds:
        return Markup("")
    has_plain = any(each.loss_plain is not None for each in rounds)
    has_honest = any(each.loss_honest is not None for each in rounds)
    fields: list[tuple[str, Callable[[RoundOutcome], str]]] = [
        ("closed", lambda each: duration_text(each.seconds)),
        ("loss", lambda each: loss_text(each.loss)),
    ]
    if has_plain:
        fields.append(("plain averaging", lambda each: loss_text(or_nan(each.loss_plain))))
    if has_honest:
        fields.append(("without villains", lambda each: loss_text(or_nan(each.loss_honest))))
    fields += [
        ("learners", lambda each: f"{each.learners:,}"),
        ("deltas", lambda each: f"{each.deltas:,}"),
        ("tiles advanced", lambda each: f"{each.tiles_advanced:,}"),
        ("by a standby", lambda each: f"{each.takeovers:,}"),
        ("WAN", lambda each: size_text(each.wan_bytes)),
        ("local", lambda each: size_text(each.local_bytes)),
    ]
    shown = rounds if len(rounds) <= ROUNDS_MAX else [*rounds[: ROUNDS_MAX // 2], *rounds[-ROUNDS_MAX // 2 :]]
    head = tag(
        "tr",
        tag("th", "round", scope="col", class_="n"),
        *(tag("th", name, scope="col", class_="n") for name, _ in fields),
    )
    rows = (
        tag(
            "tr",
            tag("th", f"{each.round:,}", scope="row", class_="n"),
            *(tag("td", text(each), class_="n") for _, text in fields),
        )
        for each in shown
    )
    caption = "The first and the last of them." if len(shown) < len(rounds) else "Every round that was decided."
    table = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *rows), class_="wide")
    return tag(
        "section",
        tag("h2", count_text(len(rounds), "round")),
        tag("details", tag("summary", "Every number"), tag("div", table, class_="scroll", tabindex="0")),
    )
