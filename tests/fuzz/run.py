"""One decoder under hostile bytes: what it accepted, what it refused and why, what it raised that it must not, what it cost."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from protocol.rejection import InvariantBroken, Rejected
from tests.fuzz.decoders import Decoder
from tests.fuzz.mutations import mutate

WEIGHED_EVERY = 4  # runs of tries of which one is under tracemalloc, which makes it slow: the others are timed
WEIGHED_TRIES = 32  # in such a run: starting tracemalloc takes memory that it never gives back, 2 kB with some decoders
HEX_CHARACTERS_MAX = 400
FOUND_MAX = 5  # of one decoder, each of another kind: what is known must not hide what is new


@dataclass(frozen=True, slots=True)
class Found:
    """An input that a decoder must answer otherwise."""

    decoder: str
    seed: int
    number: int
    what: str
    data: bytes

    @property
    def command(self) -> str:
        return f"python -m tests.fuzz '{self.decoder}' --seed {self.seed} --try {self.number}"

    def __str__(self) -> str:
        text = self.data.hex()
        shown = text if len(text) <= HEX_CHARACTERS_MAX else f"{text[:HEX_CHARACTERS_MAX]}... ({len(self.data)} bytes)"
        return f"{self.decoder}: {self.what}\n  input   {shown}\n  repeat  {self.command}"


@dataclass(slots=True)
class Outcome:
    """What came of the tries of one decoder. Times are of the processor, for tries that were not weighed."""

    decoder: str
    tries: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    found: list[Found] = field(default_factory=list)  # the first of each kind
    allocated_bytes_max: int = 0  # peak of one decoding, and of how many bytes
    allocated_of_bytes: int = 0
    slowest_us: float = 0.0
    slowest_bytes: int = 0
    times_ns: Counter[int] = field(default_factory=Counter)  # by tenths of microseconds: hours of tries take no memory

    @property
    def median_us(self) -> float:
        middle, seen = sum(self.times_ns.values()) // 2, 0
        for time_ns in sorted(self.times_ns):
            seen += self.times_ns[time_ns]
            if seen > middle:
                return time_ns / 1e3
        return 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "decoder": self.decoder,
            "tries": self.tries,
            "accepted": self.accepted,
            "rejected": dict(self.rejected.most_common()),
            "failed": self.failed,
            "allocated_bytes_max": self.allocated_bytes_max,
            "allocated_of_bytes": self.allocated_of_bytes,
            "median_us": round(self.median_us, 1),
            "slowest_us": round(self.slowest_us, 1),
            "slowest_bytes": self.slowest_bytes,
            "found": [{"what": found.what, "command": found.command, "hex": found.data.hex()} for found in self.found],
        }


def input_of(decoder: Decoder, seed: int, number: int) -> bytes:
    """The bytes of one try; each has a generator of its own, so that one can be repeated alone."""
    random = Random(f"{seed} {decoder.name} {number}")
    return mutate(random, decoder.samples(), decoder.form, decoder.words)[: decoder.input_bytes_max]


def fuzz(decoder: Decoder, seed: int, *, tries: int | None = None, seconds: float | None = None) -> Outcome:
    """So many tries, or as many as fit into ``seconds``. The samples themselves are decoded first: they must be accepted."""
    outcome = Outcome(decoder.name)
    for number, data in enumerate(decoder.samples()):
        try_one(outcome, decoder, seed, -1 - number, data, timed=False)
        if not outcome.accepted == outcome.tries:
            raise AssertionError(
                f"{decoder.name}: its own sample {number} is refused: {dict(outcome.rejected)}, {outcome.found}"
            )
    outcome = Outcome(decoder.name)
    for number in _numbers(tries, seconds):
        data = input_of(decoder, seed, number)
        try_one(outcome, decoder, seed, number, data, timed=number // WEIGHED_TRIES % WEIGHED_EVERY != 0)
        if len(outcome.found) >= FOUND_MAX:
            break
    tracemalloc.stop()
    return outcome


def _numbers(tries: int | None, seconds: float | None) -> Iterator[int]:
    until = None if seconds is None else time.perf_counter() + seconds
    for number in itertools.count():
        if (tries is not None and number >= tries) or (until is not None and time.perf_counter() >= until):
            return
        yield number


def try_one(outcome: Outcome, decoder: Decoder, seed: int, number: int, data: bytes, *, timed: bool) -> None:
    """Decode one input and note what became of it."""
    outcome.tries += 1
    what = None
    held_bytes = 0
    if timed:
        tracemalloc.stop()
    else:
        tracemalloc.start()  # or goes on
        tracemalloc.reset_peak()
        held_bytes = tracemalloc.get_traced_memory()[0]
    started = time.thread_time()
    try:
        decoder.decode(data)
    except Rejected as rejected:
        outcome.rejected[rejected.reason.code] += 1
    except (Exception, InvariantBroken) as error:
        what = f"{type(error).__name__}: {str(error)[:200]}"
    else:
        outcome.accepted += 1
    taken_us = 1e6 * (time.thread_time() - started)
    if timed:
        outcome.times_ns[round(taken_us * 10) * 100] += 1
        if taken_us > outcome.slowest_us:
            outcome.slowest_us, outcome.slowest_bytes = taken_us, len(data)
    else:
        peak = tracemalloc.get_traced_memory()[1] - held_bytes
        if peak > outcome.allocated_bytes_max:
            outcome.allocated_bytes_max, outcome.allocated_of_bytes = peak, len(data)
        if what is None and number >= 0 and peak > decoder.bytes_allowed(len(data)):
            what = f"too much allocated: {peak} bytes for {len(data)}; {decoder.bytes_allowed(len(data))} are allowed"
    if what is not None:
        outcome.failed += 1
        if what.split(":")[0] not in [found.what.split(":")[0] for found in outcome.found]:
            outcome.found.append(Found(decoder.name, seed, number, what, data))
