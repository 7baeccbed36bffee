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

# Steps of the first search, each a factor shorter than the next: twelve powers of ten.
NUM_RUNGS, RATIO = 20, 4.0
# Steps of the second, between two of these.
NUM_FINER = 9


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


def reach(evaluate: Evaluate, num_directions: int, change: float, limit: float) -> Array:
    """How far to go along each direction: where the loss has changed by ``change · |L|``.

    The smallest α at which ``L(θ + α v)`` or ``L(θ - α v)`` has, of steps a factor of four apart
    from ``limit`` down; then of nine between it and the one below, and of these by a power law,
    which a loss is where one order of its expansion prevails. A loss that is no number counts as
    changed. No curvature is asked: along a direction where it is next to nothing, higher orders
    end the slice.

    Args:
        evaluate: Losses of all terms ``[K, T]`` at steps ``[K, D]``.
        num_directions: D.
        change: Multiple of the loss.
        limit: Largest α, which is taken where the loss at θ is zero, too.

    Returns:
        The α ``[D]``, from 58 evaluations of the loss for each, and one at θ.

    Example:
        >>> quartic = lambda steps: 1.0 + steps**4
        >>> reach(quartic, 1, change=16.0, limit=1000.0).round(6)
        array([2.])
    """
    here = float(evaluate(np.zeros((1, num_directions))).sum())

    def changes(steps: Array) -> Array:
        # Of steps [S, D], each along its direction alone, on the side where it is larger.
        ahead = steps[:, :, np.newaxis] * np.eye(num_directions)
        both = np.concatenate([ahead, -ahead]).reshape(-1, num_directions)
        losses = evaluate(both).sum(axis=1).reshape(2, *steps.shape)
        moved = np.nan_to_num(np.abs(losses - here), nan=np.inf, posinf=np.inf)
        return np.asarray(moved.max(axis=0))

    target = change * abs(here)
    if not target > 0:
        # Of nothing there are no multiples.
        return np.full(num_directions, limit)
    ladder = limit * RATIO ** np.arange(1.0 - NUM_RUNGS, 1.0)
    rungs = np.tile(ladder[:, np.newaxis], num_directions)
    top = _first(changes(rungs), target)
    low = np.where(top > 0, ladder[top] / RATIO, ladder[0])
    finer = low * (ladder[top] / low) ** np.linspace(0.0, 1.0, NUM_FINER)[:, np.newaxis]
    return _crossing(finer, changes(finer), target)


def _first(found: Array, target: float) -> npt.NDArray[np.intp]:
    """The first row ``[D]`` in which each column is at least the target, or the last."""
    reached = found >= target
    return np.where(reached.any(axis=0), reached.argmax(axis=0), len(found) - 1)


def _crossing(steps: Array, found: Array, target: float) -> Array:
    """Where changes ``[S, D]`` at ascending steps first come to the target, by a power law."""
    columns = np.arange(steps.shape[1])
    after = _first(found, target)
    before = np.maximum(after - 1, 0)
    ends = np.stack([found[before, columns], found[after, columns]])
    # Of a loss that overflows, or has not moved, the logarithm is as good as infinite.
    low, high = np.log(np.clip(ends, np.finfo(float).tiny, np.finfo(float).max))
    wanted = np.log(target)
    share = np.divide(wanted - low, high - low, out=np.ones_like(low), where=high > low)
    first, last = steps[before, columns], steps[after, columns]
    return np.asarray(first * (last / first) ** np.clip(share, 0.0, 1.0))


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
