"""The ledger under the virtual world: what bodies hold, what is refused, and that its two checkers count for themselves."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replace_message

from consensus.state import BEACON_MIX, SUPPLY, BeaconMix, State
from consensus.transition import Receipt, apply_block
from protocol.codec import decode
from protocol.finality import EMPTY_BODY, Body, FinalizedBlock, Header
from protocol.ids import Digest, Height, MemberIndex, View
from protocol.limits import BODY_BYTES_MAX
from protocol.rejection import Reason, Rejected
from protocol.transactions import Payload
from simnet.finality.audit import Conservation, Replay, count_money
from simnet.finality.checkers import NoFraming
from simnet.finality.genesis import ACCOUNT_KEYS, ARCHIVE, GENESIS_MS, GENESIS_ROOT, GENESIS_STATE, ActorId, account_of
from simnet.finality.ledger import OUTCOMES_MAX, Application, Memo, Outcome, Site
from simnet.finality.options import ALMOST_CALM, CALM, Options
from simnet.finality.payments import BODY_BYTES_USUAL, draw_transactions, fill, read_transaction
from simnet.finality.villains import VILLAINS
from simnet.finality.villains.forger import FORGERIES, Forger
from simnet.finality.villains.villain import Ground, Villain
from simnet.finality.watch import Broken
from simnet.finality.world import World

GENESIS = Ground(None, None)
ALICE = account_of(ACCOUNT_KEYS[0])


def calm_world() -> World:
    return World(0, 4, CALM)


def site(world: World, height: int = 1, proposer: int = 0) -> Site:
    return Site(world.roster, Height(height), GENESIS_MS + 700 * height, MemberIndex(proposer))


def read(body: bytes) -> Body:
    return decode(Body, body, limit_bytes=BODY_BYTES_MAX)


def receipts_of(world: World, before: State, block: FinalizedBlock) -> tuple[Receipt, ...]:
    header = block.header
    heads = world.block_rules.head_rules(replace_message(world.roster, epoch=header.epoch))
    context = world.block_rules.context(before, heads, header.height, header.time_ms, header.proposer)
    return apply_block(before, (), [read_transaction(data) for data in read(block.body).transactions], context)[1]


# -- bodies -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 3)), max_size=12))
@settings(max_examples=25)
def test_what_is_built_is_what_is_executed(blocks):
    """With a memo and without one, by the proposer and by everybody else: the same root after each body, and all money."""
    world = calm_world()
    builder, checker = world.make_application(Memo()), world.make_application(None)
    state = GENESIS_STATE
    for height, (seed, proposer) in enumerate(blocks, 1):
        here = site(world, height, proposer)
        body, root = builder.build(state, here, draw_transactions(random.Random(seed), state, BODY_BYTES_USUAL))
        assert builder._ask(state, here, body).root == root
        outcome = checker._ask(state, here, body)
        assert outcome.root == root
        state = outcome.after
        assert sum(count_money(state)) + state.supply.burned_nano == GENESIS_STATE.supply.minted_nano


def test_every_kind_of_payload_is_in_some_block_and_money_is_in_every_place():
    """Among a few worlds everything is asked for, done and refused; stake unbonds and is free again; some is burned."""
    done: set[type[Payload]] = set()
    refused: set[Reason] = set()
    released = 0
    for seed in range(12):
        world = World(seed, 4, replace(CALM, fullness=1.0)).run()
        application, unbonding = world.make_application(None), 0
        for block in world.members[0].disk.ledger:
            before = application.state
            for data, receipt in zip(read(block.body).transactions, receipts_of(world, before, block), strict=True):
                if receipt.refusal is None:
                    done.add(type(read_transaction(data).plain.payload))
                else:
                    refused.add(receipt.refusal)
            application.finalize(block, world.sets.roster(block.header.epoch))
            released += count_money(application.state).unbonding < unbonding
            unbonding = count_money(application.state).unbonding
        assert application.state.supply.burned_nano > 0
    assert {kind.__name__ for kind in done} == {
        "Transfer", "Register", "Stake", "Unstake", "Leave", "EvidenceReport", "ParameterRecord", "DatasetRecord",
    }  # fmt: skip
    assert {Reason.UNFUNDED, Reason.UNKNOWN_VALIDATOR, Reason.ALREADY_RECORDED, Reason.NOT_AUTHORISED} <= refused
    assert released > 0


@pytest.mark.parametrize("most", [BODY_BYTES_USUAL, 50_000, BODY_BYTES_MAX])
def test_large_bodies_are_as_large_as_they_may_be(most):
    """Full of records that can pay and are refused: less than two records and a history from the bound, and never above it."""
    world = calm_world()
    body, _ = world.make_application(None).build(GENESIS_STATE, site(world), fill(GENESIS_STATE, most))
    assert most - 3_000 < len(body) <= most
    after = world.make_application(None)._apply(GENESIS_STATE, site(world), body)
    assert after.account(account_of(ARCHIVE)).nonce == len(read(body).transactions)


def test_large_bodies_are_drawn_where_there_may_be_any_and_nowhere_else():
    """A part of them fills the bound."""
    for most in (BODY_BYTES_USUAL, BODY_BYTES_MAX):
        drawn = [draw_transactions(random.Random(seed), GENESIS_STATE, most) for seed in range(100)]
        sizes = [sum(transaction.size_bytes for transaction in each) for each in drawn]
        assert (max(sizes) > BODY_BYTES_MAX - 8_192) is (most == BODY_BYTES_MAX)
        assert any(BODY_BYTES_USUAL < size < BODY_BYTES_MAX // 2 for size in sizes) is (most == BODY_BYTES_MAX)


# -- what members share -----------------------------------------------------------------------------------------------


def test_a_body_is_executed_once_for_all_members():
    """Whoever comes second is told; on another state, at another time, by another proposer it is another question."""
    executed = []

    class Counting(Application):
        def _apply(self, state: State, site: Site, body: bytes) -> State:
            executed.append(site)
            return super()._apply(state, site, body)

    world, memo = calm_world(), Memo()
    here = site(world)
    for member in range(3):
        application = Counting(world.block_rules, memo)
        for asked in (here, replace(here, time_ms=here.time_ms + 1), replace(here, proposer=MemberIndex(1))):
            application._ask(GENESIS_STATE, asked, EMPTY_BODY)
            with_noise = application._ask(GENESIS_STATE, asked, b"noise")
            assert isinstance(with_noise, Rejected), member
    assert len(executed) == 6


def test_the_memo_forgets_the_oldest():
    """However long a run is, so many outcomes and states are kept."""
    world, memo = calm_world(), Memo()
    application, state, roots = world.make_application(memo), GENESIS_STATE, [GENESIS_ROOT]
    for height in range(1, 3 * OUTCOMES_MAX):
        candidates = draw_transactions(random.Random(height), state, BODY_BYTES_USUAL)
        _, root = application.build(state, site(world, height), candidates)
        roots.append(root)
        found = memo.find_state(root)
        assert found is not None
        state = found
    assert [root for root in roots if memo.find_state(root) is not None] == roots[-OUTCOMES_MAX:]
    assert len(memo._outcomes) == OUTCOMES_MAX


def test_an_application_keeps_open_states_above_the_last_final_block_only():
    """After a run there are a few, whatever the height."""
    world = World(3, 4, CALM).run()
    for member in world.members:
        final = member.disk.ledger[-1].header.height
        assert all(height > final for height, _ in member.application._open.values())


# -- what is refused --------------------------------------------------------------------------------------------------

REFUSALS = {
    "a fee beyond the balance": Reason.UNFUNDED,
    "no fee": Reason.FEE_TOO_LOW,
    "one payment twice": Reason.WRONG_NONCE,
    "a payment before its turn": Reason.WRONG_NONCE,
    "a payment that nobody signed": Reason.BAD_SIGNATURE,
    "a payment on another fork": Reason.OTHER_FORK,
    "a word of nobody's onion": Reason.WRONG_EPOCH,
    "another history": Reason.WRONG_BODY,  # none is due; at a boundary it is a bad proof
    "a boundary without history": Reason.WRONG_STATE,  # no boundary: a good body under another root
    "noise": Reason.MALFORMED,
    "money from nowhere": Reason.WRONG_STATE,
    "somebody else's money": Reason.WRONG_STATE,
    "payments that are not made": Reason.WRONG_STATE,
    "the root of another body": Reason.WRONG_STATE,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_every_forgery_is_refused_for_what_it_is(name):
    """On the first state, by an application that knows nothing yet and by one that was asked before."""
    world = calm_world()
    forger = Forger(world, ActorId(0))
    header = forger.make_header(View(1), GENESIS)
    body, root = FORGERIES[name](forger, GENESIS_STATE, Site.of(header, world.roster))
    forged = replace_message(header, state_root=root)
    for memo in (None, world.memo, world.memo):
        with pytest.raises(Rejected) as refused:
            world.make_application(memo).check(GENESIS_STATE, forged, world.roster, body)
        assert refused.value.reason is REFUSALS[name]


@pytest.mark.parametrize(
    ("name", "reason"), [("another history", Reason.BAD_PROOF), ("a boundary without history", Reason.WRONG_BODY)]
)
def test_the_history_of_an_epoch_is_refused_where_it_is_due(name, reason):
    """In the last block of an epoch, of which the block before has not told it."""
    world = World(0, 4, replace(CALM, epoch_heights=2))
    state = world.make_application(None)._apply(GENESIS_STATE, site(world), EMPTY_BODY)
    forger = Forger(world, ActorId(0))
    body, _ = FORGERIES[name](forger, state, site(world, 2))
    with pytest.raises(Rejected) as refused:
        world.make_application(None)._apply(state, site(world, 2), body)
    assert refused.value.reason is reason


def test_members_blame_a_forger_for_what_it_did():
    """In whole runs, and nobody else."""
    blamed: set[Reason] = set()

    class Listening(NoFraming):
        """Remembers what for."""

        def blamed(self, member: ActorId, whom: ActorId, reason: Reason) -> None:
            super().blamed(member, whom, reason)
            blamed.add(reason)

    for seed in range(8):
        world = World(seed, 4, replace(ALMOST_CALM, villain="forger"))
        world.checkers.framing = Listening(world)
        world.run()
    assert blamed >= {Reason.UNFUNDED, Reason.WRONG_NONCE, Reason.WRONG_STATE, Reason.MALFORMED}


@pytest.mark.parametrize("villain", [name for name, kind in VILLAINS.items() if isinstance(kind, type)])
def test_blocks_of_villains_break_no_rule_of_the_ledger_by_themselves(villain):
    """What is wrong with them is what the villain is named for; their bodies travel with them."""
    world = World(1, 4, replace(CALM, villain=villain, fullness=1.0))
    actor: Any = world.actors[world.byzantine[0]]
    if not isinstance(actor, Villain):
        return
    for copy in range(5):
        header: Header = actor.make_header(View(1), GENESIS, copy)
        [message] = actor._bodies_of(actor.propose(header, GENESIS).vote.block)
        roster = world.roster
        assert world.make_application(None).check(GENESIS_STATE, header, roster, message.body) == header.state_root


# -- the checkers -----------------------------------------------------------------------------------------------------


def final_block(world: World) -> FinalizedBlock:
    header = Villain(world, ActorId(0)).make_header(View(1), GENESIS)
    return FinalizedBlock(header, EMPTY_BODY, None)


def spoilt_states() -> dict[str, State]:
    state = GENESIS_STATE
    less = replace_message(state.supply, burned_nano=5, minted_nano=state.supply.minted_nano + 5)
    return {
        "in an account and no total": State(state.add_balance(ALICE, 1).trees, state.supply),
        "in an account and its total": state.add_balance(ALICE, 1),
        "gone from an account": state.add_balance(ALICE, -1),
        "burned and still there": State(state.trees, less).put(SUPPLY, less),
    }


@pytest.mark.parametrize("name", spoilt_states())
def test_conservation_counts_entries(name):
    """Whatever the state's own totals say, money more or less is told, once for each block."""
    conservation, block = Conservation(), final_block(calm_world())
    conservation.executed(ActorId(0), block, GENESIS_STATE)
    conservation.executed(ActorId(1), block, spoilt_states()[name])  # this block was counted
    second = replace_message(block, header=replace_message(block.header, height=Height(2)))
    with pytest.raises(Broken, match="not_conserved: at height 2"):
        conservation.executed(ActorId(1), second, spoilt_states()[name])


