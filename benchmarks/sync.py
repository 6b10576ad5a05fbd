"""Joining a network with a large state: beside executing every block there was, and beside copying the same bytes.

Eleven nodes that have the state, and a newcomer with an empty data directory, which is the twelfth: a process each, over libp2p
on 127.0.0.1, started as users start them. Nobody learns or decides meanwhile. The state was made and not lived through
(benchmarks/common/made_state.py); its boundaries are certified by 100 members, one of whom is replaced in each epoch.

    proof    the newest checkpoint's block is final, from the genesis: asked of eight peers at once, verified once
    state    every part proved and on the disk, and adopted, as the newcomer's log has it
    joined   from there on until its interface shows a node that follows, which could execute the next block
    model    every tile by its root, page by page, and durable. Weights of version 0, which a newcomer draws and does not fetch
    copy     as many bytes by the same protocol stack, as many questions at a time, into a file, from eleven processes that do
             nothing else: once before, once after

In the end the newcomer's whole state is read once more from its disk, and has the root that was made. Proof and model are asked
for by a program of their own (benchmarks/programs/ask_sources.py), of the same nodes.

Replay is not run, it would take hours: it is what executing takes at least, one transaction for each entry of the state at the
rate of applying transfers to new accounts, signatures included, and an empty block for each height, checked, executed and made
durable. Blocks that change what is there already come on top.

Wall time, where nothing else is said. A machine that is busy otherwise makes all slower; a ratio is of one run. Thirteen
processes want more cores than most machines have: with two, the newcomer has one, and its sources share what is left.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import click
import trio
from msgspec.structs import replace

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks import chain
from benchmarks.common import Row, compare, median, report, say, standard_options, time_calls
from benchmarks.common.made_state import MadeState, make_directories, make_state, share_state
from benchmarks.common.network import ask as ask_node
from benchmarks.common.network import find_logged_seconds, now_seconds, processor_seconds
from benchmarks.common.trial import trial_folder
from consensus.finality import check_chain
from consensus.transition import apply_block
from node.config import load_settings
from node.data_directory import DataDirectory
from node.ground import open_ground
from protocol.codec import encode
from protocol.finality import FinalizedBlock
from protocol.genesis import Genesis
from protocol.ids import AccountId
from protocol.keys import KeyPair
from protocol.limits import KIB, MIB, NANO_PER_NOCK
from protocol.transactions import Transfer, check_transaction, sign_transaction
from simnet.options import ROUNDS_MAX, Settings
from simnet.processes import ChildFailed, Fleet, NodeProcess
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
POLL_SECONDS: Final = 0.25


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
        made, seen = measure(folder, state_mib, model_mib, epochs, members)
    finally:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
    rows = [
        *proof_rows(seen, epochs, members),
        *state_rows(seen, made),
        *model_rows(seen, model_mib),
        *replay_rows(seen, made, quick),
    ]
    facts = {"state": {"entries": made.entries, "bytes": made.state_bytes, "height": made.height}, "seen": asdict(seen)}
    report("sync", rows, as_json, facts)
    if not as_json:
        say(f"{made.entries:,} entries, {made.state_bytes / MIB:.0f} MiB, by {SOURCES} nodes")
        sources, newcomer = seen.source_bytes / MIB, seen.newcomer_bytes / MIB
        say(
            f"memory at its peak: {sources:.0f} MiB of a source, {newcomer:.0f} of the newcomer, whose state was read again"
        )


@dataclass(slots=True)
class Seen:
    """What was measured; times in seconds by ``wall`` and ``processor``."""

    times: dict[str, dict[str, float]] = field(default_factory=dict)
    proof_bytes: int = 0  # of eight sources, who all answer
    source_bytes: int = 0  # of memory, of the largest
    newcomer_bytes: int = 0


def measure(folder: Path, state_mib: int, model_mib: int, epochs: int, members: int) -> tuple[MadeState, Seen]:
    """Make everything, let the newcomer join; what was made, and what was seen. Raises ``click.ClickException``."""
    settings = Settings(out=folder, network=folder, model=folder, peers=SOURCES + 1, rounds=ROUNDS_MAX, device="cpu")
    directories = [settings.data_directory(index) for index in range(SOURCES + 1)]
    say(f"making a state of {state_mib} MiB after {epochs} epochs of {members} members, and a model of {model_mib} MiB")
    genesis = make_directories(directories, members=members, model_mib=model_mib)
    made = make_state(directories[0], members=members, epochs=epochs, state_mib=state_mib)
    share_state(directories[0], directories[1:SOURCES])
    seen = Seen()
    with Fleet(settings) as fleet, plain_hosts(genesis) as plain:
        try:
            trio.run(_join, fleet, directories[SOURCES], made, plain, model_mib * MIB, seen)
        except* ChildFailed as failures:
            raise click.ClickException("; ".join(str(each) for each in failures.exceptions)) from None
    return made, seen


async def _join(
    fleet: Fleet, newcomer: Path, made: MadeState, plain: Sequence[str], model_bytes: int, seen: Seen
) -> None:
    for node in [fleet.start_node(index, (), ["--no-learn"]) for index in range(SOURCES)]:
        while not await _follows(fleet, node):
            await trio.sleep(POLL_SECONDS)
    sources = [node.api.addresses[0] for node in fleet.nodes.values() if node.api is not None]
    say(f"{len(sources)} sources are up")

    async def ask(name: str, what: str, addresses: Sequence[str], size_bytes: int = 0) -> int:
        command = [sys.executable, str(PROGRAMS / "ask_sources.py"), what, str(newcomer), *addresses]
        done = await trio.run_process([*command, "--bytes", str(size_bytes)], capture_stdout=True, cwd=ROOT)
        said = json.loads(done.stdout.splitlines()[-1])
        seen.times[name] = {kind: said[kind] for kind in ("wall", "processor")}
        say(f"{name}: {said['wall']:.1f} s")
        return int(said["received_bytes"])

    await ask("copy before", "copy", plain, made.state_bytes)
    seen.proof_bytes = await ask("proof", "proof", sources)
    await _start_newcomer(fleet, newcomer, sources, seen)
    seen.source_bytes = max(_memory_bytes(fleet.nodes[index].process.pid) for index in range(SOURCES))
    await ask("copy after", "copy", plain, made.state_bytes)
    if model_bytes:
        await ask("model", "model", sources)
        await ask("copy of the model", "copy", plain, model_bytes)
    ground = open_ground(load_settings(newcomer))
    try:
        ground.check_state()
        if ground.load_state().root() != made.root:
            raise click.ClickException("the newcomer's state is another one")
    finally:
        ground.close()


async def _start_newcomer(fleet: Fleet, directory: Path, sources: Sequence[str], seen: Seen) -> None:
    """Let it join, then end it."""
    node = fleet.start_node(SOURCES, sources, ["--no-learn"])
    log, pid = DataDirectory(directory).log, node.process.pid
    moments: dict[str, tuple[float, float]] = {}  # by what was logged: when, and how much processor time was used
    while node.process.poll() is None:
        for event in ("listening", "fetching the state", "state complete"):
            if event not in moments and (at := find_logged_seconds(log, event)) is not None:
                moments[event] = at, processor_seconds([pid])
        if "state complete" in moments and await _follows(fleet, node):
            moments["joined"] = now_seconds(), processor_seconds([pid])
            break
        await trio.sleep(POLL_SECONDS)
    else:
        raise ChildFailed(f"the newcomer ended: {node.said()}")
    for name, since in (("state", "fetching the state"), ("joined", "state complete"), ("all", "listening")):
        until = {"state": "state complete"}.get(name, "joined")
        wall, processor = (end - begin for begin, end in zip(moments[since], moments[until], strict=True))
        seen.times[name] = {"wall": wall, "processor": processor}
        say(f"{name}: {wall:.1f} s")
    seen.newcomer_bytes = _memory_bytes(pid)
    node.process.terminate()
    await trio.to_thread.run_sync(node.process.wait)
    del fleet.nodes[SOURCES]


async def _follows(fleet: Fleet, node: NodeProcess) -> bool:
    """Whether a node that had to join is one that executes blocks."""
    api = node.api or await fleet.wait_ready(node)
    try:
        status = await trio.to_thread.run_sync(ask_node, api.url, "/status")
    except OSError:  # it changes from joining to following
        return False
    return status["state"] not in ("joining", "booting")


def _memory_bytes(pid: int) -> int:
    """The most that a process has had in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * KIB
    return 0


