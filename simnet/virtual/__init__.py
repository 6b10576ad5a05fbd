"""Level two: whole nodes by the hundred, in one process and in virtual time.

The nodes are the real ones, services and reactor and all; what is made is what they stand on. Everything is drawn from a seed,
and no time passes but that of the clock which trio is given (``time``).

Reading order: ``disk`` (a machine's bytes), ``learner`` (what learning is here), ``worker`` (the learner's process).
"""
