"""A world we own. Three levels, one set of rules: this package holds the first and the third.

Level one, virtual time in one process, everything drawn from a seed: ``finality/``, run by ``nocknode simnet run finality``.
Level three, real processes on this machine, is the rest of this page.

``nocknode simnet up`` starts full nodes, each an operating-system process with its own keys, data directory and port, watches
them through their HTTP interface only, kills and restarts them on request, and says in the end whether they agree.

What it never does: it imports no rule to decide anything for a node, and it reads nothing that a user could not read.

Reading order: ``options`` (what may be asked), ``facts`` (what nodes say), ``observed`` (what we make of it; pure),
``processes`` (starting and stopping), ``watch`` (polling and faults), ``view`` and ``report`` (showing), ``up`` (the run as a
straight line), ``cli``.
"""
