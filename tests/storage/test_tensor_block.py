"""A block is one byte string for one tensor; anything else is refused before a view of it is taken."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import PAGE_BYTES
from protocol.merkle import leaf_digest
from protocol.rejection import Reason, Rejected
from storage.tensor_block import (
    DATA_ALIGNMENT_BYTES,
    DIGEST_BYTES,
    BlockShape,
    Dtype,
    Layout,
    PageVerifier,
    Quantisation,
    block_root,
    build_block,
    check_block,
)

shapes = st.builds(
    BlockShape,
    st.sampled_from(Dtype),
    st.integers(1, 40),
    st.integers(1, 3000),
    st.sampled_from(Layout),
    st.sampled_from(Quantisation),
)


def whole(shape: BlockShape, data: bytes, scales: bytes = b"") -> bytes:
    return b"".join(build_block(shape, [data], scales)[0])


def small() -> bytes:
    """A block of three pages."""
    shape = BlockShape(Dtype.INT8, 2, 70_000, quantisation=Quantisation.ROW_SCALES)
    return whole(shape, bytes(range(250)) * 560, struct.pack("<2f", 0.5, 2.0))


def test_golden_blocks(vector):
    """The bytes and roots of two blocks are those that an independent program wrote."""
    for golden in vector("tensor_block"):
        shape = BlockShape(
            Dtype[golden["dtype"]],
            golden["rows"],
            golden["columns"],
            Layout[golden["layout"]],
            Quantisation[golden["quantisation"]],
        )
        data = (
            bytes((7 * i + 3) % 256 for i in range(160_000))
            if golden["data"] is None
            else bytes.fromhex(golden["data"])
        )
        pieces, root = build_block(shape, [data], bytes.fromhex(golden["scales"]))
        file = b"".join(pieces)
        front = bytes.fromhex(golden["header"] + golden["scales"]) + bytes(golden["zero_padding_bytes"])
        assert file == front + data + bytes.fromhex(golden["index"])
        assert hashlib.sha256(file).hexdigest() == golden["file_sha256"]
        assert root.hex() == golden["root"]
        assert check_block(memoryview(file)).shape == shape


@given(shapes, st.data())
def test_round_trip(shape, data):
    """What was built is what is read: shape, scales, data, root; and the data begin at a page of memory."""
    values = data.draw(st.binary(min_size=1, max_size=8)) * shape.data_bytes
    values, scales = values[: shape.data_bytes], b"\x01\x02\x03\x04" * (shape.scale_bytes // 4)
    cut = data.draw(st.integers(0, len(values)))
    pieces, root = build_block(shape, [values[:cut], values[cut:]], scales)
    block = check_block(memoryview(b"".join(pieces)))
    assert block.shape == shape
    assert (block.data, block.scales, block.root) == (values, scales, root)
    assert shape.data_offset % DATA_ALIGNMENT_BYTES == 0
    assert block_root(shape, [values], scales) == root
    verifier = PageVerifier(block, root, "block")
    verifier.check_all()
    assert verifier.pending_count == 0


@given(st.integers(0, len(small()) - 1), st.integers(1, 255))
def test_a_changed_byte_is_always_found(at, mask):
    """Whatever byte changes, either the structure is refused or a page or the index contradicts the root."""
    good = small()
    root = check_block(memoryview(good)).root
    bad = bytearray(good)
    bad[at] ^= mask
    with pytest.raises(Rejected):
        PageVerifier(check_block(memoryview(bad)), root, "block").check_all()


@given(st.binary(max_size=300), st.integers(0, 9000))
def test_noise_is_only_ever_rejected(noise, zeros):
    """Random bytes, with or without the magic, give ``Rejected`` and nothing else."""
    for image in (noise, b"TBLOCK01" + noise, b"TBLOCK01\x01\0\0\0" + noise, noise + bytes(zeros)):
        with pytest.raises(Rejected):
            check_block(memoryview(image))


@given(st.integers(0, len(small()) - 1))
def test_a_block_cut_short_is_rejected(length):
    """No proper prefix of a block is a block."""
    with pytest.raises(Rejected):
        check_block(memoryview(small())[:length])


@pytest.mark.parametrize(
    ("offset", "field", "says"),
    [
        (0, b"TBLOCK02", "not a TBLOCK01"),
        (8, struct.pack("<I", 2), "version"),
        (12, struct.pack("<I", 7), "dtype 7"),
        (16, struct.pack("<Q", 0), "empty shape"),
        (16, struct.pack("<Q", 2**63), "bytes where its shape needs"),  # rows x columns exceeds 64 bits
        (24, struct.pack("<Q", 2**64 - 1), "bytes where its shape needs"),
        (32, struct.pack("<I", 2), "layout 2"),
        (36, struct.pack("<I", 2), "quantisation 2"),
        (40, struct.pack("<Q", 120), "offsets"),  # scales over the header
        (48, struct.pack("<Q", 4097), "offsets"),  # unaligned data
        (48, struct.pack("<Q", 0), "offsets"),  # data over the header
        (56, struct.pack("<Q", 4096), "offsets"),  # the index over the data
        (56, struct.pack("<Q", 2**64 - 8), "offsets"),
        (127, b"\x01", "reserved"),
        (4095, b"\x01", "padding"),
    ],
)
def test_a_header_that_lies_is_rejected(offset, field, says):
    """Every field is checked before a view is taken, and the sentence names what is wrong."""
    bad = bytearray(small())
    bad[offset : offset + len(field)] = field
    with pytest.raises(Rejected, match=says) as caught:
        check_block(memoryview(bad), "block of a peer")
    assert caught.value.reason is Reason.BAD_BLOCK
    assert "block of a peer" in str(caught.value)


def test_pages_are_checked_on_first_use_and_once():
    """A wrong page hurts only who asks for it; a page that was checked is not read again."""
    image = bytearray(small())
    block = check_block(memoryview(image))
    verifier = PageVerifier(block, block.root, "block")
    image[PAGE_BYTES + 5] ^= 1
    verifier.check_bytes(0, PAGE_BYTES)
    assert verifier.pending_count == 2
    with pytest.raises(Rejected, match="page 1 of 3"):
        verifier.check_bytes(PAGE_BYTES - 1, PAGE_BYTES + 1)
    image[PAGE_BYTES + 5] ^= 1
    verifier.check_all()
    image[0] ^= 1
    verifier.check_bytes(0, 10)  # checked before it changed


def test_a_page_changed_together_with_its_leaf_is_found():
    """The leaves in a file are believed only as far as they lead to the root: forging one, or the root, is found."""
    good = check_block(memoryview(small()))
    forged = bytearray(small())
    forged[PAGE_BYTES] ^= 1
    leaf_at = good.shape.root_offset + DIGEST_BYTES * 2
    forged[leaf_at : leaf_at + DIGEST_BYTES] = leaf_digest(forged[PAGE_BYTES : 2 * PAGE_BYTES])
    with pytest.raises(Rejected, match="does not lead to root"):
        PageVerifier(check_block(memoryview(forged)), good.root, "block")
    unrooted = bytearray(small())
    unrooted[good.shape.root_offset] ^= 1
    for root in (good.root, check_block(memoryview(unrooted)).root):
        with pytest.raises(Rejected, match="does not lead to root"):
            PageVerifier(check_block(memoryview(unrooted)), root, "block")


def test_a_foreign_root_is_refused():
    """A block whose own index is sound is still refused under another root."""
    block = check_block(memoryview(small()))
    other = block_root(BlockShape(Dtype.UINT8, 1, 1), [b"x"])
    with pytest.raises(Rejected, match="does not lead to root"):
        PageVerifier(block, other, "block")


@pytest.mark.parametrize("data", [b"", b"12345", b"1234567"])
def test_building_with_the_wrong_size_is_a_mistake_of_the_caller(data):
    """Sizes that do not fill the shape are ``ValueError``, not ``Rejected``: the data is ours."""
    with pytest.raises(ValueError, match="do not fill"):
        build_block(BlockShape(Dtype.FLOAT16, 1, 3), [data])
    with pytest.raises(ValueError, match="empty"):
        build_block(BlockShape(Dtype.FLOAT16, 0, 3), [data])
