"""No node ends with an exception."""

from __future__ import annotations

from simnet.checkers.checker import Checker
from simnet.checkers.facts import Peer


class NoFailure(Checker):
    """A node that is killed did not fail."""

    says = "No node ends with an exception."

    def arrived(self, peer: Peer, now: float) -> None:
        self.tally.checks += 1

    def failed(self, peer: Peer, why: str, now: float) -> None:
        self.breach(now, f"{peer.name} failed: {why}")
