"""Whoever joins begins with the newest checkpoint, and with exactly its state."""

from __future__ import annotations

from typing import Final

from protocol.ids import Digest
from simnet.checkers.checker import Checker
from simnet.checkers.facts import Facts, Peer

SPREAD_HEIGHTS: Final = 4  # above a boundary by which its checkpoint is known to be there (a guess)


class JoinedState(Checker):
    """Looks at each process where it begins: at its state, and, when it is a peer's first, at its blocks."""

    says = "A node begins with the state of its newest block, and a newcomer with a checkpoint once there is one."

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._epoch_heights = facts.genesis.chain.epoch_heights

    def began(self, peer: Peer, oldest: int, height: int, state_root: Digest, now: float) -> None:
        block = self.facts.blocks.get(height)
        if block is not None:
            self.tally.checks += 1
            if state_root != block.state_root:
                self.breach(now, f"{peer.name} begins at height {height} with another state than its block has")
        is_late = self.facts.tip >= self._epoch_heights + SPREAD_HEIGHTS
        if peer.lives == 1 and is_late and not peer.is_hindered:
            self.tally.checks += 1
            if oldest == 0:
                self.breach(now, f"{peer.name} begins with the genesis, although there is a checkpoint")
