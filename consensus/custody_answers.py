"""What the chain asks of those who keep, and what becomes of who does not show it (chain.md 3.4).

    boundary of e - 1   ask     each member of epoch e for one leaf of what it keeps, drawn by the beacon that is fixed there
    blocks of e         answer  the leaf with its path to the blob's root, from anybody, once
    boundary of e       jail    who was asked and is silent is not chosen for the next sixteen rosters that are

The draw of a member: one tile of all tiles that are kept, one position of its part of that tile's ring, one leaf of the cell
that lies there. Which cell that is follows from the tile's root, which the answer shows and proves: nobody needs a manifest.

    nobody knows it early      what is drawn from was recorded by the cut, and the beacon is made of what was closed at the cut
    nobody is asked too early  only for positions that were its own in the epoch before as well, which it had for the cells
    nothing goes meanwhile     an entry that is not over in an epoch is there until its end (consensus/kept.py)
    everybody can answer       only tiles' snapshots are asked for: whoever signed for one has coded it (docs/decisions/0028)

Nobody is jailed unless members with more than two thirds of the weight answered, and never so many that those who are left of
the next roster weigh no more than two thirds of it: who keeps nothing can never stop the chain by being found out.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence

from msgspec.structs import replace

from consensus.custody import ring_order, ring_parts
from consensus.kept import kept_blobs
from consensus.state import CUSTODY_QUESTIONS, KEPT, CustodyQuestion, KeptEntry, State, Validator
from protocol.availability import SUPERSEDED_EPOCHS, TileSnapshot
from protocol.digest import Domain, digest
from protocol.erasure import blob_root, proved_tile_root
from protocol.ids import Digest, PeerId
from protocol.merkle import proof_root
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster
from protocol.transactions import CustodyAnswer

# As long as a blob is kept: when somebody comes back, nothing is left of what it did not show, and whoever is gone for good
# moves everybody's cells as seldom as that (a guess).
JAIL_EPOCHS = SUPERSEDED_EPOCHS


# -- asking -------------------------------------------------------------------------------------------------------------


def find_question(state: State, node: PeerId) -> CustodyQuestion | None:
    """What a validator must show in the epoch of the next block; None where nothing."""
    return state.find(CUSTODY_QUESTIONS, node)


def ask_members(state: State, before: Roster, roster: Roster, beacon: Digest, recorded_by: int) -> State:
    """The state with the questions of ``roster``'s epoch; ``before`` is the roster of the epoch that ends, whose questions go.

    ``beacon`` is the newest one, ``recorded_by`` the last height at which what is drawn from was recorded. It walks all of
    sub-chain D.
    """
    for member in before.members:
        if state.find(CUSTODY_QUESTIONS, member.node) is not None:
            state = state.delete(CUSTODY_QUESTIONS, member.node)
    asked_for = [entry for entry in kept_blobs(state) if _is_asked_for(entry, roster.epoch, recorded_by)]
    ends = list(itertools.accumulate(entry.geometry.tile_count(entry.size_bytes) for entry in asked_for))
    if not ends:
        return state
    cell_counts = dict.fromkeys(entry.geometry.cells for entry in asked_for)
    parts = {cells: lasting_parts(before, roster, cells) for cells in cell_counts}
    for index, member in enumerate(roster.members):
        drawn = digest(Domain.CUSTODY_QUESTION, beacon, member.node)
        at, by_position, by_leaf = (int.from_bytes(drawn[start : start + 8], "big") for start in (0, 8, 16))
        at %= ends[-1]
        entry = asked_for[place := bisect_right(ends, at)]
        tile = at - (ends[place - 1] if place else 0)
        part = parts[entry.geometry.cells][index]
        if part:
            position = part[by_position % len(part)]
            leaf = by_leaf % entry.geometry.cell_leaves(entry.size_bytes, tile)
            question = CustodyQuestion(roster.epoch, entry.subject.digest(), tile, position, leaf)
            state = state.put(CUSTODY_QUESTIONS, question, member.node)
    return state


def _is_asked_for(entry: KeptEntry, epoch: int, recorded_by: int) -> bool:
    return isinstance(entry.subject, TileSnapshot) and entry.height <= recorded_by and not entry.is_over(epoch)


def lasting_parts(before: Roster, roster: Roster, cells: int) -> tuple[range, ...]:
    """The positions that are each member's of ``roster``, and were under ``before`` as well; nothing of who is new."""
    nodes = (member.node for member in before.members)
    old = dict(zip(nodes, ring_parts(before.weights, cells), strict=True))
    return tuple(
        _overlap(part, old.get(member.node, range(0)))
        for member, part in zip(roster.members, ring_parts(roster.weights, cells), strict=True)
    )


