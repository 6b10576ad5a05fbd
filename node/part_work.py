"""Proving parts of a state beside the event loop: the caller's side of ``node.part_worker``.

    a small answer, or a disk that no other process sees     in a thread, its entries come back
    a large one                                              in one of two processes, its rows come in a file

The processes are started when they are needed first and end with whoever opened this. One that fails is replaced by a thread:
what it was given is here until its answer is.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from node.history_work import usable_cores
from node.part_worker import LENGTH_BYTES, Prove, Proved, frame, prove
from node.threads import InThread
from protocol.codec import decode
from protocol.ids import Digest
from protocol.limits import FRAME_BYTES_MAX, KIB
from protocol.rejection import InvariantBroken, Rejected
from storage.io.rocks import RowFiles
from storage.state_sync import ProvedEntries

log = structlog.get_logger()

COMMAND: Final = (sys.executable, "-m", "node.part_worker")
IN_THREAD_BYTES_MAX: Final = 256 * KIB  # some thirty milliseconds (a guess)
CHILDREN_MAX: Final = 2  # one event loop brings in what keeps little more than one busy (docs/log.md)


class PartWork:
    """Made by :func:`open_part_work`."""

    def __init__(self, in_thread: InThread, row_files: RowFiles | None) -> None:
        self._in_thread = in_thread
        self._row_files = row_files
        self._limiter = trio.CapacityLimiter(min(usable_cores(), CHILDREN_MAX))
        self._idle: list[_Child] = []
        self._paths: dict[Path, None] = {}  # that were given to children

    async def prove(self, names: Sequence[bytes], digests: Sequence[Digest], data: bytes) -> ProvedEntries:
        """Compare an answer, as it came, with the digests of the names that were asked for."""
        if self._row_files is not None and len(data) > IN_THREAD_BYTES_MAX:
            path = self._row_files.new_path()
            self._paths[path] = None
            try:
                async with self._limiter:
                    answer = await self._ask(frame(Prove(tuple(names), tuple(digests), str(path), data)))
                return answer.entries(str(path))
            except (OSError, trio.BrokenResourceError, Rejected) as failure:
                log.warning("a part of the state is proved in a thread: its process failed", why=repr(failure))
        return await self._in_thread(partial(prove, names, digests, data))

    def take(self, rows_file: str) -> None:
        """Let the database have the rows of a file. Raises ``OSError``."""
        if self._row_files is None:
            raise InvariantBroken("rows came in a file, and the database takes none")
        self._row_files.take(Path(rows_file))

    def drop(self, answer: ProvedEntries) -> None:
        """Whatever the database did not take of an answer is not wanted."""
        for part in answer.parts:
            if part is not None and part.rows_file:
                Path(part.rows_file).unlink(missing_ok=True)
                self._paths.pop(Path(part.rows_file), None)

    async def close(self) -> None:
        """End the processes, remove what they left."""
        for child in self._idle:
            await child.end()
        for path in self._paths:
            path.unlink(missing_ok=True)

    async def _ask(self, call: bytes) -> Proved:
        """One call, by a process that has nothing else to do; whoever gives up ends it."""
        child = self._idle.pop() if self._idle else await _start()
        try:
            answer = await child.ask(call)
        except BaseException:
            await child.end()
            raise
        self._idle.append(child)
        return answer


@asynccontextmanager
async def open_part_work(in_thread: InThread, row_files: RowFiles | None) -> AsyncIterator[PartWork]:
    """For as long as the body runs. ``row_files``: of the database that is to have the rows."""
    work = PartWork(in_thread, row_files)
    try:
        yield work
    finally:
        with trio.CancelScope(shield=True):
            await work.close()


@dataclass(frozen=True, slots=True)
class _Child:
    process: trio.Process
    calls: trio.abc.SendStream
    answers: trio.abc.ReceiveStream

    async def ask(self, call: bytes) -> Proved:
        await self.calls.send_all(call)
        said = bytearray()
        while len(said) < LENGTH_BYTES or len(said) < LENGTH_BYTES + int.from_bytes(said[:LENGTH_BYTES], "big"):
            more = await self.answers.receive_some()
            if not more:
                raise OSError("it ended before it answered")
            said += more
        return decode(Proved, bytes(said[LENGTH_BYTES:]), limit_bytes=FRAME_BYTES_MAX)

    async def end(self) -> None:
        with trio.CancelScope(shield=True):
            self.process.kill()
            await self.process.wait()
            await self.calls.aclose()
            await self.answers.aclose()


async def _start() -> _Child:
    process = await trio.lowlevel.open_process(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C in the terminal is the parent's to handle
    )
    if process.stdin is None or process.stdout is None:
        raise InvariantBroken("a process without the pipes that it was started with")
    return _Child(process, process.stdin, process.stdout)
