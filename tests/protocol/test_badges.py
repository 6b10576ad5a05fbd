"""A node's word about itself is its own, field by field."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from protocol.badges import check_badge, read_badge
from protocol.codec import encode
from protocol.rejection import Reason, Rejected
from tests.protocol.samples import NODE_KEYS, badge


@pytest.mark.parametrize("field", badge().__struct_fields__)
def test_every_field_of_a_badge_is_signed(field: str) -> None:
    """Whoever changes one has no signature for it."""
    said = badge()
    check_badge(read_badge(encode(said).hex()))
    value = getattr(said, field)
    other = {int: lambda: value + 1, str: lambda: value + "!", bytes: lambda: bytes(len(value))}[type(value)]()
    if field == "node":
        other = NODE_KEYS[1].public
    with pytest.raises(Rejected) as refusal:
        check_badge(replace(said, **{field: other}))
    assert refusal.value.reason is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("text", [None, 5, "", "x", "80", "ff" * 2_000])
def test_what_is_no_badge_is_refused(text: object) -> None:
    """Whatever stands in its place in a file."""
    with pytest.raises(Rejected):
        read_badge(text)
