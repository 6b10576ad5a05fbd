"""What is said of a chain: facts that agree with its state, its blocks and its pool, and proofs that need nobody's word."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from trio.testing import MockClock

from consensus.mempool import Dropped
from consensus.state import CUSTODY_QUESTIONS, TREASURY, VALIDATORS, CustodyQuestion
from node.account_address import account_text
from node.chain_index import DroppedTransactions, find_transaction
from node.chain_proof import KEYS, check_proof, make_proof
from node.chain_view import TRANSACTIONS_SHOWN_MAX, ChainView
from node.chain_words import WORDS, payload_facts, subject_words, until_words
from protocol.availability import StateCheckpoint, kept_until
from protocol.codec import encode
from protocol.digest import blob_digest
from protocol.ids import AccountId, Digest, Epoch, Height, peer_text, short
from protocol.limits import HISTORY_SEGMENTS
from protocol.rejection import Reason, Rejected
from protocol.state_proof import SubChain, combine_roots
from protocol.transactions import (
    Leave,
    Payload,
    Register,
    SignedTransaction,
    Stake,
    Transfer,
    Unstake,
)
from storage.kv import MemoryKeyValue
from storage.ledger import count_bytes
from tests.consensus.genesis import TILES
from tests.consensus.ledger_samples import (
    ACCOUNT_IDS,
    BALANCE,
    CARDS,
    GENESIS,
    RULE,
    STAKE,
    available,
    dataset,
    node_of,
    sign,
    snapshot_of,
)
from tests.node.chain_samples import DOCUMENT, ROSTER, SmallChain
from tests.protocol import samples as protocol_samples

STRANGER = AccountId(bytes([9]) * 32)


def pay(sender: int, nonce: int, amount: int = 500, fee_nano: int = 10_000) -> SignedTransaction:
    return sign(sender, nonce, Transfer(ACCOUNT_IDS[4], amount), fee_nano)


def submit(view: ChainView, transaction: SignedTransaction, register: bool = False) -> Any:
    data = encode(transaction.plain)
    return trio.run(view.register if register else view.submit, data)


def as_json(facts: Any) -> Any:
    """What a client reads: nothing in the facts is lost on the way."""
    text = msgspec.json.encode(facts)
    assert msgspec.to_builtins(facts) == json.loads(text)
    return json.loads(text)


# -- the chain ----------------------------------------------------------------------------------------------------------


def test_before_the_first_block_there_is_the_genesis():
    """Height 0, no block, no certificate, and all money where the genesis put it."""
    chain = SmallChain()
    chain.now_ms = 2_500
    facts = as_json(chain.view.status())
    assert (facts["height"], facts["block"], facts["certificate_votes"]) == (0, None, None)
    assert facts["finality_lag_seconds"] == 2.5
    assert facts["state_root"] == GENESIS.root().hex()
    assert facts["supply"]["minted_nano"] == 6 * BALANCE + 4 * STAKE
    assert facts["pool"] == {"transactions": 0, "bytes": 0, "senders": 0}
    assert facts["leader"] == peer_text(ROSTER.members[1].node)
    assert chain.view.block(0) is None
    assert chain.view.block(1) is None


def test_the_status_follows_the_blocks():
    """Height, hash, lag, votes, burned fees and the roots are those of the newest block."""
    chain = SmallChain()
    chain.add(pay(0, 0))
    chain.seal()
    chain.add(pay(0, 1), pay(1, 0))
    header = chain.seal()
    chain.add(pay(2, 0))
    chain.now_ms = header.time_ms + 1_250
    facts = as_json(chain.view.status())
    assert (facts["height"], facts["block"]) == (2, header.digest().hex())
    assert facts["finality_lag_seconds"] == 1.25
    assert facts["certificate_votes"] == facts["roster"] == 2
    assert facts["supply"]["burned_nano"] == 3 * 1_000
    assert facts["treasury_nano"] == chain.state.account(TREASURY).balance_nano == 3 * 5_000
    assert facts["pool"]["transactions"] == 1
    roots = [Digest(bytes.fromhex(facts["sub_roots"][part.name.lower()])) for part in SubChain]
    assert combine_roots(roots).hex() == facts["state_root"] == header.state_root.hex()
    assert (facts["chain"], facts["fee_nano_per_byte"]) == (b"test".hex(), RULE.fee_nano_per_byte)


def test_a_clock_behind_the_chain_gives_no_negative_lag():
    """The lag is never below zero."""
    chain = SmallChain()
    chain.seal()
    assert chain.view.status()["finality_lag_seconds"] == 0


def test_why_a_node_does_not_vote_is_said():
    """Its own refusal, or that it is not in the roster."""
    chain = SmallChain()
    assert chain.view.status()["refusal"] is None
    chain.refusal = "the vote journal is missing"
    assert chain.view.status()["refusal"] == "the vote journal is missing"
    chain.refusal = None
    chain.roster = replace(ROSTER, members=ROSTER.members[:1], weights=ROSTER.weights[:1])
    outside = dataclasses.replace(chain.view, me=ROSTER.members[1].node)
    assert "not in the roster" in outside.status()["refusal"]
    assert chain.view.status()["leader"] is None  # the schedule is still that of the roster before


def test_a_block_says_what_it_decided():
    """Header, votes, heads, and each transaction with its words and what it met."""
    chain = SmallChain()
    refused = sign(1, 0, Stake(node_of(0), 5))  # another account's validator
    done = pay(0, 0, 1_500_000)
    chain.add(refused, done)
    head = protocol_samples.head()
    header = chain.seal([head])
    facts = as_json(chain.view.block(1))
    assert facts["block"] == header.digest().hex()
    assert facts["state_root"] == header.state_root.hex()
    assert facts["certificate"] == {"votes": 2, "view": 2}
    assert facts["proposer_peer"] == peer_text(ROSTER.members[1].node)
    assert [each["id"] for each in facts["heads"]] == [head.digest().hex()]
    assert facts["heads"][0]["does"] == "decides layer3.expert7/0@7 of round 6 from 2 deltas, 30,848 tokens"
    assert facts["heads"][0]["learners"] == sorted({short(delta.learner) for delta in head.deltas})
    by_id = {each["id"]: each for each in facts["transactions"]}
    assert by_id[refused.id.hex()]["refusal"]["code"] == "not_authorised"
    assert by_id[done.id.hex()]["refusal"] is None
    assert by_id[done.id.hex()]["does"] == f"gives 0.0015 NOCK to {account_text(ACCOUNT_IDS[4])}"
    assert by_id[done.id.hex()]["sender"] == account_text(ACCOUNT_IDS[0])


def test_a_long_block_is_shown_in_parts():
    """At most a bounded number of transactions in one answer; the parts together are the whole."""
    chain = SmallChain()
    for nonce in range(60):
        chain.add(*(pay(sender, nonce, fee_nano=1_000) for sender in range(5)))
    chain.seal()
    first = chain.view.block(1)
    second = chain.view.block(1, TRANSACTIONS_SHOWN_MAX)
    assert first is not None
    assert second is not None
    assert len(first["transactions"]) == TRANSACTIONS_SHOWN_MAX
    assert first["transactions_total"] == 300
    indices = [each["index"] for each in first["transactions"] + second["transactions"]]
    assert indices == list(range(300))
    assert chain.view.block(1, 2**63)["transactions"] == []


def test_a_transaction_is_followed_from_the_pool_to_its_block():
    """Unknown, waiting, final at its place; a refused one says why, and a head is found by its digest."""
    chain = SmallChain()
    paid, refused, head = pay(0, 0), sign(1, 0, Leave(node_of(0))), protocol_samples.head()
    assert chain.view.transaction(paid.id) is None
    chain.add(paid, refused)
    waiting = as_json(chain.view.transaction(paid.id))
    assert (waiting["state"], waiting["height"], waiting["kind"], waiting["nonce"]) == ("waiting", None, "transfer", 0)
    chain.seal([head])
    final = as_json(chain.view.transaction(paid.id))
    assert (final["state"], final["height"], final["refusal"]) == ("final", 1, None)
    assert chain.view.block(1)["transactions"][final["index"]]["id"] == paid.id.hex()
    assert final["size_bytes"] == paid.size_bytes
    assert chain.view.transaction(refused.id)["refusal"]["code"] == "not_authorised"
    decided = as_json(chain.view.transaction(head.digest()))
    assert (decided["state"], decided["kind"], decided["tile"]) == ("final", "tile", head.tile)


def test_a_transaction_without_a_block_says_why():
    """Replaced by a better one; after it came back, it waits again."""
    chain = SmallChain()
    poor, rich = pay(0, 0), pay(0, 0, fee_nano=20_000)
    chain.add(poor, rich)
    facts = as_json(chain.view.transaction(poor.id))
    assert (facts["state"], facts["refusal"]["code"]) == ("dropped", "replaced")
    chain.seal()
    assert chain.view.transaction(rich.id)["state"] == "final"


def test_only_the_latest_dropped_transactions_are_remembered():
    """The memory is bounded; what is noted again counts as new."""
    memory = DroppedTransactions(kept=2)
    names = [blob_digest(bytes([index])) for index in range(3)]
    memory.note(Dropped(name, Reason.OUTBID) for name in (names[0], names[1], names[0], names[2]))
    assert [memory.find(name) for name in names] == [Reason.OUTBID, None, Reason.OUTBID]


def test_a_pruned_block_takes_the_place_of_its_transactions_with_it():
    """Of a block that was pruned nothing is told, and the status says from where on there are blocks, and what they take."""
    chain = SmallChain()
    paid = pay(0, 0), pay(0, 1)
    for transaction in paid:
        chain.add(transaction)
        chain.seal()
    before = chain.view.status()
    chain.prune(2)
    after = chain.view.status()
    assert (before["oldest_height"], after["oldest_height"]) == (1, 2)
    assert before["chain_bytes"] > after["chain_bytes"] == count_bytes(chain.index)
    assert (chain.view.block(1), chain.view.transaction(paid[0].id)) == (None, None)
    assert chain.view.block(2)["height"] == chain.view.transaction(paid[1].id)["height"] == 2


def test_rows_are_written_with_their_block_or_not_at_all():
    """A row is there exactly when its block is, and one that nobody wrote is not."""
    chain = SmallChain()
    paid = pay(0, 0)
    chain.add(paid)
    assert find_transaction(chain.index, paid.id) is None
    chain.seal()
    row = find_transaction(chain.index, paid.id)
    assert row is not None
    assert (row.height, row.index, row.is_head, row.reason) == (1, 0, False, None)
    assert find_transaction(MemoryKeyValue(), paid.id) is None


def test_every_kind_of_transaction_has_words():
    """A new kind is not forgotten, and each says what it does in a line."""
    assert set(WORDS) == set(get_args(Payload))
    for payload in protocol_samples.payloads().values():
        facts = as_json(payload_facts(payload))
        assert facts["kind"]
        assert facts["does"]
        assert "\n" not in facts["does"]


def test_a_strangers_text_does_not_reach_the_terminal_as_it_is():
    """A licence may hold what clears a screen; in words it does not."""
    record = replace(dataset(0), licence="MIT\x1b[2J\x9b2J\n\u202e")
    assert payload_facts(record)["does"].endswith("under MIT?[2J?2J??")


# -- accounts and validators --------------------------------------------------------------------------------------------


def test_an_account_says_what_its_owner_must_know():
    """Balance, nonce, the next nonce behind what waits without a gap, and the terms for signing."""
    chain = SmallChain()
    chain.add(pay(0, 0))
    chain.seal()
    chain.add(pay(0, 1), pay(0, 2), pay(0, 5))
    facts = as_json(chain.view.account(ACCOUNT_IDS[0]))
    assert facts["balance_nano"] == chain.state.account(ACCOUNT_IDS[0]).balance_nano
    assert (facts["nonce"], facts["next_nonce"]) == (1, 3)
    assert (facts["fee_nano_per_byte"], facts["stake_nano_min"]) == (RULE.fee_nano_per_byte, RULE.stake_nano_min)
    assert [each["node"] for each in facts["validators"]] == [peer_text(node_of(0))]


def test_an_account_that_nobody_paid_has_nothing():
    """It is no error: money can be sent to it."""
    facts = SmallChain().view.account(STRANGER)
    assert (facts["balance_nano"], facts["nonce"], facts["next_nonce"], facts["validators"]) == (0, 0, 0, [])


def test_what_unbonds_is_told_with_what_it_waits_for():
    """Both the time and the blocks that are left, counted from the newest block."""
    chain = SmallChain()
    chain.add(sign(0, 0, Unstake(node_of(0), 1_000)))
    chain.seal()
    chain.seal()
    (validator,) = chain.view.account(ACCOUNT_IDS[0])["validators"]
    assert validator["stake_nano"] == STAKE - 1_000
    assert validator["unbonding"] == [
        {
            "amount_nano": 1_000,
            "release_ms": 100 + RULE.unbonding_ms,
            "release_height": 1 + RULE.unbonding_heights,
            "milliseconds_left": RULE.unbonding_ms - 100,
            "blocks_left": RULE.unbonding_heights - 1,
        }
    ]


def test_validators_are_told_with_their_part_in_the_roster():
    """Weight, connection, blocks proposed of the newest, and whether they vote now and next."""
    chain = SmallChain()
    chain.add(sign(2, 0, Register(CARDS[2], 5_000)))
    for _ in range(4):
        chain.seal()
    chain.connected = [node_of(1), node_of(3)]
    chain.next_roster = replace(ROSTER, epoch=Epoch(1), members=ROSTER.members[:1], weights=ROSTER.weights[:1])
    known = {each["node"]: each for each in as_json(chain.view.validators())}
    assert len(known) == 3
    mine, other, new = (known[peer_text(node_of(index))] for index in range(3))
    assert (mine["is_self"], mine["connected"], mine["weight_share"]) == (True, True, 0.25)
    assert (other["is_self"], other["connected"], other["weight_share"]) == (False, True, 0.75)
    assert (new["in_roster"], new["weight"], new["connected"], new["proposed"]) == (False, 0, False, 0)
    heights = DOCUMENT.chain.epoch_heights
    assert (mine["votes_from_height"], new["votes_from_height"]) == (None, 3 * heights + 1)
    assert mine["proposed"] + other["proposed"] == 4
    assert sorted(each["in_next_roster"] for each in known.values()) == [False, False, True]
    assert new == as_json(chain.view.validator(node_of(2)))
    assert chain.view.validator(node_of(5)) is None
    assert sorted(each["node"] for each in chain.view.members()) == sorted([mine["node"], other["node"]])
    assert chain.view.status()["validators_connected"] == 2


def test_a_validator_is_told_with_what_it_must_show_and_how_long_it_is_jailed():
    """Nothing of both as long as nothing is kept; a question as the state has it; until the last epoch that it misses."""
    chain = SmallChain()
    chain.seal()
    first = as_json(chain.view.validator(node_of(0)))
    assert (first["custody"], first["jailed_until"]) == (None, None)
    state = chain.view.state()
    held = state.get(VALIDATORS, node_of(0))
    question = CustodyQuestion(Epoch(0), blob_digest(b"subject"), 0, 7, 3, 1)
    state = state.put_validator(held, replace(held, jailed_until=5)).put(CUSTODY_QUESTIONS, question, node_of(0))
    told = as_json(dataclasses.replace(chain.view, state=lambda: state).validator(node_of(0)))
    assert told["jailed_until"] == 5
    assert told["custody"] == {
        "epoch": 0,
        "subject": question.subject.hex(),
        "tile": 0,
        "position": 7,
        "leaf": 3,
        "answered_height": 1,
    }


def test_a_block_that_tells_a_history_shows_its_ends():
    """The others have none."""
    chain = SmallChain()
    ends = [blob_digest(bytes([index])) for index in range(HISTORY_SEGMENTS)]
    chain.seal()
    chain.seal(history=ends)
    assert as_json(chain.view.block(1))["history"] == []
    assert as_json(chain.view.block(2))["history"] == [end.hex() for end in ends]


def test_the_epoch_is_told_with_its_rosters():
    """Its heights by the chain's rule, how many blocks it has, who votes in it and after it."""
    chain = SmallChain()
    chain.seal()
    facts = as_json(chain.view.epoch())
    assert (facts["epoch"], facts["first_height"], facts["blocks"], facts["began_ms"]) == (0, 1, 1, 0)
    assert facts["last_height"] == DOCUMENT.chain.epoch_heights
    assert facts["roster"]["digest"] == ROSTER.digest().hex()
    assert facts["roster"]["weight_total"] == 4 * STAKE
    assert facts["next_roster"] is None
    chain.next_roster = replace(ROSTER, epoch=Epoch(1))
    assert chain.view.epoch()["next_roster"]["epoch"] == 1


