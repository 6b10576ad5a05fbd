"""The gatherer as a conversation: with honest custodians, slow ones, and those that lie in every way there is."""

from __future__ import annotations

import functools
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.coded_tables import CheckedTable, check_table, make_tables
from protocol.erasure import LIVE, CheckedManifest, Geometry, Shard, make_manifest
from protocol.ids import PeerId
from protocol.limits import KIB
from storage.custodians import Accuse, Fault, Started, Wake, Woken
from storage.erasure.blob import encode_blob
from storage.erasure.check import TileCheck
from storage.erasure.code import ErasureCode
from storage.erasure.numpy_kernel import NumpyKernel
from storage.erasure.tile import CheckedShard, CodedTile, rebuild_tile
from storage.gathering import (
    Agreement,
    Answered,
    AskCells,
    Concluded,
    GatheringEffect,
    GatheringEvent,
    GatheringRule,
    Have,
    TileGatherer,
    Unanswered,
)
from tests.storage.erasure.samples import committed, kernel

PEERS = [PeerId(bytes([index]) * 32) for index in range(30)]
RULE = GatheringRule()
SMALL_ANSWERS = GatheringRule(answer_bytes_max=4 * KIB)
SMALL = Geometry(4, 8, KIB)
LATENCY_MS = 50
SLOW_MS = 6_000


@functools.cache
def coded(geometry: Geometry = LIVE) -> tuple[CheckedManifest, CodedTile]:
    data = Random(1).randbytes(geometry.data_cells * KIB)
    (tile,) = encode_blob(ErasureCode(NumpyKernel(), geometry), [data])
    return make_manifest(geometry, len(data), (tile.root,)), tile


@functools.cache
def shard(cell: int, geometry: Geometry = LIVE) -> Shard:
    return coded(geometry)[1].checked(cell).shard


def spread(cells: int, peers: Sequence[PeerId], each: int, seed: int = 0) -> dict[int, list[PeerId]]:
    """So many custodians of each cell."""
    draw = Random(seed)
    return {cell: draw.sample(peers, min(each, len(peers))) for cell in range(cells)}


# What a custodian does with a question: an event after some time, or nothing for ever.
Behaviour = Callable[[AskCells], tuple[GatheringEvent, int] | None]


def honest(ask: AskCells) -> tuple[GatheringEvent, int]:
    return Answered(ask.number, [shard(cell) for cell in ask.cells]), LATENCY_MS


def slow(ask: AskCells) -> tuple[GatheringEvent, int]:
    return honest(ask)[0], SLOW_MS


def silent(ask: AskCells) -> None:
    return None


def refusing(ask: AskCells) -> tuple[GatheringEvent, int]:
    return Unanswered(ask.number, is_absent=True), LATENCY_MS


def broken(ask: AskCells) -> tuple[GatheringEvent, int]:
    """Its connection ends."""
    return Unanswered(ask.number), LATENCY_MS


def empty(ask: AskCells) -> tuple[GatheringEvent, int]:
    """It answers, and that is all."""
    return Answered(ask.number, ()), LATENCY_MS


def forgetful(ask: AskCells) -> tuple[GatheringEvent, int]:
    """Half of what it is to keep is gone."""
    return Answered(ask.number, [shard(cell) for cell in ask.cells if cell % 2]), LATENCY_MS


def forging(ask: AskCells) -> tuple[GatheringEvent, int]:
    """The last one is changed, the others are right."""
    right = [shard(cell) for cell in ask.cells]
    return Answered(ask.number, [*right[:-1], replace(right[-1], data=bytes(KIB))]), LATENCY_MS


def beside(ask: AskCells) -> tuple[GatheringEvent, int]:
    """Right cells that nobody asked for, more often than once."""
    return Answered(ask.number, [shard((cell + 1) % 256) for cell in ask.cells] * 2), LATENCY_MS


