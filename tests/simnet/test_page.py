"""The page of a run: what it says, whatever ran and whatever it was called."""

import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from random import Random
from xml.etree import ElementTree

import pytest

from simnet.markup import UNPRINTABLE
from simnet.outcome import Happening, Invariant, Outcome, OwnerMove, RegionOutcome, RoundOutcome, Sample
from simnet.page import atlas, render
from simnet.page.faults import spans_of
from simnet.page.over_time import kind_name
from simnet.page.words import percent, seconds_text, short_count, signed_percent
from simnet.scenario import (
    Arrivals,
    Churn,
    Crash,
    CutRegion,
    Eclipse,
    FillDisks,
    GenesisLiars,
    KillBootstraps,
    KillOwners,
    SkewClocks,
    SlowRegion,
    Villains,
)
from tests.simnet.made_outcomes import empty, poison, poison_scenario, region_cut, scenario

BYTES_MAX = 300_000
LOADING = {"script", "link", "img", "iframe", "object", "embed", "image", "use", "a", "form", "base"}
MADE = {
    "empty": lambda: render(empty()),
    "held": lambda: render(region_cut(), scenario()),
    "without its scenario": lambda: render(region_cut()),
    "broken": lambda: render(poison(), poison_scenario()),
}


def parsed(page: str) -> ElementTree.Element:
    """The page as XML, which it is but for its first line."""
    first, rest = page.split("\n", 1)
    assert first == "<!DOCTYPE html>"
    return ElementTree.fromstring(rest)


