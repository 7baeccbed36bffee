"""The loss along eigenvectors: what it is, and what the stored matrix predicts of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Axis", "QuadraticModel", "Slice", "reach", "take_slices"]

Array = npt.NDArray[np.float64]
# Losses of all terms [K, T] at steps [K, D] along D directions.
Evaluate = Callable[[Array], Array]


@dataclass(frozen=True)
class QuadraticModel:
    """``L + Σ_d α_d gᵀv_d + ½ Σ_de α_d α_e v_dᵀ H v_e``: a loss to second order.

    Attributes:
        loss: L at θ.
        slopes: ``gᵀ v_d`` ``[D]``.
        curvatures: ``v_dᵀ H v_e`` ``[D, D]``.

    Example:
        >>> model = QuadraticModel(1.0, np.array([2.0]), np.array([[6.0]]))
        >>> model(np.array([[0.0], [1.0]]))
        array([1., 6.])
    """

    loss: float
    slopes: Array
    curvatures: Array

    def __call__(self, steps: Array) -> Array:
        """The predicted losses ``[K]`` at steps ``[K, D]``."""
        quadratic = 0.5 * np.einsum("kd,de,ke->k", steps, self.curvatures, steps)
        return np.asarray(self.loss + steps @ self.slopes + quadratic)


@dataclass(frozen=True)
class Axis:
    """Steps along one direction.

    Attributes:
        direction: Which of the directions.
        label: Its name in pictures and tables.
        steps: The α, ascending, symmetric about 0; lengths ``‖α v‖`` in parameter space.
    """

    direction: int
    label: str
    steps: Array


@dataclass(frozen=True)
class Slice:
    """Losses on a line or a plane through θ.

    Attributes:
        axes: One or two.
        actual: The losses by term, the total's under None, with one dimension an axis.
        predicted: The same by the quadratic model, of the total and of those terms whose
            matrices are stored.
    """

    axes: tuple[Axis, ...]
    actual: Mapping[str | None, Array]
    predicted: Mapping[str | None, Array]

    def columns(self) -> dict[str, Array]:
        """The slice as the columns of a table, one row a step."""
        grid = np.meshgrid(*(axis.steps for axis in self.axes), indexing="ij")
        table = {f"step along {a.label}": g for a, g in zip(self.axes, grid, strict=True)}
        for kind, losses in (("actual", self.actual), ("predicted", self.predicted)):
            table |= {f"{kind} {term or 'total'}": values for term, values in losses.items()}
        return {name: values.reshape(-1) for name, values in table.items()}


def reach(loss: float, slope: float, curvature: float, change: float, limit: float) -> float:
    """How far to go: where the quadratic model bounds the loss's change by ``change · |L|``.

    The α > 0 with ``|gᵀv| α + ½ |vᵀHv| α² = change · |L|``, at most ``limit``.

    Args:
        loss: L at θ.
        slope: ``gᵀ v``.
        curvature: ``vᵀ H v``.
        change: Multiple of the loss.
        limit: Largest α, where neither slope nor curvature says how far.

    Example:
        >>> reach(1.0, 0.0, 2.0, change=4.0, limit=10.0)
        2.0
    """
    target, slope, curvature = change * abs(loss), abs(slope), abs(curvature)
    # The root of the quadratic in the form that does not cancel.
    denominator = slope + np.sqrt(slope**2 + 2 * curvature * target)
    # Compared before it is divided, which for next to no slope would overflow.
    if target == 0 or 2 * target >= limit * denominator:
        return limit
    return float(2 * target / denominator)


def take_slices(
    evaluate: Evaluate,
    models: Mapping[str | None, QuadraticModel],
    terms: Sequence[str],
    cuts: Sequence[tuple[Axis, ...]],
) -> list[Slice]:
    """Evaluate the loss on lines and planes, all in one batch.

    Args:
        evaluate: Losses of all terms ``[K, T]`` at steps ``[K, D]``.
        models: The quadratic models of the total (None) and of some terms.
        terms: Names of the terms, in the order of ``evaluate``.
        cuts: The axes of each slice.

    Returns:
        One slice a cut.

    Example:
        >>> bowl = QuadraticModel(0.0, np.zeros(2), np.diag([2.0, 4.0]))
        >>> axes = [Axis(d, f"v{d}", np.array([-1.0, 0.0, 1.0])) for d in range(2)]
        >>> line, plane = take_slices(
        ...     lambda a: a**2 @ [[1.0], [2.0]], {None: bowl}, ["fit"], [(axes[1],), tuple(axes)]
        ... )
        >>> line.actual["fit"], line.predicted[None]
        (array([2., 0., 2.]), array([2., 0., 2.]))
        >>> plane.actual[None].shape
        (3, 3)
    """
    num_directions = len(models[None].slopes)
    steps = [_steps(axes, num_directions) for axes in cuts]
    losses = evaluate(np.concatenate(steps))
    parts = np.split(losses, np.cumsum([len(part) for part in steps])[:-1])
    return [
        _slice(axes, part, found, terms, models)
        for axes, part, found in zip(cuts, steps, parts, strict=True)
    ]


def _steps(axes: tuple[Axis, ...], num_directions: int) -> Array:
    grid = np.meshgrid(*(axis.steps for axis in axes), indexing="ij")
    steps = np.zeros((grid[0].size, num_directions))
    for axis, values in zip(axes, grid, strict=True):
        steps[:, axis.direction] = values.reshape(-1)
    return steps


def _slice(
    axes: tuple[Axis, ...],
    steps: Array,
    losses: Array,
    terms: Sequence[str],
    models: Mapping[str | None, QuadraticModel],
) -> Slice:
    shape = tuple(len(axis.steps) for axis in axes)
    actual: dict[str | None, Array] = {None: losses.sum(axis=1).reshape(shape)}
    actual.update((name, losses[:, k].reshape(shape)) for k, name in enumerate(terms))
    return Slice(axes, actual, {name: m(steps).reshape(shape) for name, m in models.items()})
