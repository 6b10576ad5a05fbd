"""The sampler as a conversation: with honest custodians, with those that are gone, and with an author that withholds."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import comb
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.erasure import LIVE, CheckedManifest, Geometry, Shard, make_manifest
from protocol.ids import PeerId
from protocol.limits import KIB
from storage.custodians import Accuse, Fault, Started, Wake, Woken
from storage.erasure.blob import encode_blob
from storage.erasure.code import ErasureCode
from storage.erasure.numpy_kernel import NumpyKernel
from storage.erasure.tile import CodedTile
from storage.sampling.odds import fooled, samplers_until_public
from storage.sampling.sampler import (
    Absent,
    Arrived,
    AskCell,
    Concluded,
    Fetched,
    SamplingEffect,
    SamplingRule,
    TileSampler,
    Verdict,
)

PEERS = [PeerId(bytes([index]) * 32) for index in range(40)]
STRICT = SamplingRule(forgiven_max=0)
SEEDS = 1_000


@functools.cache
def coded(geometry: Geometry = LIVE) -> tuple[CheckedManifest, CodedTile]:
    data = Random(1).randbytes(geometry.data_cells * KIB)
    (tile,) = encode_blob(ErasureCode(NumpyKernel(), geometry), [data])
    return make_manifest(geometry, len(data), (tile.root,)), tile


@functools.cache
def shard(cell: int, geometry: Geometry = LIVE) -> Shard:
    return coded(geometry)[1].checked(cell).shard


def two_each(cells: int = LIVE.cells, peers: Sequence[PeerId] = PEERS) -> dict[int, list[PeerId]]:
    """Two custodians of each cell."""
    return {cell: [peers[cell % len(peers)], peers[(cell * 7 + 1) % len(peers)]] for cell in range(cells)}


Answer = Callable[[PeerId, int], Shard | Fault]  # what a peer does when it is asked for a cell


class Conversation:
    """One sampler and its custodians; each question is answered in turn, silence by letting the time pass."""

    def __init__(self, sampler: TileSampler, answer: Answer) -> None:
        self.sampler = sampler
        self.now_ms = 1_000
        self.effects: list[SamplingEffect] = []
        waiting = list(self._perform(Started()))
        while waiting or not isinstance(self.effects[-1], Concluded):
            if not waiting:
                self.now_ms = [effect.at_ms for effect in self.effects if isinstance(effect, Wake)][-1]
                waiting.extend(self._perform(Woken()))
                continue
            ask = waiting.pop(0)
            match answer(ask.peer, ask.cell):
                case Fault.SILENT:
                    continue
                case Fault.ABSENT:
                    waiting.extend(self._perform(Absent(ask.peer, ask.cell)))
                case Fault.WRONG:
                    wrong = replace(shard(ask.cell), data=bytes(KIB))
                    waiting.extend(self._perform(Arrived(ask.peer, ask.cell, wrong)))
                case given:
                    waiting.extend(self._perform(Arrived(ask.peer, ask.cell, given)))

    def _perform(self, event) -> list[AskCell]:
        effects = self.sampler.handle(event, self.now_ms)
        self.effects += effects
        return [effect for effect in effects if isinstance(effect, AskCell)]

    def all(self, kind):
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def verdict(self) -> Verdict:
        return self.all(Concluded)[0].verdict


def sample(seed: int, answer: Answer, rule: SamplingRule | None = None, custodians=None) -> Conversation:
    sampler = TileSampler(coded()[0], 0, custodians or two_each(), Random(seed), rule)
    return Conversation(sampler, answer)


def withholding(there: Sequence[int]) -> Answer:
    """Everybody gives these cells and no other."""
    return lambda peer, cell: shard(cell) if cell in there else Fault.ABSENT


# -- one sampling ------------------------------------------------------------------------------------------------------


def test_a_tile_that_is_there_is_available_after_the_planned_samples() -> None:
    """Different cells, different peers where there are enough, nobody accused; what was fetched is there to be given on."""
    talk = sample(0, lambda peer, cell: shard(cell))
    asked = talk.all(AskCell)
    assert talk.verdict is Verdict.AVAILABLE
    assert len({ask.cell for ask in asked}) == len(asked) == 11
    assert len({ask.peer for ask in asked}) == 11
    assert talk.all(Accuse) == []
    assert sorted(each.checked.shard.cell for each in talk.all(Fetched)) == sorted(ask.cell for ask in asked)
    said = talk.all(Concluded)[0].statistics
    assert (said.drawn, said.answered, said.lost, said.questions) == (11, 11, 0, 11)
    assert said.fooled == fooled(LIVE, 11)
    assert talk.sampler.statistics() == said
    assert talk.sampler.handle(Woken(), 10**9) == []


def test_the_seed_is_the_draw() -> None:
    """The same seed asks the same peers for the same cells; another seed asks for others."""
    draws = [sample(seed, lambda peer, cell: shard(cell)).all(AskCell) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("fault", list(Fault))
def test_whoever_does_not_give_its_cell_is_accused_and_another_is_asked(fault: Fault) -> None:
    """Silence costs the time-out, absence and a wrong cell no time; each is told apart."""
    bad = set(PEERS[::2])
    talk = sample(3, lambda peer, cell: fault if peer in bad else shard(cell))
    accused = talk.all(Accuse)
    assert accused
    assert {(each.peer in bad, each.fault) for each in accused} == {(True, fault)}
    assert (talk.now_ms > 1_000) is (fault is Fault.SILENT)
    asked = Counter(ask.cell for ask in talk.all(AskCell))
    assert all(times <= 2 for times in asked.values())
    assert talk.verdict is Verdict.AVAILABLE
    assert talk.all(Concluded)[0].statistics.questions == asked.total()


def test_another_cell_than_was_asked_for_is_wrong() -> None:
    """Though it leads to the root: a custodian that always shows the one cell that it has shows nothing."""
    talk = sample(4, lambda peer, cell: shard(cell ^ 1), STRICT)
    assert talk.verdict is Verdict.UNAVAILABLE
    assert {each.fault for each in talk.all(Accuse)} == {Fault.WRONG}
    assert talk.all(Fetched) == []
    assert talk.all(Concluded)[0].statistics.fooled == 1


def test_a_late_answer_counts_while_the_cell_is_open() -> None:
    """The slow peer was accused of its silence; the cell is there all the same, and the second peer's answer is not needed."""
    sampler = TileSampler(coded()[0], 0, two_each(), Random(5), STRICT)
    effects = sampler.handle(Started(), 0)
    asks = [effect for effect in effects if isinstance(effect, AskCell)]
    assert effects[-1] == Wake(4_000)
    for ask in asks[1:]:
        sampler.handle(Arrived(ask.peer, ask.cell, shard(ask.cell)), 10)
    first = asks[0]
    assert sampler.handle(Woken(), 3_999) == [Wake(4_000)]
    accuse, again, wake = sampler.handle(Woken(), 4_000)
    assert accuse == Accuse(first.peer, first.cell, Fault.SILENT)
    assert isinstance(again, AskCell)
    assert again.peer != first.peer
    assert wake == Wake(8_000)
    stranger = next(peer for peer in PEERS if peer not in two_each()[first.cell])
    for unasked in (Arrived(stranger, first.cell, shard(first.cell)), Absent(first.peer, first.cell)):
        assert sampler.handle(unasked, 4_001) == []
    wrong = Arrived(first.peer, first.cell, shard(first.cell ^ 1))
    assert sampler.handle(wrong, 4_002) == [Accuse(first.peer, first.cell, Fault.WRONG)]
    fetched, concluded = sampler.handle(Arrived(first.peer, first.cell, shard(first.cell)), 4_003)
    assert isinstance(fetched, Fetched)
    assert isinstance(concluded, Concluded)
    assert concluded.verdict is Verdict.AVAILABLE


