"""On which fork of its network's chain a node is, and on which its operator wants it to be (docs/recovery.md).

    recovery.bin, a file of the data directory        SignedRecovery: what config.toml names by its digest
    own_key("fork")                                   ForkRow: what was adopted; the chain goes on from its anchor

A node that was told of a recovery and has not reached its anchor is still on the fork before: it fetches blocks up to there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consensus.light_client import LightClientRule, Trust
from consensus.recovery import CheckedRecovery, check_form, check_recovery
from protocol.codec import Message, decode, encode
from protocol.finality import ChainId
from protocol.genesis import Genesis
from protocol.ids import Digest, DigestField, parse_hex32
from protocol.limits import KIB, RECOVERY_BYTES_MAX
from protocol.recovery import SignedRecovery, decode_recovery
from protocol.rejection import Reason, Rejected
from storage.files import Files
from storage.keys import own_key
from storage.kv import Batch, KeyValue

RECOVERY_FILE: Final = "recovery.bin"
_FORK: Final = own_key("fork")


class ForkRow(Message, frozen=True):
    """What was adopted. ``state_root`` is that of the state with which the fork begins: no header names it."""

    signed: SignedRecovery
    state_root: DigestField


@dataclass(frozen=True, slots=True)
class Fork:
    """A recovery that this node has adopted, or is to adopt; ``state_root`` None until then."""

    signed: SignedRecovery
    checked: CheckedRecovery
    state_root: Digest | None

    @property
    def chain(self) -> ChainId:
        return self.signed.recovery.chain

    @property
    def height(self) -> int:
        """Of the anchor."""
        return self.signed.recovery.anchor.header.height


def find_fork(index: KeyValue, genesis: Genesis) -> Fork | None:
    """What was adopted; None on the chain's first fork."""
    raw = index.get(_FORK)
    if raw is None:
        return None
    row = decode(ForkRow, raw, limit_bytes=RECOVERY_BYTES_MAX + KIB)
    return Fork(row.signed, check_form(row.signed.recovery, genesis.chain.epoch_heights), row.state_root)


def put_fork(batch: Batch, signed: SignedRecovery, state_root: Digest) -> None:
    """Add to ``batch`` that a recovery is adopted."""
    batch.put(_FORK, encode(ForkRow(signed, state_root)))


def forget_fork(batch: Batch) -> None:
    """Add to ``batch`` that none is."""
    batch.delete(_FORK)


def trust_of(fork: Fork | None, genesis: Genesis) -> tuple[Trust, LightClientRule]:
    """Where proofs of what is final begin, and their rule: at a recovery's anchor, or None at the genesis."""
    if fork is None:
        return Trust.genesis(genesis), LightClientRule.of(genesis)
    return fork.checked.trust, LightClientRule.of(genesis, fork.chain.fork)


def check_signed(data: bytes | memoryview, genesis: Genesis) -> Fork:
    """A recovery of a network, checked whole. Raises ``Rejected`` as ``check_recovery``."""
    signed = decode_recovery(data)
    checked = check_recovery(signed, rule_before(signed, genesis))
    return Fork(signed, checked, None)


def rule_before(signed: SignedRecovery, genesis: Genesis) -> LightClientRule:
    """The rule by which a recovery's anchor is final."""
    return LightClientRule.of(genesis, signed.recovery.anchor.header.chain.fork)


def find_pending(files: Files, adopt: str, genesis: Genesis, adopted: Fork | None) -> Fork | None:
    """What the configuration says to adopt (``recovery.adopt``; empty: nothing), where that was not done yet.

    Raises ``Rejected(BAD_DATA_DIRECTORY)`` where the file is missing or another one, ``Rejected`` where it does not hold.
    """
    if not adopt or (adopted is not None and adopted.signed.recovery.digest() == parse_hex32(adopt, "recovery.adopt")):
        return None
    try:
        data = bytes(files.read(RECOVERY_FILE))
    except FileNotFoundError:
        raise Rejected(
            Reason.BAD_DATA_DIRECTORY,
            f"config.toml says to adopt the recovery {adopt[:16]}..., and there is no {RECOVERY_FILE}: "
            "run `nocknode recovery adopt FILE`",
        ) from None
    fork = check_signed(data, genesis)
    if fork.signed.recovery.digest().hex() != adopt:
        raise Rejected(
            Reason.BAD_DATA_DIRECTORY,
            f"{RECOVERY_FILE} is the recovery {fork.signed.recovery.digest().hex()}, config.toml names another one",
        )
    if adopted is not None and fork.signed.recovery.fork <= adopted.signed.recovery.fork:
        raise Rejected(Reason.REVERTS_FINAL, f"fork {adopted.signed.recovery.fork} was adopted here already")
    return fork
