"""``nocknode simnet run finality``: many seeds of the virtual world, and one command for each that fails."""

from __future__ import annotations

import sys
from typing import Final

import click

from protocol.rejection import Reason, Rejected
from simnet.finality.members import RIGHT, Machine
from simnet.finality.report import print_json, print_summary, tell_failures
from simnet.finality.run import Plan, Totals, run_many
from simnet.finality.scripts import SCRIPTS
from simnet.finality.villains import SUMMARIES
from simnet.progress import SeedProgress
from simnet.seeds import check_jobs, parse_seeds

MEMBERS: Final = ("4", "7", "10", "31")
FAILED: Final = 1

_WIDTH: Final = max(map(len, SUMMARIES))
_VILLAINS: Final = "\n".join(f"  {name:<{_WIDTH}}  {summary}" for name, summary in SUMMARIES.items())


@click.command(
    epilog=f"""\b
Villains:
{_VILLAINS}

\b
Examples:
  nocknode simnet run finality --seeds 0..999 --jobs 8
  nocknode simnet run finality --seeds 0..99 --n 7 --villain twins
  nocknode simnet run finality --seeds 0..99 --byzantine over --json
  nocknode simnet run finality --twins --seeds 0..9999    a fair sample, 3 minutes; all: 90 of one core

Exit codes: 0 every rule held for every seed; 1 one did not; 2 a mistake in the options; 130 stopped by Ctrl-C."""
)
@click.option(
    "--seeds", default=None, show_default="0..99", metavar="A..B", help="First and last seed. E.g. --seeds 17..17"
)
@click.option("--n", "members", default="4", show_default=True, type=click.Choice(MEMBERS), help="How many members.")
@click.option(
    "--villain", type=click.Choice(tuple(SUMMARIES)), help="Who misbehaves; else each seed draws one, or none."
)
@click.option(
    "--byzantine", default="below", show_default=True, type=click.Choice(("below", "over")),
    help="Villains hold the most weight below a third, or more: then every fork must convict more than a third.",
)  # fmt: skip
@click.option(
    "--twins", is_flag=True,
    help="Instead of what seeds draw: every script of four views for three honest members and one pair of twins, each leader "
    f"and each cut in two: {SCRIPTS:,}, of those that a renaming makes equal one. --seeds A..B: a fair sample.",
)  # fmt: skip
@click.option("--jobs", default=1, show_default=True, metavar="N", help="Processes at the same time. E.g. --jobs 8")
@click.option("--json", "as_json", is_flag=True, help="Facts as one JSON object, the last line of stdout.")
@click.pass_context
def finality(
    context: click.Context,
    seeds: str | None,
    members: str,
    villain: str | None,
    byzantine: str,
    twins: bool,
    jobs: int,
    as_json: bool,
) -> None:
    """Run the finality machine in a world of virtual time: every fault drawn from a seed, every rule watched.

    The network loses, delays, repeats, reorders and partitions; members crash between any two effects; who votes changes
    between epochs; villains hold real keys; blocks move money in the real ledger. Safety must hold always, no money may appear
    or vanish, all blocks again must give the same state, and 25 s later, when everything works again, a core of more than
    two thirds must go on.
    """
    chosen = parse_seeds(seeds or (f"0..{SCRIPTS - 1}" if twins else "0..99"))
    if twins and (chosen[-1] >= SCRIPTS or (members, villain, byzantine) != ("4", None, "below")):
        raise Rejected(Reason.BAD_ARGUMENT, f"--twins has its own members and villain, and --seeds up to {SCRIPTS - 1}")
    check_jobs(jobs)
    plan = Plan(int(members), villain, byzantine == "over", twins)
    machine = context.find_object(Machine) or RIGHT  # tests hand in a wrong one
    progress = SeedProgress(len(chosen))

    def on_result(totals: Totals) -> None:
        progress.update(totals.seeds, totals.events, len(totals.failures))

    try:
        totals = run_many(plan, chosen, min(jobs, len(chosen)), on_result, machine)
    except BaseException as error:
        for note in getattr(error, "__notes__", ()):
            click.echo(note, err=True)
        raise
    finally:
        progress.close()
    tell_failures(plan, totals)
    if as_json:
        print_json(plan, totals)
    else:
        print_summary(plan, totals)
    sys.exit(FAILED if totals.failures else 0)
