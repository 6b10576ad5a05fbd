"""When this machine computes another state than everybody else: keep what is needed to find out why, and begin anew.

    disagreements/HEIGHT/facts.json     for people: roots, the refusal, versions of the software
                         rows.bin       StateRows: every entry that the block changed here, before and after
                         header.bin, body.bin, certificate.bin        the block, as it travelled

The blocks and the state before it are in the database until ``forget_chain`` throws them away. A node that has disagreed once
does not start again before that: what was wrong may be in what it would go on with. Keys and both journals are never touched:
what was signed stays signed.

Own rows in the database:

    halted                              -> HaltRow: the block about which this node disagreed, until the chain is forgotten
    forgetting                          -> nothing, while the chain is forgotten
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from typing import Final

import msgspec
import structlog

from consensus.execution import StateDisagreement
from consensus.state import State, changes_between
from node.disk import Disk
from node.fork_rows import forget_fork
from node.ground import Ground
from node.state_rows import forget_state
from protocol.codec import Message, decode, encode
from protocol.ids import DigestField, HeightField
from protocol.limits import KIB
from protocol.rejection import Reason, Rejected
from protocol.state_proof import SubChain
from storage.keys import own_key
from storage.kv import Batch, KeyValue

log = structlog.get_logger()

FOLDER: Final = "disagreements"
_HALTED: Final = own_key("halted")
_FORGETTING: Final = own_key("forgetting")
_LIBRARIES: Final = ("nocknode", "msgspec", "cryptography", "numpy", "rocksdict", "trio")


class HaltRow(Message, frozen=True):
    """The final block whose state this node does not have."""

    height: HeightField
    block: DigestField


class StateRow(Message, frozen=True):
    """One entry, by its sub-chain and key: its canonical bytes before the block and after it, None where it was absent."""

    chain: int
    key: bytes
    before: bytes | None
    after: bytes | None


class StateRows(Message, frozen=True):
    """What a block changed here."""

    rows: tuple[StateRow, ...]


def dump_name(height: int) -> str:
    """The folder of a dump, from the data directory."""
    return f"{FOLDER}/{height:012d}"


def disagreements(error: BaseException) -> Iterator[StateDisagreement]:
    """Those inside an exception, however deep."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from disagreements(inner)
    elif isinstance(error, StateDisagreement):
        yield error


def record_disagreement(ground: Ground, disagreement: StateDisagreement) -> None:
    """Keep everything about it, and that this node may not go on. A disk that fails is told of, and keeps what it can."""
    header = disagreement.block.header
    log.error(
        "this node disagrees with the network about a final state", height=header.height, dump=dump_name(header.height)
    )
    try:
        _dump(ground.disk, disagreement)
    except OSError as error:
        log.error("what it computed could not be kept", why=str(error))
    try:
        batch = Batch()
        batch.put(_HALTED, encode(HaltRow(header.height, header.digest())))
        ground.index.write(batch)
    except OSError as error:
        log.error("that it must not go on could not be kept", why=str(error))


def _dump(disk: Disk, disagreement: StateDisagreement) -> None:
    block, name = disagreement.block, dump_name(disagreement.block.header.height)
    certificate = encode(block.certificate) if block.certificate is not None else b""
    files = (
        ("facts.json", msgspec.json.format(msgspec.json.encode(_facts(disagreement)))),
        ("rows.bin", encode(changed_rows(disagreement.before, disagreement.after or disagreement.before))),
        ("header.bin", encode(block.header)),
        ("body.bin", block.body),
        ("certificate.bin", certificate),
    )
    for file, data in files:
        disk.files.write(f"{name}/{file}", [data])


def changed_rows(before: State, after: State) -> StateRows:
    """Every entry in which two states differ."""
    old = dict(changes_between(after, before))
    rows = []
    for row, entry in changes_between(before, after):
        was = old[row]
        rows.append(
            StateRow(row[0], row[1:], None if was is None else encode(was), None if entry is None else encode(entry))
        )
    return StateRows(tuple(rows))


def _facts(disagreement: StateDisagreement) -> dict[str, object]:
    header = disagreement.block.header
    return {
        "height": header.height,
        "epoch": header.epoch,
        "block": header.digest().hex(),
        "refusal": str(disagreement.refusal),
        "state_root_of_the_network": header.state_root.hex(),
        "state_before": _roots(disagreement.before),
        "state_after": None if disagreement.after is None else _roots(disagreement.after),
        "versions": _versions(),
    }


def _roots(state: State) -> dict[str, str]:
    parts = {chain.name.lower(): root.hex() for chain, root in zip(SubChain, state.sub_roots(), strict=True)}
    return {"root": state.root().hex(), **parts}


def _versions() -> dict[str, str]:
    found = {"python": sys.version, "machine": f"{platform.machine()} {platform.platform()}"}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "unknown"
    return found


def find_halt(index: KeyValue) -> HaltRow | None:
    """The block about which this node disagreed; None where it may go on."""
    raw = index.get(_HALTED)
    return None if raw is None else decode(HaltRow, raw, limit_bytes=KIB)


def finish_forgetting(ground: Ground) -> bool:
    """Forget what a crash left of a chain that was being forgotten; whether there was any. Then the ground is to be renewed."""
    is_begun = ground.index.get(_FORGETTING) is not None
    if is_begun:
        forget_chain(ground)
    return is_begun


def check_not_halted(ground: Ground) -> None:
    """Raises ``Rejected(BAD_DATA_DIRECTORY)`` where this node has disagreed and not begun anew."""
    halted = find_halt(ground.index)
    if halted is not None:
        raise Rejected(
            Reason.BAD_DATA_DIRECTORY,
            f"this machine computed another state for the final block {halted.height} "
            f"(see {dump_name(halted.height)} in it); install the version that the network runs, "
            "then run `nocknode recovery resync`",
        )


def forget_chain(ground: Ground) -> None:
    """Throw away blocks, state and checkpoints, to be fetched anew. Keys, journals, tiles and data sets stay.

    Durable on return; a crash leaves what the next start goes on to forget. The ground is to be renewed: it may be a fork's.
    """
    batch = Batch()
    batch.put(_FORGETTING, b"")
    ground.index.write(batch)
    for name in ground.disk.checkpoints():
        ground.disk.remove_checkpoint(name)
    ground.ledger.forget()
    forget_state(ground.index)
    batch = Batch()
    ground.forget_open_finality(batch)
    forget_fork(batch)
    batch.delete(_HALTED)
    batch.delete(_FORGETTING)
    ground.index.write(batch)
