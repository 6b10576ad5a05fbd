"""Whoever comes later takes part: a delta of its own is counted within some rounds."""

from __future__ import annotations

from protocol.ids import PeerId
from simnet.checkers.checker import Checker
from simnet.checkers.facts import DecidedHead, Facts, Peer


class JoinersContribute(Checker):
    """A peer that arrives in round r is looked at when round r + so many closes, if it has run since, unhindered."""

    says = "Every learner that arrives later has a counted delta within so many rounds of its arrival, if it stays."

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._rounds = facts.scenario.must_hold.contributes_within_rounds
        self._joined: dict[PeerId, Peer] = {}  # nothing of theirs is counted yet

    def arrived(self, peer: Peer, now: float) -> None:
        if self._rounds is None or not peer.learns:
            return
        if peer.arrived_at == now and self.facts.began_at is not None and now > self.facts.began_at:
            self._joined[peer.id] = peer

    def left(self, peer: Peer, now: float) -> None:
        self._joined.pop(peer.id, None)

    def decided(self, decided: DecidedHead, now: float) -> None:
        if not self._joined:
            return
        for counted in decided.counted:
            if self._joined.pop(counted.learner, None) is not None:
                self.tally.checks += 1

    def closed(self, round_number: int, now: float) -> None:
        if self._rounds is None:
            return
        due = [peer for peer in self._joined.values() if round_number >= peer.arrived_in + self._rounds]
        for peer in due:
            del self._joined[peer.id]
            if peer.is_hindered or peer.since > peer.arrived_at:
                continue
            self.tally.checks += 1
            self.breach(
                now,
                f"{peer.name} arrived at {peer.arrived_at:.1f} s in round {peer.arrived_in}, "
                f"and no delta of it was counted up to round {round_number}",
            )
