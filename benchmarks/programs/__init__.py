"""Processes that benchmarks start: a node whose learner has its deltas ready, and that learner."""
