"""A world for the finality machine, level one: virtual time, everything drawn from one seed, thousands of times real time.

``nocknode simnet run finality --seeds 0..99`` runs it. What it never does: it opens no socket or file, asks no clock, and
decides nothing for a machine; the checkers know the rules in their own words.

Reading order: ``genesis`` (keys, weights, the first state), ``payments`` and ``ledger`` (what bodies hold, and what they do),
``sets`` (who votes in which epoch), ``network``, ``disk``, ``members`` (what may happen to an honest one), ``villains`` (what a
dishonest one does), ``watch``, ``checkers`` and ``audit`` (what must hold all the same), ``options`` (what a seed draws),
``world`` (the heap, and all of it together), ``scripts`` and ``scripted`` (every Twins scenario of four members, where a world
plays a script), ``run`` (many seeds), ``report``.
"""
