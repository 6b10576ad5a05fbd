"""Soak: a chain of four real nodes for half an hour, one of which is killed and started again every minute.

Four nodes on loopback decide blocks and learn nothing. Once a minute one of them dies by kill -9 at a random moment, and comes
back; every second time it comes back armed to kill itself between the journal and the send of its first vote, and then once
more. What is looked at:

    pace     how often the network has a new final block, by asking all that live ten times a second
    gaps     between two of them; more than six seconds are allowed only where two leaders in a row were not there
    votes    no journal holds a pair of votes that the rules forbid, read from each dead directory and in the end from all
    blocks   every height has one block, on all disks, and each is derived again by ``nocknode tiles verify``

The rules of the chain are the default ones, but that an epoch is short: half an hour has four of them. A leader with nothing to
propose waits for 1.5 s, a dead one costs 4.5 s.
"""

from __future__ import annotations

import json
import random
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import httpx
import trio
from msgspec.structs import replace

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, find_median, report, say, standard_options
from benchmarks.common.trial import conclude_trial, trial_folder, trial_settings
from benchmarks.kill import Evidence
from consensus.finality.schedule import Schedule
from node.genesis_file import read_genesis
from protocol.codec import decode
from protocol.finality import Header
from protocol.genesis import genesis_roster
from protocol.ids import Height, PeerId, View, parse_peer
from protocol.limits import KIB
from protocol.rejection import Rejected
from simnet.options import Settings
from simnet.processes import ChildFailed, Fleet
from storage.io.rocks import RocksKeyValue
from storage.ledger import Ledger

PEERS: Final = 4
GAP_SECONDS_MAX: Final = 6.0
PACE_SECONDS_MAX: Final = 2.0
QUICK_MINUTES: Final = 2.0
QUICK_EVERY_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.1
RETURN_SECONDS_MAX: Final = 120.0
CRASH_POINT: Final = "vote-journaled@0"  # nobody learns: it is always round 0

NETWORK: Final = """\
name = "soaknet"
model = "model.toml"
tile_bytes = 16384

[chain]
epoch_heights = 256
"""


class Gap(NamedTuple):
    """A time without a new block: how long, when it ended, and the heights before and after it."""

    seconds: float
    ended: float
    before: int
    after: int


@dataclass(slots=True)
class Seen:
    """When the network had which height, by our clock."""

    heights: list[tuple[float, int]] = field(default_factory=list)

    def note(self, height: int) -> None:
        if not self.heights or height > self.heights[-1][1]:
            self.heights.append((time.monotonic(), height))

    def gaps(self) -> list[Gap]:
        """Between two looks that found something new."""
        pairs = pairwise(self.heights)
        return [Gap(later - earlier, later, before, height) for (earlier, before), (later, height) in pairs]

    def pace_seconds(self) -> float | None:
        """Seconds a block, on average."""
        if len(self.heights) < 2:
            return None
        (began, first), (ended, last) = self.heights[0], self.heights[-1]
        return (ended - began) / (last - first)


class Failed(Exception):
    """Going on is pointless."""


