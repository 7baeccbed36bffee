"""Residuals linearised in a TensorFlow graph: J = ∂r/∂θ applied to both sides, for any network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.autodiff.engine import apply_compiled, pull_back
from hessian_tasks.jets import Tensor, reverse_derivative
from hessian_tasks.loss.batches import Part
from hessian_tasks.loss.terms import term_values
from hessian_tasks.networks.models import trainable_variables
from hessian_tasks.problem import Problem, ResidualTerm

__all__ = [
    "Linearisation",
    "compile_jacobian",
    "jacobian_vector_product",
    "linearise",
    "residual_terms",
    "residuals",
]

Array = npt.NDArray[Any]


class Linearisation:
    """Residuals around θ, ``r(θ + v) ≈ r + J v``.

    ``Jᵀ c`` is linear in c, and its derivative with respect to c applied to v is ``J v``: two
    reverse passes make one forward pass (J. Townsend, 2017). Use it inside ``tf.function``.

    Attributes:
        value: The residuals, ``[N C]``.
        size: Number of parameters that J is taken with respect to.
    """

    def __init__(self, residual: Callable[[], Tensor], variables: list[Tensor]) -> None:
        """Build the graph of the residuals and of ``Jᵀ c``.

        Args:
            residual: Gives the residuals, as :func:`~hessian_tasks.loss.term_values` does.
            variables: The variables of the network that are not constants.
        """
        self._variables = variables
        with tf.GradientTape(persistent=True) as self._inner:
            self.value = tf.reshape(residual(), [-1])
        self._cotangent = tf.ones_like(self.value)
        with tf.GradientTape(persistent=True) as self._outer:
            self._outer.watch(self._cotangent)
            self._pulled = self.pull(self._cotangent)
        self.size = tf.size(self._pulled)

    def pull(self, cotangent: Tensor) -> Tensor:
        """``Jᵀ c`` ``[P]``."""
        return pull_back(self._inner, self.value, self._variables, cotangent)

    def push(self, tangent: Tensor) -> Tensor:
        """``J v`` ``[N C]``."""
        return pull_back(self._outer, self._pulled, [self._cotangent], tangent)


def residual_terms(problem: Problem) -> list[ResidualTerm]:
    """The terms that have residuals."""
    return [term for term in problem.terms if isinstance(term, ResidualTerm)]


def residuals(problem: Problem) -> dict[str, Array]:
    """The residuals r of every term, ``[N, C]``, in the model's dtype."""
    terms = residual_terms(problem)
    compiled = tf.function(lambda: [term_values(problem, t) for t in terms], autograph=False)
    found = compiled.get_concrete_function()()
    return {term.name: values.numpy() for term, values in zip(terms, found, strict=True)}


def jacobian_vector_product(problem: Problem, vectors: Array) -> dict[str, Array]:
    """``J v`` for every term, by a path that shares nothing with the layered Jacobians.

    The jets of the residuals are differentiated by nested reverse passes.

    Args:
        problem: The problem, its model resolved to a Keras model.
        vectors: One vector a row, ``[K, P]``.

    Returns:
        The products by term, ``[K, N C]`` each, in the model's dtype.
    """

    def push(term: ResidualTerm) -> Callable[[Part, Tensor], Tensor]:
        return lambda _, vector: linearise(problem, term).push(vector)

    terms = residual_terms(problem)
    return {term.name: apply_compiled(problem, [term], push(term))(vectors) for term in terms}


def compile_jacobian(problem: Problem, term: ResidualTerm) -> Callable[[Sequence[int]], Array]:
    """Compile rows of ``J = ∂r/∂θ`` ``[N C, P]`` of a term, one reverse pass each.

    Returns:
        Gives the rows of these numbers, in the model's dtype; point after point, and of each its
        components.
    """

    def row(number: Tensor) -> Tensor:
        around = linearise(problem, term)
        return around.pull(tf.one_hot(number, tf.size(around.value), dtype=around.value.dtype))

    spec = tf.TensorSpec([], tf.int32)
    compiled = tf.function(row, autograph=False).get_concrete_function(spec)
    return lambda numbers: np.stack([compiled(tf.constant(n)).numpy() for n in numbers])


def linearise(problem: Problem, term: ResidualTerm) -> Linearisation:
    """The residuals of a term around θ, their jets differentiated by nested reverse passes."""
    variables = trainable_variables(problem.model)
    return Linearisation(lambda: term_values(problem, term, reverse_derivative), variables)
