"""Collocation points of the built-in problems."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["check_number", "on_faces", "uniform"]

# Beyond it drawing them takes all memory.
MAX_POINTS = 10**7

Bounds = Sequence[tuple[float, float]]


def check_number(num_points: int) -> None:
    """Refuse what is no number of points.

    Raises:
        ValueError: Saying what is expected.

    Example:
        >>> check_number(-1)
        Traceback (most recent call last):
        ...
        ValueError: the number of points is -1, expected 1 to 10,000,000
    """
    if not 0 < num_points <= MAX_POINTS:
        raise ValueError(f"the number of points is {num_points}, expected 1 to {MAX_POINTS:,}")


def uniform(num_points: int, bounds: Bounds, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Draw points uniformly from a box.

    Args:
        num_points: Number of points N.
        bounds: ``(low, high)`` of each of the d coordinates; equal bounds fix one.
        rng: Source of randomness.

    Returns:
        Points ``[N, d]``, float64.

    Raises:
        ValueError: If the number is not positive, or too large.
    """
    check_number(num_points)
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