# -- proofs -------------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_told_the_newest_first():
    """What it is in words and by its fields, how large, how long; so many at once, and how many there are; each is provable."""
    chain = SmallChain()
    assert as_json(chain.view.kept()) == {"kept": [], "kept_total": 0, "bytes_total": 0}
    subjects = [snapshot_of(GENESIS, tile) for tile in TILES]
    for nonce, subject in enumerate(subjects):
        chain.add(sign(1, nonce, available(GENESIS, subject)))
        chain.seal()
    facts = as_json(chain.view.kept())
    assert (facts["kept_total"], facts["bytes_total"]) == (3, 3 * 4_096)
    assert [each["height"] for each in facts["kept"]] == [3, 2, 1]
    newest, until = facts["kept"][0], kept_until(0)
    name = subjects[2].digest().hex()
    assert newest["subject"] == {
        "id": name, "is": "version 0 of trunk/1", "tile": "trunk/1", "version": 0, "root": subjects[2].root.hex(),
    }  # fmt: skip
    assert newest["geometry"] == {"data_cells": 64, "parity_cells": 192, "cell_bytes_max": 65_536}
    assert (newest["size_bytes"], newest["epoch"], newest["kept_until"]) == (4_096, 0, until)
    assert newest["author"] == account_text(ACCOUNT_IDS[1])
    assert as_json(chain.view.kept(2))["kept"] == facts["kept"][2:]
    proved = prove(chain, f"kept:{name}")
    assert {**proved["facts"], "subject": None} == {**newest, "subject": None}
    transaction = as_json(chain.view.block(3))["transactions"][0]
    assert transaction["kind"] == "kept"
    assert transaction["does"] == (
        "records that 4 validators keep version 0 of trunk/1, 4,096 bytes, until the end of epoch 16"
    )


