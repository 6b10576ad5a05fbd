"""What has been observed of a network, and what follows from it. Pure: it is told what was seen and when.

A peer is a directory; a start of it is a process. Counters of a process begin at nought again, so a peer's totals are what
its earlier processes had reached when they were last seen, plus what the present one says: a kill loses no more than the last
quarter of a second. Per-round numbers are kept by (peer, round); where two processes of one peer report the same round, the
entry with more bytes sent stands, because a restarted node may list rounds in which it took no part.

Three kinds of number, three ways to join them:

    a peer's own (bytes, tokens per second)          sum over peers
    the network's (tiles advanced, takeovers)        largest over peers: a decided head is a fact, whoever knows of it first
    measured by several (validation loss)            mean over the peers that measured
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from simnet.facts import Lagging, PeerFacts, RoundFacts, RoundSlots, Status, TileFacts
from simnet.options import FAULTS, REPAIRED, AllHit, Fault, FaultKind, PeerIndex, Repair, repairs_fault
from simnet.text import count_text

ROUND_SECONDS_GUESS: Final = 2.0  # before any round was timed and where no deadline was asked for
MIDDLE_OF_ROUND: Final = 0.4  # when a fault fires, as a part of a usual round: learners are at work, nothing is decided
STALL_ROUNDS: Final = 3.0  # a repair may come early when all nodes have been stalled for so many rounds ...
STALL_SECONDS_MIN: Final = (
    10.0  # ... and at least so long: its round cannot open without the peer that it would bring back
)
MISTAKE: Final = 2  # the exit code of a node that stopped with one sentence, for the world's or a user's fault
LEARNING_STATES: Final = frozenset({"learning", "merging", "waiting", "stalled", "done"})


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a line: when (seconds since the start), in which round, what kind of thing, in words."""

    seconds: float
    round: int
    kind: str  # a FaultKind; "restart", "over" (a fault that ended); "takeover", "lagging", "stalled", "exit", "note"
    text: str


@dataclass(slots=True)
class Peer:
    """One peer as seen from outside."""

    index: int
    running: bool = False
    answering: bool = False
    killed: bool = False
    starts: int = 0
    faults: dict[FaultKind, float | None] = field(default_factory=dict)  # what ails it, and when that ends by itself
    was_full: bool = False  # its present process has met a full disk, or begun on one
    gave_up: bool = False  # it stopped in order because its disk was full
    status: Status = field(default_factory=Status)
    rounds: dict[int, RoundFacts] = field(default_factory=dict)
    rtt_ms: float | None = None
    bytes_sent_before: int = 0  # by earlier processes of this peer
    rejected_before: Counter[str] = field(default_factory=Counter)

    @property
    def bytes_sent(self) -> int:
        """Every byte this peer has put on sockets, its killed processes included."""
        return self.bytes_sent_before + self.status.bytes_sent

    @property
    def rejected(self) -> Counter[str]:
        """Refusals by reason, killed processes included."""
        return self.rejected_before + Counter(self.status.rejected)

    @property
    def name(self) -> str:
        return f"peer {self.index}"

    @property
    def state(self) -> str:
        """The state to show: ours where the process is gone, broken or silent, else what the node says."""
        if not self.running:
            return "killed" if self.killed else "stopped" if self.gave_up else "exited" if self.starts else "new"
        ailing = next((FAULTS[kind].state for kind in FAULTS if kind in self.faults), None)
        said = "starting" if self.status.state == "booting" else "silent"
        return ailing or (self.status.state if self.answering else said)


@dataclass(frozen=True, slots=True)
class RoundTotals:
    """One round over all peers."""

    round: int
    closed: bool
    val_loss: float | None
    tokens: int
    tiles: int
    tiles_advanced: int
    takeovers: int
    delta_float32_bytes: int
    delta_payload_bytes: int
    bytes_sent: int
    owners: dict[str, int]
    lagging: tuple[Lagging, ...]

    @property
    def round_ratio(self) -> float | None:
        """Raw float32 bytes of the deltas over every byte sent in the round."""
        return ratio(self.delta_float32_bytes, self.bytes_sent)


