"""Digests of everything that must have the same bits everywhere: run as a program, prints one JSON object.

Inputs come from SHAKE-128, so that no generator of random numbers matters.
``python -m tests.compute.golden_deltas --write`` approves the present results as the vectors.
"""

from __future__ import annotations

import hashlib
import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

from compute.delta.codec import decode, encode
from compute.delta.feedback import compress_with_feedback, empty_residual
from compute.delta.pipeline import PIPELINES
from compute.merge import RULES as MERGE_RULES
from compute.merge import MergeRule, merge
from compute.outer import RULES as OUTER_RULES
from compute.outer import OuterRule, apply_update, initial_state
from protocol.digest import blob_digest
from protocol.ids import Version

VECTORS = Path(__file__).parent.parent / "vectors" / "compute" / "deltas.json"


def drawn_delta(word: str, values: int) -> np.ndarray:
    """A delta with the tails of a trained one: products of two uniform 16-bit integers, each tenth column louder."""
    stream = np.frombuffer(hashlib.shake_128(word.encode()).digest(4 * values), np.int16).astype(np.int64)
    products = (stream[:values] * stream[values:] >> 7).astype(np.float32)
    products[::10] *= np.float32(3)
    return products * np.float32(2.0**-32)


def drawn_matrices(values: int) -> tuple[tuple[int, int], ...]:
    """Matrices that fill a tile of so many values: a square-ish one, and the rest as a row."""
    rows = values // 100
    return tuple(shape for shape in ((rows, 100), (1, values - 100 * rows)) if shape[0] * shape[1])


def results() -> dict[str, str]:
    """Name of a computation -> digest or text of its result."""
    table: dict[str, str] = {}

    def note(name: str, array: np.ndarray) -> None:
        table[name] = blob_digest(np.ascontiguousarray(array).tobytes()).hex()

    for pipeline in PIPELINES:
        decay = Fraction(95, 100) if pipeline.fraction <= Fraction(1, 10) else Fraction(1)
        for values in (1, 127, 20_001):
            residual = empty_residual(values)
            for step in range(2):
                delta = drawn_delta(f"{pipeline.name} {values} {step}", values)
                payload, residual = compress_with_feedback(
                    delta, residual, pipeline.name, decay, drawn_matrices(values)
                )
                table[f"payload {pipeline.name} {values} {step}"] = blob_digest(payload).hex()
            note(f"residual {pipeline.name} {values}", residual)
            note(f"dense {pipeline.name} {values}", decode(payload, values).dense())
    values = 70_001  # more than the columns that a rank rule sorts at a time
    for pipeline_name in ("top10_int4", "int8", "none"):
        deltas = []
        for learner in range(7):
            loudness = np.float32(100 if learner == 3 else 1)
            payload = encode(loudness * drawn_delta(f"learner {learner}", values), pipeline_name)
            deltas.append((bytes([learner]) * 32, 1000 + 77 * learner, decode(payload, values)))
        for rule in MERGE_RULES:
            merged = merge(deltas, MergeRule(rule))
            note(f"merge {pipeline_name} {rule}", merged.gradient_N)
            table[f"cosines {pipeline_name} {rule}"] = " ".join(map(str, merged.cosine_micro.values()))
    for rule_name in OUTER_RULES:
        rule = OuterRule(rule_name, rate=Fraction(7, 10), decay=Fraction(1, 100))
        state = initial_state(drawn_delta("weights", 20_001) * np.float32(64), rule)
        for version in range(1, 4):
            update = encode(drawn_delta(f"update {version}", 20_001), "update_int4" if version % 2 else "update_int8")
            state = apply_update(state, decode(update, state.shape[1]), rule, Version(version))
        note(f"outer {rule_name}", state)
    return table


if __name__ == "__main__":
    text = json.dumps(results(), indent=1)
    if sys.argv[1:] == ["--write"]:
        VECTORS.parent.mkdir(parents=True, exist_ok=True)
        VECTORS.write_text(text + "\n")
    else:
        print(text)
