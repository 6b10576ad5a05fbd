"""Links between members: loss, repetition, delay with a long tail (hence reordering), clogs, partitions of every shape.

A stopped link loses what is sent over it; a clogged one holds it back and then delivers all at once. A slow one carries so many
bytes a second and makes what comes faster wait in a queue, from whose full end the rest is lost. Until the heal anything may
happen; after it every link works at any rate, and a message takes at most 0.4 Delta.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from protocol.codec import encode
from protocol.finality import Certificate, ValidatorMessage, Vote, VoteKind
from protocol.limits import BODY_BYTES_MAX
from simnet.finality.genesis import DELTA_MS, ActorId

if TYPE_CHECKING:
    from simnet.finality.world import World

TAIL_MS: Final = 6_000
CLOG_MS: Final = 5_000
PARTITION_MS: Final = (1_000, 12_000)
DELAY_HEALED_MS: Final = int(0.4 * DELTA_MS)

RATES_BYTES_PER_S: Final = (2_000, 20_000, 200_000)  # a body of the most bytes takes from four minutes to three seconds
QUEUE_BYTES_MAX: Final = 2 * BODY_BYTES_MAX

Link = tuple[int, int]  # from, to


class FromTwin(NamedTuple):
    """A message from one twin to another member's twins: which half said it. On the wire it is the message alone."""

    bit: int
    message: ValidatorMessage


def size_of(message: Any) -> int:
    """Bytes on the wire."""
    if isinstance(message, FromTwin):
        message = message.message
    return len(message if isinstance(message, bytes) else encode(message))


def halves(random_: random.Random, count: int) -> list[Link]:
    """Two sides that hear nothing of each other."""
    side = [random_.randrange(2) for _ in range(count)]
    return [(a, b) for a in range(count) for b in range(count) if side[a] != side[b]]


def isolate_one(random_: random.Random, count: int) -> list[Link]:
    """One member alone."""
    alone = random_.randrange(count)
    return [(a, b) for a in range(count) for b in range(count) if a != b and alone in (a, b)]


def asymmetric(random_: random.Random, count: int) -> list[Link]:
    """One side hears the other and is not heard."""
    side = [random_.randrange(2) for _ in range(count)]
    return [(a, b) for a in range(count) for b in range(count) if side[a] < side[b]]


def patchwork(random_: random.Random, count: int) -> list[Link]:
    """Each link by itself: who hears whom has no structure."""
    return [(a, b) for a in range(count) for b in range(count) if a != b and random_.random() < 0.4]


SHAPES: Final[dict[str, Callable[[random.Random, int], list[Link]]]] = {
    "halves": halves,
    "isolate one": isolate_one,
    "asymmetric": asymmetric,
    "patchwork": patchwork,
}
SWIZZLE: Final = "swizzle-clog"  # links clog one by one and clear in another order