FAULTS = {
    honest: None,
    slow: None,
    silent: Fault.SILENT,
    refusing: Fault.ABSENT,
    broken: Fault.SILENT,
    empty: Fault.ABSENT,
    forgetful: Fault.ABSENT,
    forging: Fault.WRONG,
    beside: Fault.WRONG,
}
LIARS = (silent, refusing, forging, beside)


class Conversation:
    """One gatherer and its custodians, in made time, until the end."""

    def __init__(self, gatherer: TileGatherer, behave: Mapping[PeerId, Behaviour], rule: GatheringRule = RULE) -> None:
        self.gatherer = gatherer
        self.now_ms = 1_000
        self.effects: list[GatheringEffect] = []
        self.wake_ms: int | None = None
        self.open: dict[int, tuple[PeerId, int]] = {}
        self.rule = rule
        coming: list[tuple[int, int, GatheringEvent]] = []
        event: GatheringEvent = Started()
        while True:
            for effect in self._handle(event):
                if isinstance(effect, AskCells) and (answer := behave.get(effect.peer, honest)(effect)) is not None:
                    heapq.heappush(coming, (self.now_ms + answer[1], effect.number, answer[0]))
            if self.concluded:
                break
            assert self.wake_ms is not None
            if coming and coming[0][0] <= self.wake_ms:
                self.now_ms, number, event = heapq.heappop(coming)
                self.open.pop(number, None)
            else:
                self.now_ms, event = max(self.now_ms, self.wake_ms), Woken()
        assert self.effects[-1] is self.all(Concluded)[0]
        assert gatherer.handle(Woken(), 10**9) == []

    def _handle(self, event: GatheringEvent) -> list[GatheringEffect]:
        effects = self.gatherer.handle(event, self.now_ms)
        assert len(self.effects) + len(effects) < 10_000
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Wake):
                self.wake_ms = effect.at_ms
            elif isinstance(effect, AskCells):
                self.open[effect.number] = effect.peer, self.now_ms
        recent = Counter(peer for peer, since in self.open.values() if self.now_ms < since + self.rule.timeout_ms)
        waited_for = [since for _, since in self.open.values() if self.now_ms < since + self.rule.hedge_ms]
        assert max(recent.values(), default=0) <= self.rule.questions_per_peer_max
        assert len(waited_for) <= self.rule.questions_max
        return effects

    def all(self, kind):
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def concluded(self) -> Concluded | None:
        return next(iter(self.all(Concluded)), None)

    @property
    def had(self) -> dict[int, CheckedShard]:
        return {each.checked.shard.cell: each.checked for each in self.all(Have)}


def gather(
    custodians: Mapping[int, Sequence[PeerId]],
    behave: Mapping[PeerId, Behaviour] | None = None,
    *,
    cells: Collection[int] | None = None,
    held: Collection[int] = (),
    seed: int = 0,
    rule: GatheringRule = RULE,
) -> Conversation:
    gatherer = TileGatherer(coded()[0], 0, custodians, Random(seed), cells=cells, held=held, rule=rule)
    return Conversation(gatherer, behave or {}, rule)


# -- honest custodians -------------------------------------------------------------------------------------------------


def test_as_many_cells_as_rebuild_the_tile() -> None:
    """No more are asked for, of as many peers as there are questions; they give the data."""
    talk = gather(spread(256, PEERS, 2))
    assert len(talk.had) == 64
    assert talk.concluded == Concluded(tuple(sorted(talk.had)), (), ())
    asks = talk.all(AskCells)
    assert sum(len(ask.cells) for ask in asks) == 64
    assert len({ask.peer for ask in asks[:8]}) == 8
    assert talk.all(Accuse) == []
    code = ErasureCode(NumpyKernel(), LIVE)
    assert rebuild_tile(code, coded()[0], 0, talk.had.values()).data == coded()[1].data
    said = talk.gatherer.statistics()
    assert (said.found, said.questions, said.late) == (64, len(asks), 0)


