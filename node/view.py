"""What the outside may see of a running node: projections of state and statistics, made when they are asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from compute import tokenizer
from compute.model.layout import expert_group
from compute.spot_checks import Record
from node.alerts import VERIFIED_SECONDS_MAX
from node.api.view import ANSWERS_SHOWN_MAX, Answer, Asked, Facts, Piece
from node.chain_view import ChainView
from node.chain_words import learners, plain, subject_words
from node.metrics import chain_metrics, node_metrics
from node.records import lagging_json
from node.services.answer_audit import Audited
from node.services.answer_receipts import AnswerReceipts, OpenAnswer
from node.services.door import Door
from node.services.expert_client import ExpertClient
from node.sync_facts import checkpoint_facts, join_facts
from protocol.answers import AnswerReceipt, AnswerRecord
from protocol.badges import Badge, sign_badge
from protocol.codec import decode, encode
from protocol.ids import Digest, PeerId, Signature, TileId, peer_text, short
from protocol.limits import ANSWER_RECORD_BYTES_MAX
from protocol.rejection import Reason, Rejected
from protocol.roster import Decided

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.node import Node


class View:
    """The API's side of a node (``node.api.view.NodeView``)."""

    def __init__(self, node: Node) -> None:
        self._node = node
        ground, execution = node.ground, node.engine.execution
        self.chain = ChainView(
            genesis=ground.genesis,
            pool=execution.mempool,
            ledger=ground.ledger,
            index=ground.index,
            state=lambda: execution.state,
            finality=node.engine.finality.statistics,
            roster=lambda: execution.roster,
            now_ms=node.clock.now_ms,
            hand_over=node.submit,
            dropped=node.dropped.find,
            connected=node.transport.connected_peers,
            next_roster=lambda: execution.next_roster,
            me=ground.peer,
        )

    def status(self) -> Facts:
        node = self._node
        ground = node.ground
        rounds = node.engine.rounds.statistics()
        finality = node.engine.finality.statistics()
        wire = node.transport.statistics()
        connected = node.transport.connected_peers()
        device = node.learning.device
        reachable, quorum, members = self._reach()
        state, detail = self._state()
        return {
            "peer": peer_text(ground.peer),
            "short": short(ground.peer),
            "network": ground.genesis.network_name,
            "network_id": ground.network.hex(),
            "state": state,
            "detail": detail,
            "member": node.me is not None,
            "roster": members,
            "reachable": reachable,
            "quorum": quorum,
            "connected": len(connected),
            "round": rounds.round,
            "rounds": rounds.rounds_closed,
            "height": ground.ledger.tip() or 0,
            "view": finality.view,
            "tokens": node.learning.record.tokens_total,
            "tokens_per_second": round(node.learning.tokens_per_second, 1),
            "val_loss": node.records.latest_loss(),
            "tiles": len(ground.genesis_roots),
            "tiles_owned": sum(node.owner(tile) == ground.peer for tile in ground.genesis_roots),
            "lagging": [lagging_json(each) for each in node.lagging.values()],
            "takeovers": rounds.takeovers,
            "rejected": dict(sorted(node.inbound.rejected.items())),
            "bytes_sent": wire.bytes_sent_total,
            "bytes_received": wire.bytes_received_total,
            "device": device.device if device else "",
            "tier": device.tier if device else 0,
            "uptime_seconds": (node.clock.monotonic_ms() - node.started_ms) / 1000,
            "verified_seconds_ago": self._verified_seconds_ago(),
            "storage_bytes": ground.tiles.bytes_used + ground.blobs.bytes_used,
            "version": version("nocknode"),
        }

    def state_sync(self) -> Facts:
        return join_facts(self._node.state_fetch, self._node.backfill)

    def checkpoints(self) -> Sequence[Facts]:
        return checkpoint_facts(self._node.ground.disk)

    def _reach(self) -> tuple[int, int, int]:
        """Members that are reachable, this node included; members that make a quorum; members."""
        ground, roster = self._node.ground, self._node.roster
        connected = self._node.transport.connected_peers()
        reachable = sum(member.node == ground.peer or member.node in connected for member in roster.members)
        return reachable, roster.quorum_members(), len(roster.members)

    def _state(self) -> tuple[str, str]:
        node = self._node
        rounds = node.engine.rounds.statistics()
        if node.phase == "syncing":
            reachable, quorum, members = self._reach()
            waits = f"; {reachable} of {members} roster members are reachable, {quorum} are needed to begin"
            return node.phase, "connecting and catching up" + (waits if reachable < quorum else "")
        if node.phase != "running":
            return node.phase, node.phase
        if rounds.stalled:
            return "stalled", rounds.stalled
        if rounds.done:
            return "done", f"{rounds.rounds_closed} rounds are over; still serving"
        if rounds.learning:
            step, steps = node.learning.step or (0, 0)
            return "learning", f"round {rounds.round}, step {step} of {steps}"
        if rounds.candidate_deltas:
            return "merging", f"round {rounds.round}: {len(rounds.undecided)} tiles are undecided"
        return "waiting", f"round {rounds.round}: {len(rounds.undecided)} tiles are undecided"

    def _verified_seconds_ago(self) -> float | None:
        node = self._node
        return None if node.verified_ms is None else (node.clock.monotonic_ms() - node.verified_ms) / 1000

    def rounds(self) -> Sequence[Facts]:
        node = self._node
        sent = node.transport.statistics().bytes_sent_total
        return [record.as_json(len(node.ground.genesis_roots), sent) for record in node.records.all()]

    def round_slots(self, round: int) -> Facts | None:
        node = self._node
        record = node.records.find(round)
        if record is None:
            return None
        slots = {}
        for tile, decided in sorted(record.heads.items()):
            slots[tile] = [decided.slot.version, self._held_root(tile, decided).hex()]
        return {"round": round, "slots": slots}

    def _held_root(self, tile: TileId, decided: Decided) -> bytes:
        """The root of a decided version as it lies, or lay, on our disk; nothing when it was never applied here."""
        tiles = self._node.ground.tiles
        held = tiles.find(tile, decided.slot.version)
        if held is not None:
            return held.root
        # Older versions are pruned; each was applied before the next, and nothing is applied but to its head's root.
        return decided.head.root if (tiles.newest(tile) or 0) > decided.slot.version else b""

    def tiles(self) -> Sequence[Facts]:
        node = self._node
        rows = []
        for tile, at in sorted(node.tile_heads().items()):
            rows.append(
                {
                    "tile": tile,
                    "version": at.version,
                    "root": held.root.hex() if (held := node.ground.tiles.find(tile, at.version)) else "",
                    "base": held.base if held else None,
                    "owner": short(node.owner(tile)),
                    "attempt": at.head.attempt if at.head else 0,
                    "round": at.head.round if at.head else 0,
                    "values": node.ground.work.tile_map.tile(tile).values,
                    "deltas": at.head.learners if at.head else 0,
                    "learners": learners(at.head) if at.head else [],
                    "tokens": at.head.tokens if at.head else 0,
                }
            )
        return rows

    def peers(self) -> Sequence[Facts]:
        node = self._node
        connected = set(node.transport.connected_peers())
        wire = node.transport.statistics()
        now = node.clock.now_ms()
        known = connected | set(node.inbound.adverts) | {member.node for member in node.roster.members}
        rows = []
        for peer in sorted(known - {node.ground.peer}):
            advert = node.inbound.adverts.find(peer)
            rows.append(
                {
                    "peer": peer_text(peer),
                    "short": short(peer),
                    "addresses": list(advert.addresses if advert else node.transport.known_addresses(peer)),
                    "connected": peer in connected,
                    "member": node.roster.find_index(peer) is not None,
                    "rtt_ms": wire.round_trip_milliseconds.get(peer),
                    "clock_offset_ms": wire.clock_offset_milliseconds,
                    "score": -node.blamed[peer],
                    "fetched_bytes": node.exchange.fetched_bytes[peer],
                    "region": advert.region if advert else "",
                    "device": advert.device if advert else "",
                    "round": advert.round if advert else None,
                    "height": advert.height if advert else None,
                    "advert_age_ms": now - advert.time_ms if advert else None,
                }
            )
        return rows

    def custody(self) -> Facts:
        node = self._node
        keeping, cells, audit = node.keeping, node.ground.cells, node.keeping.audit
        rows = []
        for entry in keeping.upkeep.recorded():
            tiles = entry.geometry.tile_count(entry.size_bytes)
            rows.append(
                {
                    "what": subject_words(entry.subject),
                    "blob": entry.blob.hex(),
                    "size_bytes": entry.size_bytes,
                    "tiles": tiles,
                    "epoch": entry.epoch,
                    "kept_until": entry.kept_until,
                    "cells": sum(len(cells.cells_held(entry.blob, tile)) for tile in range(tiles)),
                    "missing": keeping.upkeep.missing_of(entry.blob),
                    "fetched_bytes": keeping.fetch.fetched_of[entry.blob],
                }
            )
        held, done, looked = cells.statistics(), keeping.statistics(), audit.statistics()
        return {
            "blobs": sorted(rows, key=lambda row: (str(row["what"]), str(row["blob"]))),
            "cells": held.cells,
            "bytes": held.bytes_used,
            "votes": done.votes,
            "recorded": done.recorded,
            "fetched_bytes": done.fetched_bytes,
            "sampled_bytes": done.sampled_bytes,
            "given_bytes": done.given_bytes,
            "rebuilt_tiles": done.rebuilt_tiles,
            "answered": done.answered,
            "audits": looked.audits,
            "audits_failed": looked.audits_failed,
            "samples": looked.samples,
            "samples_lost": looked.samples_lost,
            "faults": {short(peer): count for peer, count in sorted(audit.faults.items())},
        }

    async def read_kept(self, blob: Digest, tile: int) -> bytes:
        return await self._node.keeping.read_tile(blob, tile)

    def health(self) -> tuple[bool, Sequence[str]]:
        state, detail = self._state()
        reasons = []
        if state in ("booting", "syncing", "stalled", "stopping"):
            reasons.append(f"{state}: {detail}")
        ago = self._verified_seconds_ago()
        if self._node.housekeeping.refusal:
            reasons.append(self._node.housekeeping.refusal)
        if ago is None:
            reasons.append("nothing was verified since the start")
        elif ago > VERIFIED_SECONDS_MAX:
            reasons.append(f"nothing was verified for {ago:.0f} s")
        return not reasons, reasons

    def alerts(self) -> Sequence[Facts]:
        return [firing.facts() for firing in self._node.alerts.firing()]

    def metrics(self) -> Iterable[Metric]:
        return self._metrics()

    def _metrics(self) -> Iterator[Metric]:
        node = self._node
        parts = {
            "rounds": node.engine.rounds.statistics(),
            "finality": node.engine.finality.statistics(),
            "execution": node.engine.execution.statistics(),
            "tiles": node.ground.tiles.statistics(),
            "blobs": node.ground.blobs.statistics(),
            "storage": node.housekeeping.statistics(),
            "cells": node.ground.cells.statistics(),
            "keeping": node.keeping.statistics(),
            "audit": node.keeping.audit.statistics(),
            "ledger": node.ground.ledger.statistics(),
            "worker": node.learning.worker.statistics(),
            "experts_served": node.expert_server.statistics(),
        }
        if node.door is not None:
            parts["answers"] = node.door.answering.statistics()
        if node.remote_experts is not None:
            parts["experts_called"] = node.remote_experts.statistics()
            parts["experts_checked"] = node.remote_experts.client.check_statistics()
        yield from node_metrics(self.status(), parts)
        yield from chain_metrics(self.chain.status(), self.chain.members())

    def model(self) -> Facts:
        node, genesis = self._node, self._node.ground.genesis
        return {
            "id": genesis.network_name,
            "network_id": node.ground.network.hex(),
            "created": genesis.created_ms // 1000,
            "context": genesis.model.context,
            "parameters": node.ground.work.tile_map.values,
            "round": self.status()["round"],
            "experts": node.ground.settings.compute.experts if node.door is not None else "none",
        }

    def experts(self) -> Sequence[Facts]:
        ground = self._node.ground
        model, tile_map, newest = ground.genesis.model, ground.work.tile_map, ground.tiles.newest
        told = []
        for layer, expert in itertools.product(range(model.layers), range(model.experts)):
            tiles = tile_map.group_tiles(expert_group(layer, expert))
            versions = [version for tile in tiles if (version := newest(tile.id)) is not None]
            is_whole = len(versions) == len(tiles)
            told.append(
                {
                    "expert": expert_group(layer, expert),
                    "layer": layer,
                    "tiles": len(tiles),
                    "bytes": sum(tile.bytes for tile in tiles),
                    "version_min": min(versions) if is_whole else None,
                    "version_max": max(versions) if is_whole else None,
                }
            )
        return told

    def expert_calls(self) -> Facts:
        served, remote = asdict(self._node.expert_server.statistics()), self._node.remote_experts
        if remote is None:
            return {"served": served, "called": None, "checks": None, "holders": []}
        client = remote.client
        records, quarantined = client.records(), client.quarantined_seconds()
        holders = dict.fromkeys((*remote.holders, *records, *quarantined))
        return {
            "served": served,
            "called": asdict(remote.statistics()),
            "checks": asdict(client.check_statistics()),
            "holders": [
                {
                    "peer": peer_text(peer),
                    "short": short(peer),
                    "able": peer in remote.holders,
                    "quarantined_seconds": quarantined.get(peer),
                    **asdict(records.get(peer, Record())),
                }
                for peer in holders
            ],
        }

    def quarantine(self, peer: PeerId) -> None:
        self._expert_client().quarantine(peer)

    def recover(self, peer: PeerId) -> None:
        self._expert_client().recover(peer)

    def _expert_client(self) -> ExpertClient:
        if self._node.remote_experts is None:
            raise Rejected(Reason.NOT_FOUND, "this node has all experts itself, and asks nobody")
        return self._node.remote_experts.client

    def _door(self) -> Door:
        node = self._node
        if node.door is None:
            raise Rejected(
                Reason.BUSY,
                "this node has no worker to generate with; start it without --no-learn, or with --experts elsewhere",
            )
        if node.learning.device is None:
            raise Rejected(Reason.BUSY, "this node's worker is starting; try again in a moment")
        return node.door

    @asynccontextmanager
    async def generate(self, asked: Asked) -> AsyncIterator[Answer]:
        door = self._door()
        prompt = tokenizer.encode(asked.prompt)
        async with (
            door.answering.generate(prompt, asked.tokens_max, asked.temperature, asked.seed, asked.top_p) as said,
            aclosing(_pieces(said)) as pieces,
        ):
            yield _Answer(pieces, door.receipts, door.receipts.begin(said))

    def badge(self) -> Facts:
        badge = self._badge()
        return {**plain(badge), "badge": encode(badge).hex()}

    def _badge(self) -> Badge:
        node = self._node
        ground, execution, check = node.ground, node.engine.execution, node.self_check
        newest = {tile: held for tile in ground.work.tile_map.ids if (held := ground.tiles.newest(tile)) is not None}
        is_all = len(newest) == len(ground.work.tile_map.ids)
        client = node.remote_experts.client.check_statistics() if node.remote_experts is not None else None
        unsigned = Badge(
            network=ground.network,
            node=ground.peer,
            software=f"nocknode {version('nocknode')}",
            made_ms=node.clock.now_ms(),
            started_ms=node.started_ms,
            height=execution.height,
            state_root=execution.state.root(),
            model=(node.weights.find(newest) if is_all else None) or Digest(bytes(32)),
            tiles=len(ground.work.tile_map.ids),
            tiles_read=check.tiles_read,
            read_since_ms=check.read_since_ms,
            tiles_mended=check.mended,
            answers_checked=client.checked if client is not None else 0,
            answers_wrong=client.wrong if client is not None else 0,
            audits=node.door.audit.audits if node.door is not None else 0,
            audits_wrong=node.door.audit.audits_wrong if node.door is not None else 0,
            signature=Signature(bytes(64)),
        )
        return sign_badge(unsigned, ground.keys.node)

    def answers(self, first: int = 0) -> Sequence[Facts]:
        return [
            {
                "answer": record.receipt.claim.digest().hex(),
                "began_ms": record.receipt.claim.began_ms,
                "prompt_tokens": record.receipt.claim.prompt_tokens,
                "tokens": record.receipt.tokens,
            }
            for record in self._node.answer_book.newest(first, ANSWERS_SHOWN_MAX)
        ]

    def answer(self, name: Digest) -> Facts | None:
        record = self._node.answer_book.find(name)
        if record is None:
            return None
        return {**_receipt_facts(record.receipt), "claim": plain(record.receipt.claim)}

    def answer_record(self, name: Digest) -> bytes | None:
        record = self._node.answer_book.find(name)
        return None if record is None else encode(record)

    async def audit_answer(self, record: bytes) -> Facts:
        said = decode(AnswerRecord, record, limit_bytes=ANSWER_RECORD_BYTES_MAX)
        return _audit_facts(await self._door().audit.audit(said))

    def request_stop(self) -> None:
        self._node.stop_requested.set()


