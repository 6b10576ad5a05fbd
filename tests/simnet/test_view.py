"""What is shown while a network runs, and the picture that it leaves."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from simnet.facts import Lagging, RoundFacts, Status, TileFacts
from simnet.observed import Network
from simnet.options import FaultKind
from simnet.report import draw, rows_of
from simnet.view import LineLog, layer_of, render


def network_with(peers: int, rounds: int) -> Network:
    """A run after `rounds` of its 20 rounds, one peer killed."""
    network = Network(peers, 20, 5.0)
    for index in range(peers):
        network.started(index, 0.0)
        network.saw_status(
            index,
            Status(peer=f"peer{index}", short=f"short{index}", state="learning", round=rounds, rounds=rounds),
            1.0,
        )
        network.saw_rounds(
            index,
            [
                RoundFacts(
                    round=number, closed_ms=1, tiles=3, tiles_advanced=2, val_loss=5.0 - number / 10, delta_float32_bytes=1000,
                    delta_payload_bytes=24, bytes_sent=90, owners={"short0": 2}, lagging=(Lagging(tile="b/0", reason="late"),),
                )
                for number in range(rounds)
            ],
            2.0,
        )  # fmt: skip
    network.saw_tiles(
        [TileFacts(tile=f"layer{n}.expert{e}/0", owner=f"short{e % peers}") for n in range(4) for e in range(8)]
    )
    network.hit(peers - 1, FaultKind.KILL, 3.0)
    return network


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (200, 60)])
@pytest.mark.parametrize(("peers", "rounds"), [(1, 0), (4, 7), (20, 20)])
def test_the_page_fits_its_terminal(width, height, peers, rounds):
    """No line is wider than the terminal, and what a reader looks for is there."""
    output = io.StringIO()
    console = Console(file=output, width=width, height=height)
    console.print(render(network_with(peers, rounds), 65.0, "phase", width, height))
    lines = output.getvalue().splitlines()
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    for said in (f"{rounds} of 20 rounds", "1:05", "tiles by owner", "layer3", f"peer {peers - 1} killed"):
        assert said in text
    if peers == 20 and height == 24:
        assert "and 12 more" in text


def test_before_there_is_a_network_the_phase_is_shown():
    """The first seconds are not an empty page."""
    output = io.StringIO()
    Console(file=output, width=80).print(render(None, 0.0, "Making keys", 80, 24))
    assert output.getvalue() == "Making keys\n"


def test_the_log_has_one_line_a_round_and_one_an_event():
    """However often it is updated."""
    output = io.StringIO()
    log = LineLog(output)
    network = network_with(2, 3)
    for _ in range(3):
        log.update(network, 9.0)
    lines = output.getvalue().splitlines()
    assert sum("loss" in line for line in lines) == 3
    assert sum("peer 1 killed" in line for line in lines) == 1
    assert sum("b/0 did not advance: late" in line for line in lines) == 3
    assert "tiles 2/3" in lines[-1]
    assert "(11× below raw)" in lines[-1]


def test_a_round_waits_in_the_log_for_its_loss_until_the_next():
    """A loss that is measured after the close is waited for; a round nobody evaluated is told when the next one closes."""
    output = io.StringIO()
    log = LineLog(output)
    network = Network(1, 20, 5.0)
    network.started(0, 0.0)
    network.saw_status(0, Status(state="learning", round=1, rounds=1), 1.0)
    network.saw_rounds(0, [RoundFacts(round=0, closed_ms=1, tiles=1, tiles_advanced=1)], 1.0)
    log.update(network, 1.0)
    assert output.getvalue() == ""
    network.saw_rounds(0, [RoundFacts(round=1, tiles=1)], 2.0)
    log.update(network, 2.0)
    assert output.getvalue() == ""
    network.saw_status(0, Status(state="learning", round=2, rounds=2), 3.0)
    network.saw_rounds(0, [RoundFacts(round=1, closed_ms=3, tiles=1, tiles_advanced=1)], 3.0)
    log.update(network, 3.0)
    assert "round 0 (1 of 20)  loss – nats/byte" in output.getvalue()


def test_a_picture_is_drawn_of_any_run(tmp_path):
    """Also of one that closed no round, and of one with many peers."""
    for peers, rounds in ((1, 0), (9, 20)):
        draw(tmp_path / "report.png", network_with(peers, rounds))
        assert (tmp_path / "report.png").stat().st_size > 10_000


def test_layers_are_read_from_tile_names():
    """A tile is shown in the line of its layer."""
    assert [layer_of(tile) for tile in ("trunk/0", "layer3.expert7/0")] == ["trunk", "layer3"]


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 9)), max_size=30).map(sorted))
def test_words_in_one_row_never_meet(labels):
    """And nobody is lower than it must be: the row above had no place."""
    rows = rows_of(labels)
    for index, ((place, _), row) in enumerate(zip(labels, rows, strict=True)):
        taken = {other for (at, width), other in zip(labels[:index], rows, strict=False) if at + width > place}
        assert row not in taken
        assert set(range(row)) <= taken
