"""What goes into the engine and what comes out: two unions of frozen values.

                    +----------------------- engine ------------------------+
  validator stream  |   finality  --RequestBuild/RequestCheck-->  execution |   Send, Persist, SetTimer, ...
  gossip, requests ->      ^                                         |      |-> VerifyHeads, VerifyHistory, WalkHistory,
                    |                                                       |   StoreFinalized, Decide, TransactionsDropped
  timers, jobs      |      +-------- BodyBuilt / BodyChecked --------+      |   StartLearning, StartMerge, Propose,
                    |                    decided heads -->  rounds          |   DeliverDeltas, RoundOpened, ...
                    +-------------------------------------------------------+

Effects are performed in the order given. What must survive a crash comes before what tells anybody. The events and effects
of the finality machine itself are in consensus/finality/events.py; the engine passes its effects on.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.mempool import Dropped
from consensus.state import State
from consensus.transition import Receipt
from protocol.codec import Message
from protocol.finality import Certificate, FinalizedBlock, Header
from protocol.ids import Digest, PeerId, Round, TileId, Version
from protocol.learning import Contributor
from protocol.rejection import Reason
from protocol.roster import Decided, DeltaRef, Head, Roster, Slot
from protocol.transactions import SignedTransaction

# -- events -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A peer was admitted."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerLost:
    """A peer's last connection is gone."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class RegionTold:
    """A peer's advert says in which region it is; "" says nothing."""

    peer: PeerId
    region: str


@dataclass(frozen=True, slots=True)
class RoundAnnounced:
    """A learner takes part in a round."""

    learner: PeerId
    round: Round


@dataclass(frozen=True, slots=True)
class Delta:
    """What the rules know of a delta; its bytes are durable and its signature was checked.

    An aggregate has ``contributors``, and its ``learner`` is the aggregator.
    """

    tile: TileId
    base: Version
    round: Round
    learner: PeerId
    digest: Digest
    tokens: int
    contributors: tuple[Contributor, ...] = ()

    @property
    def key(self) -> tuple[PeerId, Version, bool]:
        """Of a tile there is one delta with this key, and one aggregate; a second is a lie."""
        return self.learner, self.base, bool(self.contributors)

    def counted(self) -> tuple[Digest, ...]:
        """Every delta that counts when this one does: itself and its contributors."""
        return (self.digest, *(each.delta for each in self.contributors))

    def learners(self) -> tuple[PeerId, ...]:
        """Whose work it is."""
        return tuple(each.learner for each in self.contributors) or (self.learner,)


@dataclass(frozen=True, slots=True)
class DeltasArrived:
    """Deltas that others gave to this node; after a restart also its own, and the aggregates that it made."""

    deltas: tuple[Delta, ...]


@dataclass(frozen=True, slots=True)
class LearnDone:
    """This node's learner finished a round; its journal holds the deltas."""

    round: Round
    deltas: tuple[Delta, ...]


@dataclass(frozen=True, slots=True)
class LearnFailed:
    """This node's learner could not finish a round."""

    round: Round
    why: str


@dataclass(frozen=True, slots=True)
class DeltasDelivered:
    """An owner or aggregator answered: the deltas are durable there, or refused for a reason."""

    owner: PeerId
    accepted: tuple[Digest, ...]
    refused: tuple[tuple[Digest, str], ...]


@dataclass(frozen=True, slots=True)
class DeliveryFailed:
    """An owner or aggregator could not be reached or did not answer in time."""

    owner: PeerId
    deltas: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class CarriedTold:
    """The answer to ``AskCarried``; silence says that none is."""

    aggregator: PeerId
    carried: tuple[Digest, ...]
    left: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class AggregationsDone:
    """Aggregates that this node asked for: signed, durable, each with its row. ``unusable`` are deltas that do not decode."""

    aggregates: tuple[Delta, ...]
    failed: tuple[tuple[TileId, Version], ...] = ()
    unusable: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Merged:
    """The result of one merge: the update is durable, the root is what applying it gives."""

    slot: Slot
    attempt: int
    parent_root: Digest
    root: Digest
    update: Digest
    update_bytes: int
    deltas: tuple[DeltaRef, ...]


@dataclass(frozen=True, slots=True)
class MergesDone:
    """Merges that this node asked for. ``failed`` names slots and why; ``unusable`` are deltas that do not decode."""

    merged: tuple[Merged, ...]
    failed: tuple[tuple[Slot, str], ...] = ()
    unusable: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class HeadsSeen:
    """Heads proposed by their owners, by gossip or our own (already signed and journaled)."""

    heads: tuple[Head, ...]
    sender: PeerId


@dataclass(frozen=True, slots=True)
class HeadsVerified:
    """For each head's digest: None when its update is durable here and gives its root, else why not.

    ``unavailable`` heads could not be fetched in time; they may be tried again.
    """

    verdicts: tuple[tuple[Digest, Reason | None], ...]
    unavailable: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class HistoryWalked:
    """The answer to ``WalkHistory``: the ends of all its segments."""

    start: Digest
    ends: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class HistoryVerified:
    """The answer to ``VerifyHistory``: whether every segment from ``start`` over ``ends`` is right."""

    start: Digest
    ends: tuple[Digest, ...]
    right: bool


@dataclass(frozen=True, slots=True)
class TilesApplied:
    """These decided slots are applied: the tiles' files are on disk."""

    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class TransactionsSeen:
    """Transactions by gossip; their signatures were checked."""

    transactions: tuple[SignedTransaction, ...]
    sender: PeerId


