"""A state from many sources, part by part, each proved as it comes: what to ask whom, what to keep, whom to blame. Sans-io.

    SourceFound, SourceLost ---+                        +---> Ask        a question; its number comes back with the answer
    Answered, Unanswered ------+--> StateSync.handle ---+---> Keep       a proved part: it replaces all that is below its name
    Ticked --------------------+    (event, now_ms)     +---> Split      a part that is kept, by its 256 parts from now on
    Retargeted ----------------+                        +---> Report     a source that lied
                                                        +---> Finished   nothing of the target is missing

Digests are known from the root down (``protocol/state_sync.py``), so an answer is proved or refused by itself: a wrong one
costs what was asked, and nothing that was there before. Entries are proved before the machine is told of them
(``prove_entries``), by whoever has a core for it: a question says against which digests. A slow source is not waited for:
after a while another one is asked as well, and the first good answer counts.

What is kept is kept by its digest, not by the state that it came from. When the target changes, because nobody has the old
one any more, whatever is the same in both stays; where a branch differs, only its buckets that differ are fetched. A node that
has an older state of its own goes on from that in the same way.

A bucket that is too large for an answer is emptied and filled run by run. Runs are those of one bucket, whose digest stands for
theirs: when the bucket changes while they come, they are fetched anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from protocol.ids import Digest, Height, PeerId
from protocol.limits import STATE_ANSWER_BYTES_MAX, STATE_CHILDREN_PER_REQUEST_MAX, STATE_NAMES_PER_REQUEST_MAX
from protocol.rejection import Reason, Rejected
from protocol.state_proof import SubChain
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
    bucket_name,
    check_bucket,
    check_children,
    check_entries,
    children_of,
)

QUESTIONS_PER_SOURCE_MAX: Final = 4  # chain.md 4
QUESTIONS_MAX: Final = 16  # 64 MiB of answers in memory (a guess)
HEDGE_MS: Final = 30_000  # chain.md 4: then another source is asked as well
HEDGE_AT_END_MS: Final = 3_000  # 4 MiB over ten megabits a second (a guess)
FAILURES_MAX: Final = 3  # then a source is asked only where there is no better one
FIRST_PARTS: Final = 8  # before anybody knows how large parts are

# -- what comes in, what goes out ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """The state to fetch: of a checkpoint's block, whose header is known to be final. ``sub_roots`` were checked against it."""

    height: Height
    sub_roots: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class SourceFound:
    """Somebody who may have the target."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class SourceLost:
    """The connection is gone."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class ProvedPart:
    """The entries below a name, which lead to its digest. ``size_bytes``: of their keys and values."""

    entries: tuple[StateEntry, ...]  # none where a file has their rows
    checked: CheckedEntries  # what proving them has computed; of those in a file no leaves
    size_bytes: int
    rows_file: str = ""  # which has the rows of this part, and of the others of its answer


@dataclass(frozen=True, slots=True)
class ProvedEntries:
    """The parts of an answer up to the first that is wrong, or that is too large for an answer; and what is wrong."""

    parts: tuple[ProvedPart | None, ...]
    refusal: Rejected | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a question: digests decoded, entries proved."""

    number: int
    answer: Children | ProvedEntries


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No answer. ``is_absent``: because the source does not have the target, for which nobody is to blame."""

    number: int
    is_absent: bool = False


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed: once a second or so."""


@dataclass(frozen=True, slots=True)
class Retargeted:
    """Another checkpoint from now on. Answers to earlier questions are ignored."""

    target: Target


Event = SourceFound | SourceLost | Answered | Unanswered | Ticked | Retargeted


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to one source. ``digests``: what the entries of each name must lead to."""

    number: int
    peer: PeerId
    request: GetChildren | GetEntries
    digests: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Keep:
    """Put these entries in place of all that is below a name, and remember the digest with them, in one batch.

    Below a bucket they are added to what is there, with the bucket's digest, in place of the bucket's own mark.
    """

    name: bytes
    part: ProvedPart
    digest: Digest


