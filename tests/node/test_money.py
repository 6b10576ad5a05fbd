"""Amounts as text: exact in both directions, and nothing is guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.money import nock_text, parse_nock
from protocol.limits import NANO_PER_NOCK, SUPPLY_NANO_MAX
from protocol.rejection import Reason, Rejected


@given(st.integers(0, SUPPLY_NANO_MAX))
def test_an_amount_comes_back_from_its_text(amount_nano):
    """With or without the separators of thousands."""
    number = nock_text(amount_nano).removesuffix(" NOCK")
    assert parse_nock(number, "AMOUNT") == parse_nock(number.replace(",", ""), "AMOUNT") == amount_nano


@pytest.mark.parametrize(
    ("amount_nano", "text"),
    [
        (0, "0 NOCK"),
        (1, "0.000000001 NOCK"),
        (1_500_000_000, "1.5 NOCK"),
        (1_234_567 * NANO_PER_NOCK, "1,234,567 NOCK"),
        (SUPPLY_NANO_MAX, "1,000,000,000 NOCK"),
    ],
)
def test_amounts_are_readable(amount_nano, text):
    """Thousands are separated, zeros at the end are left out."""
    assert nock_text(amount_nano) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1e9",
        "-1",
        "+1",
        "1,5",
        "1 000",
        "1.",
        ".5",
        "0x10",
        "nan",
        "inf",
        "1.0000000001",
        "1000000000.1",
        "9" * 99,
        "١",
    ],
)
def test_what_is_no_amount_is_refused(text):
    """Exponents, signs, tenths of a nano, more than there is: a sentence that names what was meant."""
    with pytest.raises(Rejected, match="AMOUNT is") as caught:
        parse_nock(text, "AMOUNT")
    assert caught.value.reason is Reason.BAD_ARGUMENT
