"""Scenarios as files: what is shipped, what is inherited, and how mistakes are told."""

from __future__ import annotations

import dataclasses
import re
import typing

import pytest

from compute.merge import RULES
from protocol.rejection import Reason, Rejected
from simnet import scenario as data
from simnet.checkers import NAMES as CHECKERS
from simnet.network import make_template, plan_peers
from simnet.scenario import Churn, CutRegion, Fault, Scenario, SkewClocks
from simnet.scenario_file import (
    FAULTS,
    INVARIANTS,
    LISTS,
    MERGE_RULES,
    NOT_IN_A_FILE,
    SHIPPED,
    TABLES,
    VILLAIN_KINDS,
    find_scenario,
    list_scenarios,
    parse_scenario,
    reader_of,
)
from simnet.villains import VILLAINS

NAMES = [path.stem for path in sorted(SHIPPED.glob("*.toml"))]
NEEDED = {
    *("calm", "churn", "region-cut", "flash-crowd", "poison", "slow-region", "bootstraps-dead", "owners-killed"),
    *("disk-full", "clock-skew", "genesis-liar", "eclipse", "state-liars"),
}
SAYS = 'says = "Something happens here."\n'


def read(text: str, base: str = "") -> Scenario:
    """A scenario from a text, whose base is ``calm`` unless there is another text."""
    return parse_scenario(text, "mine", "mine.toml", lambda name: base or (SHIPPED / f"{name}.toml").read_text())


def refusal(text: str, base: str = "") -> str:
    """What is said of a text that cannot be meant: one sentence."""
    with pytest.raises(Rejected) as refused:
        read(text, base)
    assert refused.value.reason is Reason.BAD_CONFIG
    assert "\n" not in refused.value.detail
    return refused.value.detail


# -- what is shipped -----------------------------------------------------------------------------------------------------


def test_every_scenario_that_was_promised_is_there():
    """And more may be."""
    assert set(NAMES) >= NEEDED
    assert [scenario.name for scenario in list_scenarios()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_scenario_can_be_run_and_says_something(name):
    """A sentence of its own, a network that can be founded, a place for everybody, and whatever goes wrong meets somebody."""
    scenario = find_scenario(name)
    assert scenario.name == name
    assert scenario.says.endswith(".")
    assert scenario.says.count(".") == 1
    assert name == "calm" or scenario.says != find_scenario("calm").says
    assert scenario.must_hold.invariants == INVARIANTS
    assert make_template(scenario).learning.round_ms == 1000 * scenario.learning.round_seconds
    peers = plan_peers(scenario, 0)
    assert len(peers) == scenario.peers
    assert {peer.villain for peer in peers} - {None} == {each.kind for each in scenario.villains}
    skewed = [fault for fault in scenario.faults if isinstance(fault, SkewClocks)]
    assert len({abs(peer.clock_offset_ms) for peer in peers} - {0}) == len(skewed)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "calm"])
def test_a_shipped_scenario_says_what_differs_and_why(name):
    """It begins with ``calm``, changes something of it, and has a reason in every part."""
    text = (SHIPPED / f"{name}.toml").read_text()
    assert text.startswith("# ")
    for part in text.split("\n\n"):
        assert "# " in part, part
    assert '\nbase = "calm"\n' in text
    calm = dataclasses.replace(find_scenario("calm"), name=name, says=find_scenario(name).says)
    assert find_scenario(name) != calm


def test_a_name_and_a_path_are_the_same_scenario(tmp_path):
    """A path has a slash or ends in ``.toml``; a base is found beside the file, or by its name."""
    assert find_scenario(str(SHIPPED / "churn.toml")) == find_scenario("churn")
    (tmp_path / "first.toml").write_text((SHIPPED / "calm.toml").read_text().replace("peers = 40", "peers = 12"))
    (tmp_path / "second.toml").write_text(f'base = "first.toml"\n{SAYS}')
    (tmp_path / "third.toml").write_text(f'base = "calm"\n{SAYS}')
    assert find_scenario(str(tmp_path / "second.toml")).peers == 12
    assert find_scenario(str(tmp_path / "third.toml")).peers == 40


