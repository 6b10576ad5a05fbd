"""Transactions: what a signature covers, what a name does, and work that cannot be taken over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.codec import decode, encode
from protocol.digest import blob_digest
from protocol.erasure import LeafProof
from protocol.finality import ChainId
from protocol.ids import AccountId, Digest, Epoch, PeerId, Signature
from protocol.limits import (
    ANSWER_TRANSACTION_BYTES_MAX,
    CELL_LEAF_BYTES,
    CELLS_PER_TILE_MAX,
    MERKLE_PATH_MAX,
    PARENTS_PER_RECORD_MAX,
    PLAIN_TRANSACTION_BYTES_MAX,
    RECORD_NAME_CHARACTERS_MAX,
    SUPPLY_NANO_MAX,
    TABLES_PATH_MAX,
    TILES_PER_BLOB_MAX,
    TRANSACTION_BYTES_MAX,
    WORK_BITS_MAX,
)
from protocol.rejection import Reason, Rejected
from protocol.transactions import (
    CustodyAnswer,
    DatasetRecord,
    ParameterRecord,
    Payload,
    RecordKind,
    SemVer,
    Transaction,
    Transfer,
    check_transaction,
    check_work,
    find_work,
    sign_transaction,
    work_bits,
)
from tests.protocol.samples import ACCOUNT_KEYS, payloads
from tests.strategies import key_pairs, values

CHAIN = ChainId(b"nock", 0)
STORED = Path(__file__).parent.parent / "vectors" / "protocol" / "transactions.json"


def refusal(data: bytes, chain: ChainId = CHAIN) -> Reason:
    with pytest.raises(Rejected) as caught:
        check_transaction(data, chain)
    return caught.value.reason


@given(key_pairs, st.integers(0, 2**63 - 1), st.integers(0, SUPPLY_NANO_MAX), values(Payload))
def test_a_signed_transaction_checks(key, nonce, fee_nano, payload):
    """Whatever the payload, and its id and size are those of its bytes."""
    transaction = sign_transaction(key, CHAIN, nonce, fee_nano, payload)
    data = encode(transaction)
    checked = check_transaction(data, CHAIN)
    assert (checked.plain, checked.size_bytes) == (transaction, len(data))
    assert checked.plain.sender == key.public
    assert checked.id == check_transaction(data, CHAIN).id


@pytest.mark.parametrize("payload", payloads().values(), ids=payloads())
def test_every_changed_bit_is_refused(payload):
    """Of what is signed as of the signature: no bit of a transaction can change on the way."""
    data = encode(sign_transaction(ACCOUNT_KEYS[0], CHAIN, 7, 1_000, payload))
    for index in range(len(data)):
        changed = data[:index] + bytes([data[index] ^ 1 << index % 8]) + data[index + 1 :]
        assert refusal(changed) in (
            Reason.MALFORMED,
            Reason.NOT_CANONICAL,
            Reason.WRONG_CHAIN,
            Reason.OTHER_FORK,
            Reason.BAD_SIGNATURE,
        )


def test_a_transaction_is_for_one_chain():
    """Another network or another fork refuses it, before its signature is looked at."""
    transaction = sign_transaction(ACCOUNT_KEYS[0], CHAIN, 0, 0, Transfer(AccountId(bytes(32)), 1))
    unsigned = replace(transaction, signature=Signature(bytes(64)))
    assert refusal(encode(unsigned), ChainId(b"kcon", 0)) is Reason.WRONG_CHAIN
    assert refusal(encode(transaction), ChainId(b"nock", 1)) is Reason.OTHER_FORK
    assert refusal(encode(unsigned)) is Reason.BAD_SIGNATURE


def test_a_sender_cannot_be_replaced():
    """The signature is the sender's own."""
    transaction = sign_transaction(ACCOUNT_KEYS[0], CHAIN, 0, 0, Transfer(AccountId(bytes(32)), 1))
    assert refusal(encode(replace(transaction, sender=AccountId(ACCOUNT_KEYS[1].public)))) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("amount", [0, -1, SUPPLY_NANO_MAX + 1, 2**63])
def test_an_amount_is_between_one_and_all_money(amount):
    """Nothing, less than nothing and more than there is do not decode."""
    data = encode(Transfer(AccountId(bytes(32)), amount))
    with pytest.raises(Rejected):
        decode(Transfer, data, limit_bytes=len(data))


def test_the_largest_transaction_fits():
    """A record with as many parents as it may have, the longest name and the longest numbers."""
    largest = ParameterRecord(
        kind=RecordKind.EXPERT,
        name="n" * RECORD_NAME_CHARACTERS_MAX,
        layer=2**16 - 1,
        depends_on=tuple(Digest(bytes([index]) * 32) for index in range(PARENTS_PER_RECORD_MAX)),
        payload_root=Digest(bytes(32)),
        payload_bytes=2**63 - 1,
        work=2**63 - 1,
    )
    data = encode(sign_transaction(ACCOUNT_KEYS[0], CHAIN, 2**62, SUPPLY_NANO_MAX, largest))
    assert len(data) <= PLAIN_TRANSACTION_BYTES_MAX
    assert check_transaction(data, CHAIN).plain.payload == largest
    assert refusal(bytes(TRANSACTION_BYTES_MAX + 1)) is Reason.TOO_LARGE


