"""Logs: JSON lines for machines, one human line each for people, and libraries that keep quiet."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
import structlog

from node.clock import Clock
from node.log import configure_logging, get_logger


class StoppedClock(Clock):
    """Always 2026-11-20 14:00:00.123 UTC."""

    def now_ms(self) -> int:
        return 1_795_183_200_123


@pytest.fixture
def logs(tmp_path):
    """The stream and the file of a set-up that is taken down again."""
    stream, file = io.StringIO(), tmp_path / "log" / "node.log"
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    configure_logging("info", file, StoppedClock(), stream)
    yield stream, file
    for handler in [entry for entry in root.handlers if entry not in before[1]]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(before[0])
    structlog.reset_defaults()


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_an_event_is_a_json_line_and_a_human_line(logs):
    """Both forms tell time, event and fields; the file also tells level and service."""
    stream, file = logs
    get_logger("rounds").info("round closed", round=7, root=bytes(32))
    assert lines(file) == [
        {
            "time": "2026-11-20T14:00:00.123Z",
            "level": "info",
            "service": "rounds",
            "event": "round closed",
            "round": 7,
            "root": "0" * 16,
        }
    ]
    assert stream.getvalue().split() == ["14:00:00.123", "round", "closed", "round=7", "root=" + "0" * 16]


def test_warnings_say_so_and_debug_is_left_out(logs):
    """Below the level nothing is written; warnings are marked for people."""
    stream, file = logs
    log = get_logger("rounds")
    log.debug("too small")
    log.warning("tile lagging", reason="no delta came")
    assert [line["event"] for line in lines(file)] == ["tile lagging"]
    assert "WARNING tile lagging" in stream.getvalue()


def test_a_traceback_is_a_field_of_the_json_line(logs):
    """An exception is one JSON line with its traceback."""
    _, file = logs
    try:
        raise ValueError("told")
    except ValueError:
        get_logger("rounds").exception("service failed")
    assert "ValueError: told" in lines(file)[0]["exception"]


def test_libraries_speak_in_our_form_and_only_when_something_is_wrong(logs):
    """libp2p's chatter is dropped; a library's own warning becomes a line like ours."""
    stream, file = logs
    logging.getLogger("libp2p.host").error("failed to dial")
    logging.getLogger("hypercorn.error").info("Running on")
    logging.getLogger("somebody").warning("disk %s", "full")
    assert [(line["event"], line["level"]) for line in lines(file)] == [("disk full", "warning")]
    assert stream.getvalue().count("\n") == 1


def test_a_second_set_up_replaces_the_first(logs, tmp_path):
    """Configuring again writes to the new places only."""
    stream, file = logs
    second = io.StringIO()
    configure_logging("info", None, StoppedClock(), second)
    get_logger("rounds").info("round closed")
    assert stream.getvalue() == ""
    assert lines(file) == []
    assert "round closed" in second.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full is Linux's")
def test_a_full_disk_costs_lines_of_the_file_and_one_line_here(logs):
    """What can still be written is; that the file cannot is said once, without a traceback."""
    stream, _ = logs
    configure_logging("info", Path("/dev/full"), StoppedClock(), stream)
    for number in range(3):
        get_logger("test").info("round closed", round=number)
    said = stream.getvalue()
    assert [line.partition(" round=")[2] for line in said.splitlines() if "round closed" in line] == ["0", "1", "2"]
    assert said.count("/dev/full loses lines: No space left on device") == 1
    assert "Traceback" not in said