def _overlap(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


# -- answering ----------------------------------------------------------------------------------------------------------


def asked_cell(question: CustodyQuestion, entry: KeptEntry, tile_root: Digest) -> int:
    """The cell of which a question asks a leaf; ``entry`` is that of its subject, ``tile_root`` that of its tile."""
    return ring_order(entry.beacon, tile_root, entry.geometry.cells)[question.position]


def take_answer(state: State, answer: CustodyAnswer, epoch: int, height: int) -> State:
    """The state after an answer in the block at ``height``. Raises ``Rejected``, the cheap reasons first.

    WRONG_EPOCH: of another one than the block's; UNKNOWN_VALIDATOR: nothing is asked of this one; ALREADY_RECORDED: it was
    answered; WRONG_LEAF: another place than is asked for; BAD_PROOF: does not lead to the blob's root.
    """
    if answer.epoch != epoch:
        raise Rejected(Reason.WRONG_EPOCH, f"an answer of epoch {answer.epoch} in {epoch}")
    question = find_question(state, answer.validator)
    if question is None:
        raise Rejected(Reason.UNKNOWN_VALIDATOR, f"nothing is asked of {answer.validator[:4].hex()}")
    if question.answered_height is not None:
        raise Rejected(Reason.ALREADY_RECORDED, f"answered in block {question.answered_height}")
    entry, leaf = state.get(KEPT, question.subject), answer.leaf
    if (answer.blob, leaf.tile, leaf.leaf) != (entry.blob, question.tile, question.leaf):
        raise Rejected(Reason.WRONG_LEAF, f"leaf {question.leaf} of tile {question.tile} is asked for")
    tile_root = proved_tile_root(entry.geometry, entry.size_bytes, leaf)
    tiles = entry.geometry.tile_count(entry.size_bytes)
    tiles_root = proof_root(tile_root, leaf.tile, tiles, answer.blob_path)
    if blob_root(entry.geometry, entry.size_bytes, tiles_root) != entry.blob:
        raise Rejected(Reason.BAD_PROOF, "does not lead to the blob's root")
    if asked_cell(question, entry, tile_root) != leaf.cell:
        raise Rejected(Reason.WRONG_LEAF, f"cell {leaf.cell} is not at position {question.position}")
    return state.put(CUSTODY_QUESTIONS, replace(question, answered_height=height), answer.validator)


# -- jail ---------------------------------------------------------------------------------------------------------------


def is_jailed(validator: Validator, epoch: int) -> bool:
    """Whether a validator is not to be chosen for the roster of an epoch."""
    return validator.jailed_until > 0 and epoch <= validator.jailed_until


def jail_silent(state: State, roster: Roster, candidates: Sequence[Validator]) -> State:
    """The state at the end of ``roster``'s epoch, in which those of its members who did not answer are jailed.

    ``candidates``: of whom the roster of the epoch after next would consist if nobody were in jail. The lightest are jailed
    first, so that the bound spares as few as it can.
    """
    questions = [(member.node, find_question(state, member.node)) for member in roster.members]
    answered = [node for node, asked in questions if asked is not None and asked.answered_height is not None]
    silent = [node for node, asked in questions if asked is not None and asked.answered_height is None]
    if not roster.is_quorum(roster.weight_of(answered)):
        return state
    chosen_next = roster.epoch + 2
    total_nano = sum(each.stake_nano for each in candidates)
    jailed_nano = sum(each.stake_nano for each in candidates if is_jailed(each, chosen_next))
    for each in sorted(candidates, key=lambda validator: (validator.stake_nano, validator.card.node)):
        if each.card.node not in silent:
            continue
        if not is_jailed(each, chosen_next):
            if 3 * (jailed_nano + each.stake_nano) >= total_nano:
                continue
            jailed_nano += each.stake_nano
        state = state.put_validator(each, replace(each, jailed_until=chosen_next + JAIL_EPOCHS - 1))
    return state
