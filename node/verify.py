"""``nocknode tiles verify``: derive everything again from genesis, and compare.

    genesis weights  -> root of version 0
    each final head, in order of the ledger:
        certificate and chain of headers            (check_chain)
        body on the state before it                 (Execution: signatures, owners, exactly-once deltas, money)
        history that the body tells                 (on every core)
        deltas, where this node holds them all      merge again: the same update bytes; aggregates likewise, from what is inside
        update                                      apply again: the head's root
    every tile version held                         all pages, of its file or as made again, against its root

A newcomer holds the newest tiles but not every old update. For a tile whose update is missing, derivation goes on from the next
version whose file is held: that file's root is certified by a final block.

Where old blocks were pruned, the state before the oldest one that is kept is gone: bodies are not executed. The chain of
headers and bodies up from there still leads to the newest certificate, whose roster is in the state of which its block has the
root; and heads lead to roots as before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import trio
from numpy.typing import NDArray

from compute.delta.codec import decode as decode_delta
from compute.delta.codec import encode as encode_delta
from compute.merge import merge
from compute.model.genesis import genesis_tile
from compute.outer import apply_update, initial_state
from consensus.beacon import due_history
from consensus.epochs import roster_of
from consensus.execution import Execution
from consensus.finality.chain import check_chain
from consensus.state import HISTORY
from consensus.transition import BlockRules
from node.config import load_settings
from node.ground import Ground, open_ground
from node.history_work import HistoryWork
from node.tile_work import aggregate_payload, contributor, matrices_of, merge_rule, outer_rule
from protocol.codec import decode
from protocol.finality import NO_BLOCK, Body, Certificate, ChainId, FinalizedBlock, Header, body_root
from protocol.ids import Digest, Height, TileId, Version, short
from protocol.learning import SignedDelta
from protocol.limits import BODY_BYTES_MAX, FRAME_BYTES_MAX, KIB
from protocol.rejection import Rejected, check_invariant
from protocol.roster import DeltaRef, Head, Roster
from storage.kv import DatabaseCorrupt
from storage.tile_format import tile_root

Progress = Callable[[int, int, str], None]


@dataclass(slots=True)
class VerifyReport:
    """What was derived and compared. ``problems`` are sentences; empty when everything holds."""

    first_block: int = 1  # blocks below it were pruned here, so that everything is derived from it on
    blocks: int = 0
    histories: int = 0  # walked again, in parallel
    heads: int = 0
    roots_derived: int = 0  # by applying an update to the state before it
    roots_not_derivable: int = 0  # their update is not held here
    merges_derived: int = 0  # from all their deltas, to the same update bytes
    merges_not_derivable: int = 0  # some delta, or the update, is not held here
    aggregates_derived: int = 0  # from all their contributors, to the same payload
    aggregates_not_derivable: int = 0  # it, or some contributor, is not held here: only its aggregator holds all
    files_verified: int = 0
    copies_torn: int = 0  # cut short or changed, of versions that were made again from what they rest on
    files_behind: int = 0  # decided just before the node ended and derived here; written at the next start
    problems: list[str] = field(default_factory=list)


def verify_tiles(data_dir: Path, progress: Progress) -> VerifyReport:
    """Verify the data directory of a node that is not running. Raises as ``open_ground`` does."""
    ground = open_ground(load_settings(data_dir))
    try:
        return verify_ground(ground, progress)
    finally:
        ground.close()


def verify_ground(ground: Ground, progress: Progress) -> VerifyReport:
    """The same of a directory that is open, and in which nothing else happens."""
    return _Verification(ground, progress).run()


class _Verification:
    def __init__(self, ground: Ground, progress: Progress) -> None:
        self._ground = ground
        self._progress = progress
        self._report = VerifyReport()
        rule = ground.genesis.learning
        self._outer, self._merge_rule, self._update_pipeline = outer_rule(rule), merge_rule(rule), rule.update_pipeline
        self._map = ground.work.tile_map
        self._states: dict[TileId, NDArray[np.float32] | None] = {}
        self._versions: dict[TileId, Version] = {}  # of those states

    def run(self) -> VerifyReport:
        self._derive_genesis()
        oldest, tip = self._ground.ledger.oldest() or Height(1), self._ground.ledger.tip() or Height(0)
        self._report.first_block = oldest
        try:
            self._ground.check_state()
            if oldest == 1 and self._ground.fork is None:
                self._derive_chain(tip)
            else:
                self._derive_kept(oldest, tip)
        except DatabaseCorrupt as damage:
            self._problem(str(damage))
        self._verify_files()
        return self._report

    def _problem(self, sentence: str) -> None:
        self._report.problems.append(sentence)

    def _derive_genesis(self) -> None:
        genesis = self._ground.genesis
        for tile in self._map.ids:
            weights = genesis_tile(genesis.model, self._map, genesis.model_seed, tile)
            self._states[tile], self._versions[tile] = initial_state(weights, self._outer), Version(0)
            if self._root(tile) != self._ground.genesis_roots[tile]:
                self._problem(f"{tile}: its genesis weights give another root than at the last start")

    def _root(self, tile: TileId) -> bytes | None:
        state = self._states[tile]
        return None if state is None else tile_root(tile, np.ascontiguousarray(state).data.cast("B"), *state.shape)

    def _derive_chain(self, tip: Height) -> None:
        ground = self._ground
        chain, state = ChainId.of(ground.network), ground.genesis_state()
        execution = Execution(BlockRules.of(ground.genesis), state, NO_BLOCK, Height(0))
        run: list[FinalizedBlock] = []
        for height in range(1, tip + 1):
            self._progress(height, tip, f"block {height}")
            run.append(self._block(height))
            if run[-1].certificate is None:
                continue
            try:
                for block in check_chain(run, execution.roster, chain, ground.genesis.chain):
                    self._derive_block(execution, block)
            except Rejected as refusal:
                self._problem(f"block {height}: {refusal}")
                return
            run.clear()

    def _voters_of(self, newest: Header) -> tuple[Roster, ChainId]:
        """Of the newest block: those of the fork before, where the anchor is all that there is of ours."""
        fork = self._ground.fork
        if fork is not None and newest.height == fork.height:
            anchor = fork.signed.recovery.anchor
            check_invariant(anchor.roster is not None, "an anchor has its roster beside it")
            return cast(Roster, anchor.roster), newest.chain
        return roster_of(self._ground.load_state(), newest.epoch), self._ground.chain

    def _block(self, height: int) -> FinalizedBlock:
        stored = self._ground.ledger.get(Height(height))
        certificate = decode(Certificate, stored.certificate, limit_bytes=64 * KIB) if stored.certificate else None
        return FinalizedBlock(decode(Header, stored.header, limit_bytes=4 * KIB), stored.body, certificate)

    def _derive_kept(self, oldest: Height, tip: Height) -> None:
        """From the newest certificate downwards every header and body is the one that it stands for; then heads upwards."""
        ground = self._ground
        newest = self._block(tip)
        roster, chain = self._voters_of(newest.header)
        try:
            check_chain([newest], roster, chain, ground.genesis.chain)
        except Rejected as refusal:
            self._problem(f"block {tip}: {refusal}")
            return
        child = newest.header
        for height in range(tip - 1, oldest - 1, -1):
            self._progress(tip - height, tip - oldest + 1, f"block {height}")
            block = self._block(height)
            if child.parent != block.header.digest() or body_root(block.body) != block.header.body_root:
                self._problem(f"block {height}: the one above it names another header, or it another body")
                return
            child = block.header
        newest_history = ground.load_state().find(HISTORY)  # of older ones the start is gone
        for height in range(oldest, tip + 1):
            self._progress(height - oldest, tip - oldest + 1, f"heads of block {height}")
            self._report.blocks += 1
            body = decode(Body, self._block(height).body, limit_bytes=BODY_BYTES_MAX)
            if body.history and newest_history is not None and body.history[-1] == newest_history.end:
                self._verify_history(height, newest_history.start, body.history)
            for head in body.heads:
                self._derive_head(head)

    def _derive_block(self, execution: Execution, block: FinalizedBlock) -> None:
        self._report.blocks += 1
        ends = decode(Body, block.body, limit_bytes=BODY_BYTES_MAX).history
        start = due_history(execution.state)
        if ends and start is not None:  # where none is due, the block is refused below
            self._verify_history(block.header.height, start, ends)
        for decided in execution.replay(block).decided:
            self._derive_head(decided.head)

    def _verify_history(self, height: int, start: Digest, ends: Sequence[Digest]) -> None:
        self._report.histories += 1
        if not trio.run(HistoryWork().verify, start, ends, self._ground.genesis.chain.history_segment_ticks):
            self._problem(f"block {height}: the history that it tells does not follow from the reveals before it")

    def _derive_head(self, head: Head) -> None:
        self._report.heads += 1
        for reference in head.deltas:
            self._derive_aggregate(head, reference)
        self._derive_merge(head)
        self._derive_root(head)

    def _find(self, name: bytes) -> bytes | None:
        try:
            blob = self._ground.blobs.find(name)  # type: ignore[arg-type]  # a digest
        except Rejected as refusal:
            self._problem(str(refusal))
            return None
        return None if blob is None else bytes(blob)

    def _derive_merge(self, head: Head) -> None:
        contributions = []
        tile = self._map.tile(head.tile)
        update = self._find(head.update)
        if update is None:  # the tile was fetched whole: there is nothing to compare with
            self._report.merges_not_derivable += 1
            return
        for reference in head.deltas:
            signed = self._find_delta(reference.delta)
            if signed is None:
                self._report.merges_not_derivable += 1
                return
            contributions.append((contributor(reference), reference.weight, decode_delta(signed.payload, tile.values)))
        gradient = merge(contributions, self._merge_rule).gradient_N
        if encode_delta(gradient, self._update_pipeline, matrices_of(tile)) != update:
            self._problem(f"{head.slot}: merging its deltas gives another update than its owner published")
        self._report.merges_derived += 1

    def _find_delta(self, name: Digest) -> SignedDelta | None:
        data = self._find(name)
        return None if data is None else decode(SignedDelta, data, limit_bytes=FRAME_BYTES_MAX)

    def _derive_aggregate(self, head: Head, reference: DeltaRef) -> None:
        """What an aggregate says, from what it was made of; whose deltas those are, from the head."""
        signed = self._find_delta(reference.delta)
        if signed is None:
            self._report.aggregates_not_derivable += bool(reference.contributors)
            return
        named = f"the aggregate of {short(reference.learner)} in {head.slot}"
        if reference.contributors != tuple(sorted(each.delta for each in signed.contributors)):
            self._problem(f"{named} was made of other deltas than the head counts")
        if not signed.contributors:
            return
        inside = [(each, self._find_delta(each.delta)) for each in signed.contributors]
        deltas = [(each, delta) for each, delta in inside if delta is not None]
        if len(deltas) < len(inside):
            self._report.aggregates_not_derivable += 1
            return
        tile = self._map.tile(head.tile)
        for each, delta in deltas:
            if (delta.tile, delta.base, delta.learner) != (signed.tile, signed.base, each.learner):
                self._problem(f"{named} holds a delta of something else")
        try:
            decoded = [(each.learner, each.weight, decode_delta(delta.payload, tile.values)) for each, delta in deltas]
            derived = aggregate_payload(decoded, self._ground.genesis.learning, tile)
        except Rejected as refusal:  # it counts what nobody could have merged
            self._problem(f"{named}: {refusal}")
            return
        if derived != signed.payload:
            self._problem(f"{named} is not what merging its deltas gives")
        self._report.aggregates_derived += 1

    def _derive_root(self, head: Head) -> None:
        update = self._find(head.update)
        state = self._states[head.tile] if self._versions[head.tile] == head.version - 1 else None
        self._versions[head.tile] = head.version
        if update is not None and state is not None:
            said = decode_delta(update, state.shape[1])
            self._states[head.tile] = apply_update(state, said, self._outer, Version(head.version))
            self._report.roots_derived += 1
            if self._root(head.tile) != head.root:
                self._problem(f"{head.slot}: applying its update gives another root than was decided")
            return
        self._report.roots_not_derivable += 1
        self._states[head.tile] = None
        held = self._ground.tiles.find(head.tile, head.version)
        if held is not None and held.root == head.root:
            tile = self._ground.tiles.open(head.tile, head.version)
            self._states[head.tile] = np.frombuffer(tile.state, np.float32).reshape(tile.planes, tile.values).copy()

    def _verify_files(self) -> None:
        decided = self._ground.tile_heads()
        held = self._ground.tiles.held()
        for number, each in enumerate(held, 1):
            self._progress(number, len(held), f"file of {each.tile_id}")
            try:
                self._ground.tiles.open(each.tile_id, each.version).verify()
            except (Rejected, LookupError) as error:
                self._problem(str(error))
                continue
            at = decided[each.tile_id]
            if each.version == at.version and each.root != at.root:
                self._problem(f"{each.tile_id}@{each.version}: its file has another root than was decided")
            self._report.files_verified += 1
        self._report.copies_torn = self._ground.tiles.statistics().torn_copies
        for tile, at in decided.items():
            if self._ground.tiles.find(tile, at.version) is not None:
                continue
            if self._versions[tile] == at.version and self._root(tile) == at.root:
                self._report.files_behind += 1
            else:
                self._problem(f"{tile}@{at.version} was decided, but neither its file nor what makes it is here")
