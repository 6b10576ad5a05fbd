"""A node that stops takes everything with it."""

from __future__ import annotations

from simnet.checkers.checker import Checker
from simnet.checkers.facts import Peer


class NothingLeftBehind(Checker):
    """The world looks for tasks, streams and connections of nodes that it stopped, and tells what it found."""

    says = "A stopped node leaves no task, stream or connection open."

    def left(self, peer: Peer, now: float) -> None:
        self.tally.checks += 1

    def left_behind(self, peer: Peer, what: str, now: float) -> None:
        self.breach(now, f"{peer.name} left {what} behind")