@contextmanager
def plain_hosts(genesis: Genesis) -> Iterator[Sequence[str]]:
    """As many processes as there are sources, which answer with plain bytes, for as long as the body runs."""
    network = genesis.network_id().hex()
    with ExitStack() as stack:
        processes, addresses = [], []
        for index in range(SOURCES):
            command = [sys.executable, str(PROGRAMS / "serve_plain.py"), network, str(index)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
            processes.append(stack.enter_context(process))
            stack.callback(process.terminate)
        for process in processes:
            line = process.stdout.readline() if process.stdout is not None else b""
            if not line:
                raise click.ClickException("the hosts of the plain copy did not start")
            addresses.append(json.loads(line)["address"])
        yield addresses


# -- rows --------------------------------------------------------------------------------------------------------------


def proof_rows(seen: Seen, epochs: int, members: int) -> list[Row]:
    each_bytes, times = seen.proof_bytes / min(8, SOURCES), seen.times
    what = f"light-client proof over {epochs} epochs of {members} members"
    return [
        compare(f"{what}, asked of eight and verified", "s", times["proof"]["wall"], PROOF_SECONDS_MAX, "the aim"),
        compare(f"{what}, each", "kB", each_bytes / 1000, PROOF_BYTES_MAX / 1000, "the aim"),
    ]


def state_rows(seen: Seen, made: MadeState) -> list[Row]:
    times = seen.times
    copy = {
        kind: median([times[f"copy {when}"][kind] for when in ("before", "after")]) for kind in ("wall", "processor")
    }
    state, joined = times["state"], times["joined"]
    mib = made.state_bytes / MIB
    return [
        compare("plain copy", "MiB/s", mib / copy["wall"]),
        compare("state: fetched, proved, on disk", "s", state["wall"], copy["wall"], "plain copy"),
        compare("state: the newcomer's processor", "s", state["processor"], copy["processor"], "plain copy"),
        compare("from there to a node that follows", "s", joined["wall"]),
        compare("state: both", "s", state["wall"] + joined["wall"], copy["wall"], "plain copy"),
        compare("from its first word to a node that follows", "s", times["all"]["wall"]),
    ]


def model_rows(seen: Seen, model_mib: int) -> list[Row]:
    if "model" not in seen.times:
        return []
    ours, peer = seen.times["model"]["wall"], seen.times["copy of the model"]["wall"]
    return [compare(f"model of {model_mib} MiB: every tile verified, durable", "s", ours, peer, "plain copy")]


def replay_rows(seen: Seen, made: MadeState, quick: bool) -> list[Row]:
    """What replay takes at least, from rates that are measured here and now."""
    transactions, blocks = measure_replay(quick)
    replay = made.entries / transactions + made.height / blocks
    joined = seen.times["all"]["wall"]
    return [
        compare("replay: transfers to new accounts, verified and applied", "1/s", transactions),
        compare("replay: empty blocks checked, executed, durable", "1/s", blocks),
        compare("joining, from its first word on", "s", joined, replay, "replay, extrapolated"),
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
