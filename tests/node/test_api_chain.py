"""The routes of the chain over real sockets: what they tell, whom they let change something, what hostile bytes meet."""

from __future__ import annotations

import msgspec
import pytest

from node.account_address import account_text
from node.api.handlers import RAW_TYPE, TRANSACTION_REQUEST_BYTES_MAX
from node.api.routes import ROUTES, Access
from node.chain_proof import check_proof
from protocol.codec import encode
from protocol.ids import peer_text
from protocol.transactions import Register, SignedTransaction, Transfer
from tests.consensus.genesis import TILES
from tests.consensus.ledger_samples import ACCOUNT_IDS, CARDS, GENESIS, available, node_of, sign, snapshot_of
from tests.node.test_api import Served, serve

ADDRESS = account_text(ACCOUNT_IDS[0])


def pay(nonce: int = 0) -> SignedTransaction:
    return sign(0, nonce, Transfer(ACCOUNT_IDS[1], 500))


def as_request(transaction: SignedTransaction) -> dict[str, str]:
    return {"transaction": encode(transaction.plain).hex()}


def test_the_reads_answer_with_the_facts_of_the_chain(tmp_path):
    """Each route is one method of the view, the same over loopback and the unix socket."""

    async def conversation(served: Served) -> None:
        chain = served.node.small_chain
        chain.add(pay(), sign(3, 0, available(GENESIS, snapshot_of(GENESIS, TILES[0]))))
        chain.seal()
        view = chain.view
        assert view.kept()["kept_total"] == 1
        expected = {
            "/consensus/status": view.status(),
            "/consensus/blocks/1": view.block(1),
            "/consensus/blocks/1?first=1": view.block(1, 1),
            f"/consensus/transactions/{pay().id.hex()}": view.transaction(pay().id),
            f"/consensus/accounts/{ADDRESS}": view.account(ACCOUNT_IDS[0]),
            "/consensus/proof?key=supply": await view.proof("supply"),
            "/consensus/validators": view.validators(),
            f"/consensus/validators/{peer_text(node_of(1))}": view.validator(node_of(1)),
            "/consensus/epochs/current": view.epoch(),
            "/consensus/kept": view.kept(),
            "/consensus/kept?first=1": view.kept(1),
        }
        for client in (served.tcp, served.unix):
            for path, facts in expected.items():
                answer = await client.get(path)
                assert (answer.status_code, answer.json()) == (200, msgspec.to_builtins(facts)), path
        proof = (await served.tcp.get(f"/consensus/proof?key=account:{ADDRESS}")).content
        assert check_proof(proof, chain.state.root()).height == 1

    serve(tmp_path, conversation)


def test_what_is_not_there_is_404(tmp_path):
    """Blocks, transactions and validators that nobody knows, with a sentence."""

    async def conversation(served: Served) -> None:
        for path in (
            "/consensus/blocks/0",
            "/consensus/blocks/1",
            f"/consensus/blocks/{10**19 - 1}",
            f"/consensus/transactions/{'ab' * 32}",
            f"/consensus/validators/{peer_text(node_of(5))}",
            "/consensus/epochs/1/rewards",
        ):
            answer = await served.tcp.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path

    serve(tmp_path, conversation)


@pytest.mark.parametrize(
    "path",
    [
        "/consensus/blocks/x",
        "/consensus/blocks/-1",
        "/consensus/blocks/1.0",
        "/consensus/blocks/" + "9" * 5_000,
        "/consensus/blocks/1?first=-1",
        "/consensus/blocks/1?first=" + "9" * 5_000,
        "/consensus/transactions/ab",
        "/consensus/transactions/" + "zz" * 32,
        "/consensus/accounts/" + ADDRESS[:-1],
        "/consensus/accounts/" + "q" * 5_000,
        "/consensus/validators/me",
        "/consensus/proof",
        "/consensus/proof?key=everything",
        "/consensus/proof?key=account:" + "q" * 5_000,
        "/consensus/proof?key=epoch:-1",
        "/consensus/proof?key=tile:%00",
    ],
)
def test_a_malformed_question_is_refused(tmp_path, path):
    """400 with a sentence, whatever stands in the path."""

    async def conversation(served: Served) -> None:
        answer = await served.tcp.get(path)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] in ("bad_argument", "bad_address")

    serve(tmp_path, conversation)


