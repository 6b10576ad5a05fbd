"""What enters the finality machine and what leaves it.

    other members --- MessageReceived ---+                             +--> Persist, StoreBlocks     disk, synced in order
    timers ---------- TimerFired --------+                             +--> Send                     to one or all members
    application ----- BodyBuilt, --------+                             +--> SetTimer
                      NothingToBuild,    +--> FinalityCore.handle -----+--> RequestBuild             application: a body?
                      BodyChecked,       |      (event, now_ms)        +--> RequestCheck             application: is it good?
                      Nudge,             |                             +--> Finalized                application: apply
                      EpochOpened -------+
    sync protocol --- Synced ------------+                             +--> FetchBlocks              sync protocol
    the shell ------- Started -----------+                             +--> Score, Evidence, Halt    peer book, evidence pool

Effects are performed in the order given. ``Persist`` and ``StoreBlocks`` are on disk (fsync) before the next effect is
begun: a vote that was heard and then forgotten is a vote that may be contradicted (chain.md 2.4, S5 and S6).

Peers are named by their node keys, not by their places in a roster: a place is another member's in the next epoch.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from protocol.codec import Message
from protocol.finality import NO_BLOCK, Certificate, FinalizedBlock, Header, Proposal, ValidatorMessage, Vote
from protocol.ids import Digest, Epoch, Height, MemberIndex, PeerId, View
from protocol.rejection import Reason
from protocol.roster import Roster

# -- what it starts from ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Anchor:
    """The last finalized block: the root of everything that is still open.

    ``certificate`` may be None for genesis, and for a block that was finalized by a later block's certificate. A boundary block
    always has one, and anchors the epoch after its own: at view 0 there.
    """

    block: Digest
    view: View
    height: Height
    time_ms: int
    state_root: Digest
    header: Header | None
    certificate: Certificate | None

    @classmethod
    def genesis(cls, state_root: Digest, time_ms: int) -> Anchor:
        """The anchor of a chain without a block: height 0, view 0."""
        return cls(NO_BLOCK, View(0), Height(0), time_ms, state_root, None, None)

    @classmethod
    def of(cls, header: Header, certificate: Certificate | None) -> Anchor:
        """The anchor that a finalized block makes."""
        return cls(header.digest(), header.view, header.height, header.time_ms, header.state_root, header, certificate)


class StoredBlock(Message, frozen=True):
    """An unfinalized block as it survives a restart; ``encode`` it as it is."""

    proposal: Proposal
    body: bytes


@dataclass(frozen=True, slots=True)
class Restored:
    """What ``StoreBlocks`` had written above the anchor, in any order. Trusted: it was checked before it was stored.

    ``boundaries``: the finalizations of the last epochs' boundary blocks, out of the ledger; at least the last one's, for
    members that are an epoch behind.
    """

    blocks: tuple[StoredBlock, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    boundaries: tuple[Certificate, ...] = ()


# -- timers -----------------------------------------------------------------------------------------------------------


class TimerKind(enum.Enum):
    """What a timer is for. One of each kind runs at a time; a timer of a view that was left says nothing."""

    VIEW = "view"  # R7: give up on this view
    RETRY = "retry"  # R8: say everything again
    PROPOSE = "propose"  # R2: the shortest interval between blocks has passed
    IDLE = "idle"  # R2: nothing to propose for so long: propose an empty body
    SKIP = "skip"  # R2: what the leader needs to propose did not come
    BODY = "body"  # R3: the proposal is here, its body is not: ask for it
    REPAIR = "repair"  # blocks that are certified are missing here, or could not be checked. Of no epoch or view


@dataclass(frozen=True, slots=True)
class Timer:
    """The token of a timer. Setting an equal token again may replace the earlier one or run beside it: both are fine."""

    kind: TimerKind
    epoch: Epoch
    view: View


# -- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The first event: enter the view after the highest certificate."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A decoded message. ``sender`` is authenticated by the transport, a member or not; None for gossip."""

    sender: PeerId | None
    message: ValidatorMessage


@dataclass(frozen=True, slots=True)
class TimerFired:
    timer: Timer


@dataclass(frozen=True, slots=True)
class BodyBuilt:
    """The application's answer to ``RequestBuild``: a body and the state after it. It comes back as ``RequestCheck``."""

    epoch: Epoch
    view: View
    body: bytes
    state_root: Digest


@dataclass(frozen=True, slots=True)
class NothingToBuild:
    """The application's other answer to ``RequestBuild``."""

    epoch: Epoch
    view: View


