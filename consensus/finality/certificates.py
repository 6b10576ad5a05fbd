"""What is certified above the finalized view of one epoch: at most one certificate of each kind in a view."""

from __future__ import annotations

from collections.abc import Iterator

from consensus.finality.tally import CheckedCertificate
from protocol.finality import Certificate, VoteKind
from protocol.ids import View
from protocol.limits import KIB, NULLIFICATIONS_INLINE_MAX

NULLIFICATION_BYTES_INLINE_MAX = 256 * KIB  # chain.md 2.5


class Certificates:
    """A book of checked certificates by view and kind."""

    def __init__(self) -> None:
        self._held: dict[View, dict[VoteKind, CheckedCertificate]] = {}

    def add(self, certificate: CheckedCertificate) -> bool:
        """Whether it is the first of its kind in its view; another one is not kept."""
        held = self._held.setdefault(certificate.view, {})
        return held.setdefault(certificate.kind, certificate) is certificate

    def find(self, view: View, kind: VoteKind) -> CheckedCertificate | None:
        return self._held.get(view, {}).get(kind)

    def find_block(self, view: View) -> CheckedCertificate | None:
        """The certificate that names the view's block: its finalization, or else its notarization."""
        held = self._held.get(view, {})
        return held.get(VoteKind.FINALIZE) or held.get(VoteKind.NOTARIZE)

    def find_any(self, view: View) -> CheckedCertificate | None:
        """A certificate that ends the view; one that names a block, if there is one."""
        return self.find_block(view) or self.find(view, VoteKind.NULLIFY)

    def of(self, view: View) -> list[CheckedCertificate]:
        """All of a view, in order of kind."""
        return [certificate for _, certificate in sorted(self._held.get(view, {}).items())]

    def views(self) -> list[View]:
        """Every view with a certificate, ascending."""
        return sorted(self._held)

    def blocks(self) -> Iterator[CheckedCertificate]:
        """One certificate for each view in which a block is certified, ascending."""
        for view in self.views():
            certificate = self.find_block(view)
            if certificate is not None:
                yield certificate

    def finalizations(self) -> list[CheckedCertificate]:
        """Ascending by view."""
        found = (self.find(view, VoteKind.FINALIZE) for view in self.views())
        return [certificate for certificate in found if certificate is not None]

    def highest(self, otherwise: View) -> View:
        return max(self._held, default=otherwise)

    def first_hole(self, above: View) -> View:
        """The first view above this one without a certificate."""
        hole = above + 1
        while View(hole) in self._held:
            hole += 1
        return View(hole)

    def nullifications(self, above: View, below: View) -> tuple[Certificate, ...]:
        """Those between two views that fit into a proposal, the newest first to be chosen: the least likely to be known."""
        found: list[Certificate] = []
        size = 0
        for number in range(below - 1, above, -1):
            nullification = self.find(View(number), VoteKind.NULLIFY)
            if nullification is None:
                continue
            certificate = nullification.plain
            size += 80 + len(certificate.signers) + 66 * len(certificate.signatures)
            if size > NULLIFICATION_BYTES_INLINE_MAX or len(found) == NULLIFICATIONS_INLINE_MAX:
                break
            found.append(certificate)
        return tuple(reversed(found))

    def drop_through(self, view: View) -> None:
        """Forget every view up to this one."""
        self._held = {at: held for at, held in self._held.items() if at > view}

    def __len__(self) -> int:
        return sum(len(held) for held in self._held.values())
