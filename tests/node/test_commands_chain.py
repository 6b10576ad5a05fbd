"""What people type about the chain, end to end: command line, HTTP, a real state; and what can be checked without a node."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result
from msgspec.structs import replace
from structlog.testing import capture_logs

from node.account_address import account_text
from node.api.server import serve_api
from node.cli import nocknode
from node.commands.options import duration_text, instant_text
from node.data_directory import DataDirectory
from node.errors import EXIT_MISTAKE, explain
from node.keys import create_keys
from node.services.submission import NONCE_TRIES
from protocol.ids import AccountId, peer_text
from protocol.transactions import Register, SignedTransaction, Transfer
from tests.consensus.genesis import TILES
from tests.consensus.ledger_samples import (
    ACCOUNT_IDS,
    BALANCE,
    CARDS,
    GENESIS,
    RULE,
    available,
    balance,
    node_of,
    sign,
    snapshot_of,
    validator,
)
from tests.node.chain_samples import SmallChain, write_keys
from tests.node.samples import STATUS, FakeNode

TO = account_text(ACCOUNT_IDS[4])
Ask = Callable[..., Awaitable[Result]]


def with_chain(root: Path, conversation: Callable[[SmallChain, Ask], Awaitable[None]], index: int = 0) -> None:
    """Serve a small chain from a data directory with the keys of account ``index``; each transaction gets a block at once."""
    write_keys(root, index)

    async def ask(*arguments: str) -> Result:
        return await trio.to_thread.run_sync(partial(command, *arguments, root=root))

    async def main() -> None:
        node = FakeNode()
        node.small_chain.seals = True
        with trio.fail_after(60), capture_logs():  # the node's log is not what a command prints
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_api, lambda: node, DataDirectory(root), "127.0.0.1:0", STATUS["peer"], [])
                await conversation(node.small_chain, ask)
                nursery.cancel_scope.cancel()

    trio.run(main)


def command(*arguments: str, root: Path, typed: str = "") -> Result:
    return CliRunner().invoke(nocknode, [*arguments, "--data-dir", str(root)], input=typed)


def facts(done: Result) -> dict[str, Any]:
    """The JSON of a command that succeeded."""
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout.splitlines()[-1])


def mistake(done: Result) -> str:
    """The sentence of a command that refuses as the user's mistake."""
    assert done.exception is not None
    assert done.stdout == ""
    failure = explain(done.exception)
    assert failure.exit_code == EXIT_MISTAKE, failure.sentence
    return failure.sentence


# -- what people read ---------------------------------------------------------------------------------------------------


def test_the_commands_tell_what_the_chain_tells(tmp_path):
    """With --json the view's facts; without, texts that hold them."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        paid = sign(1, 0, Transfer(ACCOUNT_IDS[4], 1_500_000))
        assert "nothing is certified as kept yet" in (await ask("chain", "kept")).stdout
        chain.add(paid, sign(3, 0, available(GENESIS, snapshot_of(GENESIS, TILES[0]))))
        chain.seal()
        asked: dict[str, Any] = {
            "chain": chain.view.status(),
            "chain status": chain.view.status(),
            "chain block 1": chain.view.block(1),
            "chain block": chain.view.block(1),
            f"chain tx {paid.id.hex()}": chain.view.transaction(paid.id),
            "chain kept": chain.view.kept(),
            "chain proof supply": await chain.view.proof("supply"),
            "validators": {"validators": chain.view.validators()},
            "wallet": {"address": account_text(ACCOUNT_IDS[0]), "account": chain.view.account(ACCOUNT_IDS[0])},
        }
        for line, expected in asked.items():
            assert facts(await ask(*line.split(), "--json")) == expected, line
        words: dict[str, tuple[str, ...]] = {
            "chain": ("height       1, epoch 0, view 9", "2 of 2 in the newest certificate", "NOCK at stake"),
            "chain block 1": ("final by   2 votes in view 2", "gives 0.0015 NOCK to " + TO, paid.id.hex()),
            f"chain tx {paid.id.hex()}": ("in block 1 at 0", "gives 0.0015 NOCK", account_text(ACCOUNT_IDS[1])),
            "chain kept": ("version 0 of layer0.expert0/0", "4.1 kB", "until the end of epoch 16"),
            "chain proof supply": ("burned_nano        2000 (0.000002 NOCK)", "of block 1"),
            "validators": (peer_text(node_of(0))[-6:] + "*", "25.00 %", "0.001 NOCK"),
            "wallet": ("balance    1 NOCK", "as of      block 1", "active"),
        }
        for line, texts in words.items():
            said = (await ask(*line.split())).stdout
            assert [text for text in texts if text not in said] == [], said

    with_chain(tmp_path, conversation)


def test_validators_names_the_block_from_which_a_new_one_votes(tmp_path):
    """Three epochs after its registration; the command that registers points there."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        assert "nocknode validators" in (await ask("tx", "register", "0.25", "--yes")).stderr
        said = (await ask("validators")).stdout
        assert f"from block {3 * chain.view.genesis.chain.epoch_heights + 1:,}" in said, said

    with_chain(tmp_path, conversation, index=2)


