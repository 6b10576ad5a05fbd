"""A coarse world to put regions on: land as dots, and where a longitude and latitude is among them. Pure.

Each sign is a cell of 4 degrees of longitude by 3.2 of latitude, land if two fifths of it are (Natural Earth, in the public
domain, sampled at 25 points a cell). That makes cells square at 37 degrees north, where many machines are. The map begins
in the middle of the Pacific, so that no continent is cut in two.
"""

from __future__ import annotations

import math
from typing import Final

from simnet.markup import Markup, tag

WEST_DEGREES: Final = -168.0
NORTH_DEGREES: Final = 80.0
CELL_DEGREES: Final = (4.0, 3.2)  # longitude, latitude
CELL: Final = 10.0  # in the units of the drawing

# fmt: off
LAND: Final = (
    "                # ##### #############        ###                  ##                      ",
    "            ###  #####     ##########                   #       ######                    ",
    "  #        ##### #######    #########                  #   ######################         ",
    "##############################################  #   ##     #######################      ##",
    "###############################################  #####################################   #",
    " ##################    ##    ###            ##########################################    ",
    " ###   ############   ####                 #### ################################# #       ",
    "        ############   ####             ##  ## #############################     ##       ",
    "          ##################           # # ###################################   #        ",
    "          ################ #             #####################################            ",
    "           ###############               ####################################             ",
    "           ##############               #########   ## ##################### #            ",
    "           #############                ##     ####### ###################                ",
    "           ############                 #####    ####################### #  #             ",
    "            ##########                  #####      #####################   #              ",
    "             #########                 #################################                  ",
    "              ####   #                ##################################                  ",
    "               ###                    ###################  #############                  ",
    "                ## #                  ############# #####   #### #####                    ",
    "                ####                  ##################    ###  ####   #                 ",
    "                   ##                 ################      ##    ###   #                 ",
    "                    #  ##             ############### #      #      #                     ",
    "                     ######            ################                  #                ",
    "                      #######           ## ###########             #   #                  ",
    "                      ########              #########              # ###                  ",
    "                      #########             ########               # ####  #              ",
    "                      ###########            #######                        ##            ",
    "                      ###########            #######                 #       ##           ",
    "                       ##########            #######                                      ",
    "                       #########             #######  #                  ### #            ",
    "                        ########             ####### #                   ######           ",
    "                        ########             ######  #                 ########           ",
    "                        #######               #####  #                ##########          ",
    "                        ######                ####                    ##########          ",
    "                        #####                 ####                     #########          ",
    "                        #####                  ##                      ##   ####          ",
    "                        ####                                                 ###          ",
    "                       ####                                                          #    ",
    "                       ###                                                          #     ",
    "                       ##                                                                 ",
    "                       ##                                                                 ",
    "                        #                                                                 ",
)
# fmt: on

MAP_WIDTH: Final = len(LAND[0]) * CELL
MAP_HEIGHT: Final = len(LAND) * CELL


Point = tuple[float, float]


def place(at: tuple[float, float]) -> Point:
    """Longitude and latitude in degrees as x and y of the drawing; what is not on it (or no number) is at its edge."""
    longitude, latitude = (degrees if math.isfinite(degrees) else 0.0 for degrees in at)
    x = ((longitude - WEST_DEGREES) % 360.0) / CELL_DEGREES[0] * CELL
    y = (NORTH_DEGREES - latitude) / CELL_DEGREES[1] * CELL
    return min(MAP_WIDTH - CELL, max(CELL, x)), min(MAP_HEIGHT - CELL, max(CELL, y))


def land() -> Markup:
    """All land as one path: a stroke of no length for each cell, which round ends make a dot."""
    commands = []
    for row, line in enumerate(LAND):
        y = int(row * CELL + CELL / 2)
        commands += [f"M{int(column * CELL + CELL / 2)} {y}h0" for column, sign in enumerate(line) if sign == "#"]
    return tag("path", class_="land", d="".join(commands))


def arcs(one: Point, other: Point) -> list[tuple[Point, Point]]:
    """The ways between two places of the drawing: one, or if the other way round the world is shorter, its halves.

    Each half leaves the drawing at one edge and comes back at the other.
    """
    east = other[0] - one[0]
    if abs(east) <= MAP_WIDTH / 2:
        return [(one, other)]
    around = -math.copysign(MAP_WIDTH, east)
    return [(one, (other[0] + around, other[1])), ((one[0] - around, one[1]), other)]


def arc_commands(one: Point, other: Point) -> str:
    """Of the whole way, bent towards the north as the shortest way often is."""
    ways = [(begins, _knee(begins, ends), ends) for begins, ends in arcs(one, other)]
    return "".join(f"M{a[0]:.1f} {a[1]:.1f}Q{b[0]:.1f} {b[1]:.1f} {c[0]:.1f} {c[1]:.1f}" for a, b, c in ways)


def along_arc(one: Point, other: Point, count: int = 24) -> list[Point]:
    """Points of that way, evenly by the parameter of each curve."""
    points = []
    for begins, ends in arcs(one, other):
        (x1, y1), (x2, y2), (x3, y3) = begins, _knee(begins, ends), ends
        for t in (index / count for index in range(count + 1)):
            x = (1 - t) ** 2 * x1 + 2 * t * (1 - t) * x2 + t * t * x3
            y = (1 - t) ** 2 * y1 + 2 * t * (1 - t) * y2 + t * t * y3
            points.append((x, y))
    return points


def _knee(one: Point, other: Point) -> Point:
    """The control point of a quadratic Bézier curve."""
    bend = 0.22 * math.hypot(other[0] - one[0], other[1] - one[1])
    return (one[0] + other[0]) / 2, (one[1] + other[1]) / 2 - bend
