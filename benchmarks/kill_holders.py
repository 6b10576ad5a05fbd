"""Kills of holders: a thousand streamed answers whose experts are elsewhere, while every five seconds one who has them dies.

Five real nodes hold a model, a sixth is the door and holds none of its experts; all are processes on loopback. Every five
seconds one of the five, drawn at random, gets kill -9, its worker too, and is started again at once, from its own disk. It
stays, where the door could ask nobody else. Clients read streams of the likeliest tokens, eight at a time. Beside it the same
without deaths, and what one holder says to the same prompts: every stream must end, and say that.

Restarts take their part of this machine's cores, as they would not on machines of their own.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import click

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, median, report, say, standard_options
from benchmarks.common.network import ask, found, is_door_ready
from benchmarks.common.streams import Said, read_stream

ROOT: Final = Path(__file__).resolve().parents[1]
HOLDERS: Final = 5
ANSWERS, QUICK_ANSWERS = 1_000, 40
CALM_ANSWERS, QUICK_CALM_ANSWERS = 100, 10
PROMPTS: Final = 50
TOKENS: Final = 24
AT_ONCE: Final = 8
KILL_SECONDS: Final = 5.0
GAP_MS_MAX: Final = 3_000.0  # of the documents (001 890)
ROUND_SECONDS: Final = 30.0
READY_SECONDS_MAX: Final = 300.0
ANSWERS_SECONDS_MAX: Final = 3_000.0
POLL_SECONDS: Final = 0.5


@dataclass(slots=True)
class Deaths:
    """Who died, and how often nobody could."""

    kills: int = 0
    spared: int = 0  # the door could have asked nobody else
    able_least: int = HOLDERS
    returned: list[float] = field(default_factory=list)  # seconds from a death until the door asks it again


def asked(prompt: str) -> dict[str, Any]:
    return {"model": "holders", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}


async def answer_all(url: str, key: str, prompts: Sequence[str], tell: Callable[[int], None]) -> list[Said]:
    """A stream for each prompt, ``AT_ONCE`` of them at a time."""
    import trio

    said = [Said() for _ in prompts]
    numbers = iter(range(len(prompts)))

    async def read() -> None:
        for number in numbers:
            try:
                await read_stream(url, key, asked(prompts[number]), said[number])
            except (OSError, trio.BrokenResourceError) as failure:
                said[number].error = str(failure)
            tell(number)

    with trio.fail_after(ANSWERS_SECONDS_MAX):
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(read)
    return said


async def kill_in_turn(fleet: Any, door: Any, deaths: Deaths, generator: Random) -> None:
    """Every five seconds one more, until cancelled."""
    import trio

    peers = {index: ask(fleet.nodes[index].api.url, "/status")["peer"] for index in range(HOLDERS)}
    died_at: dict[str, float] = {}
    gone: set[str] = set()  # those of whom the door knows it: it looks every two seconds
    next_at = trio.current_time() + KILL_SECONDS
    while True:
        await trio.sleep(POLL_SECONDS)
        able = {holder["peer"] for holder in await _holders(door.url) if holder["able"]}
        now = trio.current_time()
        for peer in gone & able & died_at.keys():
            deaths.returned.append(now - died_at.pop(peer))
        gone = died_at.keys() - able
        if now < next_at:
            continue
        next_at += KILL_SECONDS
        index = generator.randrange(HOLDERS)
        if not able - {peers[index]}:
            deaths.spared += 1
            continue
        fleet.kill_node(index)
        fleet.start_node(index, door.addresses[:1])
        died_at.setdefault(peers[index], now)
        deaths.kills += 1
        deaths.able_least = min(deaths.able_least, len(able - {peers[index]}))


async def _holders(url: str) -> list[dict[str, Any]]:
    import trio

    holders: list[dict[str, Any]] = await trio.to_thread.run_sync(lambda: ask(url, "/experts/calls")["holders"])
    return holders


def find_faults(said: Sequence[Said], prompts: Sequence[str], right: dict[str, str]) -> tuple[int, int]:
    """How many streams did not end, and how many said something else than one holder alone says."""
    lost = [each for each in said if not each.is_whole]
    for each in lost[:3]:
        say(f"lost: {each.error or 'it broke off'}")
    whole = [(each, prompt) for each, prompt in zip(said, prompts, strict=True) if each.is_whole]
    return len(lost), sum(each.text != right[prompt] for each, prompt in whole)


async def measure(fleet: Any, count: int, calm_count: int, prompts: Sequence[str], seed: int) -> list[Row]:
    """All rows, with nodes that run until the fleet is left."""
    import httpx
    import trio

    first = await fleet.wait_ready(fleet.start_node(0, ()))
    others = [await fleet.wait_ready(fleet.start_node(index, first.addresses[:1])) for index in range(1, HOLDERS)]
    holders = [first, *others]
    options = ("--no-learn", "--experts", "elsewhere")
    door = await fleet.wait_ready(fleet.start_node(HOLDERS, [each.addresses[0] for each in holders], options))
    with trio.fail_after(READY_SECONDS_MAX):
        while not is_door_ready([each.url for each in holders], door.url):
            await trio.sleep(POLL_SECONDS)
    keys = [
        (fleet.nodes[index].log.parents[1] / f"peer-{index}" / "api.token").read_text().strip()
        for index in (0, HOLDERS)
    ]
    right: dict[str, str] = {}
    headers = {"authorization": f"Bearer {keys[0]}"}
    async with httpx.AsyncClient(base_url=first.url, headers=headers, trust_env=False, timeout=60.0) as client:
        for prompt in prompts:
            said = await client.post("/v1/completions", json=asked(prompt))
            right[prompt] = said.raise_for_status().json()["choices"][0]["text"]
    many = [prompts[number % len(prompts)] for number in range(count)]
    calm = await answer_all(door.url, keys[1], many[:calm_count], lambda number: None)
    calm_lost, calm_wrong = find_faults(calm, many[:calm_count], right)
    say(f"{calm_count} answers without deaths: {calm_lost} lost, {calm_wrong} wrong")
    deaths, done = Deaths(), 0

    def tell(number: int) -> None:
        nonlocal done
        done += 1
        if done % 100 == 0:
            say(f"{done} of {count} answers, {deaths.kills} kills")

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill_in_turn, fleet, door, deaths, Random(seed))
        streams = await answer_all(door.url, keys[1], many, tell)
        nursery.cancel_scope.cancel()
    took = trio.current_time() - began
    lost, wrong = find_faults(streams, many, right)
    called = ask(door.url, "/experts/calls")
    rows = [
        compare("answers", "streams", count),
        compare("kills", "holders", deaths.kills),
        compare("spared, as nobody else could be asked", "holders", deaths.spared),
        compare("asked at least", "holders", deaths.able_least),
        compare("answers lost", "streams", lost, floor=calm_lost),
        compare("answers that are not what one holder says", "streams", wrong, floor=calm_wrong),
        compare("tokens", "tokens/s", sum(each.tokens for each in streams) / took, more_is_better=True),
        compare("from a death until asked again, median", "s", median(deaths.returned) if deaths.returned else 0.0),
        compare("calls asked again elsewhere", "calls", called["called"]["failovers"]),
        compare("holders taken for liars", "checks", called["checks"]["wrong"]),
    ]
    for label, of in (("first token", lambda each: [each.first_ms()]), ("gap between tokens", Said.gaps_ms)):
        now, before = (sorted(gap for each in some for gap in of(each)) for some in (streams, calm))
        for name, share in (("median", 0.5), ("p99", 0.99), ("worst", 1.0)):
            ours, calm_ms = (each[min(len(each) - 1, int(share * len(each)))] for each in (now, before))
            rows.append(compare(f"{label}, {name}", "ms", ours, floor=calm_ms))
    gaps = [gap for each in streams for gap in each.gaps_ms()]
    say(
        f"worst gap {max(gaps):.0f} ms; {sum(gap > GAP_MS_MAX for gap in gaps)} of {len(gaps)} above {GAP_MS_MAX:.0f} ms"
    )
    return rows


@click.command()
@standard_options
@click.option("--answers", "count", type=click.IntRange(1, 100_000), help="How many streams.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of who dies.")
def main(as_json: bool, quick: bool, count: int | None, seed: int) -> None:
    """Answers while those die who hold their experts."""
    from dataclasses import replace

    import trio

    from node.config import load_template
    from simnet.options import Settings
    from simnet.processes import Fleet

    template = load_template("devnet", overrides={"learning.round_seconds": ROUND_SECONDS, "learning.inner_steps": 1})
    text = b"".join(
        b"def method_%d(self, value):\n    return self.table[value + %d]\n\n" % (at, at * at) for at in range(4_000)
    )
    prompts = [text.decode()[at * 37 % 4_000 :][: 8 + at % 40] for at in range(PROMPTS)]
    with tempfile.TemporaryDirectory(prefix="nocknode-holders-") as made:
        settings = Settings(
            out=Path(made), network=ROOT / "configs" / "devnet.toml", model=ROOT, peers=HOLDERS, rounds=1, device="cpu"
        )
        directories = [settings.data_directory(index) for index in range(HOLDERS + 1)]
        found(directories, HOLDERS, replace(template, name="holders"), [text[:65_536]])
        many = count or (QUICK_ANSWERS if quick else ANSWERS)
        calm = min(many, QUICK_CALM_ANSWERS if quick else CALM_ANSWERS)
        with Fleet(settings) as fleet:
            rows = trio.run(partial(measure, fleet, many, calm, prompts, seed))
    report("kill_holders", rows, as_json, {"holders": HOLDERS, "tokens": TOKENS, "seed": seed})


if __name__ == "__main__":
    main()