@dataclass(frozen=True, slots=True)
class BodyChecked:
    """The application's answer to ``RequestCheck``.

    ``accepted`` True: executed on the parent's state, every update durable, ``state_root`` the result. False: it breaks a
    rule, ``reason`` says which. None: something it needs is not here yet; the core asks again at its next retry, or as
    soon as ``Nudge`` says that something changed.
    """

    block: Digest
    accepted: bool | None
    state_root: Digest | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Nudge:
    """The application has something to propose, or holds an update that a check had missed."""


@dataclass(frozen=True, slots=True)
class Synced:
    """A run of blocks in answer to ``FetchBlocks``, passed through ``check_chain``; the last one has its certificate."""

    blocks: tuple[FinalizedBlock, ...]


@dataclass(frozen=True, slots=True)
class EpochOpened:
    """The application's answer to the ``Finalized`` that ends with a boundary block: whom the state says to go on with.

    Until it comes the machine does nothing at all. ``roster`` is the one that the headers of the epoch before called the next,
    ``next_roster`` the one that the state after the boundary block fixes.
    """

    roster: Roster
    next_roster: Roster


Event = Started | MessageReceived | TimerFired | BodyBuilt | NothingToBuild | BodyChecked | Nudge | Synced | EpochOpened


# -- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Append to the vote journal and fsync before the next effect (S6)."""

    records: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class StoreBlocks:
    """Keep across restarts, fsync before the next effect (S5); give back in ``Restored``.

    After ``Finalized`` whatever has ``view <= `` the last finalized header's view may be dropped; after a boundary block
    everything, for nothing of the next epoch was stored before it.
    """

    blocks: tuple[StoredBlock, ...] = ()
    certificates: tuple[Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Send:
    """To each of these peers, never to this one. May be lost, repeated, reordered."""

    to: tuple[PeerId, ...]
    message: ValidatorMessage


@dataclass(frozen=True, slots=True)
class SetTimer:
    timer: Timer
    at_ms: int


@dataclass(frozen=True, slots=True)
class RequestBuild:
    """We lead ``view``: build on ``parent``. Answer ``BodyBuilt`` or ``NothingToBuild``. ``parent_header`` None: genesis.

    ``time_ms`` and ``proposer`` will be the header's. ``even_empty``: the wait for something to propose is over.
    """

    epoch: Epoch
    view: View
    parent: Digest
    height: Height
    parent_header: Header | None
    time_ms: int
    proposer: MemberIndex
    even_empty: bool


@dataclass(frozen=True, slots=True)
class RequestCheck:
    """Execute ``body`` on the state of ``header.parent``, which was accepted or finalized before. Answer ``BodyChecked``."""

    block: Digest
    header: Header
    body: bytes


@dataclass(frozen=True, slots=True)
class Finalized:
    """Final for ever, in ascending heights, each once. Only the last block has a certificate; it covers the others.

    All are of one epoch. If the last is its boundary block, the answer is ``EpochOpened``.
    """

    blocks: tuple[FinalizedBlock, ...]


@dataclass(frozen=True, slots=True)
class FetchBlocks:
    """Too far behind for ``Want``: fetch the chain from ``from_height`` to the block that ``target`` finalizes.

    ``target`` None: others speak of a later epoch; fetch whatever there is up to the boundary of ours.
    """

    from_height: Height
    target: Certificate | None


@dataclass(frozen=True, slots=True)
class Score:
    """A peer, as a rule a member, broke a rule."""

    peer: PeerId
    reason: Reason


class EvidenceKind(enum.Enum):
    """The four contradictions within one view (chain.md 2.8)."""

    E1 = "NOTARIZE of two blocks"
    E2 = "FINALIZE of two blocks"
    E3 = "NULLIFY and FINALIZE"
    E4 = "NOTARIZE of one block and FINALIZE of another"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two votes by one member that contradict each other: both signatures were verified. ``validator``: its node key."""

    kind: EvidenceKind
    validator: PeerId
    first: Vote
    second: Vote


@dataclass(frozen=True, slots=True)
class Halt:
    """Two conflicting blocks are final: more than a third of the weight is faulty. The node stops (chain.md 2.11)."""

    sentence: str


Effect = (
    Persist
    | StoreBlocks
    | Send
    | SetTimer
    | RequestBuild
    | RequestCheck
    | Finalized
    | FetchBlocks
    | Score
    | Evidence
    | Halt
)
