"""What a run is made of, as data: who is where, what they can do, when they come and go, what goes wrong, what must hold.

A scenario says nothing about how it is run. The same one is run by whole nodes in virtual time (``simnet/virtual``) and by
cores alone (``simnet/cores``). Files of it are in ``configs/scenarios/`` (read by ``simnet/scenario_file.py``), and
``simnet/swarm.py`` draws whole ones from a seed. Times are seconds of the run's own clock, from its beginning; a share is of
one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from protocol.rejection import Reason, Rejected

PEERS_MAX: Final = 2_000  # cores alone; whole nodes need some MB each

# -- who and where ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Region:
    """A place with many machines. ``at``: longitude and latitude in degrees, for the map of the report."""

    name: str
    share: float  # of the peers, relative to the other regions' shares
    at: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Route:
    """Between two regions, or within one when they are equal; the same in both directions."""

    between: tuple[str, str]
    latency_ms: float  # one way
    jitter_ms: float = 0.0  # added to it, evenly drawn
    loss: float = 0.0  # of gossip messages, one by one; streams are repaired by TCP, which costs a round trip each time


@dataclass(frozen=True, slots=True)
class HardwareClass:
    """A kind of machine. The share is relative to the other classes' shares."""

    name: str
    share: float
    learn_seconds: float  # what the local steps of one round take
    upload_megabits: float  # per second
    download_megabits: float


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Peers of the scenario that are not there at the beginning: the last ones by number, evenly over the time."""

    peers: int
    from_seconds: float
    until_seconds: float


@dataclass(frozen=True, slots=True)
class Churn:
    """Peers outside the first roster leave without a word and come back with what is on their disk."""

    share_per_hour: float
    away_seconds: tuple[float, float]


# -- what goes wrong ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CutRegion:
    """Nothing goes into a region and nothing comes out."""

    region: str
    at_seconds: float
    for_seconds: float


@dataclass(frozen=True, slots=True)
class SlowRegion:
    """Everything into and out of a region takes longer, at a fraction of the rate."""

    region: str
    at_seconds: float
    for_seconds: float
    latency_factor: float
    rate_share: float


@dataclass(frozen=True, slots=True)
class KillBootstraps:
    """The peers that everybody was told to begin with die and never come back."""

    at_seconds: float


@dataclass(frozen=True, slots=True)
class KillOwners:
    """In every round the owner of every tile dies, one after the other, and comes back after a while.

    Never more at once than leaves a quorum; whose turn has not come when the round is over lives.
    """

    from_round: int
    until_round: int
    back_seconds: float


@dataclass(frozen=True, slots=True)
class Crash:
    """A share of the peers loses its process, at once or each at its own moment of the time; each comes back."""

    share: float
    at_seconds: float
    for_seconds: float
    back_seconds: float


@dataclass(frozen=True, slots=True)
class FillDisks:
    """The disks of some peers take no more bytes; later they do again."""

    share: float
    at_seconds: float
    for_seconds: float


@dataclass(frozen=True, slots=True)
class SkewClocks:
    """The clocks of some peers are off by so much, ahead or behind."""

    share: float
    offset_seconds: float


@dataclass(frozen=True, slots=True)
class GenesisLiars:
    """Peers more than the scenario's, of another network, that dial everybody and offer their genesis."""

    peers: int


@dataclass(frozen=True, slots=True)
class Eclipse:
    """Attackers more than the scenario's peers keep to one victim: they fill its connections and tell it only of each other."""

    attackers: int
    at_seconds: float


@dataclass(frozen=True, slots=True)
class StateLiars:
    """A share of the peers that are there from the beginning answers wrongly, late or not at all when asked for the state."""

    share: float


Fault = (
    CutRegion
    | SlowRegion
    | KillBootstraps
    | KillOwners
    | Crash
    | FillDisks
    | SkewClocks
    | GenesisLiars
    | Eclipse
    | StateLiars
)


@dataclass(frozen=True, slots=True)
class Villains:
    """A share of the learners does what ``simnet/villains/<kind>.py`` says, from a round on."""

    kind: str
    share: float
    from_round: int = 0


# -- what is learned, and what must hold --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Learning:
    """How the network learns. ``compute``: "analytic" (``simnet/compute.py``) or "model", the real one of the genesis."""

    round_seconds: float = 600.0
    inner_steps: int = 30
    tiles: int = 12
    tile_values: int = 2048
    merge_rule: str = "agreement"  # the one for strangers (compute/merge.py)
    compute: str = "analytic"
    aggregation: bool = True  # one delta a region and tile crosses the regions (learning.md 2)


@dataclass(frozen=True, slots=True)
class MustHold:
    """Which checkers watch (``simnet/checkers``), and the bounds that the scenario sets them."""

    invariants: tuple[str, ...]
    loss_cost_max: float | None = None  # against the same learners without villains, as a share of their loss
    contributes_within_rounds: int | None = None  # every peer that arrives
    loss_share_max: float = 0.9  # of the first loss, that the last may be


