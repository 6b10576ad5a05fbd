"""A real node without experts, among real nodes that have them: what it answers, and what it says when nobody has them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import openai
import pytest

from node.commands.client import NodeClient
from node.errors import CommandFailed
from tests.node.processes import Network, NodeProcess, run_command, wait_for

PROMPT = "def method_1("
TOKENS = 16


def chat(node: NodeProcess) -> str:
    """What a node continues the prompt with."""
    done = run_command(
        *("chat", "--data-dir", str(node.directory), "--tokens", str(TOKENS), "--temperature", "0", PROMPT)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def complete(node: NodeProcess) -> str:
    """The same by OpenAI's client, of several asked at once; prompt included."""
    key = run_command("api-key", "new", "a friend", "--data-dir", str(node.directory)).stdout.strip()
    url = json.loads(node.places.api_file.read_bytes())["url"]
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        (model,) = client.models.list().data
        ask = partial(client.completions.create, model=model.id, prompt=PROMPT, max_tokens=TOKENS, temperature=0)
        whole = ask(n=2, echo=True)
        streamed = "".join(chunk.choices[0].text for chunk in ask(stream=True))
    assert whole.usage is not None
    assert 2 <= whole.usage.completion_tokens <= 2 * TOKENS
    texts = {choice.text for choice in whole.choices} | {PROMPT + streamed}
    assert len(texts) == 1
    return texts.pop().strip("\n")


def audit_everywhere(door: NodeProcess, member: NodeProcess, file: Path) -> None:
    """The door's newest answer is what the model says: by its own word, and by that of who has the experts."""
    named = door.get("/security/answers")["answers"][0]["answer"]
    assert run_command("answers", "save", named, str(file), "--data-dir", str(door.directory)).returncode == 0
    for node, asked in ((door, ()), (member, ("--file", str(file)))):
        done = run_command("answers", "audit", *asked, "--json", "--data-dir", str(node.directory))
        assert done.returncode == 0, done.stderr
        verdict = json.loads(done.stdout)
        assert (verdict["answer"], verdict["door"]) == (named, door.status("peer"))
        assert verdict["verdict"] in ("same", "near_ties")
    said = run_command("badge", "--json", "--data-dir", str(member.directory)).stdout
    badge = json.loads(said)
    assert (badge["node"], badge["audits"], badge["audits_wrong"]) == (member.status("peer"), 1, 0)
    assert badge["model"] == door.get(f"/security/answers/{named}")["claim"]["model"] != "00" * 32
    saved = file.with_suffix(".json")
    saved.write_text(said)
    checked = run_command("badge", "--check", str(saved), "--json", "--data-dir", str(door.directory))
    assert json.loads(checked.stdout) == badge | {"badge": "checked"}
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    done = run_command("answers", "audit", "--file", str(file), "--data-dir", str(member.directory))
    assert (done.returncode, "not those of the receipt" in done.stderr) == (2, True), done.stderr


def test_a_node_without_experts_answers_as_those_who_have_them(tmp_path: Path) -> None:
    """Over real sockets, with a worker that has the trunk alone: the same text; also when one of the two holders is killed."""
    with Network(tmp_path, 2, strangers=1) as network:
        *members, door = network.nodes
        for number, member in enumerate(members):
            member.start("--rounds", "1", bootstrap=[other.address for other in members[:number]])
        for member in members:
            member.wait_rounds(1)
        door.start("--no-learn", "--experts", "elsewhere", bootstrap=[member.address for member in members])
        wait_for(
            "the same versions everywhere", lambda: door.versions() == members[0].versions() == members[1].versions()
        )
        wait_for("its worker", lambda: door.log("device"))
        wait_for("holders", lambda: sum(bool(peer["device"]) for peer in door.get("/peers") or ()) == 2)
        expected = chat(members[0])
        assert expected
        assert chat(door) == expected
        assert complete(door) == complete(members[0]) == expected.strip("\n")
        experts = door.get("/experts")
        assert experts == members[0].get("/experts")
        assert all(expert["version_min"] is not None and expert["bytes"] for expert in experts)
        calls = door.get("/experts/calls")
        assert calls["called"]["taken"] > 0
        assert (calls["checks"]["checked"] > 0, calls["checks"]["wrong"]) == (
            True,
            0,
        )  # what it computed again is the same
        assert sum(member.get("/experts/calls")["served"]["served"] for member in members) > 0
        audit_everywhere(door, members[0], tmp_path / "answer.bin")
        holder = members[0].status("peer")
        NodeClient(door.directory).post(f"/security/quarantine_node/{holder}")
        assert list(door.get("/security/integrity_status")["quarantined"]) == [holder]
        assert chat(door) == expected
        NodeClient(door.directory).post(f"/security/recover_node/{holder}")
        assert door.get("/security/integrity_status")["quarantined"] == {}
        with pytest.raises(CommandFailed, match="asks nobody"):
            NodeClient(members[0].directory).post(f"/security/quarantine_node/{holder}")
        for worker in members[0].kill():
            worker.wait(10)
        assert chat(door) == expected
        assert door.get("/status")["device"] == "cpu"
