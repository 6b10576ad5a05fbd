"""An account's address as people type it: bech32m, as Bitcoin and Cosmos use it (BIP 173, BIP 350).

    nocka1 | 52 letters of five bits each: the 32-byte key and four zero bits | 6 letters of checksum        64 characters

The checksum finds every mistake in up to four letters; of worse ones it misses one in a billion. The alphabet has no 1, b, i
or o. The prefix differs from a member card's (``nock1``), so that neither is taken for the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import xor
from typing import Final

from protocol.ids import AccountId
from protocol.rejection import Reason, Rejected

ADDRESS_PREFIX: Final = "nocka"

_ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_BECH32M: Final = 0x2BC830A3  # BIP 350: what a right checksum leaves over
_CHECKSUM_LETTERS: Final = 6
_KEY_LETTERS: Final = 52


def account_text(account: AccountId) -> str:
    """The address of an account: ``nocka1...``."""
    number = int.from_bytes(account, "big") << 4
    return bech32m_text(ADDRESS_PREFIX, [number >> 5 * place & 31 for place in reversed(range(_KEY_LETTERS))])


def parse_account(text: str) -> AccountId:
    """The inverse of :func:`account_text`, all in small or all in capital letters; raises ``Rejected(BAD_ARGUMENT)``."""
    word = text.lower() if text == text.upper() else text
    shown = text if len(text) <= 24 else text[:21] + "..."
    if not word.startswith(f"{ADDRESS_PREFIX}1"):
        raise Rejected(
            Reason.BAD_ARGUMENT,
            f"{shown!r} is no address: they begin with {ADDRESS_PREFIX}1, and `nocknode wallet` prints one's own",
        )
    letters = [_ALPHABET.find(letter) for letter in word[len(ADDRESS_PREFIX) + 1 :][: _KEY_LETTERS + 7]]
    number = 0
    for letter in letters[:_KEY_LETTERS]:
        number = number << 5 | letter & 31
    account = AccountId((number >> 4).to_bytes(33, "big")[-32:])
    if account_text(account) != word:
        raise Rejected(Reason.BAD_ARGUMENT, f"the address {shown!r} is cut short or mistyped: copy the whole word")
    return account


def bech32m_text(prefix: str, words: Sequence[int]) -> str:
    """Five-bit words with their prefix and checksum."""
    values = [*(ord(letter) >> 5 for letter in prefix), 0, *(ord(letter) & 31 for letter in prefix), *words]
    left = _polymod([*values, *[0] * _CHECKSUM_LETTERS]) ^ _BECH32M
    checksum = [left >> 5 * place & 31 for place in reversed(range(_CHECKSUM_LETTERS))]
    return f"{prefix}1{''.join(_ALPHABET[word] for word in [*words, *checksum])}"


def _polymod(values: Iterable[int]) -> int:
    """The remainder of BIP 173's code."""
    remainder = 1
    for value in values:
        remainder = (remainder & 0x1FFFFFF) << 5 ^ value ^ _TERMS[remainder >> 25]
    return remainder


def _term(top: int) -> int:
    """What five bits that leave the remainder at its top put back into it."""
    return reduce(xor, (term for bit, term in enumerate(_GENERATOR) if top >> bit & 1), 0)


_TERMS: Final = tuple(_term(top) for top in range(32))
