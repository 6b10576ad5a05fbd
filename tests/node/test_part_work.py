"""Parts of a state proved in processes of their own: what a thread finds, and nothing left behind."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from node import part_work
from node.part_work import PartWork, open_part_work
from node.part_worker import Prove, prove, work
from node.state_rows import STATE, expect_part, fetched_parts, keep_part, mark_part, scan_state
from node.threads import in_thread
from protocol.codec import encode
from protocol.ids import Digest
from protocol.state_sync import Entries, StateEntry
from storage.io.rocks import RocksKeyValue, RowFiles
from storage.kv import Batch, scan_all
from storage.state_sync import ProvedEntries
from tests.node.test_history_work import children
from tests.storage.test_state_sync import State, make_rows

BRANCHES = [bytes([0, prefix]) for prefix in range(4)]


def large_state() -> State:
    """Four branches of a few hundred kilobytes."""
    draw, rows = random.Random(1), {}
    while len(rows) < 400:
        for row in make_rows(4_000, draw.getrandbits(32), chains=1):
            if State({row: b""}).by_place[0][0][:2] in BRANCHES:
                rows[row] = draw.randbytes(3_000)
    return State(rows)


STATE_SENT = large_state()
DIGESTS = [STATE_SENT.digest(name) for name in BRANCHES]
PARTS = [STATE_SENT.entries(name) for name in BRANCHES]
ANSWER = encode(Entries(tuple(PARTS)))
LAST = PARTS[-1]
WRONG = encode(Entries((*PARTS[:-1], (*LAST[:-1], StateEntry(LAST[-1].key, b"another value")))))


@pytest.fixture
def index(tmp_path: Path):
    kv = RocksKeyValue(tmp_path / "db")
    yield kv
    kv.close()


def run(index: RocksKeyValue, folder: Path, body: Callable[[PartWork], Awaitable[None]]) -> None:
    """Then there is neither a process nor a file."""

    async def main() -> None:
        async with open_part_work(in_thread, RowFiles(folder, index)) as opened:
            await body(opened)
        assert children() == []
        assert list(folder.glob("*")) == []

    trio.run(main)


def take(index: RocksKeyValue, opened: PartWork, answer: ProvedEntries) -> None:
    """As the shell does."""
    expected, marks = Batch(), Batch()
    for name, part, digest in zip(BRANCHES, answer.parts, DIGESTS, strict=False):
        assert part is not None
        expect_part(expected, index, name)
        mark_part(marks, name, part.checked, digest)
    index.write(expected)
    assert answer.parts[0] is not None
    opened.take(answer.parts[0].rows_file)
    index.write(marks)


def test_a_process_writes_what_a_thread_would_have_written(index, tmp_path):
    """Byte for byte: rows, digests of buckets, marks of parts; whatever the order in which names were asked for."""
    other, batch = RocksKeyValue(tmp_path / "other"), Batch()
    for name, part, digest in zip(BRANCHES, prove(BRANCHES, DIGESTS, ANSWER).parts, DIGESTS, strict=True):
        assert part is not None
        keep_part(batch, other, name, part.entries, part.checked, digest)
    other.write(batch)

    async def body(opened: PartWork) -> None:
        answer = await opened.prove(BRANCHES, DIGESTS, ANSWER)
        assert len(children()) == 1
        assert all(part is not None and part.rows_file and not part.entries for part in answer.parts)
        assert [part and part.size_bytes for part in answer.parts] == [
            sum(len(entry.key) + len(entry.value) for entry in part) for part in PARTS
        ]
        take(index, opened, answer)
        backwards = encode(Entries(tuple(reversed(PARTS))))
        again = await opened.prove(BRANCHES[::-1], DIGESTS[::-1], backwards)
        assert len(children()) == 1
        assert again.parts[0] is not None
        opened.take(again.parts[0].rows_file)

    run(index, tmp_path / "incoming", body)
    assert dict(scan_state(index)) == STATE_SENT.rows
    assert list(scan_all(index, b"")) == list(scan_all(other, b""))
    other.close()


@pytest.mark.parametrize("data", [WRONG, ANSWER[:-1], ANSWER + b"\x00", bytes(300_000)])
def test_a_process_refuses_what_a_thread_refuses(index, tmp_path, data):
    """For the same reason and behind the same parts; a file has only the rows of those."""

    async def body(opened: PartWork) -> None:
        found, here = await opened.prove(BRANCHES, DIGESTS, data), prove(BRANCHES, DIGESTS, data)
        assert str(found.refusal) == str(here.refusal) != "None"
        assert len(found.parts) == len(here.parts) in (0, 3)
        if found.parts:
            take(index, opened, found)
        opened.drop(found)

    run(index, tmp_path / "incoming", body)
    assert set(dict(scan_state(index)).items()) <= set(STATE_SENT.rows.items())
    assert not list(scan_all(index, STATE + BRANCHES[-1]))


def test_a_small_answer_is_not_worth_a_process(index, tmp_path):
    """Nor is any on a disk that no other process sees."""
    small = encode(Entries((PARTS[0][:0],)))

    async def body(opened: PartWork) -> None:
        assert (await opened.prove(BRANCHES[:1], DIGESTS[:1], small)).refusal is not None
        async with open_part_work(in_thread, None) as without:
            proved = await without.prove(BRANCHES, DIGESTS, ANSWER)
        assert [part and part.entries for part in proved.parts] == PARTS
        assert children() == []

    run(index, tmp_path / "incoming", body)


def test_what_a_process_was_given_that_died_is_proved_all_the_same(index, tmp_path):
    """In a thread; the next answer gets a new process."""

    async def body(opened: PartWork) -> None:
        await opened.prove(BRANCHES, DIGESTS, ANSWER)
        (child,) = children()
        os.kill(child.pid, signal.SIGKILL)
        proved = await opened.prove(BRANCHES, DIGESTS, ANSWER)
        assert [part and part.entries for part in proved.parts] == PARTS
        after = await opened.prove(BRANCHES, DIGESTS, ANSWER)
        assert after.parts[0] is not None
        assert after.parts[0].rows_file
        assert [each.pid for each in children()] != [child.pid]

    run(index, tmp_path / "incoming", body)


def test_a_process_that_cannot_write_says_so_in_one_line(index, tmp_path, capfd):
    """No traceback reaches the user's terminal; a thread proves what it was given."""

    async def body(opened: PartWork) -> None:
        opened._row_files = RowFiles(tmp_path / "incoming", index)
        opened._row_files.new_path = lambda: tmp_path / "nowhere" / "rows.tmp"  # type: ignore[method-assign]
        proved = await opened.prove(BRANCHES, DIGESTS, ANSWER)
        assert [part and part.entries for part in proved.parts] == PARTS

    run(index, tmp_path / "incoming", body)
    assert [line.startswith("The database") for line in capfd.readouterr().err.splitlines()] == [True]