def test_a_subject_and_a_time_in_words():
    """A checkpoint is the state after a block; without an end a blob is kept for ever."""
    assert subject_words(StateCheckpoint(Height(64), blob_digest(b"state"))) == "the state after block 64"
    assert [until_words(until) for until in (None, 7)] == ["for ever", "until the end of epoch 7"]


PROVED = {
    "account": account_text(ACCOUNT_IDS[1]),
    "validator": peer_text(node_of(0)),
    "evidence": f"0/3/{peer_text(node_of(0))}",
    "custody": peer_text(node_of(0)),
    "tile": "trunk/0",
    "expert": "layer4.expert7",
    "parameters": "ab" * 32,
    "version": "cd" * 32,
    "dataset": "ef" * 32,
    "kept": "01" * 32,
    "epoch": "0",
    "roster": "0",
}


def prove(chain: SmallChain, key: str) -> dict[str, Any]:
    return dict(trio.run(chain.view.proof, key))


def proof_of(chain: SmallChain, key: str) -> bytes:
    return msgspec.json.encode(prove(chain, key))


@pytest.mark.parametrize("word", KEYS)
@pytest.mark.parametrize("height", [0, 1])
def test_every_kind_of_entry_can_be_proved(word, height):
    """Whoever knows the state root checks what is there and what is not, without a node."""
    chain = SmallChain()
    for _ in range(height):
        chain.seal()
    key = f"{word}:{PROVED[word]}" if word in PROVED else word
    document = check_proof(proof_of(chain, key), chain.state.root())
    assert (document.key, document.height) == (key, height)
    assert (document.header is None) == (document.certificate is None) == (height == 0)