# -- inheritance ---------------------------------------------------------------------------------------------------------


def test_single_keys_of_a_table_replace_the_bases():
    """The others stay."""
    calm = find_scenario("calm")
    mine = read(f'base = "calm"\n{SAYS}[learning]\ninner_steps = 8\n[must_hold]\nloss_cost_max = 0.5\n')
    assert mine.learning == dataclasses.replace(calm.learning, inner_steps=8)
    assert mine.must_hold == dataclasses.replace(calm.must_hold, loss_cost_max=0.5)
    assert mine.regions == calm.regions


def test_a_list_replaces_the_bases():
    """Whole, also by nothing."""
    mine = read(
        f'base = "calm"\n{SAYS}[[faults]]\nkind = "cut_region"\nregion = "europe"\nat_seconds = 5\nfor_seconds = 0.5\n'
    )
    assert mine.faults == (CutRegion("europe", 5.0, 0.5),)
    assert read(f'base = "calm"\n{SAYS}routes = []\n').routes == ()


def test_a_table_that_the_base_lacks_is_made():
    """With all that it needs."""
    mine = read(f'base = "calm"\n{SAYS}[churn]\nshare_per_hour = 0.5\naway_seconds = [1, 2.5]\n')
    assert mine.churn == Churn(0.5, (1.0, 2.5))


def test_words_of_other_packages_are_all_of_them():
    """A villain, an invariant or a merge rule that is added there can be said here."""
    assert set(VILLAIN_KINDS) == set(VILLAINS)
    assert set(INVARIANTS) == set(CHECKERS)
    assert set(MERGE_RULES) == set(RULES)


