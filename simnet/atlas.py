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


def place(at: tuple[float, float]) -> tuple[float, float]:
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


def arc(one: tuple[float, float], other: tuple[float, float]) -> str:
    """The commands of a curve between two places of the drawing, bent towards the north as the shorter way often is."""
    (x1, y1), (x2, y2) = one, other
    bend = 0.22 * math.hypot(x2 - x1, y2 - y1)
    return f"M{x1:.1f} {y1:.1f}Q{(x1 + x2) / 2:.1f} {(y1 + y2) / 2 - bend:.1f} {x2:.1f} {y2:.1f}"
