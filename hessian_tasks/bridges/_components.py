"""The components of a DeepXDE loss as terms: equations, conditions, fits.

Every term evaluates the network at its own points alone, and there calls what DeepXDE would call:
the equations' own function, the conditions' own ``error``, the loss function. What DeepXDE computes
with NumPy, values on a boundary or normals, is computed from the points that the term is given, so
that a worker which has drawn other points computes at those that were frozen.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.errors import ProblemError, plain
from hessian_tasks.problem import LossTerm, ResidualTerm, Term

__all__ = ["Component", "condition", "equation", "fit", "value_of"]

Array: TypeAlias = npt.NDArray[Any]
Tensor: TypeAlias = Any

# Conditions that compare the first half of their points with the second, pair by pair.
PAIRED = ("PeriodicBC", "Interface2DBC")
# Conditions with measured values, of which a file may draw the noise anew whenever it is run.
MEASURED = ("PointSetBC", "PointSetOperatorBC")

# DeepXDE keeps derivatives, by their tensors, in one place for all threads.
_KEPT = threading.RLock()


@dataclass(frozen=True)
class Component:
    """One component of a loss: what its term is called, by which function, and how much it counts.

    Attributes:
        name: Of the term.
        loss: DeepXDE's function of a target and a prediction.
        weight: Factor in the total loss.
    """

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    weight: float

    @property
    def is_mean_square(self) -> bool:
        """Whether it is a mean of squares, whose residuals a Gauss-Newton matrix is made of."""
        import deepxde as dde

        return self.loss is dde.losses.mean_squared_error


def equation(
    component: Component, pde: Callable[..., Any], number: int, arrays: Mapping[str, Array]
) -> Term:
    """One equation as a term.

    Args:
        component: What is known of it.
        pde: The function of inputs and outputs, and of the auxiliary variables if there are some.
        number: Which of its residuals.
        arrays: ``points`` ``[N, d]``, and ``auxiliary`` where there are some.
    """

    def error(x: Tensor, y: Tensor, *auxiliary: Tensor) -> Tensor:
        with _nothing_kept():
            found = pde(x, y, *auxiliary)
        return found[number] if isinstance(found, list | tuple) else found

    if not component.is_mean_square:

        def loss(network: Any, points: Tensor, **auxiliary: Tensor) -> Tensor:
            return _against_zero(component, error(points, network(points), *auxiliary.values()))

        return LossTerm(component.name, loss, component.weight, arrays)

    def residual(x: Tensor, u: Any) -> Tensor:
        return error(x, u.value)

    def residual_with(x: Tensor, u: Any, auxiliary: Tensor) -> Tensor:
        return error(x, u.value, auxiliary)

    data = {key: array for key, array in arrays.items() if key != "points"}
    function = residual_with if data else residual
    return ResidualTerm(component.name, arrays["points"], function, component.weight, data)


def condition(component: Component, declared: Any, points: Array) -> Term:
    """A condition on a boundary, at the start, or at points, as a term.

    Args:
        component: What is known of it.
        declared: DeepXDE's condition.
        points: Its own points ``[N, d]``.

    Raises:
        ProblemError: If it has no points.
    """
    if not len(points):
        raise ProblemError(
            f"The condition {component.name!r} of the DeepXDE model has no training points, so "
            "that its loss is NaN. Raise num_boundary or num_initial, or change where it holds."
        )
    parts = 2 if _is_one_of(PAIRED, declared) else 1
    measured = _is_one_of(MEASURED, declared)
    data = {"points": points, **({"values": np.asarray(declared.values)} if measured else {})}

    def loss(network: Any, points: Tensor, **values: Tensor) -> Tensor:
        known = copy.copy(declared)
        vars(known).update(values)
        with _nothing_kept():
            halves = [network(half) for half in tf.split(points, parts)]
            outputs = tf.concat(halves, axis=0) if parts > 1 else halves[0]
            # Terms are given their arrays as constants of the graph.
            numbers = tf.get_static_value(points)
            error = known.error(numbers, points, outputs, 0, len(numbers))
        return _against_zero(component, error)

    return LossTerm(component.name, loss, component.weight, data)


def fit(component: Component, points: Array, targets: Array) -> Term:
    """A fit to targets as a term."""
    if component.is_mean_square:
        return ResidualTerm(
            component.name, points, lambda x, u, y: y - u.value, component.weight, {"y": targets}
        )

    def loss(network: Any, points: Tensor, y: Tensor) -> Tensor:
        return component.loss(y, network(points))

    return LossTerm(component.name, loss, component.weight, {"points": points, "y": targets})


def value_of(term: Term, network: Any, dtype: Any) -> Tensor:
    """The weighted value of a term in a dtype; call it inside ``tf.function``.

    Raises:
        ProblemError: If its code fails.
    """
    arrays = {key: tf.constant(array, dtype) for key, array in term.arrays.items()}
    try:
        if isinstance(term, LossTerm):
            return term.weight * tf.cast(term.loss(network, **arrays), dtype)
        points = arrays.pop("points")
        u = SimpleNamespace(value=network(points))
        return term.weight * tf.reduce_mean(tf.square(term.function(points, u, **arrays)))
    except Exception as error:  # whatever the user's own functions raise
        raise ProblemError(
            f"Evaluated at its own points alone, {term.name!r} of the DeepXDE model fails: "
            f"{type(error).__name__}: {plain(error)}"
        ) from error


def _against_zero(component: Component, error: Tensor) -> Tensor:
    return component.loss(tf.zeros_like(error), error)


def _is_one_of(names: Sequence[str], declared: Any) -> bool:
    import deepxde as dde

    return isinstance(declared, tuple(getattr(dde.icbc, name) for name in names))


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """Let DeepXDE differentiate without derivatives that it has kept of another graph."""
    import deepxde as dde

    with _KEPT:
        dde.gradients.clear()
        try:
            yield
        finally:
            dde.gradients.clear()
