"""``nocknode tx``: sign a transaction with the account key of a data directory, and hand it to the running node.

The key never leaves this process: the node is asked for the nonce, the chain and the fee, and gets signed bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.commands.options import Command, data_dir_option, json_option, print_json
from node.data_directory import DataDirectory
from node.errors import CommandFailed, NodeRefused

if TYPE_CHECKING:
    from node.keys import NodeKeys
    from protocol.ids import PeerId
    from protocol.transactions import Payload

WAIT_SECONDS_MAX = 120.0  # sixty blocks of two seconds: what is not final by then waits for something else
POLL_SECONDS = 0.25
MISSES_MAX = 8  # between leaving the pool and being written with its block, a transaction is nowhere for a moment


@dataclass(frozen=True, slots=True)
class Sending:
    """The options that every subcommand has."""

    data_dir: Path
    as_json: bool
    fee: str | None
    nonce: int | None
    wait: bool
    yes: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be signed. ``amount_nano`` leaves the balance besides the fee; ``moved_nano`` is asked about."""

    payload: Payload
    amount_nano: int
    moved_nano: int


Make = Callable[["NodeKeys", Mapping[str, Any]], Order]
"""The order of a subcommand from one's keys and one's account (``ChainView.account``); raises with the remedy."""


def sending_options(command: Command) -> Command:
    """The options of ``Sending``, in the order of --help."""
    options = (
        click.option("--fee", metavar="NOCK", help="What to pay for it. [default: the least]"),
        click.option("--nonce", type=click.IntRange(0, 2**63 - 1), help="[default: the account's next]"),
        click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is final."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Show what would be signed; sign and send nothing."),
        data_dir_option,
        json_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


validator_option = click.option(
    "--validator", metavar="PEER", help="Which of the account's validators. [default: this data directory's]"
)


@click.group()
def tx() -> None:
    """Send money, stake it, become a validator or stop being one."""


@tx.command()
@click.argument("to")
@click.argument("amount")
@sending_options
def send(to: str, amount: str, **options: Any) -> None:
    """Give AMOUNT (in NOCK) to the account with the address TO."""
    from node.account_address import parse_account
    from protocol.transactions import Transfer

    recipient, amount_nano = parse_account(to), _parse_amount(amount)
    _carry_out(
        Sending(**options), lambda keys, account: Order(Transfer(recipient, amount_nano), amount_nano, amount_nano)
    )


@tx.command()
@click.argument("amount")
@sending_options
def register(amount: str, **options: Any) -> None:
    """Become a validator with AMOUNT (in NOCK) at stake, under the keys of this data directory.

    It votes from the third epoch after that of its block on, at an epoch's end from the fourth: its key is fixed before the
    draw that it takes part in.
    """
    from node.money import nock_text
    from protocol.transactions import Register

    stake_nano = _parse_amount(amount)

    def make(keys: NodeKeys, account: Mapping[str, Any]) -> Order:
        if _find_validator(account, keys.peer) is not None:
            raise CommandFailed(
                "this node is a validator already; add to its stake with `nocknode tx stake`, or wait until what it has "
                "withdrawn is free"
            )
        if stake_nano < account["stake_nano_min"]:
            raise CommandFailed(f"a validator must have at least {nock_text(account['stake_nano_min'])} at stake")
        return Order(Register(keys.card(), stake_nano), stake_nano, stake_nano)

    _carry_out(Sending(**options), make)
    if not (options["dry_run"] or options["as_json"]):
        click.echo("See from which block on it votes with: nocknode validators", err=True)


@tx.command()
@click.argument("amount")
@validator_option
@sending_options
def stake(amount: str, validator: str | None, **options: Any) -> None:
    """Add AMOUNT (in NOCK) to what one's validator has at stake."""
    from protocol.transactions import Stake

    amount_nano = _parse_amount(amount)

    def make(keys: NodeKeys, account: Mapping[str, Any]) -> Order:
        peer, _ = _own_validator(keys, account, validator, "active")
        return Order(Stake(peer, amount_nano), amount_nano, amount_nano)

    _carry_out(Sending(**options), make)


@tx.command()
@click.argument("amount")
@validator_option
@sending_options
def unstake(amount: str, validator: str | None, **options: Any) -> None:
    """Begin to take AMOUNT (in NOCK) back from one's validator; it is free, and safe from slashing, when it has unbonded."""
    from node.money import nock_text
    from protocol.transactions import Unstake

    amount_nano = _parse_amount(amount)

    def make(keys: NodeKeys, account: Mapping[str, Any]) -> Order:
        peer, known = _own_validator(keys, account, validator, "active", "expelled")
        left = known["stake_nano"] - amount_nano
        if left < 0:
            raise CommandFailed(
                f"the validator has {nock_text(known['stake_nano'])} at stake: no more can be taken back"
            )
        if known["status"] == "active" and left < account["stake_nano_min"]:
            raise CommandFailed(
                f"{nock_text(left)} would remain, and a validator must have {nock_text(account['stake_nano_min'])} at "
                "stake; take back less, or all of it with `nocknode tx leave`"
            )
        return Order(Unstake(peer, amount_nano), 0, amount_nano)

    _carry_out(Sending(**options), make)


