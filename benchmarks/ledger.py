"""Transfers through the state machine on one core, beside the one thing that nobody can leave out: a signature each.

Accounts pay each other in blocks of a thousand, in a state of many accounts. "applied" is from checked transactions to the new
state root: charges, handlers, fees, and rehashing what the block touched. "decoded, verified and applied" begins with bytes.
The floor is libsodium verifying as many signatures and doing nothing else. Pool and history are shown because they stand on
the same path. Rates are of processor time.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Final

import click

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from msgspec.structs import replace

from benchmarks.common import Row, compare, report, say, standard_options, time_calls
from consensus.heads import HeadRules
from consensus.history import History, check_segment
from consensus.mempool import Mempool
from consensus.state import State, genesis_state
from consensus.transition import BlockContext, apply_block
from protocol.codec import encode
from protocol.digest import blob_digest
from protocol.finality import NO_BLOCK, ChainId
from protocol.genesis import LedgerRule
from protocol.ids import AccountId, Epoch, Height, PeerId
from protocol.keys import KeyPair, verify
from protocol.limits import BODY_BYTES_MAX, NANO_PER_NOCK
from protocol.roster import Roster
from protocol.transactions import MetaVersion, SemVer, SignedTransaction, Transfer, check_transaction, sign_transaction

CHAIN: Final = ChainId(b"test", 0)
RULE: Final = LedgerRule()
NOBODY: Final = Roster(Epoch(0), (), (), blob_digest(b""))
FEE_NANO: Final = 1_000_000
SENDERS, ACCOUNTS = 1_000, 100_000
QUICK_SENDERS, QUICK_ACCOUNTS = 50, 1_000
TICKS: Final = 200_000
SECONDS_EACH: Final = 3.0


@click.command()
@standard_options
def main(as_json: bool, quick: bool) -> None:
    """Transactions a second on one core."""
    timed = partial(
        time_calls, seconds=0.0 if quick else SECONDS_EACH, calls_min=1 if quick else 3, clock=time.thread_time
    )
    senders, accounts = (QUICK_SENDERS, QUICK_ACCOUNTS) if quick else (SENDERS, ACCOUNTS)
    keys = [KeyPair(index.to_bytes(32, "big")) for index in range(senders)]
    state = make_state(keys, accounts)
    here = make_context()
    say(f"{senders} transfers in a state of {accounts} accounts")
    recipients = [blob_digest(index.to_bytes(4, "big")) for index in range(accounts - senders)]
    data = [
        encode(sign_transaction(key, CHAIN, 0, FEE_NANO, Transfer(AccountId(recipients[7 * index]), NANO_PER_NOCK)))
        for index, key in enumerate(keys)
    ]
    block = [check_transaction(each, CHAIN) for each in data]
    texts = [(key.public, b"text of 32 bytes, as hashes are.", key) for key in keys]
    signed = [(public, text, key.sign(text)) for public, text, key in texts]

    def rate(milliseconds: float, count: int = senders) -> float:
        return 1000 * count / milliseconds

    floor = rate(timed(lambda: [verify(*each) for each in signed]))
    checked = rate(timed(lambda: [check_transaction(each, CHAIN) for each in data]))
    applied = rate(timed(lambda: apply_block(state, (), block, here)[0].root()))
    whole = rate(timed(lambda: apply_bytes(state, data, here)))
    pooled = rate(timed(lambda: pool_all(state, block)))
    history = History.after(blob_digest(b"benchmark"))
    history.advance(TICKS)
    segment = history.cut()
    ticked = rate(timed(lambda: check_segment(segment)), TICKS)
    rows: list[Row] = [
        compare("transfers applied, signatures checked before", "1/s", applied, floor=floor),
        compare("transfers decoded and verified", "1/s", checked, floor=floor),
        compare("transfers decoded, verified and applied", "1/s", whole, floor=floor),
        compare("transfers into the pool and out of it", "1/s", pooled, floor=floor),
        compare("history checked", "ticks/s", ticked),
    ]
    report("ledger", rows, as_json)


def make_state(keys: list[KeyPair], accounts: int) -> State:
    """A state of so many accounts; the holders of ``keys`` are rich."""
    first = MetaVersion(NO_BLOCK, SemVer(1, 0, 0), 0, blob_digest(b""), 1)
    rich = [(AccountId(key.public), 1_000 * NANO_PER_NOCK) for key in keys]
    others = [(AccountId(blob_digest(index.to_bytes(4, "big"))), 1) for index in range(accounts - len(keys))]
    state = genesis_state(
        [*rich, *others], (), (), first, created_ms=0, rosters=(NOBODY, replace(NOBODY, epoch=Epoch(1)))
    )
    state.root()
    return state


def make_context() -> BlockContext:
    """The first block; nobody votes and nothing is learned here."""
    proposer = AccountId(blob_digest(b"proposer"))
    return BlockContext(CHAIN, Epoch(0), Height(1), 1, proposer, PeerId(proposer), RULE, HeadRules(NOBODY, 1), 1_024)


def apply_bytes(state: State, data: list[bytes], here: BlockContext) -> bytes:
    """From what travelled to the new state root."""
    return apply_block(state, (), [check_transaction(each, CHAIN) for each in data], here)[0].root()


def pool_all(state: State, block: list[SignedTransaction]) -> list[SignedTransaction]:
    """Every transaction into an empty pool, and a body out of it."""
    pool = Mempool(CHAIN, RULE)
    for transaction in block:
        pool.add(transaction, state)
    return pool.take(BODY_BYTES_MAX, state)


if __name__ == "__main__":
    main()
