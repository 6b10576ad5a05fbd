"""Money among real processes: sent by one, seen and proved by another, and still there after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.verify import verify_tiles
from protocol.codec import encode
from protocol.finality import ChainId
from protocol.ids import AccountId
from protocol.limits import HISTORY_SEGMENTS
from protocol.transactions import Transfer, sign_transaction, transaction_id
from tests.node.processes import Network, NodeProcess, run_command, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


ASKED_MAX = 100  # a command takes a second: more patience than a node needs to join


def ask(node: NodeProcess, *arguments: str) -> dict[str, Any]:
    """The JSON of a command that succeeded. It is given again while the node joins, at its start and to vote again."""
    for _ in range(ASKED_MAX):
        done = run_command(*arguments, "--data-dir", str(node.directory), "--json")
        if "this node has no state yet" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def test_no_metric_is_told_twice(tmp_path: Path) -> None:
    """Prometheus refuses a page on which a name has two families."""
    with Network(tmp_path, 1) as network:
        network.start("--no-learn")
        (node,) = network.nodes
        wait_for("a block", lambda: (node.status("height") or 0) >= 1)
        url = json.loads(node.places.api_file.read_bytes())["url"]
        with httpx.Client(trust_env=False) as http:
            families = [
                line.split()[2] for line in http.get(f"{url}/metrics").text.splitlines() if line[:6] == "# TYPE"
            ]
        assert {"nocknode_finality_lag_seconds", "nocknode_validator_connected"} <= set(families)
        assert sorted(families) == sorted(set(families))


def test_money_reaches_a_node_outside_the_roster_and_is_proved_by_it(tmp_path: Path) -> None:
    """A member sends to a stranger, who sends some back through gossip; each side's proof has the root of the other's block."""
    with Network(tmp_path, 2, 1) as network:
        network.start("--no-learn")
        member, other, stranger = network.nodes
        address = ask(stranger, "wallet")["address"]
        sent = ask(member, "tx", "send", address, "12.5")
        wait_for("the block at the stranger's", lambda: (stranger.status("height") or 0) >= sent["height"])
        assert ask(stranger, "chain", "tx", sent["id"])["height"] == sent["height"]
        assert ask(stranger, "wallet")["account"]["balance_nano"] == 12_500_000_000
        back = ask(stranger, "tx", "send", sent["sender"], "2.5")
        assert ask(stranger, "wallet")["account"]["balance_nano"] == 10_000_000_000 - back["fee_nano"]

        path = tmp_path / "proof.json"
        proof = ask(stranger, "chain", "proof", f"account:{address}", "--out", str(path))
        wait_for("the proved block", lambda: (other.status("height") or 0) >= proof["height"])
        root = ask(other, "chain", "block", str(proof["height"]))["state_root"]
        checked = run_command("chain", "proof", "--check", str(path), "--root", root, "--json")
        assert json.loads(checked.stdout)["facts"]["balance_nano"] == 10_000_000_000 - back["fee_nano"]

        wait_for("the payment back", lambda: (member.status("height") or 0) >= back["height"])
        member.kill()
        member.start("--no-learn", bootstrap=[other.address])
        assert ask(member, "chain", "tx", back["id"])["height"] == back["height"]
        assert network.stop() == [0, 0, 0]


def test_a_stranger_stakes_and_votes_and_a_founder_leaves(tmp_path: Path) -> None:
    """A node votes that was none of the founders, three epochs after it registered; one that left goes on as an observer."""
    rules = {"chain.epoch_heights": 6, "chain.idle_interval_ms": 300, "chain.history_segment_ticks": 100}
    with Network(tmp_path, 3, 1, rules=rules) as network:
        network.start("--no-learn")
        founder, leaver, third, stranger = network.nodes

        def roster(node: NodeProcess) -> dict[str, bool]:
            return {each["node"]: each["in_roster"] for each in ask(node, "validators")["validators"]}

        def height() -> int:
            return int(founder.status("height") or 0)

        address = ask(stranger, "wallet")["address"]
        ask(founder, "tx", "send", address, "5000", "--yes")
        account = f"/consensus/accounts/{address}"
        wait_for("the money", lambda: (stranger.get(account) or {"balance_nano": 0})["balance_nano"] > 0)
        registered = ask(stranger, "tx", "register", "4000", "--yes")
        left = ask(leaver, "tx", "leave", "--yes")
        peer, gone = stranger.status("peer"), leaver.status("peer")
        begins = max((registered["height"] - 1 + 1) // 6 + 3, (left["height"] - 1) // 6 + 2) * 6
        wait_for("the epoch of both", lambda: height() > begins + 1)
        assert (roster(founder)[peer], roster(founder)[gone]) == (True, False)
        wait_for("a vote of the newcomer", lambda: stranger.votes() > 0)

        third.kill()  # 10,000 and 4,000 of 24,000 are no quorum, so nothing is decided without it
        before = height()
        third.start("--no-learn", bootstrap=[founder.address])
        wait_for("blocks by those who vote now", lambda: height() > before + 8)
        wait_for("the observer follows", lambda: (leaver.status("height") or 0) > before + 4)
        assert network.stop() == [0, 0, 0, 0]
        assert [node.problems() for node in network.nodes] == [[], [], [], []]


def test_every_epoch_tells_a_history_that_others_verified_in_processes(tmp_path: Path) -> None:
    """It is in one block after the cut, people see it, `tiles verify` walks it again, and a stop leaves no process."""
    rules = {"chain.epoch_heights": 4, "chain.idle_interval_ms": 300, "chain.history_segment_ticks": 8_192}
    with Network(tmp_path, 2, rules=rules) as network:
        network.start("--no-learn")
        node, _ = network.nodes
        wait_for("three epochs", lambda: (node.status("height") or 0) > 13)
        told = [len(ask(node, "chain", "block", str(height))["history"]) for height in range(1, 13)]
        assert told == [0, 0, 0, HISTORY_SEGMENTS] * 3
        shown = run_command("chain", "block", "4", "--data-dir", str(node.directory)).stdout
        assert f"{HISTORY_SEGMENTS} segments, the last ends in" in shown
        assert network.stop() == [0, 0]
        for each in network.nodes:
            report = verify_tiles(each.directory, lambda done, total, what: None)
            assert (report.problems, report.histories >= 3) == ([], True)


def test_a_lost_vote_journal_costs_two_epochs(tmp_path: Path) -> None:
    """A member whose journal is gone or damaged does not vote, begins a new one, and votes two epochs later by itself."""
    rules = {"chain.epoch_heights": 6, "chain.idle_interval_ms": 300, "chain.history_segment_ticks": 100}
    with Network(tmp_path, 4, rules=rules) as network:
        network.start("--no-learn")
        first, *_, loser = network.nodes
        for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(b"no journal" * 9)):
            wait_for("its votes", lambda: loser.votes() > 2)
            voted = ask(loser, "chain", "status")["epoch"]
            loser.ask_to_stop()
            loser.wait_stopped()
            damage(loser.places.journal / "votes.journal")
            loser.start("--no-learn", bootstrap=[first.address])
            refused = wait_for("the refusal", lambda: find_refused(loser))
            assert refused["votes"] == 0
            wait_for("a new journal", lambda: (loser.places.journal / "votes.journal").exists())
            voting = wait_for("votes again", lambda: find_voting(loser))
            assert voting["epoch"] >= voted + 2
        wait_for("its votes", lambda: loser.votes() > 2)
        assert network.stop() == [0, 0, 0, 0]


def test_a_payment_whose_nonce_was_used_meanwhile_is_given_up_at_the_next_start(tmp_path: Path) -> None:
    """It can never be in a block; the user asks and is told why, and the disk forgets it."""
    with Network(tmp_path, 1) as network:
        network.start("--no-learn")
        (node,) = network.nodes
        sent = ask(node, "tx", "send", ask(node, "wallet")["address"], "1", "--yes")
        assert network.stop() == [0]
        ground = node.ground()
        try:
            chain = ChainId.of(ground.network)
            payload = Transfer(AccountId(ground.keys.account.public), 7)
            late = encode(sign_transaction(ground.keys.account, chain, sent["nonce"], 10**6, payload))
            ground.store_transaction(transaction_id(late), late)
        finally:
            ground.close()
        node.start("--no-learn")
        name = transaction_id(late).hex()
        given_up = wait_for("the verdict", lambda: find_dropped(node, name))
        assert given_up["refusal"]["code"] == "wrong_nonce"
        assert network.stop() == [0]
        ground = node.ground()
        try:
            assert ground.own_transactions() == []
        finally:
            ground.close()


def find_refused(node: NodeProcess) -> dict[str, Any] | None:
    """Where the chain is, while a node may not vote because of its journal."""
    status: dict[str, Any] = node.get("/consensus/status") or {"refusal": None}
    return status if "vote journal" in (status["refusal"] or "") else None


def find_voting(node: NodeProcess) -> dict[str, Any] | None:
    """Where the chain is, once a node votes."""
    status: dict[str, Any] = node.get("/consensus/status") or {"votes": 0}
    return status if status["votes"] else None


def find_dropped(node: NodeProcess, name: str) -> dict[str, Any] | None:
    """What the node says of a transaction, once it knows."""
    facts: dict[str, Any] | None = node.get(f"/consensus/transactions/{name}")
    return facts
