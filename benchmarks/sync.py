"""Joining a network with a large state: beside executing every block there was, and beside copying the same bytes.

Eleven hosts that answer as nodes do, over libp2p on 127.0.0.1, and a newcomer with an empty data directory, which is the
twelfth. The sources share one process and one data directory, because a node of a state of a gigabyte takes several of memory,
and twelve of them are not there: so the newcomer has one core and all its sources another, where there are two. Nobody learns
or decides meanwhile. The state was made and not lived through (benchmarks/common/made_state.py); its boundaries are certified
by 100 members, one of whom is replaced in each epoch.

    proof    the newest checkpoint's block is final, from the genesis: asked of eight peers at once, verified once
    state    every part proved and on the disk, and adopted; the proof is asked for once more, as a node does
    load     from the disk into memory, and the root computed: after that a node can execute the next block
    model    every tile by its root, page by page, and durable. Weights of version 0, which a newcomer draws and does not fetch
    copy     as many bytes by the same protocol stack, as many questions at a time, into a file: once before, once after

Replay is not run, it would take hours: it is what executing takes at least, one transaction for each entry of the state at the
rate of applying transfers to new accounts, signatures included, and an empty block for each height, checked, executed and made
durable. Blocks that change what is there already come on top.

Wall time, where nothing else is said. A machine that is busy otherwise makes all slower; a ratio is of one run.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
from msgspec.structs import replace

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks import chain
from benchmarks.common import Row, compare, median, report, say, standard_options, time_calls
from benchmarks.common.made_state import MadeState, make_directories, make_state
from benchmarks.common.trial import trial_folder
from consensus.finality import check_chain
from consensus.transition import apply_block
from protocol.codec import encode
from protocol.finality import FinalizedBlock
from protocol.ids import AccountId
from protocol.keys import KeyPair
from protocol.limits import MIB, NANO_PER_NOCK
from protocol.transactions import Transfer, check_transaction, sign_transaction
from storage.io.rocks import RocksKeyValue
from storage.keys import BODY, HEADER, block_key
from storage.kv import Batch
from tests.consensus import light_chain

ROOT: Final = Path(__file__).resolve().parents[1]
PROGRAMS: Final = ROOT / "benchmarks" / "programs"
SOURCES: Final = 11
STATE_MIB, QUICK_STATE_MIB = 256, 4
MODEL_MIB, QUICK_MODEL_MIB = 256, 0
EPOCHS, QUICK_EPOCHS = 1_000, 20
MEMBERS, QUICK_MEMBERS = 100, 7
TRANSFERS, QUICK_TRANSFERS = 1_000, 50
REPLAY_ACCOUNTS, QUICK_REPLAY_ACCOUNTS = 100_000, 1_000
PROOF_SECONDS_MAX, PROOF_BYTES_MAX = 5.0, 4 * MIB
START_SECONDS_MAX: Final = 120.0
Times = Mapping[str, Mapping[str, float]]


@click.command()
@click.option("--state-mib", type=int, help=f"Bytes of entries. Default: {STATE_MIB}; the aim is for 1024.")
@click.option("--model-mib", type=int, help=f"Bytes of the model, in steps of 32. Default: {MODEL_MIB}.")
@click.option("--epochs", type=int, help=f"How many the chain has. Default: {EPOCHS}.")
@click.option("--out", type=click.Path(path_type=Path), help="An empty folder for the directories, which stay there.")
@standard_options
def main(
    state_mib: int | None, model_mib: int | None, epochs: int | None, out: Path | None, quick: bool, as_json: bool
) -> None:
    """Let a newcomer join, and measure what it does."""
    state_mib = state_mib or (QUICK_STATE_MIB if quick else STATE_MIB)
    model_mib = (QUICK_MODEL_MIB if quick else MODEL_MIB) if model_mib is None else model_mib
    epochs = epochs or (QUICK_EPOCHS if quick else EPOCHS)
    members = QUICK_MEMBERS if quick else MEMBERS
    folder = trial_folder(out, "sync")
    try:
        made, said = join(folder, state_mib, model_mib, epochs, members)
    finally:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
    times, facts = said["times"], said["facts"]
    if facts["root"] != made.root.hex():
        raise click.ClickException("the newcomer's state is another one")
    rows = [
        *proof_rows(times, facts, epochs, members),
        *state_rows(times, made),
        *model_rows(times, facts),
        *replay_rows(times, made, quick),
    ]
    described = {"state": {"entries": made.entries, "bytes": made.state_bytes, "height": made.height}, "newcomer": said}
    report("sync", rows, as_json, described)
    if not as_json:
        wire, peak = facts["state_wire_bytes"] / MIB, facts["peak_bytes"] / MIB
        say(f"{made.entries:,} entries, {made.state_bytes / MIB:.0f} MiB, for which {wire:.0f} MiB came")
        say(f"{facts['sources']} sources; the newcomer's memory had its peak at {peak:.0f} MiB")


def join(folder: Path, state_mib: int, model_mib: int, epochs: int, members: int) -> tuple[MadeState, Any]:
    """Make everything, let the newcomer join; what was made, and what the newcomer said."""
    source, newcomer = folder / "source", folder / "newcomer"
    say(f"making a state of {state_mib} MiB after {epochs} epochs of {members} members, and a model of {model_mib} MiB")
    make_directories([source, newcomer], members=members, model_mib=model_mib)
    made = make_state(source, members=members, epochs=epochs, state_mib=state_mib)
    with sources(source) as addresses:
        say(f"a newcomer joins by {len(addresses)} sources")
        command = [
            *(sys.executable, str(PROGRAMS / "join_state.py"), str(newcomer), *addresses),
            *("--state-bytes", str(made.state_bytes), "--model-bytes", str(model_mib * MIB)),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    return made, json.loads(done.stdout.splitlines()[-1])


@contextmanager
def sources(folder: Path) -> Iterator[Sequence[str]]:
    """The process of all sources, for as long as the body runs; where they listen."""
    command = [sys.executable, str(PROGRAMS / "serve_state.py"), str(folder), "--sources", str(SOURCES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        if process.stdin is None or process.stdout is None:
            raise ValueError("no pipes")
        try:
            line = process.stdout.readline()
            if not line:
                raise click.ClickException("the sources did not start")
            yield json.loads(line)["addresses"]
        finally:
            process.stdin.close()
            process.wait(START_SECONDS_MAX)


# -- rows --------------------------------------------------------------------------------------------------------------


def proof_rows(times: Times, facts: Mapping[str, Any], epochs: int, members: int) -> list[Row]:
    """``facts['proof_bytes']`` are of eight peers, who all answer."""
    each_bytes = facts["proof_bytes"] / min(8, SOURCES)
    what = f"light-client proof over {epochs} epochs of {members} members"
    return [
        compare(f"{what}, asked of eight and verified", "s", times["proof"]["wall"], PROOF_SECONDS_MAX, "the aim"),
        compare(f"{what}, each", "kB", each_bytes / 1000, PROOF_BYTES_MAX / 1000, "the aim"),
    ]


def state_rows(times: Times, made: MadeState) -> list[Row]:
    copy = {
        kind: median([times[f"copy {when}"][kind] for when in ("before", "after")]) for kind in ("wall", "processor")
    }
    state, load = times["state"], times["load"]
    mib = made.state_bytes / MIB
    return [
        compare("plain copy", "MiB/s", mib / copy["wall"]),
        compare("state: fetched, proved, on disk", "s", state["wall"], copy["wall"], "plain copy"),
        compare("state: the newcomer's processor", "s", state["processor"], copy["processor"], "plain copy"),
        compare("state: loaded, its root computed from the disk", "s", load["wall"]),
        compare("state: both", "s", state["wall"] + load["wall"], copy["wall"], "plain copy"),
    ]


def model_rows(times: Times, facts: Mapping[str, Any]) -> list[Row]:
    if "model" not in times:
        return []
    mib = facts["model_bytes"] / MIB
    ours, peer = times["model"]["wall"], times["copy of the model"]["wall"]
    return [compare(f"model of {mib:.0f} MiB: every tile verified, durable", "s", ours, peer, "plain copy")]


def replay_rows(times: Times, made: MadeState, quick: bool) -> list[Row]:
    """What replay takes at least, from rates that are measured here and now."""
    transactions, blocks = measure_replay(quick)
    replay = made.entries / transactions + made.height / blocks
    joined = times["proof"]["wall"] + times["state"]["wall"] + times["load"]["wall"]
    return [
        compare("replay: transfers to new accounts, verified and applied", "1/s", transactions),
        compare("replay: empty blocks checked, executed, durable", "1/s", blocks),
        compare("proof, state and load", "s", joined, replay, "replay, extrapolated"),
    ]


def measure_replay(quick: bool) -> tuple[float, float]:
    """Transactions and empty blocks a second, by wall time, as the sync was measured."""
    count, accounts = (QUICK_TRANSFERS, QUICK_REPLAY_ACCOUNTS) if quick else (TRANSFERS, REPLAY_ACCOUNTS)
    say("measuring what replay costs")
    keys = [KeyPair(index.to_bytes(32, "big")) for index in range(count)]
    state, here, draw = chain.make_state(keys, accounts), chain.make_context(), Random(3)
    data = [
        encode(
            sign_transaction(
                key, chain.CHAIN, 0, chain.FEE_NANO, Transfer(AccountId(draw.randbytes(32)), NANO_PER_NOCK)
            )
        )
        for key in keys
    ]

    def execute() -> None:
        apply_block(state, (), [check_transaction(each, chain.CHAIN) for each in data], here)[0].root()

    seconds = 0.0 if quick else 3.0
    transactions = 1000 * count / time_calls(execute, seconds=seconds, calls_min=2)
    length = 50 if quick else 1_000
    roster, blocks = chain.make_blocks(length)
    run = [*blocks[:-1], chain.certified(blocks[-1], roster)]
    rule = replace(chain.RULE_OF_WORLD, epoch_heights=length)

    def follow(index: RocksKeyValue) -> None:
        """Check, execute and write so many empty blocks."""
        check_chain(run, roster, light_chain.CHAIN, rule, lambda *signed: True)
        for block in run:
            apply_block(state, (), (), here)[0].root()
            index.write(_as_row(block))

    with TemporaryDirectory() as folder:
        index = RocksKeyValue(Path(folder))
        taken = time_calls(lambda: follow(index), seconds=seconds, calls_min=1)
        index.close()
    return transactions, 1000 * length / taken


def _as_row(block: FinalizedBlock) -> Batch:
    batch = Batch()
    batch.put(block_key(HEADER, block.header.height), encode(block.header))
    batch.put(block_key(BODY, block.header.height), block.body)
    return batch


if __name__ == "__main__":
    main()
