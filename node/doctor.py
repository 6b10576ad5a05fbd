"""What may be wrong with a machine or a data directory, looked at one by one, with what to do about it.

Nothing is changed and nothing is repaired here. Each check is a function of a `Patient` that yields findings; a check that
cannot look (a running node holds the lock) says so.
"""

from __future__ import annotations

import enum
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from node.config import Settings, load_settings
from node.data_directory import DataDirectory
from node.genesis_file import read_genesis
from node.keys import check_key_files, have_keys
from node.recovery_disagreement import dump_name, find_halt
from protocol.ids import NetworkId
from protocol.rejection import Rejected
from storage.io.files import DirectoryBusy, DirectoryLock
from storage.io.rocks import RocksKeyValue
from storage.journal import JournalState, read_journal
from storage.ledger import Ledger, Statistics

PYTHON_MIN: Final = (3, 11)
TORCH_SECONDS_MAX: Final = 60.0  # importing torch takes one second, on a busy small machine ten
DISK_FREE_BYTES_MIN: Final = 1 << 30  # a devnet node writes some 100 MB; below a GiB other programs fail too (a guess)
LEDGER_SLACK_BYTES: Final = 16 << 20  # what a ledger may grow beyond its allowance between two looks of the node at it

LIBRARIES: Final = ("trio", "libp2p", "msgspec", "nacl", "numpy", "zstandard", "rocksdict", "starlette", "hypercorn")

# What a child process says of torch: this process never imports it.
_TORCH_PROBE: Final = (
    "import json, torch; print(json.dumps({'version': torch.__version__, 'cuda_build': torch.version.cuda, "
    "'devices': [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]}))"
)


class Grade(enum.Enum):
    """How bad a finding is."""

    GOOD = "good"
    WARNING = "warning"  # the node runs, but not as it could
    BAD = "bad"  # the node does not run, or loses something


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one thing; ``remedy`` is empty where nothing is to be done."""

    subject: str
    grade: Grade
    sentence: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What the checks look at. ``settings`` is None when config.toml has a mistake; ``is_running`` when the lock is held."""

    places: DataDirectory
    settings: Settings | None
    config_mistake: str
    is_running: bool


Check = Callable[[Patient], Iterator[Finding]]


def examine(data_dir: Path, checks: Sequence[Check] | None = None) -> list[Finding]:
    """Every finding of ``checks`` (None: all), in their order."""
    places = DataDirectory(data_dir)
    settings, mistake = None, ""
    try:
        settings = load_settings(data_dir)
    except Rejected as error:
        mistake = error.detail
    patient = Patient(places, settings, mistake, _is_locked(places))
    return [finding for check in (CHECKS if checks is None else checks) for finding in check(patient)]


def check_python(patient: Patient) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < PYTHON_MIN:
        yield Finding("python", Grade.BAD, f"Python {version} is too old.", "Install Python 3.11 or newer.")
    else:
        yield Finding("python", Grade.GOOD, f"Python {version}.")
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        remedy = "Run: python -m pip install -c constraints.txt -e ."
        yield Finding("libraries", Grade.BAD, f"Missing: {', '.join(missing)}.", remedy)
    else:
        yield Finding("libraries", Grade.GOOD, "All libraries are installed.")


def check_torch(patient: Patient) -> Iterator[Finding]:
    asked = patient.settings.compute.device if patient.settings is not None else "auto"
    if importlib.util.find_spec("torch") is None:
        remedy = "Run: python -m pip install -c constraints.txt torch (the README says how to choose a build)."
        yield Finding("torch", Grade.BAD, "torch is not installed: this node cannot learn.", remedy)
        return
    try:
        told = subprocess.run(
            [sys.executable, "-c", _TORCH_PROBE], capture_output=True, check=True, timeout=TORCH_SECONDS_MAX, text=True
        )
        facts: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        words = str(getattr(error, "stderr", "") or error).strip().splitlines()
        said = words[-1] if words else type(error).__name__
        yield Finding("torch", Grade.BAD, f"torch cannot be imported: {said}", "Install it again as the README says.")
        return
    yield Finding("torch", Grade.GOOD, f"torch {facts['version']}.")
    yield from judge_device(asked, facts["cuda_build"], facts["devices"], has_gpu())


