"""What a node says that it verified about itself, and when.

A badge is signed, so that it can be shown to others and held against its node: it names the state and the weights that the node
had, which anybody who follows the chain can compare. That it read its disk again is its own word. Source: 001 lines 887-894
("Runtime Attestation Badge").
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta
from msgspec.structs import replace

from protocol.codec import Message, decode, encode
from protocol.digest import Domain, digest
from protocol.ids import Digest, DigestField, HeightField, Natural, NetworkField, PeerField, Signature, SignatureField
from protocol.keys import KeyPair, verify
from protocol.limits import KIB, TEXT_BYTES_MAX
from protocol.rejection import Reason, Rejected

BADGE_BYTES_MAX: Final = 1 * KIB


class Badge(Message, frozen=True):
    """One node's word about itself. Times are milliseconds by its clock, counts are since its start.

    ``height`` and ``state_root``: of the newest block that it executed itself. ``model``: ``protocol.answers.model_digest`` of
    the newest weights on its disk, each of whose roots was compared with the chain's; zeros where it has not all yet.
    ``tiles_read`` of its ``tiles`` were read from the disk again, page by page, since ``read_since_ms``; ``tiles_mended``: how
    often one was damaged and made again. ``answers_checked``: rows of peers that it computed again, ``answers_wrong`` of which
    were wrong; ``audits``: answers that it computed again whole, ``audits_wrong`` of which the model does not say.
    """

    network: NetworkField
    node: PeerField
    software: Annotated[str, Meta(max_length=TEXT_BYTES_MAX)]
    made_ms: Natural
    started_ms: Natural
    height: HeightField
    state_root: DigestField
    model: DigestField
    tiles: Natural
    tiles_read: Natural
    read_since_ms: Natural
    tiles_mended: Natural
    answers_checked: Natural
    answers_wrong: Natural
    audits: Natural
    audits_wrong: Natural
    signature: SignatureField


def _badge_text(badge: Badge) -> Digest:
    return digest(Domain.BADGE, encode(replace(badge, signature=Signature(bytes(64)))))


def sign_badge(unsigned: Badge, key: KeyPair) -> Badge:
    """The same badge with its node's signature."""
    return replace(unsigned, signature=key.sign(_badge_text(unsigned)))


def read_badge(text: object) -> Badge:
    """A badge from its bytes in hexadecimal. Raises ``Rejected(MALFORMED)`` and what decoding raises."""
    try:
        data = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        data = b""
    return decode(Badge, data, limit_bytes=BADGE_BYTES_MAX)


def check_badge(badge: Badge) -> None:
    """Raises ``Rejected(BAD_SIGNATURE)`` unless the node said this."""
    if not verify(badge.node, _badge_text(badge), badge.signature):
        raise Rejected(Reason.BAD_SIGNATURE, "a node's word about itself")
