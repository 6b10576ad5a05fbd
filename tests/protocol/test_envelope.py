"""Envelopes: of this network, alive, once, signed; and numbers that are never given twice."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.codec import encode
from protocol.digest import Domain, digest
from protocol.envelope import (
    PAYLOAD_BYTES_MAX,
    Envelope,
    Sealed,
    SequenceAllocator,
    SequenceWindows,
    open_envelope,
    seal,
)
from protocol.ids import NetworkId, PeerId, Signature
from protocol.keys import KeyPair, verify
from protocol.learning import RoundAnnouncement
from protocol.limits import (
    CLOCK_SLACK_MS,
    ENVELOPE_LIFETIME_MS_MAX,
    ENVELOPE_OVERHEAD_BYTES_MAX,
    GOSSIP_MESSAGE_BYTES_MAX,
    SEQUENCE_BLOCK,
    SEQUENCE_WINDOW_BITS,
)
from protocol.messages import KIND_OF, PAYLOADS, Kind, decode_payload
from protocol.rejection import Reason, Rejected

NOW_MS = 1_800_000_000_000
EXPIRES_MS = NOW_MS + 1_000
NETWORK, FOREIGN = NetworkId(b"n" * 32), NetworkId(b"f" * 32)
KEY, OTHER = KeyPair(b"a" * 32), KeyPair(b"b" * 32)
SENDER = PeerId(KEY.public)


def sealed(sequence: int = 1, *, key: KeyPair = KEY, network: NetworkId = NETWORK, after_ms: int = 1_000) -> bytes:
    return seal(key, network, 2, sequence, NOW_MS + after_ms, b"hello")


def reason_of(data: bytes, windows: SequenceWindows) -> Reason:
    with pytest.raises(Rejected) as rejected:
        open_envelope(data, NETWORK, NOW_MS, windows)
    return rejected.value.reason


def test_what_was_sealed_opens_once() -> None:
    """An envelope opens to its sender's words; the same bytes again are a repetition."""
    windows = SequenceWindows()
    assert open_envelope(sealed(), NETWORK, NOW_MS, windows) == Envelope(2, SENDER, 1, EXPIRES_MS, b"hello")
    assert reason_of(sealed(), windows) is Reason.REPEATED


def test_the_signature_covers_every_byte_before_it() -> None:
    """The signed text is a prefix of the bytes that travel, under the envelope's own domain."""
    data = sealed()
    assert data == encode(msgpack_sealed(data))
    assert verify(KEY.public, digest(Domain.ENVELOPE, data[:-66]), data[-64:])


def msgpack_sealed(data: bytes) -> Sealed:
    return Sealed(*msgpack.unpackb(data))


def test_a_changed_bit_never_opens() -> None:
    """Whichever bit of an envelope is flipped, it is refused, and the sender's number is not burnt."""
    data, windows = sealed(), SequenceWindows()
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        reason_of(bytes(flipped), windows)
    assert len(windows) == 0
    assert open_envelope(data, NETWORK, NOW_MS, windows).payload == b"hello"


def test_rules_are_asked_in_order() -> None:
    """An envelope that breaks every rule is refused for the first: network, lifetime, repetition, signature."""
    windows = SequenceWindows()
    open_envelope(sealed(7), NETWORK, NOW_MS, windows)

    def forged(network: NetworkId, after_ms: int, sequence: int) -> bytes:
        return sealed(sequence, network=network, after_ms=after_ms)[:-64] + bytes(64)

    long_ago, far_ahead = -CLOCK_SLACK_MS - 1, ENVELOPE_LIFETIME_MS_MAX + CLOCK_SLACK_MS + 1
    assert reason_of(forged(FOREIGN, long_ago, 7), windows) is Reason.FOREIGN_NETWORK
    assert reason_of(forged(NETWORK, long_ago, 7), windows) is Reason.EXPIRED
    assert reason_of(forged(NETWORK, far_ahead, 7), windows) is Reason.EXPIRES_TOO_LATE
    assert reason_of(forged(NETWORK, 0, 7), windows) is Reason.REPEATED
    assert reason_of(forged(NETWORK, 0, 8), windows) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("after_ms", [-CLOCK_SLACK_MS, 0, ENVELOPE_LIFETIME_MS_MAX + CLOCK_SLACK_MS])
