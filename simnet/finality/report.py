"""What a run says: progress on stderr, a table or one JSON object on stdout, and how to repeat what failed."""

from __future__ import annotations

import json
import sys
from typing import Final

from rich.console import Console
from rich.table import Table

from simnet.finality.run import Plan, Totals
from simnet.finality.watch import Rule

FAILURES_TOLD_MAX: Final = 10
MS_PER_HOUR: Final = 3_600_000

# For people; the names in the JSON object are the rules' own.
HEADINGS: Final = {
    Rule.UNSAFE: "unsafe",
    Rule.FRAMED: "framed",
    Rule.NOT_LIVE: "not live",
    Rule.NOT_DURABLE: "not durable",
    Rule.NOT_CONSERVED: "not conserved",
    Rule.NOT_REPLAYED: "not replayed",
    Rule.UNATTRIBUTED: "unattributed",
    Rule.BROKEN: "broken",
}


def facts_of(plan: Plan, totals: Totals) -> dict[str, object]:
    """The run as one object; the same for every run of one command."""
    return {
        "members": plan.count,
        "villain": plan.villain or ("scripted twins" if plan.twins else "drawn"),
        "byzantine": "over" if plan.over else "below",
        "seeds": totals.seeds,
        **{rule.value: totals.broken[rule] for rule in Rule},
        "forked": totals.forked,
        "exposed": totals.exposed,
        "simulated_hours": round(totals.simulated_ms / MS_PER_HOUR, 4),
        "events": totals.events,
        "epochs": totals.epochs,
        "set_changes": totals.set_changes,
        "re_proposals": totals.re_proposals,
        "digest": totals.digest,
        "failures": [
            {"seed": failure.seed, "sentence": failure.sentence, "repeat": plan.command(failure.seed)}
            for failure in totals.failures
        ],
    }


def print_json(plan: Plan, totals: Totals) -> None:
    """The last line of stdout."""
    print(json.dumps(facts_of(plan, totals)), flush=True)


def print_summary(plan: Plan, totals: Totals) -> None:
    """A table for people: one line a number, so that it fits everywhere."""
    over = ", more than a third Byzantine" if plan.over else ""
    villain = facts_of(plan, totals)["villain"]
    table = Table(title=f"finality, {plan.count} members, villain: {villain}{over}", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    rows = {
        "seeds": f"{totals.seeds:,}",
        "simulated": f"{totals.simulated_ms / MS_PER_HOUR:.2f} h",
        "events": f"{totals.events:,}",
        "epochs": f"{totals.epochs:,}",
        "sets of voters changed": f"{totals.set_changes:,}",
        "boundaries proposed again": f"{totals.re_proposals:,}",
        **({"chains forked": f"{totals.forked:,}", "exposed by members": f"{totals.exposed:,}"} if plan.over else {}),
        **{heading: f"{totals.broken[rule]:,}" for rule, heading in HEADINGS.items()},
        "digest": totals.digest[:16],
    }
    for heading, value in rows.items():
        table.add_row(heading, value)
    Console().print(table)


def tell_failures(plan: Plan, totals: Totals) -> None:
    """Each with the command that repeats it, on stderr."""
    for failure in totals.failures[:FAILURES_TOLD_MAX]:
        print(f"seed {failure.seed}: {failure.sentence} ({failure.faults})", file=sys.stderr)
        print(f"  repeat: {plan.command(failure.seed)}", file=sys.stderr)
    more = len(totals.failures) - FAILURES_TOLD_MAX
    if more > 0:
        print(f"and {more} more; --json names all", file=sys.stderr)
