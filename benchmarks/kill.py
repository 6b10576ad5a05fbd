"""Kills: 100 rounds of a real network, in each the kill -9 of a peer, and what every disk says afterwards.

Four nodes, each an operating-system process with its own directory, learn a small model. In every round that this program
picks, one of them dies, in equal parts by

    owner     kill -9 of the primary of a random tile, at a random moment of the round
    anyone    kill -9 of a random peer, at a random moment of the round
    crash     the node kills itself between a journal write and its send, or between send and apply (node/faults.py)

and is started again before the next dies. Each dead directory is read as it was left, and in the end all of them, and then

    roots       no two ledgers, tile stores or proposals ever name different roots for one (tile, version); a proposer has
                one value for a slot in an epoch; a height has one block
    votes       no journal holds a pair of votes that the rules forbid (consensus/finality/signer.py, S1 to S4)
    deltas      each counts once for a tile, and a learner has one for a tile and base
    liveness    survivors go on to the next round; at least 95 % of tile-rounds advance
    stall       two of four are killed: the others say that they are stalled and why, decide nothing, and go on when the two
                return
    derivation  ``nocknode tiles verify`` derives every root again, on every node

The peer is hivemind 1.1.12, measured with the same four processes and a kill in the middle of an averaging step: in 11 of 11
kills the survivors held different tensors or hung.
"""

from __future__ import annotations

import random
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
import httpx
import msgspec
import trio

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, find_median, report, say, standard_options
from benchmarks.common.trial import conclude_trial, trial_folder, trial_settings
from consensus.finality.signer import VoteRecord
from node.faults import POINTS
from protocol.codec import decode
from protocol.finality import Body, Header, Vote, VoteKind
from protocol.limits import BODY_BYTES_MAX, KIB
from protocol.rejection import Rejected
from protocol.roster import Head
from simnet import facts
from simnet.options import PEERS_MAX, Settings
from simnet.processes import ChildFailed, Fleet
from storage.io.rocks import RocksKeyValue
from storage.journal import JournalState, read_journal
from storage.keys import TILE_VERSION, split_tile_key
from storage.ledger import Ledger

ROUND_SECONDS: Final = 4.0  # the deadline: on two busy cores a round without a death takes about half
HANG_ROUNDS: Final = 20  # a survivor that is no further after so many deadlines hangs (patience is 2.5 of them)
HANG_SECONDS_EXTRA: Final = 30.0  # ... and so long for a machine that does other things too
RETURN_SECONDS_MAX: Final = 180.0  # from a start until the node takes part; importing torch takes tens of seconds there
CRASH_ROUNDS_MAX: Final = 12  # an armed node that has not reached its point after so many rounds is killed from outside
ARMED_ROUNDS: Final = 200  # rounds in which an armed point fires
ADVANCED_SHARE_MIN: Final = 0.95
POLL_SECONDS: Final = 0.1
STALL_ROUNDS: Final = 4  # how long a stalled network is watched
QUICK_KILLS: Final = 6
HIVEMIND: Final = "hivemind 1.1.12"
TROUBLES: Final = (httpx.HTTPError, msgspec.DecodeError)

NETWORK: Final = """\
name = "killnet"
model = "model.toml"
tile_bytes = 16384

[learning]
inner_steps = {inner_steps}
batch_sequences = 4
learning_rate = 0.005
round_seconds = {round_seconds}
validation_sequences = 8

[chain]
view_delta_ms = 300
block_interval_ms_min = 10
idle_interval_ms = 500
"""


