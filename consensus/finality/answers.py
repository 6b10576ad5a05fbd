"""What others are given when they say where they stand: which certificates they lack, and how much one may ask for."""

from __future__ import annotations

from consensus.finality.epochs import Term
from consensus.finality.tree import Tree
from protocol.finality import Certificate, Status
from protocol.ids import PeerId, View
from protocol.limits import CERTIFICATES_PER_STATUS_MAX, ROSTER_MEMBERS_MAX

ALLOWANCE_MAX = 128  # certificates (1 each) and blocks (8 each) pushed to one member in two Delta
ALLOWANCE_OF_STRANGERS = 2  # the same for whoever is no member, such as one that has left and is an epoch behind
PEERS_ALLOWED_MAX = 2 * ROSTER_MEMBERS_MAX  # who is sent anything in two Delta: this roster, and as many of others


class Allowances:
    """How much may still be pushed to each peer; refilled at every retry and in every view."""

    def __init__(self, term: Term) -> None:
        self._term = term
        self._left: dict[PeerId, int] = {}

    def refill(self) -> None:
        self._left.clear()

    def spend(self, peer: PeerId, cost: int) -> bool:
        """Whether ``peer`` may still be sent something that it asked for; it is counted then."""
        full = ALLOWANCE_MAX if peer in self._term.places else ALLOWANCE_OF_STRANGERS
        left = self._left.get(peer, full)
        if left < cost or (peer not in self._left and len(self._left) >= PEERS_ALLOWED_MAX):
            return False
        self._left[peer] = left - cost
        return True


def where_we_stand(tree: Tree) -> Status:
    """``current_view`` is the first view for which no certificate is held: with a hole it names the hole."""
    hole = tree.certificates.first_hole(tree.final.view)
    return Status(tree.term.epoch, tree.final.view, tree.final.height, hole)


def best_certificate(tree: Tree, view: View) -> Certificate | None:
    """The one that leads into ``view``; where it was overtaken, the one of the last final block."""
    held = tree.certificates.find_any(View(view - 1))
    return held.plain if held is not None else tree.final.certificate


def certificates_lacked(status: Status, tree: Tree, view: View) -> list[Certificate]:
    """What a member with this status lacks of what we hold in ``view``, the most useful first (R8)."""
    lacked: list[Certificate] = []
    if status.finalized_view < tree.final.view and tree.final.certificate is not None:
        lacked.append(tree.final.certificate)
    if status.current_view < view:
        best = best_certificate(tree, view)
        if best is not None and best not in lacked:
            lacked.append(best)
    for each in tree.certificates.views():
        if each >= status.current_view:
            lacked += [certificate.plain for certificate in tree.certificates.of(each)]
        if len(lacked) >= CERTIFICATES_PER_STATUS_MAX:
            break
    return lacked[:CERTIFICATES_PER_STATUS_MAX]


def is_ahead(status: Status, ours: Status) -> bool:
    """Whether somebody of our epoch knows more than we do."""
    return status.finalized_view > ours.finalized_view or status.current_view > ours.current_view
