"""The API over real sockets: what it tells, whom it refuses, and that it ends what nobody waits for."""

from __future__ import annotations

import json
import re
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from node.api.bodies import BODY_BYTES_MAX
from node.api.routes import ROUTES
from node.api.server import ApiAddress, serve_api
from node.api.times import ApiTimes
from node.data_directory import DataDirectory
from protocol.codec import encode
from protocol.ids import parse_peer
from protocol.limits import ANSWER_RECORD_BYTES_MAX
from tests.node.samples import (
    ANSWER,
    AUDITED,
    CALLS,
    CHECKPOINT,
    CUSTODY,
    EXPERT,
    HOLDER,
    KEPT_BLOB,
    KEPT_TILES,
    MODEL,
    PEER,
    RECEIPT,
    ROUND,
    STATUS,
    SYNC,
    TILE,
    FakeNode,
    badge_facts,
)
from tests.protocol.samples import answer_record

PATH_KIND = re.compile(r":\w+}")
PROMPT = {"prompt": "to be or not", "tokens_max": 3, "temperature": 0.5, "seed": 1}


@dataclass
class Served:
    """A running API: its node, address, and clients."""

    node: FakeNode
    places: DataDirectory
    address: ApiAddress
    tcp: httpx.AsyncClient  # no token
    unix: httpx.AsyncClient

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.places.api_token.read_text().strip()}"}


def serve(root: Path, conversation: Callable[[Served], Awaitable[None]], **options: Any) -> None:
    """Run the API on a port of the system's choice for one conversation."""

    async def main() -> None:
        node, places = FakeNode(), DataDirectory(root)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                address: ApiAddress = await nursery.start(
                    partial(serve_api, **options),
                    lambda: node,
                    places,
                    "127.0.0.1:0",
                    STATUS["peer"],
                    PEER["addresses"],
                )
                over_unix = httpx.AsyncHTTPTransport(uds=str(address.socket))
                async with (
                    httpx.AsyncClient(base_url=address.url, trust_env=False) as tcp,
                    httpx.AsyncClient(base_url="http://node", transport=over_unix) as unix,
                ):
                    await conversation(Served(node, places, address, tcp, unix))
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_reads_answer_with_facts(tmp_path):
    """Every read is JSON of what the node says, the same over loopback and the unix socket."""

    async def conversation(served: Served) -> None:
        for client in (served.tcp, served.unix):
            assert (await client.get("/status")).json() == STATUS
            assert (await client.get("/rounds")).json() == [ROUND]
            assert (await client.get("/rounds/6")).json() == {"round": 6, "slots": {"trunk/0": [6, "cd" * 32]}}
            assert (await client.get("/tiles")).json() == [TILE]
            assert (await client.get("/peers")).json() == [PEER]
            assert (await client.get("/health")).json() == {"healthy": True, "reasons": []}
            assert (await client.get("/consensus/state_sync/status")).json() == SYNC
            kept = await client.get("/consensus/state_sync/checkpoints")
            assert kept.json() == {"checkpoints": [CHECKPOINT]}

    serve(tmp_path, conversation)


def test_a_tile_that_is_kept_is_put_together_for_whoever_has_the_token(tmp_path):
    """Others are asked for it, so not for everybody who reaches loopback; a blob that is not recorded is 404, no root 400."""

    async def conversation(served: Served) -> None:
        assert (await served.tcp.get("/kept")).json() == CUSTODY
        path = f"/kept/{KEPT_BLOB.hex()}"
        assert (await served.tcp.get(f"{path}/0")).status_code == 403
        for tile, data in enumerate(KEPT_TILES):
            assert (await served.unix.get(f"{path}/{tile}")).content == data
            assert (await served.tcp.get(f"{path}/{tile}", headers=served.bearer)).content == data
        assert (await served.unix.get(f"{path}/2")).status_code == 404
        assert (await served.unix.get("/kept/nothing/0")).status_code == 400

    serve(tmp_path, conversation)


def test_what_is_not_there_is_404_with_a_sentence(tmp_path):
    """Unknown rounds, paths and methods are answered with what there is."""

    async def conversation(served: Served) -> None:
        answer = await served.tcp.get("/rounds/99")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
        assert "GET /status" in (await served.tcp.get("/nothing")).json()["error"]["message"]
        assert (await served.tcp.post("/status")).status_code == 405

    serve(tmp_path, conversation)


