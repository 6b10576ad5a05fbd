"""What the API may see and ask of the node. Reads look at immutable state and need no door; nothing here blocks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Final, NamedTuple, Protocol

import msgspec
from msgspec import Meta
from prometheus_client.core import Metric

from protocol.ids import AccountId, Digest, PeerId
from protocol.limits import ANSWER_TOKENS_MAX

Facts = Mapping[str, Any]
"""One JSON object; the fields of each are listed with its method. Times end in their unit, losses are nats per byte."""

PROMPT_CHARACTERS_MAX: Final = 12_000

ANSWERS_SHOWN_MAX: Final = 64


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text that is to be continued, and how (``compute.sampling.Sampling``). It is what POST /generate takes, too."""

    prompt: Annotated[str, Meta(max_length=PROMPT_CHARACTERS_MAX)]
    tokens_max: Annotated[int, Meta(ge=1, le=ANSWER_TOKENS_MAX)] = 128
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.8
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0


class Piece(NamedTuple):
    """What a token adds to a text, often nothing: a character has up to four. The last piece, the end, is no token."""

    text: str
    tokens: int


class Answer(Protocol):
    """A text that goes on: its pieces, one after the other, and what this node signs about what was read of it."""

    def __aiter__(self) -> AsyncIterator[Piece]:
        """Raises ``Rejected`` where it cannot go on."""
        ...

    async def receipt(self) -> Facts:
        """answer (its name), tokens (with the end), commitment, signature: ``protocol.answers.AnswerReceipt``."""
        ...


class ChainFacts(Protocol):
    """What the routes under /consensus ask: ``node.chain_view.ChainView``, whose methods list the fields of each answer."""

    def status(self) -> Facts: ...

    def block(self, height: int, first: int = 0) -> Facts | None: ...

    def transaction(self, name: Digest) -> Facts | None: ...

    async def proof(self, key: str) -> Facts: ...

    def epoch(self) -> Facts: ...

    def kept(self, first: int = 0) -> Facts: ...

    def account(self, account: AccountId) -> Facts: ...

    def validators(self) -> Sequence[Facts]: ...

    def validator(self, node: PeerId) -> Facts | None: ...

    async def submit(self, data: bytes) -> Facts:
        """Take a signed transaction; raises ``Rejected``."""
        ...

    async def register(self, data: bytes) -> Facts:
        """The same, for the registration of a validator only."""
        ...