def test_a_cell_that_nobody_keeps_is_lost() -> None:
    """Without custodians there is nothing to ask; a tile that the blob does not have is the caller's mistake."""
    talk = sample(0, lambda peer, cell: shard(cell), custodians={0: [PEERS[0]]})
    assert talk.verdict is Verdict.UNAVAILABLE
    with pytest.raises(IndexError):
        TileSampler(coded()[0], 1, two_each(), Random(0))


def test_no_peer_is_asked_beyond_its_share() -> None:
    """One that claims to keep everything is asked four times, and not believed for the rest of the tile."""
    custodians = {cell: [PEERS[0]] for cell in range(256)} | {cell: [PEERS[0], PEERS[cell + 1]] for cell in range(39)}
    talk = sample(2, lambda peer, cell: shard(cell), custodians=custodians)
    assert Counter(ask.peer for ask in talk.all(AskCell))[PEERS[0]] == 4
    assert talk.verdict is Verdict.UNAVAILABLE
    assert talk.all(Accuse) == []


def test_lost_cells_that_are_forgiven_cost_more_samples() -> None:
    """A tenth of the cells gone with their holders: the plan goes on, and the tile is there; the strict rule calls it lost."""
    gone = set(Random(9).sample(range(256), 26))
    there = [cell for cell in range(256) if cell not in gone]
    talks = [sample(seed, withholding(there)) for seed in range(100)]
    found = [talk for talk in talks if talk.verdict is Verdict.AVAILABLE]
    assert len(found) >= 85
    for talk in found:
        said = talk.all(Concluded)[0].statistics
        assert said.drawn == (11, 14, 16, 18, 20)[said.lost]
        assert said.answered == said.drawn - said.lost
        assert fooled(LIVE, said.drawn, said.lost) <= said.fooled <= Fraction(1, 10**6)
    strict = [sample(seed, withholding(there), STRICT).verdict for seed in range(100)]
    assert strict.count(Verdict.AVAILABLE) < 60