@dataclass(frozen=True, slots=True)
class Scenario:
    """One world. ``peers`` counts everybody but the faults' own; the first ``validators`` of them are the first roster."""

    name: str
    says: str  # one sentence: what happens and what is to be seen
    seconds: float
    peers: int
    validators: int
    bootstraps: int
    regions: tuple[Region, ...]
    routes: tuple[Route, ...]
    hardware: tuple[HardwareClass, ...]
    learning: Learning
    must_hold: MustHold
    arrivals: tuple[Arrivals, ...] = ()
    churn: Churn | None = None
    faults: tuple[Fault, ...] = ()
    villains: tuple[Villains, ...] = ()
    default_latency_ms: float = 80.0  # between regions without a route
    _routes: dict[tuple[str, str], Route] = field(default_factory=dict, init=False, repr=False, compare=False)

    def route(self, one: str, other: str) -> Route:
        """The route between two regions, in either direction."""
        if not self._routes:
            for each in self.routes:
                self._routes[each.between] = self._routes[each.between[1], each.between[0]] = each
        known = self._routes.get((one, other))
        if known is None:
            latency = self.default_latency_ms if one != other else self.default_latency_ms / 10
            known = self._routes[one, other] = Route((one, other), latency)
        return known

    @property
    def rounds(self) -> int:
        """How many rounds fit, each to its deadline."""
        return int(self.seconds // self.learning.round_seconds)


def check_scenario(scenario: Scenario) -> Scenario:
    """The same, if it can be run; raises ``Rejected(BAD_CONFIG)`` with one sentence."""
    names = [region.name for region in scenario.regions]
    late = sum(each.peers for each in scenario.arrivals)
    spoken_of = [name for route in scenario.routes for name in route.between]
    spoken_of += [fault.region for fault in scenario.faults if isinstance(fault, CutRegion | SlowRegion)]
    unknown = next((name for name in spoken_of if name not in names), None)
    for is_wrong, why in (
        (not names or len(set(names)) != len(names), "regions need names, each its own"),
        (unknown is not None, f"there is no region {unknown!r}; there are {', '.join(names)}"),
        (not 1 <= scenario.peers <= PEERS_MAX, f"peers must be 1 to {PEERS_MAX}, not {scenario.peers}"),
        (
            not 1 <= scenario.validators <= scenario.peers - late,
            f"{scenario.validators} validators must be there at the beginning, and {scenario.peers - late} peers are",
        ),
        (not 1 <= scenario.bootstraps <= scenario.peers - late, "somebody must be there to begin with (bootstraps)"),
        (scenario.seconds <= 0 or scenario.learning.round_seconds <= 0, "times must be more than nothing"),
        (sum(region.share for region in scenario.regions) <= 0, "some region must have a share of the peers"),
        (not scenario.hardware or sum(each.share for each in scenario.hardware) <= 0, "some machines are needed"),
        (scenario.learning.tiles < 1 or scenario.learning.tile_values < 1024, "at least one tile of 1,024 values"),
        (sum(each.share for each in scenario.villains) > 1, "villains are more than everybody"),
        *_wrong_times(scenario),
    ):
        if is_wrong:
            raise Rejected(Reason.BAD_CONFIG, f"scenario {scenario.name}: {why}")
    return scenario


def _wrong_times(scenario: Scenario) -> Iterator[tuple[bool, str]]:
    """What would not happen in the run, or would be the end of it: whether it is so, and the sentence."""
    pairs = [tuple(sorted(route.between)) for route in scenario.routes]
    yield len(set(pairs)) != len(pairs), "two routes are between the same regions; a route is good in both directions"
    yield scenario.rounds < 1, "not one round fits into its seconds"
    for arrivals in scenario.arrivals:
        is_in_time = arrivals.from_seconds <= arrivals.until_seconds <= scenario.seconds
        yield not is_in_time, "arrivals are from a time until a later one, before the end"
    for villains in scenario.villains:
        yield (
            villains.from_round >= scenario.rounds,
            f"{villains.kind} begins after the last round, {scenario.rounds - 1}",
        )
    if scenario.churn is not None:
        shortest, longest = scenario.churn.away_seconds
        yield shortest > longest, "away_seconds of churn are the shortest and the longest time"
    for fault in scenario.faults:
        ends = end_seconds(fault, scenario.learning.round_seconds)
        yield (
            ends > scenario.seconds + 0.001,  # they may be products of floats
            f"{type(fault).__name__} ends {ends:g} s from the beginning, and the run has {scenario.seconds:g}",
        )
        if isinstance(fault, KillOwners):
            yield fault.from_round >= fault.until_round, "owners are killed from a round until a later one"
        if isinstance(fault, KillBootstraps):
            yield (
                any(arrivals.until_seconds >= fault.at_seconds for arrivals in scenario.arrivals),
                "whoever arrives when the bootstraps are dead finds nobody",
            )
            yield (
                scenario.bootstraps * 3 >= scenario.validators,
                f"without its {scenario.bootstraps} bootstraps the roster of {scenario.validators} has no quorum for ever",
            )


def end_seconds(fault: Fault, round_seconds: float) -> float:
    """When the last of a fault has happened; 0 for what is there from the beginning and stays."""
    match fault:
        case CutRegion() | SlowRegion() | FillDisks():
            return fault.at_seconds + fault.for_seconds
        case Crash():
            return fault.at_seconds + fault.for_seconds + fault.back_seconds
        case KillOwners():
            return fault.until_round * round_seconds
        case KillBootstraps() | Eclipse():
            return fault.at_seconds
        case SkewClocks() | GenesisLiars() | StateLiars():
            return 0.0
