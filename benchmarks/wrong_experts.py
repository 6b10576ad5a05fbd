"""Holders who compute something else than they are asked for: how soon they are found, and how many of their answers are used.

A door without experts and four holders of a small model, with real services and real weights on a network in memory, in made-up
time: a job of a worker takes two milliseconds. Eight answers are always under way. One holder lies, in one of the ways of
simnet/wrong_experts.py; one that keeps old weights lies from the second version on, which is one round of real learning
later. The rule is the one that nodes have.

Of each liar it says how far off its wrong answers are, how many of them a text may rest on, beside a door that believes
whatever has the right size, and how soon it is in quarantine; in front of them what the same costs with honest holders alone.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, report, say, standard_options

HOLDERS: Final = 4
AT_ONCE: Final = 8
TOKENS: Final = 24
ANSWERS, QUICK_ANSWERS = 200, 24
HONEST: Final = "honest"


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one liar. Times since its first wrong answer."""

    used: int  # of its wrong answers, at most: all that were not found out, some of which nobody waited for any more
    seconds: float | None  # until it was in quarantine; None: never
    accused: int  # honest holders that were taken for liars
    checked_percent: float


class _Counting:
    """A device whose experts are compared with the right ones, without anybody's knowing."""

    def __init__(self, device: Any, right: Any, width: int) -> None:
        self._device, self._right, self._width = device, right, width
        self.wrong = 0
        self.first_wrong_at: float | None = None
        self.worst_micro: Counter[int] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def expert(self, tile_map: Any, expert: str, weights: Any) -> Any:
        given = self._device.expert(tile_map, expert, weights)
        right = self._right.expert(tile_map, expert, weights)
        counting = self

        class Reader:
            def compute(self, rows: bytes, index: int, count: int) -> bytes:
                return counting._count(given.compute(rows, index, count), right.compute(rows, index, count))

        return Reader()

    def _count(self, given: bytes, right: bytes) -> bytes:
        import trio

        from compute.spot_checks import DEVIATION_MICRO_MAX, find_deviation_micro

        micro = find_deviation_micro(given, right, self._width)
        self.worst_micro[micro] += 1
        if micro > DEVIATION_MICRO_MAX:
            self.wrong += 1
            if self.first_wrong_at is None:
                self.first_wrong_at = trio.current_time()
        return given


def learned(bench: Any) -> tuple[Any, ...]:
    """The bench's tiles after one round of one learner."""
    from compute.delta.codec import decode
    from simnet.virtual.learner import ModelDevice, made_report
    from tests.node.worker_samples import learn

    done = learn(bench.worker(ModelDevice(made_report("learner"))), bench.first)
    deltas = {delta.tile: delta.payload for delta in done.deltas}
    return tuple(
        bench.store_tile(
            tile,
            (values - decode(deltas[tile], values.size).dense()).astype("<f4") if tile in deltas else values,
            bench.path(f"next-{index}"),
        )
        for index, (tile, values) in enumerate(bench.weights.items())
    )


def live_with(bench: Any, kind: str, answers: int, believes: bool) -> tuple[Found, Counter[int]]:
    """One liar among four, until so many answers were given."""
    import trio

    from compute.spot_checks import SpotCheckRule
    from protocol.ids import PeerId, Version
    from protocol.rejection import Rejected
    from simnet.virtual.learner import ModelDevice, made_report
    from simnet.wrong_experts import ALWAYS_WRONG, SeldomDevice
    from tests.node.village import Village, live

    devices = {**ALWAYS_WRONG, "seldom": SeldomDevice, HONEST: lambda name: ModelDevice(made_report(name))}
    liar = _Counting(devices[kind]("liar"), ModelDevice(made_report("right")), bench.genesis.model.width)
    accused: Counter[PeerId] = Counter()
    found_at: list[float] = []
    results: list[Found] = []
    next_tiles = learned(bench) if kind == "stale" else bench.tiles

    def blame(peer: PeerId, refusal: Rejected) -> None:
        accused[peer] += 1
        found_at.append(trio.current_time())

    async def talk(village: Village) -> None:
        if believes:
            village.client._audit = None
        village.tiles[1] = next_tiles
        left = iter(range(answers))

        async def ask(prompt: str) -> None:
            for number in left:
                if number == answers // 4:
                    village.version = Version(1)  # with other weights where somebody keeps the old ones
                await village.answer(f"{prompt}{number}(", TOKENS, 1.0)

        async with trio.open_nursery() as nursery:
            for number in range(AT_ONCE):
                nursery.start_soon(ask, f"method_{number}")
        peer, *others = village.peers
        statistics = village.client.check_statistics()
        checked = statistics.checked / statistics.answers if statistics.answers else 0.0
        record = village.client.records().get(peer)  # None where all is believed
        since = liar.first_wrong_at or 0.0
        results.append(
            Found(
                used=liar.wrong - (record.wrong if record else 0),
                seconds=found_at[0] - since if found_at else None,
                accused=sum(accused[other] > 0 for other in others),
                checked_percent=100 * checked,
            )
        )

    live(bench, HOLDERS, talk, devices=[liar], report=blame, rule=SpotCheckRule())  # type: ignore[list-item]
    return results[0], liar.worst_micro


def measure(answers: int) -> list[Row]:
    from simnet.wrong_experts import ALWAYS_WRONG
    from tests.node.worker_samples import bench_in_memory

    rows = []
    for kind in (HONEST, *sorted(ALWAYS_WRONG), "seldom"):
        say(f"{kind}: {answers} answers, twice")
        found, off = live_with(bench_in_memory(), kind, answers, believes=False)
        plain, _ = live_with(bench_in_memory(), kind, answers, believes=True)
        lies = sorted(micro for micro, count in off.items() for _ in range(count) if micro)
        middle = lies[len(lies) // 2] if lies else 0
        rows += [
            compare(f"{kind}: off by, middle of its lies", "millionths", middle),
            compare(f"{kind}: wrong answers used, at most", "answers", found.used, plain.used, "believes all", 0),
            compare(f"{kind}: until quarantine", "virtual s", found.seconds),
            compare(f"{kind}: honest holders accused", "holders", found.accused, None, None, 0),
            compare(f"{kind}: answers computed again", "%", found.checked_percent),
        ]
    return rows


@click.command()
@standard_options
def main(as_json: bool, quick: bool) -> None:
    """Liars of each kind."""
    report("wrong_experts", measure(QUICK_ANSWERS if quick else ANSWERS), as_json)


if __name__ == "__main__":
    main()
