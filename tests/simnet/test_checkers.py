"""Checkers of worlds of whole nodes: nothing to say about a history that is right, and one sentence about each that is not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import pytest
from msgspec.structs import replace as replace_message

from compute.delta.codec import encode as encode_delta
from protocol.codec import encode
from protocol.finality import Body, body_root
from protocol.ids import Digest, PeerId, Signature, TileId, Version, short
from protocol.learning import Contributor, SignedDelta
from protocol.rejection import Rejected
from protocol.roster import DeltaRef
from simnet.checkers import NAMES, Watch
from simnet.checkers.joined_state import SPREAD_HEIGHTS
from simnet.scenario import MustHold, Villains
from simnet.shadow import Shadow
from tests.simnet.history import GENESIS, SCENARIO, Bowl, History

ROUND = SCENARIO.learning.round_seconds


def one_breach(history: History, name: str, *words: str) -> str:
    """The only breach of the only invariant that was broken; it says all of these words."""
    assert list(history.breaches()) == [name], history.breaches()
    (sentence,) = history.breaches()[name]
    for word in words:
        assert word in sentence, sentence
    return sentence


# -- what is right ------------------------------------------------------------------------------------------------------


def test_a_right_history_breaks_nothing() -> None:
    """Rounds, a newcomer, a death and a return, a lost quorum: every checker looked, and none has anything to say."""
    history = History(MustHold((), contributes_within_rounds=3, loss_cost_max=0.02), present=range(5))
    history.round(0)
    history.now += 10
    history.arrive(5)
    history.catch_up(5)
    history.round(1)
    history.leave(4)
    history.round(2)
    history.arrive(4, is_new=False)
    history.watch.began(history.peer(4), 1, 1, history.blocks[0].header.state_root, history.now)
    history.watch.finalized(history.peer(4), history.blocks[1], history.now)  # what its disk forgot
    history.watch.finalized(history.peer(4), history.blocks[2], history.now)
    for tile in history.tiles:
        history.watch.applied(history.peer(4), tile, history.versions[tile], history.roots[tile], history.now)
    history.watch.quorum_possible(history.now + 10, False)
    history.watch.quorum_possible(history.now + 5 * ROUND, True)
    history.now += 5 * ROUND
    for number in range(3, 8):
        for length in (0, 3, 1):
            history.watch.queue(history.peer(0), "inbound", length, 256, history.now)
        history.watch.kept("version 1 of trunk/0", 0, 200, 64, history.now)
        history.round(number)
    history.finish()
    assert history.breaches() == {}
    looked = {name for name, each in history.watch.invariants.items() if each.checks}
    assert set(NAMES) - looked == {"loss_bounded"}  # there is no shadow of this history


def test_the_story_is_told() -> None:
    """Rounds have their losses, deltas, learners, takeovers and bytes; a tile that changes hands is a move."""
    history = History()
    history.watch.traffic(40.0, 1_000, 5_000)
    history.round(0)
    history.watch.traffic(90.0, 3_500, 6_000)
    history.now += 50
    history.decide(
        [
            history.head(tile, [history.delta(1, tile, 1), history.delta(2, tile, 1)], 1, proposer=3, attempt=1)
            for tile in history.tiles
        ]
    )
    history.close(1)
    first, second = history.watch.rounds
    assert (first.round, first.seconds, first.deltas, first.learners) == (0, 50.0, 12, 6)
    assert (second.tiles_advanced, second.takeovers, second.deltas, second.learners) == (2, 2, 4, 2)
    assert (first.wan_bytes, first.local_bytes, second.wan_bytes, second.local_bytes) == (1_000, 5_000, 2_500, 1_000)
    assert first.loss > second.loss
    assert [(move.seconds, move.before, move.after) for move in history.watch.moves] == [
        (100.0, short(history.peer(0)), short(history.peer(3)))
    ] * 2
    assert {move.tile for move in history.watch.moves} == set(history.tiles)


def test_a_head_that_comes_after_its_round_was_closed_belongs_to_it() -> None:
    """A tile that lags is counted in the round of its head."""
    history = History()
    history.now += 50
    heads = history.merge_all(0, [0, 1])
    history.decide(heads[:1])
    history.close(0)
    history.now += 10
    history.decide(heads[1:])
    (only,) = history.watch.rounds
    assert (only.seconds, only.tiles_advanced, only.deltas) == (50.0, 2, 4)


def test_only_what_the_scenario_names_is_judged() -> None:
    """The tallies of the others are kept beside; a name that nobody checks is refused."""
    history = History(MustHold(("chain_agrees",)))
    history.watch.failed(history.peer(0), "KeyError", 1.0)
    assert list(history.watch.invariants) == ["chain_agrees"]
    assert history.watch.unjudged["no_failure"].breaches
    wrong = replace(SCENARIO, must_hold=MustHold(("chain_agres",)))
    with pytest.raises(Rejected, match="no invariant 'chain_agres'"):
        Watch(GENESIS, wrong, lambda name: None, Bowl())


def test_without_a_valley_there_are_no_losses() -> None:
    """Nothing is judged by a number that nobody has."""
    watch = Watch(GENESIS, SCENARIO, lambda name: None, None)
    watch.arrived(PeerId(bytes(32)), 0.0, is_new=True)
    watch.round_closed(PeerId(bytes(32)), 0, 50.0)
    watch.finish(60.0, [])
    assert watch.invariants["loss_falls"].checks == 0


# -- the chain ----------------------------------------------------------------------------------------------------------


def test_two_blocks_at_one_height_are_told() -> None:
    """Whoever finalized the other one is named, and whom it contradicts."""
    history = History()
    history.round(0)
    other = history.blocks[0]
    other = replace_message(other, header=replace_message(other.header, time_ms=7, state_root=Digest(bytes(32))))
    watch = History().watch
    watch.finalized(history.peer(1), history.blocks[0], 50.0)
    watch.finalized(history.peer(2), other, 51.0)
    (sentence,) = watch.invariants["chain_agrees"].breaches
    assert sentence.startswith(f"51.0 s: {short(history.peer(2))} finalized")
    assert "at height 1" in sentence
    assert short(history.peer(1)) in sentence
    assert "its state has another root" in sentence


def test_a_skipped_height_is_told() -> None:
    """A peer that finalizes a height beyond the next one has lost a block."""
    history = History(present=range(2))
    for number in range(3):
        history.round(number)
    history.running.append(2)
    for block in (history.blocks[0], history.blocks[2]):
        history.watch.finalized(history.peer(2), block, 160.0)
    one_breach(history, "chain_agrees", "160.0 s", short(history.peer(2)), "height 3 after height 1")


def test_a_height_that_falls_without_a_restart_is_told() -> None:
    """The same call after a restart is a disk that forgot the last block."""
    history = History()
    history.round(0)
    history.round(1)
    history.leave(3)
    history.arrive(3, is_new=False)
    history.watch.finalized(history.peer(3), history.blocks[1], 110.0)
    assert history.breaches() == {}
    history.watch.finalized(history.peer(3), history.blocks[0], 111.0)
    one_breach(history, "chain_agrees", short(history.peer(3)), "height 1 after height 2")


def test_a_block_on_another_parent_is_told() -> None:
    """What is finalized first at a height must stand on what is final below it."""
    history = History()
    history.round(0)
    stray = history.block(parent=Digest(bytes([9]) * 32))
    history.watch.finalized(history.peer(0), stray, 60.0)
    one_breach(history, "chain_agrees", "height 2", "a parent that is not final")


def test_another_body_under_the_same_header_is_told() -> None:
    """Whether it comes first or later."""
    history = History()
    history.round(0)
    block = history.blocks[0]
    swapped = replace_message(block, body=encode(Body(())))
    history.leave(4)
    history.arrive(4, is_new=False)
    history.watch.finalized(history.peer(4), swapped, 60.0)
    one_breach(history, "chain_agrees", short(history.peer(4)), "another body at height 1")
    other = History()
    other.watch.finalized(other.peer(0), swapped, 50.0)
    one_breach(other, "chain_agrees", short(other.peer(0)), "that its header does not name")


def test_a_final_body_that_is_none_is_told() -> None:
    """The world goes on: what it says afterwards is looked at too."""
    history = History()
    body = b"no body"
    block = history.block(body_root=body_root(body))
    for index in history.running:
        history.watch.finalized(history.peer(index), replace_message(block, body=body), 50.0)
    one_breach(history, "chain_agrees", "50.0 s", "the final body of height 1 is none")


def test_a_tile_that_the_model_has_not_is_told() -> None:
    """A head for it does not follow from anything."""
    history = History()
    head = history.sign(replace_message(history.merge_all(0, [0])[0], tile=TileId("trunk/9")), 0)
    history.watch.finalized(history.peer(0), history.block([head]), 50.0)
    one_breach(history, "roots_derivable", "trunk/9@1", "the model has no such tile")


# -- roots and deltas ---------------------------------------------------------------------------------------------------


def test_a_root_that_does_not_follow_is_told() -> None:
    """A quorum that signs a wrong root is not believed; tile, version, height and round are named."""
    history = History()
    history.round(0)
    history.now += 50
    tile = history.tiles[0]
    wrong = history.head(tile, [history.delta(0, tile, 1)], 1, root=Digest(bytes([1]) * 32))
    history.watch.finalized(history.peer(0), history.block([wrong]), history.now)
    one_breach(history, "roots_derivable", "100.0 s", f"{tile}@2", "height 2", "round 1", "gives another root")


def test_an_update_that_is_not_the_merge_of_its_deltas_is_told() -> None:
    """The owner leaves a delta out of the merge that its head names."""
    history = History()
    history.now += 50
    tile = history.tiles[0]
    mine, others = history.delta(0, tile, 0), history.delta(1, tile, 0)
    cheat = history.head(tile, [mine], 0)
    listed = tuple(sorted((mine, others), key=lambda each: each.learner))
    cheat = history.head(tile, [mine], 0, deltas=listed)
    history.watch.finalized(history.peer(0), history.block([cheat]), history.now)
    one_breach(history, "roots_derivable", f"{tile}@1", "merging its deltas gives another update")


def signature_swapped(history: History, good: DeltaRef) -> DeltaRef:
    signed = replace_message(history.signed(good.delta), signature=Signature(bytes([3]) * 64))
    return replace_message(good, delta=history.store(encode(signed)))


def bytes_gone(history: History, good: DeltaRef) -> DeltaRef:
    del history.blobs[good.delta]
    return good


def bytes_swapped(history: History, good: DeltaRef) -> DeltaRef:
    history.blobs[good.delta] = b"other bytes"
    return good


def no_delta(history: History, good: DeltaRef) -> DeltaRef:
    return replace_message(good, delta=history.store(b"other bytes"))


def payload_garbled(history: History, good: DeltaRef) -> DeltaRef:
    return history.delta(2, history.tiles[0], 0, payload=b"garbage")


def of_another_tile(history: History, good: DeltaRef) -> DeltaRef:
    return history.delta(2, history.tiles[1], 0)


def weight_made_up(history: History, good: DeltaRef) -> DeltaRef:
    return replace_message(good, weight=good.weight * 3)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (signature_swapped, "The signature does not match"),
        (bytes_gone, "is on nobody's disk"),
        (bytes_swapped, "was stored under another's name"),
        (no_delta, "SignedDelta"),
        (payload_garbled, "the bytes end early"),
        (of_another_tile, "for layer0.expert0/0@0"),
        (weight_made_up, "has weight 306, its tokens give it 102"),
    ],
)
def test_a_delta_that_is_not_what_the_head_says_is_told(
    spoil: Callable[[History, DeltaRef], DeltaRef], words: str
) -> None:
    """Slot and learner are named."""
    history = History()
    tile = history.tiles[0]
    good = history.delta(2, tile, 0)
    head = history.head(tile, [good], 0)
    head = history.sign(replace_message(head, deltas=(spoil(history, good),)), 0)
    history.watch.finalized(history.peer(0), history.block([head]), 50.0)
    one_breach(history, "roots_derivable", f"{tile}@1", short(history.peer(2)), words)


def test_a_learner_that_counts_twice_on_one_base_is_told() -> None:
    """With other bytes than before: what it learned on that base counts once."""
    history = History()
    tile = history.tiles[0]
    for number in (0, 1):
        history.now += 50
        history.decide([history.head(tile, [history.delta(1, tile, 0, round=number)], number)])
    one_breach(history, "counted_once", f"{tile}@2", short(history.peer(1)), "on base 0, and", "counts there too")


def test_an_aggregate_is_derived_too() -> None:
    """Its contributors are read, merged again, and counted with their learners."""
    history = History()
    tile, other = history.tiles
    history.now += 50
    direct, gathered = history.delta(0, tile, 0), history.aggregate(3, tile, 0, [1, 2, 3])
    history.decide(
        [history.head(tile, [direct, gathered], 0), history.head(other, [history.aggregate(2, other, 0, [1, 2])], 0)]
    )
    history.close(0)
    assert history.breaches() == {}
    assert (history.watch.rounds[0].deltas, history.watch.rounds[0].learners) == (6, 4)


def test_a_delta_inside_an_aggregate_counts_once() -> None:
    """It may not come directly afterwards, nor inside another aggregate."""
    history = History()
    tile = history.tiles[0]
    history.now += 50
    history.decide([history.head(tile, [history.aggregate(3, tile, 0, [1, 2])], 0)])
    again = history.blobs.copy()
    later = history.aggregate(3, tile, 1, [1, 2])
    history.blobs.update(again)
    inner = history.signed(later.delta).contributors[0]
    direct = DeltaRef(inner.delta, inner.learner, Version(1), inner.weight)
    history.now += 10
    history.decide([history.head(tile, [later], 1)])
    history.now += 10
    history.decide([history.head(tile, [direct], 2)])
    one_breach(history, "counted_once", f"{tile}@3", short(inner.learner), "version 2 counted it before")


def another_payload(history: History, honest: SignedDelta) -> dict[str, object]:
    return {"payload": history.signed(history.delta(4, honest.tile, 0).delta).payload}


def more_tokens(history: History, honest: SignedDelta) -> dict[str, object]:
    return {"tokens": 9_999}


def one_left_out(history: History, honest: SignedDelta) -> dict[str, object]:
    first, *others = honest.contributors
    return {"contributors": tuple(others), "tokens": honest.tokens - first.weight}


def less_weight(history: History, honest: SignedDelta) -> dict[str, object]:
    first, *others = honest.contributors
    return {"contributors": (replace_message(first, weight=5), *others)}


def of_an_aggregate(history: History, honest: SignedDelta) -> dict[str, object]:
    inner = history.aggregate(1, honest.tile, 0, [4, 5])
    return {"contributors": (Contributor(inner.learner, inner.delta, inner.weight), *honest.contributors[1:])}


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (another_payload, "gives another payload"),
        (more_tokens, "claims 9999 tokens"),
        (one_left_out, "gives another payload"),
        (less_weight, "has weight 5 with"),
        (of_an_aggregate, "is an aggregate itself"),
    ],
)
def test_an_aggregate_that_is_not_what_it_was_made_of_is_told(
    lie: Callable[[History, SignedDelta], dict[str, object]], words: str
) -> None:
    """Slot and aggregator are named."""
    history = History()
    tile = history.tiles[0]
    honest = history.signed(history.aggregate(3, tile, 0, [1, 2, 3]).delta)
    gathered = history.aggregate(3, tile, 0, [1, 2, 3], **lie(history, honest))
    history.watch.finalized(history.peer(0), history.block([history.head(tile, [gathered], 0)]), 50.0)
    one_breach(history, "roots_derivable", f"{tile}@1", short(history.peer(3)), words)


def test_a_head_that_hides_a_contributor_is_told() -> None:
    """What the head says an aggregate was made of must be what its aggregator signed."""
    history = History()
    tile = history.tiles[0]
    gathered = history.aggregate(3, tile, 0, [1, 2, 3])
    hidden = replace_message(gathered, contributors=gathered.contributors[1:])
    history.watch.finalized(history.peer(0), history.block([history.head(tile, [hidden], 0)]), 50.0)
    one_breach(history, "roots_derivable", f"{tile}@1", "was made of others than the head says")


def test_a_tile_is_not_derived_beyond_a_wrong_head() -> None:
    """Every later head of that tile is told too; the others go on."""
    history = History()
    history.now += 50
    tile, other = history.tiles
    wrong = history.head(tile, [history.delta(0, tile, 0)], 0, parent_root=Digest(bytes([1]) * 32))
    history.decide([wrong, history.head(other, [history.delta(0, other, 0)], 0)])
    history.close(0)
    history.round(1)
    first, second = history.breaches()["roots_derivable"]
    assert "names another parent's root" in first
    assert f"{tile}@2" in second
    assert "the newest version that could be derived before it is 0" in second


def test_a_delta_that_counts_twice_is_told() -> None:
    """Long after the two versions whose lists a node remembers, and at once in the next."""
    history = History()
    tile = history.tiles[0]
    history.now += 50
    again = history.delta(1, tile, 0)
    history.decide([history.head(tile, [again], 0)])
    history.now += 10
    history.decide([history.head(tile, [again, history.delta(2, tile, 1)], 1)])
    one_breach(history, "counted_once", f"{tile}@2", short(history.peer(1)), "version 1 counted it before")
    for number in (2, 3):
        history.now += 10
        history.decide([history.head(tile, [history.delta(2, tile, number)], number)])
    history.decide([history.head(tile, [again], 4)])
    sentences = history.breaches()["counted_once"][1:]
    assert "counts delta" in sentences[0]
    assert any("on base 0" in sentence for sentence in sentences)


def test_a_delta_twice_in_one_head_is_told() -> None:
    """Under two bases, say."""
    history = History()
    tile = history.tiles[0]
    history.round(0)
    one = history.delta(1, tile, 1)
    twice = (one, replace_message(one, base=Version(0)))
    head = history.head(tile, [one], 1, deltas=tuple(sorted(twice, key=lambda each: each.base)))
    history.watch.finalized(history.peer(0), history.block([head]), 60.0)
    assert any("again, version 2 counted it before" in each for each in history.breaches()["counted_once"])


# -- owners and holders -------------------------------------------------------------------------------------------------


def decide_one(history: History, tile: TileId, round_number: int) -> None:
    history.decide([history.head(tile, [history.delta(0, tile, history.versions[tile])], round_number)])


def test_a_tile_without_a_head_for_more_than_two_rounds_is_told() -> None:
    """From when the round of its last head was closed; the other tile had its heads."""
    history = History()
    history.round(0)
    kept, left = history.tiles
    for number in (1, 2, 3):
        history.now += 0.7 * ROUND
        decide_one(history, kept, number)
        history.close(number)
    history.finish()
    sentence = one_breach(history, "tiles_owned", "260.0 s", left, "for 210.0 s", "at most 200.0 s")
    assert f"after {left}@1 (height 1, round 0" in sentence


def test_a_late_head_is_told_when_it_comes() -> None:
    """The wait ends with it."""
    history = History()
    history.now = 2.5 * ROUND
    history.decide(history.merge_all(0, [0]))
    history.close(0)
    history.round(1)
    history.finish()
    assert len(history.breaches()["tiles_owned"]) == 2
    assert "since the beginning" in history.breaches()["tiles_owned"][0]


def test_a_tile_waits_no_time_in_which_no_quorum_is_possible() -> None:
    """The clock begins anew when it is possible again."""
    history = History()
    history.round(0)
    history.watch.quorum_possible(history.now + 1.9 * ROUND, False)
    history.watch.quorum_possible(history.now + 9 * ROUND, True)
    history.now += 10.9 * ROUND
    history.decide(history.merge_all(1, [0]))
    history.close(1)
    history.finish()
    assert history.breaches() == {}


def test_a_wait_that_ends_with_the_quorum_is_told() -> None:
    """It was too long before."""
    history = History()
    history.round(0)
    history.watch.quorum_possible(history.now + 2.1 * ROUND, False)
    assert len(history.breaches()["tiles_owned"]) == 2


def test_another_root_on_a_disk_is_told() -> None:
    """Peer, tile and version are named; so is a version that was never decided."""
    history = History()
    history.round(0)
    tile = history.tiles[0]
    history.leave(2)
    history.arrive(2, is_new=False)
    history.watch.applied(history.peer(2), tile, Version(1), Digest(bytes([5]) * 32), 70.0)
    one_breach(history, "all_applied", "70.0 s", short(history.peer(2)), f"{tile}@1", "05050505")
    history.watch.applied(history.peer(2), tile, Version(2), Digest(bytes([5]) * 32), 71.0)
    assert "which was not decided" in history.breaches()["all_applied"][1]


def test_a_peer_that_does_not_apply_is_told() -> None:
    """Two rounds after the decision, once for each version that it misses; not while it is hindered or gone."""

    def history_of(*, hindered: bool) -> History:
        history = History()
        if hindered:
            history.watch.hindered(history.peer(5), 1.0, True)
        for number in range(6):
            history.now += 50
            history.decide(history.merge_all(number, [0, 1]), applying=range(5))
            history.close(number)
        return history

    assert history_of(hindered=True).breaches() == {}
    history = history_of(hindered=False)
    sentences = history.breaches()["all_applied"]
    assert list(history.breaches()) == ["all_applied"]
    assert len(sentences) == 4  # versions 1 and 2 of two tiles
    assert short(history.peer(5)) in sentences[0]
    assert "250.0 s" in sentences[0]
    history.finish()
    assert len(history.breaches()["all_applied"]) == 6  # at the end a round is enough


def test_what_a_dying_process_wrote_need_not_be_told() -> None:
    """A block and a tile that reached the disk with the last breath: the next process goes on above them."""
    history = History()
    history.round(0)
    history.leave(5)
    history.decide(history.merge_all(1, [0]))  # and the disk of peer 5 has it too
    history.arrive(5, is_new=False)
    history.close(1)
    for number in range(2, 7):
        history.round(number, learners=range(5))
    assert history.breaches() == {}


def test_a_peer_that_came_back_applies_what_is_decided_since() -> None:
    """From then on it is as any other."""
    history = History()
    history.round(0)
    history.leave(5)
    history.arrive(5, is_new=False)
    for number in range(1, 7):
        history.now += 50
        history.decide(history.merge_all(number, [0]), applying=range(5))
        history.close(number)
    assert len(history.breaches()["all_applied"]) == 4
    assert f"has not applied {history.tiles[0]}@2" in history.breaches()["all_applied"][0]


def test_a_peer_far_below_the_tip_is_told_at_the_end() -> None:
    """Its chain must reach what was final a round ago; that of a newcomer need not."""
    history = History(present=range(4))
    for number in range(6):
        history.round(number)
        if number == 2:
            history.watch.arrived(history.peer(4), history.now - 100, is_new=True)
        if number == 5:
            history.watch.arrived(history.peer(5), history.now, is_new=True)
    for tile in history.tiles:  # it fetched the tiles, and not the chain
        for peer in (4, 5):
            history.watch.applied(history.peer(peer), tile, history.versions[tile], history.roots[tile], history.now)
    history.running += [4, 5]
    for index, each in enumerate(history.blocks[:2]):
        history.watch.finalized(history.peer(4), each, 200.0 + index)
    history.finish()
    sentences = history.breaches()["all_applied"]
    assert "ends at height 2, and height 4 was final" in sentences[-1]
    assert short(history.peer(4)) in sentences[-1]
    assert not any(short(history.peer(5)) in sentence for sentence in sentences)


# -- queues, ends, failures ---------------------------------------------------------------------------------------------


def test_a_queue_beyond_its_bound_is_told() -> None:
    """Peer, queue, length and bound are named."""
    history = History()
    history.watch.queue(history.peer(1), "gossip", 257, 256, 12.0)
    one_breach(history, "queues_bounded", "12.0 s", short(history.peer(1)), "257 in gossip, at most 256")


def test_a_queue_that_only_grows_is_told_long_before_its_bound() -> None:
    """Once, though it grows on; one that is emptied now and then is in use."""
    history = History()
    for sample in range(40):
        now = 10.0 * sample
        history.watch.queue(history.peer(1), "leak", 3 + sample // 2, 10_000, now)
        history.watch.queue(history.peer(1), "busy", sample % 9, 10_000, now)
        history.watch.queue(history.peer(2), "idle", 7, 10_000, now)
    one_breach(history, "queues_bounded", short(history.peer(1)), "leak grew from 3 to", "since 0.0 s")


def test_a_burst_is_no_leak() -> None:
    """A queue may fill for a part of a round."""
    history = History()
    for sample in range(20):
        history.watch.queue(history.peer(1), "sync", sample, 10_000, 4.0 * sample)
    history.watch.queue(history.peer(1), "sync", 0, 10_000, 90.0)
    assert history.breaches() == {}


def test_a_restart_begins_other_queues() -> None:
    """What grew in the process before is gone with it."""
    history = History()
    for sample in range(60):
        if sample % 7 == 6:
            history.leave(1)
            history.arrive(1, is_new=False)
        history.watch.queue(history.peer(1), "leak", sample, 10_000, 10.0 * sample)
    assert history.breaches() == {}


def test_a_tile_of_which_too_few_cells_are_left_is_told() -> None:
    """While a quorum is possible: without one nothing is promised."""
    history = History()
    history.watch.kept("version 3 of trunk/0", 1, 64, 64, 4.0)
    history.watch.quorum_possible(5.0, False)
    history.watch.kept("version 3 of trunk/0", 1, 10, 64, 6.0)
    history.watch.quorum_possible(7.0, True)
    history.watch.kept("version 3 of trunk/0", 1, 63, 64, 8.0)
    one_breach(history, "kept_readable", "8.0 s", "version 3 of trunk/0", "63 cells of tile 1 are left, 64 rebuild it")


def test_failures_and_what_is_left_behind_are_told() -> None:
    """With the peer, the time and what was seen."""
    history = History()
    history.watch.failed(history.peer(1), "KeyError: 'tile'", 5.0)
    one_breach(history, "no_failure", "5.0 s", short(history.peer(1)), "KeyError: 'tile'")
    history = History()
    history.leave(2)
    history.watch.left_behind(history.peer(2), "a stream to 'sync'", 6.0)
    one_breach(history, "nothing_left_behind", "6.0 s", short(history.peer(2)), "a stream to 'sync'")


# -- learning -----------------------------------------------------------------------------------------------------------


def joined(learners: range, *, rounds: int = 3, learns: bool = True) -> History:
    """A peer arrives in round 1, and these learn in the rounds after."""
    history = History(MustHold((), contributes_within_rounds=rounds), present=range(5))
    history.round(0)
    history.now += 10
    history.running.append(5)
    history.watch.arrived(history.peer(5), history.now, is_new=True, learns=learns)
    history.catch_up(5)
    for number in range(1, 6):
        history.round(number, learners=learners)
    return history


def test_a_joiner_of_whom_nothing_is_counted_is_told() -> None:
    """When the last of its rounds is closed. One that learns, and one of which nothing is expected, are not."""
    history = joined(range(5))
    one_breach(
        history, "joiners_contribute", "260.0 s", short(history.peer(5)), "at 60.0 s in round 1", "up to round 4"
    )
    assert joined(range(6)).breaches() == {}
    assert joined(range(6)).watch.invariants["joiners_contribute"].checks == 1
    assert joined(range(5), learns=False).breaches() == {}


def test_a_joiner_that_leaves_owes_nothing() -> None:
    """It had no time to contribute."""
    history = History(MustHold((), contributes_within_rounds=1), present=range(5))
    history.round(0)
    history.arrive(5)
    history.now += 1
    history.arrive(5)
    history.leave(5)
    history.round(1)
    history.round(2)
    assert history.breaches() == {}


def test_a_loss_that_does_not_fall_is_told() -> None:
    """Deltas that lead nowhere: the network is busy and learns nothing."""
    history = History()
    for number in range(2):
        history.now += 50
        heads = []
        for tile in history.tiles:
            zeros = np.zeros(history.weights(tile).size, np.float32)
            payload = encode_delta(zeros, GENESIS.learning.delta_pipeline)
            heads.append(history.head(tile, [history.delta(0, tile, number, payload=payload)], number))
        history.decide(heads)
        history.close(number)
    history.finish()
    one_breach(history, "loss_falls", "100.0 s", "in round 1")


def poisoned(cost: float, *, villains: bool = True) -> tuple[History, list[list[list[PeerId]]]]:
    """Two rounds whose loss is so much above that of their honest shadow; and whom the shadows were asked for."""
    asked = []

    def learn_again(present: Sequence[Collection[PeerId]], shadow: Shadow) -> list[float]:
        asked.append([list(each) for each in present])
        factor = {Shadow.PLAIN: 3.0, Shadow.HONEST: 1 / (1 + cost)}[shadow]
        return [each.loss * factor for each in history.watch.rounds]

    history = History(
        MustHold((), loss_cost_max=0.02),
        villains=(Villains("noise", 0.3),) if villains else (),
        learn_again=learn_again,
    )
    history.round(0)
    history.round(1, learners=[1, 4])
    history.finish()
    return history, asked


def test_a_loss_above_the_honest_shadow_is_told() -> None:
    """By more than the scenario allows; the shadows learned with those of whom a delta was counted."""
    history, asked = poisoned(0.03)
    one_breach(history, "loss_bounded", "100.0 s", "round 1", "3.0% above", "at most 2.0%")
    everybody = sorted(history.peer(index) for index in range(6))
    assert asked == [[everybody, sorted((history.peer(1), history.peer(4)))]] * 2
    history, _ = poisoned(0.01)
    assert history.breaches() == {}
    assert history.watch.invariants["loss_bounded"].checks == 1
    last = history.watch.rounds[-1]
    assert (last.loss_plain, last.loss_honest) == (last.loss * 3.0, last.loss / 1.01)


def test_without_villains_there_are_no_shadows() -> None:
    """They would be the run again."""
    history, asked = poisoned(0.03, villains=False)
    assert asked == []
    assert history.watch.rounds[-1].loss_honest is None
    assert history.breaches() == {}


# -- joined_state -------------------------------------------------------------------------------------------------------


def test_a_node_that_begins_with_another_state_is_found() -> None:
    """Its state must be the one of its newest block."""
    history = History(MustHold(()), present=range(5))
    history.round(0)
    header = history.blocks[0].header
    history.watch.began(history.peer(1), 1, header.height, header.state_root, history.now)
    assert not history.breaches()
    history.watch.began(history.peer(1), 1, header.height, Digest(bytes(32)), history.now)
    one_breach(history, "joined_state", "another state")


def test_a_newcomer_that_begins_with_the_genesis_is_found() -> None:
    """Once a checkpoint must be there, which is some blocks after a boundary, nobody begins without one."""
    history = History(MustHold(()), present=range(4))
    history.arrive(4)
    history.watch.began(history.peer(4), 0, 0, Digest(bytes(32)), history.now)
    for _ in range(GENESIS.chain.epoch_heights + SPREAD_HEIGHTS):
        history.decide([], applying=[])
    assert not history.breaches()
    history.arrive(5)
    history.watch.began(history.peer(5), 0, 0, Digest(bytes(32)), history.now)
    one_breach(history, "joined_state", "begins with the genesis")