def test_every_field_of_a_scenario_can_be_read():
    """Whoever adds a field adds a reader; a new kind of fault has a word in files, which is its class's name."""
    for kind in (*TABLES.values(), *LISTS.values(), *FAULTS.values()):
        for field in dataclasses.fields(kind):
            assert reader_of(kind, field.name)
    assert set(FAULTS.values()) == set(typing.get_args(Fault))
    for word, kind in FAULTS.items():
        assert word == re.sub("(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
    for field in dataclasses.fields(Scenario):
        is_table = field.name in TABLES or field.name in LISTS or field.name == "faults"
        assert is_table or field.name in NOT_IN_A_FILE or reader_of(Scenario, field.name)
    known = {kind for kind in vars(data).values() if isinstance(kind, type) and kind.__module__ == data.__name__}
    assert known == {Scenario, *TABLES.values(), *LISTS.values(), *FAULTS.values()}


# -- mistakes ------------------------------------------------------------------------------------------------------------

CUT = '[[faults]]\nkind = "cut_region"\nregion = "asia"\nat_seconds = 5\nfor_seconds = 5\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("secods = 5\n", "mine.toml, line 3: unknown key secods; did you mean seconds?"),
        ("[learnin]\ntiles = 5\n", "mine.toml, line 3: unknown key learnin; did you mean learning?"),
        ("[learning]\ntile = 5\n", "mine.toml, line 4: unknown key learning.tile; did you mean learning.tiles?"),
        (CUT + CUT.replace("region =", "regoin ="), "line 10: unknown key faults.regoin; did you mean faults.region?"),
        (CUT.replace("cut_region", "cut_regoin"), "mine.toml, line 4: kind is 'cut_regoin', it must be one of cut_region"),
        (CUT.replace('kind = "cut_region"', ""), "mine.toml, line 3: kind is '', it must be one of cut_region"),
        (CUT.replace("for_seconds = 5", ""), "mine.toml, line 3: for_seconds is missing; say it"),
        (CUT.replace("= 5", "= -5"), "mine.toml, line 6: faults.at_seconds is -5, it must be a number from 0 to"),
        (CUT.replace("[[faults]]", "[faults]"), "mine.toml, line 3: faults is a list of tables; write [[faults]] above each"),
        ('regions = "world"\n', "mine.toml, line 3: regions is a list of tables; write [[regions]] above each"),
        ("[[learning]]\ntiles = 5\n", "mine.toml, line 3: learning is a table; write [learning] above its keys"),
        ("[churn]\nshare_per_hour = 1\naway_seconds = 5\n", "line 5: churn.away_seconds is 5, it must be a list of two"),
        ("[churn]\nshare_per_hour = 1\naway_seconds = [9, 5]\n", "away_seconds of churn are the shortest and the longest"),
        ("[churn]\nshare_per_hour = 1\n", "mine.toml: [churn]: away_seconds is missing"),
        ("peers = 0.5\n", "mine.toml, line 3: peers is 0.5, it must be a whole number from 1 to"),
        ("peers = 5\n", "10 validators must be there at the beginning, and 5 peers are"),
        (CUT.replace("asia", "asa"), "there is no region 'asa'; there are europe, us-east"),
        (CUT.replace("= 5", "= 3000"), "CutRegion ends 6000 s from the beginning, and the run has 3600"),
        ('bootstraps = 4\n[[faults]]\nkind = "kill_bootstraps"\nat_seconds = 5\n', "has no quorum for ever"),
        ('[[villains]]\nkind = "jokr"\nshare = 0.1\n', "line 4: villains.kind is 'jokr', it must be one of scaled"),
        ('[must_hold]\ninvariants = ["chain_agree"]\n', "did you mean chain_agrees?"),
        ('[[routes]]\nbetween = ["asia", "europe"]\nlatency_ms = 1\n' * 2, "two routes are between the same regions"),
        ("[[arrivals]]\npeers = 5\nfrom_seconds = 9\nuntil_seconds = 5\n", "arrivals are from a time until a later one"),
        ('[[villains]]\nkind = "lazy"\nshare = 0.1\nfrom_round = 6\n', "lazy begins after the last round, 5"),
        ('[[faults]]\nkind = "kill_owners"\nfrom_round = 3\nuntil_round = 3\nback_seconds = 5\n', "until a later one"),
        (
            '[[faults]]\nkind = "kill_bootstraps"\nat_seconds = 5\n'
            "[[arrivals]]\npeers = 5\nfrom_seconds = 1\nuntil_seconds = 5\n",
            "whoever arrives when the bootstraps are dead finds nobody",
        ),
        ("seconds = 500\n", "not one round fits"),
        ("= 5\n", "mine.toml: Invalid statement"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_what_to_do(text, told):
    """The nearest right word, the bounds, or what is needed besides."""
    assert told in refusal(f'base = "calm"\n{SAYS}{text}')


def test_a_base_has_no_base():
    """One level: whoever reads two files knows everything."""
    assert "calm has a base itself" in refusal(f'base = "calm"\n{SAYS}', base='base = "churn"\n')


def test_without_a_base_everything_is_said():
    """What is missing is named, tables first."""
    assert refusal(SAYS) == "mine.toml: [must_hold]: invariants is missing; say it, because it has no default"
    said = '[must_hold]\ninvariants = ["no_failure"]\n'
    assert refusal(SAYS + said) == "mine.toml: seconds is missing; say it, because it has no default"


def test_a_scenario_that_is_not_there():
    """The nearest one is named; a file is told as the system tells it."""
    for name, told in (("clam", "did you mean calm?"), ("x/calm.toml", "x/calm.toml: No such file")):
        with pytest.raises(Rejected, match=re.escape(told)) as refused:
            find_scenario(name)
        assert refused.value.reason is Reason.BAD_CONFIG


def test_a_file_is_called_as_a_scenario(tmp_path):
    """Its name goes into tables, commands and pages."""
    path = tmp_path / "My Scenario.toml"
    path.write_text(f'base = "calm"\n{SAYS}')
    with pytest.raises(Rejected, match="small letters"):
        find_scenario(str(path))
