"""A world we own. Three levels, one set of rules.

    1  cores alone on a heap of events   ``finality/`` (what may go wrong with it), ``cores/`` (scenarios, by the thousand)
    2  whole nodes in virtual time       ``virtual/`` (scenarios, by the hundred)
    3  real processes on this machine    ``up``, with faults by option

Levels one and two run from a seed, in one process. What they run is a ``scenario``: data, read from ``configs/scenarios/`` or
drawn by the ``swarm``. ``checkers/`` watch, ``villains/`` spoil the model, ``page/`` shows the ``outcome``.

Level three starts full nodes, each an operating-system process with its own keys, data directory and port, watches them
through their HTTP interface only, and says in the end whether they agree.

What no level does: decide anything for a node. Level three reads nothing that a user could not read.

Reading order: ``scenario``, ``network`` (who is where), ``outcome``, ``run``; then ``virtual/world``, ``virtual/machine``,
``checkers/watch``. For level three ``options``, ``facts``, ``observed`` (pure), ``processes``, ``watch``, ``view`` and
``report``, ``up``.
"""