class Queue:
    """What waits at the sender's end of a slow link. Times are in microseconds, so that small messages count too."""

    def __init__(self, bytes_per_s: int) -> None:
        self.bytes_per_s = bytes_per_s
        self.lost = 0  # messages that found it full
        self._idle_at_us = 0

    def waiting_bytes(self, now_ms: int) -> int:
        """What is not sent yet."""
        return max(0, self._idle_at_us - 1_000 * now_ms) * self.bytes_per_s // 1_000_000

    def push(self, size_bytes: int, now_ms: int) -> int | None:
        """After how many milliseconds the last byte is sent; None: there is no room."""
        if self.waiting_bytes(now_ms) + size_bytes > QUEUE_BYTES_MAX:
            self.lost += 1
            return None
        begins_us = max(self._idle_at_us, 1_000 * now_ms)
        self._idle_at_us = begins_us + -(-1_000_000 * size_bytes // self.bytes_per_s)
        return self._idle_at_us // 1_000 - now_ms


class Network:
    """The links of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._count = world.count
        self._stopped = [[0] * world.count for _ in range(world.count)]  # faults that stop the link, counted
        self._clogged_until_ms = [[0] * world.count for _ in range(world.count)]
        self._queues: dict[Link, Queue] = {}  # of slow links
        self._measured: tuple[Any, int] = (b"", 0)  # the last message and its bytes: a broadcast is measured once

    def plan_faults(self) -> None:
        """Draw every clog and partition of the run."""
        world, random_ = self._world, self._world.random
        for shape in world.options.partitions:
            start_ms = random_.randrange(world.chaos_ms)
            if shape == SWIZZLE:
                self._plan_swizzle(start_ms)
                continue
            links = SHAPES[shape](random_, self._count)
            world.later(start_ms, self._stop, links, 1)
            world.later(start_ms + random_.randrange(*PARTITION_MS), self._stop, links, -1)
        for _ in range(world.options.clogs):
            link = (random_.randrange(self._count), random_.randrange(self._count))
            world.later(random_.randrange(world.chaos_ms), self._clog, link, random_.randrange(1, CLOG_MS))

        if world.options.slow_links:
            links = [(a, b) for a in range(self._count) for b in range(self._count) if a != b]
            slow = [link for link in links if random_.random() < world.options.slow_links]
            self._queues = {link: Queue(random_.choice(RATES_BYTES_PER_S)) for link in slow}

    def _plan_swizzle(self, start_ms: int) -> None:
        """A random part of the links, from and to each of some members: clogged in one order, cleared in another."""
        world, random_ = self._world, self._world.random
        links = [(a, b) for a in range(self._count) for b in range(self._count) if a != b and random_.random() < 0.5]
        clears_ms = [CLOG_MS + 200 * index for index in range(len(links))]
        random_.shuffle(clears_ms)
        for index, link in enumerate(links):
            begins_ms = 50 * index
            world.later(start_ms + begins_ms, self._clog, link, clears_ms[index] - begins_ms)

    def _stop(self, links: list[Link], change: int) -> None:
        for source, to in links:
            self._stopped[source][to] = max(0, self._stopped[source][to] + change)

    def _clog(self, link: Link, lasts_ms: int) -> None:
        until_ms = min(self._world.now_ms + lasts_ms, self._world.heal_ms)
        source, to = link
        self._clogged_until_ms[source][to] = max(self._clogged_until_ms[source][to], until_ms)

    def reaches(self, source: ActorId, to: ActorId) -> bool:
        """Whether a message sent now could arrive soon."""
        if not self._world.chaos:
            return True
        return not self._stopped[source][to] and self._clogged_until_ms[source][to] <= self._world.now_ms

    def send(self, source: ActorId, to: ActorId, message: Any) -> None:
        world, options = self._world, self._world.options
        chance, chaos = world.random.random, world.chaos
        copies, queued_ms = 1, 0
        if chaos:
            if self._stopped[source][to] or chance() < options.loss:
                return
            finalizes = isinstance(message, Vote | Certificate) and message.kind is VoteKind.FINALIZE
            if finalizes and chance() < options.loss_of_finalize:
                return
            copies += chance() < options.repeat
            queue = self._queues.get((source, to))
            if queue is not None:
                waits_ms = queue.push(self._measure(message), world.now_ms)
                if waits_ms is None:
                    return
                queued_ms = min(waits_ms, world.heal_ms - world.now_ms)
        for _ in range(copies):
            delay_ms = int(world.random.expovariate(1 / options.delay_mean_ms))
            if chaos:
                if options.tail and chance() < options.tail:
                    delay_ms += world.random.randrange(TAIL_MS)
                delay_ms += max(0, self._clogged_until_ms[source][to] - world.now_ms)
            else:
                delay_ms = min(delay_ms, DELAY_HEALED_MS)
            world.later(1 + queued_ms + delay_ms, world.deliver, source, to, message)

    def waiting_bytes(self) -> list[int]:
        """Of every slow link."""
        return [queue.waiting_bytes(self._world.now_ms) for queue in self._queues.values()]

    @property
    def messages_lost_by_queues(self) -> int:
        return sum(queue.lost for queue in self._queues.values())

    def _measure(self, message: Any) -> int:
        if message is not self._measured[0]:
            self._measured = (message, size_of(message))
        return self._measured[1]

    def broadcast(self, source: ActorId, message: Any) -> None:
        for to in range(self._count):
            if to != source:
                self.send(source, ActorId(to), message)
