"""Networks of real processes: learning together, dying, coming back, being joined."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from node.faults import POINTS
from node.ground import LearnerRecord
from protocol.limits import HISTORY_TICKS_PER_SEGMENT_MAX
from tests.node.processes import GRACE_SECONDS, Network, NodeProcess, run_command, wait_for

TOKENS = 4 * 4 * 32  # of one learner in one round: steps, sequences and context of the test network
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def learner_record(node: NodeProcess) -> LearnerRecord:
    """The learner's journal entry of a node that is not running; the state file that it names is there."""
    ground = node.ground()
    try:
        record = ground.learner_record()
        assert not record.state_file or (node.places.learner / record.state_file).is_file()
        return record
    finally:
        ground.close()


def test_two_nodes_learn_stop_and_go_on_from_disk(tmp_path: Path) -> None:
    """Two nodes learn two rounds, end with 0 soon after SIGTERM, leave no process, hold the same roots, and go on later."""
    with Network(tmp_path, 2) as network:
        network.start("--rounds", "2")
        first, second = network.nodes
        for node in network.nodes:
            node.wait_rounds(2)
            wait_for("both rounds applied", lambda node=node: set(node.versions().values()) == {2})
        workers = [worker for node in network.nodes for worker in node.workers()]
        assert workers
        assert network.stop() == [0, 0]
        wait_for("the workers' end", lambda: gone(workers), GRACE_SECONDS)
        roots = first.roots()
        assert roots == second.roots()
        assert {version for version, _ in roots.values()} == {2}
        assert first.problems() == second.problems() == []
        assert max(learner_record(node).round for node in network.nodes) == 1

        network.start("--rounds", "3")
        for node in network.nodes:
            node.wait_rounds(3)
        assert network.stop() == [0, 0]
        assert first.roots() == second.roots()
        assert {version for version, _ in first.roots().values()} == {3}
        assert first.problems() == second.problems() == []


def test_a_node_that_stops_while_it_walks_a_history_leaves_no_process(tmp_path: Path) -> None:
    """Its walk would take a dozen seconds more; nobody waits for it, and the next start begins it anew."""
    rules = {"chain.epoch_heights": 2, "chain.history_segment_ticks": HISTORY_TICKS_PER_SEGMENT_MAX}
    with Network(tmp_path, 1, rules=rules) as network:
        (node,) = network.nodes
        for _ in range(2):
            network.start("--no-learn")
            walkers = wait_for("the walk", node.workers)
            assert network.stop() == [0]
            wait_for("its end", lambda walkers=walkers: gone(walkers), GRACE_SECONDS)
        assert node.problems() == []


def test_a_killed_node_leaves_no_worker_and_resumes_with_its_residuals(tmp_path: Path) -> None:
    """kill -9 in mid-round: the worker ends too, the learner's journal is whole, and the next start goes on from it."""
    with Network(tmp_path, 2) as network:
        network.start()
        first, second = network.nodes
        wait_for("two rounds of learning", lambda: (first.status("tokens") or 0) >= 2 * TOKENS)
        wait_for("the other one's learning", lambda: second.status("tokens"))  # it has the data set, and needs nobody's
        workers = first.workers()
        first.kill()
        wait_for("the worker's end", lambda: gone(workers), GRACE_SECONDS)
        before = learner_record(first)
        assert before.state_file
        assert before.tokens_total >= 2 * TOKENS

        wait_for("the other one's word", lambda: second.status("state") == "stalled")
        assert "1 of 2 roster members are reachable, 2 are needed" in second.status("detail")
        first.start(bootstrap=[second.address])
        wait_for(
            "two more rounds of learning", lambda: (first.status("tokens") or 0) >= before.tokens_total + 2 * TOKENS
        )
        assert first.log("learning failed") == []
        assert network.stop() == [0, 0]
        after = learner_record(first)
        assert after.round > before.round
        assert not {row.digest for row in before.outstanding} & {row.digest for row in after.outstanding}
        assert first.roots() == second.roots()
        assert first.problems() == second.problems() == []


def test_a_crash_between_a_write_and_its_send_costs_nothing(tmp_path: Path) -> None:
    """At each crash point a node dies by its own SIGKILL and comes back; the two agree, and every root can be derived."""
    with Network(tmp_path, 2) as network:
        network.start()
        armed, other = network.nodes[1], network.nodes[0]
        other.wait_rounds(1)
        armed.kill()
        for point in POINTS:
            first = other.status("round") + 1
            options = [word for number in range(first, first + 50) for word in ("--crash-at", f"{point}@{number}")]
            armed.start(*options, bootstrap=[other.address], wait=False)
            assert armed.wait_end() == -9, point
        armed.start(bootstrap=[other.address])
        target = other.status("round") + 2
        wait_for("rounds after the crashes", lambda: (armed.status("rounds") or 0) >= target)
        assert network.stop() == [0, 0]
        assert armed.roots() == other.roots()
        assert armed.problems() == other.problems() == []


