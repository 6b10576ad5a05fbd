"""What a run of scenarios says: a table or one JSON object on stdout, and on stderr how to repeat what failed."""

from __future__ import annotations

import json
import sys
from typing import Final

from rich.console import Console
from rich.table import Table

from simnet.outcome import Outcome
from simnet.run import Totals
from simnet.text import count_text, duration_text, size_text

BREACHES_TOLD_MAX: Final = 5  # of each rule
FAILURES_TOLD_MAX: Final = 10
SECONDS_PER_HOUR: Final = 3600


def print_json(facts: dict[str, object]) -> None:
    """The last line of stdout."""
    print(json.dumps(facts), flush=True)


def print_outcome(outcome: Outcome) -> None:
    """One run as a table for people: what it came to, then every rule and how often it was looked at."""
    print(outcome.says)
    rounds, samples = outcome.rounds, outcome.samples
    rows = {
        "peers": f"{outcome.peers:,}, {outcome.validators} in the first roster",
        "virtual time": duration_text(outcome.virtual_seconds),
        "rounds": f"{len(rounds)}",
    }
    if rounds:
        last = rounds[-1]
        rows["loss"] = f"{rounds[0].loss:.4f} to {last.loss:.4f}"
        if last.loss_honest is not None:
            rows["loss without villains"] = f"{last.loss_honest:.4f}"
        if last.loss_plain is not None:
            rows["loss with plain averaging"] = f"{last.loss_plain:.4f}"
        rows["learners in the last round"] = f"{last.learners:,}"
        rows["standbys that took over"] = f"{sum(each.takeovers for each in rounds):,}"
    rows["between regions"] = (
        f"{size_text(outcome.wan_bytes_per_round)} a round, {size_text(outcome.wan_bytes_per_step)} a step"
    )
    if samples:
        rows["chain"] = f"height {samples[-1].height:,}"
        rows["finality lag"] = f"{max(each.finality_lag_seconds for each in samples):.1f} s at most"
        rows["longest queue"] = f"{max(each.queue_max for each in samples):,}"
    rows["owners moved"] = f"{len(outcome.moves):,}"
    rows["events"] = f"{outcome.events:,}"
    rows["digest"] = outcome.digest[:16]
    table = _table(f"{outcome.scenario}, seed {outcome.seed}, level {outcome.level}", rows)
    table.add_section()
    for name, rule in outcome.invariants.items():
        checks = count_text(rule.checks, "check")
        table.add_row(name, f"{checks}, BROKEN {len(rule.breaches):,} times" if rule.breaches else checks)
    Console().print(table)


def print_totals(title: str, totals: Totals) -> None:
    """Many seeds as a table: one line a number, so that it fits everywhere."""
    broken: dict[str, int] = {}
    for result in totals.failures:
        for name in result.breaches:
            broken[name] = broken.get(name, 0) + 1
    rows = {
        "seeds": f"{len(totals.results):,}",
        "passed": f"{len(totals.results) - len(totals.failures):,}",
        "failed": f"{len(totals.failures):,}",
        **{f"  {name}": f"{broken[name]:,}" for name in sorted(broken)},
        "simulated": f"{totals.virtual_seconds / SECONDS_PER_HOUR:.2f} h",
        "events": f"{totals.events:,}",
        "digest": totals.digest[:16],
    }
    Console().print(_table(title, rows))


def tell_breaches(outcome: Outcome) -> None:
    """Every rule that was broken, where, and the command that repeats it, on stderr."""
    for name, rule in outcome.invariants.items():
        if rule.breaches:
            print(f"{name}: {rule.says}", file=sys.stderr)
        for breach in rule.breaches[:BREACHES_TOLD_MAX]:
            print(f"  {breach}", file=sys.stderr)
        if len(rule.breaches) > BREACHES_TOLD_MAX:
            print(f"  and {len(rule.breaches) - BREACHES_TOLD_MAX} more; --json names all", file=sys.stderr)
    if not outcome.passed:
        print(f"repeat: {outcome.repeat}", file=sys.stderr)


def tell_failures(totals: Totals) -> None:
    """Each seed that failed with the command that repeats it, on stderr."""
    for result in totals.failures[:FAILURES_TOLD_MAX]:
        print(f"seed {result.seed}: {result.seen[0]}", file=sys.stderr)
        print(f"  {result.says}", file=sys.stderr)
        print(f"  repeat: {result.repeat}", file=sys.stderr)
    more = len(totals.failures) - FAILURES_TOLD_MAX
    if more > 0:
        print(f"and {more} more; --json names all", file=sys.stderr)


def _table(title: str, rows: dict[str, str]) -> Table:
    table = Table(title=title, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for heading, value in rows.items():
        table.add_row(heading, value)
    return table
