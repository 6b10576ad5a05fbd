"""A node that says the same things every time: what the API and the commands are tested with."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio
from prometheus_client.core import Metric

from node.api.view import Answer, Asked, Piece
from node.chain_words import plain
from node.metrics import chain_metrics, node_metrics
from protocol.answers import AnswerRecord, check_answer_record
from protocol.codec import decode, encode
from protocol.digest import blob_digest
from protocol.ids import Digest, PeerId, peer_text
from protocol.limits import ANSWER_RECORD_BYTES_MAX
from protocol.rejection import Reason, Rejected
from tests.node.chain_samples import SmallChain
from tests.protocol.samples import answer_record, badge

STATUS: dict[str, Any] = {
    "peer": "12D3KooWCJFazMChEnEkaVixnUhjUskW9yLqgtynekEF13VJ28wW",
    "short": "VJ28wW",
    "network": "testnet",
    "network_id": "ab" * 32,
    "state": "learning",
    "detail": "Takes step 12 of 30.",
    "member": True,
    "roster": 4,
    "reachable": 3,
    "quorum": 3,
    "connected": 3,
    "round": 7,
    "rounds": 6,
    "height": 31,
    "view": 40,
    "tokens": 123_456,
    "tokens_per_second": 812.5,
    "val_loss": 2.561,
    "tiles": 38,
    "tiles_owned": 9,
    "lagging": [{"tile": "trunk/0", "version": 6, "round": 6, "reason": "no delta came"}],
    "takeovers": 2,
    "rejected": {"stale_base": 3},
    "bytes_sent": 1_000_000,
    "bytes_received": 2_000_000,
    "device": "cpu",
    "tier": 0,
    "uptime_seconds": 61.5,
    "verified_seconds_ago": 1.25,
    "storage_bytes": 5_000_000,
    "version": "0.1.0",
}
TILE = {
    "tile": "trunk/0",
    "version": 6,
    "base": 4,
    "root": "cd" * 32,
    "owner": "VJ28wW",
    "attempt": 0,
    "round": 6,
    "values": 65_536,
    "deltas": 4,
    "learners": ["AHqUzB", "VJ28wW"],
    "tokens": 8_192,
}
PEER = {
    "peer": STATUS["peer"],
    "short": "VJ28wW",
    "addresses": ["/ip4/127.0.0.1/tcp/4001/p2p/" + STATUS["peer"]],
    "connected": True,
    "member": True,
    "rtt_ms": 0.8,
    "clock_offset_ms": -3,
    "score": 12,
    "region": "local",
    "device": "cpu",
    "round": 7,
    "height": 31,
}
ROUND = {"round": 6, "opened_ms": 1000, "closed_ms": 9000, "tiles_advanced": 37, "tiles": 38}


@dataclass(frozen=True, slots=True)
class PartStatistics:
    """As a part of the node would tell them."""

    jobs_done: int = 5
    name: str = "not a number"


KEPT_BLOB = blob_digest(b"kept")
KEPT_TILES = (b"the first tile, ", b"and the second")
CUSTODY: dict[str, Any] = {
    "blobs": [
        {
            "what": "version 7 of trunk/0",
            "blob": KEPT_BLOB.hex(),
            "size_bytes": sum(map(len, KEPT_TILES)),
            "tiles": len(KEPT_TILES),
            "epoch": 3,
            "kept_until": 19,
            "cells": 64,
            "missing": 2,
            "fetched_bytes": 65_536,
        }
    ],
    "cells": 64,
    "bytes": 65_536,
    "votes": 4,
    "recorded": 1,
    "fetched_bytes": 131_072,
    "sampled_bytes": 4_096,
    "given_bytes": 1_024,
    "rebuilt_tiles": 1,
    "answered": 3,
    "audits": 12,
    "audits_failed": 3,
    "samples": 8,
    "samples_lost": 0,
    "faults": {"12D3...abcd": 3},
}
SYNC = {
    "phase": "complete",
    "detail": "the state of a checkpoint was fetched",
    "height": 64,
    "state_root": "ab" * 32,
    "parts": 7,
    "parts_verified": 7,
    "bytes": 4_096,
    "sources": [{"peer": PEER["peer"], "bytes": 4_096}],
}
MODEL: dict[str, Any] = {
    "id": "testnet",
    "network_id": "ab" * 32,
    "created": 1_700_000_000,
    "context": 128,
    "parameters": 65_536,
    "round": 7,
    "experts": "here",
}
EXPERT: dict[str, Any] = {
    "expert": "layer0.expert1",
    "layer": 0,
    "tiles": 2,
    "bytes": 131_072,
    "version_min": 5,
    "version_max": 6,
}
HOLDER = {
    "peer": peer_text(PeerId(bytes([7]) * 32)),
    "short": "holder",
    "able": True,
    "quarantined_seconds": 299.5,
    "answers": 120,
    "checked": 4,
    "wrong": 1,
    "believed": 0,
    "version": -1,
    "deviation_micro_max": 7,
}
CALLS = {
    "served": {"served": 3, "waiting": 0, "given_bytes": 96},
    "called": {"calls": 121, "taken": 120, "given_up": 1, "questions": 130, "hedges": 6, "failovers": 3},
    "checks": {"answers": 120, "checked": 4, "wrong": 1, "unknown": 0, "open": 0},
    "holders": [HOLDER],
}
CHECKPOINT = {
    "height": 64,
    "epoch": 0,
    "block": "cd" * 32,
    "time_ms": 1_000,
    "state_root": "ab" * 32,
    "manifest_bytes": 9_000,
}


ANSWER: dict[str, Any] = {
    "answer": answer_record().receipt.claim.digest().hex(),
    "began_ms": 1_700_000_000_000,
    "prompt_tokens": 2,
    "tokens": 4,
}
RECEIPT: dict[str, Any] = {
    "answer": ANSWER["answer"],
    "tokens": 4,
    "commitment": answer_record().receipt.commitment.hex(),
    "signature": answer_record().receipt.signature.hex(),
}
AUDITED: dict[str, Any] = {
    "answer": ANSWER["answer"],
    "door": STATUS["peer"],
    "began_ms": ANSWER["began_ms"],
    "verdict": "same",
    "says": "every token is the one that this node would have said",
    "tokens": 4,
    "is_ended": True,
    "others_total": 0,
    "margin_max": 0.0,
    "others": [],
}


def badge_facts() -> dict[str, Any]:
    return {**plain(badge()), "badge": encode(badge()).hex()}


class FakeAnswer:
    """Implements `node.api.view.Answer`."""

    def __init__(self, pieces: AsyncIterator[Piece]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self._pieces

    async def receipt(self) -> dict[str, Any]:
        return RECEIPT


class FakeNode:
    """Implements `node.api.view.NodeView`. It generates the prompt's words back, then counts who left early."""

    def __init__(self) -> None:
        self.is_healthy = True
        self.is_busy = False
        self.is_stopping = False
        self.generations_open = 0
        self.waits_for_ever = False
        self.begins_never = False
        self.fails_after = -1  # tokens
        self.fails_with: Exception | None = None
        self.says = ""  # instead of the prompt
        self.asked: list[Asked] = []
        self.quarantined: set[PeerId] = set()
        self.calls: dict[str, Any] = CALLS
        self.known_experts: list[dict[str, Any]] = [EXPERT]
        self.audited = AUDITED
        self.kept_answers = [ANSWER]
        self.firing: list[dict[str, Any]] = []
        self.small_chain = SmallChain()
        self.chain = self.small_chain.view

    def status(self) -> dict[str, Any]:
        return STATUS

    def state_sync(self) -> dict[str, Any]:
        return SYNC

    def checkpoints(self) -> list[dict[str, Any]]:
        return [CHECKPOINT]

    def rounds(self) -> list[dict[str, Any]]:
        if self.fails_with is not None:
            raise self.fails_with
        return [ROUND]

    def round_slots(self, round: int) -> dict[str, Any] | None:
        return {"round": round, "slots": {"trunk/0": [6, "cd" * 32]}} if round == 6 else None

    def tiles(self) -> list[dict[str, Any]]:
        return [TILE]

    def peers(self) -> list[dict[str, Any]]:
        return [PEER]

    def custody(self) -> dict[str, Any]:
        return CUSTODY

    async def read_kept(self, blob: Digest, tile: int) -> bytes:
        if blob != KEPT_BLOB or tile >= len(KEPT_TILES):
            raise Rejected(Reason.NOT_FOUND, "no such tile is recorded as kept")
        return KEPT_TILES[tile]

    def health(self) -> tuple[bool, list[str]]:
        return self.is_healthy, [] if self.is_healthy else ["Fewer than a quorum of the roster answer."]

    def metrics(self) -> Iterable[Metric]:
        yield from node_metrics(STATUS, {"worker": PartStatistics()})
        yield from chain_metrics(self.chain.status(), self.chain.members())

    def model(self) -> dict[str, Any]:
        return MODEL

    def experts(self) -> list[dict[str, Any]]:
        return self.known_experts

    def expert_calls(self) -> dict[str, Any]:
        return self.calls

    def quarantine(self, peer: PeerId) -> None:
        self.quarantined.add(peer)

    def recover(self, peer: PeerId) -> None:
        self.quarantined.discard(peer)

    @asynccontextmanager
    async def generate(self, asked: Asked) -> AsyncIterator[Answer]:
        if self.is_busy:
            raise Rejected(Reason.BUSY, "four texts are being written; try again")
        self.asked.append(asked)
        if self.begins_never:
            await trio.sleep_forever()
        self.generations_open += 1
        try:
            async with aclosing(self._pieces(asked)) as pieces:
                yield FakeAnswer(pieces)
        finally:
            self.generations_open -= 1

    async def _pieces(self, asked: Asked) -> AsyncGenerator[Piece]:
        words = (self.says or asked.prompt).split()
        for number, word in enumerate(words[: asked.tokens_max]):
            if number == self.fails_after:
                raise Rejected(Reason.BUSY, "its worker was lost")
            yield Piece(word + " ", 1)
            await trio.lowlevel.checkpoint()
        if self.waits_for_ever:
            await trio.sleep_forever()
        yield Piece("", 0)

    def alerts(self) -> list[dict[str, Any]]:
        return self.firing

    def badge(self) -> dict[str, Any]:
        return badge_facts()

    def answers(self, first: int = 0) -> list[dict[str, Any]]:
        return self.kept_answers[first:]

    def answer(self, name: Digest) -> dict[str, Any] | None:
        return RECEIPT if name.hex() == ANSWER["answer"] else None

    def answer_record(self, name: Digest) -> bytes | None:
        return encode(answer_record()) if name.hex() == ANSWER["answer"] else None

    async def audit_answer(self, record: bytes) -> dict[str, Any]:
        check_answer_record(decode(AnswerRecord, record, limit_bytes=ANSWER_RECORD_BYTES_MAX))
        return self.audited

    def request_stop(self) -> None:
        self.is_stopping = True