def judge_device(asked: str, cuda_build: str | None, devices: list[str], gpu_is_present: bool) -> Iterator[Finding]:
    """What can be said of the device that config.toml asks for."""
    index = int(asked.partition(":")[2] or 0)
    if asked.startswith("cuda") and index >= len(devices):
        why = "torch is built without CUDA" if cuda_build is None else f"torch finds {len(devices)} CUDA devices"
        remedy = "Install a CUDA build of torch as the README says, or set compute.device to auto or cpu."
        yield Finding("device", Grade.BAD, f"config.toml asks for {asked}, but {why}.", remedy)
    elif gpu_is_present and not devices:
        why = "is built without CUDA" if cuda_build is None else "finds no CUDA device"
        remedy = "Install a CUDA build of torch as the README says; until then the node learns on the CPU."
        yield Finding("device", Grade.WARNING, f"This machine has an NVIDIA GPU, but torch {why}.", remedy)
    else:
        yield Finding("device", Grade.GOOD, f"Learns on {devices[index] if devices and asked != 'cpu' else 'the CPU'}.")


def check_config(patient: Patient) -> Iterator[Finding]:
    if patient.config_mistake:
        yield Finding("config", Grade.BAD, patient.config_mistake, "Correct that line.")
    elif not patient.places.config.exists():
        yield Finding("config", Grade.WARNING, "There is no config.toml: defaults are used.")
    else:
        yield Finding("config", Grade.GOOD, f"{patient.places.config} has no mistake.")