@dataclass(frozen=True, slots=True)
class Split:
    """A name whose entries stay: remember the digests of its 256 parts in place of its own."""

    name: bytes
    digests: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A source answered wrongly. It is not asked again."""

    peer: PeerId
    refusal: Rejected


@dataclass(frozen=True, slots=True)
class Finished:
    """All of the target is here."""


Effect = Ask | Keep | Split | Report | Finished


# -- proving --------------------------------------------------------------------------------------------------------------


NO_PART: Final = ProvedPart((), CheckedEntries(), 0)


def prove_entries(names: Sequence[bytes], digests: Sequence[Digest], answer: Entries) -> ProvedEntries:
    """Compare the parts of an answer with the digests of the names that were asked for. Megabytes take a tenth of a second."""
    if len(answer.parts) > len(names):
        return ProvedEntries((), Rejected(Reason.MALFORMED, "not an answer to what was asked"))
    proved: list[ProvedPart | None] = []
    for name, part, expected in zip(names, answer.parts, digests, strict=False):
        if part is None:  # what comes after it is asked for once more
            proved.append(None)
            break
        try:
            checked = check_entries(name, part, expected)
        except Rejected as refusal:
            return ProvedEntries(tuple(proved), refusal)
        proved.append(ProvedPart(part, checked, sum(len(entry.key) + len(entry.value) for entry in part)))
    return ProvedEntries(tuple(proved))


# -- the machine ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Source:
    questions: int = 0
    failures: int = 0
    bytes_given: int = 0


@dataclass(slots=True)
class _Question:
    peer: PeerId
    names: tuple[bytes, ...]
    is_for_children: bool
    since_ms: int
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is: ``parts`` are those of the target that are known to be there, most of which are branches."""

    parts: int
    parts_kept: int
    shares: tuple[tuple[PeerId, int], ...]  # the sources, and the bytes that each has given since it was found
    bytes_fetched: int
    is_finished: bool

    @property
    def sources(self) -> int:
        return len(self.shares)


NO_PROGRESS: Final = Progress(0, 0, (), 0, is_finished=False)