def test_certain_cells() -> None:
    """All of these and no other."""
    cells = range(40, 100)
    talk = gather(spread(256, PEERS, 1), cells=cells)
    assert talk.concluded == Concluded(tuple(cells), (), ())
    assert all(talk.had[cell].shard == shard(cell) for cell in cells)


def test_what_is_held_is_not_asked_for() -> None:
    """It counts where any cells will do; where nothing is wanted any more, nobody is asked."""
    talk = gather(spread(256, PEERS, 1), held=range(60))
    assert len(talk.had) == 4
    assert min(talk.had) >= 60
    assert gather(spread(256, PEERS, 1), cells=(3, 5, 9), held=(5,)).concluded == Concluded((3, 9), (), ())
    for nothing in (gather({}, held=range(64)), gather({}, cells=()), gather({}, cells=(1,), held=(1,))):
        assert nothing.effects == [Concluded((), (), ())]


def test_the_cells_of_a_peer_go_into_few_questions_none_larger_than_an_answer() -> None:
    """Four members with a quarter each: each is asked at once for its part of what is needed."""
    quarters = {cell: [PEERS[cell % 4]] for cell in range(256)}
    assert Counter(ask.peer for ask in gather(quarters).all(AskCells)) == dict.fromkeys(PEERS[:4], 1)
    talk = gather(quarters, rule=SMALL_ANSWERS)
    assert {len(ask.cells) for ask in talk.all(AskCells)} == {4}
    assert Counter(ask.peer for ask in talk.all(AskCells)) == dict.fromkeys(PEERS[:4], 4)


def test_a_cell_is_asked_for_alone_where_it_is_larger_than_an_answer_should_be() -> None:
    """The rule is a wish; the protocol's bound is far above it."""
    talk = gather(spread(256, PEERS, 2), rule=GatheringRule(answer_bytes_max=1))
    assert {len(ask.cells) for ask in talk.all(AskCells)} == {1}
    assert len(talk.had) == 64


def test_the_seed_is_the_conversation() -> None:
    """The same seed asks the same in the same order; another asks for other cells of others."""
    behave = dict(zip(PEERS, LIARS * 2, strict=False))
    talks = [gather(spread(256, PEERS, 3), behave, seed=seed).effects for seed in (1, 1, 2)]
    assert talks[0] == talks[1] != talks[2]


def test_a_tile_that_the_blob_does_not_have() -> None:
    """It is the caller's mistake."""
    with pytest.raises(IndexError):
        TileGatherer(coded()[0], 1, {}, Random(0))


# -- custodians that do not give ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("liar", [*LIARS, broken, empty, forgetful], ids=lambda liar: liar.__name__)
def test_whoever_does_not_give_its_cells_is_accused_and_others_are_asked(liar: Behaviour) -> None:
    """Once for each question, and after three of them it is asked no more; what is right in its answers is kept."""
    bad = PEERS[::3]
    custodians = {cell: [bad[cell % 10], PEERS[1 + 3 * (cell % 10)]] for cell in range(256)}
    talk = gather(custodians, dict.fromkeys(bad, liar), cells=range(256), rule=SMALL_ANSWERS)
    assert talk.concluded == Concluded(tuple(range(256)), (), ())
    # Who says nothing is accused when its time is over; here others gave everything before.
    expected = set() if liar is silent else {(True, FAULTS[liar])}
    assert {(each.peer in bad, each.fault) for each in talk.all(Accuse)} == expected
    accused = Counter(each.peer for each in talk.all(Accuse))
    asked = Counter(ask.peer for ask in talk.all(AskCells))
    times = Counter((each.peer, cell) for each in talk.all(AskCells) for cell in each.cells)
    for each in talk.all(Accuse):
        assert times[each.peer, each.cell] == 1 or liar is broken
    for peer in bad:
        assert accused[peer] <= asked[peer]
        if liar is not forgetful:
            assert asked[peer] <= 3


