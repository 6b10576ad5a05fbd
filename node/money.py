"""Amounts of money as people read and type them: NOCK with at most nine decimals, exact in both directions."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from node.toml_table import scaled
from protocol.limits import NANO_PER_NOCK, SUPPLY_NANO_MAX
from protocol.rejection import Reason, Rejected

_DECIMAL: Final = re.compile(r"(?:[0-9]{1,10}|[0-9]{1,3}(?:,[0-9]{3}){1,3})(?:\.[0-9]{1,18})?")
_DIGITS: Final = len(str(NANO_PER_NOCK)) - 1
_read = scaled(0, SUPPLY_NANO_MAX // NANO_PER_NOCK, NANO_PER_NOCK, "10^-9 NOCK: at most nine decimal places")


def nock_text(amount_nano: int) -> str:
    """``1,234.5 NOCK``."""
    whole, rest = divmod(amount_nano, NANO_PER_NOCK)
    decimals = f".{rest:0{_DIGITS}}".rstrip("0").rstrip(".")
    return f"{whole:,}{decimals} NOCK"


def parse_nock(text: str, what: str) -> int:
    """Nano from an amount in NOCK, with or without separators of thousands; ``Rejected(BAD_ARGUMENT)`` names ``what``."""
    word = text.strip()
    if not _DECIMAL.fullmatch(word):
        raise Rejected(Reason.BAD_ARGUMENT, f"{what} is {text[:40]!r}, it must be an amount in NOCK, such as 12.5")
    try:
        return int(_read(Fraction(word.replace(",", ""))))
    except ValueError as error:
        raise Rejected(Reason.BAD_ARGUMENT, f"{what} is {word}, it {error}") from None
