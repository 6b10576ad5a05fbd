"""What samples show, in fractions: chances are small numbers of which sums are taken, and no rounding enters them.

A tile that cannot be rebuilt has at most K - 1 cells that are to be had, of n. Whoever draws s different cells without knowing
which is fooled when all of them are among those, or all but as many as it forgives:

    fooled(s, f) = sum over i <= f of  C(K-1, s-i) * C(n-K+1, i) / C(n, s)

This holds as long as who answers does not know who asks: an adversary that sees all samples of one sampler together can answer
that one, until K - 1 cells are out (``samplers_until_public``).
"""

from __future__ import annotations

from fractions import Fraction
from math import comb

from protocol.erasure import Geometry


def fooled(geometry: Geometry, samples: int, forgiven: int = 0) -> Fraction:
    """The chance that a tile that cannot be rebuilt answers all but ``forgiven`` of so many samples, at the most."""
    there, cells = geometry.data_cells - 1, geometry.cells
    ways = sum(comb(there, samples - lost) * comb(cells - there, lost) for lost in range(min(forgiven, samples) + 1))
    return Fraction(ways, comb(cells, samples))


def samples_needed(geometry: Geometry, chance: Fraction, forgiven: int = 0) -> int:
    """The fewest samples with which nobody is fooled with more than ``chance``.

    Raises ``ValueError`` where so much is forgiven that no number of samples is enough.
    """
    for samples in range(1, geometry.cells + 1):
        if fooled(geometry, samples, forgiven) <= chance:
            return samples
    raise ValueError(f"{forgiven} lost cells forgiven of {geometry.cells}: samples show nothing")


def sampling_plan(geometry: Geometry, chance: Fraction, forgiven_max: int) -> tuple[int, ...]:
    """How many samples in all are taken when 0, 1, ... ``forgiven_max`` of them are lost.

    Whoever goes on after a loss may be fooled several times. Each takes an equal part of ``chance``, so that all of them
    together have no more than it.
    """
    part = chance / (forgiven_max + 1)
    return tuple(samples_needed(geometry, part, forgiven) for forgiven in range(forgiven_max + 1))


def found_in_blob(tiles: int, tiles_drawn: int, chance: Fraction, samplers: int) -> Fraction:
    """The chance that one of ``samplers``, each drawing so many tiles of a blob, finds its one tile that is withheld.

    ``chance`` is that of being fooled by a withheld tile that was drawn.
    """
    return 1 - (1 - Fraction(tiles_drawn, tiles) * (1 - chance)) ** samplers


def found_by_audits(dropped: Fraction, audits: int) -> Fraction:
    """The chance that one of so many audits asks for something of the part that a holder has dropped."""
    return 1 - (1 - dropped) ** audits


def samplers_until_public(geometry: Geometry, samples: int) -> int:
    """After how many samplers who were all answered a tile's cells that are out rebuild it, in the mean: the first such number.

    Samplers who publish what they fetched end the deceit there. It is more than (K - 1) / s, because they draw the same cells
    now and then: after m of them n * (1 - (1 - s/n)^m) different ones are out.
    """
    still = 1 - Fraction(samples, geometry.cells)
    samplers, inside = 1, still
    while geometry.cells * (1 - inside) < geometry.data_cells:
        samplers, inside = samplers + 1, inside * still
    return samplers