def test_a_right_cell_of_another_tile_is_wrong() -> None:
    """Though it leads to the blob's root."""
    tiles = list(encode_blob(ErasureCode(kernel(), SMALL), [Random(3).randbytes(2 * SMALL.tile_bytes)]))
    manifest = make_manifest(SMALL, 2 * SMALL.tile_bytes, tuple(tile.root for tile in tiles))
    gatherer = TileGatherer(manifest, 0, {3: PEERS[:1]}, Random(0), cells=(3,))
    (ask, _) = gatherer.handle(Started(), 0)
    effects = gatherer.handle(Answered(ask.number, [tiles[1].checked(3).shard]), 1)
    assert effects == [Accuse(PEERS[0], 3, Fault.WRONG), Concluded((), (3,), ())]


def test_a_custodian_that_says_it_has_nothing_is_not_asked_again() -> None:
    """It is believed, and the cells that it alone is to keep are missing."""
    alone = {cell: [PEERS[0]] for cell in range(256)}
    talk = gather(alone, {PEERS[0]: refusing}, cells=range(9), rule=SMALL_ANSWERS)
    assert talk.concluded == Concluded((), tuple(range(9)), ())
    assert len(talk.all(AskCells)) == 2  # both were on their way


def test_a_connection_that_ends_is_tried_again() -> None:
    """Others first; three times at the most."""
    tries = Counter[PeerId]()

    def once(ask: AskCells) -> tuple[GatheringEvent, int]:
        tries[ask.peer] += 1
        return broken(ask) if tries[ask.peer] == 1 else honest(ask)

    alone = {cell: [PEERS[0]] for cell in range(256)}
    assert gather(alone, {PEERS[0]: once}, cells=range(9)).concluded == Concluded(tuple(range(9)), (), ())
    talk = gather(alone, {PEERS[0]: broken}, cells=range(9))
    assert talk.concluded == Concluded((), tuple(range(9)), ())
    assert len(talk.all(AskCells)) == 3


def test_what_nobody_keeps_is_missing() -> None:
    """Of certain cells those; of any cells all that would have helped."""
    few = spread(50, PEERS, 2)
    assert gather(few, cells=(3, 70)).concluded == Concluded((3,), (70,), ())
    assert gather({}, cells=(1, 0)).concluded == Concluded((), (0, 1), ())
    talk = gather(few)
    assert talk.concluded == Concluded(tuple(range(50)), tuple(range(50, 256)), ())


# -- time --------------------------------------------------------------------------------------------------------------


def test_slow_custodians_are_not_waited_for() -> None:
    """After four seconds the same cells are asked of others; who answers late is not accused."""
    slow_ones = dict.fromkeys(PEERS[:4], slow)
    custodians = {cell: [PEERS[cell % 4], PEERS[4 + cell % 9]] for cell in range(256)}
    talk = gather(custodians, slow_ones, cells=range(80))
    assert talk.concluded is not None
    assert talk.concluded.missing == ()
    assert talk.all(Accuse) == []
    assert 1_000 + RULE.hedge_ms < talk.now_ms < 1_000 + SLOW_MS
    assert talk.gatherer.statistics().late > 0
    again = Counter(cell for ask in talk.all(AskCells) for cell in ask.cells)
    assert set(again.values()) == {1, 2}


def test_a_late_answer_counts() -> None:
    """There is nobody else: the gatherer waits for it, and the second hand that it would have asked is not there."""
    alone = {cell: [PEERS[0]] for cell in range(256)}
    talk = gather(alone, {PEERS[0]: slow}, cells=range(5))
    assert talk.concluded == Concluded(tuple(range(5)), (), ())
    assert talk.now_ms == 1_000 + SLOW_MS
    assert talk.all(Accuse) == []
    assert [wake.at_ms for wake in talk.all(Wake)] == [1_000 + RULE.hedge_ms, 1_000 + RULE.timeout_ms]


