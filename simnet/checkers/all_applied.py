"""What was decided is applied by everybody, and nothing else is.

Two rounds after it was decided, every peer that has run without hindrance for two rounds has it, or a later version; at the
end of the run, what was decided a round before it. Its chain is as high as the highest was then. Of a peer that came back
only what was decided since is expected: what its disk has from before need not have been told.
"""

from __future__ import annotations

from typing import Final

from protocol.ids import Digest, TileId, Version
from simnet.checkers.checker import Checker
from simnet.checkers.facts import Facts, Peer

ROUNDS_MAX: Final = 2  # to apply what was decided, and to catch up after an arrival


class AllApplied(Checker):
    """Roots as they are written; who is behind when a round closes, and at the end."""

    says = f"Every peer that runs applies what was decided, within {ROUNDS_MAX} rounds, and nothing that was not."

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._late = ROUNDS_MAX * facts.round_seconds
        self._told: set[tuple[bytes, TileId, Version]] = set()  # asked only "is it in"

    def applied(self, peer: Peer, tile: TileId, version: Version, root: Digest, now: float) -> None:
        self.tally.checks += 1
        decided = self.facts.heads.get(tile, {}).get(version)
        if decided is None:
            if version > 0:
                self.breach(now, f"{peer.name} applied {tile}@{version}, which was not decided")
        elif decided.head.root != root:
            self.breach(now, f"{peer.name} applied {decided} with the root {root[:4].hex()}, which is another")

    def closed(self, round_number: int, now: float) -> None:
        self._look_at_all(now, now - self._late)

    def finish(self, now: float) -> None:
        before = now - self.facts.round_seconds
        self._look_at_all(now, before)
        height = max((height for height, block in self.facts.blocks.items() if block.seconds <= before), default=0)
        for peer in self.facts.peers.values():
            if not peer.has_run(self._late, now):
                continue
            self.tally.checks += 1
            if peer.height < height:
                self.breach(now, f"{peer.name} ends at height {peer.height}, and height {height} was final a round ago")

    def _look_at_all(self, now: float, before: float) -> None:
        """Whoever ran for long enough has what was decided before then."""
        expected: list[tuple[TileId, Version, float]] = []
        for tile, versions in self.facts.heads.items():
            old = [version for version, decided in versions.items() if decided.seconds <= before]
            if old:
                expected.append((tile, max(old), versions[max(old)].seconds))
        for peer in self.facts.peers.values():
            if not peer.has_run(self._late, now):
                continue
            for tile, version, decided_at in expected:
                if peer.lives > 1 and decided_at <= peer.started_at:
                    continue
                self.tally.checks += 1
                held = peer.versions.get(tile, Version(0))
                if held < version and (peer.id, tile, version) not in self._told:
                    self._told.add((peer.id, tile, version))
                    self.breach(
                        now, f"{peer.name} holds {tile}@{held}, and has not applied {self._decided(tile, version)}"
                    )

    def _decided(self, tile: TileId, version: Version) -> str:
        decided = self.facts.heads[tile][version]
        return f"{decided}, decided at {decided.seconds:.1f} s"
