"""Hostile bytes for every decoder: `python -m tests.fuzz --help`, or `make fuzz`."""