def test_an_unhealthy_node_says_why_with_503(tmp_path):
    """Health is for machines too: the status code tells it."""

    async def conversation(served: Served) -> None:
        served.node.is_healthy = False
        answer = await served.tcp.get("/health")
        assert answer.status_code == 503
        assert answer.json()["reasons"] == ["Fewer than a quorum of the roster answer."]

    serve(tmp_path, conversation)


def test_metrics_are_prometheus_text(tmp_path):
    """/metrics has the format's content type and our names."""

    async def conversation(served: Served) -> None:
        answer = await served.tcp.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert "nocknode_round 7.0" in answer.text

    serve(tmp_path, conversation)


def test_changes_need_the_token_or_the_unix_socket(tmp_path):
    """Without token a change is refused; with it, or through the socket of mode 0600, it happens."""

    async def conversation(served: Served) -> None:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer ü".encode()}):
            assert (await served.tcp.post("/stop", headers=headers)).status_code == 403
        assert not served.node.is_stopping
        assert (await served.tcp.post("/stop", headers=served.bearer)).status_code == 202
        assert served.node.is_stopping
        served.node.is_stopping = False
        assert (await served.unix.post("/stop")).status_code == 202
        assert served.node.is_stopping
        assert stat.S_IMODE(served.places.api_socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(served.places.api_token.stat().st_mode) == 0o600

    serve(tmp_path, conversation)


def test_pages_of_other_origins_are_refused(tmp_path):
    """A browser that was led here by another name or page gets nothing, not even reads."""

    async def conversation(served: Served) -> None:
        own = served.address.url
        refused = [
            {"host": "attacker.example"},
            {"host": "127.0.0.1.attacker.example:80"},
            {"host": ""},
            {"origin": "http://attacker.example"},
            {"origin": "null"},
            {"origin": "http://127.0.0.1:1"},
        ]
        for headers in refused:
            assert (await served.tcp.get("/status", headers=headers)).status_code == 403, headers
        for headers in ({"origin": own}, {"host": "localhost:5"}, {"host": "localhost"}):
            assert (await served.tcp.get("/status", headers=headers)).status_code == 200, headers

    serve(tmp_path, conversation)


def events(text: str) -> list[dict[str, object]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]


def test_a_generation_is_streamed_to_its_end(tmp_path):
    """Pieces come as events; the last one says how many tokens, and of which round's model."""

    async def conversation(served: Served) -> None:
        answer = await served.tcp.post("/generate", json=PROMPT, headers=served.bearer)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert events(answer.text) == [
            {"text": "to "},
            {"text": "be "},
            {"text": "or "},
            {"done": True, "tokens": 3, "round": 7, "receipt": RECEIPT},
        ]
        assert served.node.generations_open == 0

    serve(tmp_path, conversation)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"prompt": 5}',
        b'{"prompt": "a", "tokens_max": 0}',
        b'{"prompt": "a", "temperature": -1}',
        b'{"prompt": "a", "seed": -1}',
        b'{"prompt": "a", "top": 1}',
        b"\xff",
    ],
)
def test_a_malformed_request_is_refused(tmp_path, body):
    """What is no request for text is 400 with a sentence."""

    async def conversation(served: Served) -> None:
        answer = await served.unix.post("/generate", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "bad_argument"

    serve(tmp_path, conversation)


def test_a_body_over_the_bound_is_refused(tmp_path):
    """No more than the bound is kept of a body."""

    async def conversation(served: Served) -> None:
        answer = await served.unix.post("/generate", content=b" " * (BODY_BYTES_MAX + 1))
        assert answer.status_code == 413

    serve(tmp_path, conversation)


def test_a_body_or_head_that_does_not_come_is_not_waited_for(tmp_path):
    """A body that stays unfinished is answered, a head that does is closed; others are served meanwhile."""

    async def conversation(served: Served) -> None:
        body = await trio.open_unix_socket(str(served.address.socket))
        await body.send_all(b"POST /generate HTTP/1.1\r\nhost: node\r\ncontent-length: 99\r\n\r\n{")
        head = await trio.open_unix_socket(str(served.address.socket))
        await head.send_all(b"GET /status HTTP/1.1\r\nhost:")
        assert (await served.unix.get("/status")).status_code == 200
        received = b""
        while b"The body did not come" not in received:
            received += await body.receive_some()
        assert received.startswith(b"HTTP/1.1 408")
        assert await head.receive_some() == b""
        await body.aclose()
        await head.aclose()

    serve(tmp_path, conversation, times=ApiTimes(idle_seconds=0.3, body_seconds=0.3))


def test_whoever_does_not_read_on_is_left(tmp_path):
    """Its text is given up when it has taken nothing for a while; others are served meanwhile."""

    async def conversation(served: Served) -> None:
        served.node.says = ("x" * 2**20 + " ") * 40  # more than the system keeps for a reader
        body = json.dumps({"prompt": "a", "tokens_max": 4096}).encode()
        stream = await trio.open_unix_socket(str(served.address.socket))
        head = f"POST /generate HTTP/1.1\r\nhost: node\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        await stream.send_all(head + body)
        while not served.node.generations_open:
            await trio.lowlevel.checkpoint()
        assert (await served.unix.get("/status")).status_code == 200
        while served.node.generations_open:
            await trio.sleep(0.01)
        served.node.says = ""
        assert (await served.unix.post("/generate", json=PROMPT)).status_code == 200
        await stream.aclose()

    serve(tmp_path, conversation, times=ApiTimes(read_seconds=0.3))


def test_the_api_ends_although_somebody_does_not_read(tmp_path):
    """At once, and whoever it was is cut off."""

    async def conversation(served: Served) -> None:
        served.node.says = ("x" * 2**20 + " ") * 40
        body = json.dumps({"prompt": "a", "tokens_max": 4096}).encode()
        reader.connect(str(served.address.socket))
        reader.sendall(f"POST /generate HTTP/1.1\r\nhost: node\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        while not served.node.generations_open:
            await trio.lowlevel.checkpoint()
        await trio.sleep(0.2)  # it fills what the system keeps for a reader

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as reader:
        serve(tmp_path, conversation, times=ApiTimes(read_seconds=1e6))


def test_every_answer_has_its_number_and_lets_no_page_use_it(tmp_path):
    """Errors too; a page whose origin is allowed may read, and is told so before it asks."""

    async def conversation(served: Served) -> None:
        numbers = set()
        for path in ("/status", "/nothing", "/docs"):
            headers = (await served.tcp.get(path)).headers
            numbers.add(headers["x-request-id"])
            assert headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "access-control-allow-origin" not in headers
        assert len(numbers) == 3
        page = {"origin": "https://chat.example"}
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        allowed = await served.tcp.options("/v1/chat/completions", headers=page | asked)
        assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
        answer = await served.tcp.get("/status", headers=page)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://chat.example")
        refused = await served.tcp.get("/status", headers={"origin": "https://other.example"})
        assert refused.status_code == 403

    serve(tmp_path, conversation, origins=["https://chat.example"])


def test_a_bug_is_an_answer_whose_number_the_log_knows(tmp_path):
    """With the traceback there, and not in the answer; the next request is served."""

    async def conversation(served: Served) -> None:
        with capture_logs() as lines:
            served.node.fails_with = ValueError("a secret of ours")
            answer = await served.tcp.get("/rounds")
            served.node.fails_with = None
            while not any(line["log_level"] == "error" for line in lines):  # it is told after it was answered
                await trio.lowlevel.checkpoint()
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "bug")
        assert "secret" not in answer.text
        (line,) = (line for line in lines if line["log_level"] == "error")
        assert line["request"] == answer.headers["x-request-id"]
        assert (await served.tcp.get("/rounds")).json() == [ROUND]

    serve(tmp_path, conversation)


def test_the_table_of_routes_is_told(tmp_path):
    """As an OpenAPI document with a schema for each body, and as a page without anything of another host."""

    async def conversation(served: Served) -> None:
        document = (await served.tcp.get("/openapi.json")).json()
        assert document["openapi"].startswith("3.1")
        assert set(document["paths"]) == {PATH_KIND.sub("}", row.path) for row in ROUTES}
        completion = document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"][
            "schema"
        ]
        assert "prompt" in document["components"]["schemas"][completion["$ref"].rpartition("/")[2]]["properties"]
        page = (await served.tcp.get("/docs")).text
        assert all(row.path in page for row in ROUTES)
        assert "http://" not in page
        assert "https://" not in page
        assert "<script" not in page

    serve(tmp_path, conversation)


