"""What is remembered of epochs that are over: late votes of the last one, and the finalizations that ended the last few.

Without the first a member could contradict itself near a boundary and be heard too late to be convicted. The second is what
brings a straggler on: it can check no certificate but those of the epoch that it is in, and the finalization of that epoch's
boundary is the one that leads out of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from consensus.finality.epochs import Term
from consensus.finality.events import Evidence
from consensus.finality.tally import Tally
from protocol.finality import Certificate, Vote, VoteKind
from protocol.ids import Digest, Epoch, View

EPOCHS_REMEMBERED_MAX = 16  # 4.35 kB each with a hundred members; whoever is further behind uses the sync protocol


class ClosedEpoch:
    """The epoch before: its tally stays open for as long as the next one lasts. Every vote is checked by its own roster."""

    def __init__(
        self, term: Term, tally: Tally, blocks: OrderedDict[View, Digest], boundary: Digest, open_: range
    ) -> None:
        """``blocks``: which block each of its last final views has; ``open_``: the views whose votes are still counted."""
        self.term = term
        self._tally = tally
        self._blocks = blocks
        self._boundary = boundary
        self._open = open_

    def add_vote(self, vote: Vote) -> list[Evidence]:
        """The evidence that a late vote is, if it is any; raises as ``check_vote``."""
        if vote.view not in self._open:
            return []
        evidence = self._tally.add(vote).evidence
        return [] if evidence is None else [evidence]

    def add_certificate(self, certificate: Certificate) -> list[Evidence]:
        """The evidence in a late certificate; raises as ``check_certificate``."""
        if certificate.view not in self._open or self._tally.is_certified(certificate):
            return []
        return self._tally.absorb(self._tally.check(certificate))

    def contradicts(self, certificate: Certificate) -> bool:
        """Whether a certificate that was added finalizes another block than we did."""
        if certificate.kind is not VoteKind.FINALIZE or not self._tally.is_certified(certificate):
            return False
        return conflicts(certificate, self._blocks, self._boundary)

    @property
    def vote_count(self) -> int:
        return self._tally.vote_count


def conflicts(finalization: Certificate, blocks: OrderedDict[View, Digest], boundary: Digest | None) -> bool:
    """Whether a finalization is of another block than the final one of its view, as far back as is known.

    ``blocks`` in ascending order of view. A boundary block, once it is final, may be finalized in every view from its own on.
    """
    if finalization.block == boundary or finalization.view < next(iter(blocks)):
        return False
    return blocks.get(finalization.view) != finalization.block


class Boundaries:
    """The finalizations of the last epochs' boundary blocks, by epoch."""

    def __init__(self, known: Iterable[Certificate]) -> None:
        self._held: OrderedDict[Epoch, Certificate] = OrderedDict()
        for certificate in sorted(known, key=lambda certificate: certificate.epoch):
            self.add(certificate)

    def add(self, certificate: Certificate) -> None:
        self._held[certificate.epoch] = certificate
        while len(self._held) > EPOCHS_REMEMBERED_MAX:
            self._held.popitem(last=False)

    def find(self, epoch: Epoch) -> Certificate | None:
        return self._held.get(epoch)
