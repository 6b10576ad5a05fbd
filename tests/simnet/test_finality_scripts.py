"""Twins, exhaustively: the enumeration leaves nothing out, a world plays what its script says, nothing unsafe comes of it."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from protocol.finality import Proposal, Vote
from protocol.ids import Epoch, View
from simnet.finality.genesis import ActorId
from simnet.finality.members import RIGHT
from simnet.finality.run import Plan, run_many, run_seed
from simnet.finality.scripted import ScriptedWorld, beacons
from simnet.finality.scripts import HONEST, PROGRAMS, SCRIPTS, TWINS, VIEWS, Round, scripts
from simnet.finality.watch import Broken, Rule
from tests.consensus.finality.mutants import MUTANTS

SAMPLE = sorted(random.Random(3).sample(range(SCRIPTS), 60))
CUTS = [side for side in range(1, 2**PROGRAMS - 1) if side & 1]


def test_there_are_as_many_as_the_help_says():
    """Each once, none longer than four views, and only the last view of one cannot be left."""
    found = scripts()
    assert len(found) == len(set(found)) == SCRIPTS
    for script in found:
        assert all(each.can_be_left() for each in script[:-1])
        assert len(script) == VIEWS or not script[-1].can_be_left()


def equal_rounds(given: tuple[Round, ...]) -> set[tuple[Round, ...]]:
    """What a renaming, another name for a cut, and another honest leader that was on the same side until then make of it."""
    found = set()
    for honest, twins in itertools.product(itertools.permutations(HONEST), ((3, 4), (4, 3))):
        renaming = (*honest, *twins)
        options, cuts = [], list[set[int]]()
        for each in given:
            cut = {renaming[program] for program in range(PROGRAMS) if each.side >> program & 1}
            cut = cut if 0 in cut else set(range(PROGRAMS)) - cut
            leader = each.leader if each.leader == TWINS else renaming[each.leader]
            cuts.append(cut)
            alike = [other for other in HONEST if all((other in one) == (leader in one) for one in cuts)]
            leaders = [TWINS] if leader == TWINS else alike
            options.append([Round(sum(1 << program for program in cut), ActorId(other)) for other in leaders])
        found.update(itertools.product(*options))
    return found


def test_every_two_views_are_equal_to_exactly_one_beginning():
    """All 3,600 of them: sixty rounds, twice."""
    beginnings = {script[:2] for script in scripts()}
    rounds = [Round(side, leader) for side in CUTS for leader in (*HONEST, TWINS)]
    assert len(rounds) == 60
    for first, second in itertools.product(rounds, rounds):
        given = (first, second) if first.can_be_left() else (first,)
        assert len(equal_rounds(given) & beginnings) == 1, given


def test_a_view_is_left_with_three_members_on_a_side():
    """The twins are one, however many of them there are: twelve of fifteen cuts have such a side."""
    stuck = [Round(side, TWINS).told().split()[0] for side in CUTS if not Round(side, TWINS).can_be_left()]
    assert sorted(stuck) == ["01|234", "02|134", "034|12"]


def test_every_four_leaders_have_a_beacon():
    """And the world's schedule gives what the script says."""
    assert len(beacons()) == 4**VIEWS
    for number in SAMPLE[:10]:
        world = ScriptedWorld(number)
        for view, each in enumerate(world.script, 1):
            assert world.sets.leader(Epoch(0), View(view)) == each.leader


class ListeningWorld(ScriptedWorld):
    """Notes between which honest members votes and proposals of scripted views pass before the heal."""

    def __init__(self, number: int) -> None:
        self.passed: list[tuple[View, int, int]] = []
        super().__init__(number)

    def deliver(self, source: ActorId, to: ActorId, message: Any) -> None:
        vote = message.vote if isinstance(message, Proposal) else message
        if isinstance(vote, Vote) and self.chaos and vote.view <= len(self.script) and TWINS not in (source, to):
            self.passed.append((vote.view, source, to))
        super().deliver(source, to, message)


def test_what_is_said_of_a_view_stays_on_its_side():
    """Until the heal; and something is said."""
    for number in SAMPLE[:10]:
        world = ListeningWorld(number)
        world.run()
        assert world.passed
        assert all(world.script[view - 1].hears(source, to) for view, source, to in world.passed)


def test_twins_say_two_things():
    """In many scripts honest members hold the evidence in the end."""
    exposed = 0
    for number in SAMPLE[:20]:
        world = ScriptedWorld(number)
        world.run()
        exposed += world.checkers.framing.accused_in == {Epoch(0): [TWINS]}
    assert exposed >= 5


def test_a_sample_of_all_scripts_is_safe_and_live():
    """Nobody is framed; ``nocknode simnet run finality --twins`` plays the others."""
    failures = [result for result in (run_seed(Plan(twins=True), RIGHT, number) for number in SAMPLE) if result.rule]
    assert not failures, [(Plan(twins=True).command(each.seed), each.sentence, each.faults) for each in failures]


def test_the_same_script_is_the_same_run():
    """In this process and in others."""
    alone, shared = (run_many(Plan(twins=True), range(500, 508), jobs, lambda totals: None) for jobs in (1, 2))
    assert alone.digest == shared.digest
    assert not alone.failures


@pytest.mark.parametrize(
    ("rule", "mutant"),
    [
        (Rule.UNSAFE, "quorum 2f"),
        (Rule.NOT_LIVE, "R8 removed"),
        (Rule.NOT_DURABLE, "S5 removed"),
        (Rule.FRAMED, "accuses the cautious"),
    ],
)
def test_scripts_notice_wrong_machines(rule, mutant):
    """Within a few of them."""
    found = []
    for number in SAMPLE[:20]:
        try:
            ScriptedWorld(number, MUTANTS[mutant]).run()
        except Broken as broken:
            found.append(broken.rule)
    assert rule in found
