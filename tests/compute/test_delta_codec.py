"""Payloads: round trips, one spelling each, and hostile bytes."""

from __future__ import annotations

import tracemalloc
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compute.delta.codec import HEADER_BYTES, VALUES_MAX, decode, encode, encode_and_read, payload_bytes_max
from compute.delta.decoded import DecodedDelta
from compute.delta.feedback import add_back, begin_ahead, compress_with_feedback, empty_residual
from compute.delta.pipeline import DEFAULT, PIPELINE_BY_NAME, PIPELINES, Keep, get_pipeline
from protocol.rejection import InvariantBroken, Reason, Rejected

from .golden_deltas import drawn_delta, drawn_matrices

NAMES = [pipeline.name for pipeline in PIPELINES]
ordinary_float32 = st.one_of(
    st.just(0.0), st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False).map(lambda value: value + 0.0)
)
vectors = arrays.arrays(np.float32, st.integers(1, 600), elements=ordinary_float32)


@given(vectors, st.sampled_from(NAMES), st.booleans())
def test_a_payload_says_the_kept_values_within_its_bound(delta: np.ndarray, name: str, ordered: bool) -> None:
    """Indices ascend, kept values are within half a scale (exact for raw), others zero; the payload fits its bound."""
    payload, said = encode_and_read(delta, name, drawn_matrices(delta.size) if ordered else ())
    decoded = decode(payload, delta.size)
    for field in fields(DecodedDelta):  # the sender need not read what it wrote
        assert np.array_equal(getattr(said, field.name), getattr(decoded, field.name)), field.name
    assert len(payload) <= payload_bytes_max(delta.size)
    assert (np.diff(decoded.indices_K.astype(np.int64)) > 0).all()
    dense = decoded.dense()
    assert np.array_equal(dense[decoded.indices_K], decoded.kept_values())
    row = get_pipeline(name)
    if name == "none":
        assert np.array_equal(dense, delta)
    elif row.levels > 1:
        scale = np.repeat(decoded.scales_G, row.block)[: decoded.kept].astype(np.float64)
        error = np.abs(decoded.kept_values().astype(np.float64) - delta[decoded.indices_K])
        assert (error <= scale * (0.5 + 2.0**-17) + 2.0**-92).all()
    if row.keep is Keep.TOP:
        left = np.delete(delta, decoded.indices_K)
        assert left.size == 0 or np.abs(left).max() <= np.abs(delta[decoded.indices_K]).min()
    assert decoded.squared_norm() == sum((Fraction(float(value)) ** 2 for value in dense), Fraction(0))


@pytest.mark.parametrize("name", NAMES)
def test_zeros_and_single_values_travel(name: str) -> None:
    """Tiles of one value and of nothing but zeros are deltas like others."""
    assert not decode(encode(np.zeros(1000, np.float32), name), 1000).dense().any()
    assert decode(encode(np.array([-2.0], np.float32), name), 1).dense()[0] == pytest.approx(-2, rel=0.01)


def test_the_default_pipeline_makes_a_delta_forty_times_smaller() -> None:
    """Float32 bytes over payload bytes, on drawn values with louder columns; trained deltas do a little better."""
    assert PIPELINE_BY_NAME[DEFAULT].fraction == Fraction(1, 10)
    delta = drawn_delta("ratio", 65_280)
    plain, ordered = encode(delta, DEFAULT), encode(delta, DEFAULT, ((544, 120),))
    assert delta.nbytes / len(plain) > 40
    assert len(ordered) < 0.95 * len(plain)
    assert np.array_equal(decode(ordered, delta.size).dense(), decode(plain, delta.size).dense())


@pytest.mark.parametrize("matrices", [((5, 100),), ((7, 101),), ((1, 1),) * 256])
def test_matrices_that_do_not_fill_the_tile_are_our_bug(matrices: tuple[tuple[int, int], ...]) -> None:
    """The encoder's caller knows the tile."""
    with pytest.raises(InvariantBroken):
        encode(np.ones(700, np.float32), DEFAULT, matrices)