def test_whoever_gives_up_leaves_neither_process_nor_file(index, tmp_path, capfd):
    """A fetch that is over does not wait for proofs."""

    async def body(opened: PartWork) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(opened.prove, BRANCHES, DIGESTS, ANSWER)
            with trio.fail_after(60):
                while not children():
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    run(index, tmp_path / "incoming", body)
    assert capfd.readouterr().err == ""


def test_a_process_ends_with_its_parent():
    """Whatever ended it: the child's input ends, and so does the child."""

    async def main() -> None:
        child = await part_work._start()
        await child.calls.aclose()
        with trio.fail_after(60):
            assert await child.process.wait() == 0
        await child.answers.aclose()

    trio.run(main)


def test_a_crash_between_the_rows_and_their_marks_leaves_a_part_that_is_compared(index, tmp_path):
    """Before the rows are there, the name says that something is on its way: the machine looks at what is there."""
    batch = Batch()
    expect_part(batch, index, BRANCHES[0])
    index.write(batch)
    assert fetched_parts(index) == {BRANCHES[0]: Digest(bytes(32))}
    path = tmp_path / "rows"
    work(Prove((BRANCHES[0],), (DIGESTS[0],), str(path), encode(Entries((PARTS[0],)))))
    index.ingest(path)
    assert dict(scan_state(index)) == {BRANCHES[0][:1] + entry.key: entry.value for entry in PARTS[0]}
    again = Batch()
    expect_part(again, index, BRANCHES[0])
    index.write(again)
    assert not dict(scan_state(index))