class NodeView(Protocol):
    """Implemented by the node; tests hand over a fake."""

    @property
    def chain(self) -> ChainFacts:
        """The chain's side of it."""
        ...

    def status(self) -> Facts:
        """peer, short, network, network_id (hex), state, detail (one sentence), member, roster, reachable, quorum, connected,
        round, rounds (closed), height, view, tokens, tokens_per_second, val_loss or None, tiles, tiles_owned,
        lagging [{tile, version, round, reason}], takeovers, rejected {code: count}, bytes_sent, bytes_received, device, tier,
        uptime_seconds, verified_seconds_ago or None, storage_bytes, version."""
        ...

    def state_sync(self) -> Facts:
        """See ``node.sync_facts.join_facts``; while a state is fetched and after."""
        ...

    def checkpoints(self) -> Sequence[Facts]:
        """See ``node.sync_facts.checkpoint_facts``: what this node gives to whoever joins."""
        ...

    def rounds(self) -> Sequence[Facts]:
        """Oldest first: round, opened_ms, closed_ms or None, tiles_advanced, tiles, lagging, takeovers, val_loss or None,
        tokens, delta_float32_bytes, delta_payload_bytes, bytes_sent, owners {short: tiles}, merged_deltas."""
        ...

    def round_slots(self, round: int) -> Facts | None:
        """{"round", "slots": {tile: [version, root in hex]}}; None for a round of which nothing is kept."""
        ...

    def tiles(self) -> Sequence[Facts]:
        """tile, version, base (whose file it rests on), root, owner (short), attempt, round, values, deltas, learners
        (short), tokens."""
        ...

    def peers(self) -> Sequence[Facts]:
        """peer, short, addresses, connected, member, rtt_ms, clock_offset_ms, score, fetched_bytes, region, device, round,
        height."""
        ...

    def custody(self) -> Facts:
        """What this node keeps for everybody: blobs [{what, blob, size_bytes, tiles, epoch, kept_until or None, cells (here),
        missing, fetched_bytes}], cells, bytes, votes, recorded (by this node), fetched_bytes (to keep cells or to read),
        sampled_bytes, given_bytes, rebuilt_tiles, answered (leaves that the chain asked for), audits, audits_failed,
        samples, samples_lost, faults {peer (short): what it did not show}."""
        ...

    async def read_kept(self, blob: Digest, tile: int) -> bytes:
        """One tile of a recorded blob, from any cells that are enough. Raises ``Rejected`` (NOT_FOUND, TOO_FEW_CELLS)."""
        ...

    def health(self) -> tuple[bool, Sequence[str]]:
        """Whether something was verified recently; if not, why, in sentences."""
        ...

    def alerts(self) -> Sequence[Facts]:
        """What deserves attention now, the worst first: ``node.alerts.Firing.facts``."""
        ...

    def metrics(self) -> Iterable[Metric]:
        """See `node.metrics`: those of the node and those of the chain."""
        ...

    def model(self) -> Facts:
        """What answers: id (the network's name), network_id (hex), created (seconds since 1970), context (tokens), parameters,
        round (whose versions are the newest), experts (``here``, ``elsewhere`` or ``none``)."""
        ...

    def experts(self) -> Sequence[Facts]:
        """expert, layer, tiles, bytes, version_min, version_max (of its tiles, None without all), layer by layer."""
        ...

    def expert_calls(self) -> Facts:
        """served {served, waiting, given_bytes} for peers. Where experts are elsewhere also called and checks, the fields of
        ``compute.expert_caller.CallingStatistics`` and ``compute.spot_checks.SpotCheckStatistics``, else None; and holders
        [{peer, short, able (is here, and computes), quarantined_seconds or None, and the fields of
        ``compute.spot_checks.Record``}]."""
        ...

    def quarantine(self, peer: PeerId) -> None:
        """Ask a peer for no expert for five minutes; raises ``Rejected(NOT_FOUND)`` where no peer is asked."""
        ...

    def recover(self, peer: PeerId) -> None:
        """Ask it again at once; raises as ``quarantine``."""
        ...

    def generate(self, asked: Asked) -> AbstractAsyncContextManager[Answer]:
        """The text that follows, piece by piece. Leaving the context stops it.

        Raises ``Rejected(BUSY)`` when the node cannot take the work now.
        """
        ...

    def badge(self) -> Facts:
        """What this node verified about itself: the fields of ``protocol.badges.Badge``, and badge, the signed bytes (hex)."""
        ...

    def answers(self, first: int = 0) -> Sequence[Facts]:
        """Of the newest ``ANSWERS_SHOWN_MAX`` that are kept, from the ``first`` newest on: answer, began_ms, prompt_tokens,
        tokens."""
        ...

    def answer(self, name: Digest) -> Facts | None:
        """A kept answer: the fields of ``Answer.receipt``, and claim, those of ``protocol.answers.AnswerClaim``."""
        ...

    def answer_record(self, name: Digest) -> bytes | None:
        """The same with prompt and tokens: the bytes of a ``protocol.answers.AnswerRecord``."""
        ...

    async def audit_answer(self, record: bytes) -> Facts:
        """Compute an answer again, whoever gave it: answer, door, began_ms, verdict (``node.services.answer_audit.Verdict``),
        says (in words), tokens, is_ended, others_total, margin_max, others [{place, token, margin}]; margins are in logits,
        None where a token could not be chosen at all. Raises ``Rejected``."""
        ...

    def request_stop(self) -> None:
        """Ask the node to end cleanly; returns at once."""
        ...