class _Answer:
    """What the API reads of an answer."""

    def __init__(self, pieces: AsyncGenerator[Piece], receipts: AnswerReceipts, answer: OpenAnswer) -> None:
        self._pieces, self._receipts, self._answer = pieces, receipts, answer

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self._pieces

    async def receipt(self) -> Facts:
        return _receipt_facts(await self._receipts.end(self._answer))


def _receipt_facts(receipt: AnswerReceipt) -> Facts:
    return {
        "answer": receipt.claim.digest().hex(),
        "tokens": receipt.tokens,
        "commitment": receipt.commitment.hex(),
        "signature": receipt.signature.hex(),
    }


def _audit_facts(audited: Audited) -> Facts:
    return {
        "answer": audited.answer.hex(),
        "door": peer_text(audited.door),
        "began_ms": audited.began_ms,
        "verdict": audited.verdict.name.lower(),
        "says": audited.verdict.value,
        "tokens": audited.tokens,
        "is_ended": audited.is_ended,
        "others_total": audited.others_total,
        "margin_max": _finite(audited.margin_max),
        "others": [{**asdict(other), "margin": _finite(other.margin)} for other in audited.others],
    }


def _finite(margin: float) -> float | None:
    return margin if math.isfinite(margin) else None


async def _pieces(tokens: AsyncIterator[int]) -> AsyncGenerator[Piece]:
    decoder = tokenizer.StreamDecoder()
    async for token in tokens:
        yield Piece(decoder.push(token), 1)
    yield Piece(decoder.finish(), 0)
