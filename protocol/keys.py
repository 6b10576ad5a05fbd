"""Ed25519 key pairs from 32-byte seeds; entropy and files come from outside.

A member has three keys (DESIGN 4): node (its peer id, hot), vote (touched by the vote signer alone), account (may stay
offline). They are bound by signing each other's public keys, so that nobody registers a key that is not theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from protocol.ids import Signature


class KeyPair:
    """A private key and its public half."""

    __slots__ = ("_signing", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError("an Ed25519 seed has exactly 32 bytes")
        self._signing = SigningKey(seed)
        self.public: bytes = bytes(self._signing.verify_key)

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """The key pair of a 32-byte seed."""
        return cls(seed)

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes."""
        return bytes(self._signing)

    def sign(self, message: bytes) -> Signature:
        """A 64-byte signature."""
        return Signature(self._signing.sign(message).signature)

    def __repr__(self) -> str:  # never print the seed
        return f"KeyPair({self.public[:4].hex()})"


def _check(public: bytes, message: bytes, signature: bytes) -> bool:
    if len(public) != 32 or len(signature) != 64:
        return False
    try:
        VerifyKey(public).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


_verifiers: list[Callable[[bytes, bytes, bytes], bool]] = [_check]  # the last one counts


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is by the holder of ``public`` over ``message``. Never raises on hostile input."""
    return _verifiers[-1](public, message, signature)


def begin_remembering(signatures_max: int) -> None:
    """From now on a signature that was checked lately is not checked again, until ``end_remembering``.

    For a process that plays hundreds of nodes, all of which hear the same bytes. A node of its own gains nothing from it.
    """
    _verifiers.append(lru_cache(signatures_max)(_check))


def end_remembering() -> None:
    """Forget what the last ``begin_remembering`` began to remember."""
    if len(_verifiers) > 1:
        _verifiers.pop()
