"""What one peer computed, for all of them: pure functions of bytes, asked a thousand times and answered once.

    signatures          by (key, message, signature)
    a block's outcome   by (state root before, header)          persistent states are then the same objects at everybody
    a head's successor  by (parent, newest round, head)
    a chain of blocks   by (epoch, headers, certificate)
    a verified head     by its digest; tiles and their arithmetic are one ``TileWork`` on one store in memory
    a walked history    by its start

``memo`` False: everything is computed by everybody, which changes nothing but the time (tests/simnet/cores).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np

from compute.exact import Float32
from compute.model.tiling import TileMap
from consensus.beacon import OnionKeeper
from consensus.execution import Execution
from consensus.finality.chain import check_chain
from consensus.heads import HeadRules, TileHead
from consensus.history import walk_segments
from consensus.state import State, state_of_genesis
from consensus.transition import BlockRules
from node.tile_work import MergeJob, MergeResult, TileWork
from protocol.codec import decode
from protocol.finality import Body, ChainId, FinalizedBlock, Header
from protocol.genesis import Genesis
from protocol.ids import Digest, Height, TileId, Version
from protocol.keys import verify as verify_signature
from protocol.learning import SignedDelta, check_delta_signature
from protocol.limits import BODY_BYTES_MAX, FRAME_BYTES_MAX, HISTORY_SEGMENTS
from protocol.rejection import Reason, Rejected
from protocol.roster import Head, Roster
from storage.files import MemoryFiles
from storage.io.tile_store import TileStore
from storage.kv import MemoryKeyValue

REMEMBERED_MAX: Final = 65_536  # answers of one kind; the oldest goes first
WEIGHTS_KEPT: Final = 24  # versions of a tile from which somebody may still learn: who is cut off longer learns nothing
Key = TypeVar("Key")
Value = TypeVar("Value")


class Memo:
    """Answers by question. A refusal is an answer too."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._answers: dict[object, object] = {}

    def ask(self, question: Key, answer: Callable[[], Value]) -> Value:
        """The answer; raises ``Rejected`` where that is the answer."""
        if not self._enabled:
            return answer()
        found = self._answers.get(question)
        if found is None:
            try:
                found = answer()
            except Rejected as refusal:
                found = Rejected(refusal.reason, refusal.detail)  # without the frames that it came through
            if len(self._answers) >= REMEMBERED_MAX:
                del self._answers[next(iter(self._answers))]
            self._answers[question] = found
        if isinstance(found, Rejected):
            raise Rejected(found.reason, found.detail)
        return found  # type: ignore[return-value]  # what ``answer`` of the same question returned


@dataclass(frozen=True, slots=True)
class SharedHeadRules(HeadRules):
    """The rules for heads of one epoch, for all peers."""

    memo: Memo = field(default_factory=lambda: Memo(False), repr=False)

    def check_successor(self, at: TileHead | None, newest_round: int, head: Head) -> None:
        """As ``HeadRules.check_successor``."""
        if at is None:
            raise Rejected(Reason.UNKNOWN_TILE, head.tile)
        question = (self.roster.epoch, at.root, newest_round, head.digest())
        self.memo.ask(question, lambda: self._check(at, newest_round, head))

    def _check(self, at: TileHead, newest_round: int, head: Head) -> bool:
        HeadRules.check_successor(self, at, newest_round, head)
        return True


@dataclass(frozen=True, slots=True)
class SharedBlockRules(BlockRules):
    """As ``BlockRules``, with rules for heads that remember."""

    memo: Memo = field(default_factory=lambda: Memo(False), repr=False)

    def head_rules(self, roster: Roster) -> HeadRules:
        """The same object for everybody, so that a tile's order is computed once."""
        return self.memo.ask((roster.epoch, roster.beacon), lambda: self._make(roster))

    def _make(self, roster: Roster) -> HeadRules:
        return SharedHeadRules(roster, self.delta_weight_max, memo=self.memo)


class SharedExecution(Execution):
    """Execution in which a block that somebody executed is not executed again."""

    def __init__(
        self,
        rules: BlockRules,
        state: State,
        anchor: Digest,
        height: Height,
        onions: OnionKeeper | None,
        outcomes: Memo,
        bodies: Memo,
    ) -> None:
        super().__init__(rules, state, anchor, height, onions)
        self._known_outcomes = outcomes
        self._known_bodies = bodies

    def _read_body(self, body: bytes) -> Body:
        """As ``Execution._read_body``; the heads of a body are then the same objects at everybody."""
        return self._known_bodies.ask(body, lambda: Execution._read_body(self, body))

    def _execute(self, state: State, header: Header, body: Body) -> Any:  # its result is of a private type
        """As ``Execution._execute``. A header names its body, so all depends on it and the parent's root."""
        return self._known_outcomes.ask(
            (state.root(), header.digest()), lambda: Execution._execute(self, state, header, body)
        )


