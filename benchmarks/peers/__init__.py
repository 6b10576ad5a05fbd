"""Drivers that run under the Python of another program; nothing here is imported by us."""
