"""Answers through a node's door: tokens a second, what a token waits for, and a thousand streams at once.

Three real nodes on loopback: two hold a model of twelve layers, the third has none of its experts. Clients ask for streams over
HTTP, as OpenAI's clients do. Beside it stands the same model in one process, with as many answers in a step: no HTTP, no
worker, no peers. All processes share the cores of this machine. Nobody learns meanwhile.

Then both nodes continue the same prompts with the likeliest tokens: the one with experts one after the other, as a single
process would, the other many at once. The last part opens many streams to one node and says what they cost it in memory.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, median, report, say, standard_options
from benchmarks.common.network import found, is_door_ready
from benchmarks.common.streams import Said, read_stream

ROOT: Final = Path(__file__).resolve().parents[1]
LAYERS, QUICK_LAYERS = 12, 2
WIDTH, EXPERTS, EXPERT_WIDTH, CONTEXT = 128, 4, 256, 256
AT_ONCE: Final = (1, 8, 32)
TOKENS, QUICK_TOKENS = 48, 8
STREAMS, QUICK_STREAMS = 1_000, 50
STREAM_TOKENS: Final = 8
PROMPTS, QUICK_PROMPTS = 1_000, 20
PROMPT_TOKENS: Final = 16
PROMPT: Final = "def method_1(self, value):\n    return "
ROUND_SECONDS: Final = 30.0
READY_SECONDS_MAX: Final = 300.0
STREAMS_SECONDS_MAX: Final = 600.0
POLL_SECONDS: Final = 0.5
MIB: Final = 1 << 20


async def streams(url: str, key: str, count: int, tokens: int) -> tuple[list[Said], float]:
    """So many at once, and the seconds until the last had ended."""
    import trio

    said = [Said() for _ in range(count)]
    began = trio.current_time()
    with trio.fail_after(STREAMS_SECONDS_MAX):
        async with trio.open_nursery() as nursery:
            for number, each in enumerate(said):
                asked = {"model": "answers", "prompt": PROMPT, "max_tokens": tokens, "temperature": 1, "seed": number}
                nursery.start_soon(read_stream, url, key, asked, each)
    return said, trio.current_time() - began


async def texts(url: str, key: str, prompts: Sequence[str], at_once: int) -> list[str]:
    """What a node continues each prompt with, by the likeliest token, so many at once."""
    import httpx
    import trio

    said = [""] * len(prompts)
    places = trio.Semaphore(at_once)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=STREAMS_SECONDS_MAX) as client:

        async def ask_one(number: int) -> None:
            body = {"model": "answers", "prompt": prompts[number], "max_tokens": PROMPT_TOKENS, "temperature": 0}
            async with places:
                answer = await client.post("/v1/completions", json=body)
            said[number] = answer.raise_for_status().json()["choices"][0]["text"]

        async with trio.open_nursery() as nursery:
            for number in range(len(prompts)):
                nursery.start_soon(ask_one, number)
    return said


def alone(shape: Any, at_once: int, tokens: int) -> tuple[float, float]:
    """Tokens a second, and milliseconds of a step, of the whole model in this process."""
    import torch

    from compute.decoding import Decoder, drive
    from compute.model.config import check_config
    from compute.model.moe import MoEModel
    from compute.sampling import Sampling

    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = MoEModel(check_config(shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.05)
    decoder = Decoder(model)
    for number in range(at_once):
        sampling = Sampling(tokens, temperature=1.0, seed=number, stop_tokens=frozenset())
        decoder.add(str(number), list(PROMPT.encode()), sampling)
    steps = []
    while len(decoder):
        began = time.perf_counter()
        drive(decoder.step(), model)
        steps.append(time.perf_counter() - began)
    return at_once * tokens / sum(steps), 1000 * median(steps[1:])


def memory_mib(pid: int) -> tuple[float, float]:
    """Resident memory of a node's own process, and of its workers."""
    import psutil

    node = psutil.Process(pid)
    workers = sum(child.memory_info().rss for child in node.children(recursive=True))
    return node.memory_info().rss / MIB, workers / MIB


