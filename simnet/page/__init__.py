"""The page of a run: one HTML file that needs nothing else, for a person who wants to know at a glance what happened.

    verdict, sentence, the command that repeats it     did it hold?
    numbers                                            how large, how fast, how much, at what price
    map and table of regions                           what crossed the world
    time                                               loss, traffic, peers, finality, queues, owners, all on one time axis,
                                                       with what was done to the network drawn through them
    rules                                              every invariant, how often it was checked, what broke it
    rounds                                             the numbers behind, folded

There is no script in it, and its policy forbids one. Everything in an outcome is somebody's text: ``simnet/markup.py``.
Read ``whole.py`` first, then ``over_time.py`` with ``simnet/charts.py``.
"""

from simnet.page.whole import render

__all__ = ["render"]
