"""Fetching a state by parts: a machine that asks, sources that answer rightly, wrongly, late or not at all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.digest import Domain, digest, number
from protocol.ids import Digest, Height, PeerId
from protocol.limits import STATE_ANSWER_BYTES_MAX
from protocol.merkle import merkle_root
from protocol.rejection import Rejected
from protocol.state_proof import SubChain, bucket_digest, entry_leaf, key_digest, value_digest
from protocol.state_sync import (
    BUCKET_NAME_BYTES,
    BUCKET_SHAPE,
    EMPTY,
    BucketShape,
    CheckedEntries,
    Children,
    Entries,
    GetChildren,
    GetEntries,
    Span,
    StateEntry,
    buckets_of_leaves,
    check_bucket,
    children_of,
    leaves_of,
    node_of_buckets,
    pack_bucket,
)
from storage.state_sync import (
    HEDGE_AT_END_MS,
    HEDGE_MS,
    QUESTIONS_MAX,
    QUESTIONS_PER_SOURCE_MAX,
    Answered,
    Ask,
    Effect,
    Event,
    Finished,
    Keep,
    ProvedEntries,
    ProvedPart,
    Report,
    Retargeted,
    SourceFound,
    SourceLost,
    Split,
    StateSync,
    Target,
    Ticked,
    Unanswered,
    prove_entries,
)

Rows = dict[bytes, bytes]  # chain | key -> value
PEERS = [PeerId(digest(Domain.ACCOUNT, b"source" + number(index))) for index in range(9)]


def place(row: bytes) -> bytes:
    """The sub-chain and H(key) of a row: every name above it is a beginning of this."""
    return row[:1] + key_digest(row[1:])


class State:
    """A state as a test holds it: rows, by place."""

    def __init__(self, rows: Rows, shape: BucketShape = BUCKET_SHAPE) -> None:
        self.rows = rows
        self.shape = shape
        self.by_place = sorted((place(row), row) for row in rows)

    def entries(self, name: bytes) -> tuple[StateEntry, ...]:
        found = (row for at, row in self.by_place if at[: len(name)] == name)
        return tuple(StateEntry(row[1:], self.rows[row]) for row in found)

    def digest(self, name: bytes) -> Digest:
        leaves = [
            (key_digest(each.key), entry_leaf(key_digest(each.key), value_digest(each.value)))
            for each in self.entries(name)
        ]
        return node_of_buckets(name, buckets_of_leaves(name[:1], leaves))

    def node(self, name: bytes) -> Digest:
        """The digest of a name, below a bucket too."""
        if len(name) <= BUCKET_NAME_BYTES:
            return self.digest(name)
        return merkle_root([leaf for _, leaf in leaves_of(self.piece(name))])

    def piece(self, name: bytes) -> tuple[StateEntry, ...]:
        whole = self.entries(name[:BUCKET_NAME_BYTES])
        span = Span.of(name, len(whole), self.shape)
        return whole[span.first : span.stop]

    def pieces_below(self, name: bytes) -> bytes:
        count = len(self.entries(name[:BUCKET_NAME_BYTES]))
        digests = [self.node(child) for child in children_of(name, Span.of(name, count, self.shape).children)]
        return pack_bucket(count, digests) if len(name) == BUCKET_NAME_BYTES else b"".join(digests)

    def children(self, name: bytes) -> bytes:
        if len(name) >= BUCKET_NAME_BYTES:
            return self.pieces_below(name)
        empty = EMPTY[len(name)]
        held = {at[: len(name) + 1] for at, _ in self.by_place if at[: len(name)] == name}
        return b"".join(self.digest(child) if child in held else empty for child in children_of(name))

    def target(self, height: int = 64) -> Target:
        return Target(Height(height), tuple(self.digest(bytes([chain])) for chain in SubChain))

    def answer(self, request: GetChildren | GetEntries, room: int = STATE_ANSWER_BYTES_MAX) -> Children | Entries:
        if isinstance(request, GetChildren):
            return Children(tuple(map(self.children, request.names)))
        parts: list[tuple[StateEntry, ...] | None] = []
        for name in request.names:
            part = self.entries(name) if len(name) <= BUCKET_NAME_BYTES else self.piece(name)
            size = sum(len(each.key) + len(each.value) for each in part)
            is_run = len(name) > 3 and Span.of(name, len(self.entries(name[:BUCKET_NAME_BYTES])), self.shape).is_run
            if size > room and not (is_run and not parts):
                if not parts:
                    parts.append(None)
                break
            room -= size
            parts.append(part)
        return Entries(tuple(parts))


def make_rows(count: int, seed: int, *, chains: int = 3) -> Rows:
    draw = random.Random(seed)
    return {
        bytes([draw.randrange(chains)]) + draw.randbytes(8): draw.randbytes(draw.randrange(1, 40)) for _ in range(count)
    }


@dataclass
class Disk:
    """What the shell keeps: entries and digests, as ``node/state_rows.py`` does."""

    rows: Rows = field(default_factory=dict)
    digests: dict[bytes, Digest] = field(default_factory=dict)
    files: dict[str, Rows] = field(default_factory=dict)  # which another process has made

    def file(self, proved: ProvedEntries, names: Sequence[bytes], file: str) -> ProvedEntries:
        """The same answer with all its rows in a file."""
        parts = [(name, part) for name, part in zip(names, proved.parts, strict=False) if part is not None]
        self.files[file] = {name[:1] + entry.key: entry.value for name, part in parts for entry in part.entries}
        filed = [
            part and ProvedPart((), CheckedEntries(buckets=part.checked.buckets), part.size_bytes, file)
            for part in proved.parts
        ]
        return ProvedEntries(tuple(filed), proved.refusal)

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Keep):
                if len(effect.name) > BUCKET_NAME_BYTES:
                    self.digests.pop(effect.name[:BUCKET_NAME_BYTES], None)
                    assert not {effect.name[:1] + each.key for each in effect.part.entries} & self.rows.keys()
                else:
                    for row in [row for row in self.rows if place(row)[: len(effect.name)] == effect.name]:
                        del self.rows[row]
                    for name in [name for name in self.digests if name[: len(effect.name)] == effect.name]:
                        del self.digests[name]
                entries = effect.part.entries
                assert [place for place, _ in effect.part.checked.leaves] == [key_digest(each.key) for each in entries]
                self.rows.update({effect.name[:1] + each.key: each.value for each in entries})
                self.rows.update(self.files.get(effect.part.rows_file, {}))
                self.digests[effect.name] = effect.digest
            elif isinstance(effect, Split):
                del self.digests[effect.name]
                self.digests.update(zip(children_of(effect.name), effect.digests, strict=True))

    def machine(self, target: Target, shape: BucketShape = BUCKET_SHAPE) -> StateSync:
        def find_children(name: bytes) -> list[Digest]:
            raw = State(self.rows).children(name)
            return [Digest(raw[at : at + 32]) for at in range(0, len(raw), 32)]

        return StateSync(target, find_children, dict(self.digests), shape)


class Conversation:
    """One machine and its sources. ``behave`` of a source changes its answers; None: it says nothing."""

    def __init__(
        self, target: Target, disk: Disk, seed: int, shape: BucketShape = BUCKET_SHAPE, *, in_files: bool = False
    ) -> None:
        self.in_files = in_files
        self.disk = disk
        self.machine = disk.machine(target, shape)
        self.draw = random.Random(seed)
        self.now_ms = 0
        self.waiting: list[Ask] = []
        self.sent: list[Ask] = []
        self.reported: list[PeerId] = []
        self.finished = False
        self.asked = 0

    def tell(self, event: Event) -> None:
        if isinstance(event, Answered) and isinstance(event.answer, ProvedEntries) and self.in_files:
            (names,) = [ask.request.names for ask in self.sent if ask.number == event.number]
            file = f"{len(self.disk.files)}"
            event = Answered(event.number, self.disk.file(event.answer, names, file))
        if isinstance(event, Retargeted):
            self.waiting.clear()  # whatever is answered to those is ignored
        effects = self.machine.handle(event, self.now_ms)
        self.disk.perform(effects)
        for effect in effects:
            if isinstance(effect, Ask):
                self.waiting.append(effect)
                self.sent.append(effect)
                self.asked += 1
            elif isinstance(effect, Report):
                self.reported.append(effect.peer)
                self.forget(effect.peer)
            elif isinstance(effect, Finished):
                self.finished = True
        of_source = groupby(sorted(ask.peer for ask in self.waiting))
        assert all(len(list(group)) <= QUESTIONS_PER_SOURCE_MAX for _, group in of_source)
        assert len(self.waiting) <= QUESTIONS_MAX

    def forget(self, peer: PeerId) -> None:
        """Whoever is no source any more was asked in vain."""
        self.waiting = [ask for ask in self.waiting if ask.peer != peer]

    def take(self) -> Ask:
        return self.waiting.pop(self.draw.randrange(len(self.waiting)))

    def run(
        self, honest: State, liars: dict[PeerId, str], room: int = STATE_ANSWER_BYTES_MAX, steps: int = 5_000
    ) -> None:
        """Answer until the machine is done; it always is, as long as one source is honest."""
        for _ in range(steps):
            if self.finished:
                return
            open_asks = [ask for ask in self.waiting if liars.get(ask.peer) != "silent"]
            if not open_asks:
                self.now_ms += HEDGE_MS
                self.tell(Ticked())
                continue
            ask = self.draw.choice(open_asks)
            self.waiting.remove(ask)
            if liars.get(ask.peer) == "absent":
                self.forget(ask.peer)
            self.tell(self.answer(ask, honest, liars.get(ask.peer, "honest"), room))
        raise AssertionError(f"not finished: {self.machine.progress}")

    def answer(self, ask: Ask, honest: State, kind: str, room: int) -> Event:
        if kind == "absent":
            return Unanswered(ask.number, is_absent=True)
        if kind == "fails":
            return Unanswered(ask.number)
        answer = honest.answer(ask.request, room)
        return answered(ask, answer if kind == "honest" else spoil(answer, kind, self.draw))


def answered(ask: Ask, answer: Children | Entries) -> Answered:
    """As the shell tells of it."""
    if isinstance(answer, Children):
        return Answered(ask.number, answer)
    return Answered(ask.number, prove_entries(ask.request.names, ask.digests, answer))


def spoil(answer: Children | Entries, kind: str, draw: random.Random) -> Children | Entries:
    """A wrong answer in the form of a right one."""
    if isinstance(answer, Children):
        flipped = bytearray(answer.digests[-1])
        flipped[draw.randrange(len(flipped))] ^= 1
        return Children((*answer.digests[:-1], bytes(flipped)))
    *first, last = answer.parts
    entries = list(last or ())
    if kind == "drops" and entries:
        del entries[draw.randrange(len(entries))]
    elif kind == "adds":
        entries.append(StateEntry(b"a" + draw.randbytes(32), b"\x00"))
    elif kind == "changes" and entries:
        at = draw.randrange(len(entries))
        entries[at] = replace_entry(entries[at])
    elif kind == "other":
        return Children((bytes(8192),))
    else:
        entries = [*reversed(entries), StateEntry(b"x", b"y")]
    return Entries((*first, tuple(entries)))


def replace_entry(entry: StateEntry) -> StateEntry:
    return StateEntry(entry.key, entry.value + b"\x00")


LIES = ("drops", "adds", "changes", "other", "reorders", "silent", "absent", "fails")


@settings(max_examples=15)
@given(
    count=st.integers(0, 120),
    seed=st.integers(0, 2**32),
    kinds=st.lists(st.sampled_from(LIES), max_size=3),
    room=st.sampled_from([200, 2_000, STATE_ANSWER_BYTES_MAX]),
    in_files=st.booleans(),
)
def test_a_state_is_fetched_whole_whatever_a_third_of_its_sources_says(
    count: int, seed: int, kinds: list[str], room: int, in_files: bool
) -> None:
    """Byte for byte, from sources of which some are honest; who lied is reported, and nobody else."""
    honest, disk = State(make_rows(count, seed)), Disk()
    talk = Conversation(honest.target(), disk, seed, in_files=in_files)
    liars = dict(zip(PEERS, kinds, strict=False))
    for peer in PEERS:
        talk.tell(SourceFound(peer))
    talk.run(honest, liars, room)
    assert disk.rows == honest.rows
    wrong = {peer for peer, kind in liars.items() if kind not in ("silent", "absent", "fails")}
    assert set(talk.reported) <= wrong
    assert len(talk.reported) == len(set(talk.reported))


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**32),
    changed=st.integers(0, 60),
    removed=st.integers(0, 60),
    cut=st.integers(0, 40),
    in_files=st.booleans(),
)
def test_what_was_proved_stays_when_the_target_changes(
    seed: int, changed: int, removed: int, cut: int, in_files: bool
) -> None:
    """Halfway, killed and begun again with a newer state: what is the same in both is not fetched twice."""
    draw = random.Random(seed)
    before = State(make_rows(150, seed))
    rows = dict(before.rows)
    for row in draw.sample(sorted(rows), removed):
        del rows[row]
    for row in draw.sample(sorted(rows), changed):
        rows[row] = draw.randbytes(5)
    after = State(rows)
    disk = Disk()
    first = Conversation(before.target(), disk, seed, in_files=in_files)
    for peer in PEERS:
        first.tell(SourceFound(peer))
    for _ in range(cut):
        if first.waiting:
            ask = first.take()
            first.tell(answered(ask, before.answer(ask.request, 1_000)))
    kept = dict(disk.digests)
    first.tell(Retargeted(after.target(128)))
    late = Conversation(after.target(128), disk, seed, in_files=in_files)  # as a new process
    for peer in PEERS:
        late.tell(SourceFound(peer))
    asked = [name for ask in late.waiting if isinstance(ask.request, GetEntries) for name in ask.request.names]
    assert not [name for name in asked if kept.get(name) == after.digest(name)]
    late.run(after, {}, 1_000)
    assert disk.rows == after.rows


def test_nothing_is_fetched_of_what_is_here_already() -> None:
    """The same state again costs one question for each sub-chain that is not empty."""
    state, disk = State(make_rows(200, 1)), Disk()
    for _ in range(2):
        talk = Conversation(state.target(), disk, 3)
        talk.tell(SourceFound(PEERS[0]))
        talk.run(state, {})
    assert talk.asked == 1
    assert disk.rows == state.rows


def test_an_empty_state_needs_nobody() -> None:
    """Nothing is to be fetched, and what was there before goes."""
    disk = Disk()
    full = State(make_rows(50, 4))
    talk = Conversation(full.target(), disk, 4)
    talk.tell(SourceFound(PEERS[0]))
    talk.run(full, {})
    nothing = Conversation(State({}).target(), disk, 4)
    nothing.tell(Ticked())
    assert nothing.finished
    assert disk.rows == {}


def test_a_slow_source_is_overtaken_and_still_heard() -> None:
    """Another one is asked after a while; whichever answers first counts, and the other does no harm."""
    state, disk = State(make_rows(100, 5)), Disk()
    talk = Conversation(state.target(), disk, 5)
    talk.tell(SourceFound(PEERS[0]))
    (slow,) = talk.waiting
    talk.tell(SourceFound(PEERS[1]))
    assert len(talk.waiting) == 1
    talk.now_ms = HEDGE_AT_END_MS - 1
    talk.tell(Ticked())
    assert talk.waiting == [slow]
    talk.now_ms += 1
    talk.tell(Ticked())
    assert [ask.peer for ask in talk.waiting] == [PEERS[0], PEERS[1]]
    talk.waiting.remove(slow)
    talk.tell(answered(slow, state.answer(slow.request)))
    assert not talk.reported
    talk.run(state, {})
    assert disk.rows == state.rows


def test_a_file_of_which_a_part_is_here_in_pieces_is_not_taken() -> None:
    """Somebody called a bucket too large, so its runs are fetched: a late file would bring rows that nothing stands for."""
    state, disk = State(make_rows(12, 5, chains=1)), Disk()
    talk = Conversation(state.target(), disk, 5, in_files=True)
    talk.tell(SourceFound(PEERS[0]))

    def answer(ask: Ask) -> None:
        talk.waiting.remove(ask)
        talk.tell(answered(ask, state.answer(ask.request)))

    def refuse(ask: Ask) -> None:
        talk.waiting.remove(ask)
        talk.tell(Answered(ask.number, ProvedEntries((None,))))

    def children_asked() -> list[Ask]:
        return [ask for ask in talk.waiting if isinstance(ask.request, GetChildren)]

    answer(talk.waiting[0])
    refuse(talk.waiting[0])
    answer(*children_asked())  # from here on buckets are asked for
    late = talk.waiting[-1]
    assert [len(name) for name in late.request.names] == [BUCKET_NAME_BYTES] * len(late.request.names)
    for time_ms in (HEDGE_MS, 2 * HEDGE_MS):
        talk.now_ms = time_ms
        talk.tell(Ticked())
    for peer in PEERS[1:]:
        talk.tell(SourceFound(peer))
    refuse(next(ask for ask in talk.waiting if ask != late and ask.request.names[0] in late.request.names))
    answer(*children_asked())
    before = dict(disk.rows)
    answer(late)
    assert disk.rows == before
    talk.run(state, {})
    assert disk.rows == state.rows


def test_what_a_lost_source_was_asked_others_are_asked() -> None:
    """Nobody waits for who is gone."""
    state, disk = State(make_rows(100, 6)), Disk()
    talk = Conversation(state.target(), disk, 6)
    talk.tell(SourceFound(PEERS[0]))
    talk.waiting.clear()
    talk.tell(SourceLost(PEERS[0]))
    talk.tell(SourceFound(PEERS[1]))
    talk.run(state, {})
    assert disk.rows == state.rows


@pytest.mark.parametrize("kind", ["drops", "adds", "changes", "other", "reorders"])
def test_a_liar_is_found_out_by_its_first_lie(kind: str) -> None:
    """It is asked nothing more, and what it said rightly before stays."""
    state, disk = State(make_rows(300, 7, chains=1)), Disk()
    talk = Conversation(state.target(), disk, 7)
    talk.tell(SourceFound(PEERS[0]))
    ask = talk.take()
    talk.tell(answered(ask, state.answer(ask.request)))
    ask = talk.take()
    talk.tell(answered(ask, spoil(state.answer(ask.request), kind, talk.draw)))
    assert talk.reported == [PEERS[0]]
    kept = dict(disk.rows)
    talk.waiting.clear()
    talk.tell(SourceFound(PEERS[0]))
    assert not talk.waiting
    talk.tell(SourceFound(PEERS[1]))
    talk.run(state, {})
    assert disk.rows == state.rows
    assert kept.items() <= state.rows.items()


# -- one bucket that somebody filled --------------------------------------------------------------------------------------

# Numbers of four bytes of which the digests begin with two zeros: found by trying.
GROUND = (
    4756, 97463, 170784, 219759, 259539, 318311, 371135, 387023, 417567, 457733, 532842, 581155, 619929, 799758,
    867621, 903793, 930863, 967232, 1064862, 1092303, 1094674, 1170457, 1400466, 1402860, 1405223, 1456681, 1539997,
    1601508, 1701636, 1791303, 1868924, 1908408, 1946062, 1978952, 2047485, 2264033, 2286306, 2293843, 2332210,
    2412553, 2502712, 2592265, 2617215, 2828292, 2882642, 2967947, 2993155, 2999199, 2999995, 3371088, 3470161,
    3537884, 3627140, 3652171, 3695061, 3770842, 3794213, 3905251, 3970461, 4096466, 4102357, 4274013, 4289826,
    4338893, 4485997, 4504272, 4531478, 4589314, 4615377, 4677564, 4680321, 4688617, 4803595, 4869887, 4904716,
    4942164, 5134686, 5137859, 5232668, 5271562, 5297373, 5298019, 5304479, 5329000, 5358065, 5415116, 5479514,
    5483167, 5498526, 5512548, 5559324, 5622944, 5663208, 5733886, 5779756, 5798984, 5897520, 5925852, 5944472,
    5989428, 6004788, 6005637, 6009881, 6202156, 6204840, 6205918, 6287760, 6397013, 6417951, 6591261, 6598388,
    6693014, 6928444, 7000819, 7120969, 7134244, 7189866, 7249770, 7273470, 7343640, 7524347, 7611118, 7617214,
    7629390, 7724107, 7875109, 7924252, 7969642, 7977505, 8016158, 8063303, 8146540, 8148972, 8225819, 8227939,
    8371596, 8532454, 8533412, 8647161, 8662226,
)  # fmt: skip
FULL = bytes([1, 0, 0])  # their bucket


def fill(draw: random.Random, count: int = len(GROUND), *, value_bytes: int = 40) -> Rows:
    """A state of which one bucket has more entries than the others."""
    filled = {bytes([1]) + key.to_bytes(4, "big"): draw.randbytes(value_bytes) for key in GROUND[:count]}
    return filled | make_rows(30, draw.getrandbits(32))


# One level a byte and runs of two: 29 entries are as deep as half a million are with the shape that is used.
DEEP = (29, BucketShape(1, 1))
FLAT = (len(GROUND), BUCKET_SHAPE)


def test_the_keys_stand_in_one_bucket() -> None:
    """As the comment says; three runs and more."""
    assert {key_digest(key.to_bytes(4, "big"))[:2] for key in GROUND} == {bytes(2)}
    assert len(GROUND) > 2 * 64


@pytest.mark.parametrize(("count", "shape"), [FLAT, DEEP], ids=["runs of 64", "runs of 2"])
@pytest.mark.parametrize("room", [1, 300, 900])
def test_a_bucket_that_is_too_large_for_an_answer_is_fetched_by_runs(count: int, shape: BucketShape, room: int) -> None:
    """Byte for byte, and known as here when it is begun again, whoever lies on the way."""
    state, disk = State(fill(random.Random(room), count), shape), Disk()
    liars = dict(zip(PEERS, ("drops", "silent", "changes", "fails", "adds"), strict=False))
    for steps in range(2):
        talk = Conversation(state.target(), disk, room, shape)
        for peer in PEERS:
            talk.tell(SourceFound(peer))
        asked = [name for ask in talk.waiting for name in ask.request.names if isinstance(ask.request, GetEntries)]
        assert not (steps and [name for name in asked if name != FULL])
        talk.run(state, liars, room)
        assert disk.rows == state.rows
        assert any(len(name) > BUCKET_NAME_BYTES for name in disk.digests)
        progress = talk.machine.progress
        assert progress.parts == progress.parts_kept > 0


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), cut=st.integers(0, 60), is_changed=st.booleans())
def test_runs_stay_when_a_process_ends_and_go_when_their_bucket_changes(seed: int, cut: int, is_changed: bool) -> None:
    """Killed somewhere in the middle of a large bucket, begun again with the same state or a newer one."""
    draw = random.Random(seed)
    before, disk = State(fill(draw)), Disk()
    first = Conversation(before.target(), disk, seed)
    for peer in PEERS[:3]:
        first.tell(SourceFound(peer))
    for _ in range(cut):
        if first.waiting and not first.finished:
            ask = first.take()
            first.tell(answered(ask, before.answer(ask.request, 500)))
    rows = dict(before.rows)
    if is_changed:
        rows.pop(bytes([1]) + draw.choice(GROUND).to_bytes(4, "big"))
    after = State(rows)
    kept = [name for name in disk.digests if len(name) > BUCKET_NAME_BYTES]
    late = Conversation(after.target(128), disk, seed)
    asked: list[bytes] = []
    for peer in PEERS[:3]:
        late.tell(SourceFound(peer))
    while not late.finished:
        ask = late.take()
        asked += ask.request.names if isinstance(ask.request, GetEntries) else ()
        late.tell(answered(ask, after.answer(ask.request, 500)))
    assert disk.rows == after.rows
    if not is_changed:
        assert not [name for name in kept if name in asked]


@given(count=st.integers(1, 40_000), data=st.data())
@settings(max_examples=20, deadline=None)
def test_every_name_below_a_bucket_has_the_digest_that_its_children_and_its_entries_give(
    count: int, data: st.DataObject
) -> None:
    """From the bucket down to a run: whoever checks a level has checked what is below it."""
    leaves = [digest(Domain.ACCOUNT, number(index)) for index in range(count)]
    name, span, stands_for = FULL, Span.of(FULL, count), merkle_root(leaves)
    while True:
        span = Span.of(name, count)
        assert stands_for == merkle_root(leaves[span.first : span.stop])
        if span.is_run:
            assert span.stop - span.first <= 64
            break
        spans = [Span.of(child, count) for child in children_of(name, span.children)]
        assert [each.first for each in spans] == list(range(span.first, span.stop, span.child_entries))
        children = [merkle_root(leaves[each.first : each.stop]) for each in spans]
        assert merkle_root(children) == stands_for
        if name == FULL:
            packed = pack_bucket(count, children)
            assert check_bucket(FULL, packed, bucket_digest(count, stands_for)) == (count, tuple(children))
            for wrong in (pack_bucket(count + 1, children), packed[:-32], packed + bytes(32), b""):
                with pytest.raises(Rejected):
                    check_bucket(FULL, wrong, bucket_digest(count, stands_for))
        chosen = data.draw(st.integers(0, len(children) - 1))
        name, stands_for = name + bytes([chosen]), children[chosen]
        with pytest.raises(Rejected):
            Span.of(name[:-1] + bytes([255]) + bytes(4), count)
