"""Keys at rest, and the word by which a member is introduced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.keys import (
    KEY_NAMES,
    PASSPHRASE_VARIABLE,
    card_text,
    check_key_files,
    create_keys,
    have_keys,
    load_keys,
    parse_card,
)
from protocol.keys import KeyPair
from protocol.rejection import Reason, Rejected
from protocol.roster import MemberCard

CARD = MemberCard.bind(*(KeyPair(bytes([number]) * 32) for number in (1, 2, 3)))


def test_keys_are_three_private_files_that_come_back(tmp_path):
    """New keys are three files of 32 bytes and mode 0600, and are read back as they were made."""
    assert not have_keys(tmp_path)
    made = create_keys(tmp_path / "keys")
    files = [tmp_path / "keys" / f"{name}.key" for name in KEY_NAMES]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 3
    assert [file.stat().st_size for file in files] == [32] * 3
    assert load_keys(tmp_path / "keys").card() == made.card()
    assert check_key_files(tmp_path / "keys") == []


def test_a_key_is_never_overwritten(tmp_path):
    """Where a key is, no new ones are made, and the old one stays as it was."""
    made = create_keys(tmp_path)
    with pytest.raises(Rejected, match="not overwritten") as caught:
        create_keys(tmp_path)
    assert caught.value.reason is Reason.BAD_DATA_DIRECTORY
    assert load_keys(tmp_path).peer == made.peer


def test_a_key_that_others_can_read_is_refused(tmp_path):
    """A wider mode than 0600 is refused with the command that repairs it."""
    create_keys(tmp_path)
    (tmp_path / "vote.key").chmod(0o640)
    with pytest.raises(Rejected, match=r"mode 0640\); run: chmod 600 .*vote.key"):
        load_keys(tmp_path)
    assert len(check_key_files(tmp_path)) == 1


def test_a_missing_or_damaged_key_is_refused(tmp_path):
    """A key that is gone or has another size is told by name."""
    create_keys(tmp_path)
    (tmp_path / "node.key").write_bytes(b"short")
    with pytest.raises(Rejected, match=r"node.key is damaged \(5 bytes\)"):
        load_keys(tmp_path)
    (tmp_path / "node.key").unlink()
    with pytest.raises(Rejected, match=r"there is no key .*node.key"):
        load_keys(tmp_path)


def test_encrypted_keys_open_with_their_passphrase_only(tmp_path):
    """Keys made with a passphrase hold no seed in the clear and open with it, from the environment or the terminal."""
    made = create_keys(tmp_path, "right")
    assert made.node.seed not in (tmp_path / "node.key").read_bytes()
    assert load_keys(tmp_path, lambda: "right", {}).card() == made.card()
    assert load_keys(tmp_path, None, {PASSPHRASE_VARIABLE: "right"}).peer == made.peer
    with pytest.raises(Rejected, match="passphrase does not open"):
        load_keys(tmp_path, lambda: "wrong", {})
    with pytest.raises(Rejected, match=PASSPHRASE_VARIABLE):
        load_keys(tmp_path, None, {})


def test_a_card_travels_as_one_word():
    """A card's word is letters and digits, in either case, and comes back as the card."""
    word = card_text(CARD)
    assert word.startswith("nock1")
    assert word.isalnum()
    assert parse_card(f" {word.upper()}\n") == CARD


@given(st.integers(5, 486), st.sampled_from("abcdefgh234567"))
def test_a_mistyped_card_is_refused(position, letter):
    """One wrong letter anywhere in a card is noticed."""
    word = card_text(CARD)
    changed = word[:position] + letter + word[position + 1 :]
    if changed != word:
        with pytest.raises(Rejected) as caught:
            parse_card(changed)
        assert caught.value.reason is Reason.BAD_ARGUMENT


@given(st.text(max_size=600))
def test_no_text_breaks_the_reading_of_cards(text):
    """Any text is a card or a Rejected."""
    for word in (text, "nock1" + text):
        with pytest.raises(Rejected):
            parse_card(word)
