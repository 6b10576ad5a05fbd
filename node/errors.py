"""The one place where an exception becomes a sentence and an exit code.

    the user's mistake, or the world's      one sentence with the remedy                           exit 2
    the network decided a state that this   one sentence; what was computed is kept                exit 3
    machine does not compute                (node/recovery_disagreement.py)
    our own bug                             one sentence, and where the traceback was written      exit 1
                                            (on stderr, where no file can be)
    Ctrl-C                                  nothing                                                exit 130

Whoever raises knows the remedy best, so most sentences come with their exception; the table below has the rest.
"""

from __future__ import annotations

import errno
import os
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.rejection import REASON_BY_CODE, Rejected

EXIT_BUG: Final = 1
EXIT_MISTAKE: Final = 2
EXIT_DISAGREES: Final = 3
EXIT_INTERRUPTED: Final = 130

_REMEDIES: Final = {
    errno.EADDRINUSE: "the port is in use by another process; choose another address, or port 0",
    errno.EADDRNOTAVAIL: "this machine does not have that address; listen on 127.0.0.1 or 0.0.0.0",
    errno.ENOSPC: "the disk is full; make room, or lower storage.storage_bytes_max in config.toml",
    errno.EFBIG: "a file may not grow any more; make room, and raise the limit with ulimit -f unlimited",
    errno.EDQUOT: "your disk quota is used up; make room, or lower storage.storage_bytes_max in config.toml",
    errno.EACCES: "permission denied; choose a file or folder that you may use",
    errno.EPERM: "permission denied; choose a file or folder that you may use",
    errno.EROFS: "the disk is read-only; choose another --data-dir",
    errno.ENOENT: "there is no such file or folder; check the path",
    errno.ENOTDIR: "a part of the path is no folder; check the path",
    errno.EISDIR: "it is a folder; name a file",
    errno.EMFILE: "too many open files; raise the limit with ulimit -n 4096",
    errno.EIO: "the disk failed; check it, then restore the data directory or join again",
}

_OURS: Final = {"p2p", "storage", "compute", "node"}  # who raises an OSError of its own (locks, databases, ports)
_CODES_WITH_REMEDY: Final = {"JobError"}  # carries a rejection's code from another process
_SAID_BY_THEMSELVES: Final = {
    "PeerUnreachable",
    "RequestFailed",
}  # the world's failures with a sentence (p2p.transport)
_DISAGREES: Final = {
    "StateDisagreement": "its software or its memory is at fault, and what it computed is in the folder disagreements of the "
    "data directory: install the version that the network runs, then run `nocknode recovery resync`; if it happens again, "
    "report that folder and have the memory tested"
}


class CommandFailed(Exception):
    """A command cannot do what was asked: one sentence with the remedy. Not our bug."""


class NodeRefused(CommandFailed):
    """What a command asked the running node was refused; ``code`` is the reason's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Failure:
    """What the user is told, and what the shell is told."""

    sentence: str
    exit_code: int


def explain(error: BaseException, tracebacks: Path | None = None) -> Failure:
    """The sentence for whatever ended a command. A group is a bug if any of its members is one.

    ``tracebacks`` is the folder for those of our bugs; without it, the system's folder for temporary files.
    """
    leaves = list(_leaves(error))
    failures = [_explain_one(leaf) for leaf in leaves]
    disagreement = next((each for each in failures if each is not None and each.exit_code == EXIT_DISAGREES), None)
    if disagreement is not None:  # whatever else went wrong while the node ended
        return disagreement
    bug = next((leaf for leaf, failure in zip(leaves, failures, strict=True) if failure is None), None)
    if bug is None and failures and failures[0] is not None:
        return failures[0]
    name = type(bug).__name__ if bug is not None else type(error).__name__
    try:
        where = f"with {_write_traceback(error, tracebacks)}"
    except OSError:  # a full disk, perhaps what met the bug: then the traceback is all there is
        traceback.print_exception(error)
        where = "with the traceback above, for which no file could be written"
    return Failure(f"this is a bug of ours ({name}: {bug}); please report it {where}", EXIT_BUG)


def sentence_of_rejection(error: Rejected) -> str:
    """The reason's sentence with the detail, which holds the remedy, in one."""
    general = error.reason.sentence.rstrip(".")
    return f"{general}: {error.detail}" if error.detail else general


def _explain_one(error: BaseException) -> Failure | None:
    """None for our own bugs."""
    match error:
        case Rejected():
            return Failure(sentence_of_rejection(error), EXIT_MISTAKE)
        case CommandFailed():
            return Failure(str(error), EXIT_MISTAKE)
        case KeyboardInterrupt():
            return Failure("", EXIT_INTERRUPTED)
        case ModuleNotFoundError() if error.name == "torch":
            sentence = "torch is not installed; run: python -m pip install -c constraints.txt torch"
            return Failure(sentence, EXIT_MISTAKE)
        case OSError() if type(error).__module__.partition(".")[0] in _OURS or (error.errno is None and error.args):
            return Failure(error.strerror or str(error), EXIT_MISTAKE)  # raised by us, with its sentence
        case OSError() if error.errno in _REMEDIES:
            what = f"{error.filename}: " if error.filename is not None else ""
            return Failure(f"{what}{_REMEDIES[error.errno]}", EXIT_MISTAKE)
        case _ if type(error).__name__ in _DISAGREES:
            return Failure(f"{error}; {_DISAGREES[type(error).__name__]}", EXIT_DISAGREES)
        case _ if type(error).__name__ in _SAID_BY_THEMSELVES:
            return Failure(str(error), EXIT_MISTAKE)
        case _ if type(error).__name__ in _CODES_WITH_REMEDY and getattr(error, "code", "") in REASON_BY_CODE:
            reason = REASON_BY_CODE[getattr(error, "code", "")]
            return Failure(sentence_of_rejection(Rejected(reason, getattr(error, "detail", ""))), EXIT_MISTAKE)
        case _:
            return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _write_traceback(error: BaseException, folder: Path | None) -> str:
    """A new file with the traceback, readable by its owner only: it may hold paths. Raises ``OSError``, and leaves none."""
    descriptor, path = tempfile.mkstemp(prefix="nocknode-traceback-", suffix=".txt", dir=folder)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        os.unlink(path)  # a full disk takes a name, and nothing in it
        raise
    return path
