"""Benchmarks: what the parts of nocknode cost, beside another program that does the same and a floor that nothing can beat.

Every program here runs as ``python -m benchmarks.NAME``, takes ``--quick`` (a shortened form) and ``--json`` (progress on
stderr, the last line of stdout is one object with ``rows``). `common` holds what they share; `peers` holds drivers that run
under another program's own Python.
"""
