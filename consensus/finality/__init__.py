"""Finality: how the members agree on one log of blocks, and never on two.

What it never does: touch a socket, a disk, a clock or a generator; look inside a body; slash. The shell performs what
``handle`` returns, in the order given; the application builds and checks bodies.

Read in this order: ``events`` (what goes in and comes out), ``signer`` (the six rules that safety rests on), ``tally``
(votes into certificates, contradictions into evidence), ``schedule`` (leaders, timeouts), ``epochs`` (heights, rosters),
``tree`` (what may be built on, the questions that safety rests on), ``core`` (the machine; its theory is on top), and beside it
``answers`` (what others are given), ``certificates``, ``past`` and ``early`` (what it remembers), ``chain`` (what the sync
protocol brought).
"""

from consensus.finality.chain import check_chain
from consensus.finality.core import FinalityCore
from consensus.finality.epochs import epoch_of_child
from consensus.finality.events import (
    Anchor,
    BodyBuilt,
    BodyChecked,
    Effect,
    EpochOpened,
    Event,
    Evidence,
    EvidenceKind,
    FetchBlocks,
    Finalized,
    Halt,
    MessageReceived,
    NothingToBuild,
    Nudge,
    Persist,
    RequestBuild,
    RequestCheck,
    Restored,
    Score,
    Send,
    SetTimer,
    Started,
    StoreBlocks,
    StoredBlock,
    Synced,
    Timer,
    TimerFired,
    TimerKind,
)
from consensus.finality.schedule import Schedule
from consensus.finality.signer import JournalState, SignedVote, VoteSigner
from consensus.finality.statistics import Statistics
from consensus.finality.tally import CheckedCertificate, build_certificate, check_certificate, check_vote

__all__ = [
    "Anchor",
    "BodyBuilt",
    "BodyChecked",
    "CheckedCertificate",
    "Effect",
    "EpochOpened",
    "Event",
    "Evidence",
    "EvidenceKind",
    "FetchBlocks",
    "FinalityCore",
    "Finalized",
    "Halt",
    "JournalState",
    "MessageReceived",
    "NothingToBuild",
    "Nudge",
    "Persist",
    "RequestBuild",
    "RequestCheck",
    "Restored",
    "Schedule",
    "Score",
    "Send",
    "SetTimer",
    "SignedVote",
    "Started",
    "Statistics",
    "StoreBlocks",
    "StoredBlock",
    "Synced",
    "Timer",
    "TimerFired",
    "TimerKind",
    "VoteSigner",
    "build_certificate",
    "check_certificate",
    "check_chain",
    "check_vote",
    "epoch_of_child",
]
