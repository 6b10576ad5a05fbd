"""Time and bytes for four nodes to agree on tiles of 4 MiB, and from a node's start until it has joined.

Four processes, each a real node with its stores, journals and finality, on loopback sockets; only the learner's process is
replaced by one whose compressed deltas are ready (benchmarks/programs). The clock runs from the moment at which the first
node opens a round until the last one has the decided version of every tile durably on its disk: signing, journaling,
delivering, merging, publishing, fetching, recomputing, voting, finality, applying. Bytes are those that crossed the sockets.

A network cannot have a single tile: each group of parameters has its own. So "1 tile" is a trunk of exactly 4 MiB and an
expert of 2 KiB; "16 tiles" are a trunk and 15 experts of exactly 4 MiB each.

With ``--hivemind PYTHON`` (an environment with hivemind 1.1.12) its averager does the same right afterwards: four peers
average float32 tensors of 4 MiB. Its step waits at least a second for its group; the all-reduce alone is shown too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, find_median, median, report, say, standard_options
from benchmarks.common.network import ask, find_logged_seconds, found, now_seconds, processor_seconds

ROOT: Final = Path(__file__).resolve().parents[1]
READY_NODE: Final = ROOT / "benchmarks" / "programs" / "ready_node.py"
HIVEMIND: Final = ROOT / "benchmarks" / "peers" / "hivemind_average.py"
TILE_BYTES: Final = 4 << 20
WIDTH: Final = 256
TRUNK_VALUES_BESIDES_VOCABULARY: Final = (
    4 * WIDTH * WIDTH + 3 * WIDTH
)  # one layer's attention and norms, and the final norm
EXPERT_ROWS: Final = TILE_BYTES // 4 // (2 * WIDTH)  # up and down: two matrices
DEADLINE_SECONDS: Final = 3600  # of a round: never reached; a takeover or a lagging tile fails the benchmark
POLL_SECONDS: Final = 1.0  # an answer costs a node a few milliseconds
ROUND_SECONDS_MAX: Final = 120.0
WARM_UP_ROUNDS: Final = 1
ATTEMPTS_MAX: Final = 3  # at rounds in which nobody is late, on a machine that others use
CORPUS_BYTES: Final = 64 << 10
JOIN_SECONDS_MAX: Final = 60.0
LOG_POLL_SECONDS: Final = 0.02  # the log has the moment itself
MIB: Final = 1 << 20
BY_STEP, BY_ALL_REDUCE, SENT = "by step", "by all-reduce alone", "sent by all"
JOINED: Final = "start until joined"
RATIOS_WANTED: Final = {BY_STEP: 2, BY_ALL_REDUCE: 2, SENT: 20}
JOINED_SECONDS_WANTED: Final = 1.0


@dataclass(frozen=True, slots=True)
class RoundCost:
    """One round of all peers."""

    seconds: float  # the first opened it -> the last has applied everything
    bytes_sent: int  # by all peers


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """Several rounds of one network."""

    rounds: tuple[RoundCost, ...]
    processor_seconds: float  # a round, all peers


@click.command()
@click.option("--peers", type=click.IntRange(4, 16), default=4, show_default=True)
@click.option("--tiles", default="1,16", show_default=True, help="How many tiles of 4 MiB.")
@click.option("--rounds", type=click.IntRange(2), default=12, show_default=True, help="Measured, of each network.")
@click.option("--joins", type=click.IntRange(1), default=7, show_default=True, help="Nodes started one after another.")
@click.option("--hivemind", metavar="PYTHON", help="The Python of an environment that has hivemind.")
@standard_options
def main(peers: int, tiles: str, rounds: int, joins: int, hivemind: str | None, as_json: bool, quick: bool) -> None:
    """Time and bytes for nodes to agree on tiles of 4 MiB; start until joined. Beside hivemind's averager."""
    counts = [1] if quick else [int(count) for count in tiles.split(",")]
    if quick:
        rounds, joins = 3, 1
    facts: dict[str, Any] = {"peers": peers, "rounds": rounds, "networks": {}}
    with tempfile.TemporaryDirectory(prefix="nock-") as folder:
        say("the arithmetic of one tile, in one process")
        work = work_milliseconds(Path(folder) / "work", peers)
        rows = [compare(name, "cpu ms", taken) for name, taken in work.items()]
        for count in counts:
            say(f"{peers} nodes, {count} x 4 MiB")
            ours = run_clean_network(Path(folder), peers, count, rounds)
            theirs = _run_hivemind(hivemind, "average", count, rounds)
            rows += round_rows(count, peers, ours, theirs, sum(list(work.values())[1:]) if count == 1 else None)
            facts["networks"][str(count)] = {
                "milliseconds": [round(1000 * each.seconds, 1) for each in ours.rounds],
                "hivemind": theirs,
            }
        ours_joined = join_times(Path(folder) / "join", joins)
        theirs = _run_hivemind(hivemind, "join", joins)
        facts["joined_seconds"] = [round(each, 3) for each in ours_joined]
    name = None if theirs is None else f"hivemind {theirs['version']}, table joined and read"
    peer = None if theirs is None else theirs["median_s"]
    rows.append(compare(JOINED, "s", median(ours_joined), peer, name, _python_start_seconds()))
    report("tile_round", rows, as_json, facts | {"goals": goals(rows)})


