"""``nocknode chain``: what the network agreed on, as the running node has it; and proofs of it that check without a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from node.commands.options import (
    bytes_text,
    console,
    data_dir_option,
    duration_text,
    instant_text,
    json_option,
    number_text,
    print_json,
    table,
)
from node.errors import CommandFailed


@click.group(invoke_without_command=True)
@data_dir_option
@json_option
@click.pass_context
def chain(context: click.Context, data_dir: Path, as_json: bool) -> None:
    """What the network agreed on: blocks, transactions, proofs. Alone: its status."""
    if context.invoked_subcommand is None:
        _tell_status(data_dir, as_json)


@chain.command()
@data_dir_option
@json_option
def status(data_dir: Path, as_json: bool) -> None:
    """Height, votes, money and roots, at one glance."""
    _tell_status(data_dir, as_json)


def _tell_status(data_dir: Path, as_json: bool) -> None:
    from node.chain_words import counted
    from node.commands.client import NodeClient
    from node.money import nock_text

    facts = NodeClient(data_dir).get("/consensus/status")
    if as_json:
        print_json(facts)
        return
    money, pool = facts["supply"], facts["pool"]
    held = (("at stake", "staked_nano"), ("unbonding", "unbonding_nano"), ("burned", "burned_nano"))
    senders = counted(pool["senders"], "account")
    votes = "none yet" if facts["certificate_votes"] is None else f"{facts['certificate_votes']} of {facts['roster']}"
    rows = [
        ("height", f"{facts['height']:,}, epoch {facts['epoch']}, view {facts['view']}"),
        ("block", facts["block"] or "none yet: this is the genesis"),
        ("kept", f"blocks from {facts['oldest_height'] or 1:,} on, {bytes_text(facts['chain_bytes'])}"),
        (
            "final",
            f"{duration_text(int(1000 * facts['finality_lag_seconds']))} ago, {instant_text(facts['finalized_ms'])}",
        ),
        ("leader", facts["leader"] or "-"),
        ("votes", f"{votes} in the newest certificate"),
        (
            "validators",
            f"{facts['validators']}; the roster has {facts['roster']}, {facts['validators_connected']} of them in reach",
        ),
        ("waiting", f"{counted(pool['transactions'], 'transaction')}, {bytes_text(pool['bytes'])}, of {senders}"),
        ("money", f"{nock_text(money['minted_nano'])} minted"),
        *(("", f"{nock_text(money[field])} {words}") for words, field in held),
        ("", f"{nock_text(facts['treasury_nano'])} in the treasury"),
        ("fee", f"at least {nock_text(facts['fee_nano_per_byte'])} for each byte"),
        ("state", facts["state_root"]),
        *((f"  {name}", root) for name, root in facts["sub_roots"].items()),
    ]
    out = console()
    for name, text in rows:
        out.print(f"[bold]{name:<12}[/bold] {text}")
    if facts["refusal"]:
        out.print(f"[yellow]{'no vote':<12}[/yellow] {facts['refusal']}", markup=True)
    if facts["halted"]:
        out.print(f"[red]{'halted':<12}[/red] {facts['halted']}")


@chain.command()
@click.argument("height", type=click.IntRange(1), required=False)
@click.option("--first", type=click.IntRange(0), default=0, help="Show transactions from this one on.")
@data_dir_option
@json_option
def block(height: int | None, first: int, data_dir: Path, as_json: bool) -> None:
    """One finalized block: its header, what it decides of tiles, its transactions. Without HEIGHT: the newest."""
    from node.chain_words import counted
    from node.commands.client import NodeClient
    from node.money import nock_text

    client = NodeClient(data_dir)
    if height is None:
        height = int(client.get("/consensus/status")["height"]) or 1
    facts = client.find(f"/consensus/blocks/{height}", first=str(first))
    if facts is None:
        status = client.get("/consensus/status")
        tip, oldest = int(status["height"]), int(status["oldest_height"])
        if height < oldest:
            raise CommandFailed(
                f"block {height} was pruned here, where blocks from {oldest} on are kept (storage.chain_bytes_max): "
                "run this command on a machine whose node keeps more"
            )
        raise CommandFailed(f"there is no block {height} yet; the newest has height {tip}")
    if as_json:
        print_json(facts)
        return
    votes = facts["certificate"]
    rows = (
        ("block", f"{height:,}, epoch {facts['epoch']}, view {facts['view']}"),
        ("hash", facts["block"]),
        ("parent", facts["parent"]),
        ("time", instant_text(facts["time_ms"])),
        ("proposer", facts["proposer_peer"] or f"member {facts['proposer']} of epoch {facts['epoch']}"),
        (
            "final by",
            f"{counted(votes['votes'], 'vote')} in view {votes['view']}"
            if votes
            else "the certificate of a later block",
        ),
        ("state", facts["state_root"]),
        ("body", f"{bytes_text(facts['body_bytes'])}, root {facts['body_root']}"),
    )
    out = console()
    for name, text in rows:
        out.print(f"[bold]{name:<10}[/bold] {text}")
    if facts["history"]:
        out.print(
            f"[bold]{'history':<10}[/bold] {len(facts['history'])} segments, the last ends in {facts['history'][-1]}"
        )
    if facts["heads"]:
        made = table("", ("tile", ">version", ">round", "proposer", ">deltas", ">tokens", "root"))
        for head in facts["heads"]:
            counts = (number_text(head[name]) for name in ("version", "round"))
            sums = (number_text(head[name]) for name in ("deltas", "tokens"))
            made.add_row(head["tile"], *counts, head["proposer"][-6:], *sums, head["root"][:16])
        out.print(made)
    for each in facts["transactions"]:
        out.print(f"\n[bold]{each['index']:>4}[/bold]  {each['id']}  fee {nock_text(each['fee_nano'])}")
        out.print(f"      {each['sender']}")
        out.print(f"      {each['does']}", markup=False)
        if each["refusal"]:
            out.print(f"      [yellow]refused[/yellow]: {each['refusal']['message']}")
    left = facts["transactions_total"] - first - len(facts["transactions"])
    if left > 0:
        click.echo(f"{left:,} more: --first {first + len(facts['transactions'])}")


@chain.command()
@click.argument("name", metavar="ID")
@data_dir_option
@json_option
def tx(name: str, data_dir: Path, as_json: bool) -> None:
    """Where a transaction is: waiting, or in which block, and what became of it. A decided head's digest is an ID too."""
    from node.commands.client import NodeClient
    from protocol.ids import parse_hex32

    asked = parse_hex32(name, "a transaction's id").hex()
    facts = NodeClient(data_dir).find(f"/consensus/transactions/{asked}")
    if facts is None:
        raise CommandFailed(
            f"no transaction {name[:16]}... waits here or is in a block that is kept; "
            "it never came to this node, or its block was pruned here"
        )
    if as_json:
        print_json(facts)
        return
    for field, text in _transaction_rows(facts):
        click.echo(f"{field:<10} {text}")


