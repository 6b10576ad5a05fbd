"""Addresses: every account has one, and a mistyped one is nobody's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.account_address import account_text, bech32m_text, parse_account
from node.keys import card_text
from protocol.ids import AccountId
from protocol.rejection import Reason, Rejected
from tests.consensus.ledger_samples import CARDS

ACCOUNT = AccountId(bytes(range(32)))
ADDRESS = "nocka1qqqsyqcyq5rqwzqfpg9scrgwpugpzysnzs23v9ccrydpk8qarc0sng6tjp"
LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def test_the_checksum_is_the_one_of_bip_350():
    """Two of BIP 350's own vectors: no words, and every word downwards."""
    assert bech32m_text("a", []) == "a1lqfn3a"
    assert bech32m_text("abcdef", list(range(31, -1, -1))) == "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx"


def test_an_address_is_pinned():
    """People have written them down."""
    assert account_text(ACCOUNT) == ADDRESS


@given(st.binary(min_size=32, max_size=32).map(AccountId))
def test_an_account_comes_back_from_its_address(account):
    """In small letters and in capitals, as a QR code has them."""
    text = account_text(account)
    assert len(text) == 64
    assert parse_account(text) == parse_account(text.upper()) == account


@given(
    st.lists(st.tuples(st.integers(6, 63), st.sampled_from(LETTERS)), min_size=1, max_size=4),
    st.binary(min_size=32, max_size=32).map(AccountId),
)
def test_up_to_four_wrong_letters_are_found(changes, account):
    """What bech32m promises."""
    letters = list(account_text(account))
    for place, letter in changes:
        letters[place] = letter
    word = "".join(letters)
    if word != account_text(account):
        with pytest.raises(Rejected, match="cut short or mistyped"):
            parse_account(word)


@given(st.text(max_size=90) | st.text(LETTERS, max_size=90).map(lambda text: "nocka1" + text))
def test_anything_else_is_refused(text):
    """Nothing but an address is one, and nothing raises but ``Rejected``."""
    with pytest.raises(Rejected) as caught:
        parse_account(text)
    assert caught.value.reason is Reason.BAD_ARGUMENT


@pytest.mark.parametrize(
    "word", [card_text(CARDS[0]), "ab" * 32, "", ADDRESS[:-1], ADDRESS + "q", ADDRESS[:40].upper()]
)
def test_what_is_near_an_address_is_refused_with_the_remedy(word):
    """A member word, a key in hexadecimal, a part of an address."""
    with pytest.raises(Rejected, match=r"begin with nocka1|copy the whole word"):
        parse_account(word)
