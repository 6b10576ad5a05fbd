"""Checkers against drawn histories: what nodes may do is never told, and no field of a final head changes unseen."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replace_message

from protocol.ids import Digest, Signature, Version
from protocol.roster import DeltaRef, Head
from simnet.scenario import MustHold
from tests.simnet.history import SCENARIO, History

PEERS = range(SCENARIO.peers)
ROUND = SCENARIO.learning.round_seconds

subsets = st.sets(st.sampled_from(PEERS), min_size=1).map(sorted)


@st.composite
def rounds(draw: st.DrawFn) -> dict[str, Any]:
    """What one round is like: who learned on which base, who gathered, who died before it and came back."""
    return {
        "seconds": draw(st.floats(1.0, 1.5 * ROUND)),
        "learners": draw(subsets),
        "late": draw(st.lists(st.sampled_from(PEERS), max_size=2, unique=True)),
        "gathers": draw(st.booleans()),
        "restarts": draw(st.lists(st.sampled_from(PEERS), max_size=1)),
        "forgets": draw(st.booleans()),
        "proposer": draw(st.sampled_from(range(4))),
    }


def play(history: History, number: int, plan: dict[str, Any], learned: set[tuple[int, str, int]]) -> None:
    """One round as nodes would have it; ``learned`` is who gave a delta for which tile on which base."""
    for peer in plan["restarts"]:
        history.leave(peer)
        history.arrive(peer, is_new=False)
        if plan["forgets"] and history.blocks:
            history.watch.finalized(history.peer(peer), history.blocks[-1], history.now)
    history.now += plan["seconds"]
    heads = []
    for tile in history.tiles:
        version = history.versions[tile]
        if plan["gathers"]:
            references = [history.aggregate(plan["learners"][0], tile, version, plan["learners"])]
        else:
            references = [history.delta(each, tile, version) for each in plan["learners"]]
        if version:  # who was late: on the version before, and never counted there
            late = [each for each in plan["late"] if (each, tile, version - 1) not in learned]
            references += [history.delta(each, tile, version - 1) for each in late]
            learned.update((each, tile, version - 1) for each in late)
        learned.update((each, tile, version) for each in plan["learners"])
        heads.append(history.head(tile, references, number, plan["proposer"]))
    history.decide(heads)
    history.close(number)


@settings(max_examples=25, deadline=None)
@given(plans=st.lists(rounds(), min_size=1, max_size=5))
def test_what_nodes_may_do_is_never_told(plans: list[dict[str, Any]]) -> None:
    """Rounds of any length up to the bound, late deltas, aggregates, takeovers, restarts with and without a lost block."""
    history = History(MustHold((), loss_share_max=1.0))
    learned: set[tuple[int, str, int]] = set()
    for number, plan in enumerate(plans):
        play(history, number, plan, learned)
    history.finish()
    assert history.breaches() == {}


OTHER = Digest(bytes([7]) * 32)
CHANGES: dict[str, Any] = {
    "another version": lambda head: {"version": Version(head.version + 1)},
    "the version before": lambda head: {"version": Version(head.version - 1)},
    "another parent": lambda head: {"parent_root": OTHER},
    "another root": lambda head: {"root": OTHER},
    "another update": lambda head: {"update": OTHER},
    "another size": lambda head: {"update_bytes": head.update_bytes + 1},
    "no deltas": lambda head: {"deltas": ()},
    "one delta less": lambda head: {"deltas": head.deltas[1:]},
    "one delta twice": lambda head: {"deltas": (*head.deltas, head.deltas[0])},
    "another delta": lambda head: {"deltas": _first(head, delta=OTHER)},
    "another learner": lambda head: {"deltas": _first(head, learner=OTHER)},
    "another base": lambda head: {"deltas": _first(head, base=Version(head.version))},
    "more weight": lambda head: {"deltas": _first(head, weight=head.deltas[0].weight + 1)},
    "less weight": lambda head: {"deltas": _first(head, weight=head.deltas[0].weight - 1)},
    "a contributor": lambda head: {"deltas": _first(head, contributors=(OTHER,))},
    "the round before": lambda head: {"round": head.round - 1},
}


def _first(head: Head, **changes: Any) -> tuple[DeltaRef, ...]:
    first, *others = head.deltas
    return (replace_message(first, **changes), *others)


@settings(max_examples=60, deadline=None)
@given(change=st.sampled_from(sorted(CHANGES)), signed=st.booleans(), learners=st.sampled_from([[0, 1], [2, 3, 5]]))
def test_no_field_of_a_final_head_changes_unseen(change: str, signed: bool, learners: list[int]) -> None:
    """Whether its proposer signed the change or not: a quorum that lets it pass is told."""
    history = History()
    history.round(0)
    history.now += 50
    heads = history.merge_all(1, learners)
    wrong = replace_message(heads[0], **CHANGES[change](heads[0]))
    wrong = history.sign(wrong, 0) if signed else wrong
    history.watch.finalized(history.peer(0), history.block([wrong, heads[1]]), history.now)
    told = [sentence for sentences in history.breaches().values() for sentence in sentences]
    assert told
    assert all(heads[0].tile in sentence and "height 2" in sentence for sentence in told)


@given(field=st.sampled_from(["epoch", "attempt", "round"]))
def test_a_head_that_nobody_signed_is_told(field: str) -> None:
    """Fields that no bytes stand for are at least its proposer's word."""
    history = History()
    head = history.merge_all(0, [0, 1])[0]
    wrong = replace_message(head, **{field: getattr(head, field) + 1})
    history.watch.finalized(history.peer(0), history.block([wrong]), 50.0)
    assert "signature" in history.breaches()["roots_derivable"][0]
    history = History()
    forged = replace_message(history.merge_all(0, [0, 1])[0], signature=Signature(bytes(64)))
    history.watch.finalized(history.peer(0), history.block([forged]), 50.0)
    assert "signature" in history.breaches()["roots_derivable"][0]
