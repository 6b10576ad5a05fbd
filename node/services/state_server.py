"""Giving the state of our checkpoints to whoever joins, and the proof that leads to it.

Everything is read from a checkpoint's own rows, in one thread: the chain goes on beside it, and is not asked for anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import trio

from consensus.light_client import Trust, build_light_client_proof, tip_of
from node.checkpoints import (
    CheckpointManifest,
    branch_digests,
    check_checkpoint_manifest,
    checkpoint_name,
    list_checkpoints,
)
from node.ground import Ground
from node.state_rows import digests_below, entries_below
from node.state_runs import BucketRuns
from node.threads import InThread
from p2p.requests import STATE
from p2p.transport import Transport
from protocol.codec import Message, decode, encode
from protocol.epochs import boundary_of
from protocol.ids import Epoch, Height, PeerId
from protocol.light_client import LightBlock
from protocol.limits import FRAME_BYTES_MAX, KIB, STATE_ANSWER_BYTES_MAX, STATE_PART_ENTRIES_MAX
from protocol.rejection import Reason, Rejected
from protocol.state_sync import (
    BUCKET_NAME_BYTES,
    Checkpoint,
    Children,
    Entries,
    GetCheckpoint,
    GetChildren,
    GetEntries,
    GetTrusted,
    Span,
    StateEntry,
    StateRequest,
    Trusted,
    bucket_name,
    split_name,
)
from storage.kv import KeyValue

_ENTRY_FRAME_BYTES: Final = 12  # lengths of an entry, its key and its value, at most
_RUN_BYTES_MAX: Final = FRAME_BYTES_MAX - 64 * KIB  # a run is answered whole
_RUNS_KEPT: Final = 16  # large buckets whose index stays in memory


class StateServer:
    """One node's side of `state`."""

    def __init__(self, ground: Ground, transport: Transport, in_thread: InThread) -> None:
        self._ground = ground
        self._in_thread = in_thread
        self._thread = trio.CapacityLimiter(1)
        self._opened: dict[Height, OpenedCheckpoint] = {}
        transport.set_request_handler(STATE.protocol, self.serve)

    def close(self) -> None:
        """Let go of the checkpoints that were read."""
        for opened in self._opened.values():
            opened.rows.close()
        self._opened.clear()

    async def serve(self, peer: PeerId, data: bytes) -> bytes:
        """The answer to one question; raises ``Rejected``."""
        request: StateRequest = decode(StateRequest, data, limit_bytes=STATE.request_bytes_max)  # type: ignore[arg-type]  # a union
        return encode(await self._in_thread(lambda: self._answer(request), self._thread))

    def _answer(self, request: StateRequest) -> Message:
        match request:
            case GetCheckpoint(trusted_height):
                return self._show_way(trusted_height)
            case GetTrusted(height):
                return Trusted(self._find_block(height))
            case GetChildren(height, names):
                opened = self._open(height)
                return Children(tuple(map(opened.children, names)))
            case GetEntries(height, names):
                return self._open(height).entries(names)

    def _show_way(self, trusted_height: Height) -> Checkpoint:
        """To the newest checkpoint; raises ``Rejected``, above all NOT_FOUND."""
        newest = next(list_checkpoints(self._ground.disk), None)
        if newest is None or newest.height <= trusted_height:
            raise Rejected(Reason.NOT_FOUND, f"no checkpoint above height {trusted_height}")
        proof = build_light_client_proof(self._trust(trusted_height), newest.block, self._find_boundary)
        is_whole = proof.blocks[-1].header.height == newest.height
        return Checkpoint(proof, newest.sub_roots if is_whole else ())

    def _trust(self, height: Height) -> Trust:
        if height == 0:
            return Trust.genesis(self._ground.genesis)
        fork = self._ground.fork
        if fork is not None and height == fork.height:
            return fork.checked.trust
        return tip_of(self._find_block(height)).trust

    def _find_block(self, height: Height) -> LightBlock:
        block = self._ground.find_light_block(height)
        if block is None:
            raise Rejected(Reason.NOT_FOUND, f"no certificate and roster of height {height}")
        return block

    def _find_boundary(self, epoch: Epoch) -> LightBlock | None:
        return self._ground.find_light_block(boundary_of(epoch, self._ground.genesis.chain.epoch_heights))

    def _open(self, height: Height) -> OpenedCheckpoint:
        """A checkpoint of ours, opened; those that are gone from the disk are closed. Raises ``Rejected(NOT_FOUND)``."""
        kept = self._ground.disk.checkpoints()
        for gone in [opened for opened in self._opened if checkpoint_name(opened) not in kept]:
            self._opened.pop(gone).rows.close()
        if height not in self._opened:
            name = checkpoint_name(height)
            if name not in kept:
                raise Rejected(Reason.NOT_FOUND, f"no checkpoint of height {height}")
            manifest = check_checkpoint_manifest(self._ground.disk.read_manifest(name))
            self._opened[height] = OpenedCheckpoint(manifest, self._ground.disk.open_checkpoint(name))
        return self._opened[height]


@dataclass(slots=True)
class OpenedCheckpoint:
    """A checkpoint that was asked for. What had to be hashed for an answer is remembered: everybody asks for the same."""

    manifest: CheckpointManifest
    rows: KeyValue
    _below: dict[bytes, bytes] = field(default_factory=dict)  # a branch: 8 KiB
    _runs: dict[bytes, BucketRuns] = field(default_factory=dict)

    def children(self, name: bytes) -> bytes:
        """What ``Children`` says of a name; raises ``Rejected(MALFORMED)``."""
        chain, prefix = split_name(name)
        if not prefix:
            return branch_digests(self.manifest, chain)
        if len(prefix) == BUCKET_NAME_BYTES - 1:
            return self._open_bucket(name).children(name)
        if name not in self._below:
            self._below[name] = b"".join(digests_below(self.rows, name))
        return self._below[name]

    def entries(self, names: tuple[bytes, ...]) -> Entries:
        """As many parts as fit; the first one is answered in any case, if only that it is too large."""
        parts: list[tuple[StateEntry, ...] | None] = []
        room = STATE_ANSWER_BYTES_MAX
        for name in names:
            part = self._part(name, room)
            if part is None and parts:
                break
            parts.append(part)
            room -= sum(map(_entry_bytes, part or ()))
        return Entries(tuple(parts))

    def _part(self, name: bytes, bytes_max: int) -> tuple[StateEntry, ...] | None:
        """All entries below a name; None where they take more than that, but for a run, which always fits."""
        split_name(name)
        if len(name) > BUCKET_NAME_BYTES:
            runs = self._open_bucket(name)
            found = runs.entries(name)
            if bytes_max == STATE_ANSWER_BYTES_MAX and Span.of(name, runs.count).is_run:
                bytes_max = _RUN_BYTES_MAX
        else:
            found = entries_below(self.rows, name)
        entries: list[StateEntry] = []
        for entry in found:
            bytes_max -= _entry_bytes(entry)
            if bytes_max < 0 or len(entries) == STATE_PART_ENTRIES_MAX:
                return None
            entries.append(entry)
        return tuple(entries)

    def _open_bucket(self, name: bytes) -> BucketRuns:
        bucket = bucket_name(name)
        runs = self._runs.pop(bucket, None) or BucketRuns(self.rows, bucket)
        self._runs[bucket] = runs  # the one that was asked for last is the last to go
        if len(self._runs) > _RUNS_KEPT:
            del self._runs[next(iter(self._runs))]
        return runs


def _entry_bytes(entry: StateEntry) -> int:
    return len(entry.key) + len(entry.value) + _ENTRY_FRAME_BYTES
