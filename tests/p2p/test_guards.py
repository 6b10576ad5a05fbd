"""Each guard against libp2p 0.8.1 is shown twice: what happens to bare hosts, and that ours go on."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p2p.io.libp2p_guards import (
    LIBP2P_VERSION,
    AddressInUse,
    DigestsOfMessages,
    UnsupportedLibp2p,
    apply_guards,
    check_port_is_free,
    check_version,
)

ROOT = Path(__file__).parents[2]


LOSSES = ("burst", "steady", "open_streams", "same_port")
CRASHES = ("garbage_frame", "junk_key", "raising_handler")


@functools.cache
def demonstrate(kind: str, *scenarios: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, outcome of each scenario that printed one, and the errors of a process that ran them."""
    command = [sys.executable, "-m", "tests.p2p.guard_demonstration", kind, *scenarios]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    outcomes: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        outcomes.update(json.loads(line))
    return done.returncode, outcomes, done.stderr


def bare(scenario: str) -> Any:
    """What a pair of bare hosts shows in a scenario that they survive."""
    _, outcomes, errors = demonstrate("bare", *LOSSES)
    assert scenario in outcomes, errors
    return outcomes[scenario]


def guarded(scenario: str) -> Any:
    """What a pair of ours shows."""
    code, outcomes, errors = demonstrate("guarded", *CRASHES, *LOSSES)
    assert code == 0, errors
    return outcomes[scenario]


@pytest.mark.slow
@pytest.mark.xdist_group("guards")
@pytest.mark.parametrize(
    ("scenario", "error"),
    [("garbage_frame", "DecodeError"), ("junk_key", "DecodeError"), ("raising_handler", "KeyError")],
)
def test_a_bare_host_dies_and_ours_does_not(scenario, error):
    """A malformed frame of a stranger, a message with a junk key or a bug in a handler ends a bare process; ours talks on."""
    code, outcomes, errors = demonstrate("bare", scenario)
    assert code != 0
    assert outcomes == {}
    assert error in errors
    assert guarded(scenario) is True


@pytest.mark.slow
@pytest.mark.xdist_group("guards")
@pytest.mark.parametrize(("scenario", "said_count"), [("burst", 200), ("steady", 40)])
def test_a_bare_host_loses_gossip_and_ours_does_not(scenario, said_count):
    """Of 200 messages at once, or of 20 a second, bare hosts lose some without a word; between ours all arrive."""
    assert bare(scenario) < said_count
    assert guarded(scenario) == said_count


@pytest.mark.slow
@pytest.mark.xdist_group("guards")
def test_a_bare_host_hangs_at_256_streams_and_ours_says_why():
    """The 257th stream of a bare connection waits for ever; ours fails in its time with a reason."""
    assert bare("open_streams") == "silence"
    assert guarded("open_streams") == "too many requests were open the whole time"


@pytest.mark.slow
@pytest.mark.xdist_group("guards")
def test_two_bare_hosts_share_a_port_and_ours_refuse():
    """A second bare host listens on the port of the first; ours says that it is taken."""
    assert bare("same_port") == "both listen"
    assert "in use by another process" in guarded("same_port")


def test_another_version_of_libp2p_is_refused():
    """The guards are written against one version, and say so."""
    check_version(importlib.metadata.version("libp2p"))
    check_version(LIBP2P_VERSION)
    with pytest.raises(UnsupportedLibp2p, match=r"needs libp2p 0\.8\.1 exactly, and 0\.9\.0 is installed"):
        check_version("0.9.0")


def test_guards_are_applied_once():
    """Applying them again changes nothing: no guard wraps itself."""
    apply_guards()
    from libp2p.host.basic_host import BasicHost
    from libp2p.pubsub.gossipsub import GossipSub

    before = (BasicHost._swarm_stream_handler, GossipSub.publish, GossipSub._emit_idontwant_for_message)
    apply_guards()
    assert before == (BasicHost._swarm_stream_handler, GossipSub.publish, GossipSub._emit_idontwant_for_message)


def test_a_busy_port_is_a_sentence():
    """A port on which somebody listens is refused before libp2p sees it; port 0 never is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"port {port} of 127\.0\.0\.1 is in use"):
            check_port_is_free("127.0.0.1", port)
    check_port_is_free("127.0.0.1", 0)


def test_digests_of_messages_tell_equivocation_in_bounded_memory():
    """Two contents under one number differ, equal ones do not, and only so many are remembered."""
    remembered = DigestsOfMessages(entries_max=2)
    remembered[b"1"] = SimpleNamespace(data=b"one", topicIDs=["t"])
    assert remembered[b"1"].data == b"one"
    assert remembered[b"1"].data != b"other"
    assert remembered[b"1"].topicIDs == ["t"]
    remembered[b"2"] = remembered[b"3"] = SimpleNamespace(data=b"x", topicIDs=[])
    assert list(remembered) == [b"2", b"3"]
    del remembered[b"2"]
    assert len(remembered) == 1