class Soak:
    """One network, its deaths, and what was seen."""

    def __init__(
        self, fleet: Fleet, settings: Settings, seconds: float, every: float, seed: int, tell: Callable[[str], None]
    ) -> None:
        self._fleet, self._settings, self._tell = fleet, settings, tell
        self._seconds, self._every = seconds, every
        self._generator = random.Random(seed)
        self._peers: list[PeerId] = []
        self._client = httpx.AsyncClient(timeout=5.0, trust_env=False)
        self.seen = Seen()
        self.evidence = Evidence()
        self.kills = 0
        self.crashes = 0
        self.returns: list[float] = []
        self.deaths: list[tuple[bytes, float, float]] = []  # who, from when, until when it followed again
        self.leaders: dict[int, list[bytes]] = {}  # of the views from the parent, by height of the block
        self.verified = 0
        self.problems: list[str] = []

    async def run(self) -> None:
        """Everything; raises ``Failed`` and ``ChildFailed``."""
        await self._found()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            deadline = trio.current_time() + self._seconds
            while trio.current_time() + self._every <= deadline:
                began = trio.current_time()
                await trio.sleep(self._generator.uniform(0.1, 0.5) * self._every)
                await self._die(self._generator.randrange(PEERS))
                await trio.sleep_until(began + self._every)
            await trio.sleep_until(deadline)
            nursery.cancel_scope.cancel()
        await self._client.aclose()
        self._fleet.stop_nodes()
        self._tell("stopped; deriving every block again")
        for index in range(PEERS):
            self._read(index)
            outcome = await self._fleet.verify(index)
            self.verified += bool(outcome["ok"])
            if not outcome["ok"]:
                self.problems.append(f"peer {index}: tiles verify: {outcome['error']}")
        self.leaders = find_leaders(self._settings.data_directory(0))

    async def _found(self) -> None:
        settings, fleet = self._settings, self._fleet
        members: list[str] = []
        for index in range(1, PEERS):
            made = await fleet.run_command("keys", "new", "--data-dir", str(settings.data_directory(index)))
            members += ["--member", str(made["member"])]
        made = await fleet.run_command(
            *("init", "--new", "--network", str(settings.network), "--corpus", str(settings.corpus)),
            *members,
            *("--data-dir", str(settings.data_directory(0))),
        )
        await fleet.wait_ready(self._start(0))
        for index in range(1, PEERS):
            directory = str(settings.data_directory(index))
            await fleet.run_command(
                "init", "--join", self._address(0), "--network-id", str(made["network_id"]), "--data-dir", directory
            )
            await fleet.wait_ready(self._start(index))
        self._peers = [parse_peer(node.api.peer) for _, node in sorted(fleet.nodes.items()) if node.api is not None]
        for index in range(PEERS):
            await self._wait_following(index)
        self._tell(f"{PEERS} nodes are up")

    def _start(self, index: int, *options: str) -> Any:
        others = [self._address(other) for other in self._fleet.nodes if other != index]
        return self._fleet.start_node(index, others, ["--no-learn", *options])

    def _address(self, index: int) -> str:
        api = self._fleet.nodes[index].api
        if api is None:
            raise Failed(f"peer {index} is not up")
        return api.addresses[0]

    # -- dying ----------------------------------------------------------------------------------------------------------

    async def _die(self, victim: int) -> None:
        """kill -9, the look at what it left, the return; every second time by way of the crash point."""
        self._check_alive()
        died = time.monotonic()
        who = self._peers[victim]
        self._fleet.kill_node(victim)
        self.kills += 1
        self._read(victim)
        if self.kills % 2 == 0:
            self._start(victim, "--crash-at", CRASH_POINT)
            await self._wait_crash(victim)
            self.crashes += 1
            self._read(victim)
        began = time.monotonic()
        await self._fleet.wait_ready(self._start(victim))
        await self._wait_following(victim)
        self.returns.append(time.monotonic() - began)
        self.deaths.append((who, died, time.monotonic()))
        self._tell(
            f"death {self.kills:3}  peer {victim}  {'and at ' + CRASH_POINT if self.kills % 2 == 0 else '':22}  "
            f"back after {self.returns[-1]:4.1f} s  height {self.seen.heights[-1][1]:5}  "
            f"{self.seen.pace_seconds() or 0:.2f} s a block"
        )

    async def _wait_crash(self, victim: int) -> None:
        with trio.move_on_after(RETURN_SECONDS_MAX):
            while (how := self._fleet.exit_of(victim)) is None:
                await trio.sleep(POLL_SECONDS)
            if not how.startswith("signal 9"):
                raise Failed(f"peer {victim}, armed with {CRASH_POINT}, ended by itself: {how}")
            return
        raise Failed(f"peer {victim}, armed with {CRASH_POINT}, did not vote for {RETURN_SECONDS_MAX:.0f} s")

    def _check_alive(self) -> None:
        for index in sorted(self._fleet.nodes):
            how = self._fleet.exit_of(index)
            if how is not None:
                raise Failed(f"peer {index} ended by itself: {how}")

    def _read(self, index: int) -> None:
        try:
            self.evidence.read(self._settings.data_directory(index))
        except (OSError, Rejected) as error:
            raise Failed(f"the directory of peer {index} cannot be read: {error}") from error
        found = [*self.evidence.divergent(), *self.evidence.forbidden_votes(), *self.evidence.damaged]
        if found:
            raise Failed("; ".join(found[:5]))

    # -- looking --------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Note every new height that anybody has."""
        while True:
            for index in sorted(self._fleet.nodes):
                status = await self._status(index)
                if status is not None:
                    self.seen.note(status["height"])
            await trio.sleep(POLL_SECONDS)

    async def _status(self, index: int) -> dict[str, Any] | None:
        node = self._fleet.nodes.get(index)
        if node is None or node.api is None:
            return None
        try:
            answer = await self._client.get(node.api.url + "/consensus/status")
            answer.raise_for_status()
            status: dict[str, Any] = json.loads(answer.content)
        except (httpx.HTTPError, ValueError):
            return None  # it is dying, or not up yet
        return status

    async def _wait_following(self, index: int) -> None:
        """Wait until a node has the newest height that we know and reaches all others."""
        with trio.move_on_after(RETURN_SECONDS_MAX):
            while True:
                status = await self._status(index)
                newest = self.seen.heights[-1][1] if self.seen.heights else 0
                if status and status["height"] >= newest and status["validators_connected"] == len(self._fleet.nodes):
                    return
                self._check_alive()
                await trio.sleep(POLL_SECONDS)
        raise Failed(f"peer {index} does not follow {RETURN_SECONDS_MAX:.0f} s after its start")