def test_hostile_matrices_are_refused() -> None:
    """Empty ones, sizes with leading zeros or without end, other totals, and classes that do not follow."""
    honest = encode(drawn_delta("matrices", 12_800), DEFAULT, ((128, 100),))
    head, rest = honest[:HEADER_BYTES], honest[HEADER_BYTES + 4 :]
    assert honest[HEADER_BYTES : HEADER_BYTES + 4] == bytes([1, 0x80, 1, 100])
    for matrices in (
        bytes([1, 0x80, 1, 101]),
        bytes([1, 0, 100]),
        bytes([1, 0x80, 0x81, 0, 100]),
        bytes([1, *[0xFF] * 60]),
        bytes([1, 0xC0, 0, 100]),
        bytes([1, 100, 0x80, 1]),  # the transposed matrix fills the tile, but its lines have other classes
        bytes([255]),
    ):
        with pytest.raises(Rejected) as caught:
            decode(head + matrices + rest, 12_800)
        assert caught.value.reason in (Reason.BAD_DELTA, Reason.BAD_SHAPE)
    assert decode(head + bytes([1, 0x80, 1, 100]) + rest, 12_800).matrices == ((128, 100),)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**70])
@pytest.mark.parametrize("name", NAMES)
def test_a_diverged_delta_is_refused(name: str, value: float) -> None:
    """NaN, infinity and absurd values never become a payload."""
    with pytest.raises(Rejected) as caught:
        encode(np.array([1, value, 3], np.float32), name)
    assert caught.value.reason is Reason.BAD_DELTA


def test_other_arrays_and_pipelines_are_not_let_in() -> None:
    """A float64 delta is our bug, an unknown pipeline the config's mistake."""
    with pytest.raises(InvariantBroken):
        encode(np.zeros(4), DEFAULT)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(Rejected, match="top10_int4"):
        encode(np.zeros(4, np.float32), "top99")


@pytest.mark.parametrize("name", ["top10_int4", "top20_sign", "top20_int8"])
def test_with_decay_one_everything_arrives_in_the_end(name: str) -> None:
    """The decoded payloads and the last residual add up to the deltas: nothing is lost, nothing is sent twice."""
    residual = empty_residual(3000)
    deltas_sum = np.zeros(3000)
    decoded_sum = np.zeros(3000)
    for step in range(12):
        delta = np.rint(drawn_delta(f"step {step}", 3000) * np.float32(2.0**24)) * np.float32(2.0**-24)  # on a grid
        payload, residual = compress_with_feedback(delta, residual, name, decay=Fraction(1))
        deltas_sum += delta
        decoded_sum += decode(payload, 3000).dense()
    assert np.abs(decoded_sum + residual - deltas_sum).max() <= 12 * 2.0**-24 * np.abs(deltas_sum).max()


def test_the_residual_is_what_was_not_sent_and_fades() -> None:
    """residual' = decay * (delta + residual - decoded), one rounding an operation."""
    delta, residual = drawn_delta("a", 999), drawn_delta("b", 999)
    payload, new_residual = compress_with_feedback(delta, residual, "top10_int4", Fraction(95, 100))
    target = delta + residual
    assert np.array_equal(new_residual, np.float32(0.95) * (target - decode(payload, 999).dense()))


def test_a_learner_that_begins_wholly_ahead_says_the_way_to_where_it_ended() -> None:
    """What is compressed is then decided weights less its last ones, and what it found before is not found again."""
    decided, residual, ended = (drawn_delta(name, 999) for name in ("decided", "residual", "ended"))
    begun = begin_ahead(decided, residual, Fraction(1))
    assert np.array_equal(begun, decided - residual)
    assert np.allclose((begun - ended) + residual, decided - ended, rtol=0, atol=2.0**-20)
    assert np.array_equal(begin_ahead(decided, residual, Fraction(0)), decided)
    assert np.array_equal(begin_ahead(decided, residual, Fraction(1, 2)), decided - np.float32(0.5) * residual)


def test_an_undecided_payload_goes_back_whole() -> None:
    """Adding a payload back to its residual restores the target that was compressed."""
    delta = drawn_delta("a", 999)
    payload, residual = compress_with_feedback(delta, empty_residual(999), "top10_int4", decay=Fraction(1))
    assert np.allclose(add_back(residual, payload), delta, rtol=2.0**-22, atol=0)


