"""What a light client is given: certified headers, each with the roster that made its certificate (chain.md 2.9).

    proof = [ [header, certificate, roster | nil], ...   one for each step; the last is the target
              state proof | nil ]                        one entry of the target's state

A roster is left out where the reader holds it: in a step that stays in the epoch of the one before. The rules that decide
whether a proof holds are in ``consensus/light_client.py``.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from protocol.codec import Message, decode
from protocol.finality import Certificate, Header
from protocol.limits import LIGHT_CLIENT_BLOCKS_MAX, LIGHT_CLIENT_PROOF_BYTES_MAX
from protocol.roster import Roster
from protocol.state_proof import StateProof


class LightBlock(Message, frozen=True):
    """A header with its FINALIZE certificate and the roster of its epoch."""

    header: Header
    certificate: Certificate
    roster: Roster | None


class LightClientProof(Message, frozen=True):
    """Steps from something trusted to the last block, and perhaps an entry of that block's state."""

    blocks: Annotated[tuple[LightBlock, ...], Meta(min_length=1, max_length=LIGHT_CLIENT_BLOCKS_MAX)]
    entry: StateProof | None


def decode_light_client_proof(data: bytes | bytearray | memoryview) -> LightClientProof:
    """Raises ``Rejected`` (TOO_LARGE, MALFORMED, NOT_CANONICAL). Nothing in it is checked yet."""
    return decode(LightClientProof, data, limit_bytes=LIGHT_CLIENT_PROOF_BYTES_MAX)
