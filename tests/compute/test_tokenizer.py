"""Text survives the tokenizer, and any ids decode."""

from __future__ import annotations

import numpy
from hypothesis import given
from hypothesis import strategies as st

from compute.tokenizer import END, StreamDecoder, decode, encode, tokens_of_bytes


@given(st.text())
def test_text_survives(text):
    """Lone surrogates aside, which no UTF-8 holds."""
    assert decode(encode(text)) == text.encode("utf-8", "replace").decode()
    assert encode(text)[0] == END


@given(st.lists(st.integers(-5, 400)))
def test_any_ids_decode_and_a_stream_says_the_same(tokens):
    """Parts joined equal the whole; nothing is raised."""
    decoder = StreamDecoder()
    assert "".join(decoder.push(token) for token in tokens) + decoder.finish() == decode(tokens)


def test_a_character_appears_once_it_is_whole():
    """The euro sign takes three bytes."""
    decoder = StreamDecoder()
    assert [decoder.push(token) for token in encode("€")[1:]] == ["", "", "€"]
    assert decoder.finish() == ""


def test_separators_become_end():
    """NUL ends a document."""
    assert tokens_of_bytes(numpy.array([[65, 0]], dtype=numpy.uint8)).tolist() == [[65, END]]
