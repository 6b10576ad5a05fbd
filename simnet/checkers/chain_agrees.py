"""One chain: what one peer finalized at a height, everybody did."""

from __future__ import annotations

from protocol.finality import NO_BLOCK, FinalizedBlock, body_root
from protocol.ids import Digest, short
from simnet.checkers.checker import Checker
from simnet.checkers.facts import KnownBlock, Peer


class ChainAgrees(Checker):
    """Names, bodies, state roots and parents.

    A process begins at any height: its disk may have forgotten the last blocks, or have some of which nobody was told.
    """

    says = "No two peers ever finalize different blocks at a height, and the heights of each process rise by one."

    def finalized(self, peer: Peer, block: FinalizedBlock, name: Digest, first: KnownBlock, now: float) -> None:
        header, self.tally.checks = block.header, self.tally.checks + 1
        height = header.height
        if name != first.name:
            roots = "" if header.state_root == first.state_root else ", and its state has another root"
            self.breach(
                now,
                f"{peer.name} finalized {name[:4].hex()} at height {height}, "
                f"{short(first.peer)} {first.name[:4].hex()} at {first.seconds:.1f} s{roots}",
            )
            return
        if block.body != first.body:
            self.breach(now, f"{peer.name} stored another body at height {height} than {short(first.peer)}")
        if first.peer == peer.id and first.seconds == now:
            self._check_first(peer, block, now)
        if not peer.is_fresh and height != peer.height + 1:
            self.breach(now, f"{peer.name} finalized height {height} after height {peer.height}")

    def _check_first(self, peer: Peer, block: FinalizedBlock, now: float) -> None:
        """What needs to be looked at once for all."""
        header = block.header
        if body_root(block.body) != header.body_root:
            self.breach(now, f"{peer.name} finalized a body at height {header.height} that its header does not name")
        below = self.facts.blocks.get(header.height - 1)
        if below is None and header.height > 1:
            self.breach(now, f"{peer.name} finalized height {header.height}, and nobody the height below it")
        elif header.parent != (below.name if below else NO_BLOCK):
            self.breach(now, f"{peer.name} finalized height {header.height} on a parent that is not final")