def test_a_peer_of_another_genesis_is_refused_with_a_sentence(tmp_path: Path) -> None:
    """Nodes of two networks that meet part again, and each log says why; nothing of the other network is taken."""
    with Network(tmp_path, 1, name="ours") as ours, Network(tmp_path, 1, name="theirs") as theirs:
        here, there = ours.nodes[0], theirs.nodes[0]
        here.start("--no-learn")
        there.start("--no-learn", bootstrap=[here.address])
        refusals = wait_for("a refusal", lambda: there.log("peer refused") + here.log("peer refused"))
        assert any("network" in refusal["why"] for refusal in refusals)
        assert here.status("connected") == there.status("connected") == 0
        joined = run_command(
            *("init", "--join", here.address, "--network-id", theirs.network_id, "--data-dir", str(tmp_path / "lost"))
        )
        assert joined.returncode == 2
        assert len(joined.stderr.strip().splitlines()) == 1
        assert "network" in joined.stderr
        assert not (tmp_path / "lost" / "genesis.bin").exists()


def test_damaged_tile_files_are_fetched_again(tmp_path: Path) -> None:
    """A tile file cut short, one with a flipped bit, and one that changes while the node runs: each is found and made whole.

    A copy from what it rests on; where that is damaged too, from peers.
    """
    with Network(tmp_path, 2) as network:
        network.start()
        damaged, other = network.nodes[1], network.nodes[0]
        damaged.wait_rounds(2)
        assert network.stop() == [0, 0]
        cut, flipped, cut_too, flipped_too, *_, later = damaged.newest_files()
        cut.write_bytes(cut.read_bytes()[:-100])
        flip(flipped)
        report = damaged.verify()
        assert (report.problems, report.copies_torn) == ([], 2)
        cut, flipped = (min(copy.parent.glob("*.tblock"), key=version_of) for copy in (cut, flipped))
        cut.write_bytes(cut.read_bytes()[:-100])
        flip(flipped)
        problems = damaged.problems()
        for base in (cut, flipped):
            tile = f"{base.parent.parent.name}/{base.parent.name}"
            assert any(f"tile {tile}" in problem for problem in problems)
        cut_too.write_bytes(cut_too.read_bytes()[:-100])
        flip(flipped_too)

        network.start()
        target = max(damaged.versions().values()) + 1
        wait_for("every tile at work", lambda: min(damaged.versions().values(), default=0) >= target)
        flip(max(later.parent.glob("*.tblock"), key=version_of))
        target = max(damaged.versions().values()) + 5
        wait_for("every tile at work still", lambda: min(damaged.versions().values(), default=0) >= target)
        assert network.stop() == [0, 0]
        assert damaged.roots() == other.roots()
        assert damaged.problems() == other.problems() == []


def version_of(path: Path) -> int:
    """Of a tile's file."""
    return int(path.stem)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file, in place."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(data)


@pytest.mark.timeout(900)  # nine nodes start one after another, and three of them import torch, on two cores
def test_a_newcomer_finds_all_and_contributes(tmp_path: Path) -> None:
    """A node outside the roster that knows one of eight finds all, fetches data set and model, and its deltas are merged."""
    # Nine nodes on two cores that vote all the time learn nothing.
    calm = {"chain.idle_interval_ms": 2000, "chain.view_delta_ms": 1000}
    with Network(tmp_path, 8, strangers=1, rules=calm) as network:
        *members, newcomer = network.nodes
        for number, node in enumerate(members):
            others = [other.address for other in members if other.process is not None]
            node.start(*(() if number < 2 else ("--no-learn",)), bootstrap=others)
        members[1].wait_rounds(2)
        newcomer.start(bootstrap=[members[5].address])
        wait_for("all eight", lambda: newcomer.status("connected") == 8)
        me = newcomer.status("short")
        wait_for(
            "a delta of its own", lambda: any(me in tile["learners"] for tile in members[0].get("/tiles") or ()), 400.0
        )
        providers = newcomer.log("providers")
        assert len(providers[-1]["peers"]) >= 2
        assert sum(peer["fetched_bytes"] > 0 for peer in newcomer.get("/peers")) >= 2
        network.stop()
        assert len(members[0].learners()) == 3
        assert members[0].roots().keys() == newcomer.roots().keys()
        assert newcomer.problems() == []
