"""Deltas of learning made small: stages (`sparsify`, `quantize`), bytes (`bits`, `codec`), and their table
(`pipeline`).

Reading order: `pipeline`, `sparsify`, `quantize`, `codec`, `bits`, `decoded`, `feedback`. Nothing here imports torch.
"""
