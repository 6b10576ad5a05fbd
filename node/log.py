"""Structured logs: JSON lines in the data directory for machines, one human line each on stderr.

    {"time": "2026-11-20T14:00:00.123Z", "level": "info", "service": "rounds", "event": "round closed", "round": 7, ...}
    14:00:00.123 round closed                 round=7 tiles_advanced=38

Events are short phrases in the past tense; what varies are fields. Levels: debug (for whoever hunts a bug), info (once per
round or less), warning (the node goes on, somebody should look: a lagging tile, a lost peer), error (a part of it stopped).
Libraries speak only when something is wrong with them.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

import structlog

from node.clock import Clock

FILE_BYTES_MAX: Final = 16 << 20  # a day of rounds at info; four of them are kept
FILES_KEPT: Final = 4
LIBRARY_LEVELS: Final[Mapping[str, int]] = {
    # py-libp2p logs every failed dial and every closed stream of a peer as warning or error, with tracebacks: these are
    # the world's failures, which our own transport handles and tells once.
    "libp2p": logging.CRITICAL,
    "multiaddr": logging.ERROR,
    "hypercorn.error": logging.WARNING,
    "hypercorn.access": logging.CRITICAL,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "matplotlib": logging.WARNING,
}

Logger = structlog.stdlib.BoundLogger


class _LogFile(logging.handlers.RotatingFileHandler):
    """A log file that a full disk may cut short: that is said once on the other log, and not with a traceback a line."""

    def __init__(self, file: Path, other: logging.StreamHandler[TextIO]) -> None:
        super().__init__(file, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8")
        self._other = other
        self._is_said = False

    def close(self) -> None:
        with suppress(OSError):  # what does not fit now either; the file is closed all the same
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # logging's name for it
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._is_said:
            self._is_said = True
            with suppress(OSError):
                self._other.stream.write(f"{self.baseFilename} loses lines: {error.strerror}\n")
                self._other.flush()


def configure_logging(level: str, file: Path | None, clock: Clock, stream: TextIO | None = None) -> None:
    """Send every log of this process to ``stream`` (stderr) and, as JSON, to ``file``; replaces an earlier set-up.

    Raises ``OSError`` when the file cannot be opened.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _timestamp(clock),
        structlog.processors.format_exc_info,
    ]
    to_stream = logging.StreamHandler(stream or sys.stderr)
    to_stream.setFormatter(_formatter(shared, _human_line))
    handlers: list[logging.Handler] = [to_stream]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        to_file = _LogFile(file, to_stream)
        to_file.setFormatter(_formatter(shared, structlog.processors.JSONRenderer(default=_printable)))
        handlers.append(to_file)
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):  # ours, from an earlier set-up
            root.removeHandler(old)
            if isinstance(old, logging.FileHandler):
                old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level.upper())
    for name, library_level in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(library_level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def get_logger(service: str) -> Logger:
    """The logger of one part of the node; its name is in every line. Only the plain calls: `info`, not `ainfo`."""
    logger: Logger = structlog.get_logger(f"nocknode.{service}", service=service)
    return logger


def _timestamp(clock: Clock) -> structlog.types.Processor:
    def add_time(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        now_ms = clock.now_ms()
        moment = datetime.fromtimestamp(now_ms // 1000, UTC)
        event["time"] = f"{moment:%Y-%m-%dT%H:%M:%S}.{now_ms % 1000:03d}Z"
        return event

    return add_time


def _formatter(shared: list[structlog.types.Processor], renderer: Any) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )


def _human_line(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    """``HH:MM:SS.mmm event   field=value``; warnings and errors say so first; a traceback goes below."""
    fields = dict(event)
    time, level, text = fields.pop("time", ""), fields.pop("level", ""), str(fields.pop("event", ""))
    trace = fields.pop("exception", "")
    fields.pop("service", None)
    mark = f"{str(level).upper()} " if level in ("warning", "error", "critical") else ""
    values = " ".join(f"{name}={_printable(value)}" for name, value in fields.items())
    line = f"{str(time)[11:23]} {mark}{text}"
    line = f"{line:<44} {values}".rstrip()
    return f"{line}\n{trace}" if trace else line


def _printable(value: object) -> str:
    """Bytes as the start of their hexadecimal digits; anything else as Python shows it."""
    return value.hex()[:16] if isinstance(value, bytes) else str(value)
