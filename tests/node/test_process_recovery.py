"""Real nodes after a disaster: a damaged database, a lost disk, a state thrown away. Each is one command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.node.processes import CREATED_MS, Network, NodeProcess, run_command, wait_for
from tests.node.test_process_chain import ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
RULES = {"chain.epoch_heights": 6, "chain.idle_interval_ms": 300, "chain.history_segment_ticks": 100}


def recover(node: NodeProcess, *arguments: str) -> dict[str, Any]:
    """The facts that a recovery command prints at its end."""
    done = run_command("recovery", *arguments, "--data-dir", str(node.directory), "--json")
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def stop(node: NodeProcess) -> None:
    node.ask_to_stop()
    assert node.wait_stopped() == 0


def test_a_member_whose_database_is_damaged(tmp_path: Path) -> None:
    """Repaired, and fetched anew, it has what the others have, and votes at once: its journal was there all the time."""
    # Founded years ago: its genesis proves nothing any more, so a resync begins with a block that the node had.
    with Network(tmp_path, 4, rules=RULES, created_ms=CREATED_MS) as network:
        network.start("--no-learn")
        first, *_, victim = network.nodes
        wait_for("an epoch", lambda: (victim.status("height") or 0) > 8)
        wait_for("votes of its own", lambda: victim.votes() > 2)  # three others decide without it
        address = ["--bootstrap", first.address]

        stop(victim)
        (manifest,) = victim.places.database.glob("MANIFEST-*")
        manifest.write_bytes(b"damaged" + manifest.read_bytes())
        votes = (victim.places.journal / "votes.journal").read_bytes()
        victim.start("--no-learn", wait=False)
        assert victim.wait_end() == 2
        assert "nocknode recovery repair" in victim.said()
        facts = recover(victim, "repair", *address)
        assert facts["found"][0]["part"] == "db"
        assert (facts["caught_up"], facts["refusal"]) == (True, None)
        assert facts["height"] > 8
        assert (victim.places.journal / "votes.journal").read_bytes().startswith(votes)

        facts = recover(victim, "resync", *address)
        assert facts["forgotten_height"] >= 8
        assert (facts["caught_up"], facts["refusal"]) == (True, None)
        assert facts["trusted"]
        victim.start("--no-learn", "--resync", bootstrap=[first.address])
        wait_for("its votes", lambda: victim.votes() > 2)

        assert network.stop() == [0, 0, 0, 0]
        assert victim.problems() == []


def test_a_member_whose_disk_is_lost(tmp_path: Path) -> None:
    """Of keys, an address and the network's id it becomes a node that has everything, and votes after two epochs."""
    with Network(tmp_path, 4, rules=RULES) as network:
        network.start("--no-learn")
        first, *_, victim = network.nodes
        wait_for("an epoch", lambda: (victim.status("height") or 0) > 8)

        stop(victim)
        keys = tmp_path / "keys"
        shutil.copytree(victim.places.keys, keys)
        shutil.rmtree(victim.directory)
        shutil.copytree(keys, victim.places.keys)
        facts = recover(victim, "repair", "--join", first.address, "--network-id", network.network_id)
        assert [each["part"] for each in facts["found"]] == ["votes.journal", "db"]
        assert facts["caught_up"]
        assert "vote journal" in facts["refusal"]
        victim.start("--no-learn", bootstrap=[first.address])
        since = victim.status("height")
        wait_for("three epochs", lambda: (victim.status("height") or 0) > since + 18)
        wait_for("its votes", lambda: victim.votes() > 2)
        assert network.stop() == [0, 0, 0, 0]
        assert victim.problems() == []


def tell(node: NodeProcess, *arguments: str) -> str:
    """The sentence of a recovery command that refuses."""
    done = run_command("recovery", *arguments, "--data-dir", str(node.directory))
    assert done.returncode == 2, done.stdout
    return done.stderr


def test_operators_bring_a_chain_back_with_files(tmp_path: Path) -> None:
    """Two of four are gone; the others propose, combine, sign and adopt, and only the digest that was read is adopted."""
    with Network(tmp_path, 4, rules=RULES) as network:
        network.start("--no-learn")
        left, gone = network.nodes[:2], network.nodes[2:]
        wait_for("an epoch", lambda: (left[0].status("height") or 0) > 8)
        for node in gone:
            node.kill()
        for node in left:
            stop(node)
        files = [tmp_path / "first.proposal", tmp_path / "second.proposal"]
        heights = [
            recover(node, "propose", str(file), "--reason", "two are lost")["height"]
            for node, file in zip(left, files, strict=True)
        ]
        document, copy = tmp_path / "recovery", tmp_path / "copy"
        made = recover(left[0], "combine", *map(str, files), "--out", str(document))
        assert made["height"] == max(heights)
        assert (made["complete"], len(made["remaining"]), len(made["left_out"])) == (False, 2, 2)
        shutil.copyfile(document, copy)
        assert "more than two thirds" in tell(left[0], "adopt", str(document), made["digest"])
        recover(left[0], "sign", str(document))
        recover(left[1], "sign", str(copy))
        recover(left[0], "combine", str(document), str(copy), "--out", str(document))
        shown = recover(left[1], "show", str(document))
        assert (shown["complete"], shown["digest"], len(shown["signed_by"])) == (True, made["digest"], 2)
        assert "only who remains" in tell(gone[0], "sign", str(document))
        assert "not the one that you name" in tell(left[0], "adopt", str(document), "00" * 32)

        for node in left:
            recover(node, "adopt", str(document), made["digest"])
            text = node.places.config.read_text()
            assert '# adopt = ""' in text
            node.places.config.write_text(text.replace('# adopt = ""', f'adopt = "{made["digest"]}"'))
        left[0].start("--no-learn")
        left[1].start("--no-learn", bootstrap=[left[0].address])
        wait_for("the new fork", lambda: min(node.status("height") or 0 for node in left) > max(heights) + 8)
        sent = ask(left[0], "tx", "send", ask(left[1], "wallet")["address"], "1", "--yes")
        wait_for("a payment on it", lambda: (left[1].status("height") or 0) >= sent["height"])
        for node in left:
            stop(node)
        assert [node.problems() for node in left] == [[], []]
        assert "is final here" in tell(left[0], "adopt", str(document), made["digest"])