def test_an_answer_after_the_time_out_counts_too() -> None:
    """Its peer was accused of its silence; what it gives in the end is right all the same."""
    gatherer = TileGatherer(coded()[0], 0, {0: PEERS[:1], 1: PEERS[1:2]}, Random(0), cells=(0, 1))
    first, second, wake = gatherer.handle(Started(), 0)
    assert wake == Wake(RULE.hedge_ms)
    assert gatherer.handle(Woken(), 3_999) == [Wake(RULE.hedge_ms)]
    assert gatherer.handle(Woken(), RULE.hedge_ms) == [Wake(RULE.timeout_ms)]
    accused = gatherer.handle(Woken(), RULE.timeout_ms)
    assert [type(effect) for effect in accused] == [Accuse, Accuse, AskCells, AskCells, Wake]
    have = gatherer.handle(Answered(first.number, [shard(first.cells[0])]), RULE.timeout_ms + 1)
    assert have == [Have(coded()[1].checked(first.cells[0]))]
    assert gatherer.handle(Unanswered(second.number), RULE.timeout_ms + 2) == []  # it was accused already
    assert gatherer.handle(Answered(first.number, [shard(first.cells[0])]), RULE.timeout_ms + 3) == []
    again = accused[2:4]
    (by_second,) = [ask for ask in again if ask.peer == second.peer]
    end = gatherer.handle(Answered(by_second.number, [shard(second.cells[0])]), RULE.timeout_ms + 4)
    assert end == [Have(coded()[1].checked(second.cells[0])), Concluded((0, 1), (), ())]


def test_who_says_nothing_at_all_is_given_up() -> None:
    """Three questions' time-outs, two at a time; the rest of the cells is missing, and nothing waits any more."""
    alone = {cell: [PEERS[cell % 2]] for cell in range(256)}
    talk = gather(alone, {PEERS[0]: silent}, cells=range(20), rule=SMALL_ANSWERS)
    assert talk.concluded == Concluded(tuple(range(1, 20, 2)), tuple(range(0, 20, 2)), ())
    assert 3 <= len([each for each in talk.all(Accuse) if each.peer == PEERS[0]]) <= 4
    assert talk.now_ms <= 1_000 + 2 * RULE.timeout_ms + LATENCY_MS


# -- the table ---------------------------------------------------------------------------------------------------------


def bad_tile(bad: Collection[int]) -> tuple[CheckedManifest, dict[int, Shard], CheckedTable]:
    """An author commits to the cells of a codeword but for some, and publishes the codeword's table."""
    (tile,) = encode_blob(ErasureCode(kernel(), SMALL), [Random(2).randbytes(4 * KIB)])
    cells = [bytes(KIB) if cell in bad else bytes(data) for cell, data in enumerate(tile.cells)]
    manifest, shards = committed(cells, 4 * KIB, SMALL)
    check = TileCheck.of(kernel(), manifest, 0)
    root, (table,) = make_tables(manifest, [check.sums(tile.cells[: SMALL.data_cells]).tobytes()])
    return manifest, {each.shard.cell: each.shard for each in shards}, check_table(manifest, root, table)