def check_disk(patient: Patient) -> Iterator[Finding]:
    place = next(
        path for path in (patient.places.root.absolute(), *patient.places.root.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(place).free
    wanted = patient.settings.storage.storage_bytes_max if patient.settings is not None else 0
    if free < DISK_FREE_BYTES_MIN:
        yield Finding("disk", Grade.BAD, f"Only {free >> 20} MiB are free on {place}.", "Make room.")
    elif free < wanted:
        sentence = f"{free >> 30} GiB are free, but storage.storage_bytes_max allows {wanted >> 30} GiB."
        yield Finding("disk", Grade.WARNING, sentence, "Make room, or lower it.")
    else:
        yield Finding("disk", Grade.GOOD, f"{free >> 30} GiB are free.")


def check_keys(patient: Patient) -> Iterator[Finding]:
    if not have_keys(patient.places.keys):
        yield Finding("keys", Grade.BAD, "There are no keys.", "Run nocknode init --new, or init --join.")
        return
    problems = check_key_files(patient.places.keys)
    for problem in problems:
        yield Finding("keys", Grade.BAD, f"{problem}.")
    if not problems:
        yield Finding("keys", Grade.GOOD, "Three keys, readable by their owner only.")


def check_genesis(patient: Patient) -> Iterator[Finding]:
    network_id = patient.settings.network.id if patient.settings is not None else ""
    try:
        genesis = read_genesis(patient.places.genesis, NetworkId(bytes.fromhex(network_id)) if network_id else None)
    except Rejected as error:
        yield Finding("genesis", Grade.BAD, f"{error.detail}.")
        return
    members = len(genesis.founders)
    name = f"{genesis.network_name} {genesis.network_id().hex()[:16]}"
    if members in (2, 3):
        # Strictly more than two thirds: of two or three members every one is needed.
        sentence = f"Network {name}: with {members} members, the loss of one stalls it."
        yield Finding("genesis", Grade.WARNING, sentence, "Found networks with one member, or with four or more.")
    else:
        yield Finding("genesis", Grade.GOOD, f"Network {name}, {members} member{'' if members == 1 else 's'}.")


def check_lock(patient: Patient) -> Iterator[Finding]:
    if not patient.is_running:
        yield Finding("lock", Grade.GOOD, "No node runs with this data directory.")
    elif patient.places.api_file.exists():
        yield Finding("lock", Grade.GOOD, "A node runs with this data directory.")
    else:
        sentence = "A process holds this data directory, but its API is not up."
        yield Finding("lock", Grade.WARNING, sentence, f"Wait until it has started, or see {patient.places.log}.")


def check_ports(patient: Patient) -> Iterator[Finding]:
    if patient.settings is None or patient.is_running:
        return
    for address in patient.settings.network.listen:
        _, family, host, _, port = address.split("/")
        with socket.socket(socket.AF_INET if family == "ip4" else socket.AF_INET6) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
            except OSError as error:
                remedy = "Stop what uses it, or change network.listen."
                yield Finding("ports", Grade.BAD, f"Cannot listen on {address}: {error.strerror}.", remedy)
            else:
                yield Finding("ports", Grade.GOOD, f"{address} is free.")


def check_journals(patient: Patient) -> Iterator[Finding]:
    for path in sorted(patient.places.journal.glob("*.journal")):
        contents = read_journal(path.read_bytes())
        match contents.state:
            case JournalState.CLEAN:
                yield Finding("journal", Grade.GOOD, f"{path.name}: {len(contents.records)} records.")
            case JournalState.TORN_TAIL:
                sentence = f"{path.name}: the last write was cut off"
                sentence += " or is under way." if patient.is_running else "; it is dropped at the next start."
                yield Finding("journal", Grade.GOOD, sentence)
            case JournalState.DAMAGED | JournalState.MISSING:
                sentence = (
                    f"{path.name} is damaged: what this member signed is not known any more, so it will not vote."
                )
                yield Finding("journal", Grade.BAD, sentence, "Restore it from a backup, or join with new keys.")


def check_ledger(patient: Patient) -> Iterator[Finding]:
    if not patient.places.database.exists():
        return
    try:
        index = RocksKeyValue(patient.places.database, read_only=True)
        try:
            kept, halted = Ledger(index).statistics(), find_halt(index)
        finally:
            index.close()
    except OSError as error:
        if patient.is_running:  # it may have been cleaning up just then
            yield Finding("ledger", Grade.GOOD, "The running node has its database open: see nocknode chain status.")
        else:
            yield Finding("ledger", Grade.BAD, str(error))
        return
    allowed = patient.settings.storage.chain_bytes_max if patient.settings is not None else kept.bytes_used
    yield judge_ledger(kept, allowed)
    if halted is not None:
        sentence = (
            f"This machine computed another state for the final block {halted.height}: see {dump_name(halted.height)}."
        )
        yield Finding("state", Grade.BAD, sentence, "See docs/recovery.md; then run nocknode recovery resync.")


def judge_ledger(kept: Statistics, allowed_bytes: int) -> Finding:
    """What can be said of the blocks that are kept."""
    if not kept.tip_height:
        return Finding("ledger", Grade.GOOD, "No block is kept yet.")
    sentence = f"Blocks {kept.oldest_height} to {kept.tip_height} take {kept.bytes_used:,} bytes"
    if kept.bytes_used <= allowed_bytes + LEDGER_SLACK_BYTES:
        return Finding("ledger", Grade.GOOD, f"{sentence}.")
    sentence += f", and storage.chain_bytes_max allows {allowed_bytes:,}."
    remedy = "The node prunes while it runs, but never the last two epochs: if this stays, raise it."
    return Finding("ledger", Grade.WARNING, sentence, remedy)


def has_gpu() -> bool:
    """Whether the machine shows an NVIDIA GPU, whatever torch thinks."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _is_locked(places: DataDirectory) -> bool:
    """Whether a process holds the directory; makes no lock file where there is none."""
    if not places.lock.exists():
        return False
    try:
        DirectoryLock(places.root).close()
    except DirectoryBusy:
        return True
    return False


CHECKS: Final[tuple[Check, ...]] = (
    check_python,
    check_torch,
    check_config,
    check_disk,
    check_keys,
    check_genesis,
    check_lock,
    check_ports,
    check_journals,
    check_ledger,
)