@tx.command()
@validator_option
@sending_options
def leave(validator: str | None, **options: Any) -> None:
    """Stop being a validator: all of its stake begins to unbond."""
    from protocol.transactions import Leave

    def make(keys: NodeKeys, account: Mapping[str, Any]) -> Order:
        peer, known = _own_validator(keys, account, validator, "active")
        return Order(Leave(peer), 0, known["stake_nano"])

    _carry_out(Sending(**options), make)


# -- what an order needs -----------------------------------------------------------------------------------------------


def _parse_amount(text: str) -> int:
    from node.money import parse_nock

    amount_nano = parse_nock(text, "AMOUNT")
    if amount_nano == 0:
        raise CommandFailed("AMOUNT is 0: nothing would move")
    return amount_nano


def _find_validator(account: Mapping[str, Any], peer: PeerId) -> Mapping[str, Any] | None:
    from protocol.ids import peer_text

    return next((known for known in account["validators"] if known["node"] == peer_text(peer)), None)


def _own_validator(
    keys: NodeKeys, account: Mapping[str, Any], named: str | None, *statuses: str
) -> tuple[PeerId, Mapping[str, Any]]:
    """The account's validator that is meant, in one of these states; raises ``CommandFailed``."""
    from protocol.ids import parse_peer

    peer = parse_peer(named) if named is not None else keys.peer
    known = _find_validator(account, peer)
    who = "this node" if named is None else named
    if known is None:
        raise CommandFailed(
            f"{who} is not a validator of this account; `nocknode validators` lists them, and `nocknode tx register` makes "
            "this node one"
        )
    if known["status"] not in statuses:
        raise CommandFailed(
            f"{who} is no longer a validator ({known['status']}); see when its stake is free: nocknode wallet"
        )
    return peer, known


# -- from an order to its block ----------------------------------------------------------------------------------------


def _carry_out(options: Sending, make: Make) -> None:
    """Ask the node, make the order, sign it, hand it over, and wait until it is final."""
    from node.account_address import account_text
    from node.commands.client import NodeClient
    from node.commands.keys import ask_passphrase
    from node.keys import load_keys
    from node.services.submission import NONCE_TAKEN, NONCE_TRIES
    from protocol.codec import encode
    from protocol.finality import ChainId
    from protocol.ids import AccountId
    from protocol.transactions import check_transaction, sign_transaction

    client = NodeClient(options.data_dir)
    keys = load_keys(DataDirectory(options.data_dir).keys, ask_passphrase)
    account = client.get(f"/consensus/accounts/{account_text(AccountId(keys.account.public))}")
    order = make(keys, account)
    chain = ChainId(bytes.fromhex(account["chain"]), account["fork"])
    nonce = account["next_nonce"] if options.nonce is None else options.nonce
    fee_nano = _choose_fee(options.fee, chain, AccountId(keys.account.public), nonce, order.payload, account)
    _check_funds(account, order.amount_nano, fee_nano)
    facts = _preview(order, account, nonce, fee_nano)
    if options.dry_run:
        _tell(options, {"dry_run": True, **facts})
        return
    if not options.yes and order.moved_nano and sys.stdin.isatty():
        for name, text in _preview_rows(facts):
            click.echo(f"{name:<10} {text}", err=True)
        if not click.confirm("Sign and send it?", err=True):
            raise CommandFailed("nothing was sent")
    taken = {reason.code for reason in NONCE_TAKEN}
    for tries_left in reversed(range(NONCE_TRIES)):
        data = encode(sign_transaction(keys.account, chain, nonce, fee_nano, order.payload))
        name = check_transaction(data, chain).id.hex()
        try:
            client.post("/consensus/transactions", {"transaction": data.hex()})
            break
        except NodeRefused as refused:  # the node had something to say in this account's name meanwhile
            if refused.code not in taken or options.nonce is not None or not tries_left:
                raise
            nonce = client.get(f"/consensus/accounts/{account_text(AccountId(keys.account.public))}")["next_nonce"]
            facts["nonce"] = nonce
    if not options.wait:
        _tell(options, {"id": name, "state": "waiting", **facts})
        return
    final = _wait_final(client, name)
    if final["refusal"]:
        raise CommandFailed(
            f"transaction {name} is in block {final['height']}, but did nothing except pay its fee: "
            f"{final['refusal']['message']}"
        )
    place = {"id": name, "state": "final", "height": final["height"], "index": final["index"]}
    _tell(options, {**place, **facts})