@dataclass(frozen=True, slots=True)
class TipSeen:
    """A finalized header with its certificate, by gossip: how those outside the roster follow."""

    header: Header
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class ClockJudged:
    """Whether this node's clock agrees with the median of its peers."""

    trusted: bool
    offset_ms: int


# -- effects ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetRoundTimer:
    """Call back with ``RoundTimer`` at this time; a later effect replaces an earlier one."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class RoundTimer:
    """The answer to ``SetRoundTimer``."""


@dataclass(frozen=True, slots=True)
class RoundOpened:
    """A round opened here."""

    round: Round


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell everybody that this node's learner takes part in a round."""

    round: Round


@dataclass(frozen=True, slots=True)
class StartLearning:
    """Learn a round from these versions. ``merged`` and ``lost`` settle earlier deltas: lost ones return to the residual.

    Of ``withheld`` tiles the change goes to the residual and no delta is made: there is one on this version already, or this
    round has decided the tile.
    """

    round: Round
    bases: tuple[tuple[TileId, Version], ...]
    withheld: tuple[TileId, ...]
    merged: tuple[Digest, ...]
    lost: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class DeliverDeltas:
    """Give these deltas to an owner, or to the aggregator of our region in its stead."""

    owner: PeerId
    deltas: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class AskCarried:
    """Ask an aggregator whether an owner has these deltas of ours inside an aggregate; answer ``CarriedTold``."""

    aggregator: PeerId
    deltas: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class StartAggregation:
    """Merge deltas of our region into one, ours: sign it, store it with its row, answer ``AggregationsDone``.

    The deltas are of one tile and one base, in ascending order of learner; beside each is its weight.
    """

    tile: TileId
    base: Version
    round: Round
    contributors: tuple[Contributor, ...]


@dataclass(frozen=True, slots=True)
class StartMerge:
    """Merge these deltas into the slot's update."""

    slot: Slot
    attempt: int
    parent_root: Digest
    deltas: tuple[DeltaRef, ...]


@dataclass(frozen=True, slots=True)
class Propose:
    """Sign these heads, journal them, and only then publish them and hand them back as ``HeadsSeen``."""

    heads: tuple[Head, ...]


@dataclass(frozen=True, slots=True)
class Republish:
    """Publish heads again that were signed and journaled before.

    is_direct: to every member besides, one by one: gossip seems not to reach them.
    """

    heads: tuple[Head, ...]
    is_direct: bool = False


@dataclass(frozen=True, slots=True)
class VerifyHeads:
    """Fetch each head's update from whoever has it, store it durably, recompute the root, answer ``HeadsVerified``."""

    heads: tuple[Head, ...]


@dataclass(frozen=True, slots=True)
class WalkHistory:
    """Walk ``HISTORY_SEGMENTS`` segments of so many ticks, one after the other; answer ``HistoryWalked``."""

    start: Digest
    segment_ticks: int


@dataclass(frozen=True, slots=True)
class VerifyHistory:
    """Check the segments from ``start`` over ``ends``, as many at once as there are cores; answer ``HistoryVerified``."""

    start: Digest
    ends: tuple[Digest, ...]
    segment_ticks: int


@dataclass(frozen=True, slots=True)
class CommittedBlock:
    """A final block with what became true by it: ``changes`` are rows of the state, None where an entry is gone.

    ``roster`` voted about it; ``after`` is the state after it.
    """

    block: FinalizedBlock
    changes: tuple[tuple[bytes, Message | None], ...]
    receipts: tuple[Receipt, ...]
    roster: Roster
    after: State


@dataclass(frozen=True, slots=True)
class StoreFinalized:
    """Write each block, in order, in one batch with its changes; durable before the next effect."""

    blocks: tuple[CommittedBlock, ...]


@dataclass(frozen=True, slots=True)
class TransactionsDropped:
    """These left the pool without a block, and why."""

    dropped: tuple[Dropped, ...]


@dataclass(frozen=True, slots=True)
class Decide:
    """These heads are final, in order. Apply them; answer ``TilesApplied``."""

    decided: tuple[Decided, ...]


@dataclass(frozen=True, slots=True)
class Lagging:
    """A slot was not decided in a round, and why."""

    slot: Slot
    round: Round
    reason: str


@dataclass(frozen=True, slots=True)
class RoundClosed:
    """A round is over here."""

    round: Round
    lagging: tuple[Lagging, ...]


@dataclass(frozen=True, slots=True)
class Stalled:
    """Nothing can be decided, and why; or None when it can again."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class Blamed:
    """A peer broke a rule of learning."""

    peer: PeerId
    reason: Reason
    detail: str


RoundEvent = (
    PeerConnected
    | PeerLost
    | RegionTold
    | RoundAnnounced
    | DeltasArrived
    | LearnDone
    | LearnFailed
    | DeltasDelivered
    | DeliveryFailed
    | CarriedTold
    | AggregationsDone
    | MergesDone
    | TilesApplied
    | RoundTimer
    | ClockJudged
)
RoundEffect = (
    SetRoundTimer
    | RoundOpened
    | Announce
    | StartLearning
    | DeliverDeltas
    | AskCarried
    | StartAggregation
    | StartMerge
    | Propose
    | Republish
    | Lagging
    | RoundClosed
    | Stalled
    | Blamed
)
