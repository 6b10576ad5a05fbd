"""Whole runs with fake nodes: real processes, real sockets, no learning."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

DRIVER = [sys.executable, str(Path(__file__).with_name("driver.py"))]
ROOT = Path(__file__).resolve().parents[2]
KEYS = [
    "peers", "rounds", "tokens", "val_loss", "tiles", "tiles_advanced", "roots_agree", "rounds_agreed", "delta_ratio",
    "round_ratio", "bytes_sent", "takeovers", "lagging", "rejected", "seconds", "out", "network_id", "verify",
]  # fmt: skip


def start(out: Path, *arguments: str, mood: str = "") -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*DRIVER, mood, "up", "--out", str(out), "--round-seconds", "0.6", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=out.parent
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def processes_of(out: Path) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The nodes and the workers of a run that is up."""
    nodes = [json.loads(path.read_text())["pid"] for path in sorted(out.glob("peer-*/api.json"))]
    workers = [int(path.read_text()) for path in sorted(out.glob("peer-*/worker.pid"))]
    return [psutil.Process(pid) for pid in nodes], [psutil.Process(pid) for pid in workers]


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended within a while; a zombie has ended."""

    def lives(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    psutil.wait_procs([process for process in processes if lives(process)], timeout=5)
    return [process for process in processes if lives(process)]


def still_there(out: Path) -> list[int]:
    """Numbers of nodes and workers that the run started and that still mean a process."""
    pids = [json.loads(path.read_text())["pid"] for path in out.glob("peer-*/api.json")]
    pids += [int(path.read_text()) for path in out.glob("peer-*/worker.pid")]
    return [process.pid for process in living([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)])]


def wait_for(process: subprocess.Popen, words: str) -> None:
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"the run ended before it said {words}")


def test_a_run_with_kills_and_restarts_ends_in_agreement(tmp_path):
    """The facts are the last line of stdout, every fault fired, and a picture and the facts lie in the directory."""
    out = tmp_path / "run"
    faults = ["--kill", "1@1", "--kill", "owner:trunk/0@2", "--restart", "killed@4"]
    code, output, errors = finish(start(out, "--peers", "3", "--rounds", "6", "--json", *faults))
    assert code == 0, errors
    facts = json.loads(output.splitlines()[-1])
    assert [key for key in KEYS if key not in facts] == []
    assert (facts["peers"], facts["rounds"], facts["tiles"], facts["rounds_agreed"]) == (3, 6, 38, 6)
    assert facts["roots_agree"] is True
    assert facts["tiles_advanced"] == [38, 38, 37, 38, 38, 38]
    assert facts["val_loss"] == sorted(facts["val_loss"], reverse=True)
    assert facts["lagging"][0]["reason"].startswith("no delta arrived")
    assert 40 < facts["delta_ratio"] < 42
    assert facts["takeovers"] == 9
    assert list(facts["bytes_sent"]) == ["peer-0", "peer-1", "peer-2"]
    assert all(said["ok"] for said in facts["verify"].values())

    story = json.loads((out / "report.json").read_text())
    assert {**facts, "by_round": story["by_round"], "events": story["events"]} == story
    kinds = [event["kind"] for event in story["events"]]
    assert kinds.count("kill") == 2
    assert kinds.count("restart") == 2
    killed = [event for event in story["events"] if event["kind"] == "kill"]
    assert killed[0]["text"].startswith("peer 1 killed")
    assert killed[1]["text"].endswith("the owner of trunk/0")

    picture = (out / "report.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert 800 <= width <= 4000
    assert 800 <= height <= 4000
    assert errors.count("of 6)") == 6, "one line a round"
    assert still_there(out) == []


def test_ctrl_c_stops_everything_even_nodes_that_do_not_listen(tmp_path):
    """After Ctrl-C, and one more for the impatient, no node and no worker is left."""
    out = tmp_path / "run"
    process = start(out, "--peers", "3", "--rounds", "500", mood="deaf")
    wait_for(process, "round 0 (")
    nodes, workers = processes_of(out)
    assert len(nodes) == len(workers) == 3
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
    code, output, _ = finish(process)
    assert code == 130
    assert str(out) in output
    assert living(nodes + workers) == []


def stopped(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.status() == psutil.STATUS_STOPPED]


def story_of(out: Path) -> list[dict]:
    return json.loads((out / "report.json").read_text())["events"]


def test_every_fault_in_one_run_ends_in_agreement(tmp_path):
    """Each fires and is over before the end, also those that had no time to be; a node that stopped came back."""
    out = tmp_path / "run"
    faults = ["--pause", "1@1", "--resume", "paused@2", "--pause", "2@3+0.5", "--slow-link", "owner:trunk/0@1+1"]
    faults += ["--fill-disk", "1@3+2", "--slow-link", "0@5+1000"]
    code, output, errors = finish(start(out, "--peers", "3", "--rounds", "10", "--json", *faults))
    assert code == 0, errors
    facts = json.loads(output.splitlines()[-1])
    assert facts["ended"] == []
    said = [fault["what"] for fault in facts["faults"]]
    assert said.count("peer 1 paused (SIGSTOP)") == said.count("peer 1 goes on (SIGCONT)") == 1
    assert said.count("peer 2 paused (SIGSTOP)") == said.count("peer 2 goes on (SIGCONT)") == 1
    assert said.count("peer 1 has a full disk (no file may grow)") == 1
    assert said.index("peer 1 has room on its disk again") < said.index("peer 1 started again")
    assert (
        sum("has a slow link" in what for what in said) == sum("has its usual link again" in what for what in said) == 2
    )
    stops = [event["text"] for event in story_of(out) if "stopped on its full disk" in event["text"]]
    assert stops == ["peer 1 stopped on its full disk: code 2; nocknode: the disk is full; make room"]
    assert (out / "report.png").stat().st_size > 10_000
    assert still_there(out) == []


def test_a_node_that_breaks_on_a_full_disk_is_told(tmp_path):
    """Only an end in order is forgiven: any other code of a node on a full disk fails the run."""
    arguments = ["--peers", "2", "--rounds", "4", "--json", "--fill-disk", "1@1+0.5"]
    code, output, errors = finish(start(tmp_path / "run", *arguments, mood="bug"))
    assert code == 1, errors
    assert "peer 1 ended by itself: code 1" in json.loads(output.splitlines()[-1])["ended"][0]


def test_ctrl_c_wakes_and_ends_who_is_paused(tmp_path):
    """A node in the middle of its pause hears SIGTERM all the same, and neither it nor its worker is left."""
    out = tmp_path / "run"
    process = start(out, "--peers", "2", "--rounds", "500", "--pause", "1@1+900")
    wait_for(process, "peer 1 paused")
    nodes, workers = processes_of(out)
    assert stopped(nodes + workers) == [nodes[1], workers[1]]
    process.send_signal(signal.SIGINT)
    code, _, _ = finish(process)
    assert code == 130
    assert living(nodes + workers) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's word that a child dies with its parent is Linux's")
def test_nobody_sleeps_on_after_a_killed_run(tmp_path):
    """kill -9 of the run takes a paused node with it, and wakes its worker, which sees that its node has gone."""
    out = tmp_path / "run"
    process = start(out, "--peers", "2", "--rounds", "500", "--pause", "1@1+900")
    wait_for(process, "peer 1 paused")
    nodes, workers = processes_of(out)
    assert stopped(workers) == [workers[1]]
    process.kill()
    finish(process)
    assert living(nodes) == []
    while stopped(workers):  # the test's own time-out ends this where it must
        psutil.wait_procs(workers, timeout=0.05)
    for worker in workers:
        worker.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's word that a child dies with its parent is Linux's")
def test_nodes_do_not_outlive_a_killed_run(tmp_path):
    """kill -9 of the run itself takes the nodes with it."""
    out = tmp_path / "run"
    process = start(out, "--peers", "2", "--rounds", "500")
    wait_for(process, "round 0 (")
    nodes, workers = processes_of(out)
    process.kill()
    finish(process)
    assert living(nodes) == []
    for worker in workers:  # a real worker ends with the pipe of its node; this one is a bare sleep
        worker.kill()


def test_a_network_that_disagrees_is_told_so(tmp_path):
    """Other roots on one node, or a directory that does not verify: exit code 1, with an example."""
    code, output, errors = finish(
        start(tmp_path / "run", "--peers", "2", "--rounds", "2", "--json", mood="split corrupt")
    )
    facts = json.loads(output.splitlines()[-1])
    assert code == 1, errors
    assert facts["roots_agree"] is False
    assert facts["rounds_agreed"] == 1
    assert "peer 1: version 2" in facts["dissent"]
    assert facts["verify"]["peer-1"] == {"ok": False, "report": None, "error": "trunk/0 has another root than its head"}


def test_a_stalled_network_ends_with_its_reason(tmp_path):
    """When the time is over, the nodes' own words say why."""
    arguments = ["--peers", "2", "--rounds", "5", "--timeout-seconds", "4", "--no-verify"]
    code, output, errors = finish(start(tmp_path / "run", *arguments, mood="stall"))
    assert code == 1
    assert "only 2 of 4 members are reachable" in errors
    assert "unfinished 1 of 5 rounds are closed; peer 0 is stalled" in output
    assert "nocknode chat --data-dir" in output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--kill", "7@1"], "the peers of this run are 0 to 3"),
        (["--rounds", "0"], "--rounds 0"),
        (["--restart", "1@2"], "nothing is killed before that round"),
        (["--resume", "1@2", "--kill", "1@1"], "nothing is paused before that round"),
        (["--pause", "1@2+0"], "it lasts more than 0"),
        (["--fill-disk", "1"], "write PEER@ROUND[+SECONDS], for example --fill-disk 1@5+30"),
        (["--model", "nowhere.toml"], "--model nowhere.toml: there is no such file"),
        (["--corpus", "nowhere"], "--corpus nowhere"),
        (["--corpus", "empty", "--peers", "2"], "it is empty; name a file with text"),
        (["--kill", "owner:trunk/9@0", "--peers", "1"], "there is no such tile"),
    ],
)
def test_a_mistake_gets_one_sentence_and_code_2(tmp_path, arguments, sentence):
    """Ours and the node's sentences alike end up on stderr, as its last line, and nothing is left running."""
    (tmp_path / "empty").touch()
    code, output, errors = finish(start(tmp_path / "run", *arguments))
    assert code == 2, errors
    assert output == ""
    assert errors.splitlines()[-1].startswith("nocknode: ")
    assert sentence in errors.splitlines()[-1]


def test_a_directory_with_something_in_it_is_not_touched(tmp_path):
    """A run never mixes with another one."""
    (tmp_path / "note").write_text("mine")
    code, _, errors = finish(start(tmp_path))
    assert code == 2
    assert "the directory is not empty" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