@chain.command()
@click.option("--first", type=click.IntRange(0), default=0, help="Show entries from this one on.")
@data_dir_option
@json_option
def kept(first: int, data_dir: Path, as_json: bool) -> None:
    """What validators certified that they keep: snapshots of tiles, checkpoints of the state. The newest come first."""
    from node.chain_words import until_words
    from node.commands.client import NodeClient

    facts = NodeClient(data_dir).get(f"/consensus/kept?first={first}")
    if as_json:
        print_json(facts)
        return
    if not facts["kept_total"]:
        click.echo("nothing is certified as kept yet")
        return
    made = table("", ("what", ">size", "kept", ">block", "blob", "subject"))
    for each in facts["kept"]:
        size, subject = bytes_text(each["size_bytes"]), each["subject"]
        height = number_text(each["height"])
        made.add_row(
            subject["is"], size, until_words(each["kept_until"]), height, each["blob"][:16], subject["id"][:16]
        )
    console().print(made)
    left = facts["kept_total"] - first - len(facts["kept"])
    if left > 0:
        click.echo(f"{left:,} more: --first {first + len(facts['kept'])}")


@chain.command()
@click.argument("key", required=False)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the proof to this file.")
@click.option(
    "--check",
    "checked",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Check this proof file against --root; needs no node.",
)
@click.option("--root", metavar="HEX", help="With --check: a state root that you trust, from a node of your own.")
@data_dir_option
@json_option
def proof(
    key: str | None, out: Path | None, checked: Path | None, root: str | None, data_dir: Path, as_json: bool
) -> None:
    """What KEY has in the newest state, with the proof of it: account:ADDRESS, tile:layer0.expert0/0, supply, ...

    The proof is one JSON object. Whoever knows the state root checks it with --check FILE --root HEX, without a node.
    """
    if (key is None) == (checked is None):
        raise click.UsageError("say either KEY, or --check FILE --root HEX")
    if checked is not None:
        if root is None:
            raise click.UsageError("--check needs --root HEX: the state root that you trust")
        facts = _check_file(checked, root)
    else:
        from node.commands.client import NodeClient

        facts = NodeClient(data_dir).find("/consensus/proof", key=str(key))
        if out is not None:
            import msgspec

            out.write_bytes(msgspec.json.encode(facts) + b"\n")
    if as_json:
        print_json(facts)
        return
    _tell_proof(facts)
    if checked is not None:
        click.echo("The proof is right.")
    elif out is not None:
        click.echo(f"Check it anywhere with: nocknode chain proof --check {out} --root {facts['state_root']}", err=True)
    else:
        click.echo("--out FILE keeps the proof, --json prints it.", err=True)


def _check_file(path: Path, root: str) -> Any:
    import msgspec

    from node.chain_proof import PROOF_BYTES_MAX, check_proof
    from protocol.ids import Digest, parse_hex32

    expected = Digest(parse_hex32(root, "--root"))
    with path.open("rb") as file:
        return msgspec.structs.asdict(check_proof(file.read(PROOF_BYTES_MAX + 1), expected))


def _tell_proof(facts: Any) -> None:
    import msgspec

    from node.chain_words import printable
    from node.money import nock_text

    click.echo(f"key        {facts['key']}")
    click.echo(f"state      {facts['state_root']}, of block {facts['height']:,}")
    if facts["facts"] is None:
        click.echo("value      none: the state has no such entry")
        return
    for name, value in facts["facts"].items():
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        amount = f" ({nock_text(value)})" if name.endswith("_nano") else ""
        click.echo(f"{name:<18} {printable(text)}{amount}")


def _transaction_rows(facts: Any) -> list[tuple[str, str]]:
    """What people read of a transaction's facts (``ChainView.transaction``)."""
    from node.money import nock_text

    states = {"waiting": "waits in the pool", "dropped": "left the pool without a block"}
    place = states.get(facts["state"]) or f"in block {facts['height']:,} at {facts['index']}"
    rows = [("id", facts["id"]), ("state", place)]
    if "does" in facts:
        rows.append(("does", facts["does"]))
    if facts.get("sender"):
        rows.append(("sender", f"{facts['sender']}, nonce {facts['nonce']}"))
        rows.append(("fee", nock_text(facts["fee_nano"])))
    if facts["refusal"]:
        cost = " It cost its fee and did nothing else." if facts["state"] == "final" else ""
        rows.append(("refused", facts["refusal"]["message"] + cost))
    return rows
