"""What the finality machine says about itself."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.ids import Epoch, Height, MemberIndex, View


@dataclass(frozen=True, slots=True)
class Statistics:
    """For metrics and people. Views count from 1 in each epoch."""

    epoch: Epoch
    view: View
    finalized_view: View
    finalized_height: Height
    leader: MemberIndex
    delta_ms: int
    blocks_open: int  # unfinalized blocks held
    certificates_open: int  # above the finalized view
    votes_open: int  # in the tallies
    blocks_wanted: int
    blocks_finalized: int  # since the start of this process
    blocks_proposed_again: int  # boundary blocks, by us, since the start of this process
    views_nullified: int  # left by a nullification since the start of this process
    votes_cast: int
    votes_seen: int  # of others, counted or known already
    votes_far: int  # dropped: of another epoch, or too far ahead or behind to be counted
    rejections: int
    evidence: int
    refusal: str | None  # why this member does not vote
    halted: str | None