def test_what_burned_does_not_come_back():
    """Not even where the sum is right: then it was paid to somebody. The other side of a fork burns what it burns."""
    supply = replace_message(GENESIS_STATE.supply, burned_nano=5)
    burned = GENESIS_STATE.add_balance(ALICE, -5).put(SUPPLY, supply)
    conservation, block = Conservation(), final_block(calm_world())
    conservation.executed(ActorId(0), block, burned)
    beside = replace_message(block, header=replace_message(block.header, time_ms=block.header.time_ms + 1))
    conservation.executed(ActorId(1), beside, GENESIS_STATE)
    parent = block.header.digest()
    second = replace_message(block, header=replace_message(block.header, height=Height(2), parent=parent))
    with pytest.raises(Broken, match="not_conserved: at height 2 0 nano are burned, and were 5"):
        conservation.executed(ActorId(0), second, GENESIS_STATE)


def test_replay_sees_a_state_that_is_not_the_last_blocks():
    """Of a member in memory, and of its disk when it begins again."""
    world = World(2, 4, replace(CALM, fullness=1.0)).run()
    member = world.members[1]
    right = member.application.state
    member.application.state = right.put(BEACON_MIX, BeaconMix(Digest(bytes(32))))
    with pytest.raises(Broken, match="not_replayed: the state of member 1"):
        world.checkers.replay.check()
    member.application.state = right
    world.checkers.replay.check()
    del member.disk.rows[next(iter(member.disk.rows))]
    with pytest.raises(Broken, match="not_replayed: the state of member 1"):
        member.start()


