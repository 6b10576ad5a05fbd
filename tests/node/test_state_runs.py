"""A bucket that somebody made larger than any answer, given and fetched as nodes do, with rows on both sides."""

from __future__ import annotations

import random
from functools import partial

import pytest

from node.checkpoints import CheckpointManifest
from node.services.state_server import OpenedCheckpoint
from node.state_rows import digests_below, fetched_parts, keep_part, keep_split, scan_state, state_key
from node.state_runs import BucketRuns
from protocol.codec import decode, encode
from protocol.ids import Height
from protocol.limits import FRAME_BYTES_MAX, STATE_ENTRY_BYTES_MAX
from protocol.rejection import Rejected
from protocol.state_proof import SubChain
from protocol.state_sync import Children, Entries, GetChildren, Span, children_of
from storage.kv import Batch, KeyValue, MemoryKeyValue
from storage.state_sync import Answered, Ask, Finished, Keep, Report, SourceFound, Split, StateSync, Target
from tests.consensus.ledger_samples import GENESIS
from tests.node.test_checkpoints import light_block
from tests.storage.test_state_sync import FULL, GROUND, PEERS, Rows, State, answered, fill


def write(rows: Rows) -> KeyValue:
    index, batch = MemoryKeyValue(), Batch()
    for row, value in rows.items():
        batch.put(state_key(row), value)
    index.write(batch)
    return index


def checkpoint(state: State, rows: KeyValue) -> OpenedCheckpoint:
    """As a node has opened it that was asked for a part."""
    branches = tuple(state.children(bytes([chain])) for chain in SubChain)
    return OpenedCheckpoint(CheckpointManifest(light_block(8, GENESIS), state.target().sub_roots, branches), rows)


def perform(index: KeyValue, effects: list[Keep | Split]) -> None:
    batch = Batch()
    for effect in effects:
        if isinstance(effect, Keep):
            keep_part(batch, index, effect.name, effect.part.entries, effect.part.checked, effect.digest)
        else:
            keep_split(batch, effect.name, effect.digests)
    index.write(batch)


def fetch(state: State, index: KeyValue, source: OpenedCheckpoint, answers_max: int) -> bool:
    """What one process fetches before it dies after so many answers; whether it was all."""
    machine = StateSync(
        Target(Height(8), state.target().sub_roots), partial(digests_below, index), fetched_parts(index)
    )
    waiting: list[Ask] = []
    event: SourceFound | Answered = SourceFound(PEERS[0])
    for _ in range(answers_max):
        effects = machine.handle(event, 0)
        assert not [each for each in effects if isinstance(each, Report)]
        perform(index, [each for each in effects if isinstance(each, Keep | Split)])
        if any(isinstance(each, Finished) for each in effects):
            return True
        waiting += [each for each in effects if isinstance(each, Ask)]
        ask = waiting.pop()
        if isinstance(ask.request, GetChildren):
            answer = encode(Children(tuple(map(source.children, ask.request.names))))
            event = answered(ask, decode(Children, answer, limit_bytes=FRAME_BYTES_MAX))
        else:
            answer = encode(source.entries(ask.request.names))
            event = answered(ask, decode(Entries, answer, limit_bytes=FRAME_BYTES_MAX))
    return False


@pytest.mark.parametrize("value_bytes", [100, STATE_ENTRY_BYTES_MAX // 3, STATE_ENTRY_BYTES_MAX])
def test_a_bucket_of_any_size_reaches_a_newcomer(value_bytes: int) -> None:
    """Up to nine megabytes in entries as large as may be, killed after every few answers; each answer is one frame."""
    state = State(fill(random.Random(value_bytes), value_bytes=value_bytes))
    source, index = checkpoint(state, write(state.rows)), MemoryKeyValue()
    for _ in range(40):
        if fetch(state, index, source, 12):
            break
    else:
        raise AssertionError("not finished")
    assert dict(scan_state(index)) == state.rows
    assert fetch(state, index, source, 12)


def test_runs_are_what_the_bucket_says_of_them() -> None:
    """Digests and entries of every name, computed from rows in one pass, beside those computed from all entries."""
    state = State(fill(random.Random(1)))
    runs = BucketRuns(write(state.rows), FULL)
    assert runs.count == len(GROUND)
    assert runs.children(FULL) == state.children(FULL)
    for name in children_of(FULL, Span.of(FULL, runs.count).children):
        assert tuple(runs.entries(name)) == state.piece(name)
        with pytest.raises(Rejected, match="below a run"):
            runs.children(name)
    with pytest.raises(Rejected, match="has no"):
        runs.entries(FULL + bytes([9]))
    with pytest.raises(Rejected, match="nothing is below"):
        BucketRuns(write({}), FULL)