def text_of(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def large() -> Outcome:
    """More of everything than anybody will run."""
    draw = Random(1)
    regions = [f"region-{index}" for index in range(40)]
    kinds = [f"/nock/kind-{sign * 3}/1" for sign in "abcdefghijklmnopqrstuvwxyz"]
    return Outcome(
        scenario="large" * 100,
        says="long " * 1000,
        seed=1,
        level=1,
        repeat="nocknode simnet run large " * 100,
        peers=2000,
        validators=100,
        virtual_seconds=86_400.0,
        inner_steps=30,
        invariants={f"rule {i}": Invariant("It holds. " * 100, 10, ["seen " * 1000] * 500) for i in range(14)},
        rounds=[RoundOutcome(i, 300.0 * i, 5.0 / (1 + i), 10, 12, 1, 10**9, 10**9, 100, 9.0, 1.0) for i in range(288)],
        samples=[
            Sample(17.28 * i, draw.randrange(2000), draw.randrange(20_000), draw.randrange(10**9), draw.randrange(10**9),
                   {kind: draw.randrange(10**8) for kind in kinds}, draw.uniform(0, 900), i, draw.randrange(10**6))
            for i in range(5_000)
        ],
        regions=[
            RegionOutcome(name, (draw.uniform(-180, 180), draw.uniform(-90, 90)), 50,
                          {other: draw.randrange(10**12) for other in regions})
            for name in regions
        ],
        moves=[
            OwnerMove(draw.uniform(0, 86_400), f"layer{draw.randrange(24)}.expert{draw.randrange(64)}/0", f"p{i}", f"p{i + 1}")
            for i in range(20_000)
        ],
        happenings=[Happening(draw.uniform(0, 86_400), f"peer {i} is killed " * 20) for i in range(5000)],
    )  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_a_page_is_well_formed_and_needs_nothing_else(name):
    """It names no address, loads nothing, runs nothing, and its policy forbids all that."""
    page = MADE[name]()
    root = parsed(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "image", "use", "a", "form"} & {
        each.tag for each in root.iter()
    }
    for each in root.iter():
        assert not {"href", "src", "srcset", "action", "data", "xlink:href"} & set(each.attrib)
        assert not any(key.startswith("on") for key in each.attrib)
    assert re.search(r"https?:|//|url\(|@import|javascript:", page) is None
    (policy,) = (
        each.get("content") for each in root.iter("meta") if each.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert len(page.encode()) < BYTES_MAX


@pytest.mark.parametrize("name", MADE)
def test_who_does_not_see_a_page_can_read_it(name):
    """Pictures have titles and descriptions, tables captions and headers, ids are one element's each."""
    root = parsed(MADE[name]())
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    pictures = [each for each in root.iter("svg") if each.get("role") == "img"]
    for picture in pictures:
        titles = {each.get("id"): each.text for each in picture if each.tag in ("title", "desc")}
        assert sorted(titles) == sorted(picture.get("aria-labelledby").split())
        assert all(titles.values())
    for table in root.iter("table"):
        assert text_of(table.find("caption"))
        assert table.findall("thead/tr/th")
        assert all(each.get("scope") in ("col", "row") and text_of(each) for each in table.iter("th"))
    levels = [int(each.tag[1]) for each in root.iter() if re.fullmatch("h[1-6]", each.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)) or name == "broken"
    assert root.get("lang") == "en"


def test_a_run_that_held_says_so_first():
    """The verdict, the sentence and the command that repeats the run."""
    outcome = region_cut()
    root = parsed(render(outcome, scenario()))
    header = text_of(root.find(".//header"))
    assert "✓ passed" in header
    assert outcome.says in header
    assert outcome.repeat in header
    assert text_of(root.find(".//title")) == "✓ passed: region-cut, seed 7"
    for said in ("200", "1:00:00", "18.2 M", "11,838", "none broken"):
        assert said in text_of(root.find(".//dl"))


def test_what_broke_stands_above_everything_else():
    """Each broken rule with its sentence and what was seen first; the table has the others, broken rules first."""
    outcome = poison()
    root = parsed(render(outcome, poison_scenario()))
    header = text_of(root.find(".//header"))
    assert "✗ 2 rules broken" in header
    assert "✓ passed" not in header
    for name in ("owned", "poison costs little"):
        assert outcome.invariants[name].says in header
        assert outcome.invariants[name].breaches[0] in header
    assert "and 18 more breaches" in header
    table = next(each for each in root.iter("table") if "whatever happened" in text_of(each.find("caption")))
    verdicts = [text_of(row[0]) for row in table.findall("tbody/tr")]
    assert verdicts[:2] == ["✗ broken", "✗ broken"]
    assert verdicts[2:10] == ["✓ held"] * 8
    assert verdicts[10:] == ["not checked"]


def test_a_rule_that_was_never_checked_did_not_hold():
    """It says so, and if none was, there is nothing to pass."""
    outcome = replace(empty(), invariants={"quiet": Invariant("Nothing is heard.")})
    root = parsed(render(outcome))
    assert "nothing was checked" in text_of(root.find(".//header"))
    assert "1 never" in text_of(root.find(".//dl"))
    assert "passed" not in text_of(root.find(".//body"))


def test_a_run_of_nothing_is_a_page():
    """No samples, no rounds, no regions: the sections that would be empty are not there."""
    root = parsed(render(empty()))
    assert not list(root.iter("svg"))
    assert "No rule was watched." in text_of(root)
    parsed(render(empty(), scenario()))


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "\"onmouseover='x'", "]]></style><b>", "\x00\x1b[2J\u202e", "\ud800", ""]
)
def test_a_name_is_text_and_nothing_else(name):
    """Whatever a scenario's file, a peer or a checker says: no element, no attribute, no sign that XML forbids."""
    outcome = replace(
        region_cut(),
        scenario=name,
        says=name,
        repeat=name,
        digest=name,
        invariants={name: Invariant(name, 1, [name])},
        regions=[
            RegionOutcome(name, (0.0, 0.0), 3, {name: 5, "other": 7}),
            RegionOutcome("other", (9.0, 9.0), 3, {name: 9}),
        ],
        moves=[OwnerMove(5.0, name, name, "b"), OwnerMove(9.0, name, "b", name)],
        happenings=[Happening(1.0, name)],
    )
    outcome.samples[5].by_kind[name] = 10**9
    page = render(outcome, poison_scenario())
    page.encode("utf-8")
    root = parsed(page)
    innocent = parsed(render(outcome_with_name("plain"), poison_scenario()))
    if name:
        assert {each.tag for each in root.iter()} == {each.tag for each in innocent.iter()}
        assert {key for each in root.iter() for key in each.attrib} == {
            key for each in innocent.iter() for key in each.attrib
        }
        assert UNPRINTABLE.sub("\ufffd", name) in [each.text for each in root.iter("h1")]


def outcome_with_name(name: str) -> Outcome:
    """The same as above for a name that does no harm."""
    return replace(
        region_cut(), scenario=name, invariants={name: Invariant(name, 1, [name])},
        regions=[RegionOutcome(name, (0.0, 0.0), 3, {name: 5, "other": 7}), RegionOutcome("other", (9.0, 9.0), 3, {name: 9})],
        moves=[OwnerMove(5.0, name, name, "b"), OwnerMove(9.0, name, "b", name)],
    )  # fmt: skip