def test_a_connection_that_is_to_be_closed_is(tmp_path):
    """After a stream and after a whole answer: whoever reads to the end comes to it."""

    async def conversation(served: Served) -> None:
        body = json.dumps(PROMPT).encode()
        for path in ("/generate", "/chat"):
            async with await trio.open_unix_socket(str(served.address.socket)) as stream:
                head = f"POST {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
                await stream.send_all(head.encode() + body)
                received = b"".join([data async for data in stream])
                assert received.startswith(b"HTTP/1.1 200")
                assert b'"tokens":3' in received

    serve(tmp_path, conversation)


def test_a_text_comes_whole_where_that_is_asked(tmp_path):
    """/chat; /chat/distributed only from a node that has no experts itself."""

    async def conversation(served: Served) -> None:
        answer = await served.unix.post("/chat", json=PROMPT)
        assert answer.json() == {"text": "to be or ", "tokens": 3, "round": 7, "receipt": RECEIPT}
        refused = await served.unix.post("/chat/distributed", json=PROMPT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_distributed")
        MODEL["experts"] = "elsewhere"
        assert (await served.unix.post("/chat/distributed", json=PROMPT)).status_code == 200

    try:
        serve(tmp_path, conversation)
    finally:
        MODEL["experts"] = "here"


def test_experts_are_listed(tmp_path):
    """All, one, their calls; what was refused and who failed."""

    async def conversation(served: Served) -> None:
        assert (await served.tcp.get("/experts")).json() == [EXPERT]
        assert (await served.tcp.get("/experts/layer0.expert1")).json() == EXPERT
        assert (await served.tcp.get("/experts/layer9.expert9")).status_code == 404
        assert (await served.tcp.get("/experts/calls")).json()["served"]["served"] == 3
        integrity = (await served.tcp.get("/security/integrity_status")).json()
        assert (integrity["rejected"], integrity["audits_failed"]) == (STATUS["rejected"], 3)
        assert (integrity["answers_checked"], integrity["quarantined"]) == (CALLS["checks"], {HOLDER["peer"]: 299.5})
        assert (await served.tcp.get("/p2p/nodes")).json() == [PEER]
        assert (await served.tcp.get("/monitoring/health")).json()["healthy"]

    serve(tmp_path, conversation)


def test_answers_are_listed_and_audited(tmp_path):
    """By their names, or as somebody saved them; the text is for whoever may change something."""
    name, record = ANSWER["answer"], encode(answer_record())

    async def conversation(served: Served) -> None:
        assert (await served.tcp.get("/security/badge")).json() == badge_facts()
        assert (await served.tcp.get("/security/answers")).json() == {"answers": [ANSWER]}
        assert (await served.tcp.get("/security/answers?first=1")).json() == {"answers": []}
        assert (await served.tcp.get(f"/security/answers/{name}")).json() == RECEIPT
        assert (await served.tcp.get(f"/security/answers/{name}/record")).status_code == 403
        assert (await served.unix.get(f"/security/answers/{name}/record")).content == record
        assert (await served.unix.post(f"/security/verify_audit/{name}")).json() == AUDITED
        raw = {"content-type": "application/octet-stream"}
        assert (await served.unix.post("/security/verify_audit", content=record, headers=raw)).json() == AUDITED
        assert (await served.unix.post("/security/verify_audit", json={"record": record.hex()})).json() == AUDITED
        assert (await served.tcp.post("/security/verify_audit", json={"record": record.hex()})).status_code == 401

    serve(tmp_path, conversation)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/security/verify_audit/" + "ab" * 32, None, 404),
        ("/security/verify_audit/xyz", None, 400),
        ("/security/verify_audit", {"record": "ab"}, 400),
        ("/security/verify_audit", {"record": "xyz"}, 400),
        ("/security/verify_audit", {"record": "ab" * (ANSWER_RECORD_BYTES_MAX + 1)}, 400),
        ("/security/verify_audit", {"record": encode(answer_record()).hex()[:-2]}, 400),
        ("/security/verify_audit", {"record": encode(answer_record()).hex().replace("8", "9", 1)}, 400),
    ],
)
def test_what_is_no_record_of_an_answer_is_refused(tmp_path, path, body, status):
    """With a sentence, whatever it is."""

    async def conversation(served: Served) -> None:
        answer = await served.unix.post(path, json=body)
        assert (answer.status_code, len(answer.json()["error"]["message"]) > 10) == (status, True)
        for read in ("", "/record"):
            assert (await served.unix.get(f"/security/answers/{'ab' * 32}{read}")).status_code == 404

    serve(tmp_path, conversation)


