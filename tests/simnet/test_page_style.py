"""Colours, measured: contrast as WCAG 2.1 defines it, and distance as the colour-blind see it."""

import re
from itertools import combinations

import pytest

from simnet.page.style import COLOURS, DAY, NIGHT, style

MODES = [pytest.param(DAY, id="day"), pytest.param(NIGHT, id="night")]
SERIES = [f"c{index}" for index in range(1, COLOURS + 1)]

# Machado, Oliveira and Fernandes, A Physiologically-based Model for Simulation of Color Vision Deficiency (2009), severity 1.
EYES = {
    "trichromat": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanope": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranope": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanope": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def linear(colour: str) -> list[float]:
    """Red, green and blue as light, of ``#rrggbb``."""
    signs = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [sign / 12.92 if sign <= 0.04045 else ((sign + 0.055) / 1.055) ** 2.4 for sign in signs]


def luminance(light: list[float]) -> float:
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]


def contrast(one: list[float], other: list[float]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def lab(light: list[float]) -> tuple[float, float, float]:
    """CIELAB under D65, where a distance of 2.3 is just noticed."""
    x = (0.4124 * light[0] + 0.3576 * light[1] + 0.1805 * light[2]) / 0.9505
    z = (0.0193 * light[0] + 0.1192 * light[1] + 0.9505 * light[2]) / 1.089
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, luminance(light), z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("mode", MODES)
def test_letters_can_be_read(mode):
    """By day and by night, also on the grounds that are not the page's."""
    grounds = [("page", name) for name in ("ink", "soft", "good", "bad", "warn")]
    grounds += [("bad-wash", name) for name in ("ink", "soft", "bad")] + [("wash", "ink")]
    for ground, name in grounds:
        assert contrast(linear(mode[ground]), linear(mode[name])) >= 4.5, (ground, name)


@pytest.mark.parametrize("mode", MODES)
def test_letters_can_be_read_on_the_darkest_cell(mode):
    """The table of traffic tints a cell with at most 55 % of the first colour, mixed as signs are."""
    page, tint = ([int(mode[name][at : at + 2], 16) for at in (1, 3, 5)] for name in ("page", "c1"))
    cell = "#" + "".join(f"{round(0.45 * one + 0.55 * other):02x}" for one, other in zip(page, tint, strict=True))
    assert contrast(linear(cell), linear(mode["ink"])) >= 4.5


@pytest.mark.parametrize("mode", MODES)
def test_lines_and_areas_stand_out(mode):
    """Each colour of a series, and that of faults."""
    for name in [*SERIES, "band"]:
        assert contrast(linear(mode["page"]), linear(mode[name])) >= 3, name


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("mode", MODES)
def test_two_colours_are_two_to_every_eye(mode, eye):
    """Any two of a series are five times as far apart as what is just noticed."""
    seen = {}
    for name in SERIES:
        light = linear(mode[name])
        seen[name] = lab([min(1.0, max(0.0, sum(a * b for a, b in zip(row, light, strict=True)))) for row in EYES[eye]])
    for one, other in combinations(SERIES, 2):
        distance = sum((a - b) ** 2 for a, b in zip(seen[one], seen[other], strict=True)) ** 0.5
        assert distance > 12, (one, other)


def test_every_variable_that_is_used_is_there_by_day_and_by_night():
    """A misspelt one would be black on black."""
    used = set(re.findall(r"var\(--([a-z0-9-]+)[,)]", style()))
    said_by_elements = {"c", "lit", "told", "aspect", "y"}
    assert used - said_by_elements <= set(DAY)
    assert set(DAY) == set(NIGHT)