@pytest.mark.parametrize("cells", [None, range(12)])
def test_cells_that_contradict_the_table_are_refused_and_nobody_is_accused(cells: Collection[int] | None) -> None:
    """Any other four will do where any do; without a table nothing is wrong with them."""
    bad = (0, 3, 7)
    manifest, shards, table = bad_tile(bad)
    agreement = Agreement(TileCheck.of(kernel(), manifest, 0), table)

    def give(ask: AskCells) -> tuple[GatheringEvent, int]:
        return Answered(ask.number, [shards[cell] for cell in ask.cells]), LATENCY_MS

    refused_ever = 0
    for seed in range(10):
        custodians = spread(12, PEERS, 2, seed)
        behave = dict.fromkeys(PEERS, give)
        talk = Conversation(
            TileGatherer(manifest, 0, custodians, Random(seed), cells=cells, agreement=agreement), behave
        )
        assert talk.concluded is not None
        found, missing, refused = talk.concluded.found, talk.concluded.missing, talk.concluded.refused
        assert set(refused) <= set(bad)
        assert not set(found) & set(bad)
        assert missing == ()
        assert talk.all(Accuse) == []
        assert sorted(talk.had) == list(found)
        if cells is None:
            assert len(found) == 4
        else:
            assert sorted(found + refused) == list(range(12))
        asked = Counter(cell for ask in talk.all(AskCells) for cell in ask.cells)
        assert max(asked.values()) == 1
        refused_ever += len(refused)
        trusting = Conversation(TileGatherer(manifest, 0, custodians, Random(seed), cells=cells), behave)
        assert trusting.concluded is not None
        assert trusting.concluded.refused == ()
    assert refused_ever > 0


def test_a_tile_of_which_too_few_cells_agree_is_not_there() -> None:
    """Nine of twelve contradict the table: what is left does not rebuild it."""
    manifest, shards, table = bad_tile(range(9))
    agreement = Agreement(TileCheck.of(kernel(), manifest, 0), table)

    def give(ask: AskCells) -> tuple[GatheringEvent, int]:
        return Answered(ask.number, [shards[cell] for cell in ask.cells]), LATENCY_MS

    gatherer = TileGatherer(manifest, 0, spread(12, PEERS, 1), Random(0), agreement=agreement)
    talk = Conversation(gatherer, dict.fromkeys(PEERS, give))
    assert talk.concluded == Concluded((9, 10, 11), (), tuple(range(9)))


# -- anybody -----------------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32),
    peer_count=st.integers(1, 30),
    each=st.integers(0, 4),
    certain=st.booleans(),
    rule=st.sampled_from([RULE, SMALL_ANSWERS, GatheringRule(questions_max=1, questions_per_peer_max=1)]),
)
@settings(max_examples=80)
def test_whatever_custodians_do_it_ends_with_every_cell_that_somebody_honest_keeps(
    seed: int, peer_count: int, each: int, certain: bool, rule: GatheringRule
) -> None:
    """A third of them lies: no checked cell is lost or given twice, nobody honest is accused, and there is always an end."""
    draw = Random(seed)
    peers = PEERS[:peer_count]
    behave = {peer: draw.choice(list(FAULTS)) if draw.random() < 1 / 3 else honest for peer in peers}
    cells = draw.sample(range(256), draw.randint(0, 60)) if certain else None
    held = draw.sample(range(256), draw.randint(0, 30))
    custodians = spread(256, peers, each, seed)
    talk = gather(custodians, behave, cells=cells, held=held, seed=seed, rule=rule)
    end = talk.concluded
    assert end is not None
    given_ = [each.checked.shard.cell for each in talk.all(Have)]
    assert sorted(given_) == list(end.found)
    assert len(set(given_)) == len(given_)
    assert all(checked == coded()[1].checked(cell) for cell, checked in talk.had.items())
    wanted = [cell for cell in (range(256) if cells is None else sorted(cells)) if cell not in held]
    if cells is not None or len(end.found) < 64 - len(held):
        assert sorted(end.found + end.missing) == wanted
        kept = [cell for cell in wanted if any(FAULTS[behave[peer]] is None for peer in custodians[cell])]
        assert set(kept) <= set(end.found)
    else:
        assert end.missing == ()
    for accuse in talk.all(Accuse):
        assert accuse.fault is FAULTS[behave[accuse.peer]]
    for ask in talk.all(AskCells):
        assert all(ask.peer in custodians[cell] and cell in wanted for cell in ask.cells)
        assert len(ask.cells) <= max(1, rule.answer_bytes_max // KIB)
