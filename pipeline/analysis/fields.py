"""Changes of the solution and of residuals when θ moves along eigenvectors.

To first order, moving θ by α v changes the network by ``δu(x) = α ∂u(x)/∂θ v`` and a residual
by ``δr = α ∂r/∂θ v``. Both are Jacobian-vector products. This module says where to take them,
and holds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Band", "Cut", "Fields", "cut_through"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cut:
    """A line or a plane through the box that holds the collocation points.

    Attributes:
        names: The one or two coordinates that vary.
        ticks: Their values.
        fixed: The other coordinates, by name, in the middle of the box.
        points: The points of the grid, ``[N, d]``, the first coordinate slowest.
    """

    names: tuple[str, ...]
    ticks: tuple[Array, ...]
    fixed: Mapping[str, float]
    points: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of points along each coordinate that varies."""
        return tuple(len(values) for values in self.ticks)

    def columns(self) -> dict[str, Array]:
        """Where its points are as the columns of a table, of the coordinates that vary."""
        grid = np.meshgrid(*self.ticks, indexing="ij")
        return {n: g.reshape(-1) for n, g in zip(self.names, grid, strict=True)}


@dataclass(frozen=True)
class Fields:
    """What K directions do to the solution and to the residuals.

    Attributes:
        cut: Where the solution is shown.
        labels: Names of the directions.
        solution: The network's outputs u on the cut, ``[outputs, *shape]``.
        changes: ``∂u/∂θ v`` there, ``[K, outputs, *shape]``.
        points: Collocation points by term, ``[N, d]``.
        residual_changes: ``∂r/∂θ v`` there by term, ``[K, N, C]``.
    """

    cut: Cut
    labels: Sequence[str]
    solution: Array
    changes: Array
    points: Mapping[str, Array]
    residual_changes: Mapping[str, Array]

    def columns(self) -> dict[str, Array]:
        """Solution and changes on the cut as the columns of a table, one row a point."""
        table = self.cut.columns()
        for output, values in enumerate(self.solution):
            table[f"u[{output}]"] = values.reshape(-1)
        for label, fields in zip(self.labels, self.changes, strict=True):
            for output, values in enumerate(fields):
                table[f"change of u[{output}] along {label}"] = values.reshape(-1)
        return table

    def residual_columns(self, term: str, coordinates: Sequence[str]) -> dict[str, Array]:
        """A term's changes as the columns of a table, one row a collocation point."""
        table = {name: self.points[term][:, d] for d, name in enumerate(coordinates)}
        for label, values in zip(self.labels, self.residual_changes[term], strict=True):
            for component in range(values.shape[1]):
                table[f"change of r[{component}] along {label}"] = values[:, component]
        return table


@dataclass(frozen=True)
class Band:
    """The solution on a line or a plane, and how well it is known there.

    Attributes:
        cut: Where.
        data: Where there are measurements, in the cut's coordinates, ``[N, 1 or 2]``.
        solution: The network's outputs u, ``[outputs, *shape]``.
        deviation: Their standard deviations, by what can be inverted.
        rounding: By how much rounding in the stored matrix may move these, to first order.
        at_least: The standard deviations at least, with what cannot be told from singular.
    """

    cut: Cut
    data: Array
    solution: Array
    deviation: Array
    rounding: Array
    at_least: Array

    def columns(self) -> dict[str, Array]:
        """All of it as the columns of a table, one row a point."""
        table = self.cut.columns()
        for output, values in enumerate(self.solution):
            table[f"u[{output}]"] = values.reshape(-1)
            table[f"standard deviation of u[{output}]"] = self.deviation[output].reshape(-1)
            table[f"rounding of u[{output}]"] = self.rounding[output].reshape(-1)
            table[f"at least of u[{output}]"] = self.at_least[output].reshape(-1)
        return table


def cut_through(
    points: Sequence[npt.NDArray[Any]], coordinates: Sequence[str], num_points: int
) -> Cut:
    """A regular grid on the box that holds all points; a plane if it has two or more sides.

    Args:
        points: Collocation points, ``[N, d]`` each.
        coordinates: Names of the d coordinates.
        num_points: Grid points along each side of a plane; a line gets four times as many.

    Returns:
        The cut through the middle of the box, along its first two sides of positive length.

    Example:
        >>> cut = cut_through([np.array([[0.0, 5.0], [2.0, 5.0]])], ["x", "y"], 1)
        >>> cut.names, dict(cut.fixed), cut.points.round(2).tolist()
        (('x',), {'y': 5.0}, [[0.0, 5.0], [0.67, 5.0], [1.33, 5.0], [2.0, 5.0]])
    """
    everything = np.concatenate(points).astype(np.float64)
    low, high = everything.min(axis=0), everything.max(axis=0)
    sides = [d for d in range(len(low)) if high[d] > low[d]][:2] or [0]
    number = num_points if len(sides) > 1 else 4 * num_points
    ticks = tuple(np.linspace(low[d], high[d], number) for d in sides)
    middle = (low + high) / 2
    grid = np.meshgrid(*ticks, indexing="ij")
    on_grid = np.tile(middle, (grid[0].size, 1))
    for d, values in zip(sides, grid, strict=True):
        on_grid[:, d] = values.reshape(-1)
    fixed = {name: float(middle[d]) for d, name in enumerate(coordinates) if d not in sides}
    return Cut(tuple(coordinates[d] for d in sides), ticks, fixed, on_grid)
