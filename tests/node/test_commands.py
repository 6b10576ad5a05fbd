"""Commands that ask a running node, against an API that says the same things every time."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from node.api.server import serve_api
from node.cli import nocknode
from node.data_directory import DataDirectory
from node.errors import CommandFailed
from protocol.codec import encode
from tests.node.samples import (
    ANSWER,
    AUDITED,
    CALLS,
    CUSTODY,
    EXPERT,
    KEPT_BLOB,
    KEPT_TILES,
    PEER,
    RECEIPT,
    STATUS,
    TILE,
    FakeNode,
    badge_facts,
)
from tests.protocol.samples import answer_record

Ask = Callable[..., Awaitable[Result]]


def with_node(root: Path, conversation: Callable[[FakeNode, Ask], Awaitable[None]]) -> None:
    """Serve a fake node from ``root`` while commands run in a thread."""

    async def ask(*arguments: str) -> Result:
        line = [*arguments, "--data-dir", str(root)]
        return await trio.to_thread.run_sync(partial(CliRunner().invoke, nocknode, line))

    async def main() -> None:
        node = FakeNode()
        with trio.fail_after(60), capture_logs():  # the node's log is not what a command prints
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_api, lambda: node, DataDirectory(root), "127.0.0.1:0", STATUS["peer"], [])
                await conversation(node, ask)
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_commands_tell_what_the_node_tells(tmp_path):
    """With --json a command prints the node's facts; without, a text that holds them."""

    async def conversation(node: FakeNode, ask: Ask) -> None:
        expected = {"status": STATUS, "peers": {"peers": [PEER]}, "tiles": {"tiles": [TILE]}}
        for command, facts in expected.items():
            assert json.loads((await ask(command, "--json")).stdout) == facts
        status = (await ask("status")).stdout
        for words in (
            "2.561 nats per byte",
            "3 of 4 reachable",
            "trunk/0@6 in round 6: no delta came",
            "stale_base: 3",
        ):
            assert words in status
        assert "/ip4/127.0.0.1/tcp/4001" in (await ask("peers")).stdout
        assert "trunk/0" in (await ask("tiles")).stdout
        assert json.loads((await ask("experts", "--json")).stdout) == {"experts": [EXPERT], "calls": CALLS}
        shown = (await ask("experts")).stdout
        for words in ("layer0.expert1", "5 to 6", "4 of 120 answers, 1 wrong", "holder", "300"):
            assert words in shown
        node.calls = {**CALLS, "called": None, "checks": None, "holders": []}  # it has the experts itself
        node.known_experts = [{**EXPERT, "version_min": None, "version_max": None}]
        shown = (await ask("experts")).stdout
        assert "3 calls" in shown
        assert "computed again" not in shown

    with_node(tmp_path, conversation)


def test_kept_shows_this_nodes_share_and_puts_a_blob_together(tmp_path):
    """What is missing, who did not show theirs; the first digits of a root are enough to read a blob into a file."""

    async def conversation(node: FakeNode, ask: Ask) -> None:
        assert json.loads((await ask("kept", "--json")).stdout) == CUSTODY
        shown = (await ask("kept")).stdout
        for words in (
            "version 7 of trunk/0",
            "3 questions of the chain answered; 12 audits, 3 failed",
            "12D3...abcd did not show",
            KEPT_BLOB.hex()[:16],
        ):
            assert words in shown
        file = tmp_path / "out" / "trunk.bin"
        read = await ask("kept", "read", KEPT_BLOB.hex()[:6], str(file))
        assert read.exit_code == 0
        assert file.read_bytes() == b"".join(KEPT_TILES)
        wrong = await ask("kept", "read", "ffff", str(file))
        assert isinstance(wrong.exception, CommandFailed)
        assert "no blob of root ffff" in str(wrong.exception)

    with_node(tmp_path, conversation)


def test_chat_streams_the_continuation(tmp_path):
    """The prompt is followed by what the model says; --json gives both and the count."""

    async def conversation(node: FakeNode, ask: Ask) -> None:
        assert (await ask("chat", "to be or", "--tokens", "2")).stdout == "to be orto be \n"
        assert json.loads((await ask("chat", "to be or", "--tokens", "2", "--json")).stdout) == {
            "prompt": "to be or",
            "text": "to be ",
            "tokens": 2,
            "round": 7,
            "receipt": RECEIPT,
        }

    with_node(tmp_path, conversation)