@pytest.mark.parametrize("path", [row.path for row in ROUTES if row.method == "POST" and "consensus" in row.path])
def test_money_moves_only_with_the_token_or_the_socket(tmp_path, path):
    """No token, a wrong one, a foreign Host or Origin even with the token: 403, and the pool stays empty."""

    async def conversation(served: Served) -> None:
        transaction = sign(2, 0, Register(CARDS[2], 5_000))
        refused = [
            {},
            {"authorization": "Bearer wrong"},
            served.bearer | {"host": "attacker.example"},
            served.bearer | {"origin": "http://attacker.example"},
            served.bearer | {"origin": "null"},
        ]
        for headers in refused:
            answer = await served.tcp.post(path, json=as_request(transaction), headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), headers
        assert served.node.small_chain.pool.statistics().transactions == 0
        answer = await served.tcp.post(path, json=as_request(transaction), headers=served.bearer)
        assert (answer.status_code, answer.json()) == (202, {"id": transaction.id.hex(), "state": "waiting"})
        assert served.node.small_chain.pool.holds(transaction)

    serve(tmp_path, conversation)


def test_nothing_of_the_chain_changes_by_a_read_route() -> None:
    """Under /consensus every POST is guarded as a change, and there is nothing but GET and POST."""
    rows = [row for row in ROUTES if row.path.startswith("/consensus/")]
    assert {(row.method, row.access) for row in rows} == {("GET", Access.READ), ("POST", Access.CHANGE)}


def test_signed_bytes_are_taken_as_they_are_too(tmp_path):
    """As one octet stream, without JSON around it."""

    async def conversation(served: Served) -> None:
        data, headers = encode(pay().plain), {"content-type": RAW_TYPE}
        answer = await served.unix.post("/consensus/transactions", content=data, headers=headers)
        assert (answer.status_code, answer.json()["id"]) == (202, pay().id.hex())

    serve(tmp_path, conversation)


def test_a_refusal_has_its_code_and_sentence(tmp_path):
    """Sent twice, of a used nonce, of the wrong kind."""

    async def conversation(served: Served) -> None:
        chain = served.node.small_chain
        chain.seals = True

        async def ask(transaction: SignedTransaction, path: str = "transactions") -> tuple[int, str, str]:
            answer = await served.unix.post(f"/consensus/{path}", json=as_request(transaction))
            error = answer.json().get("error", {"code": "", "message": ""})
            return answer.status_code, error["code"], error["message"]

        assert (await ask(pay()))[0] == 202
        status, code, message = await ask(pay())
        assert (status, code) == (409, "already_recorded")
        assert "in block 1" in message
        assert (await ask(sign(0, 0, Transfer(ACCOUNT_IDS[1], 501))))[:2] == (409, "wrong_nonce")
        assert (await ask(pay(1), "validators/register"))[:2] == (400, "bad_argument")

    serve(tmp_path, conversation)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{}", 400),
        (b"[]", 400),
        (b"\xff", 400),
        (b'{"transaction": 5}', 400),
        (b'{"transaction": ""}', 400),
        (b'{"transaction": "abc"}', 400),
        (b'{"transaction": "AB"}', 400),
        (b'{"transaction": "zz"}', 400),
        (b'{"transaction": "00"}', 400),
        (b'{"transaction": "' + b"00" * 1_000 + b'"}', 400),
        (b'{"transaction": "00", "more": 1}', 400),
        (b"[" * 4_000, 400),
        (b" " * (TRANSACTION_REQUEST_BYTES_MAX + 1), 413),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", RAW_TYPE])
def test_hostile_bodies_are_refused(tmp_path, body, status, kind):
    """Whatever comes: a refusal with a code, and nothing in the pool."""

    async def conversation(served: Served) -> None:
        answer = await served.unix.post("/consensus/transactions", content=body, headers={"content-type": kind})
        assert answer.status_code in ((status,) if kind != RAW_TYPE else (400, 413)), answer.text
        assert answer.json()["error"]["code"]
        assert served.node.small_chain.pool.statistics().transactions == 0

    serve(tmp_path, conversation)


def test_the_metrics_know_the_chain(tmp_path):
    """Lag, votes, pool, money, and each member of the roster by name."""

    async def conversation(served: Served) -> None:
        chain = served.node.small_chain
        header = chain.seal()
        chain.now_ms = header.time_ms + 3_000
        chain.add(pay())
        text = (await served.tcp.get("/metrics")).text
        for line in (
            "nocknode_finality_lag_seconds 3.0",
            "nocknode_certificate_votes 2.0",
            "nocknode_pool_transactions 1.0",
            f'nocknode_validator_connected{{validator="{peer_text(node_of(0))[-6:]}"}} 1.0',
            f'nocknode_validator_connected{{validator="{peer_text(node_of(1))[-6:]}"}} 0.0',
            'nocknode_supply_nano{part="burned"} 0.0',
        ):
            assert line in text.splitlines(), line

    serve(tmp_path, conversation)
