"""Who signed a certificate: a bitmap over the roster's members, and more than two thirds of its weight.

bitmap of signers: ceil(n / 8) bytes, member i is bit i % 8 of byte i // 8, bits from n on are zero
signatures are beside it, in ascending order of signer
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from protocol.ids import MemberIndex, Signature
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster

Verify = Callable[[bytes, bytes, bytes], bool]  # (public key, message, signature)


def signer_bitmap(signers: Iterable[MemberIndex], members: int) -> bytes:
    """The bitmap in which these of so many members are set."""
    bitmap = bytearray((members + 7) // 8)
    for signer in signers:
        bitmap[signer // 8] |= 1 << signer % 8
    return bytes(bitmap)


def signers_in(bitmap: bytes) -> list[MemberIndex]:
    """The members whose bits are set, ascending."""
    bits = int.from_bytes(bitmap, "little")
    return [MemberIndex(index) for index in range(bits.bit_length()) if bits >> index & 1]


def check_signers(bitmap: bytes, signatures: Sequence[Signature], roster: Roster) -> list[MemberIndex]:
    """The members that a certificate names, ascending. What they signed is the caller's to verify, after this.

    Raises ``Rejected``: MALFORMED (bitmap of another length, stray bits, another number of signatures), NO_QUORUM.
    """
    if len(bitmap) != (len(roster.members) + 7) // 8:
        raise Rejected(Reason.MALFORMED, "the bitmap has another length than the roster")
    signers = signers_in(bitmap)
    if signers and signers[-1] >= len(roster.members):
        raise Rejected(Reason.MALFORMED, "the bitmap names a member that does not exist")
    if len(signers) != len(signatures):
        raise Rejected(Reason.MALFORMED, "as many signatures as signers")
    if not roster.is_quorum(sum(roster.weights[signer] for signer in signers)):
        raise Rejected(Reason.NO_QUORUM, f"{len(signers)} of {len(roster.members)} members")
    return signers