def test_a_holder_is_left_alone_and_asked_again_by_hand(tmp_path):
    """With the right to change something; what it gave is read without."""
    peer, name = parse_peer(HOLDER["peer"]), HOLDER["peer"]

    async def conversation(served: Served) -> None:
        assert (await served.tcp.get(f"/security/node_status/{name}")).json() == HOLDER
        assert (await served.tcp.get(f"/security/node_status/{PEER['peer']}")).status_code == 404
        assert (await served.tcp.get("/security/node_status/nobody")).status_code == 400
        assert (await served.tcp.post(f"/security/quarantine_node/{name}")).status_code == 403
        assert served.node.quarantined == set()
        assert (await served.unix.post(f"/security/quarantine_node/{name}")).status_code == 202
        assert served.node.quarantined == {peer}
        assert (await served.unix.post(f"/security/recover_node/{name}")).status_code == 202
        assert served.node.quarantined == set()

    serve(tmp_path, conversation)


def test_a_busy_node_says_so_before_the_stream_begins(tmp_path):
    """What is refused before the first piece is an answer with a status, not a broken stream."""

    async def conversation(served: Served) -> None:
        served.node.is_busy = True
        answer = await served.unix.post("/generate", json=PROMPT)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "busy"

    serve(tmp_path, conversation)