def test_however_much_ran_the_file_is_small():
    """Five thousand samples, forty regions, twenty thousand moves: thinned, and what is left out is said."""
    page = render(large())
    root = parsed(page)
    assert len(page.encode()) < BYTES_MAX
    for said in (
        "The 28 regions with the fewest peers",
        "The 32 tiles that moved most",
        "and 4,940 more",
        "and 492 more",
    ):
        assert said in text_of(root)


def test_a_thousand_samples_keep_their_worst():
    """A peak of one sample among a thousand is in the picture and in the words."""
    outcome = region_cut(seconds=3600.0, step=3.6)
    assert len(outcome.samples) == 1000
    outcome.samples[500] = replace(outcome.samples[500], queue_max=9_876, finality_lag_seconds=321.0)
    page = text_of(parsed(render(outcome)))
    assert "Nobody's held more than 9,876, at 30:03." in page
    assert "at worst 321 s, at 30:03." in page


def test_the_same_outcome_is_the_same_page():
    """To the last byte, also in another process where texts hash otherwise."""
    program = "import sys; from tests.simnet.test_page import MADE; sys.stdout.write(MADE['broken']())"
    said = {"PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **said}, capture_output=True, check=True)
    assert done.stdout.decode() == MADE["broken"]() == MADE["broken"]()


def test_numbers_that_are_none_are_left_out():
    """A mean that ran away to infinity, a loss that is no number: the rest is drawn, and the words say it."""
    outcome = region_cut()
    outcome.rounds = [replace(each, loss_plain=math.inf, loss_honest=math.nan) for each in outcome.rounds]
    outcome.rounds[2] = replace(outcome.rounds[2], loss=math.nan)
    outcome.samples[3] = replace(outcome.samples[3], finality_lag_seconds=math.inf)
    page = render(outcome)
    assert "nan" not in page.replace("Finance", "").lower().replace("nano", "")
    assert "inf" not in re.sub(r"inf(o|l)", "", text_of(parsed(page)))
    assert "would not have ended at any number" in page


def test_no_lag_is_not_a_short_lag():
    """Where nothing became final the line has a gap, the median does not count it, and the words say for how long."""
    samples = [
        Sample(10.0 * at, 5, 5, 0, 0, {}, 0.0 if 4 < at <= 8 else 2.0, min(at, 4) if at <= 8 else at, 0)
        for at in range(1, 13)
    ]
    page = render(replace(empty(), samples=samples, virtual_seconds=120.0))
    assert "Half of the time within 2 s; at worst 2 s, at 0:10. 12 blocks final; none for 0:40 until 1:20." in text_of(
        parsed(page)
    )
    (line,) = re.findall(r'<path class="line c1" d="([^"]+)"', page)
    assert line.count("M") == 2


def test_what_poison_cost_is_said_in_words():
    """Against the same learners without villains, and against plain averaging."""
    page = text_of(parsed(render(poison(), poison_scenario())))
    assert "The villains cost +3.1 %." in page
    assert "Plain averaging of the same deltas would have ended at" in page
    assert "beyond the picture" in page


def test_bytes_of_a_sample_at_no_time_are_told_with_the_next():
    """A first sample at 0 has no length; what it counted is not lost from the picture."""
    first = Sample(0.0, 1, 0, 1000, 0, {"x": 1000}, 0.0, 0, 0)
    second = Sample(10.0, 1, 0, 1000, 0, {"x": 1000}, 0.0, 0, 0)
    page = text_of(parsed(render(replace(empty(), samples=[first, second], virtual_seconds=10.0))))
    assert "WAN 200 B/s" in page


def test_faults_last_as_long_as_the_scenario_says():
    """Each from when to when, the earliest first; some last the whole run."""
    faults = (
        CutRegion("eu-west", 60.0, 30.0), SlowRegion("us-east", 50.0, 10.0, 4.0, 0.25), KillBootstraps(40.0),
        KillOwners(1, 3, 60.0), Crash(0.1, 30.0, 5.0, 10.0), FillDisks(0.2, 20.0, 15.0), Eclipse(4, 10.0),
        SkewClocks(0.1, 9.0), GenesisLiars(3),
    )  # fmt: skip
    churn = Churn(0.2, (60.0, 300.0))
    spans = spans_of(replace(scenario(), faults=faults, arrivals=(Arrivals(196, 5.0, 300.0),), churn=churn))
    assert [(span.begins, span.ends, span.says) for span in spans] == [
        (0.0, 3600.0, "20 % of the peers an hour leave and come back"),
        (0.0, 3600.0, "3 peers of another network dial everybody"),
        (0.0, 3600.0, "the clocks of 10 % of the peers are off by 9 s"),
        (5.0, 300.0, "196 peers arrive"),
        (10.0, 3600.0, "4 attackers eclipse one peer"),
        (20.0, 35.0, "the disks of 20 % of the peers are full"),
        (30.0, 45.0, "10 % of the peers crash and come back"),
        (40.0, 3600.0, "the bootstrap peers are dead"),
        (50.0, 60.0, "us-east is slow: 4× the latency, 25 % of the rate"),
        (60.0, 90.0, "eu-west is cut off"),
        (600.0, 1800.0, "the owner of every tile dies in every round"),
    ]


def test_villains_that_begin_together_are_one_span():
    """Their kinds in a row, their shares together."""
    villains = (Villains("scaled", 0.1, 2), Villains("sign_flipped", 0.2, 2), Villains("lazy", 0.05, 3))
    spans = spans_of(replace(scenario(), villains=villains, faults=()))
    assert [(span.begins, span.ends, span.says) for span in spans] == [
        (1200.0, 3600.0, "30 % villains among the learners: scaled, sign flipped"),
        (1800.0, 3600.0, "5 % villains among the learners: lazy"),
    ]


def test_a_fault_is_a_band_in_every_picture_of_time():
    """At the same place in each."""
    root = parsed(render(region_cut(), scenario()))
    bands = [(each.get("x"), each.get("width")) for each in root.iter("rect") if each.get("class") == "band"]
    plots = [each for each in root.iter("svg") if each.get("class") == "plot"]
    assert set(bands) == {("36.67%", "16.67%")}
    assert len(bands) == len(plots) - 1  # the lane of what happened has its bar and its words instead


def test_kinds_of_traffic_are_named_by_people():
    """Topics by their name whatever the network and shard, protocols without their version, others as they are."""
    texts = ("nock/0a1b2c3d/tiles/3", "nock/0a1b2c3d/final", "/nock/delta/1", "/meshsub/1.1.0", "nock/x/tiles/3")
    assert [kind_name(text) for text in texts] == ["tiles", "final", "delta", "/meshsub/1.1.0", "nock/x/tiles/3"]


def test_the_map_begins_in_the_pacific():
    """Every row has the same width; places are where they are, wherever the longitude is counted from."""
    assert len({len(row) for row in atlas.LAND}) == 1
    assert atlas.place((190.0, 0.0)) == atlas.place((-170.0, 0.0))
    west, east = atlas.place((-74.0, 40.0)), atlas.place((139.0, 36.0))
    assert west[0] < east[0]
    on_land = [(-100.0, 40.0), (10.0, 50.0), (100.0, 60.0), (134.0, -25.0), (20.0, 0.0), (-55.0, -10.0)]
    for x, y in map(atlas.place, on_land):
        assert atlas.LAND[int(y // atlas.CELL)][int(x // atlas.CELL)] == "#"
    for edge in [(math.nan, math.inf), (0.0, 90.0), (0.0, -90.0)]:
        x, y = atlas.place(edge)
        assert 0 < x < atlas.MAP_WIDTH
        assert 0 < y < atlas.MAP_HEIGHT


def test_an_arc_goes_the_shorter_way_round():
    """Between Tokyo and Seattle it leaves at one edge of the map and comes back at the other."""
    seattle, tokyo = atlas.place((-122.0, 47.0)), atlas.place((139.0, 36.0))
    paris = atlas.place((2.0, 48.0))
    assert atlas.arcs(seattle, paris) == [(seattle, paris)]
    one, other = atlas.arcs(seattle, tokyo)
    assert one[0] == seattle
    assert one[1][0] < 0
    assert other[0][0] > atlas.MAP_WIDTH
    assert other[1] == tokyo


def test_numbers_are_short():
    """As a person would say them."""
    assert [seconds_text(value) for value in (0, 0.82, 9.94, 14.2, 599, 3600)] == [
        "0 s",
        "0.8 s",
        "9.9 s",
        "14 s",
        "599 s",
        "1:00:00",
    ]
    assert [short_count(value) for value in (0, 9999, 12_400, 18_204_311, 2.5e9)] == [
        "0",
        "9,999",
        "12.4 k",
        "18.2 M",
        "2.5 G",
    ]
    assert [percent(0.31), signed_percent(-0.33), signed_percent(0.0312)] == ["31 %", "−33 %", "+3.1 %"]