class Network:
    """All peers of one run. Methods named `saw_` take an observation; the rest answer questions."""

    def __init__(self, peers: int, rounds: int, round_seconds: float | None) -> None:
        self.peers = [Peer(index) for index in range(peers)]
        self.rounds_wanted = rounds
        self.round_seconds = round_seconds
        self.tiles: tuple[TileFacts, ...] = ()
        self.events: list[Event] = []
        self.opened_at: dict[int, float] = {}  # round -> when at least half of the running peers were in it
        self.stalled_since: float | None = None
        self._told: set[tuple[str, str, int]] = set()
        self._takeovers_told: set[int] = set()

    # Observations

    def started(self, index: int, now: float) -> None:
        """A process of this peer was started."""
        peer = self.peers[index]
        # What a full disk stopped is over when its node runs again, anywhere in a round.
        kind = "over" if peer.gave_up else "restart"
        peer.running, peer.answering, peer.killed, peer.gave_up = True, False, False, False
        peer.was_full = FaultKind.FILL_DISK in peer.faults
        peer.starts += 1
        peer.bytes_sent_before, peer.rejected_before = peer.bytes_sent, peer.rejected
        peer.status = Status(peer=peer.status.peer, short=peer.status.short, round=peer.status.round)
        if peer.starts > 1:
            self.tell(now, kind, f"{peer.name} started again")

    def hit(self, index: int, kind: FaultKind, now: float, why: str = "", ends_at: float | None = None) -> None:
        """We did this to the peer."""
        peer = self.peers[index]
        if kind is FaultKind.KILL:
            peer.running, peer.answering, peer.killed = False, False, True
            peer.faults.pop(FaultKind.PAUSE, None)  # a pause is of a process; a full disk and a slow link stay
        else:
            peer.faults[kind] = ends_at
            peer.was_full = peer.was_full or kind is FaultKind.FILL_DISK
        self.tell(now, kind, f"{peer.name} {FAULTS[kind].began}{why}")

    def recovered(self, index: int, kind: FaultKind, now: float) -> None:
        """We undid it."""
        peer = self.peers[index]
        del peer.faults[kind]
        self.tell(now, "over", f"{peer.name} {FAULTS[kind].ended}")

    def exited(self, index: int, now: float, how: str, code: int | None = None) -> None:
        """The process ended by itself: in order on a full disk, with its sentence; else no node does before it is asked."""
        peer = self.peers[index]
        peer.running, peer.answering = False, False
        peer.faults.pop(FaultKind.PAUSE, None)
        peer.gave_up = peer.was_full and code == MISTAKE
        if peer.gave_up:
            self.tell(now, "note", f"{peer.name} stopped on its full disk: {how}")
        else:
            self.tell(now, "exit", f"{peer.name} ended by itself: {how}")

    def saw_silence(self, index: int) -> None:
        """The interface did not answer."""
        self.peers[index].answering = False

    def saw_status(self, index: int, status: Status, now: float) -> None:
        """GET /status answered."""
        peer = self.peers[index]
        if not peer.running:
            return  # an answer that crossed a kill
        if status.state == "stalled" and (peer.status.state != "stalled" or peer.status.detail != status.detail):
            self._tell_once(
                now, "stalled", f"{peer.name} is stalled: {status.detail or 'no reason given'}", status.round
            )
        peer.status, peer.answering = status, True
        self._note_opened(now)
        if self._all_stalled():
            self.stalled_since = now if self.stalled_since is None else self.stalled_since
        else:
            self.stalled_since = None

    def saw_rounds(self, index: int, rounds: Iterable[RoundFacts], now: float) -> None:
        """GET /rounds answered."""
        kept = self.peers[index].rounds
        for facts in rounds:
            before = kept.get(facts.round)
            if before is None or facts.bytes_sent >= before.bytes_sent:
                kept[facts.round] = facts
            if facts.takeovers and facts.closed_ms is not None and facts.round not in self._takeovers_told:
                self._takeovers_told.add(facts.round)
                self.tell(
                    now,
                    "takeover",
                    f"{count_text(facts.takeovers, 'tile')} taken over from a silent owner",
                    facts.round,
                )
            for slot in facts.lagging if facts.closed_ms is not None else ():
                why = slot.reason or "no reason given"
                self._tell_once(now, "lagging", f"{slot.tile} did not advance: {why}", facts.round)

    def saw_tiles(self, tiles: Sequence[TileFacts]) -> None:
        """GET /tiles answered."""
        self.tiles = tuple(tiles)

    def saw_peers(self, index: int, peers: Iterable[PeerFacts]) -> None:
        """GET /peers answered."""
        times = [peer.rtt_ms for peer in peers if peer.connected and peer.rtt_ms is not None]
        self.peers[index].rtt_ms = statistics.median(times) if times else None

    def tell(self, now: float, kind: str, text: str, round_number: int | None = None) -> None:
        """Add a line to the story of this run."""
        self.events.append(Event(now, self.round if round_number is None else round_number, kind, text))

    # Questions

    @property
    def live(self) -> list[Peer]:
        """Peers whose process runs."""
        return [peer for peer in self.peers if peer.running]

    @property
    def waiting_to_start(self) -> list[int]:
        """Peers that stopped on a full disk, and have room again."""
        return [peer.index for peer in self.peers if peer.gave_up and FaultKind.FILL_DISK not in peer.faults]

    @property
    def hindered(self) -> bool:
        """Whether a peer is missing that comes back by itself."""
        return any(peer.gave_up or FaultKind.PAUSE in peer.faults for peer in self.peers)

    @property
    def round(self) -> int:
        """The newest round that at least half of the peers had opened."""
        return max(self.opened_at, default=0)

    @property
    def rounds_closed(self) -> int:
        """How many rounds at least half of the running peers have closed."""
        closed = sorted((peer.status.rounds for peer in self.live), reverse=True)
        return min(closed[(len(closed) - 1) // 2], self.rounds_wanted) if closed else 0

    @property
    def done(self) -> bool:
        """Whether every running peer has closed every round."""
        return bool(self.live) and all(
            peer.answering and (peer.status.rounds >= self.rounds_wanted or peer.status.state == "done")
            for peer in self.live
        )

    @property
    def tokens_per_second(self) -> float:
        return sum(peer.status.tokens_per_second for peer in self.live if peer.answering)

    def round_seconds_usual(self) -> float:
        """Median time between the openings of successive rounds; before two have opened, what was asked for."""
        times = [self.opened_at[number] for number in sorted(self.opened_at)]
        gaps = [after - before for before, after in pairwise(times)][-5:]
        return statistics.median(gaps) if gaps else self.round_seconds or ROUND_SECONDS_GUESS

    def find_owner(self, tile: str) -> int | None:
        """The running peer that owns the tile now."""
        owner = next((facts.owner for facts in self.tiles if facts.tile == tile), None)
        return next((peer.index for peer in self.live if peer.status.short == owner), None) if owner else None

    def totals(self) -> list[RoundTotals]:
        """One entry for each of the wanted rounds that anybody reported, in order."""
        numbers = sorted({number for peer in self.peers for number in peer.rounds})
        return [_join([peer.rounds[n] for peer in self.peers if n in peer.rounds]) for n in numbers][
            : self.rounds_wanted
        ]

    def why_unfinished(self) -> str:
        """One sentence for who looks at a network that does not get on."""
        if not self.live:
            return "No node is running."
        behind = [peer for peer in self.live if peer.status.rounds < self.rounds_wanted or not peer.answering]
        told = [
            f"{peer.name} is {peer.state}" + (f" ({peer.status.detail})" if peer.status.detail else "")
            for peer in behind
        ]
        return (
            f"{self.rounds_closed} of {self.rounds_wanted} rounds are closed; "
            + "; ".join(told or ["no node is behind"])
            + "."
        )

    def _note_opened(self, now: float) -> None:
        live = self.live
        learning = [peer.status.round for peer in live if peer.status.state in LEARNING_STATES]
        for number in set(learning):
            if number not in self.opened_at and 2 * sum(other >= number for other in learning) >= len(live):
                self.opened_at[number] = now

    def _all_stalled(self) -> bool:
        awake = [peer for peer in self.live if FaultKind.PAUSE not in peer.faults]
        return bool(awake) and all(peer.status.state == "stalled" for peer in awake)

    def _tell_once(self, now: float, kind: str, text: str, round_number: int) -> None:
        if (kind, text, round_number) not in self._told:
            self._told.add((kind, text, round_number))
            self.tell(now, kind, text, round_number)


class FaultPlan:
    """Which faults and repairs are still to come."""

    def __init__(self, faults: Iterable[Fault], repairs: Iterable[Repair]) -> None:
        self.faults = list(faults)
        self.repairs = list(repairs)

    def take_due_faults(self, network: Network, now: float) -> list[Fault]:
        """The faults whose round is past its first part, each handed out once."""
        wait = MIDDLE_OF_ROUND * network.round_seconds_usual()
        due = [fault for fault in self.faults if _middle_reached(network, fault.round, now, wait)]
        self.faults = [fault for fault in self.faults if fault not in due]
        return due

    def take_due_repairs(self, network: Network, now: float) -> list[Repair]:
        """The repairs whose round has opened, or all that are left if the survivors cannot go on alone; each once."""
        grace = max(STALL_SECONDS_MIN, STALL_ROUNDS * network.round_seconds_usual())
        stuck = network.stalled_since is not None and now - network.stalled_since >= grace
        due = [repair for repair in self.repairs if stuck or (network.opened_at and network.round >= repair.round)]
        self.repairs = [repair for repair in self.repairs if repair not in due]
        return due

    def ends_at(self, fault: Fault, now: float) -> float | None:
        """When a fault that happens now ends by itself; None if only a repair ends it, at the latest the end of the run."""
        repaired = any(repairs_fault(repair, fault) for repair in self.repairs)
        seconds = fault.seconds or (None if repaired else FAULTS[fault.kind].seconds)
        return None if seconds is None else now + seconds


def ended_faults(network: Network, now: float) -> list[tuple[int, FaultKind]]:
    """What is over by itself: (peer, fault)."""
    return [
        (peer.index, kind)
        for peer in network.peers
        for kind, ends_at in peer.faults.items()
        if ends_at is not None and now >= ends_at
    ]


def repaired_peers(network: Network, repair: Repair) -> list[int]:
    """The peers that a repair means: of those that are killed, or paused, now."""
    kind = REPAIRED[repair.kind]
    if kind is FaultKind.KILL:
        hit = [peer.index for peer in network.peers if peer.killed and not peer.running]
    else:
        hit = [peer.index for peer in network.peers if kind in peer.faults]
    return hit if isinstance(repair.target, AllHit) else [index for index in hit if index == repair.target.index]


def fault_target(network: Network, fault: Fault) -> int | None:
    """The peer that a fault means; None if it is not running, nobody owns the tile, or it ails from that already."""
    target = fault.target
    index = target.index if isinstance(target, PeerIndex) else network.find_owner(target.tile)
    if index is None or not network.peers[index].running or fault.kind in network.peers[index].faults:
        return None
    return index


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the roots say: whether they agree now, and in which rounds they did. `dissent` names one example.

    `torn`: two peers hold different roots for the same version of a tile; waiting does not help.
    """

    roots_agree: bool
    rounds_agreed: tuple[int, ...]
    dissent: str = ""
    torn: bool = False


def compare_roots(
    tiles: Mapping[int, Sequence[TileFacts]], rounds: Mapping[int, Mapping[int, RoundSlots]], rounds_wanted: int
) -> Agreement:
    """Compare roots by peer: `tiles[peer]`, and `rounds[round][peer]` for the peers that have the round.

    A tile or slot that one peer holds and another that has the round does not is a disagreement. No peer, no agreement.
    """
    heads = {peer: {facts.tile: (facts.version, facts.root) for facts in held} for peer, held in tiles.items()}
    dissent = _dissent("now", heads)
    agreed = []
    for number in sorted(rounds)[:rounds_wanted]:
        slots = _slots_of(rounds[number])
        found = _dissent(f"in round {number}", slots)
        dissent = dissent or found
        if not found and slots:
            agreed.append(number)
    agree_now = bool(heads) and all(heads.values()) and not _dissent("now", heads)
    return Agreement(
        agree_now, tuple(agreed), dissent, _is_torn([heads, *(_slots_of(held) for held in rounds.values())])
    )


def _slots_of(held: Mapping[int, RoundSlots]) -> dict[int, dict[str, tuple[int, str]]]:
    """Per peer what it holds after one round."""
    return {peer: dict(slots.slots) for peer, slots in held.items()}


def ratio(above: int, below: int) -> float | None:
    """`above / below`, None where nothing was counted."""
    return above / below if below else None


def _dissent(when: str, held: Mapping[int, Mapping[str, tuple[int, str]]]) -> str:
    for tile in sorted({tile for slots in held.values() for tile in slots}):
        views = {peer: slots.get(tile) for peer, slots in sorted(held.items())}
        if len(set(views.values())) > 1:
            said = ", ".join(
                f"peer {peer}: " + (f"version {view[0]} root {view[1][:8]}" if view else "nothing")
                for peer, view in views.items()
            )
            return f"{tile} {when}: {said}"
    return ""


def _is_torn(views: Iterable[Mapping[int, Mapping[str, tuple[int, str]]]]) -> bool:
    root_by_slot: dict[tuple[str, int], str] = {}
    held = (item for view in views for slots in view.values() for item in slots.items())
    return any(root_by_slot.setdefault((tile, version), root) != root for tile, (version, root) in held)


def _middle_reached(network: Network, number: int, now: float, wait: float) -> bool:
    opened = network.opened_at.get(number)
    return network.round > number if opened is None else now - opened >= wait or network.round > number


def _join(entries: Sequence[RoundFacts]) -> RoundTotals:
    """One round as several peers report it."""
    losses = [entry.val_loss for entry in entries if entry.val_loss is not None]
    lagging: dict[str, Lagging] = {}
    for slot in (slot for entry in entries for slot in entry.lagging):
        if slot.tile not in lagging or not lagging[slot.tile].reason:
            lagging[slot.tile] = slot
    furthest = max(entries, key=lambda entry: entry.tiles_advanced)
    return RoundTotals(
        round=entries[0].round,
        closed=any(entry.closed_ms is not None for entry in entries),
        val_loss=statistics.fmean(losses) if losses else None,
        tokens=max(entry.tokens for entry in entries),
        tiles=max(entry.tiles for entry in entries),
        tiles_advanced=furthest.tiles_advanced,
        takeovers=max(entry.takeovers for entry in entries),
        delta_float32_bytes=sum(entry.delta_float32_bytes for entry in entries),
        delta_payload_bytes=sum(entry.delta_payload_bytes for entry in entries),
        bytes_sent=sum(entry.bytes_sent for entry in entries),
        owners=dict(furthest.owners),
        # A slot that one peer calls lagging and the network decided meanwhile is not: the furthest peer knows best.
        lagging=tuple(lagging[tile] for tile in sorted(lagging)) if furthest.tiles_advanced < furthest.tiles else (),
    )
