"""The loss, term by term, where θ is moved along a few directions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.jets import Tensor
from hessian_tasks.loss.batches import Part, SumOverBatches
from hessian_tasks.loss.gradient import gradient
from hessian_tasks.loss.terms import by_term, term_loss
from hessian_tasks.networks.models import dtype_of, get_theta, set_theta, trainable_variables
from hessian_tasks.problem import Problem

__all__ = ["LossesAlong"]

Array = npt.NDArray[Any]


class LossesAlong:
    """``L_k(θ + Σ_d α_d v_d)`` of every term k, in the model's dtype.

    Compiled once for all steps: one call moves the weights from step to step inside the
    graph, and puts them back afterwards.

    Example:
        >>> import keras
        >>> from hessian_tasks import Problem, ResidualTerm
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones", dtype="float64")
        >>> net = keras.Sequential([keras.Input((1,), dtype="float64"), dense])
        >>> fit = ResidualTerm("fit", [[1.0], [3.0]], lambda x, u: u.value)
        >>> along = LossesAlong(Problem(net, [fit], coordinates="x"), np.array([[0.0, 1.0]]))
        >>> along([[0.0], [2.0]])  # mean of (x + α)² over x = 1 and 3
        array([[ 5.],
               [17.]])
        >>> along.slopes()
        array([[4.]])
    """

    def __init__(self, problem: Problem, directions: Array) -> None:
        """Compile.

        Args:
            problem: The problem, its model resolved to a Keras model.
            directions: One direction v_d a row, ``[D, P]``.
        """
        self._problem = problem
        self._directions = directions
        self._variables = trainable_variables(problem.model)
        self._theta = get_theta(problem.model)
        dtype = dtype_of(problem.model)
        steps = tf.TensorSpec([None, len(directions)], dtype)
        evaluate = partial(self._evaluate, tf.constant(directions, dtype))
        self._compiled = SumOverBatches(problem, problem.terms, evaluate, [steps])
        self._dtype = dtype

    def _evaluate(self, directions: Tensor, part: Part, steps: Tensor) -> Tensor:
        theta = tf.constant(self._theta)
        sizes = [int(np.prod(variable.shape)) for variable in self._variables]

        def at(step: Tensor) -> Tensor:
            moved = theta + tf.linalg.matvec(directions, step, transpose_a=True)
            for variable, entries in zip(self._variables, tf.split(moved, sizes), strict=True):
                variable.assign(tf.reshape(entries, variable.shape))
            losses = {n: loss() for n, loss in self._losses(part).items()}
            return by_term(self._problem, losses)

        # One after the other: all steps share the variables.
        return tf.map_fn(at, steps, parallel_iterations=1)

    def _losses(self, part: Part) -> dict[str, Callable[[], Tensor]]:
        arrays = part.arrays
        return {t.name: partial(term_loss, self._problem, t, arrays=arrays) for t in part.terms}

    def __call__(self, steps: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The weighted losses of all terms at each step.

        Args:
            steps: Coefficients α, one step a row, ``[K, D]``.

        Returns:
            ``[K, T]``; not finite where a loss is not.
        """
        try:
            losses = self._compiled(tf.constant(np.asarray(steps), self._dtype)).numpy()
        finally:
            set_theta(self._problem.model, self._theta)
        return np.asarray(losses, np.float64)

    def slopes(self) -> npt.NDArray[np.float64]:
        """``∇L_k(θ)ᵀ v_d`` for every term and direction, ``[T, D]``."""

        def gradients(part: Part) -> Tensor:
            losses = self._losses(part)
            found = {name: gradient(loss, self._variables) for name, loss in losses.items()}
            return by_term(self._problem, found)

        found = SumOverBatches(self._problem, self._problem.terms, gradients)().numpy()
        return np.asarray(found, np.float64) @ self._directions.T
