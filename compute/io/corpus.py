"""Text files from disk, in an order that does not depend on the machine."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from protocol.rejection import Reason, Rejected

CORPUS_BYTES_MIN = 32 * 1024
"""Eight chunks of the validation split: below that there is nothing to learn and nothing to measure."""

CORPUS_BYTES_MAX = 1 << 30
"""What one node may pack in memory; a larger data set is published as several. (A guess.)"""

STANDARD_LIBRARY_SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib-dynload"}
)
"""Not ours (installed packages) or not on every machine (distributions leave the tests out)."""


def read_corpus(path: Path | None = None) -> list[bytes]:
    """The texts of a file, of every file below a folder, or (None) of the running Python's standard library.

    Files of a folder come in the order of their relative path, bytewise; files that are no UTF-8 text, hold a NUL, or
    are hidden are left out. Raises Rejected(BAD_CORPUS) with the remedy when `path` cannot be read or there is too
    little text.
    """
    if path is None:
        return _checked(_standard_library(), "the text of the Python standard library")
    try:
        if path.is_dir():
            return _checked(_folder(path), f"folder {path}")
        text = path.read_bytes()
    except OSError as error:
        raise Rejected(
            Reason.BAD_CORPUS, f"{path}: {error.strerror or error}; name a readable file or folder"
        ) from None
    if not _is_text(text):
        raise Rejected(Reason.BAD_CORPUS, f"{path} is not UTF-8 text; name a text file, or a folder that holds some")
    return _checked(iter([text]), f"file {path}")


def _standard_library() -> Iterator[bytes]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for relative in _relative_paths(root, "*.py"):
        if STANDARD_LIBRARY_SKIPPED.isdisjoint(relative.parts):
            yield (root / relative).read_bytes()


def _folder(root: Path) -> Iterator[bytes]:
    for relative in _relative_paths(root, "*"):
        if not any(part.startswith(".") for part in relative.parts) and (root / relative).is_file():
            yield (root / relative).read_bytes()


def _relative_paths(root: Path, pattern: str) -> list[Path]:
    return sorted((path.relative_to(root) for path in root.rglob(pattern)), key=lambda path: path.as_posix().encode())


def _is_text(text: bytes) -> bool:
    if b"\x00" in text:
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _checked(texts: Iterator[bytes], what: str) -> list[bytes]:
    kept: list[bytes] = []
    size_bytes = 0
    for text in texts:
        if text and _is_text(text):
            kept.append(text)
            size_bytes += len(text)
        if size_bytes > CORPUS_BYTES_MAX:
            raise Rejected(
                Reason.BAD_CORPUS, f"{what} holds more than {CORPUS_BYTES_MAX} bytes of text; name a part of it"
            )
    if size_bytes < CORPUS_BYTES_MIN:
        raise Rejected(
            Reason.BAD_CORPUS,
            f"{what} holds {size_bytes} bytes of UTF-8 text, at least {CORPUS_BYTES_MIN} are needed; name a larger one",
        )
    return kept
