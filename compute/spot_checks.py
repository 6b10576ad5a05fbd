"""Which answers of holders are computed again here, and what that says of their holders. Sans-io.

    an answer came --> SpotChecks.choose  --> BEFORE    it is used when it was found right
                                              BESIDE    it is used at once, and looked at afterwards
                                              NOT
    it was computed --> SpotChecks.found  --> whether it was wrong

Whoever asks has the expert's tiles, whose roots the chain decided, and a worker; what it lacks is room and time to compute all
rows itself. So it computes a few answers again, and nobody who gives an answer can know which: rows of readers are the
canaries. The first answer of a holder for each expert, and for each newer version of the model, is looked at before it is
believed, also when the holder comes back from quarantine. Of the others, one answer in ``one_in``: of those who are wrong in a
share ``q`` of what they give, half are found within ``0.7 one_in / q`` answers.

What is the same is not the same bits: a GPU adds in another order than a CPU, and some round products to ten bits. The
deviation is the length of the difference to our own rows over theirs, of the row that is farthest off:

    order of sums       0.000001               10-bit products (TF32)      0.0003 (both reckoned, not measured)
    int8 for float32    0.01 (docs/log.md)     noise, another expert       what it likes

A deviation that is let pass changes an answer no more than another machine would.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import numpy as np

from compute.model.tiling import FLOAT32_BYTES
from protocol.experts import ExpertSlice
from protocol.genesis import MILLION
from protocol.ids import PeerId, Version
from protocol.rejection import InvariantBroken, Reason, Rejected

DEVIATION_MICRO_MAX: Final = 2_000  # a fifth of what int8 is off, above what other machines are (a guess)
NO_LIKENESS_MICRO: Final = 1_000 * MILLION  # no number among the rows, or as far off as that
RECORDS_MAX: Final = 1_024  # of holders, of whom whoever answered first is forgotten first (a guess)


@dataclass(frozen=True, slots=True)
class SpotCheckRule:
    """How much is looked at."""

    one_in: int = 64  # answers of a holder that was right before: two in a hundred cost little (a guess)
    beside_max: int = 4  # that are looked at beside their use at once: what is more is let pass
    deviation_micro_max: int = DEVIATION_MICRO_MAX


class Choice(enum.Enum):
    """When an answer is computed again."""

    NOT = "not"
    BESIDE = "beside"
    BEFORE = "before"


@dataclass(frozen=True, slots=True)
class Given:
    """An answer. ``version``: the newest of its tiles'."""

    peer: PeerId
    expert: ExpertSlice
    version: Version


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one holder. ``believed``: of how many experts its first answer was right, since it was last wrong."""

    answers: int = 0
    checked: int = 0
    wrong: int = 0
    believed: int = 0
    version: int = -1  # the newest about which it was right; -1: none
    deviation_micro_max: int = 0  # of what was right


@dataclass(frozen=True, slots=True)
class SpotCheckStatistics:
    """Since the start. ``unknown``: answers that were to be computed again, and could not be."""

    answers: int
    checked: int
    wrong: int
    unknown: int
    open: int


def find_deviation_micro(given: bytes, own: bytes, width: int) -> int:
    """How far given rows are off our own, in millionths: the worst row's. Both float32, little-endian, ``width`` to a row.

    Raises ``Rejected(BAD_SHAPE)`` where they are not as many.
    """
    if len(given) != len(own) or len(own) % (FLOAT32_BYTES * width):
        raise Rejected(Reason.BAD_SHAPE, f"{len(given)} bytes beside {len(own)} of rows of {width}")
    given_PD, own_PD = (np.frombuffer(rows, "<f4").reshape(-1, width).astype(np.float64) for rows in (given, own))
    with np.errstate(divide="ignore", invalid="ignore"):  # rows of no numbers, of noughts
        off_P, length_P = (np.linalg.norm(rows_PD, axis=1) for rows_PD in (given_PD - own_PD, own_PD))
        worst = float(np.max(np.where(off_P == 0, 0, off_P / length_P)))
    return round(min(worst * MILLION, NO_LIKENESS_MICRO)) if worst == worst else NO_LIKENESS_MICRO


class SpotChecks:
    """The checks of one node. Memory: for each of ``RECORDS_MAX`` peers some numbers, and the experts it was right about."""

    def __init__(self, generator: Random, rule: SpotCheckRule | None = None) -> None:
        """``generator``: nobody else may know what it gives."""
        self._generator = generator
        self._rule = rule or SpotCheckRule()
        self._records: dict[PeerId, Record] = {}
        self._believed: dict[PeerId, set[ExpertSlice]] = {}  # asked only "is it in"
        self._beside = self._before = 0
        self._answers = self._checked = self._wrong = self._unknown = 0

    def choose(self, given: Given) -> Choice:
        """What to do with an answer. Unless that is nothing, ``found`` comes after it."""
        self._answers += 1
        record = self._records.get(given.peer, Record())
        self._keep(given.peer, replace(record, answers=record.answers + 1))
        if given.expert not in self._believed[given.peer] or given.version > record.version:
            self._before += 1
            return Choice.BEFORE
        if self._generator.randrange(self._rule.one_in) or self._beside >= self._rule.beside_max:
            return Choice.NOT
        self._beside += 1
        return Choice.BESIDE

    def found(self, given: Given, choice: Choice, deviation_micro: int | None) -> bool:
        """How far off an answer was; None where it could not be computed. Returns whether it was wrong.

        What cannot be computed here is no holder's fault, and is used as it is.
        """
        match choice:
            case Choice.BESIDE:
                self._beside -= 1
            case Choice.BEFORE:
                self._before -= 1
            case Choice.NOT:
                raise InvariantBroken("an answer that was not to be computed again was")
        if deviation_micro is None:
            self._unknown += 1
            return False
        peer = given.peer
        record = self._records.get(peer, Record())
        self._keep(peer, replace(record, checked=record.checked + 1))
        is_wrong = deviation_micro > self._rule.deviation_micro_max
        self._checked += 1
        self._wrong += is_wrong
        if is_wrong:
            self._believed[peer].clear()
            self._change(peer, wrong=record.wrong + 1, believed=0, version=-1)
        else:
            self._believed[peer].add(given.expert)
            self._change(
                peer,
                believed=len(self._believed[peer]),
                version=max(record.version, given.version),
                deviation_micro_max=max(record.deviation_micro_max, deviation_micro),
            )
        return is_wrong

    def _keep(self, peer: PeerId, record: Record) -> None:
        self._records[peer] = record
        self._believed.setdefault(peer, set())
        if len(self._records) > RECORDS_MAX:
            oldest = next(iter(self._records))
            del self._records[oldest], self._believed[oldest]

    def _change(self, peer: PeerId, **numbers: int) -> None:
        self._records[peer] = replace(self._records[peer], **numbers)

    def records(self) -> dict[PeerId, Record]:
        """By peer."""
        return dict(self._records)

    def statistics(self) -> SpotCheckStatistics:
        open_checks = self._beside + self._before
        return SpotCheckStatistics(self._answers, self._checked, self._wrong, self._unknown, open_checks)
