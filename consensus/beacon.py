"""The beacon: randomness that no member chose, fixed together with the roster that it is for.

    commitment   the outermost layer of a member's hash onion (consensus/history.py), in a block that it proposes
    reveal       one layer further in, in its first block of a later window: what it reveals was fixed when it committed
    mix          the reveals of a window (protocol/epochs.py), whatever their order; the block at the cut seals it
    history      HISTORY_SEGMENTS stretches of proof of history that start with the sealed mix; a block up to the boundary tells
                 where each ends
    beacon(e+2)  from beacon(e+1), the sealed mix of window e and the end of its history

        ... window e - 1   |  window e                      |  window e + 1 ...
        ...    epoch e - 1       |  epoch e                       |  epoch e + 1 ...
                           cut, by which whom it draws      cut: the mix is sealed
                           is registered                     <---->  blocks in which the history may be; at last the boundary's

Who can bias it. What a member reveals was fixed by a commitment in an earlier window, it reveals once in a window, and a mix
does not depend on the order: so a member chooses between two beacons, by its word or its silence, and k that conspire between
2^k; nobody chooses between more. A commitment counts from the next window on, or the last to commit could try many. Whom the
beacon draws was registered before the first reveal of its mix (consensus/epochs.py). After the cut nothing is left to choose:
the history follows from the mix alone, the boundary block is wrong without it, and whoever proposes that one can walk it.
Walking makes comparing beacons take a while; checking takes as many hashes, on as many cores as there are.

The functions here trust the history of a body, as they trust the root of a head: whether it is the right one, the shell finds
out before this node votes (consensus/execution.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from consensus.history import Onion, check_reveal, mix_beacon
from consensus.state import BEACON_MIX, HISTORY, ONIONS, BeaconMix, HistoryEntry, OnionEntry, State
from protocol.digest import Domain, digest, number
from protocol.finality import OnionCommitment, OnionReveal, OnionWord
from protocol.ids import Digest, PeerId
from protocol.limits import HISTORY_SEGMENTS
from protocol.rejection import Reason, Rejected

ONION_LAYERS: Final = 1_024  # reveals, one a window: about three weeks of epochs of half an hour, then a new onion


def apply_word(state: State, word: OnionWord, proposer: PeerId, window: int) -> State:
    """The state after a proposer's word for the beacon; raises ``Rejected`` (BAD_PROOF, WRONG_EPOCH)."""
    entry = state.find(ONIONS, proposer)
    if isinstance(word, OnionCommitment):
        if entry is not None and entry.committed_window == window:
            raise Rejected(Reason.WRONG_EPOCH, "one commitment a window")
        return state.put(ONIONS, OnionEntry(word.layer, window, -1), proposer)
    if entry is None or not max(entry.committed_window, entry.revealed_window) < window:
        raise Rejected(Reason.WRONG_EPOCH, "one reveal a window, of an onion that was committed in an earlier one")
    layer = check_reveal(entry.layer, word.layer)
    mix = _fold(state.get(BEACON_MIX).value, digest(Domain.BEACON, proposer, layer))
    state = state.put(ONIONS, OnionEntry(layer, entry.committed_window, window), proposer)
    return state.put(BEACON_MIX, BeaconMix(mix))


def _fold(mix: Digest, reveal: Digest) -> Digest:
    """Both, in any order: among reveals that were fixed before, the order would be a choice."""
    return Digest(bytes(left ^ right for left, right in zip(mix, reveal, strict=True)))


def seal_mix(state: State, window: int) -> State:
    """The state at the cut: the history of ``window`` is due, and reveals are collected anew."""
    start = digest(Domain.BEACON, state.get(BEACON_MIX).value, number(window))
    return state.put(BEACON_MIX, BeaconMix(start)).put(HISTORY, HistoryEntry(window, start, None))


def due_history(state: State) -> Digest | None:
    """Where the history starts that no block up to here has told yet; None when none is due."""
    entry = state.find(HISTORY)
    return entry.start if entry is not None and entry.end is None else None


def apply_history(state: State, ends: Sequence[Digest]) -> State:
    """The state after a block that tells the history that is due; whether it is true is not looked at.

    Raises ``Rejected(WRONG_BODY)``.
    """
    entry = state.find(HISTORY)
    if entry is None or entry.end is not None:
        raise Rejected(Reason.WRONG_BODY, "no history is due")
    if len(ends) != HISTORY_SEGMENTS:
        raise Rejected(Reason.WRONG_BODY, f"a history of {len(ends)} segments, not {HISTORY_SEGMENTS}")
    return state.put(HISTORY, HistoryEntry(entry.epoch, entry.start, ends[-1]))


def next_beacon(state: State, before: Digest, epoch: int) -> Digest:
    """The beacon after ``before``, at the boundary of ``epoch``. Raises ``Rejected(WRONG_BODY)`` while its history is due."""
    entry = state.find(HISTORY)
    if entry is None or entry.epoch != epoch or entry.end is None:
        raise Rejected(Reason.WRONG_BODY, "the last block of an epoch tells its history, where none did before")
    return mix_beacon(before, entry.end, (entry.start,))


@dataclass(slots=True)
class OnionKeeper:
    """A member's onions, from one secret: nothing of them has to be kept, because the state says which layer is next."""

    node: PeerId
    secret: bytes  # 32 bytes
    _onion: tuple[int, Onion] | None = None

    def next_word(self, state: State, window: int) -> OnionWord | None:
        """What this member's next block says for the beacon, if anything."""
        entry = state.find(ONIONS, self.node)
        if entry is None:
            return OnionCommitment(self._peel(window).commitment)
        if not max(entry.committed_window, entry.revealed_window) < window:
            return None
        reveal = self._peel(entry.committed_window).find_below(entry.layer)
        return OnionCommitment(self._peel(window).commitment) if reveal is None else OnionReveal(reveal)

    def _peel(self, committed_window: int) -> Onion:
        """The onion that was, or will be, committed in a window."""
        if self._onion is None or self._onion[0] != committed_window:
            secret = digest(Domain.ONION, self.secret, number(committed_window))
            self._onion = committed_window, Onion(secret, ONION_LAYERS)
        return self._onion[1]