def test_a_caller_who_leaves_stops_the_generation(tmp_path):
    """Nobody works for a caller who has gone."""

    async def conversation(served: Served) -> None:
        served.node.waits_for_ever = True
        body = json.dumps(PROMPT).encode()
        head = f"POST /generate HTTP/1.1\r\nhost: node\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        stream = await trio.open_unix_socket(str(served.address.socket))
        await stream.send_all(head + body)
        received = b""
        while b'{"text":"or "}' not in received:
            received += await stream.receive_some()
        assert served.node.generations_open == 1
        await stream.aclose()
        while served.node.generations_open:
            await trio.lowlevel.checkpoint()

    serve(tmp_path, conversation)


def test_the_address_is_written_while_the_api_is_up(tmp_path):
    """api.json tells where; it and the socket are gone when the node has stopped. The token stays the same."""
    tokens = []

    async def conversation(served: Served) -> None:
        facts = json.loads(served.places.api_file.read_text())
        assert facts["url"] == served.address.url
        assert facts["socket"] == str(served.places.api_socket)
        assert facts["peer"] == STATUS["peer"]
        assert facts["addresses"] == PEER["addresses"]
        tokens.append(served.bearer)

    serve(tmp_path, conversation)
    assert not (tmp_path / "api.json").exists()
    assert not (tmp_path / "api.sock").exists()
    serve(tmp_path, conversation)
    assert tokens[0] == tokens[1]


def test_a_busy_port_is_a_sentence(tmp_path):
    """A second server on the port is refused with the remedy."""

    async def conversation(served: Served) -> None:
        listen = served.address.url.removeprefix("http://")
        with pytest.raises(OSError, match="choose another port with --api"):
            await serve_api(FakeNode, DataDirectory(tmp_path / "second"), listen, "", [])

    serve(tmp_path, conversation)


def test_a_long_path_has_no_unix_socket(tmp_path):
    """Where the system has no room for the socket's name, the token remains."""
    root = tmp_path / ("long" * 30)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve_api, FakeNode, DataDirectory(root), "127.0.0.1:0", "", [])
            assert address.socket is None
            nursery.cancel_scope.cancel()

    trio.run(main)