def test_the_edges_of_a_lifetime_are_inside(after_ms: int) -> None:
    """Clocks may differ by the slack at both ends of the ten minutes."""
    assert open_envelope(sealed(after_ms=after_ms), NETWORK, NOW_MS, SequenceWindows()).sequence == 1


def test_a_forger_cannot_burn_a_number() -> None:
    """An envelope that is refused, for any reason, leaves the number free for its owner."""
    windows = SequenceWindows()
    impostor = seal(OTHER, NETWORK, 2, 1, NOW_MS, b"hello")
    stolen = impostor.replace(OTHER.public, KEY.public)  # signed by another key than it names
    assert reason_of(stolen, windows) is Reason.BAD_SIGNATURE
    assert reason_of(sealed(2**62)[:-1] + b"\x00", windows) is Reason.BAD_SIGNATURE
    assert open_envelope(sealed(), NETWORK, NOW_MS, windows).sequence == 1


def test_kinds_and_senders_have_windows_of_their_own() -> None:
    """The same number is fresh for another kind and for another sender."""
    windows = SequenceWindows()
    for key in (KEY, OTHER):
        for kind in (1, 2):
            open_envelope(seal(key, NETWORK, kind, 5, NOW_MS, b""), NETWORK, NOW_MS, windows)
    assert len(windows) == 4


def test_a_full_payload_fits_in_a_gossip_message_and_one_more_byte_does_not() -> None:
    """The overhead that limits.py promises is enough for the longest numbers."""
    data = seal(KEY, NETWORK, 255, 2**63 - 1, 2**63 - 1, bytes(PAYLOAD_BYTES_MAX))
    assert len(data) <= GOSSIP_MESSAGE_BYTES_MAX
    assert len(data) - PAYLOAD_BYTES_MAX <= ENVELOPE_OVERHEAD_BYTES_MAX
    assert reason_of(data, SequenceWindows()) is Reason.EXPIRES_TOO_LATE  # decoded: the size is not the fault
    assert (
        reason_of(seal(KEY, NETWORK, 1, 1, NOW_MS, bytes(PAYLOAD_BYTES_MAX + 1)), SequenceWindows()) is Reason.MALFORMED
    )
    assert reason_of(bytes(GOSSIP_MESSAGE_BYTES_MAX + 1), SequenceWindows()) is Reason.TOO_LARGE


steps = st.one_of(
    st.integers(0, 3 * SEQUENCE_WINDOW_BITS),
    st.sampled_from([0, SEQUENCE_WINDOW_BITS - 1, SEQUENCE_WINDOW_BITS, SEQUENCE_WINDOW_BITS + 1, 2**63 - 1]),
)


@settings(max_examples=150)
@given(st.lists(steps, max_size=60))
def test_a_window_is_a_set_of_the_last_1024_numbers(numbers: list[int]) -> None:
    """The bitmap answers like a plain set that forgets what is 1,024 or more behind the highest."""
    windows, seen = SequenceWindows(), set[int]()
    for number in numbers:
        expected = number not in seen and (not seen or max(seen) - number < SEQUENCE_WINDOW_BITS)
        assert windows.is_fresh(SENDER, 1, number) is expected
        if expected:
            windows.mark(SENDER, 1, number)
            seen.add(number)
            assert not windows.is_fresh(SENDER, 1, number)