async def measure(
    fleet: Any, tokens: int, at_once: Sequence[int], prompts: Sequence[str], count: int, shape: Any
) -> list[Row]:
    """All rows, with nodes that run until the fleet is left."""
    import trio

    first = await fleet.wait_ready(fleet.start_node(0, ()))
    second = await fleet.wait_ready(fleet.start_node(1, first.addresses[:1]))
    options = ("--no-learn", "--experts", "elsewhere")
    door = await fleet.wait_ready(fleet.start_node(2, [first.addresses[0], second.addresses[0]], options))
    with trio.fail_after(READY_SECONDS_MAX):
        while not is_door_ready([first.url, second.url], door.url):
            await trio.sleep(POLL_SECONDS)
    keys = {}
    for node, at in ((0, first), (2, door)):
        path = fleet.nodes[node].log.parents[1] / f"peer-{node}" / "api.token"
        keys[at.url] = path.read_text().strip()
    rows: list[Row] = []
    for many in at_once:
        floor_rate, floor_ms = alone(shape, many, tokens)
        for name, at in (("experts here", first), ("experts elsewhere", door)):
            await streams(at.url, keys[at.url], many, 4)  # the decoder is there, connections too
            said, took = await streams(at.url, keys[at.url], many, tokens)
            _check(said, name)
            gaps = sorted(gap for each in said for gap in each.gaps_ms())
            added = [gap - floor_ms for gap in gaps]
            label = f"{name}, {many} at once"
            rate = sum(each.tokens for each in said) / took
            say(f"{label}: {rate:.1f} tokens/s, one process {floor_rate:.1f}")
            rows += [
                compare(f"{label}: tokens", "tokens/s", rate, floor=floor_rate, more_is_better=True),
                compare(f"{label}: added to a token, median", "ms", median(added)),
                compare(f"{label}: added to a token, p95", "ms", added[int(0.95 * len(added))]),
            ]
    here = await texts(first.url, keys[first.url], prompts, 1)
    elsewhere = await texts(door.url, keys[door.url], prompts, at_once[-1])
    same = sum(one == other for one, other in zip(here, elsewhere, strict=True))
    say(f"{same} of {len(prompts)} prompts are continued alike")
    rows.append(compare("prompts that both continue alike", f"of {len(prompts)}", same, more_is_better=True))
    pid = fleet.nodes[0].process.pid
    before = memory_mib(pid)
    peak = before

    async def watch() -> None:
        nonlocal peak
        while True:
            now = memory_mib(pid)
            peak = (max(peak[0], now[0]), max(peak[1], now[1]))
            await trio.sleep(POLL_SECONDS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        said, took = await streams(first.url, keys[first.url], count, STREAM_TOKENS)
        nursery.cancel_scope.cancel()
    _check(said, f"{count} streams")
    say(f"{count} streams of {STREAM_TOKENS} tokens: all whole after {took:.1f} s")
    return [
        *rows,
        compare(f"{count} streams: all of them", "s", took),
        compare(f"{count} streams: the node's own memory before", "MiB", before[0]),
        compare(f"{count} streams: and at its peak", "MiB", peak[0]),
        compare(f"{count} streams: its worker before", "MiB", before[1]),
        compare(f"{count} streams: and at its peak ", "MiB", peak[1]),
    ]


def _check(said: Sequence[Said], name: str) -> None:
    lost = sum(not each.is_whole for each in said)
    if lost:
        raise click.ClickException(f"{name}: {lost} of {len(said)} streams were not whole")


@click.command()
@standard_options
@click.option("--streams", "count", type=click.IntRange(1, 4096), help="How many at once in the last part.")
def main(as_json: bool, quick: bool, count: int | None) -> None:
    """Answers through a node's door, by how many at once; and many streams."""
    from dataclasses import replace

    import msgspec
    import trio

    from node.config import load_template
    from simnet.options import Settings
    from simnet.processes import Fleet

    tokens = QUICK_TOKENS if quick else TOKENS
    template = load_template("devnet", overrides={"learning.round_seconds": ROUND_SECONDS, "learning.inner_steps": 1})
    shape = msgspec.structs.replace(
        template.model,
        layers=QUICK_LAYERS if quick else LAYERS,
        width=WIDTH,
        heads=4,
        experts=EXPERTS,
        expert_width=EXPERT_WIDTH,
        experts_per_token=2,
        context=CONTEXT,
    )
    with tempfile.TemporaryDirectory(prefix="nocknode-answers-") as made:
        settings = Settings(
            out=Path(made), network=ROOT / "configs" / "devnet.toml", model=ROOT, peers=2, rounds=1, device="cpu"
        )
        text = b"".join(
            b"def method_%d(self, value):\n    return self.table[value + %d]\n\n" % (at, at * at) for at in range(4_000)
        )
        directories = [settings.data_directory(index) for index in range(3)]
        found(directories, 2, replace(template, name="answers", model=shape), [text[:65_536]])
        with Fleet(settings) as fleet:
            many = count or (QUICK_STREAMS if quick else STREAMS)
            at_once = AT_ONCE[:2] if quick else AT_ONCE
            prompts = [
                text.decode()[at * 37 % 4_000 :][: 8 + at % 40] for at in range(QUICK_PROMPTS if quick else PROMPTS)
            ]
            rows = trio.run(partial(measure, fleet, tokens, at_once, prompts, many, shape))
    report("answers", rows, as_json, {"layers": shape.layers, "width": shape.width, "tokens": tokens})


if __name__ == "__main__":
    main()
