"""A short run of every decoder: hostile bytes give an accepted value or ``Rejected``, for a bounded amount of memory."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest

from node.config import NODE_KEYS, read_run_settings
from node.toml_table import read_table
from protocol.codec import decode
from protocol.ids import Natural
from protocol.rejection import InvariantBroken, Reason, Rejected
from tests.architecture.source import ROOT
from tests.fuzz.decoders import DECODERS, Decoder
from tests.fuzz.mutations import Form, mutate
from tests.fuzz.run import fuzz, input_of

TRIES = 250


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_hostile_bytes_give_a_value_or_rejected(decoder: Decoder) -> None:
    """And no allocation out of proportion to the input. `make fuzz` tries for longer."""
    outcome = fuzz(decoder, seed=0, tries=TRIES)
    assert not outcome.found, "\n".join(map(str, outcome.found))
    assert outcome.tries == outcome.accepted + outcome.rejected.total() == TRIES


def test_deep_toml_is_a_bad_configuration() -> None:
    """Brackets in brackets, as a file of another kind may hold them."""
    with pytest.raises(Rejected) as caught:
        read_table("a = " + "[" * 2_000, NODE_KEYS, "config.toml")
    assert caught.value.reason is Reason.BAD_CONFIG


def test_a_round_of_thousands_of_digits_is_a_bad_argument() -> None:
    """A person's finger on a key."""
    with pytest.raises(Rejected) as caught:
        read_run_settings(crash_at=("vote-journaled@" + "9" * 5_000,))
    assert caught.value.reason is Reason.BAD_ARGUMENT


def row(answer: object, **changes: object) -> Decoder:
    """A decoder that does something to every input but its own sample."""

    def answered(data: bytes) -> object:
        if data == b"\x01":
            return None
        if isinstance(answer, BaseException):
            raise answer
        return answer(data)  # type: ignore[operator]  # a function

    return Decoder("sample", Form.BINARY, lambda: [b"\x01"], answered, **changes)  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize("error", [ValueError("why"), IndexError(), InvariantBroken("why"), RecursionError()])
def test_whatever_else_is_raised_is_found(error: BaseException) -> None:
    """Also a broken invariant, which is no Exception; the report names the input and repeats it."""
    outcome = fuzz(row(error), seed=3, tries=300)
    assert len(outcome.found) == 1 < outcome.failed  # the first of a kind
    first = outcome.found[0]
    assert type(error).__name__ in first.what
    assert first.command == f"python -m tests.fuzz 'sample' --seed 3 --try {first.number}"
    assert input_of(row(error), 3, first.number) == first.data
    assert first.data.hex()[:100] in str(first)


def test_a_rejection_is_counted_by_its_reason() -> None:
    """It is the answer that hostile bytes should get."""
    outcome = fuzz(row(Rejected(Reason.MALFORMED)), seed=0, tries=50)
    assert outcome.found == []
    assert outcome.rejected["malformed"] + outcome.accepted == 50


def test_an_allocation_out_of_proportion_is_found() -> None:
    """A few bytes that cost a megabyte are a way to stop a node."""
    assert fuzz(row(lambda data: bytes(1 << 20)), seed=0, tries=300).found
    assert not fuzz(row(lambda data: bytes(1 << 20), allowed=1 << 21), seed=0, tries=300).found


def test_a_decoder_that_refuses_its_own_samples_is_a_mistake_of_the_table() -> None:
    """Bytes that are refused at once fuzz nothing."""
    with pytest.raises(AssertionError, match="its own sample"):
        fuzz(
            Decoder("sample", Form.BINARY, lambda: [b"\xc1"], lambda data: decode(Natural, data, limit_bytes=9)), seed=0
        )


@pytest.mark.parametrize("form", Form)
def test_the_same_seed_gives_the_same_inputs(form: Form) -> None:
    """Of every kind of change, and most of them differ from the sample."""
    samples = [b"\x93\x01\xa3abc\xc4\x02xy", b"\x92\xc0\x91\xcc\xff"]
    made = [mutate(Random(number), samples, form) for number in range(200)]
    assert made == [mutate(Random(number), samples, form) for number in range(200)]
    assert sum(data not in samples for data in made) > 150


@pytest.mark.slow
def test_the_program_finds_nothing_in_a_decoder_that_is_right() -> None:
    """One JSON object, and an exit status for scripts."""
    command = [sys.executable, "-m", "tests.fuzz", "ping", "topic", "--tries", "50", "--json"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert '"decoder": "ping", "tries": 50' in answer.stdout
