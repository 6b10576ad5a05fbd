"""The soak's judgement: which silence is the network's fault, and which two dead leaders'."""

from __future__ import annotations

from types import SimpleNamespace

from benchmarks.soak import Gap, Seen, explained

A, B = b"a", b"b"


def soak(leaders: dict[int, list[bytes]], *deaths: tuple[bytes, float, float]) -> SimpleNamespace:
    return SimpleNamespace(leaders=leaders, deaths=list(deaths))


def test_gaps_are_between_new_heights() -> None:
    """A look that finds nothing new is no end of one."""
    seen = Seen(heights=[(0.0, 1), (2.0, 2), (9.0, 4)])
    assert seen.gaps() == [Gap(2.0, 2.0, 1, 2), Gap(7.0, 9.0, 2, 4)]


def test_two_dead_leaders_in_a_row_explain_a_gap() -> None:
    """In the views before one block, or before two that came together when the leader was back; one dead leader does not."""
    gap = Gap(7.0, 10.0, 2, 4)
    assert explained(soak({3: [A, A, B]}, (A, 2.0, 8.0)), gap)  # type: ignore[arg-type]
    assert explained(soak({3: [A], 4: [A]}, (A, 2.0, 8.0)), gap)  # type: ignore[arg-type]
    assert not explained(soak({3: [A, B], 4: [A]}, (A, 2.0, 8.0)), gap)  # type: ignore[arg-type]
    assert not explained(soak({3: [A], 4: [A]}, (A, 0.0, 2.0)), gap)  # type: ignore[arg-type]
    assert not explained(soak({2: [A], 5: [A]}, (A, 2.0, 8.0)), gap)  # type: ignore[arg-type]