def outcome(payload: bytes, values: int) -> DecodedDelta | Reason:
    """What decoding comes to; anything but a delta or a rejection escapes."""
    try:
        return decode(payload, values)
    except Rejected as rejected:
        return rejected.reason


REFUSALS = (Reason.BAD_DELTA, Reason.BAD_SHAPE, Reason.TOO_LARGE)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(1, 5000), st.sampled_from(PIPELINES))
def test_random_bytes_are_refused(junk: bytes, values: int, pipeline: object) -> None:
    """Junk, bare or behind an honest header, raises nothing but Rejected."""
    header = encode(np.ones(values, np.float32), pipeline.name)[:HEADER_BYTES]  # type: ignore[attr-defined]
    for payload in (junk, header + junk):
        decoded = outcome(payload, values)
        assert decoded in REFUSALS if isinstance(decoded, Reason) else decoded.values == values


@settings(max_examples=400)
@given(st.sampled_from(NAMES), st.data())
def test_a_mutated_payload_is_refused_or_says_something_else(name: str, data: st.DataObject) -> None:
    """After flips, cuts and insertions a payload is Rejected, or decodes to a delta of its own, never the same one."""
    delta = drawn_delta("mutate", 700)
    honest = encode(delta, name, ((3, 100), (4, 100)) if data.draw(st.booleans()) else ())
    payload = bytearray(honest)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, max(0, len(payload) - 1)))
        match data.draw(st.integers(0, 2)):
            case 0 if payload:
                payload[position] ^= data.draw(st.integers(1, 255))
            case 1:
                del payload[position : position + data.draw(st.integers(1, 20))]
            case _:
                payload[position:position] = data.draw(st.binary(min_size=1, max_size=20))
    if payload == honest:
        return
    decoded = outcome(bytes(payload), 700)
    if isinstance(decoded, Reason):
        assert decoded in REFUSALS
        return
    first = decode(honest, 700)
    same = (
        decoded.pipeline is first.pipeline
        and decoded.matrices == first.matrices
        and np.array_equal(decoded.indices_K, first.indices_K)
        and np.array_equal(decoded.codes_K, first.codes_K)
        and np.array_equal(decoded.scale_bits_G, first.scale_bits_G)
        and np.array_equal(decoded.raw_K, first.raw_K)
    )
    assert not same
    assert np.isfinite(decoded.dense()).all()


def test_small_bytes_never_take_much_memory() -> None:
    """A few bytes that claim a full tile, with every kind of stream, stay within 64 bytes a value and are refused."""
    tracemalloc.start()
    try:
        for pipeline in PIPELINES:
            honest = encode(np.ones(VALUES_MAX, np.float32), pipeline.name)[:HEADER_BYTES]
            for tail in (b"", b"\x00" * 100, b"\xff" * 100, b"\x00" * 9000 + b"\xff\xff\xff\xff", b"\x00" * 300_000):
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
                with pytest.raises(Rejected):
                    decode(honest + tail, VALUES_MAX)
                assert tracemalloc.get_traced_memory()[1] - before < 64 * VALUES_MAX
    finally:
        tracemalloc.stop()


def test_wrong_sizes_are_refused() -> None:
    """A delta of another tile, trailing bytes and payloads beyond the bound of the tile have their reasons."""
    payload = encode(np.ones(100, np.float32), DEFAULT)
    for data, values, reason in (
        (payload, 101, Reason.BAD_SHAPE),
        (payload + b"\x00", 100, Reason.BAD_DELTA),
        (payload[:-1], 100, Reason.BAD_DELTA),
        (payload + bytes(2000), 100, Reason.TOO_LARGE),
    ):
        with pytest.raises(Rejected) as caught:
            decode(data, values)
        assert caught.value.reason is reason


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e-40, -0.0, 2.0**41])
def test_raw_values_outside_the_law_are_refused(value: float) -> None:
    """Raw float32 that are not finite, subnormal, minus zero or huge are not a delta."""
    payload = encode(np.ones(3, np.float32), "none")[:HEADER_BYTES] + np.array([1, value, 2], np.float32).tobytes()
    with pytest.raises(Rejected):
        decode(payload, 3)
