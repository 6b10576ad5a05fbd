"""Answers that are kept: found after a restart, the oldest gone first, and written together when they end together."""

from __future__ import annotations

import pytest
import trio
from msgspec.structs import replace

from compute.tokenizer import encode as encode_text
from node.answer_book import AnswerBook
from node.api.view import PROMPT_CHARACTERS_MAX
from protocol.answers import AnswerRecord
from protocol.codec import encode
from protocol.ids import Digest
from protocol.limits import PROMPT_TOKENS_MAX
from storage.kv import Batch, MemoryKeyValue
from tests.node.village import inline
from tests.protocol.samples import answer_record

SIZE_BYTES = len(encode(answer_record()))


def record(number: int) -> AnswerRecord:
    """One of many that take as much room as the sample."""
    sample = answer_record()
    claim = replace(sample.receipt.claim, began_ms=sample.receipt.claim.began_ms + number)
    return replace(sample, receipt=replace(sample.receipt, claim=claim))


def name(number: int) -> Digest:
    return record(number).receipt.claim.digest()


class Counting(MemoryKeyValue):
    """Counts writes; the disk is full while it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.is_full = False

    def write(self, batch: Batch, *, durable: bool = True) -> None:
        assert durable
        if self.is_full:
            raise OSError(28, "No space left on device")
        self.writes += 1
        super().write(batch, durable=durable)


def book(index: MemoryKeyValue, records: int = 100) -> AnswerBook:
    return AnswerBook(index, inline, records * SIZE_BYTES)


def test_what_was_kept_is_there_after_a_restart() -> None:
    """Newest first; what is written after it comes after it."""
    index = Counting()

    async def main() -> None:
        first = book(index)
        for number in range(3):
            await first.keep(record(number))
        again = book(index)
        assert again.find(name(1)) == record(1)
        assert again.find(Digest(bytes(32))) is None
        await again.keep(record(3))
        assert again.newest(0, 2) == [record(3), record(2)]
        assert again.newest(2, 9) == book(index).newest(2, 9) == [record(1), record(0)]

    trio.run(main)


def test_the_oldest_go_first() -> None:
    """As many stay as there is room for, also where the room became less; the newest stays in any case."""
    index = Counting()

    async def main() -> None:
        full = book(index, 3)
        for number in range(5):
            await full.keep(record(number))
        assert full.newest(0, 9) == [record(4), record(3), record(2)]
        assert full.find(name(1)) is None
        smaller = book(index, 1)
        assert smaller.newest(0, 9) == [record(4)]
        await smaller.keep(record(5))
        assert smaller.newest(0, 9) == [record(5)]
        assert len(index.scan(b"", limit=99)) == 2
        AnswerBook(index, inline, 0)
        assert not index.scan(b"", limit=99)  # what was kept before goes too

    trio.run(main)


def test_answers_that_end_together_are_written_together() -> None:
    """A hundred of them wait for two syncs of the disk, the first one's and all others'."""
    index = Counting()

    async def main() -> None:
        kept = book(index)
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(kept.keep, record(number))
        assert len(kept) == 100
        assert index.writes <= 2

    trio.run(main)


def test_where_the_disk_is_full_everybody_hears_it() -> None:
    """Nobody is told that an answer is kept which is not; when there is room again, there is."""
    index = Counting()
    refused: list[int] = []

    async def main() -> None:
        kept = book(index)
        await kept.keep(record(0))

        async def keep(number: int) -> None:
            try:
                await kept.keep(record(number))
            except OSError:
                refused.append(number)

        index.is_full = True
        async with trio.open_nursery() as nursery:
            for number in range(1, 4):
                nursery.start_soon(keep, number)
        assert sorted(refused) == [1, 2, 3]
        assert kept.newest(0, 9) == [record(0)]
        index.is_full = False
        await kept.keep(record(4))
        assert kept.newest(0, 9) == [record(4), record(0)]

    trio.run(main)


@pytest.mark.parametrize("number", [0, 1])
def test_nothing_is_kept_where_the_owner_wants_none(number: int) -> None:
    """The receipt is given all the same; no prompt is on the disk."""
    index = Counting()

    async def main() -> None:
        nothing = AnswerBook(index, inline, 0)
        await nothing.keep(record(number))
        assert nothing.find(name(number)) is None
        assert not index.scan(b"", limit=9)

    trio.run(main)


def test_the_longest_prompt_has_a_record() -> None:
    """What the interface takes can be kept and read again, with the token that begins a document."""
    prompt = tuple(encode_text("\N{GRINNING FACE}" * PROMPT_CHARACTERS_MAX))
    sample = answer_record()
    claim = replace(sample.receipt.claim, prompt_tokens=len(prompt))
    long = replace(sample, prompt=prompt, receipt=replace(sample.receipt, claim=claim))

    async def main() -> None:
        kept = AnswerBook(MemoryKeyValue(), inline, 1 << 20)
        await kept.keep(long)
        assert kept.find(claim.digest()) == long

    trio.run(main)
    assert len(prompt) == PROMPT_TOKENS_MAX