def find_leaders(directory: Path) -> dict[int, list[bytes]]:
    """Who led each view from a block's parent to the block, by its height: one where no leader was missing."""
    genesis = read_genesis(directory / "genesis.bin")
    founders = genesis_roster(genesis)  # nobody stakes: they stay, and an epoch changes who leads when
    index = RocksKeyValue(directory / "db")
    try:
        ledger = Ledger(index)
        blocks = ledger.range(Height(1), ledger.tip() or Height(0))
        headers = [decode(Header, block.header, limit_bytes=4 * KIB) for block in blocks]
    finally:
        index.close()
    leaders: dict[int, list[bytes]] = {}
    for header in headers:
        schedule = Schedule(replace(founders, epoch=header.epoch, beacon=header.beacon), genesis.chain)
        views = range(header.parent_view + 1, header.view + 1)
        leaders[header.height] = [founders.members[schedule.leader(View(view))].node for view in views]
    return leaders


# -- what came of it ----------------------------------------------------------------------------------------------------


def explained(soak: Soak, gap: Gap) -> bool:
    """Whether two leaders in a row, on the way from one height to the other, were dead at some moment of the gap."""
    heights = range(gap.before + 1, gap.after + 1)
    leaders = [leader for height in heights for leader in soak.leaders.get(height, [])]
    dead = {who for who, died, back in soak.deaths if died < gap.ended and back > gap.ended - gap.seconds}
    return any(one in dead and other in dead for one, other in pairwise(leaders))


def judge(soak: Soak, failure: str) -> list[str]:
    """Every check that failed, in sentences."""
    problems = [failure] if failure else []
    problems += [*soak.problems, *soak.evidence.damaged, *soak.evidence.divergent(), *soak.evidence.forbidden_votes()]
    for gap in soak.seen.gaps():
        if gap.seconds > GAP_SECONDS_MAX and not explained(soak, gap):
            problems.append(
                f"{gap.seconds:.1f} s passed before height {gap.after}, and no two leaders in a row were missing"
            )
    pace = soak.seen.pace_seconds()
    if pace is None or pace > PACE_SECONDS_MAX:
        problems.append(f"a block took {'for ever' if pace is None else f'{pace:.2f} s'} on average")
    return list(dict.fromkeys(problems))


