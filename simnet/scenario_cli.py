"""``nocknode simnet run SCENARIO`` and ``nocknode simnet swarm``: whole networks in virtual time, from data and a seed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from protocol.rejection import Reason, Rejected
from simnet.run import Parts, Plan, run_many, run_seed
from simnet.scenario import PEERS_MAX, Scenario
from simnet.scenario_file import find_scenario, list_scenarios
from simnet.scenario_size import ci_sized, resize
from simnet.seeds import check_jobs, check_seed, parse_seeds

FINALITY: Final = "finality"
FINALITY_SAYS: Final = "The finality machine and the ledger alone, with every fault and villain that a seed can draw."
SWARM_SEEDS: Final = "0..99"
FAILED: Final = 1

_EXIT_CODES: Final = (
    "Exit codes: 0 every rule held; 1 one did not; 2 a mistake in the options or the file; 130 stopped by Ctrl-C."
)
Command = Callable[..., None]


class Worlds(click.Group):
    """The virtual worlds by name: the scenarios that are shipped, files of scenarios, and finality.

    A world is imported when it is run, so that ``--help`` stays quick.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*(scenario.name for scenario in list_scenarios()), FINALITY]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == FINALITY:
            from simnet.finality.cli import finality

            return finality
        return _command_of(cmd_name, find_scenario(cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Scenarios"):
            formatter.write_dl([(scenario.name, scenario.says) for scenario in list_scenarios()])
            formatter.write_paragraph()
            formatter.write_dl([("FILE.toml", "One of yours; configs/scenarios/ shows how they are written.")])
        with formatter.section("One part by itself"):
            formatter.write_dl([(FINALITY, FINALITY_SAYS)])


run = Worlds(
    "run",
    help="""Virtual worlds: one process, virtual time, everything drawn from a seed.

    The same seed gives the same run, to the last byte, on every machine.""",
    subcommand_metavar="SCENARIO [OPTIONS]",
    epilog=f"""\b
Examples:
  nocknode simnet run calm --peers 200
  nocknode simnet run poison --seed 7 --html poison.html
  nocknode simnet run region-cut --ci --seeds 0..99 --jobs 8
  nocknode simnet run calm --help                  every option
  nocknode simnet run finality --seeds 0..999

{_EXIT_CODES}""",
)


def _shared_options(command: Command) -> Command:
    """What one scenario and a swarm of them have in common."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Facts as one JSON object, the last line of stdout."),
        click.option(
            "--jobs",
            default=1,
            show_default=True,
            metavar="N",
            help="Seeds at the same time, each a process. E.g. --jobs 8",
        ),
    ):
        command = option(command)
    return command


def _command_of(asked: str, scenario: Scenario) -> click.Command:
    """The command that runs this scenario."""

    @click.command(
        asked,
        help=f"{scenario.says}\n\n{_about(scenario)}",
        epilog=f"\b\n{_EXIT_CODES}",
    )
    @click.option("--seed", type=int, metavar="N", help="What everything is drawn from; else 0. E.g. --seed 7")
    @click.option("--seeds", metavar="A..B", help="First and last of many seeds, a line for each. E.g. --seeds 0..99")
    @click.option("--peers", type=int, metavar="N", help="Another size; the rest of it goes along. E.g. --peers 200")
    @click.option(
        "--level", default="2", show_default=True, type=click.Choice(("1", "2")),
        help="2: whole nodes; 1: their cores alone, for a thousand peers.",
    )  # fmt: skip
    @click.option(
        "--ci", is_flag=True, help="Small and short: 14 peers, rounds of a minute; every fault still happens."
    )
    @click.option("--html", metavar="FILE", help="Also write a page with pictures. E.g. --html calm.html")
    @_shared_options
    @click.pass_context
    def command(
        context: click.Context,
        seed: int | None,
        seeds: str | None,
        peers: int | None,
        level: str,
        ci: bool,
        html: str | None,
        jobs: int,
        as_json: bool,
    ) -> None:
        if seeds is not None and (seed is not None or html is not None):
            raise Rejected(Reason.BAD_ARGUMENT, f"--seeds {seeds}: --seed and --html are for one seed; leave them out")
        if peers is not None and not 1 <= peers <= PEERS_MAX:
            raise Rejected(Reason.BAD_ARGUMENT, f"--peers {peers}: it must be 1 to {PEERS_MAX}")
        check_jobs(jobs)
        page = _check_page(html)
        chosen, options = scenario, ""  # as they are typed again by whoever repeats a seed
        if level != "2":
            options += f" --level {level}"
        if ci:
            chosen, options = ci_sized(chosen), f"{options} --ci"
        if peers is not None:
            chosen, options = resize(chosen, peers), f"{options} --peers {peers}"
        plan = Plan(asked, chosen, int(level), options, context.find_object(Parts) or Parts())
        if seeds is None:
            sys.exit(_run_one(plan, check_seed(seed or 0), page, as_json))
        sys.exit(_run_many(f"{chosen.name}, level {level}", plan, parse_seeds(seeds), jobs, as_json))

    return command


@click.command(
    epilog=f"""\b
Examples:
  nocknode simnet swarm --seeds 0..999 --jobs 8
  nocknode simnet swarm --seeds 17..17            one of them again

{_EXIT_CODES}"""
)
@click.option("--seeds", default=SWARM_SEEDS, show_default=True, metavar="A..B", help="First and last seed.")
@_shared_options
@click.pass_context
def swarm(context: click.Context, seeds: str, jobs: int, as_json: bool) -> None:
    """Draw whole scenarios from seeds, and run each with whole nodes.

    Some are calm, some lack most faults, some have all of them: regions cut and slow, crashes, full disks, killed owners, dead
    bootstraps, wrong clocks, liars, an eclipse, churn, arrivals, villains.
    """
    plan = Plan("swarm", None, parts=context.find_object(Parts) or Parts())
    chosen = parse_seeds(seeds)
    sys.exit(_run_many("swarm", plan, chosen, check_jobs(jobs), as_json))


# -- inside ------------------------------------------------------------------------------------------------------------


def _run_one(plan: Plan, seed: int, page: Path | None, as_json: bool) -> int:
    from simnet.progress import TimeProgress  # these draw on the terminal; --help needs none of it
    from simnet.scenario_report import print_json, print_outcome, tell_breaches

    progress = TimeProgress(plan.scenario_of(seed).seconds)
    outcome = _noting(lambda: run_seed(plan, seed, progress.update), progress.close)
    if page is not None:
        page.write_text(plan.parts.render(outcome, plan.scenario_of(seed)), encoding="utf-8")
    tell_breaches(outcome)
    if as_json:
        print_json(outcome.facts())
    else:
        print_outcome(outcome)
    return 0 if outcome.passed else FAILED


def _run_many(title: str, plan: Plan, seeds: range, jobs: int, as_json: bool) -> int:
    from simnet.progress import SeedProgress
    from simnet.run import Totals
    from simnet.scenario_report import print_json, print_totals, tell_failures

    progress = SeedProgress(len(seeds))

    def on_result(totals: Totals) -> None:
        progress.update(len(totals.results), totals.events, len(totals.failures))

    totals = _noting(lambda: run_many(plan, seeds, min(jobs, len(seeds)), on_result), progress.close)
    tell_failures(totals)
    if as_json:
        print_json({"scenario": plan.asked, "level": plan.level, **totals.facts()})
    else:
        print_totals(title, totals)
    return FAILED if totals.failures else 0


def _noting(work: Callable[[], Any], close: Callable[[], None]) -> Any:
    """The work's result; of an exception, the notes (how to repeat it) go to stderr before it ends the program."""
    try:
        return work()
    except BaseException as error:
        for note in getattr(error, "__notes__", ()):
            click.echo(note, err=True)
        raise
    finally:
        close()


def _about(scenario: Scenario) -> str:
    learning = scenario.learning
    return (
        f"{scenario.peers} peers, {scenario.validators} of them in the first roster, {len(scenario.regions)} regions, "
        f"{scenario.rounds} rounds of {learning.round_seconds:g} s."
    )


def _check_page(name: str | None) -> Path | None:
    """Where the page goes, before an hour is simulated for it; raises ``Rejected(BAD_ARGUMENT)``."""
    if name is None:
        return None
    path = Path(name).expanduser()
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise Rejected(Reason.BAD_ARGUMENT, f"--html {name}: it must be a file in a folder that we may write to")
    return path