@given(
    st.integers(0, 2**32),
    st.integers(1, 40),
    st.integers(0, 3),
    st.sampled_from([Fraction(1, 10), Fraction(1, 10**6), Fraction(1, 2**40)]),
)
@settings(max_examples=60)
def test_whatever_custodians_do_the_sampler_keeps_its_rules(
    seed: int, peer_count: int, forgiven_max: int, chance: Fraction
) -> None:
    """No peer beyond its share, none twice for a cell, nobody accused who was not asked, and always an end."""
    random = Random(seed)
    rule = SamplingRule(chance, forgiven_max)
    peers = PEERS[:peer_count]
    custodians = {cell: random.sample(peers, random.randint(0, min(3, peer_count))) for cell in range(256)}
    honesty = random.random()
    choices: dict[tuple[PeerId, int], Shard | Fault] = {}

    def answer(peer: PeerId, cell: int) -> Shard | Fault:
        choice = shard(cell) if random.random() < honesty else random.choice(list(Fault))
        return choices.setdefault((peer, cell), choice)

    talk = sample(seed, answer, rule, custodians)
    asked = [(ask.peer, ask.cell) for ask in talk.all(AskCell)]
    assert len(set(asked)) == len(asked)
    share = max(
        4, -(-2 * talk.sampler._plan[-1] // max(1, len({peer for some in custodians.values() for peer in some})))
    )
    assert max(Counter(peer for peer, _ in asked).values(), default=0) <= share
    assert all(peer in custodians[cell] for peer, cell in asked)
    for accuse in talk.all(Accuse):
        assert choices[accuse.peer, accuse.cell] is accuse.fault
    said = talk.all(Concluded)[0].statistics
    assert said.questions == len(asked)
    assert said.answered == len(talk.all(Fetched))
    assert (talk.verdict is Verdict.AVAILABLE) is (said.lost <= forgiven_max)
    if talk.verdict is Verdict.AVAILABLE:
        assert said.answered + said.lost == said.drawn
        assert said.fooled <= chance
    assert talk.effects[-1] == talk.all(Concluded)[-1]


# -- withholding -------------------------------------------------------------------------------------------------------


def is_likely(found: int, tries: int, chance: Fraction) -> bool:
    """Whether a number so far from the mean happens more than once in a million, on either side."""
    weights = [comb(tries, count) * chance**count * (1 - chance) ** (tries - count) for count in range(tries + 1)]
    return min(sum(weights[: found + 1]), sum(weights[found:])) > Fraction(1, 10**6)


@pytest.mark.parametrize("forgiven", [0, 2])
@pytest.mark.parametrize("there", ["data", "parity", "drawn"])
def test_a_withheld_tile_is_detected_at_the_computed_rate(there: str, forgiven: int) -> None:
    """1,000 seeds; one cell fewer than rebuild it is given, whichever they are; the rule is weak, so that some are fooled."""
    given = {
        "data": range(63),
        "parity": range(193, 256),
        "drawn": Random(11).sample(range(256), 63),
    }[there]
    rule = SamplingRule(Fraction(1, 10), forgiven)
    answer = withholding(set(given))
    one_each = {cell: [PEERS[cell % 40]] for cell in range(256)}
    fooled_count = sum(sample(seed, answer, rule, one_each).verdict is Verdict.AVAILABLE for seed in range(SEEDS))
    if forgiven == 0:
        assert is_likely(fooled_count, SEEDS, fooled(LIVE, 2))
    assert fooled_count > 0
    assert fooled_count <= 140  # the bound is a tenth: so many would happen less than once in ten thousand such tests


def test_nobody_of_a_thousand_is_fooled_by_the_rule_in_use() -> None:
    """One in a million each: a thousandth in the mean."""
    answer = withholding(set(range(100, 163)))
    assert all(sample(seed, answer).verdict is Verdict.UNAVAILABLE for seed in range(SEEDS))


def test_who_is_shown_a_tile_selectively_makes_it_public() -> None:
    """An author gives cells until one more would rebuild the tile: as many samplers believe it as is computed, and no more."""
    rule = SamplingRule(Fraction(1, 1_000), 0)
    believed = []
    for seed in range(60):
        out: set[int] = set()

        def answer(peer: PeerId, cell: int, out: set[int] = out) -> Shard | Fault:
            if cell not in out and len(out) == 63:
                return Fault.ABSENT
            out.add(cell)
            return shard(cell)

        samplers = 0
        while sample(seed * 1_000 + samplers, answer, rule).verdict is Verdict.AVAILABLE:
            samplers += 1
        believed.append(samplers)
        assert len(out) == 63  # what is published is one cell short; one honest custodian more, and it is there
    assert samplers_until_public(LIVE, 5) == 15
    assert 12 <= sum(believed) / len(believed) <= 15
    assert max(believed) <= 20