def test_validators_says_until_when_one_is_jailed(tmp_path):
    """Of one that does not vote any more; as long as it does, it votes."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        await ask("tx", "register", "0.25", "--yes")
        for index in (1, 2):
            held = validator(chain.state, index)
            chain.state = chain.state.put_validator(
                held, replace(held, registered_height=0, jailed_until=1_000 + index)
            )
        said = (await ask("validators")).stdout
        assert "1,002" in said, said
        assert "1,001" not in said, said

    with_chain(tmp_path, conversation, index=2)


def test_of_a_pruned_block_the_commands_say_what_became_of_it(tmp_path):
    """It was pruned here, from which height on blocks are kept, and what to do; the status says the same."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        for _ in range(3):
            chain.seal()
        chain.prune(3)
        assert "blocks from 3 on" in (await ask("chain")).stdout
        said = mistake(await ask("chain", "block", "2"))
        assert "block 2 was pruned here, where blocks from 3 on are kept (storage.chain_bytes_max): run this" in said
        assert "there is no block 4 yet" in mistake(await ask("chain", "block", "4"))
        assert "its block was pruned here" in mistake(await ask("chain", "tx", "ab" * 32))

    with_chain(tmp_path, conversation)


def test_the_genesis_has_a_status_and_no_block(tmp_path):
    """Before the first block the commands say so."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        assert "none yet: this is the genesis" in (await ask("chain")).stdout
        assert "there is no block 1 yet; the newest has height 0" in mistake(await ask("chain", "block"))
        assert "left the" not in mistake(await ask("chain", "tx", "ab" * 32))
        assert "must be 64 hexadecimal digits" in mistake(await ask("chain", "tx", "ab"))
        assert "there is no key 'money'" in mistake(await ask("chain", "proof", "money"))

    with_chain(tmp_path, conversation)


def test_a_wallet_shows_what_unbonds_and_when(tmp_path):
    """Amount, time and blocks that are left."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        facts(await ask("tx", "unstake", "0.0005", "--json"))
        said = (await ask("wallet")).stdout
        assert "0.0005 NOCK" in said
        assert f"{duration_text(RULE.unbonding_ms)} and {RULE.unbonding_heights} blocks" in said

    with_chain(tmp_path, conversation)