def test_a_proof_says_what_the_state_says():
    """An account's balance; that a stranger's has no entry."""
    chain = SmallChain()
    key = f"account:{account_text(ACCOUNT_IDS[1])}"
    document = check_proof(proof_of(chain, key), chain.state.root())
    assert document.facts == {"balance_nano": BALANCE, "nonce": 0}
    absent = check_proof(proof_of(chain, f"account:{account_text(STRANGER)}"), chain.state.root())
    assert absent.value is None
    assert absent.facts is None


def refusal_of(document: dict[str, Any], root: Digest) -> Rejected:
    with pytest.raises(Rejected) as caught:
        check_proof(msgspec.json.encode(document), root)
    return caught.value


def test_a_proof_with_any_field_changed_is_refused():
    """Value, words, key, proof, root, height, header, certificate: none can be replaced by another's."""
    chain = SmallChain()
    chain.add(pay(0, 0))
    chain.seal()
    mine, theirs = (prove(chain, f"account:{account_text(ACCOUNT_IDS[index])}") for index in (0, 4))
    root = chain.state.root()
    chain.seal()
    later = prove(chain, mine["key"])
    check_proof(msgspec.json.encode(mine), root)
    for field in ("key", "value", "facts", "proof"):
        assert refusal_of(mine | {field: theirs[field]}, root).reason is Reason.BAD_PROOF
    for field in ("height", "header", "certificate"):
        assert refusal_of(mine | {field: later[field]}, root).reason is Reason.BAD_PROOF
    richer = {**mine["facts"], "balance_nano": 10**18}
    assert refusal_of(mine | {"facts": richer}, root).reason is Reason.BAD_PROOF
    assert refusal_of(mine | {"value": None, "facts": None}, root).reason is Reason.BAD_PROOF
    assert refusal_of(mine | {"header": None}, root).reason is Reason.BAD_PROOF
    assert refusal_of(mine | {"header": None, "certificate": None}, root).reason is Reason.BAD_PROOF
    assert refusal_of(mine, blob_digest(b"another root")).reason is Reason.BAD_PROOF


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_proof_file_is_refused(data):
    """Change any byte: it is refused with a reason, or it says the same."""
    chain = SmallChain()
    chain.seal()
    whole = proof_of(chain, f"account:{account_text(ACCOUNT_IDS[0])}")
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:place] + data.draw(st.binary(max_size=2)) + whole[place + 1 :]
    try:
        document = check_proof(damaged, chain.state.root())
    except Rejected:
        return
    assert document == check_proof(whole, chain.state.root())