def _choose_fee(
    given: str | None, chain: Any, sender: Any, nonce: int, payload: Payload, account: Mapping[str, Any]
) -> int:
    """The fee that was asked for, or the least; the size depends on how many bytes the fee's own number takes."""
    from consensus.transition import fee_nano_min
    from node.money import nock_text, parse_nock
    from protocol.codec import encode
    from protocol.genesis import LedgerRule
    from protocol.ids import Signature
    from protocol.transactions import Transaction

    rule = LedgerRule(fee_nano_per_byte=account["fee_nano_per_byte"])

    def least(fee_nano: int) -> int:
        return fee_nano_min(
            len(encode(Transaction(chain, sender, nonce, fee_nano, payload, Signature(bytes(64))))), rule
        )

    fee_nano = 0 if given is None else parse_nock(given, "--fee")
    if given is not None and fee_nano < least(fee_nano):
        raise CommandFailed(f"--fee is {nock_text(fee_nano)}; the least for this is {nock_text(least(fee_nano))}")
    while fee_nano < least(fee_nano):
        fee_nano = least(fee_nano)
    return fee_nano


def _check_funds(account: Mapping[str, Any], amount_nano: int, fee_nano: int) -> None:
    from node.money import nock_text

    balance_nano = account["balance_nano"]
    if amount_nano + fee_nano > balance_nano:
        raise CommandFailed(
            f"{account['address'][:16]}... holds {nock_text(balance_nano)}, and this takes {nock_text(amount_nano)} and a fee "
            f"of {nock_text(fee_nano)}; choose less, or receive some first"
        )


def _preview(order: Order, account: Mapping[str, Any], nonce: int, fee_nano: int) -> dict[str, Any]:
    """What is signed, as facts."""
    from node.chain_words import payload_facts

    return {
        "sender": account["address"],
        "nonce": nonce,
        "fee_nano": fee_nano,
        "chain": account["chain"],
        "fork": account["fork"],
        **payload_facts(order.payload),
    }


def _preview_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    from node.money import nock_text

    return [
        ("does", facts["does"]),
        ("sender", f"{facts['sender']}, nonce {facts['nonce']}"),
        ("fee", nock_text(facts["fee_nano"])),
        ("chain", f"{facts['chain']}, fork {facts['fork']}"),
    ]


def _tell(options: Sending, facts: Mapping[str, Any]) -> None:
    if options.as_json:
        print_json(facts)
        return
    rows = _preview_rows(facts)
    if "id" in facts:
        rows.append(("id", facts["id"]))
    if facts.get("state") == "final":
        rows.append(("final", f"in block {facts['height']:,} at {facts['index']}"))
    for name, text in rows:
        click.echo(f"{name:<10} {text}")
    if facts.get("dry_run"):
        click.echo("Nothing was signed or sent.", err=True)
    elif facts["state"] == "waiting":
        click.echo(f"See what becomes of it with: nocknode chain tx {facts['id']}", err=True)


def _wait_final(client: Any, name: str) -> Mapping[str, Any]:
    """The facts of a transaction once it is in a block; raises ``CommandFailed`` when that is not to be expected any more."""
    import trio

    is_shown = sys.stderr.isatty()

    async def poll() -> Mapping[str, Any]:
        misses = 0
        with trio.move_on_after(WAIT_SECONDS_MAX):
            while misses < MISSES_MAX:
                facts: Mapping[str, Any] = client.find(f"/consensus/transactions/{name}") or {"state": "unknown"}
                if facts["state"] == "final":
                    return facts
                if facts["state"] == "dropped":
                    raise CommandFailed(
                        f"transaction {name} left the pool without a block: {facts['refusal']['message']}"
                    )
                misses = misses + 1 if facts["state"] == "unknown" else 0
                if is_shown:
                    lag = client.get("/consensus/status")["finality_lag_seconds"]
                    click.echo(
                        f"\r{name[:16]} waits for a block; the last one was {lag:.0f} s ago \x1b[K", nl=False, err=True
                    )
                await trio.sleep(POLL_SECONDS)
            raise CommandFailed(f"the node no longer knows transaction {name}; send it again with the same --nonce")
        raise CommandFailed(
            f"transaction {name} still waits after {WAIT_SECONDS_MAX:.0f} s; see nocknode chain status, and later: "
            f"nocknode chain tx {name}"
        )

    try:
        return trio.run(poll)
    finally:
        if is_shown:
            click.echo("\r\x1b[K", nl=False, err=True)