def test_a_jump_to_the_largest_number_costs_no_memory() -> None:
    """The sender chooses its numbers, and so never how far we shift."""
    windows = SequenceWindows()
    windows.mark(SENDER, 1, 0)
    windows.mark(SENDER, 1, 2**63 - 1)
    assert not windows.is_fresh(SENDER, 1, 0)
    assert windows.is_fresh(SENDER, 1, 2**63 - 2)


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 5))
def test_windows_are_bounded_by_least_recent_use(kinds: list[int], limit: int) -> None:
    """Beyond its bound the table forgets whoever was heard least recently, and nobody else."""
    windows, recent = SequenceWindows(limit), list[int]()
    for number, kind in enumerate(kinds):
        windows.mark(SENDER, kind, number)
        recent = [*(other for other in recent if other != kind), kind][-limit:]
        assert len(windows) == len(recent)
    for kind in range(10):
        known = kind in recent
        last = max((number for number, other in enumerate(kinds) if other == kind), default=0)
        assert windows.is_fresh(SENDER, kind, last) is not known


class SendingNode(RuleBasedStateMachine):
    """A sender that reserves durably and is killed at any moment, also between the write and its use."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = 0
        self.given: list[int] = []
        self.allocator = SequenceAllocator(self.disk)

    @rule(count=st.integers(1, 4))
    def send(self, count: int) -> None:
        for _ in range(count):
            number = self.allocator.take()
            if number is None:
                self.disk = self.allocator.next_block()
                self.allocator.reserve(self.disk)
                number = self.allocator.take()
            assert number is not None
            self.given.append(number)

    @rule()
    def kill_and_restart(self) -> None:
        self.allocator = SequenceAllocator(self.disk)

    @rule()
    def kill_after_writing_a_block(self) -> None:
        self.disk = self.allocator.next_block()
        self.allocator = SequenceAllocator(self.disk)

    @invariant()
    def numbers_rise_and_are_on_disk(self) -> None:
        assert self.given == sorted(set(self.given))
        assert all(number < self.disk for number in self.given[-1:])


TestANumberIsNeverGivenTwice = SendingNode.TestCase
TestANumberIsNeverGivenTwice.settings = settings(max_examples=60, stateful_step_count=30)


def test_a_new_allocator_gives_nothing_before_a_block_is_reserved() -> None:
    """The first number after a start costs one durable write; the next 65,535 cost none."""
    allocator = SequenceAllocator(0)
    assert allocator.take() is None
    assert allocator.next_block() == SEQUENCE_BLOCK
    allocator.reserve(SEQUENCE_BLOCK)
    assert [allocator.take() for _ in range(SEQUENCE_BLOCK)] == list(range(SEQUENCE_BLOCK))
    assert allocator.take() is None


def test_every_gossip_kind_has_one_payload_and_back() -> None:
    """The table of kinds is one-to-one and complete."""
    assert set(PAYLOADS) == set(Kind)
    assert {PAYLOADS[kind]: kind for kind in Kind} == KIND_OF


def test_a_payload_is_decoded_by_the_kind_of_its_envelope() -> None:
    """The same bytes under another kind are malformed, and under an unknown kind unknown."""
    payload = encode(RoundAnnouncement(3, "cpu"))
    assert decode_payload(Envelope(Kind.ROUND_ANNOUNCEMENT, SENDER, 1, EXPIRES_MS, payload)) == RoundAnnouncement(
        3, "cpu"
    )
    for kind, reason in ((Kind.ADVERT, Reason.MALFORMED), (99, Reason.UNKNOWN_KIND)):
        with pytest.raises(Rejected) as rejected:
            decode_payload(Envelope(kind, SENDER, 1, EXPIRES_MS, payload))
        assert rejected.value.reason is reason


def test_a_signature_is_for_one_network() -> None:
    """An envelope sealed for one network is not a signature in another, also when its id is replaced."""
    data = sealed().replace(NETWORK, FOREIGN)
    with pytest.raises(Rejected) as rejected:
        open_envelope(data, FOREIGN, NOW_MS, SequenceWindows())
    assert rejected.value.reason is Reason.BAD_SIGNATURE
    assert Signature(data[-64:]) == sealed()[-64:]