def test_the_largest_answer_fits_and_nothing_else_is_as_long():
    """A leaf with the longest paths and numbers is longer than plain ones may be; a byte above the bound is refused unread."""
    step = Digest(bytes(32))
    path = (step,) * MERKLE_PATH_MAX
    leaf = LeafProof(TILES_PER_BLOB_MAX - 1, CELLS_PER_TILE_MAX - 1, 1_023, bytes(CELL_LEAF_BYTES), path, path)
    largest = CustodyAnswer(PeerId(bytes(32)), Epoch(2**53), step, leaf, (step,) * TABLES_PATH_MAX)
    data = encode(sign_transaction(ACCOUNT_KEYS[0], CHAIN, 2**62, SUPPLY_NANO_MAX, largest))
    assert PLAIN_TRANSACTION_BYTES_MAX < len(data) <= ANSWER_TRANSACTION_BYTES_MAX
    assert check_transaction(data, CHAIN).plain.payload == largest
    longer = replace(largest, leaf=replace(leaf, data=bytes(2_000)))
    data = encode(sign_transaction(ACCOUNT_KEYS[0], CHAIN, 2**62, SUPPLY_NANO_MAX, longer))
    assert len(data) > ANSWER_TRANSACTION_BYTES_MAX
    assert refusal(data) is Reason.TOO_LARGE


@pytest.mark.parametrize(
    "changes",
    [
        {"depends_on": ()},
        {"depends_on": tuple(blob_digest(bytes([index])) for index in range(PARENTS_PER_RECORD_MAX + 1))},
        {"name": "a" * (RECORD_NAME_CHARACTERS_MAX + 1)},
        {"name": "Layer4"},
        {"name": "layer4\n"},
        {"layer": 2**16},
        {"payload_bytes": 0},
    ],
)
def test_a_record_outside_its_bounds_does_not_decode(changes):
    """Parents, names, layers and sizes each have theirs."""
    record = payloads()["parameter record"]
    data = encode(replace(record, **changes))
    with pytest.raises(Rejected) as caught:
        decode(ParameterRecord, data, limit_bytes=len(data))
    assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("kind", ["parameter record", "data set record"])
def test_a_records_name_holds_its_sender_and_not_its_work(kind):
    """So nobody takes over another's work, and a record has one name however the work was done."""
    record = payloads()[kind]
    assert isinstance(record, ParameterRecord | DatasetRecord)
    mine, other = (AccountId(key.public) for key in ACCOUNT_KEYS[:2])
    assert record.record_id(mine) == replace(record, work=12_345).record_id(mine)
    assert record.record_id(mine) != record.record_id(other)
    assert record.record_id(mine) != replace(record, name="layer4.other").record_id(mine)


@given(st.binary(min_size=32, max_size=32).map(Digest), st.integers(0, 8))
def test_work_that_is_found_is_enough(name, bits):
    """And the numbers before it are not; work for more bits is work for fewer."""
    work = find_work(name, bits, 0, 100_000)
    assert work is not None
    for enough in range(bits + 1):
        check_work(name, work, enough)
    assert all(work_bits(name, before) < bits for before in range(work))
    with pytest.raises(Rejected) as caught:
        check_work(name, work, work_bits(name, work) + 1)
    assert caught.value.reason is Reason.BAD_WORK


def test_a_search_for_work_is_bounded():
    """It ends after so many attempts, with nothing."""
    assert find_work(blob_digest(b""), WORK_BITS_MAX, 0, 100) is None


def test_three_versions_may_follow_one():
    """One number is raised by one, and those behind it begin again."""
    assert [str(version) for version in SemVer(2, 3, 5).successors()] == ["2.3.6", "2.4.0", "3.0.0"]
    assert all(version > SemVer(2, 3, 5) for version in SemVer(2, 3, 5).successors())


def test_stored_transactions_check():
    """What was signed in the past is understood today, under the id that it had."""
    stored = json.loads(STORED.read_text())
    assert set(stored["transactions"]) == set(payloads())
    for entry in stored["transactions"].values():
        data = bytes.fromhex(entry["transaction"])
        chain = decode(Transaction, data, limit_bytes=len(data)).chain
        assert check_transaction(data, chain).id.hex() == entry["id"]
    for entry in stored["work"]:
        assert work_bits(Digest(bytes.fromhex(entry["record"])), entry["work"]) == entry["bits"]