# -- what the disks say ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Evidence:
    """Everything that was ever read of any directory. Nothing is forgotten, so a node that changes its past is found out."""

    roots: dict[tuple[str, int], dict[bytes, set[str]]] = field(default_factory=lambda: defaultdict(dict))
    proposals: dict[tuple[bytes, str, int, int], dict[bytes, set[str]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    blocks: dict[int, dict[bytes, set[str]]] = field(default_factory=lambda: defaultdict(dict))
    heads: dict[tuple[str, int], Head] = field(default_factory=dict)
    votes: dict[tuple[int, int, int], list[Vote]] = field(default_factory=lambda: defaultdict(list))
    damaged: list[str] = field(default_factory=list)
    _read_until: dict[Path, int] = field(default_factory=dict)

    def read(self, directory: Path) -> None:
        """Read a directory of which no process is running; it is left as it is. Raises ``OSError``, ``Rejected``."""
        who = directory.name
        for record in self._records(directory / "journal" / "votes.journal"):
            self._saw_vote(decode(VoteRecord, record, limit_bytes=KIB).vote)
        for record in self._records(directory / "journal" / "proposals.journal"):
            head = decode(Head, record, limit_bytes=BODY_BYTES_MAX)
            self.proposals[head.proposer, head.tile, head.version, head.epoch].setdefault(head.digest(), set()).add(who)
        with tempfile.TemporaryDirectory(prefix="nocknode-kill-") as folder:
            copy = Path(folder) / "db"
            shutil.copytree(directory / "db", copy)  # opening a database changes it: the node must find what it left
            index = RocksKeyValue(copy)
            try:
                self._read_ledger(Ledger(index), directory)
                for key, value in _scan(index, TILE_VERSION):
                    tile, version = split_tile_key(key)
                    self.roots[tile, version].setdefault(value[:32], set()).add(f"{who}'s files")
            finally:
                index.close()

    def _records(self, path: Path) -> tuple[bytes, ...]:
        contents = read_journal(path.read_bytes()) if path.exists() else None
        if contents is None:
            return ()
        if contents.state is JournalState.DAMAGED:
            self.damaged.append(f"{path} is damaged")
        return contents.records

    def _read_ledger(self, ledger: Ledger, directory: Path) -> None:
        tip = ledger.tip() or 0
        until = self._read_until.get(directory, 0)
        if tip < until:
            self.damaged.append(f"the ledger of {directory.name} ended at {until} and now ends at {tip}")
        for block in ledger.range(max(1, until + 1), tip):  # type: ignore[arg-type]  # heights
            header = decode(Header, block.header, limit_bytes=4 * KIB)
            self.blocks[block.height].setdefault(header.digest(), set()).add(directory.name)
            for head in decode(Body, block.body, limit_bytes=BODY_BYTES_MAX).heads:
                self.roots[head.tile, head.version].setdefault(head.root, set()).add(f"{directory.name}'s ledger")
                self.heads[head.tile, head.version] = head
        self._read_until[directory] = max(tip, until)

    def _saw_vote(self, vote: Vote | None) -> None:
        if vote is not None and vote not in (said := self.votes[vote.signer, vote.epoch, vote.view]):
            said.append(vote)

    # Judgements: each a list of sentences, empty when all is well

    def divergent(self) -> list[str]:
        """Slots with more than one root, heights with more than one block, proposers with more than one value."""
        found = [
            f"{tile}@{version} has {len(roots)} roots: "
            + "; ".join(f"{root.hex()[:8]} in {', '.join(sorted(where))}" for root, where in roots.items())
            for (tile, version), roots in sorted(self.roots.items())
            if len(roots) > 1
        ]
        found += [f"height {height} has {len(names)} blocks" for height, names in self.blocks.items() if len(names) > 1]
        found += [
            f"{proposer.hex()[:8]} proposed {len(values)} values for {tile}@{version}"
            for (proposer, tile, version, _), values in self.proposals.items()
            if len(values) > 1
        ]
        return found

    def forbidden_votes(self) -> list[str]:
        """Pairs of one member's votes in one view that S1 to S4 forbid."""
        found = []
        for (signer, _, view), votes in self.votes.items():
            blocks = {vote.block for vote in votes if vote.kind is not VoteKind.NULLIFY}
            kinds = [vote.kind for vote in votes]
            nullified = kinds.index(VoteKind.NULLIFY) if VoteKind.NULLIFY in kinds else len(kinds)
            late = VoteKind.NOTARIZE in kinds[nullified:] or (nullified < len(kinds) and VoteKind.FINALIZE in kinds)
            if len(blocks) > 1 or late:
                found.append(f"member {signer} signed {[kind.name for kind in kinds]} in view {view}")
        return found

    def counted_twice(self) -> list[str]:
        """Deltas that went into two versions of a tile, or two deltas of one learner on one base."""
        digests: dict[tuple[str, bytes], list[int]] = defaultdict(list)
        bases: dict[tuple[str, bytes, int], list[int]] = defaultdict(list)
        for (tile, version), head in sorted(self.heads.items()):
            for reference in head.deltas:
                digests[tile, reference.delta].append(version)
                bases[tile, reference.learner, reference.base].append(version)
        return [
            f"delta {name.hex()[:8]} counts in {tile} {at}" for (tile, name), at in digests.items() if len(at) > 1
        ] + [
            f"{learner.hex()[:8]} counts twice on {tile}@{base}: in {at}"
            for (tile, learner, base), at in bases.items()
            if len(at) > 1
        ]

    def advanced(self, tiles: int) -> dict[int, int]:
        """How many of ``tiles`` tiles advanced in each round, by the ledger."""
        rounds = Counter(head.round for head in self.heads.values())
        return {number: min(tiles, rounds[number]) for number in range(max(rounds, default=-1) + 1)}


def _scan(index: RocksKeyValue, prefix: bytes) -> Iterable[tuple[bytes, bytes]]:
    start = b""
    while rows := index.scan(prefix, start=start, limit=4096):
        yield from rows
        start = rows[-1][0] + b"\x00"


# -- the plan ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Death:
    """How one peer is to die. ``point`` is set for a crash; the victim is drawn when the time has come."""

    kind: str  # "owner", "anyone" or "crash"
    point: str = ""


def plan_deaths(kills: int, generator: random.Random) -> list[Death]:
    """A third of each kind, in random order. The first is no crash: who dies by itself was armed when it was started again."""
    deaths: list[Death] = []
    while len(deaths) < kills:
        three = [Death("owner"), Death("anyone"), Death("crash", generator.choice(sorted(POINTS)))]
        generator.shuffle(three)
        if not deaths and three[0].kind == "crash":
            three.reverse()
        deaths += three
    return deaths[:kills]


@dataclass(frozen=True, slots=True)
class Died:
    """One death as it happened, and what followed. Seconds are from the death."""

    number: int
    kind: str
    point: str
    peer: int
    round: int
    tiles_owned: int
    recovered_seconds: float | None  # until every tile of the victim had its next version; None: it owned none
    survivors_seconds: float  # until every survivor was in a later round
    returned_seconds: float | None  # from its new start until the victim took part again; None: it was armed to die


class Failed(Exception):
    """A check failed in a way that makes going on pointless."""


# -- the trial ---------------------------------------------------------------------------------------------------------


class Trial:
    """One network, its deaths, and what was seen."""

    def __init__(self, fleet: Fleet, settings: Settings, kills: int, seed: int, tell: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._settings = settings
        self._generator = random.Random(seed)
        self._deaths = plan_deaths(kills, self._generator)
        self._tell = tell
        self._began = time.monotonic()
        self._client = httpx.AsyncClient(timeout=10.0, trust_env=False)
        self._names: dict[str, int] = {}  # the short name of each peer
        self.round_seconds = settings.round_seconds or ROUND_SECONDS  # of a usual round, once it was measured
        self.evidence = Evidence()
        self.died: list[Died] = []
        self.hangs: list[str] = []
        self.problems: list[str] = []
        self.tiles = 0
        self.stalled_sentence = ""
        self.stall_recovered_seconds: float | None = None
        self.verified: dict[int, dict[str, object]] = {}

    async def run(self) -> None:
        """Everything; raises ``Failed`` and ``ChildFailed``."""
        await self._found()
        await self._measure_round()
        for number, death in enumerate(self._deaths):
            await self._die(number, death)
        await self._stall()
        self._tell("stopping the nodes, deriving every root again")
        self._fleet.stop_nodes()
        for index in range(self._settings.peers):
            await self._read(index)
            self.verified[index] = await self._fleet.verify(index)
            if not self.verified[index]["ok"]:
                self.problems.append(f"peer {index}: tiles verify: {self.verified[index]['error']}")
        await self._client.aclose()

    # Starting

    async def _found(self) -> None:
        settings, fleet = self._settings, self._fleet
        members = []
        for index in range(1, settings.peers):
            made = await fleet.run_command("keys", "new", "--data-dir", str(settings.data_directory(index)))
            members += ["--member", str(made["member"])]
        made = await fleet.run_command(
            *("init", "--new", "--network", str(settings.network), "--corpus", str(settings.corpus)),
            *members,
            *("--data-dir", str(settings.data_directory(0))),
        )
        network_id = str(made["network_id"])
        await fleet.wait_ready(fleet.start_node(0, []))
        address = self._address(0)
        for index in range(1, settings.peers):
            directory = str(settings.data_directory(index))
            await fleet.run_command("init", "--join", address, "--network-id", network_id, "--data-dir", directory)
            await fleet.wait_ready(fleet.start_node(index, [address]))
        self._tell(f"{settings.peers} nodes are up")
        for index in range(settings.peers):
            status = await self._wait_returned(index, 0)
            self._names[status.short] = index

    def _address(self, index: int) -> str:
        api = self._fleet.nodes[index].api
        assert api is not None
        return api.addresses[0]

    async def _measure_round(self) -> None:
        """How long a round takes when nobody dies."""
        opened = []
        for _ in range(4):
            await self._wait_next_round(self._live()[0])
            opened.append(time.monotonic())
        self.round_seconds = (opened[-1] - opened[0]) / (len(opened) - 1)
        self._tell(f"a round without a death takes {self.round_seconds:.1f} s")

    # Dying

    async def _die(self, number: int, death: Death) -> None:
        following = self._deaths[number + 1] if number + 1 < len(self._deaths) else None
        live = self._live()
        if death.kind == "crash":
            victim = self.died[-1].peer
            kind, point, before = await self._wait_crash(victim, death.point)
        else:
            watcher = live[self._generator.randrange(len(live))]
            await self._wait_next_round(watcher)
            await trio.sleep(self._generator.random() * self.round_seconds)
            tiles = await self._tiles(live)
            if death.kind == "owner":
                victim = self._names[self._generator.choice(tiles).owner or ""]
            else:
                victim = live[self._generator.randrange(len(live))]
            kind, point = death.kind, ""
            before = {tile.tile: tile for tile in tiles}
            self._check_alive(victim)
            self._fleet.kill_node(victim)
        died_at = time.monotonic()
        survivors = [index for index in live if index != victim]
        rounds = {index: (await self._status(index)).round for index in survivors}
        await self._read(victim)
        self._check_evidence()
        owned = [tile for tile in before.values() if self._names.get(tile.owner or "") == victim]
        recovered = await self._wait_recovery(survivors, owned, rounds, died_at)
        survived = time.monotonic() - died_at
        returned = await self._restart(victim, survivors, following)
        self.died.append(
            Died(number, kind, point, victim, max(rounds.values()), len(owned), recovered, survived, returned)
        )
        self._tell(
            f"death {number + 1:3}  round {max(rounds.values()):4}  peer {victim}  {point or kind:15}  owned {len(owned):2}  "
            f"recovered {_seconds(recovered)}  back {_seconds(returned)}"
        )

    async def _wait_crash(self, victim: int, point: str) -> tuple[str, str, dict[str, facts.TileFacts]]:
        """Wait until an armed node has killed itself; one that does not come to its point dies by our hand."""
        others = [index for index in self._live() if index != victim]
        tiles = {tile.tile: tile for tile in await self._tiles(others)}
        last = (await self._status(others[0])).round + CRASH_ROUNDS_MAX
        deadline = time.monotonic() + self._hang_seconds()
        while True:
            how = self._fleet.exit_of(victim)
            if how is not None:
                if not how.startswith("signal 9"):
                    raise Failed(f"peer {victim}, armed with {point}, ended by itself: {how}")
                return "crash", point, tiles
            tiles = {tile.tile: tile for tile in await self._tiles(others)}
            if (await self._status(others[0])).round > last or time.monotonic() > deadline:
                self._check_alive(victim)
                self._fleet.kill_node(victim)
                return "anyone", "", tiles
            await trio.sleep(POLL_SECONDS)

    async def _wait_recovery(
        self, survivors: Sequence[int], owned: Sequence[facts.TileFacts], rounds: dict[int, int], died_at: float
    ) -> float | None:
        """Wait until the victim's tiles have their next version and every survivor is in a later round."""
        recovered: float | None = None
        while True:
            waited = time.monotonic() - died_at
            versions = {tile.tile: tile.version for tile in await self._tiles(survivors)}
            if owned and recovered is None and all(versions[tile.tile] > tile.version for tile in owned):
                recovered = waited
            statuses = [await self._status(index) for index in survivors]
            behind = [index for index, at in zip(survivors, statuses, strict=True) if at.round <= rounds[index]]
            if not behind and (recovered is not None or not owned):
                return recovered
            if waited > self._hang_seconds():
                words = "; ".join(
                    f"peer {index}: round {at.round}, {at.state}, {at.detail}"
                    for index, at in zip(survivors, statuses, strict=True)
                )
                self.hangs.append(f"{waited:.0f} s after a death in round {max(rounds.values())}: {words}")
                raise Failed(self.hangs[-1])
            await trio.sleep(POLL_SECONDS)

    async def _restart(self, victim: int, survivors: Sequence[int], following: Death | None) -> float | None:
        """Start a dead node again, armed if it is to die by itself; else returns how long it took to take part."""
        options: list[str] = []
        if following is not None and following.kind == "crash":
            first = (await self._status(survivors[0])).round + 1
            for number in range(first, first + ARMED_ROUNDS):
                options += ["--crash-at", f"{following.point}@{number}"]
        started = time.monotonic()
        node = self._fleet.start_node(victim, [self._address(index) for index in survivors], options)
        await self._fleet.wait_ready(node)
        if options:
            return None
        await self._wait_returned(victim, (await self._status(survivors[0])).round)
        return time.monotonic() - started

    # The stall

    async def _stall(self) -> None:
        """Kill two of four, or as many as leave less than a quorum; see that the rest says so and decides nothing."""
        live = self._live()
        count = (len(live) + 2) // 3
        victims = self._generator.sample(live, count)
        survivors = [index for index in live if index not in victims]
        await self._wait_next_round(survivors[0])
        for index in victims:
            self._fleet.kill_node(index)
        self._tell(f"stall: killed peers {victims}")
        deadline = time.monotonic() + self._hang_seconds()
        while {(await self._status(index)).state for index in survivors} != {"stalled"}:
            if time.monotonic() > deadline:
                self.problems.append("a network without a quorum does not say that it is stalled")
                return
            await trio.sleep(POLL_SECONDS)
        before = [await self._status(index) for index in survivors]
        self.stalled_sentence = before[0].detail
        tiles = {tile.tile: tile.version for tile in await self._tiles(survivors)}
        await trio.sleep(STALL_ROUNDS * (self._settings.round_seconds or ROUND_SECONDS))
        after = [await self._status(index) for index in survivors]
        if tiles != {tile.tile: tile.version for tile in await self._tiles(survivors)}:
            self.problems.append("a network without a quorum decided something")
        if any(status.state != "stalled" for status in after) or "reachable" not in self.stalled_sentence:
            self.problems.append(f"a stalled network says: {[(status.state, status.detail) for status in after]}")
        for index in victims:
            await self._read(index)
        started = time.monotonic()
        for index in victims:
            node = self._fleet.start_node(index, [self._address(other) for other in survivors])
            await self._fleet.wait_ready(node)
        target = max(status.round for status in after) + 2
        for index in range(self._settings.peers):
            await self._wait_returned(index, target)
        self.stall_recovered_seconds = time.monotonic() - started
        self._tell(f"stall: {self.stalled_sentence!r}; going on {self.stall_recovered_seconds:.1f} s after the restart")

    # Looking

    def _live(self) -> list[int]:
        return sorted(self._fleet.nodes)

    def _check_alive(self, *expected: int) -> None:
        """Every node that nobody killed must be running; raises ``Failed``."""
        for index in expected or self._live():
            how = self._fleet.exit_of(index)
            if how is not None:
                raise Failed(f"peer {index} ended by itself: {how}")

    async def _read(self, index: int) -> None:
        """Read a dead node's directory; raises ``Failed`` when it cannot be read."""
        try:
            await trio.to_thread.run_sync(self.evidence.read, self._settings.data_directory(index))
        except (OSError, Rejected) as error:
            raise Failed(f"the directory of peer {index} cannot be read: {error}") from error

    def _check_evidence(self) -> None:
        found = [*self.evidence.divergent(), *self.evidence.forbidden_votes(), *self.evidence.damaged]
        if found:
            raise Failed("; ".join(found[:5]))

    def _hang_seconds(self) -> float:
        return HANG_SECONDS_EXTRA + HANG_ROUNDS * max(self.round_seconds, self._settings.round_seconds or ROUND_SECONDS)

    async def _get(self, index: int, path: str) -> bytes:
        """Ask a live node, again while it is busy; raises ``Failed`` when it has ended or stays silent."""
        deadline = time.monotonic() + self._hang_seconds()
        while True:
            node = self._fleet.nodes.get(index)
            if node is None or node.api is None:
                raise Failed(f"peer {index} is not running")
            try:
                answer = await self._client.get(node.api.url + path)
                answer.raise_for_status()
                return answer.content
            except TROUBLES as trouble:
                self._check_alive(index)
                if time.monotonic() > deadline:
                    self.hangs.append(f"peer {index} does not answer {path}: {trouble!r}")
                    raise Failed(self.hangs[-1]) from None
                await trio.sleep(POLL_SECONDS)

    async def _status(self, index: int) -> facts.Status:
        return facts.read(facts.Status, await self._get(index, "/status"))

    async def _tiles(self, live: Sequence[int]) -> tuple[facts.TileFacts, ...]:
        """The tiles as one of the live nodes knows them."""
        tiles = facts.read(tuple[facts.TileFacts, ...], await self._get(live[0], "/tiles"))
        self.tiles = len(tiles)
        return tiles

    async def _wait_next_round(self, index: int) -> None:
        first = (await self._status(index)).round
        deadline = time.monotonic() + self._hang_seconds()
        while (status := await self._status(index)).round <= first:
            if time.monotonic() > deadline:
                self.hangs.append(f"peer {index} stays in round {first}: {status.state}, {status.detail}")
                raise Failed(self.hangs[-1])
            await trio.sleep(POLL_SECONDS)

    async def _wait_returned(self, index: int, round_number: int) -> facts.Status:
        """Wait until a node takes part in a round, connected to all others."""
        deadline = time.monotonic() + RETURN_SECONDS_MAX
        while True:
            status = await self._status(index)
            working = status.state in ("learning", "merging", "waiting") and status.round >= round_number
            if working and status.reachable == self._settings.peers:
                return status
            if time.monotonic() > deadline:
                raise Failed(
                    f"peer {index} does not take part {RETURN_SECONDS_MAX:.0f} s after its start: round {status.round}, "
                    f"{status.state}, {status.detail}, {status.reachable} reachable"
                )
            await trio.sleep(POLL_SECONDS)


def _seconds(value: float | None) -> str:
    return "     -" if value is None else f"{value:4.1f} s"


# -- what came of it ---------------------------------------------------------------------------------------------------


def judge(trial: Trial, failure: str) -> list[str]:
    """Every check that failed, in sentences."""
    evidence = trial.evidence
    problems = [failure] if failure else []
    problems += [*trial.hangs, *trial.problems, *evidence.damaged, *evidence.divergent()]
    problems += [*evidence.forbidden_votes(), *evidence.counted_twice()]
    share = _share(evidence.advanced(trial.tiles), trial.tiles)
    if share is not None and share < ADVANCED_SHARE_MIN:
        problems.append(f"only {100 * share:.1f} % of tile-rounds advanced")
    if trial.stall_recovered_seconds is None:
        problems.append("the network did not come back from a stall")
    return list(dict.fromkeys(problems))


def _share(advanced: dict[int, int], tiles: int) -> float | None:
    """Of tile-rounds that advanced. The round in which we stopped is not over."""
    whole = [count for number, count in advanced.items() if number < max(advanced)]
    return sum(whole) / (tiles * len(whole)) if whole and tiles else None


def rows_of(trial: Trial) -> list[Row]:
    """The numbers, one a row."""
    evidence, died = trial.evidence, trial.died
    advanced = evidence.advanced(trial.tiles)
    share = _share(advanced, trial.tiles)
    with_death = {number: count for number, count in advanced.items() if number in {each.round for each in died}}
    in_death = sum(with_death.values()) / (trial.tiles * len(with_death)) if with_death and trial.tiles else None
    owners = [each.recovered_seconds for each in died if each.recovered_seconds is not None]
    bad = len(evidence.divergent()) + len(trial.hangs)
    points = Counter(each.point for each in died if each.point)
    return [
        Row("kills", "kills", len(died)),
        Row("kills of a tile's primary", "kills", sum(each.tiles_owned > 0 for each in died)),
        Row("kills at a crash point", "kills", sum(points.values())),
        *(Row(f"kills at {point}", "kills", points[point]) for point in sorted(POINTS)),
        Row("rounds", "rounds", len(advanced)),
        Row("divergent slots", "slots", len(evidence.divergent())),
        compare("kills after which survivors differ or hang", "%", 100 * bad / max(1, len(died)), 100, HIVEMIND),
        Row("hangs", "hangs", len(trial.hangs)),
        Row("forbidden pairs of votes", "pairs", len(evidence.forbidden_votes())),
        Row("deltas counted twice", "deltas", len(evidence.counted_twice())),
        compare("tile-rounds advanced", "%", None if share is None else 100 * share),
        compare("tile-rounds advanced in rounds with a death", "%", None if in_death is None else 100 * in_death),
        compare("a round without a death", "s", trial.round_seconds),
        compare("next version of a dead owner's tiles, median", "s", find_median(owners)),
        compare("the same in deadlines of a round", "rounds", _in_rounds(find_median(owners))),
        compare("next version of a dead owner's tiles, slowest", "s", max(owners, default=None)),
        compare("the same in deadlines of a round, slowest", "rounds", _in_rounds(max(owners, default=None))),
        compare("a killed node takes part again, median", "s", find_median(each.returned_seconds for each in died)),
        compare("a stalled network goes on after the return", "s", trial.stall_recovered_seconds),
        Row("nodes verified", "nodes", sum(bool(each["ok"]) for each in trial.verified.values())),
    ]


def _in_rounds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / ROUND_SECONDS


def run(out: Path, kills: int, peers: int, seed: int, inner_steps: int, as_json: bool) -> list[str]:
    """One trial; prints what came of it, and returns what failed."""
    network = NETWORK.format(inner_steps=inner_steps, round_seconds=ROUND_SECONDS)
    settings = trial_settings(out, network, peers, ROUND_SECONDS)
    began = time.monotonic()
    failure = ""
    with Fleet(settings) as fleet:
        trial = Trial(fleet, settings, kills, seed, lambda line: say(f"{time.monotonic() - began:7.1f} s  {line}"))
        try:
            trio.run(trial.run)
        except (Failed, ChildFailed) as problem:
            failure = str(problem)
    if failure:
        for index in range(settings.peers):
            with suppress(OSError, Rejected):
                trial.evidence.read(settings.data_directory(index))
    problems = judge(trial, failure)
    facts_of_run = {"seed": seed, "problems": problems, "stalled": trial.stalled_sentence}
    report("kill", rows_of(trial), as_json, facts_of_run)
    return problems


@click.command()
@standard_options
@click.option("--kills", type=click.IntRange(min=1), default=100, show_default=True, help="Each in a round of its own.")
@click.option("--peers", type=click.IntRange(4, PEERS_MAX), default=4, show_default=True, help="Nodes.")
@click.option("--seed", type=click.IntRange(min=0), help="Who dies when and how; else drawn and told.")
@click.option("--inner-steps", type=click.IntRange(min=1), default=8, show_default=True, help="How long a round takes.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep directories and logs here. [default: removed]")
def main(
    kills: int, peers: int, seed: int | None, inner_steps: int, out: Path | None, as_json: bool, quick: bool
) -> None:
    """Kill nodes of a real network, one in a round, and read what every disk says afterwards. --quick: 6 kills."""
    kills = min(kills, QUICK_KILLS) if quick else kills
    seed = secrets.randbits(32) if seed is None else seed
    folder = trial_folder(out, "kill")
    again = f"python -m benchmarks.kill --kills {kills} --peers {peers} --inner-steps {inner_steps} --seed {seed}"
    say(f"seed {seed}; the same again: {again}")
    problems = run(folder, kills, peers, seed, inner_steps, as_json)
    conclude_trial(problems, again, folder, keep=out is not None)


if __name__ == "__main__":
    main()
