"""Erasure coding: bytes become cells, and any so many of them become the bytes again.

Systematic Reed-Solomon over GF(2^8) with an explicit Cauchy matrix (chain.md 3.1): the data cells are the data itself. What
is said of a coded blob on the wire and in votes is ``protocol/erasure.py``; here is how it is made and checked.

Reading order:

    field           GF(2^8), by tables
    reed_solomon    the two matrices: from data to parity, from any cells to those that are lost
    kernel          what multiplies cells with a matrix; one is numpy_kernel, the fast one is storage/io/isal.py
    self_test       what a kernel must compute before anybody uses it
    code            one geometry's code on one kernel
    tile            cells, their commitment, and back: encode, check, rebuild
    check           whether the holder of a few cells has cells of the one code
    certified       reading a tile whose holders said so
    blob            blobs of gigabytes, one tile in memory at a time

Shapes: K data cells, M parity cells, N bytes of a cell, R rows of a matrix.
"""