def test_answers_are_listed_saved_and_audited(tmp_path):
    """The newest without a name, any by its name, and what another node saved; the exit code says whether it is right."""

    async def conversation(node: FakeNode, ask: Ask) -> None:
        name, file = ANSWER["answer"], tmp_path / "answer"
        assert name[:12] in (await ask("answers")).stdout
        assert json.loads((await ask("answers", "--json")).stdout) == {"answers": [ANSWER]}
        assert (await ask("answers", "save", name, str(file))).exit_code == 0
        assert file.read_bytes() == encode(answer_record())
        for asked in ((), (name,), ("--file", str(file))):
            done = await ask("answers", "audit", *asked)
            assert (done.exit_code, "every token" in done.stdout) == (0, True)
        node.kept_answers = []
        assert "No answer is kept here" in (await ask("answers")).stdout
        assert "gave no answer yet" in str((await ask("answers", "audit")).exception)
        node.kept_answers = [ANSWER]
        node.audited = AUDITED | {"verdict": "other_tokens", "says": "no", "others_total": 3, "margin_max": None}
        done = await ask("answers", "audit")
        assert (done.exit_code, "3, up to endless" in done.stdout) == (1, True)
        done = await ask("answers", "audit", "--json")
        assert (done.exit_code, json.loads(done.stdout)) == (1, node.audited)

    with_node(tmp_path, conversation)


def test_alerts_are_told_with_what_to_do(tmp_path):
    """The exit code says whether one is critical."""
    firing = {
        "alert": "Alone",
        "severity": "warning",
        "since_ms": 1_700_000_000_000,
        "says": "No peer.",
        "remedy": "Dial [one].",
    }

    async def conversation(node: FakeNode, ask: Ask) -> None:
        assert "Nothing deserves attention" in (await ask("alerts")).stdout
        node.firing = [firing]
        done = await ask("alerts")
        assert (done.exit_code, "No peer. Dial [one]." in done.stdout) == (0, True)
        doctor = json.loads((await ask("doctor", "--json")).stdout)["findings"]
        assert [each for each in doctor if each["subject"] == "alert"] == [
            {"subject": "alert", "grade": "warning", "sentence": "No peer.", "remedy": "Dial [one]."}
        ]
        node.firing = [firing | {"severity": "critical"}, firing]
        done = await ask("alerts", "--json")
        assert (done.exit_code, json.loads(done.stdout)) == (1, {"alerts": node.firing})

    with_node(tmp_path, conversation)


def test_a_badge_is_shown_and_checked(tmp_path):
    """That of the running node; and one that somebody saved, by what was signed and not by what is written beside it."""

    async def conversation(node: FakeNode, ask: Ask) -> None:
        file = tmp_path / "badge.json"
        assert "12 of 38 read again from the disk since" in (await ask("badge")).stdout
        file.write_text((await ask("badge", "--json")).stdout)
        assert json.loads(file.read_text()) == badge_facts()
        file.write_text(json.dumps(badge_facts() | {"tiles_read": 38}))
        assert "12 of 38" in (await ask("badge", "--check", str(file))).stdout
        for text in ("{", "[]", "{}", json.dumps({"badge": badge_facts()["badge"][:-2] + "00"})):
            file.write_text(text)
            done = await ask("badge", "--check", str(file))
            assert isinstance(done.exception, CommandFailed)
            assert "no badge that its node signed" in str(done.exception)

    with_node(tmp_path, conversation)


def test_a_refusal_of_the_node_is_a_sentence(tmp_path):
    """A busy node's refusal reaches the person who asked, with its reason."""

    async def conversation(node: FakeNode, ask: Ask) -> None:
        node.is_busy = True
        done = await ask("chat", "to be")
        assert isinstance(done.exception, CommandFailed)
        assert "four texts are being written; try again" in str(done.exception)
        assert done.stdout == ""

    with_node(tmp_path, conversation)


def test_without_the_unix_socket_the_token_serves(tmp_path):
    """A data directory whose path is too long for a socket is asked over loopback with its token."""

    async def conversation(node: FakeNode, ask: Ask) -> None:
        assert not (root / "api.sock").exists()
        assert (await ask("chat", "to be")).stdout == "to beto be \n"

    root = tmp_path / ("long" * 30)
    with_node(root, conversation)
