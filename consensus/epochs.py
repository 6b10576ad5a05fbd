"""Who votes in an epoch (chain.md 2.7).

    roster of epoch e    from the state after the boundary of e - 2: the hundred validators with the most stake, weighted by it,
                         of those that were registered by the cut of e - 3 and are not in jail

So everybody knows during a whole epoch who votes in the next one, every header names both, and a member that was away learns it
from the state alone. The first two rosters are the founders.

The beacon of an epoch is fixed together with its roster, and only those enter it who were registered before the window of that
beacon's reveals began: whoever registers cannot know for which tiles it will be drawn, nor can the proposer of its block.

What members must show of what they keep is asked, and who did not show it is jailed, at the boundaries too
(consensus/custody_answers.py).
"""

from __future__ import annotations

from msgspec.structs import replace

from consensus.beacon import next_beacon
from consensus.custody_answers import ask_members, is_jailed, jail_silent
from consensus.state import ROSTERS, State, Validator, ValidatorStatus
from protocol.digest import number
from protocol.epochs import boundary_of, cut_of, reveal_window_of
from protocol.ids import Digest, Epoch, Height
from protocol.limits import ROSTER_MEMBERS_MAX
from protocol.roster import Member, Roster


def roster_of(state: State, epoch: int) -> Roster:
    """Who votes in an epoch: the one of the next block, or the one after that."""
    return state.get(ROSTERS, number(epoch))


def close_epoch(state: State, epoch: int, epoch_heights: int) -> State:
    """The state at the boundary of ``epoch``: the roster of the epoch after next is fixed, the one before is forgotten.

    Before that, who did not show what it keeps is jailed; after it, the members of the next epoch are asked. Raises
    ``Rejected`` as ``next_beacon``.
    """
    ending, following = roster_of(state, epoch), roster_of(state, epoch + 1)
    beacon = next_beacon(state, following.beacon, epoch)
    registered_by = cut_of(epoch - 1, epoch_heights)
    state = jail_silent(state, ending, _heaviest(_candidates(state, registered_by)))
    chosen = choose_roster(state, Epoch(epoch + 2), beacon, following, registered_by)
    state = state.put(ROSTERS, chosen, number(epoch + 2))
    state = ask_members(state, ending, following, beacon, cut_of(epoch, epoch_heights))
    return state.delete(ROSTERS, number(epoch - 1)) if epoch > 0 else state


def first_height_of(registered_height: int, epoch_heights: int) -> Height:
    """The first block about which a validator of this registration can vote; founders, of height 0, about the first of all."""
    if registered_height == 0:
        return Height(1)
    return Height(boundary_of(reveal_window_of(registered_height, epoch_heights) + 2, epoch_heights) + 1)


def choose_roster(state: State, epoch: Epoch, beacon: Digest, before: Roster, registered_by: Height) -> Roster:
    """The validators with the most stake, of those that were registered by a height and are not jailed in the epoch.

    Where nobody is left, ``before`` goes on: an empty roster could never be replaced.
    """
    free = [each for each in _candidates(state, registered_by) if not is_jailed(each, epoch)]
    chosen = sorted(_heaviest(free), key=lambda validator: validator.card.node)
    if not chosen:
        return replace(before, epoch=epoch, beacon=beacon)
    return Roster(
        epoch=epoch,
        members=tuple(Member(validator.card.node, validator.card.vote) for validator in chosen),
        weights=tuple(validator.stake_nano for validator in chosen),
        beacon=beacon,
    )


def _candidates(state: State, registered_by: Height) -> list[Validator]:
    return [
        validator
        for validator in state.validators()
        if validator.status is ValidatorStatus.ACTIVE
        and validator.registered_height <= registered_by
        and validator.stake_nano > 0
    ]


def _heaviest(validators: list[Validator]) -> list[Validator]:
    return sorted(validators, key=lambda validator: (-validator.stake_nano, validator.card.node))[:ROSTER_MEMBERS_MAX]