def goals(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Half of the averager's time, a twentieth of its bytes, joined in a second; what could not be compared is left out."""
    judged = [
        {"goal": f"{row.name}: at most 1/{limit} of the peer's", "ratio": row.ratio, "met": row.ratio >= limit}
        for row in rows
        for ending, limit in RATIOS_WANTED.items()
        if row.name.endswith(ending) and row.ratio is not None
    ]
    judged += [
        {
            "goal": f"{JOINED}: at most {JOINED_SECONDS_WANTED:g} s",
            "seconds": row.ours,
            "met": row.ours <= JOINED_SECONDS_WANTED,
        }
        for row in rows
        if row.name == JOINED and row.ours is not None
    ]
    return judged


# -- our rounds -----------------------------------------------------------------------------------------------------------


class NotClean(click.ClickException):
    """In some round somebody was late: its time says how busy the machine is, and nothing of ours."""


def run_clean_network(folder: Path, peers: int, tiles: int, rounds: int) -> NetworkCost:
    """``run_network``, again where somebody was late; raises ``NotClean`` where that is so each time."""
    for attempt in range(1, ATTEMPTS_MAX):
        try:
            return run_network(folder / f"tiles-{tiles}-{attempt}", peers, tiles, rounds)
        except NotClean as late:
            say(f"{late.message}; once more")
    return run_network(folder / f"tiles-{tiles}", peers, tiles, rounds)


def run_network(folder: Path, peers: int, tiles: int, rounds: int) -> NetworkCost:
    """Found a network with so many tiles of 4 MiB, let it agree, and stop it; raises ClickException."""
    import trio

    from simnet.options import NodeProgram, Settings
    from simnet.processes import Fleet

    settings = Settings(
        out=folder,
        network=ROOT / "configs" / "devnet.toml",
        model=ROOT,
        peers=peers,
        rounds=rounds + WARM_UP_ROUNDS,
        device="cpu",
        program=NodeProgram((sys.executable, str(READY_NODE))),
    )
    found([settings.data_directory(index) for index in range(peers)], peers, _template(tiles), _corpus())
    with Fleet(settings) as fleet:
        return trio.run(partial(_run_rounds, fleet, settings))


async def _run_rounds(fleet: Any, settings: Any) -> NetworkCost:
    import trio

    first = await fleet.wait_ready(fleet.start_node(0, ()))
    others = [fleet.start_node(index, first.addresses[:1]) for index in range(1, settings.peers)]
    urls = [first.url] + [(await fleet.wait_ready(node)).url for node in others]
    pids = [node.process.pid for node in fleet.nodes.values()]
    used: float | None = None
    deadline = trio.current_time() + ROUND_SECONDS_MAX * settings.rounds
    while True:
        for index in list(fleet.nodes):
            if (how := fleet.exit_of(index)) is not None:
                raise click.ClickException(f"node {index} ended: {how}")
        states = [ask(url, "/status") for url in urls]
        if used is None and all(state["rounds"] >= WARM_UP_ROUNDS for state in states):
            used, begun = processor_seconds(pids), min(state["rounds"] for state in states)
        if all(state["state"] == "done" for state in states):
            break
        if trio.current_time() > deadline:
            raise click.ClickException(f"the rounds did not end; the nodes are {[state['state'] for state in states]}")
        await trio.sleep(POLL_SECONDS)
    assert used is not None
    used = (processor_seconds(pids) - used) / max(1, settings.rounds - begun)
    return NetworkCost(_costs([ask(url, "/rounds") for url in urls], settings.rounds, settings.peers), used)


def _costs(seen: Sequence[Sequence[dict[str, Any]]], rounds: int, peers: int) -> tuple[RoundCost, ...]:
    """The cost of each round from what each node says of it; the first ones are warm-up."""
    costs = []
    for number in range(WARM_UP_ROUNDS, rounds):
        views = [next(each for each in node if each["round"] == number) for node in seen]
        for view in views:
            if view["lagging"] or view["takeovers"] or view["merged_deltas"] != peers * view["tiles"]:
                raise NotClean(f"round {number} was not clean, its time means nothing: {view}")
        took_ms = max(view["closed_ms"] for view in views) - min(view["opened_ms"] for view in views)
        costs.append(RoundCost(took_ms / 1000, sum(view["bytes_sent"] for view in views)))
    return tuple(costs)


def _template(tiles: int) -> Any:
    """The devnet's rules with a model of exactly so many tiles of 4 MiB (and, for one, an expert of 2 KiB)."""
    from dataclasses import replace

    import msgspec

    from compute.model.tiling import TileMap
    from node.config import load_template

    template = load_template("devnet", overrides={"learning.round_seconds": DEADLINE_SECONDS})
    experts = max(1, tiles - 1)
    vocabulary, rest = divmod(
        TILE_BYTES // 4 - TRUNK_VALUES_BESIDES_VOCABULARY - experts * WIDTH, 2 * WIDTH
    )  # the trunk: embedding and head beside one layer and its router
    if rest or vocabulary < 258:
        raise click.UsageError("--tiles takes 1 or an even number up to 1024")
    shape = msgspec.structs.replace(
        template.model,
        vocabulary=vocabulary,
        layers=1,
        width=WIDTH,
        heads=8,
        experts=experts,
        expert_width=EXPERT_ROWS if tiles > 1 else 1,
        experts_per_token=1,
    )
    full = [tile for tile in TileMap.from_shape(shape, TILE_BYTES).tiles if tile.bytes == TILE_BYTES]
    assert len(full) == tiles
    return replace(template, name="tiles", model=shape, tile_bytes=TILE_BYTES)


def _corpus() -> tuple[bytes, ...]:
    """Text that nobody will read: a genesis needs some."""
    return (b"All work and no play makes a dull benchmark.\n" * (CORPUS_BYTES // 45),)


# -- what the arithmetic takes ----------------------------------------------------------------------------------------------


def work_milliseconds(folder: Path, peers: int) -> dict[str, float]:
    """Processor time of one tile in one process, without network, journals or waiting: parts of a round, in their order.

    All but the first lie between the opening of a round and its end, one after another: their sum is the round's floor.
    """
    import numpy as np

    from benchmarks.programs.ready_deltas import ready_delta
    from compute.delta.codec import encode
    from node.tile_work import MergeJob, TileWork, matrices_of
    from protocol.digest import Domain, blob_digest, digest, number
    from protocol.ids import Epoch, PeerId, Signature, TileId, Version
    from protocol.roster import DeltaRef, Head, Slot
    from storage.io.files import DirectoryFiles
    from storage.io.rocks import RocksKeyValue
    from storage.io.tile_store import TileStore

    template = _template(1)
    found([folder], 1, template, _corpus())
    from node.data_directory import DataDirectory
    from node.genesis_file import read_genesis

    places = DataDirectory(folder)
    genesis = read_genesis(places.genesis)
    index = RocksKeyValue(places.database)
    try:
        work = TileWork(genesis, TileStore(DirectoryFiles(folder), index))
        roots = work.ensure_genesis()
        tile_id = TileId("trunk/0")
        tile = work.tile_map.tile(tile_id)
        generator = np.random.default_rng(0)
        deltas = [ready_delta(tile, generator) for _ in range(peers)]
        taken: dict[str, list[float]] = {"compress": [], "merge": [], "verify": [], "apply": []}
        root = roots[tile_id]
        for version in range(1, 6):
            clock = _Laps(taken)
            payloads = [encode(delta, genesis.learning.delta_pipeline, matrices_of(tile)) for delta in deltas]
            clock.lap("compress", parts=peers)
            learners = [PeerId(digest(Domain.BATCH, number(index))) for index in range(peers)]
            references = [
                DeltaRef(blob_digest(payload), learner, Version(version - 1), 1000)
                for learner, payload in zip(learners, payloads, strict=True)
            ]
            clock.lap(None)
            (merged,) = work.merge(
                [MergeJob(Slot(tile_id, Version(version)), tuple(zip(references, payloads, strict=True)))]
            )
            clock.lap("merge")
            head = Head(
                tile=tile_id, version=Version(version), epoch=Epoch(0), attempt=0, round=version, parent_root=root,
                root=merged.root, update=blob_digest(merged.update), update_bytes=len(merged.update), deltas=tuple(references),
                proposer=learners[0], signature=Signature(bytes(64)),
            )  # fmt: skip
            clock.lap(None)
            work.verify([(head, merged.update)])
            clock.lap("verify")
            work.apply([(head, merged.update)])
            clock.lap("apply")
            root = merged.root
    finally:
        index.close()
    names = {
        "compress": "one tile: compress a delta (learner, before the clock)",
        "merge": f"one tile: merge {peers} deltas, encode, next root (owner)",
        "verify": "one tile: next root again (every other node)",
        "apply": "one tile: write the next version (every node)",
    }
    return {names[part]: 1000 * median(times) for part, times in taken.items()}


class _Laps:
    """A stopwatch of this thread's processor time: a floor must not grow with what else runs here."""

    def __init__(self, taken: dict[str, list[float]]) -> None:
        self._taken = taken
        self._since = time.thread_time()

    def lap(self, name: str | None, parts: int = 1) -> None:
        """Book the time since the last lap under ``name``; None: nowhere."""
        now = time.thread_time()
        if name is not None:
            self._taken[name].append((now - self._since) / parts)
        self._since = time.thread_time()


# -- joining --------------------------------------------------------------------------------------------------------------


def join_times(folder: Path, times: int) -> list[float]:
    """Seconds from starting `nocknode start` until its first peer admitted it and it the peer, one node after another.

    The network is the devnet with one member running; the joiner has its genesis, and no learner.
    """
    import trio

    from node.config import load_template
    from simnet.options import Settings
    from simnet.processes import Fleet

    settings = Settings(out=folder, network=ROOT, model=ROOT, peers=1 + times)
    directories = [settings.data_directory(index) for index in range(1 + times)]
    found(directories, 1, load_template("devnet"), _corpus())
    with Fleet(settings) as fleet:
        return trio.run(partial(_join_all, fleet, directories))


async def _join_all(fleet: Any, directories: Sequence[Path]) -> list[float]:
    seed = await fleet.wait_ready(fleet.start_node(0, ()))
    return [await _join(directory, seed.addresses[0]) for directory in directories[1:]]


async def _join(directory: Path, bootstrap: str) -> float:
    arguments = [
        "start",
        "--data-dir",
        str(directory),
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--bootstrap",
        bootstrap,
        "--no-learn",
    ]
    import trio

    log = directory / "log" / "node.log"
    began = now_seconds()
    process = subprocess.Popen(
        [sys.executable, "-m", "node", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    try:
        while (joined := find_logged_seconds(log, "peer connected")) is None:
            if process.poll() is not None or now_seconds() > began + JOIN_SECONDS_MAX:
                raise click.ClickException(f"the joining node did not join; see {log}")
            await trio.sleep(LOG_POLL_SECONDS)
    finally:
        process.terminate()
        process.wait()
    say(f"joined in {joined - began:.3f} s")
    return joined - began


def _python_start_seconds() -> float:
    """The floor of a start: Python with its event loop and an empty program."""
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import trio"], check=True)
        taken.append(time.perf_counter() - began)
    return median(taken)


# -- beside hivemind --------------------------------------------------------------------------------------------------------


def round_rows(
    count: int, peers: int, ours: NetworkCost, theirs: dict[str, Any] | None, floor_ms: float | None
) -> list[Row]:
    """Time, bytes and processor time of a round, beside the averager's good rounds."""
    good = [row for row in theirs["rounds"] if row["good"]][WARM_UP_ROUNDS:] if theirs else []
    name = f"hivemind {theirs['version']}" if theirs else None

    def peer(field: str, scale: float) -> float | None:
        value = find_median(row[field] for row in good)
        return None if value is None else scale * value

    what = f"{peers} nodes agree on {count} x 4 MiB"
    took = 1000 * median(each.seconds for each in ours.rounds)
    sent = median(each.bytes_sent for each in ours.rounds) / MIB
    return [
        compare(f"{what}, {BY_STEP}", "ms", took, peer("step_s", 1000), name and f"{name}, step", floor_ms),
        compare(
            f"{what}, {BY_ALL_REDUCE}", "ms", took, peer("allreduce_s", 1000), name and f"{name}, all-reduce", floor_ms
        ),
        compare(f"{what}, {SENT}", "MiB", sent, peer("bytes", 1 / MIB), name and f"{name}, float32"),
        compare(f"{what}, processor time of all", "ms", 1000 * ours.processor_seconds, peer("processor_s", 1000), name),
    ]


def _run_hivemind(python: str | None, *arguments: object) -> dict[str, Any] | None:
    """The averager's answer, or None when nobody named its Python. Raises ClickException when it fails."""
    if python is None:
        return None
    say(f"hivemind: {' '.join(map(str, arguments))}")
    try:
        done = subprocess.run(
            [python, str(HIVEMIND), *map(str, arguments)],
            capture_output=True,  # it ends with tracebacks of its own even when all went well
            check=False,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
    except OSError as error:
        raise click.UsageError(f"--hivemind {python}: {error.strerror}") from None
    if done.returncode != 0 or not done.stdout.strip():
        raise click.ClickException(f"hivemind ended with code {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


if __name__ == "__main__":
    main()
