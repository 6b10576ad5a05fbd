"""``nocknode simnet run SCENARIO`` and ``simnet swarm`` as conversations: what they print, where, and how they end."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.rejection import InvariantBroken, Reason, Rejected
from simnet.cli import simnet
from simnet.scenario_file import list_scenarios
from tests.simnet.fake_world import BREACHES, FAKES

ROOT = Path(__file__).parents[2]
NEEDED = {"peers", "virtual_seconds", "invariants", "loss", "wan_bytes_per_step", "digest", "passed", "repeat"}


def say(*arguments: str) -> int:
    """The command in this process, with fakes for worlds and page; its exit code."""
    with pytest.raises(SystemExit) as ended:
        simnet.main(list(arguments), prog_name="nocknode simnet", standalone_mode=False, obj=FAKES)
    code = ended.value.code
    assert isinstance(code, int)
    return code


def facts(capsys) -> dict:
    """What the last line of stdout says."""
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_facts_are_the_last_line_of_stdout(capsys):
    """The outcome as one object, the same for every run of one command."""
    lines = []
    for _ in range(2):
        assert say("run", "calm", "--json", "--seed", "5") == 0
        lines.append(capsys.readouterr().out.splitlines()[-1])
    assert lines[0] == lines[1]
    told = json.loads(lines[0])
    assert set(told) >= NEEDED
    assert (told["scenario"], told["seed"], told["level"], told["peers"]) == ("calm", 5, 2, 40)
    assert told["repeat"] == "nocknode simnet run calm --seed 5"
    assert told["invariants"]["chain_agrees"] == {"says": "One chain.", "checks": 40, "breaches": 0, "seen": []}


def test_people_get_a_sentence_a_table_and_progress_on_stderr(capsys):
    """Every rule with how often it was looked at, in eighty columns, uncut; progress in the world's own time."""
    assert say("run", "poison") == 0
    said = capsys.readouterr()
    assert "1:00:00 of 1:00:00" in said.err
    assert "\x1b" not in said.err
    assert said.out.startswith("Three learners in ten")
    for word in (
        "poison, seed 0, level 2",
        "2.0000 to 0.5714",
        "plain averaging",
        "chain_agrees",
        "40 checks",
        "3.0 MB",
    ):
        assert word in said.out
    assert "…" not in said.out
    assert max(map(len, said.out.splitlines()[1:])) <= 80


def test_what_the_command_asked_is_what_the_world_gets_and_what_repeats_it(capsys):
    """Size, form and level; the order is that the small form is made first."""
    assert say("run", "flash-crowd", "--ci", "--peers", "30", "--level", "1", "--json") == 0
    told = facts(capsys)
    assert (told["level"], told["peers"], told["validators"], told["virtual_seconds"]) == (1, 30, 4, 360.0)
    assert told["repeat"] == "nocknode simnet run flash-crowd --seed 0 --level 1 --ci --peers 30"


def test_a_breach_is_told_with_the_command_that_repeats_it(capsys):
    """Exit code 1; the printed command breaks the same rules."""
    assert say("run", "calm", "--ci", "--seed", "13") == 1
    said = capsys.readouterr()
    assert "chain_agrees: One chain." in said.err
    assert said.err.count("two blocks") == 5
    assert "and 2 more" in said.err
    assert f"40 checks, BROKEN {BREACHES} times" in said.out
    repeat = next(line for line in said.err.splitlines() if line.startswith("repeat: ")).removeprefix("repeat: ")
    assert repeat == "nocknode simnet run calm --seed 13 --ci"
    assert say(*shlex.split(repeat)[2:], "--json") == 1
    assert facts(capsys)["invariants"]["no_failure"]["breaches"] == 1


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_many_seeds_are_a_list_and_totals(capsys, jobs):
    """In the order of the seeds, in however many processes; exit code 1 when one of them failed."""
    assert say("run", "calm", "--ci", "--seeds", "0..9", "--jobs", jobs, "--json") == 1
    said = capsys.readouterr()
    told = json.loads(said.out.splitlines()[-1])
    assert (told["scenario"], told["level"], told["seeds"], told["passed"], told["failed"]) == ("calm", 2, 10, 9, 1)
    assert [run["seed"] for run in told["runs"]] == list(range(10))
    broken = told["runs"][3]
    assert broken["breaches"] == {"chain_agrees": BREACHES, "no_failure": 1}
    assert broken["repeat"] == "nocknode simnet run calm --seed 3 --ci"
    assert f"repeat: {broken['repeat']}" in said.err
    assert "10 of 10 seeds" in said.err
    assert say("run", "calm", "--ci", "--seeds", "0..9", "--json") == 1
    assert facts(capsys) == told


