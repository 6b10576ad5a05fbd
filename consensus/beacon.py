"""The beacon: randomness that no member chose, fixed together with the roster that it is for.

    commitment   the outermost layer of a member's hash onion (consensus/history.py), in a block that it proposes
    reveal       one layer further in, in its first block of a later epoch: what it reveals was fixed when it committed
    beacon(e+2)  from beacon(e+1), the reveals of epoch e, and a stretch of proof of history after them

A member can withhold its reveal, and so choose between two beacons if it proposes last in an epoch; it cannot choose between
more. A commitment counts from the next epoch on, or the last to commit could try many. The stretch of history makes comparing
even the two take a while; it is short, because everybody walks it once an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from consensus.history import History, Onion, check_reveal, mix_beacon
from consensus.state import BEACON_MIX, ONIONS, BeaconMix, OnionEntry, State
from protocol.digest import Domain, digest, number
from protocol.finality import OnionCommitment, OnionReveal, OnionWord
from protocol.ids import Digest, PeerId
from protocol.rejection import Reason, Rejected

ONION_LAYERS: Final = 1_024  # reveals, one an epoch: about three weeks of epochs of half an hour, then a new onion
HISTORY_TICKS: Final = (
    65_536  # after the reveals of an epoch: 16 ms at the four million a second of benchmarks/chain.py
)


def apply_word(state: State, word: OnionWord, proposer: PeerId, epoch: int) -> State:
    """The state after a proposer's word for the beacon; raises ``Rejected`` (BAD_PROOF, WRONG_EPOCH)."""
    entry = state.find(ONIONS, proposer)
    if isinstance(word, OnionCommitment):
        if entry is not None and entry.committed_epoch == epoch:
            raise Rejected(Reason.WRONG_EPOCH, "one commitment an epoch")
        return state.put(ONIONS, OnionEntry(word.layer, epoch, -1), proposer)
    if entry is None or not max(entry.committed_epoch, entry.revealed_epoch) < epoch:
        raise Rejected(Reason.WRONG_EPOCH, "one reveal an epoch, of an onion that was committed in an earlier one")
    layer = check_reveal(entry.layer, word.layer)
    mix = digest(Domain.BEACON, state.get(BEACON_MIX).value, layer)
    state = state.put(ONIONS, OnionEntry(layer, entry.committed_epoch, epoch), proposer)
    return state.put(BEACON_MIX, BeaconMix(mix))


def next_beacon(state: State, before: Digest, epoch: int) -> tuple[Digest, State]:
    """The beacon of ``epoch``, after ``before``, and the state in which reveals are collected anew."""
    mix = digest(Domain.BEACON, state.get(BEACON_MIX).value, number(epoch))
    beacon = mix_beacon(before, _walk(mix), (mix,))
    return beacon, state.put(BEACON_MIX, BeaconMix(beacon))


@lru_cache(maxsize=8)
def _walk(start: Digest) -> Digest:
    """The end of the stretch of history; a block is built, checked and finalized with the same one."""
    history = History.after(start)
    history.advance(HISTORY_TICKS)
    return history.cut().end


@dataclass(slots=True)
class OnionKeeper:
    """A member's onions, from one secret: nothing of them has to be kept, because the state says which layer is next."""

    node: PeerId
    secret: bytes  # 32 bytes
    _onion: tuple[int, Onion] | None = None

    def next_word(self, state: State, epoch: int) -> OnionWord | None:
        """What this member's next block says for the beacon, if anything."""
        entry = state.find(ONIONS, self.node)
        if entry is None:
            return OnionCommitment(self._peel(epoch).commitment)
        if not max(entry.committed_epoch, entry.revealed_epoch) < epoch:
            return None
        reveal = self._peel(entry.committed_epoch).find_below(entry.layer)
        return OnionCommitment(self._peel(epoch).commitment) if reveal is None else OnionReveal(reveal)

    def _peel(self, committed_epoch: int) -> Onion:
        """The onion that was, or will be, committed in an epoch."""
        if self._onion is None or self._onion[0] != committed_epoch:
            secret = digest(Domain.ONION, self.secret, number(committed_epoch))
            self._onion = committed_epoch, Onion(secret, ONION_LAYERS)
        return self._onion[1]