@pytest.mark.parametrize("wrong", ["root", "body"])
def test_replay_executes_every_block_from_genesis(wrong):
    """A header that names another root, or another body under it, is found wherever it is in the ledger."""
    world = World(2, 4, replace(CALM, fullness=1.0)).run()
    ledger = world.members[0].disk.ledger
    replay = Replay(world)
    replay.opened(world.members[0])
    block = ledger[3]
    if wrong == "root":
        ledger[3] = replace_message(block, header=replace_message(block.header, state_root=GENESIS_ROOT))
    else:
        ledger[3] = replace_message(block, body=b"noise")
    with pytest.raises(Broken, match="not_replayed: height 4 of member 0 does not execute again"):
        replay.opened(world.members[0])


def test_a_replay_uses_no_memo():
    """What members believe of a block, all together, does not count."""
    world = World(4, 4, CALM)

    class Believing(Application):
        """Takes the memo's word, which is wrong."""

        def _run(self, state: State, site: Site, body: bytes) -> Outcome | Rejected:
            outcome = super()._run(state, site, body)
            if self._memo is None or isinstance(outcome, Rejected) or site.height != 3:
                return outcome
            after = outcome.after.put(BEACON_MIX, BeaconMix(Digest(bytes(32))))
            return Outcome(state, after, after.root())

        def build(self, state: State, site: Site, candidates: Any) -> tuple[bytes, Digest]:
            body, _ = super().build(state, site, candidates)
            outcome = self._run(state, site, body)
            assert isinstance(outcome, Outcome)
            assert self._memo is not None
            self._memo.keep(self._memo.question(state.root(), body, site), outcome)
            return body, outcome.root

    world = World(4, 4, Options(), replace(world.machine, application=Believing))
    with pytest.raises(Broken, match="not_replayed: height 3"):
        world.run()