def test_many_seeds_for_people(capsys):
    """A table with the rules that were broken; failures are no flood."""
    assert say("run", "calm", "--ci", "--seeds", "100..219") == 1
    said = capsys.readouterr()
    for word in ("calm, level 2", "passed", "108", "chain_agrees", "12.00 h"):
        assert word in said.out
    assert said.err.count("repeat:") == 10
    assert "and 2 more" in said.err


def test_a_broken_invariant_ends_the_run_and_names_its_seed(capsys):
    """It is a bug of ours and not caught; the command that repeats it is on stderr all the same."""
    for arguments in (("run", "calm", "--seed", "66"), ("run", "calm", "--seeds", "60..70", "--jobs", "2")):
        with pytest.raises(InvariantBroken, match="planted"):
            simnet.main(list(arguments), prog_name="nocknode simnet", standalone_mode=False, obj=FAKES)
        assert "repeat: nocknode simnet run calm --seed 66" in capsys.readouterr().err


def test_a_swarm_draws_a_scenario_for_each_seed(capsys):
    """The repeated seed draws the same one."""
    assert say("swarm", "--seeds", "10..14", "--json") == 1
    told = facts(capsys)
    assert [run["scenario"] for run in told["runs"]] == [f"swarm-{seed}" for seed in range(10, 15)]
    broken = told["runs"][3]
    assert broken["repeat"] == "nocknode simnet swarm --seeds 13..13"
    assert say(*shlex.split(broken["repeat"])[2:], "--json") == 1
    assert facts(capsys)["runs"] == [broken]


def test_a_file_of_ones_own(capsys, tmp_path):
    """By its path, in the command that repeats it too."""
    path = tmp_path / "my net.toml"
    path.with_name("mine.toml").write_text('base = "calm"\npeers = 20\nsays = "Half of a calm network."\n')
    assert say("run", str(path.with_name("mine.toml")), "--json") == 0
    told = facts(capsys)
    assert (told["scenario"], told["peers"], told["validators"]) == ("mine", 20, 10)
    assert shlex.split(told["repeat"])[3] == str(path.with_name("mine.toml"))


def test_a_page_is_written_where_it_was_asked_for(capsys, tmp_path):
    """Beside the table."""
    page = tmp_path / "calm.html"
    assert say("run", "calm", "--html", str(page)) == 0
    assert page.read_text() == "<p>calm 0</p>"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("run", "clam"), "did you mean calm"),
        (("run", "nowhere.toml"), "nowhere.toml"),
        (("run", "calm", "--seeds", "9..1"), "--seeds"),
        (("run", "calm", "--seeds", "0..1", "--seed", "1"), "--seed"),
        (("run", "calm", "--seeds", "0..1", "--html", "page.html"), "--html"),
        (("run", "calm", "--html", "no/such/folder/page.html"), "--html"),
        (("run", "calm", "--seed", "-1"), "--seed"),
        (("run", "calm", "--peers", "0"), "--peers"),
        (("run", "calm", "--peers", "100000"), "--peers"),
        (("run", "calm", "--jobs", "0"), "--jobs"),
        (("swarm", "--jobs", "9999"), "--jobs"),
    ],
)
def test_mistakes_are_one_sentence(arguments, word):
    """Naming the option or the file; nothing is run."""
    with pytest.raises(Rejected) as refused:
        simnet.main(list(arguments), prog_name="nocknode simnet", standalone_mode=False, obj=FAKES)
    assert refused.value.reason in (Reason.BAD_ARGUMENT, Reason.BAD_CONFIG)
    assert word in refused.value.detail


def run(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "node", "simnet", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_mistake_is_exit_code_two():
    """One line on stderr, from the program itself."""
    done = run("run", "clam")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nocknode: ")
    assert len(done.stderr.splitlines()) == 1


def test_help_shows_every_scenario():
    """By name, with its sentence; finality is there too."""
    done = run("run", "--help")
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    for scenario in list_scenarios():
        assert f"{scenario.name} {scenario.says}" in words
    assert "  finality " in done.stdout
