"""Texts from anywhere become elements only when we say so."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simnet.markup import UNPRINTABLE, Markup, clip, escape, join, number, tag

HOSTILE = [
    "<script>alert(1)</script>",
    "\"'&amp;]]>",
    "a\x00b\x1b[31m",
    "half \ud800 a pair",
    "\u202eright to left",
    "</title>",
]


@given(st.text() | st.sampled_from(HOSTILE))
def test_any_text_comes_back_as_text_and_as_an_attribute(text):
    """Well-formed XML that says what was said, but for signs that nobody can print."""
    element = ElementTree.fromstring(tag("p", text, data_says=text))
    printable = UNPRINTABLE.sub("\ufffd", text)
    assert len(element) == 0
    assert (element.text or "") == printable
    # XML reads any white space in an attribute as a space.
    assert element.get("data-says") == printable.replace("\n", " ").replace("\t", " ")


@given(st.text())
def test_what_is_made_can_be_written_to_a_file(text):
    """Halves of surrogate pairs, which no encoding has, are replaced."""
    escape(text).encode("utf-8")


def test_markup_is_not_escaped_again():
    """An element in an element stays one, and so does what is joined."""
    inner = tag("b", "1 < 2")
    assert tag("p", inner, " & more") == "<p><b>1 &lt; 2</b> &amp; more</p>"
    assert join(inner, "<", between=" ") == "<b>1 &lt; 2</b> &lt;"
    assert isinstance(escape(inner), Markup)


def test_names_of_attributes_are_those_of_svg():
    """A word that Python keeps for itself ends in a line below; an attribute of None is not there."""
    assert tag("path", class_="line", stroke_width=1.5, viewBox="0 0 1 1", fill=None) == (
        '<path class="line" stroke-width="1.5" viewBox="0 0 1 1"/>'
    )


def test_only_empty_elements_close_themselves():
    """HTML takes the slash of ``<div/>`` for nothing, and the rest of the page for its children."""
    assert [tag("div"), tag("br"), tag("rect", x=1)] == ["<div></div>", "<br/>", '<rect x="1"></rect>']


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (2.0, "2"), (1.25, "1.25"), (0.1 + 0.2, "0.3"), (-0.001, "0"), (10.0, "10")]
)
def test_coordinates_are_short(value, text):
    """To a hundredth, which is less than a pixel."""
    assert number(value) == text


def test_a_long_name_is_cut_where_it_can_be_seen():
    """With a sign that there was more."""
    assert [clip("abc", 3), clip("abcd", 3)] == ["abc", "ab…"]