def test_a_wallet_without_a_node_still_has_an_address(tmp_path):
    """The address comes from the key; what it holds is said not to be known."""
    write_keys(tmp_path, 0)
    address = account_text(ACCOUNT_IDS[0])
    assert facts(command("wallet", "--json", root=tmp_path)) == {"address": address, "account": None}
    done = command("wallet", root=tmp_path)
    assert done.stdout == f"address    {address}\n"
    assert "nocknode start" in done.stderr
    assert "make keys with" in mistake(command("wallet", root=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "line", ["chain", "chain block 1", "validators", f"tx send {TO} 1", "tx leave", "chain proof supply"]
)
def test_without_a_node_commands_say_how_to_start_one(tmp_path, line):
    """A sentence, before a key is read or a passphrase asked for."""
    assert f"nocknode start --data-dir {tmp_path}" in mistake(command(*line.split(), root=tmp_path))


def test_times_are_readable():
    """Two units, rounded up, so that nothing is said to be free before it is."""
    assert [duration_text(value) for value in (0, 1, 61_000, 3_600_000, 21 * 86_400_000 - 1)] == [
        "0 s",
        "1 s",
        "1 min 1 s",
        "1 h",
        "21 d",
    ]
    assert instant_text(1_700_000_000_999) == "2023-11-14 22:13:20 UTC"


# -- proofs -------------------------------------------------------------------------------------------------------------


def test_a_proof_is_checked_without_a_node(tmp_path):
    """What the command wrote checks against the root; a changed file, another root or no root does not."""
    path = tmp_path / "proof.json"
    roots: list[str] = []

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        chain.seal()
        done = await ask("chain", "proof", f"account:{account_text(ACCOUNT_IDS[0])}", "--out", str(path))
        assert done.exit_code == 0
        roots.append(chain.state.root().hex())
        assert f"--check {path} --root {roots[0]}" in done.stderr

    with_chain(tmp_path / "node", conversation)
    check = partial(command, "chain", "proof", "--check", str(path), "--root", root=tmp_path / "nowhere")
    done = check(roots[0])
    assert "balance_nano       1000000000" in done.stdout
    assert done.stdout.endswith("The proof is right.\n")
    assert facts(check(roots[0], "--json"))["facts"]["balance_nano"] == BALANCE
    assert "does not lead to the root" in mistake(check("ab" * 32))
    assert "--root must be 64" in mistake(check("ab"))
    path.write_text(path.read_text().replace('"balance_nano":1000000000', '"balance_nano":9000000000'))
    assert "its words say something else than its bytes" in mistake(check(roots[0]))
    path.write_bytes(b"\xff" * 600_000)
    assert "at most" in mistake(check(roots[0]))


def test_proof_asks_for_what_it_needs(tmp_path):
    """A key or a file, and a root with the file."""
    for arguments in ((), ("supply", "--check", "x", "--root", "ab" * 32), ("--check", "x")):
        done = CliRunner().invoke(nocknode, ["chain", "proof", *arguments])
        assert done.exit_code == 2
        assert "--root HEX" in done.stderr


# -- what moves money ---------------------------------------------------------------------------------------------------


def test_money_is_sent_and_final(tmp_path):
    """The command ends when the transaction is in a block, and says in which."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        sent = facts(await ask("tx", "send", TO, "0.25", "--json"))
        assert (sent["state"], sent["height"], sent["index"], sent["nonce"]) == ("final", 1, 0, 0)
        assert balance(chain.state, 4) == BALANCE + 250_000_000
        assert balance(chain.state, 0) == BALANCE - 250_000_000 - sent["fee_nano"]
        assert (
            sent["fee_nano"] == chain.view.transaction(bytes.fromhex(sent["id"]))["size_bytes"]
        )  # 1 nano a byte: the least
        said = (await ask("tx", "send", TO, "0.001", "--fee", "0.00002")).stdout
        assert f"gives 0.001 NOCK to {TO}" in said
        assert "in block 2 at 0" in said
        assert "0.00002 NOCK" in said

    with_chain(tmp_path, conversation)


def test_one_need_not_wait(tmp_path):
    """--no-wait ends with the transaction in the pool; the next one takes the next nonce."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        chain.seals = False
        first = facts(await ask("tx", "send", TO, "0.1", "--no-wait", "--json"))
        second = facts(await ask("tx", "send", TO, "0.1", "--no-wait", "--json"))
        assert (first["state"], first["nonce"], second["nonce"]) == ("waiting", 0, 1)
        assert "nocknode chain tx" in (await ask("tx", "send", TO, "0.1", "--no-wait")).stderr
        assert "waits in the pool" in (await ask("chain", "tx", first["id"])).stdout
        assert "2 more wait" not in (await ask("wallet")).stdout
        assert "3 more wait" in (await ask("wallet")).stdout

    with_chain(tmp_path, conversation)


def test_a_dry_run_signs_nothing(tmp_path):
    """It shows what would be signed, to whom, for what fee, on which chain; the pool stays empty."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        shown = facts(await ask("tx", "send", TO, "0.25", "--dry-run", "--json"))
        assert shown["dry_run"]
        assert shown["details"] == {"recipient": TO, "amount_nano": 250_000_000}
        assert (shown["chain"], shown["fork"], shown["nonce"]) == (b"test".hex(), 0, 0)
        done = await ask("tx", "send", TO, "0.25", "--dry-run")
        assert "gives 0.25 NOCK" in done.stdout
        assert "Nothing was signed or sent." in done.stderr
        assert chain.ledger.tip() is None
        assert chain.pool.statistics().transactions == 0

    with_chain(tmp_path, conversation)


def test_a_transaction_sent_twice_says_so(tmp_path):
    """The same nonce and payload are the same transaction."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        same = ("tx", "send", TO, "0.25", "--nonce", "0")
        facts(await ask(*same, "--json"))
        assert "the transaction is in block 1" in mistake(await ask(*same))
        assert "nonce is used" in mistake(await ask("tx", "send", TO, "0.5", "--nonce", "0"))

    with_chain(tmp_path, conversation)


def test_encrypted_keys_ask_for_their_passphrase(tmp_path):
    """The address of a wallet is behind it too; a wrong one is a sentence."""
    made = create_keys(DataDirectory(tmp_path).keys, "word")
    done = command("wallet", "--json", root=tmp_path, typed="word\n")
    assert facts(done)["address"] == account_text(AccountId(made.account.public))
    assert "Passphrase of the keys" in done.stderr
    assert "does not open" in mistake(command("wallet", root=tmp_path, typed="other\n"))


@pytest.mark.parametrize("answer", ["y", "n"])
def test_on_a_terminal_the_command_asks_before_it_sends(tmp_path, answer):
    """What would be signed is shown first; without a yes nothing is, and --yes asks nothing."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        line = [sys.executable, "-m", "node", "tx", "send", TO, "0.25", "--data-dir", str(tmp_path)]
        said, code = await trio.to_thread.run_sync(at_terminal, line, answer)
        assert said.index("gives 0.25 NOCK to " + TO) < said.index("Sign and send it?")
        assert chain.ledger.tip() == (1 if answer == "y" else None)
        assert code == (0 if answer == "y" else EXIT_MISTAKE)
        assert ("in block 1" if answer == "y" else "nothing was sent") in said
        said, code = await trio.to_thread.run_sync(at_terminal, [*line, "--yes"], "")
        assert ("Sign and send" in said, code) == (False, 0)

    with_chain(tmp_path, conversation)


def at_terminal(line: list[str], answer: str) -> tuple[str, int]:
    """What a command says at a terminal of its own to somebody who answers its question, and its exit code."""
    ours, theirs = pty.openpty()
    with (
        open(ours, "r+b", buffering=0) as terminal,
        subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs) as process,
    ):
        os.close(theirs)
        said, question = b"", b"Sign and send it?"
        with contextlib.suppress(OSError):  # EIO: the last process has left the terminal
            while piece := terminal.read(4096):
                if question in said + piece and question not in said:
                    terminal.write(f"{answer}\n".encode())
                said += piece
        return said.decode(), process.wait(20)


def test_what_a_sender_gets_wrong_is_said_before_anything_is_signed(tmp_path):
    """Each with its remedy, and no block."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        told = {
            "address": await ask("tx", "send", TO[:-1] + "q", "1"),
            "key": await ask("tx", "send", "ab" * 32, "1"),
            "amount": await ask("tx", "send", TO, "1e3"),
            "decimals": await ask("tx", "send", TO, "0.0000000001"),
            "nothing": await ask("tx", "send", TO, "0"),
            "poor": await ask("tx", "send", TO, "1"),
            "fee": await ask("tx", "send", TO, "0.1", "--fee", "0.000000001"),
            "registered": await ask("tx", "register", "0.1"),
            "too much": await ask("tx", "unstake", "0.002"),
            "too little left": await ask("tx", "unstake", "0.0009999"),
            "foreign": await ask("tx", "stake", "0.1", "--validator", peer_text(node_of(1))),
            "peer": await ask("tx", "leave", "--validator", "me"),
        }
        words = {
            "address": "cut short or mistyped",
            "key": "begin with nocka1",
            "amount": "must be an amount in NOCK",
            "decimals": "at most nine decimal places",
            "nothing": "nothing would move",
            "poor": "holds 1 NOCK, and this takes 1 NOCK and a fee",
            "fee": "the least for this is",
            "registered": "is a validator already",
            "too much": "has 0.001 NOCK at stake",
            "too little left": "nocknode tx leave",
            "foreign": "is not a validator of this account",
            "peer": "is not an Ed25519 peer id",
        }
        sentences = {name: mistake(done) for name, done in told.items()}
        assert {name: said for name, said in sentences.items() if words[name] not in said} == {}
        assert chain.ledger.tip() is None

    with_chain(tmp_path, conversation)