@dataclass(slots=True)
class StateSync:
    """Fetches one state. ``kept``: digests of names whose entries are here, from an earlier run or another state.

    ``find_children`` gives the 256 digests of what is here below a branch, computed from its entries.
    """

    target: Target
    find_children: Callable[[bytes], Sequence[Digest]]
    kept: dict[bytes, Digest]
    shape: BucketShape = BUCKET_SHAPE
    _sources: dict[PeerId, _Source] = field(default_factory=dict)
    _liars: dict[PeerId, None] = field(default_factory=dict)
    _digests: dict[bytes, Digest] = field(default_factory=dict)  # of the target, as far as they are known
    _opened: dict[bytes, None] = field(default_factory=dict)  # names of which the children are known
    _counts: dict[bytes, int] = field(default_factory=dict)  # of buckets that were opened: how many entries
    _pieces: dict[bytes, dict[bytes, None]] = field(
        default_factory=dict
    )  # by bucket: names below it that are in `kept`
    _wanted: dict[bytes, bool] = field(default_factory=dict)  # not here: True for its children, False for its entries
    _free: dict[bool, dict[bytes, None]] = field(
        default_factory=lambda: {True: {}, False: {}}
    )  # of those, not asked for
    _questions: dict[int, _Question] = field(default_factory=dict)
    _number: int = 0
    _parts: int = 0  # names of the target with something below them, of which the children are not known
    _part_bytes: int = STATE_ANSWER_BYTES_MAX // FIRST_PARTS
    _bytes_fetched: int = 0
    _is_finished: bool = False
    _begun: bool = False

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """What follows from an event. Never raises because of an answer."""
        effects: list[Effect] = []
        if not self._begun:
            self._begun = True
            self._begin(effects)
        match event:
            case SourceFound(peer):
                if peer not in self._liars:
                    self._sources.setdefault(peer, _Source())
            case SourceLost(peer):
                self._lose(peer)
            case Answered(number, answer):
                self._take(number, answer, effects)
            case Unanswered(number, is_absent):
                self._fail(number, is_absent)
            case Ticked():
                self._hedge(now_ms)
            case Retargeted(target):
                self.target = target
                self._begin(effects)
        if not self._wanted and not self._is_finished:
            self._is_finished = True
            effects.append(Finished())
        self._ask(now_ms, effects)
        return effects

    @property
    def progress(self) -> Progress:
        shares = tuple((peer, source.bytes_given) for peer, source in self._sources.items())
        kept = self._parts - len(self._wanted)
        return Progress(self._parts, kept, shares, self._bytes_fetched, self._is_finished)

    # -- the target -----------------------------------------------------------------------------------------------------

    def _begin(self, effects: list[Effect]) -> None:
        """From the sub-roots down, whatever was under way."""
        for memory in (self._digests, self._opened, self._counts, self._pieces, self._wanted, self._questions):
            memory.clear()
        for free in self._free.values():
            free.clear()
        for held in self.kept:
            if len(held) > BUCKET_NAME_BYTES:
                self._pieces.setdefault(bucket_name(held), {})[held] = None
        self._parts = 0
        for source in self._sources.values():
            source.questions = 0
        self._is_finished = False
        for chain in SubChain:
            self._expect(bytes([chain]), self.target.sub_roots[chain], effects)

    def _expect(self, name: bytes, digest: Digest, effects: list[Effect]) -> None:
        """A name of the target and its digest: is it here, is there nothing, or is it to be fetched?"""
        self._digests[name] = digest
        if len(name) <= BUCKET_NAME_BYTES and digest == EMPTY[len(name) - 1]:
            if self.kept.get(name) != digest and self._held_below(name):
                self._keep(name, NO_PART, digest, effects)
            return
        self._parts += 1
        if self.kept.get(name) == self._mark(name):
            return
        self._want(name, len(name) == 1 or self._is_begun(name, effects))

    def _is_begun(self, name: bytes, effects: list[Effect]) -> bool:
        """Whether something is here below a name, so that its parts are compared before entries are fetched."""
        if len(name) != BUCKET_NAME_BYTES:
            return bool(self._held_below(name))
        pieces = self._pieces.get(name, {})
        if any(self.kept[piece] != self._digests[name] for piece in pieces):
            self._keep(name, NO_PART, EMPTY[2], effects)  # they are of another bucket than the target's
            return False
        return bool(pieces)

    def _mark(self, name: bytes) -> Digest:
        """What stands for a name that is here: its digest; below a bucket that of the bucket, of which it is a piece."""
        return self._digests[bucket_name(name)]

    def _held_below(self, name: bytes) -> list[bytes]:
        """Names at or below a name of which something was kept, if only that there is nothing."""
        if len(name) == 1:
            return [held for held in self.kept if held[:1] == name]
        if len(name) < BUCKET_NAME_BYTES:
            pieces = [piece for bucket, held in self._pieces.items() if bucket.startswith(name) for piece in held]
            return [held for held in (name, *children_of(name)) if held in self.kept] + pieces
        pieces = [piece for piece in self._pieces.get(bucket_name(name), {}) if piece.startswith(name)]
        return [name, *pieces] if len(name) == BUCKET_NAME_BYTES and name in self.kept else pieces

    def _keep(self, name: bytes, part: ProvedPart, digest: Digest, effects: list[Effect]) -> None:
        for held in self._held_below(name):
            del self.kept[held]
            self._pieces.get(bucket_name(held), {}).pop(held, None)
        if len(name) > BUCKET_NAME_BYTES:
            self.kept.pop(bucket_name(name), None)
            self._pieces.setdefault(bucket_name(name), {})[name] = None
        self.kept[name] = digest
        effects.append(Keep(name, part, digest))

    # -- what is missing ------------------------------------------------------------------------------------------------

    def _want(self, name: bytes, for_children: bool) -> None:
        """A name is to be fetched; nobody was asked for it yet."""
        self._wanted[name] = for_children
        self._free[for_children][name] = None
        self._free[not for_children].pop(name, None)

    def _have(self, name: bytes) -> None:
        """A name is missing no more."""
        self._free[self._wanted.pop(name)].pop(name, None)

    # -- sources --------------------------------------------------------------------------------------------------------

    def _lose(self, peer: PeerId) -> None:
        """Forget a source, and ask others what it was asked."""
        self._sources.pop(peer, None)
        for number in [number for number, question in self._questions.items() if question.peer == peer]:
            self._release(self._questions.pop(number))

    def _release(self, question: _Question) -> None:
        """A question is over, or is not waited for any longer: others may be asked for its names."""
        if not question.is_late:
            for name in question.names:
                if name in self._wanted:
                    self._free[self._wanted[name]][name] = None

    def _end(self, number: int) -> _Question | None:
        question = self._questions.pop(number, None)
        if question is not None:
            self._release(question)
            if (source := self._sources.get(question.peer)) is not None:
                source.questions -= 1
        return question

    def _fail(self, number: int, is_absent: bool) -> None:
        question = self._end(number)
        if question is None:
            return
        source = self._sources.get(question.peer)
        if is_absent:
            self._lose(question.peer)
        elif source is not None:
            source.failures += 1

    def _hedge(self, now_ms: int) -> None:
        """Let others answer what somebody was asked long ago; not so long, where there is nothing else to ask.

        Its own answer is still welcome.
        """
        is_end = not any(self._free.values())
        for question in self._questions.values():
            waited_ms = now_ms - question.since_ms
            if not question.is_late and waited_ms >= (HEDGE_AT_END_MS if is_end else HEDGE_MS):
                self._release(question)
                question.is_late = True
                self._sources[question.peer].failures += 1

    # -- answers --------------------------------------------------------------------------------------------------------

    def _take(self, number: int, answer: Children | ProvedEntries, effects: list[Effect]) -> None:
        question = self._end(number)
        if question is None:
            return
        try:
            size_bytes = self._take_answer(question, answer, effects)
        except Rejected as refusal:
            self._liars[question.peer] = None
            self._lose(question.peer)
            effects.append(Report(question.peer, refusal))
            return
        self._bytes_fetched += size_bytes
        if (source := self._sources.get(question.peer)) is not None:
            source.failures = 0
            source.bytes_given += size_bytes

    def _take_answer(self, question: _Question, answer: Children | ProvedEntries, effects: list[Effect]) -> int:
        """Keep what an answer proves, up to what is wrong in it; returns its bytes. Raises ``Rejected``."""
        if isinstance(answer, ProvedEntries) and answer.refusal is not None and not answer.parts:
            raise answer.refusal
        if question.is_for_children:
            if not isinstance(answer, Children) or len(answer.digests) != len(question.names):
                raise Rejected(Reason.MALFORMED, "not an answer to what was asked")
            for name, digests in zip(question.names, answer.digests, strict=True):
                self._take_children(name, digests, effects)
            return sum(map(len, answer.digests))
        if not isinstance(answer, ProvedEntries) or not answer.parts:
            raise Rejected(Reason.MALFORMED, "not an answer to what was asked")
        parts = list(zip(question.names, answer.parts, strict=False))
        if any(part is not None and part.rows_file and name in self._opened for name, part in parts):
            return 0  # a file is taken whole, and this name is here in pieces meanwhile
        size_bytes = 0
        for name, part in parts:
            size_bytes += self._take_part(name, part, effects)
        if answer.refusal is not None:
            raise answer.refusal
        self._part_bytes = max(1, (self._part_bytes + size_bytes // len(parts)) // 2)
        return size_bytes

    def _take_children(self, name: bytes, digests: bytes, effects: list[Effect]) -> None:
        if not self._wanted.get(name, False):
            return  # somebody else was faster
        if len(name) >= BUCKET_NAME_BYTES:
            self._open_bucket(name, digests, effects)
            return
        children = check_children(digests, self._digests[name])
        self._open(name)
        if name in self.kept:  # as a whole, and not as it should be
            here = tuple(self.find_children(name))
            del self.kept[name]
            self.kept.update(zip(children_of(name), here, strict=True))
            effects.append(Split(name, here))
        for child, digest in zip(children_of(name), children, strict=True):
            self._expect(child, digest, effects)

    def _open(self, name: bytes) -> None:
        """From now on its children are missing instead, as far as they are."""
        self._have(name)
        self._opened[name] = None
        self._parts -= 1

    def _open_bucket(self, name: bytes, digests: bytes, effects: list[Effect]) -> None:
        """A bucket that is too large for an answer, or a part of it."""
        bucket = bucket_name(name)
        if name == bucket:
            self._counts[name], children = check_bucket(name, digests, self._digests[name], self.shape)
            if name in self.kept:  # another state's
                self._keep(name, NO_PART, EMPTY[2], effects)
        else:
            count = Span.of(name, self._counts[bucket], self.shape).children
            children = check_children(digests, self._digests[name], count)
        self._open(name)
        for child, digest in zip(children_of(name, len(children)), children, strict=True):
            self._expect(child, digest, effects)

    def _take_part(self, name: bytes, part: ProvedPart | None, effects: list[Effect]) -> int:
        """Keep a part that is not here, also where its digests were to be asked for instead: somebody called it too large."""
        if part is None:
            if not self._wanted.get(name, True):
                self._refuse_whole(name)
            return 0
        if name not in self._wanted:
            return 0
        self._have(name)
        self._keep(name, part, self._mark(name), effects)
        return part.size_bytes

    def _refuse_whole(self, name: bytes) -> None:
        """The entries of a name are too many for an answer; raises ``Rejected`` where that cannot be.

        Branches of a sub-chain are alike, so those that nobody was asked for yet are not tried.
        """
        bucket = bucket_name(name)
        if name != bucket and Span.of(name, self._counts[bucket], self.shape).is_run:
            raise Rejected(Reason.MALFORMED, "a run is answered whole")
        self._want(name, True)
        if len(name) == 2:
            for other in [other for other in self._free[False] if len(other) == 2 and other[0] == name[0]]:
                self._want(other, True)

    # -- questions ------------------------------------------------------------------------------------------------------

    def _ask(self, now_ms: int, effects: list[Effect]) -> None:
        """Ask for what is missing and not asked for, digests first, as much as the sources may be asked at once."""
        for is_for_children in (True, False):
            free = self._free[is_for_children]
            while free:
                peer = self._pick()
                if peer is None:
                    return
                count = STATE_CHILDREN_PER_REQUEST_MAX if is_for_children else self._parts_per_request()
                names = tuple(islice(free, count))
                for name in names:
                    del free[name]
                self._number += 1
                self._questions[self._number] = _Question(peer, names, is_for_children, now_ms)
                self._sources[peer].questions += 1
                height = self.target.height
                if is_for_children:
                    effects.append(Ask(self._number, peer, GetChildren(height, names)))
                else:
                    digests = tuple(self._digests[name] for name in names)
                    effects.append(Ask(self._number, peer, GetEntries(height, names), digests))

    def _parts_per_request(self) -> int:
        """As many as should fill half an answer: what does not fit is asked for once more."""
        return min(STATE_NAMES_PER_REQUEST_MAX, max(1, STATE_ANSWER_BYTES_MAX // 2 // self._part_bytes))

    def _pick(self) -> PeerId | None:
        """The source with the fewest questions under way, of those that answer; None where all have enough."""
        if len(self._questions) >= QUESTIONS_MAX:
            return None
        able = [(peer, each) for peer, each in self._sources.items() if each.questions < QUESTIONS_PER_SOURCE_MAX]
        if not able:
            return None
        return min(able, key=lambda each: (each[1].failures >= FAILURES_MAX, each[1].questions, each[1].bytes_given))[0]
