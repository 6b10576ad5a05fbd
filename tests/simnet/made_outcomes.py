"""Outcomes as a run could have left them, made from a seed: to test the page with, and to look at it.

python -m tests.simnet.made_outcomes FOLDER        writes the page of each into the folder
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

from simnet.outcome import Happening, Invariant, Outcome, OwnerMove, RegionOutcome, RoundOutcome, Sample
from simnet.page import render
from simnet.scenario import (
    CutRegion,
    HardwareClass,
    KillOwners,
    Learning,
    MustHold,
    Region,
    Scenario,
    Villains,
)

REGIONS = (
    ("us-east", 0.26, (-77.0, 39.0)),
    ("us-west", 0.14, (-121.0, 44.0)),
    ("eu-west", 0.24, (3.0, 49.0)),
    ("eu-north", 0.08, (18.0, 60.0)),
    ("asia-east", 0.16, (139.0, 36.0)),
    ("asia-south", 0.08, (78.0, 19.0)),
    ("south-america", 0.04, (-47.0, -23.0)),
)
KINDS = ("/nock/delta/1", "/nock/blob/1", "nock/0a1b2c3d/tiles/0", "nock/0a1b2c3d/tiles/1", "nock/0a1b2c3d/final",
         "/nock/vote/1", "nock/0a1b2c3d/adverts", "/nock/sync/1", "nock/0a1b2c3d/tx", "/nock/ping/1")  # fmt: skip
SHARES = (0.46, 0.24, 0.06, 0.05, 0.06, 0.05, 0.03, 0.02, 0.01, 0.004)
RULES = {
    "agreement": "No two peers ever finalize different blocks at one height.",
    "durable votes": "A peer that was killed never votes against what it voted before.",
    "derivable": "Every published root follows from its parent and the addressed deltas.",
    "owned": "No tile is without an owner that works for longer than two rounds.",
    "counted once": "No delta counts twice.",
    "learns": "The last loss is at most nine tenths of the first.",
    "conserved": "Money is neither made nor lost.",
    "bounded queues": "Nobody's inbound queue grows beyond its bound.",
    "clean stop": "A node that stops leaves no task, stream or connection open.",
}
PEER_SIGNS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def scenario(name: str = "region-cut", seconds: float = 3600.0) -> Scenario:
    """Two hundred peers in seven regions; the largest of Europe is cut off for ten minutes."""
    return Scenario(
        name=name,
        says="Europe's west is cut off for ten minutes: the rest must go on, and it must catch up within a round.",
        seconds=seconds,
        peers=200,
        validators=10,
        bootstraps=3,
        regions=tuple(Region(*each) for each in REGIONS),
        routes=(),
        hardware=(HardwareClass("home", 1.0, 300.0, 20.0, 100.0),),
        learning=Learning(),
        must_hold=MustHold(tuple(RULES)),
        faults=(CutRegion("eu-west", 1320.0, 600.0),),
    )


def region_cut(
    seed: int = 7, seconds: float = 3600.0, step: float = 10.0, cut: float = 1320.0, back: float = 1920.0
) -> Outcome:
    """It held: from `cut` to `back` a region is away."""
    draw = Random(seed)
    names = ["".join(draw.choice(PEER_SIGNS) for _ in range(6)) for _ in range(24)]
    samples, height = [], 0
    for index in range(1, int(seconds / step) + 1):
        now = index * step
        in_cut, after = cut < now <= back, 0 < now - back <= 240
        pulse = math.exp(-((((now % 600) - 400) / 80) ** 2))
        total = 2e5 + 6e6 * pulse * (0.7 if in_cut else 1.6 if after else 1) * draw.uniform(0.85, 1.15)
        lag = (
            draw.uniform(0.7, 1.6)
            + (draw.uniform(1, 4) if in_cut else 0)
            + (9 * math.exp(-(now - cut) / 60) if now > cut else 0)
        )
        height += 2 if lag < 5 else 1
        samples.append(
            Sample(
                seconds=now,
                peers=200 - (draw.randrange(3) if index % 7 == 0 else 0),
                connections=int(1450 - (420 if in_cut else 0) + draw.uniform(-15, 15)) if now > 60 else int(24 * now),
                wan_bytes=int(total * (0.22 if in_cut else 0.34)),
                local_bytes=int(total * 0.62),
                by_kind={kind: int(total * share * draw.uniform(0.9, 1.1)) for kind, share in zip(KINDS, SHARES, strict=True)},
                finality_lag_seconds=lag,
                height=height if now > 20 else 0,
                queue_max=int(draw.uniform(1, 6) + (40 * math.exp(-(now - back) / 45) if now > back else 0)),
            )
        )  # fmt: skip
    rounds = [
        RoundOutcome(
            round=number,
            seconds=600.0 * (number + 1) - draw.uniform(20, 60),
            loss=2.1 + 2.06 * math.exp(-(number + 1) / 3.1),
            deltas=draw.randrange(1900, 2300),
            tiles_advanced=12,
            takeovers=3 if number in (2, 3) else 0,
            wan_bytes=sum(each.wan_bytes for each in samples if number * 600 < each.seconds <= number * 600 + 600),
            local_bytes=sum(each.local_bytes for each in samples if number * 600 < each.seconds <= number * 600 + 600),
            learners=190,
        )
        for number in range(int(seconds // 600))
    ]
    moves, owner = (
        [],
        {f"layer{layer}.expert{expert}/0": draw.choice(names[:9]) for layer in range(3) for expert in range(4)},
    )
    for now in sorted([cut + draw.uniform(5, 90) for _ in range(4)] + [draw.uniform(0, seconds) for _ in range(14)]):
        tile = draw.choice(sorted(owner))
        after_ = draw.choice(names)
        if after_ != owner[tile]:
            moves.append(OwnerMove(now, tile, owner[tile], after_))
            owner[tile] = after_
    wan = sum(each.wan_bytes for each in samples)
    regions = [
        RegionOutcome(
            name, at, round(200 * share),
            {other: int((wan * share * part * 1.3 if other != name else wan * share * 2.2) * draw.uniform(0.6, 1.4))
             for other, part, _ in REGIONS},
        )
        for name, share, at in REGIONS
    ]  # fmt: skip
    invariants = {name: Invariant(says, draw.randrange(200, 250_000)) for name, says in RULES.items()}
    return Outcome(
        scenario="region-cut",
        says=scenario().says,
        seed=seed,
        level=2,
        repeat=f"nocknode simnet run region-cut --peers 200 --seed {seed} --html region-cut.html",
        peers=200,
        validators=10,
        virtual_seconds=seconds,
        inner_steps=30,
        invariants=invariants,
        rounds=rounds,
        samples=samples,
        regions=regions,
        moves=moves,
        happenings=[
            Happening(cut, "eu-west is cut off: 48 peers, 2 of them validators"),
            Happening(back, "eu-west is back"),
            Happening(back + 71.0, "eu-west has caught up"),
        ],
        events=18_204_311,
        digest="8f3b" * 16,
    )


def poison_scenario() -> Scenario:
    """Nearly a third of the learners lies, owners die, and a region is cut."""
    return replace(
        scenario("poison", 14_400.0),
        villains=(Villains("sign_flipped", 0.3, 4),),
        faults=(KillOwners(6, 12, 90.0), CutRegion("asia-east", 9000.0, 900.0)),
    )


def poison(seed: int = 11) -> Outcome:
    """Rules broke, plain averaging ran away, and there are more happenings than numbers."""
    draw = Random(seed)
    outcome = region_cut(seed, 14_400.0, 5.0, 9000.0, 9900.0)
    outcome.scenario = "poison"
    outcome.says = "Three learners in ten turn the sign of what they learned; owners die; the merge must hardly notice."
    outcome.repeat = f"nocknode simnet run poison --seed {seed} --peers 200 --html poison.html"
    outcome.rounds = [
        RoundOutcome(
            each.round, each.seconds, each.loss * (1.004 if each.round < 5 else 1.031), each.deltas, each.tiles_advanced,
            each.takeovers + (1 if 6 <= each.round < 12 else 0), each.wan_bytes, each.local_bytes, each.learners,
            loss_plain=each.loss * (1.0 if each.round < 5 else 1.02 + 0.05 * (each.round - 4) ** 1.7), loss_honest=each.loss,
        )
        for each in outcome.rounds
    ]  # fmt: skip
    outcome.happenings = [
        Happening(600.0 * number + 300.0, f"the owner of layer{number % 3}.expert{number % 4}/0 is killed")
        for number in range(6, 12)
    ]
    outcome.happenings += [
        Happening(600.0 * number + 390.0, f"peer {number} is back with what is on its disk") for number in range(6, 12)
    ]
    outcome.happenings += [Happening(9000.0, "asia-east is cut off"), Happening(9900.0, "asia-east is back")]
    outcome.invariants["poison costs little"] = Invariant(
        "Poison costs at most 2 % of the loss that there would be without villains.",
        24,
        [
            f"round {number}, {600 * number / 3600:.2f} h: loss {2.2 + draw.random() / 50:.4f} is 3.1 % above 2.1514"
            for number in range(5, 24)
        ],
    )
    outcome.invariants["owned"].breaches.append(
        "1:22:10: layer2.expert1/0 has had no owner for 3 rounds; the last was 7hQmZk"
    )
    outcome.invariants["eclipse"] = Invariant("A victim keeps a connection to somebody honest.")
    return outcome


def empty() -> Outcome:
    """A run that ended before anything happened."""
    return Outcome("nothing", "", 0, 1, "", 0, 0, 0.0, 0, {}, [], [], [], [], [])


def main(folder: Path) -> None:
    """The pages, to be looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in (
        ("region-cut", render(region_cut(), scenario())),
        ("poison", render(poison(), poison_scenario())),
        ("bare", render(region_cut())),
        ("empty", render(empty())),
    ):
        (folder / f"{name}.html").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
