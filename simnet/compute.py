"""An analytic model: what a simulated world learns instead of a real one. A valley for each tile, and learners that go down it.

    N  values of a tile        z  standard normal values, drawn from digests and never from a stream that calls share

Weights are the real ones: genesis draws them, and real deltas, merges and outer steps change them. Only the gradient is
made here:

    loss(w)      = FLOOR + HEIGHT * sum(curvature * ((w - optimum) / scale)^2) / its expected value at genesis
    own optimum  = optimum + HETEROGENEITY * scale * z(learner, tile)
    change       = (1 - q^steps) * (w - own optimum) + wander * z(learner, round, tile, steps)
    wander       = scale * RATE * NOISE * root((1 - q^(2 steps)) / (1 - q^2))
    q            = 1 - RATE * curvature

Curvatures lie evenly (in their logarithm) over two decades, so the steep directions are learned in a few rounds and the
flat ones in hundreds, as with a real model: that is what makes it matter which part of a delta a merge lets through. The
change is what ``steps`` steps of gradient descent with noise give, in closed form, which a quadratic valley has.

The scale of a value is the deviation with which genesis draws it, so every tensor has as far to go. Losses are about nats
per byte: some 5.5 untrained, 2 perfect, though no learner with data of its own and noise ever arrives there.

Wrong labels are a wrong valley: its optimum lies opposite, and all who have them agree on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from compute.exact import Float32
from compute.model.genesis import initial_deviation
from compute.model.layout import Initial
from compute.model.tiling import Tile, TileMap
from protocol.digest import number
from protocol.ids import PeerId, TileId
from protocol.rejection import Reason, Rejected

FLOOR_NATS: Final = 2.0  # what a model of some million parameters cannot learn of text
HEIGHT_NATS: Final = 3.5  # from there to ln 258, an even guess over the vocabulary
CURVATURE_MIN: Final = 0.01  # of the flattest direction, where the steepest has 1
RATE: Final = 0.015  # of a local step; thirty of them go a third of the way in the steepest direction
NOISE: Final = 1.0  # of one local step's gradient, in scales: the real model's deltas agree as little (docs/log.md)
HETEROGENEITY: Final = 0.15  # how far a learner's own optimum lies from everybody's, in scales
GAIN_SCALE: Final = 0.05  # of gains, which genesis does not draw: all of them begin at one


class Valley:
    """The loss of any weights, and the change that a learner finds. Pure: no call depends on an earlier one."""

    def __init__(self, tile_map: TileMap, seed: bytes) -> None:
        self._tile_map = tile_map
        self._seed = seed
        layers = sum(parameter.name.endswith(".attention_norm") for parameter in tile_map.parameters)
        self._scales = {
            parameter.name: float(initial_deviation(parameter, layers)) or GAIN_SCALE
            for parameter in tile_map.parameters
        }
        self._centres = {parameter.name: float(parameter.initial is Initial.ONES) for parameter in tile_map.parameters}
        self._slopes: dict[TileId, _Slope] = {}

    def loss(self, weights: Mapping[TileId, Float32]) -> float:
        """Nats per byte of these tiles, each counted by its values. Raises Rejected(UNKNOWN_TILE, BAD_SHAPE), this
        also for none.

        It has no bound above: poisoned weights may be worse than untrained ones.
        """
        height = expected = 0.0
        for tile_id in sorted(weights):
            slope = self._slope(tile_id)
            away_N = (_check(weights[tile_id], slope) - slope.optimum_N) / slope.scale_N
            height += float(np.sum(slope.curvature_N * np.square(away_N, dtype=np.float64)))
            expected += slope.expected
        if not weights:
            raise Rejected(Reason.BAD_SHAPE, "no tile has no loss")
        return FLOOR_NATS + HEIGHT_NATS * height / expected

    def change(
        self,
        tile: TileId,
        weights_N: Float32,
        learner: PeerId,
        round_number: int,
        steps: int,
        *,
        flipped: bool = False,
    ) -> Float32:
        """Old weights minus new ones after so many local steps of this learner. ``flipped``: its labels are wrong.

        Raises Rejected(UNKNOWN_TILE, BAD_SHAPE).
        """
        slope = self._slope(tile)
        progress_N, wander_N = slope.after(steps)
        own_N = self._draw(slope.scale_N.size, b"data", learner, tile.encode())
        own_N *= slope.spread_N
        own_N += slope.wrong_N if flipped else slope.optimum_N
        change_N = np.subtract(_check(weights_N, slope), own_N, out=own_N)
        change_N *= progress_N
        noise_N = self._draw(change_N.size, b"noise", learner, tile.encode(), number(round_number), number(steps))
        noise_N *= wander_N
        change_N += noise_N
        return change_N

    def _slope(self, tile_id: TileId) -> _Slope:
        """A tile's valley, made when it is first asked for."""
        found = self._slopes.get(tile_id)
        if found is None:
            found = self._slopes[tile_id] = self._make_slope(self._tile_map.tile(tile_id))
        return found

    def _make_slope(self, tile: Tile) -> _Slope:
        scale_N = np.empty(tile.values, np.float32)
        centre_N = np.empty(tile.values, np.float32)
        has_spread_N = np.ones(tile.values, np.float64)  # 1 where genesis is drawn too
        for segment in tile.segments:
            part = slice(segment.offset, segment.offset + segment.values)
            scale_N[part] = self._scales[segment.parameter]
            centre_N[part] = self._centres[segment.parameter]
            has_spread_N[part] -= self._centres[segment.parameter]
        place_N = generator_of(self._seed, b"curvature", tile.id.encode()).random(tile.values, np.float32)
        curvature_N = np.float32(CURVATURE_MIN) ** place_N
        offset_N = self._draw(tile.values, b"optimum", tile.id.encode()) * scale_N
        return _Slope(
            optimum_N=centre_N + offset_N,
            wrong_N=centre_N - offset_N,
            scale_N=scale_N,
            spread_N=scale_N * np.float32(HETEROGENEITY),
            curvature_N=curvature_N,
            expected=float(np.sum(curvature_N * (1 + has_spread_N), dtype=np.float64)),
            steps={},
        )

    def _draw(self, values: int, *parts: bytes) -> Float32:
        return generator_of(self._seed, *parts).standard_normal(values, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Slope:
    """One tile's valley."""

    optimum_N: Float32
    wrong_N: Float32  # the optimum of wrong labels
    scale_N: Float32
    spread_N: Float32  # of learners' own optima
    curvature_N: Float32
    expected: float  # of the sum over values at genesis
    steps: dict[int, tuple[Float32, Float32]]

    def after(self, steps: int) -> tuple[Float32, Float32]:
        """The share of the way that so many steps go, and the deviation of where their noise leads."""
        found = self.steps.get(steps)
        if found is None:
            left_N: NDArray[np.float64] = 1 - RATE * self.curvature_N.astype(np.float64)
            wander_N = RATE * NOISE * self.scale_N * np.sqrt((1 - left_N ** (2 * steps)) / (1 - left_N**2))
            found = self.steps[steps] = (1 - left_N**steps).astype(np.float32), wander_N.astype(np.float32)
        return found


def make_valley(tile_map: TileMap, seed: int) -> Valley:
    """The valley of the world of this seed."""
    return Valley(tile_map, b"simnet %d" % seed)


def _check(weights_N: Float32, slope: _Slope) -> Float32:
    if weights_N.shape != slope.scale_N.shape or weights_N.dtype != np.float32:
        raise Rejected(
            Reason.BAD_SHAPE, f"{weights_N.dtype}{weights_N.shape} for a tile of {slope.scale_N.size} values"
        )
    return weights_N


def generator_of(*parts: bytes) -> Generator:
    """A stream of its own for these parts, whoever else draws what."""
    hasher = hashlib.sha256(b"simnet/compute")
    for part in parts:
        hasher.update(number(len(part)) + part)
    return Generator(Philox(key=int.from_bytes(hasher.digest()[:16], "little")))