@given(st.binary(max_size=200))
def test_bytes_that_are_no_proof_are_refused(data):
    """Only ``Rejected`` comes out of hostile bytes."""
    with pytest.raises(Rejected):
        check_proof(data, GENESIS.root())


@given(st.text(max_size=100) | st.builds("{}:{}".format, st.sampled_from(sorted(KEYS)), st.text(max_size=80)))
def test_any_text_is_a_key_or_refused(text):
    """What is read as a key can be proved, present or not; anything else is refused with what there is."""
    try:
        document = make_proof(GENESIS, text, 0, None, None)
    except Rejected as error:
        reason = error.reason
    else:
        check_proof(msgspec.json.encode(document), GENESIS.root())
        return
    assert reason in (Reason.BAD_ARGUMENT, Reason.BAD_ADDRESS)


def test_a_proof_waits_until_its_block_is_written():
    """Between deciding a block and writing it, a proof would name the block before."""
    chain = SmallChain()
    chain.add(pay(0, 0))

    async def decide_before_writing() -> Any:
        before = chain.state
        chain.seal()
        after, chain.state = chain.state, before  # which of the two is behind makes no difference
        found: list[Any] = []

        async def ask() -> None:
            found.append(await chain.view.proof("supply"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.5)
            assert not found
            chain.state = after
        return found[0]

    document = trio.run(decide_before_writing, clock=MockClock(autojump_threshold=0))
    assert check_proof(msgspec.json.encode(document), chain.state.root()).height == 1


@pytest.mark.parametrize("height", [0, 1])
def test_a_proof_of_a_block_that_is_never_written_is_refused(height):
    """A disk that hangs gives no wrong answer, and no endless one; at the genesis too."""
    chain = SmallChain()
    for _ in range(height):
        chain.seal()
    chain.state = chain.state.add_balance(ACCOUNT_IDS[0], 1)
    chain.decided_height = height + 1
    with pytest.raises(Rejected) as caught:
        trio.run(chain.view.proof, "supply", clock=MockClock(autojump_threshold=0))
    assert caught.value.reason is Reason.BUSY


# -- change -------------------------------------------------------------------------------------------------------------


def test_a_submitted_transaction_waits_under_its_id():
    """The answer names it, and it is in the pool."""
    chain = SmallChain()
    paid = pay(0, 0)
    assert submit(chain.view, paid) == {"id": paid.id.hex(), "state": "waiting"}
    assert chain.pool.holds(paid)


@pytest.mark.parametrize("is_final", [False, True])
def test_a_transaction_sent_twice_says_so(is_final):
    """Whether the first one waits or is in a block."""
    chain = SmallChain()
    chain.seals = is_final
    submit(chain.view, pay(0, 0))
    with pytest.raises(Rejected, match="in block 1" if is_final else "waits here") as caught:
        submit(chain.view, pay(0, 0))
    assert caught.value.reason is Reason.ALREADY_RECORDED


def test_what_is_no_transaction_of_this_chain_is_refused():
    """Bytes, another chain's, a changed one, one that cannot pay, another kind at the door for registrations."""
    chain = SmallChain()
    good = encode(pay(0, 0).plain)
    foreign = encode(replace(pay(0, 0).plain, chain=replace(pay(0, 0).plain.chain, fork=1)))
    poor = encode(sign(0, 0, Transfer(ACCOUNT_IDS[1], 1), 2 * BALANCE).plain)
    cases = {
        b"": Reason.MALFORMED,
        good[:-1]: Reason.MALFORMED,
        good + b"\0": Reason.MALFORMED,
        bytes(100_000): Reason.TOO_LARGE,
        good[:-1] + bytes([good[-1] ^ 1]): Reason.BAD_SIGNATURE,
        foreign: Reason.OTHER_FORK,
        poor: Reason.UNFUNDED,
    }
    for data, reason in cases.items():
        with pytest.raises(Rejected) as caught:
            trio.run(chain.view.submit, data)
        assert caught.value.reason is reason, reason
    with pytest.raises(Rejected, match="Register transactions only"):
        submit(chain.view, pay(0, 0), register=True)
    assert chain.pool.statistics().transactions == 0
    submit(chain.view, sign(2, 0, Register(CARDS[2], 5_000)), register=True)
    assert chain.pool.statistics().transactions == 1
