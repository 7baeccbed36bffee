"""Collocation points of the built-in problems."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["on_faces", "uniform"]

Bounds = Sequence[tuple[float, float]]


def uniform(num_points: int, bounds: Bounds, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Draw points uniformly from a box.

    Args:
        num_points: Number of points N.
        bounds: ``(low, high)`` of each of the d coordinates; equal bounds fix one.
        rng: Source of randomness.

    Returns:
        Points ``[N, d]``, float64.
    """
    low, high = np.array(bounds, float).T
    return rng.uniform(low, high, (num_points, len(bounds)))


def on_faces(
    num_points: int, bounds: Bounds, rng: np.random.Generator, axes: Sequence[int] | None = None
) -> npt.NDArray[Any]:
    """Draw points from the faces of a box.

    Args:
        num_points: Number of points N, split evenly between the faces, in turn.
        bounds: ``(low, high)`` of each coordinate.
        rng: Source of randomness.
        axes: Coordinates whose two faces count; all of them by default.

    Returns:
        Points ``[N, d]``, float64.
    """
    points = uniform(num_points, bounds, rng)
    faces = [(axis, side) for axis in axes or range(len(bounds)) for side in (0, 1)]
    for number in range(num_points):
        axis, side = faces[number % len(faces)]
        points[number, axis] = bounds[axis][side]
    return points