def test_a_node_becomes_a_validator_and_stops_being_one(tmp_path):
    """Register, stake, unstake, leave: what the state machine has, from the command line."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        assert "nocknode tx register" in mistake(await ask("tx", "stake", "0.1"))
        assert "at least 0.000001 NOCK at stake" in mistake(await ask("tx", "register", "0.000000999"))
        facts(await ask("tx", "register", "0.25", "--json"))
        assert validator(chain.state, 2).stake_nano == 250_000_000
        facts(await ask("tx", "stake", "0.25", "--json"))
        facts(await ask("tx", "unstake", "0.1", "--json"))
        assert validator(chain.state, 2).stake_nano == 400_000_000
        facts(await ask("tx", "leave", "--json"))
        assert (validator(chain.state, 2).stake_nano, validator(chain.state, 2).unbonding_nano) == (0, 500_000_000)
        assert "no longer a validator (left)" in mistake(await ask("tx", "leave"))

    with_chain(tmp_path, conversation, index=2)


def test_a_transaction_that_only_paid_its_fee_is_an_error(tmp_path):
    """What the state machine refused is said with its reason, and the block in which it is."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        chain.add(sign(2, 0, Register(CARDS[2], 5_000)))  # waits beside the one that the command makes
        chain.seals = False

        async def seal_later() -> None:
            while chain.pool.statistics().transactions < 2:
                await trio.lowlevel.checkpoint()
            chain.seal()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(seal_later)
            said = mistake(await ask("tx", "register", "0.5"))
        assert "is in block 1, but did nothing except pay its fee: The state holds this already" in said

    with_chain(tmp_path, conversation, index=2)