def rows_of(soak: Soak) -> list[Row]:
    """The numbers, one a row."""
    gaps = soak.seen.gaps()
    plain = [gap.seconds for gap in gaps if not explained(soak, gap)]
    skipped = [len(leaders) - 1 for leaders in soak.leaders.values()]
    began = soak.seen.heights[0] if soak.seen.heights else (0.0, 0)
    ended = soak.seen.heights[-1] if soak.seen.heights else (0.0, 0)
    return [
        Row("minutes", "min", (ended[0] - began[0]) / 60),
        Row("blocks", "blocks", ended[1] - began[1]),
        compare("a block, on average", "s", soak.seen.pace_seconds(), PACE_SECONDS_MAX, "the aim"),
        compare("a block, median", "s", find_median(gap.seconds for gap in gaps)),
        compare("the longest gap", "s", max((gap.seconds for gap in gaps), default=None)),
        compare(
            "the longest gap but after consecutive dead leaders",
            "s",
            max(plain, default=None),
            GAP_SECONDS_MAX,
            "the aim",
        ),
        Row("blocks after a missing leader", "blocks", sum(count > 0 for count in skipped)),
        Row("blocks after consecutive missing leaders", "blocks", sum(count > 1 for count in skipped)),
        Row("kills", "kills", soak.kills),
        Row("deaths between journal and send", "deaths", soak.crashes),
        Row("forbidden pairs of votes", "pairs", len(soak.evidence.forbidden_votes())),
        Row("heights with two blocks", "heights", len(soak.evidence.divergent())),
        compare("a killed node follows again, median", "s", find_median(soak.returns)),
        Row("nodes verified", "nodes", soak.verified),
    ]


def run(out: Path, minutes: float, every: float, seed: int, as_json: bool) -> list[str]:
    """One soak; prints what came of it, and returns what failed."""
    settings = trial_settings(out, NETWORK, PEERS)
    began = time.monotonic()
    failure = ""
    with Fleet(settings) as fleet:
        soak = Soak(
            fleet, settings, 60 * minutes, every, seed, lambda line: say(f"{time.monotonic() - began:7.1f} s  {line}")
        )
        try:
            trio.run(soak.run)
        except* (Failed, ChildFailed) as problems_of_run:
            failure = "; ".join(str(problem) for problem in _leaves(problems_of_run))
    if failure:
        for index in range(PEERS):
            with suppress(OSError, Rejected):
                soak.evidence.read(settings.data_directory(index))
    problems = judge(soak, failure)
    report("soak", rows_of(soak), as_json, {"seed": seed, "problems": problems})
    return problems


def _leaves(group: BaseExceptionGroup[BaseException]) -> Sequence[BaseException]:
    return [
        leaf
        for each in group.exceptions
        for leaf in (_leaves(each) if isinstance(each, BaseExceptionGroup) else (each,))
    ]


@click.command()
@standard_options
@click.option("--minutes", type=click.FloatRange(min=0.5), default=30.0, show_default=True, help="How long.")
@click.option("--every", type=click.FloatRange(min=5.0), default=60.0, show_default=True, help="Seconds between kills.")
@click.option("--seed", type=click.IntRange(min=0), help="Who dies when; else drawn and told.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep directories and logs here. [default: removed]")
def main(minutes: float, every: float, seed: int | None, out: Path | None, as_json: bool, quick: bool) -> None:
    """Run a chain of four nodes and kill one every minute. --quick: two minutes, a kill every 15 s."""
    if quick:
        minutes, every = min(minutes, QUICK_MINUTES), min(every, QUICK_EVERY_SECONDS)
    seed = secrets.randbits(32) if seed is None else seed
    folder = trial_folder(out, "soak")
    again = f"python -m benchmarks.soak --minutes {minutes:g} --every {every:g} --seed {seed}"
    say(f"seed {seed}; the same again: {again}")
    problems = run(folder, minutes, every, seed, as_json)
    conclude_trial(problems, again, folder, keep=out is not None)


if __name__ == "__main__":
    main()
