"""A text in pieces ends where the whole would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.stop_text import StopText

WORDS = st.text("ab\n", max_size=12)


@given(st.lists(WORDS, max_size=8), st.lists(st.text("ab\n", max_size=4), max_size=3))
def test_pieces_end_where_their_sum_would(pieces: list[str], stops: list[str]) -> None:
    """Before the first of the strings, wherever the pieces are cut; what is shown is never taken back."""
    cut, shown = StopText(stops), ""
    for piece in pieces:
        shown += cut.push(piece)
    shown += cut.finish()
    text = "".join(pieces)
    # The first that is complete, and of several that end together the one that begins first.
    ends = [(place + len(stop), place) for stop in stops if stop and (place := text.find(stop)) >= 0]
    assert cut.is_found == bool(ends)
    if not ends:
        assert shown == text
    else:
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops if stop)
        assert len(shown) <= min(place for _, place in ends) or shown == text[: min(place for _, place in ends)]


@given(st.lists(WORDS, max_size=8), st.text("ab", min_size=1, max_size=3))
def test_one_string_ends_it_exactly_where_it_begins(pieces: list[str], stop: str) -> None:
    """As ``partition`` cuts the whole text."""
    cut = StopText([stop])
    shown = "".join(cut.push(piece) for piece in pieces) + cut.finish()
    assert shown == "".join(pieces).partition(stop)[0]