def test_a_nonce_that_the_node_took_meanwhile_is_asked_for_again(tmp_path):
    """A member's node records by itself in the name of its owner's account; a nonce that the user chose is not changed."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        add, taken = chain.add, iter(range(2 + NONCE_TRIES))

        def add_behind_ours(*transactions: SignedTransaction) -> None:
            nonce = next(taken, None)
            if nonce is not None:
                add(sign(0, nonce, Transfer(ACCOUNT_IDS[1], 7)))
                chain.seal()
            add(*transactions)

        chain.add = add_behind_ours  # type: ignore[method-assign]
        assert "nonce" in mistake(await ask("tx", "send", TO, "0.1", "--nonce", "0"))
        assert "nonce" in mistake(await ask("tx", "send", TO, "0.1"))  # taken from it as often as it tries
        sent = facts(await ask("tx", "send", TO, "0.1", "--json"))
        assert (sent["state"], sent["nonce"]) == ("final", 2 + NONCE_TRIES)
        assert balance(chain.state, 4) == BALANCE + 100_000_000

    with_chain(tmp_path, conversation)


def test_a_nonce_that_waits_in_the_pool_meanwhile_is_asked_for_again(tmp_path):
    """What the node recorded by itself waits for a block: ours goes behind it, and replaces it only where that is asked for."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        add, mine = chain.add, [sign(0, nonce, Transfer(ACCOUNT_IDS[1], 7)) for nonce in range(2)]
        chain.seals = False

        def add_behind_ours(*transactions: SignedTransaction) -> None:
            if mine:
                add(mine.pop(0))
            add(*transactions)

        chain.add = add_behind_ours  # type: ignore[method-assign]
        assert "be replaced" in mistake(await ask("tx", "send", TO, "0.1", "--nonce", "0"))
        sent = facts(await ask("tx", "send", TO, "0.1", "--no-wait", "--json"))
        assert (sent["state"], sent["nonce"]) == ("waiting", 2)
        assert chain.pool.statistics().transactions == 3

    with_chain(tmp_path, conversation)


def test_a_transaction_that_leaves_the_pool_ends_the_wait(tmp_path):
    """Replaced by one that pays more: the command says so instead of waiting."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        chain.seals = False

        async def replace_it() -> None:
            while not chain.pool.statistics().transactions:
                await trio.lowlevel.checkpoint()
            chain.add(sign(0, 0, Transfer(ACCOUNT_IDS[1], 7), 20_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(replace_it)
            said = mistake(await ask("tx", "send", TO, "0.1"))
        assert "left the pool without a block: Another transaction of the same sender and nonce pays more" in said
        name = said.split()[1]
        assert "left the pool without a block" in (await ask("chain", "tx", name)).stdout

    with_chain(tmp_path, conversation)


def test_a_node_that_forgets_a_transaction_ends_the_wait(tmp_path):
    """Asked a few times, because a block is written a moment after its transactions left the pool."""

    async def conversation(chain: SmallChain, ask: Ask) -> None:
        chain.seals = False

        async def forget_it() -> None:
            while not chain.pool.statistics().transactions:
                await trio.lowlevel.checkpoint()
            chain.state = chain.state.add_balance(ACCOUNT_IDS[0], -BALANCE)
            chain.pool.advance([ACCOUNT_IDS[0]], chain.state)  # and nobody notes what it says

        async with trio.open_nursery() as nursery:
            nursery.start_soon(forget_it)
            assert "no longer knows transaction" in mistake(await ask("tx", "send", TO, "0.1"))

    with_chain(tmp_path, conversation)
