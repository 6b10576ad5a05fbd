"""Local networks for benchmarks: data directories that are complete before the clock starts, and what nodes tell."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

if TYPE_CHECKING:
    from node.config import NetworkTemplate

HTTP_SECONDS_MAX: Final = 10.0


def found(directories: Sequence[Path], members: int, template: NetworkTemplate, shards: Sequence[bytes]) -> None:
    """Make keys, genesis, configuration and corpus in every directory; the first ``members`` of them are the roster."""
    from node.clock import Clock
    from node.config import default_config_text
    from node.data_directory import DataDirectory
    from node.genesis_file import found_network, write_genesis
    from node.keys import create_keys
    from protocol.codec import encode
    from storage.io.blob_store import BlobStore
    from storage.io.files import DirectoryFiles
    from storage.io.rocks import RocksKeyValue

    places = [DataDirectory(directory) for directory in directories]
    for place in places:
        place.root.mkdir(parents=True)
    cards = [create_keys(place.keys).card() for place in places]
    genesis = found_network(template, cards[:members], shards, seed=0, created_ms=Clock().now_ms())
    for place in places:
        index = RocksKeyValue(place.database)
        try:
            BlobStore(DirectoryFiles(place.root), index).put_many(shards)
        finally:
            index.close()
        write_genesis(place.genesis, encode(genesis))
        place.config.write_text(default_config_text({"network.id": genesis.network_id().hex()}))


def ask(url: str, path: str) -> Any:
    """A node's answer to GET ``path``. Raises OSError."""
    with urllib.request.urlopen(url + path, timeout=HTTP_SECONDS_MAX) as answer:
        return json.loads(answer.read())


def processor_seconds(pids: Sequence[int]) -> float:
    """Processor time that these processes and their children have used: it hardly depends on what else runs here."""
    total = 0.0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for each in family:
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
    return total


def find_logged_seconds(log: Path, event: str) -> float | None:
    """When a node first logged ``event``, in seconds since 1970; None if it did not yet."""
    from datetime import datetime

    try:
        lines = log.read_text().splitlines()
    except FileNotFoundError:
        return None
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # half written
            continue
        if entry.get("event") == event:
            return datetime.fromisoformat(entry["time"]).timestamp()
    return None


def now_seconds() -> float:
    """Seconds since 1970, by the clock that nodes log with."""
    return time.time()


def is_door_ready(holders: Sequence[str], door: str) -> bool:
    """Whether holders have ended their rounds, and a door without experts has their versions, a worker, and all of them."""
    states = [ask(url, "/status") for url in holders]
    versions = [{tile["tile"]: tile["version"] for tile in ask(url, "/tiles")} for url in (*holders, door)]
    return (
        all(state["state"] == "done" and state["device"] for state in states)
        and all(each == versions[0] for each in versions)
        and bool(ask(door, "/status")["device"])
        and len(ask(door, "/experts/calls")["holders"]) == len(holders)
    )