class Shared:
    """Everything that the peers of one world have in common."""

    def __init__(self, genesis: Genesis, *, memo: bool = True) -> None:
        self.genesis = genesis
        self.chain = ChainId.of(genesis.network_id())
        self._store = TileStore(MemoryFiles(), MemoryKeyValue())
        self.work = TileWork(genesis, self._store)
        self.tile_map: TileMap = self.work.tile_map
        self.genesis_roots = self.work.ensure_genesis()
        self.genesis_state = state_of_genesis(genesis, self.genesis_roots.items())
        self._signatures = Memo(memo)
        self._outcomes = Memo(memo)
        self._chains = Memo(memo)
        self._verdicts = Memo(memo)
        self._bodies = Memo(memo)
        self._deltas = Memo(memo)
        self._walks = Memo(memo)
        rules = BlockRules.of(genesis)
        self.rules = SharedBlockRules(
            rules.chain,
            rules.ledger,
            rules.epoch_heights,
            rules.delta_weight_max,
            rules.history_segment_ticks,
            memo=Memo(memo),
        )
        self.newest: dict[TileId, Version] = {}
        self._weights: dict[TileId, dict[Version, Float32]] = {}
        for tile in self.tile_map.ids:
            self._keep_weights(tile, Version(0))

    # -- finality and execution -----------------------------------------------------------------------------------------

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool:
        """Whether a signature is right."""
        return self._signatures.ask((public, message, signature), lambda: verify_signature(public, message, signature))

    def execution(self, state: State, anchor: Digest, height: Height, onions: OnionKeeper | None) -> Execution:
        """One peer's execution."""
        return SharedExecution(self.rules, state, anchor, height, onions, self._outcomes, self._bodies)

    def check_chain(self, blocks: Sequence[FinalizedBlock], roster: Roster) -> tuple[FinalizedBlock, ...]:
        """As ``consensus.finality.chain.check_chain``."""
        last = blocks[-1]
        question = (roster.epoch, blocks[0].header.height, last.header.digest(), last.certificate)
        return self._chains.ask(
            question, lambda: check_chain(blocks, roster, self.chain, self.genesis.chain, self.verify)
        )

    def heads_of(self, block: FinalizedBlock) -> tuple[Head, ...]:
        """The heads that a block decided."""
        body = self._bodies.ask(block.body, lambda: decode(Body, block.body, limit_bytes=BODY_BYTES_MAX))
        return body.heads

    def walk(self, start: Digest, ticks: int) -> tuple[Digest, ...]:
        """The ends of a history."""
        return self._walks.ask((start, ticks), lambda: walk_segments(start, ticks, HISTORY_SEGMENTS))

    def is_history(self, start: Digest, ends: tuple[Digest, ...], ticks: int) -> bool:
        """Whether these are they."""
        return self.walk(start, ticks) == ends

    # -- tiles ----------------------------------------------------------------------------------------------------------

    def read_delta(self, data: bytes) -> SignedDelta:
        """A delta whose signature is right; raises ``Rejected``."""

        def read() -> SignedDelta:
            signed = decode(SignedDelta, data, limit_bytes=FRAME_BYTES_MAX)
            check_delta_signature(signed)
            return signed

        return self._deltas.ask(data, read)

    def merge(self, jobs: Iterable[MergeJob]) -> list[MergeResult]:
        """As ``TileWork.merge``."""
        return self.work.merge(jobs)

    def judge(self, head: Head, update: bytes) -> Reason | None:
        """As ``TileWork.verify``, for a peer that has applied the head's parent."""
        (verdict,) = self._verdicts.ask(head.digest(), lambda: self.work.verify([(head, update)]))
        return verdict

    def apply(self, head: Head, update: bytes) -> None:
        """Make the decided version one from which people learn. The first who applies it does, for everybody."""
        if self.newest[head.tile] == head.version - 1:
            self.work.apply([(head, update)])
            self._keep_weights(head.tile, head.version)

    def weights(self, tile: TileId, version: Version) -> Float32 | None:
        """A decided version's weights; None: too old."""
        return self._weights[tile].get(version)

    def _keep_weights(self, tile: TileId, version: Version) -> None:
        held = self._weights.setdefault(tile, {})
        weights = self._store.open(tile, version).weights
        held[version] = np.frombuffer(weights, np.float32)
        self.newest[tile] = version
        held.pop(Version(version - WEIGHTS_KEPT), None)
