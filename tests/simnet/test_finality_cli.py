"""``nocknode simnet run finality`` as a conversation: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from consensus.finality.core import FinalityCore
from protocol.rejection import InvariantBroken, Reason, Rejected, check_invariant
from simnet.cli import simnet
from simnet.finality.members import RIGHT, Machine
from simnet.finality.scripts import SCRIPTS
from simnet.finality.villains import SUMMARIES
from simnet.seeds import parse_seeds
from tests.consensus.finality.mutants import MUTANTS

ROOT = Path(__file__).parents[2]
RULES = ("unsafe", "framed", "not_live", "not_durable", "not_conserved", "not_replayed")
NEEDED = {"seeds", *RULES, "simulated_hours", "events", "digest"}


def say(*arguments: str, machine: Machine = RIGHT) -> int:
    """The command in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        simnet.main(["run", "finality", *arguments], prog_name="nocknode simnet", standalone_mode=False, obj=machine)
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_facts_are_the_last_line_of_stdout(capsys):
    """One object with the counts, the digest of all logs, and nothing that a clock said: twice the same."""
    lines = []
    for _ in range(2):
        assert say("--seeds", "3..6", "--json") == 0
        lines.append(capsys.readouterr().out.splitlines()[-1])
    facts = json.loads(lines[0])
    assert lines[0] == lines[1]
    assert set(facts) >= NEEDED
    assert facts["seeds"] == 4
    assert [facts[rule] for rule in RULES] == [0] * len(RULES)
    assert facts["simulated_hours"] > 0
    assert facts["epochs"] > facts["set_changes"] > 0
    assert facts["re_proposals"] >= 0
    assert facts["failures"] == []


def test_people_get_a_table_and_progress_on_stderr(capsys):
    """Without a terminal progress is a plain line now and then; the table fits into eighty columns, uncut."""
    assert say("--seeds", "0..3", "--villain", "twins") == 0
    said = capsys.readouterr()
    assert "4 of 4 seeds" in said.err
    assert "\x1b" not in said.err
    for word in ("twins", *(rule.replace("_", " ") for rule in RULES), "simulated", "digest"):
        assert word in said.out
    assert "…" not in said.out
    assert "seeds," not in said.out


def test_too_many_villains_are_no_failure_while_they_are_convicted(capsys):
    """Forks are counted; the exit code is 0."""
    assert say("--seeds", "0..9", "--villain", "equivocator", "--byzantine", "over", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["byzantine"] == "over"
    assert facts["unattributed"] == 0


def test_a_part_of_the_twins_scripts(capsys):
    """The same facts; a failure names the script, and the printed command fails with it."""
    assert say("--twins", "--seeds", "70..73", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) >= NEEDED
    assert (facts["seeds"], facts["villain"], facts["unsafe"]) == (4, "scripted twins", 0)
    machine = MUTANTS["quorum 2f"]
    assert say("--twins", "--seeds", "70..73", "--json", machine=machine) == 1
    failure = json.loads(capsys.readouterr().out)["failures"][0]
    assert failure["repeat"] == "nocknode simnet run finality --twins --seeds 70..70"
    assert say(*shlex.split(failure["repeat"])[4:], "--json", machine=machine) == 1


def test_a_failure_prints_the_one_command_that_repeats_it(capsys):
    """Exit code 1, and the printed command fails with the same sentence."""
    machine = MUTANTS["S2 removed"]
    assert say("--seeds", "0..9", "--villain", "twins", "--json", machine=machine) == 1
    said = capsys.readouterr()
    failure = json.loads(said.out)["failures"][0]
    assert f"repeat: {failure['repeat']}" in said.err
    words = shlex.split(failure["repeat"])
    assert words[:4] == ["nocknode", "simnet", "run", "finality"]
    assert say(*words[4:], "--json", machine=machine) == 1
    assert json.loads(capsys.readouterr().out)["failures"] == [failure]


def test_the_command_names_all_that_the_run_was_asked(capsys):
    """Members, villain and weight are part of what repeats a failure."""
    chosen = ("--n", "7", "--villain", "equivocator", "--byzantine", "over")
    assert say("--seeds", "0..39", *chosen, machine=MUTANTS["quorum 2f"]) == 1
    assert f"{' '.join(chosen[:2])} {' '.join(chosen[2:])}" in capsys.readouterr().err


class CoreThatBreaks(FinalityCore):
    """Breaks an invariant of its own as soon as it leads."""

    def _request_build(self, parent: object) -> None:
        check_invariant(False, "planted")


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_broken_invariant_ends_the_run_and_names_its_seed(capsys, jobs):
    """It is a bug of ours and not caught; the command that repeats it is on stderr all the same."""
    with pytest.raises(InvariantBroken, match="planted"):
        say("--seeds", "5..8", "--jobs", jobs, machine=Machine(core=CoreThatBreaks))
    assert "repeat: nocknode simnet run finality --seeds 5..5 --n 4" in capsys.readouterr().err


def test_many_failures_are_not_a_flood(capsys):
    """Ten are told; JSON has all."""
    assert say("--seeds", "0..29", machine=MUTANTS["finalizes twice"]) == 1
    said = capsys.readouterr().err
    assert said.count("repeat:") == 10
    assert "and 20 more" in said


@pytest.mark.parametrize(
    "text", ["", "5", "5..", "..5", "5..4", "-1..4", "a..b", "0..9999999999", "0..5000000", "1...3"]
)
def test_seeds_that_cannot_be_meant_are_refused(text):
    """One sentence, with the option in it."""
    with pytest.raises(Rejected, match="--seeds") as refused:
        parse_seeds(text)
    assert refused.value.reason is Reason.BAD_ARGUMENT


def test_seeds_include_both_ends():
    """17..17 is one seed."""
    assert parse_seeds("17..17") == range(17, 18)
    assert parse_seeds("0..99") == range(100)


def run(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "node", "simnet", "run", "finality", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--seeds", "9..1"), "--seeds"),
        (("--n", "5"), "--n"),
        (("--villain", "joker"), "joker"),
        (("--byzantine", "much"), "much"),
        (("--jobs", "0"), "--jobs"),
        (("--twins", "--n", "7"), "--twins"),
        (("--twins", "--villain", "twins"), "--twins"),
        (("--twins", "--seeds", f"0..{SCRIPTS}"), "--twins"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_two(arguments, word):
    """On stderr, naming the option; nothing is run."""
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("nocknode: ")
    assert len(done.stderr.splitlines()) == 1
    assert word in done.stderr


def test_help_shows_every_villain():
    """By name, with what it does."""
    done = run("--help")
    assert done.returncode == 0
    for name, summary in SUMMARIES.items():
        assert f"  {name} " in done.stdout
        assert summary in done.stdout
