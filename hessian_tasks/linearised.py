"""Residuals linearised in a TensorFlow graph: J = ∂r/∂θ applied to both sides, for any network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.autodiff import apply_compiled, pull_back, select_terms
from hessian_tasks.jets import Tensor, reverse_derivative
from hessian_tasks.loss import term_values
from hessian_tasks.models import trainable_variables
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.regularization import REGULARIZATION

__all__ = [
    "Linearisation",
    "compile_gauss_newton_product",
    "gauss_newton_vector_product",
    "jacobian_vector_product",
    "lacks_residuals",
    "residual_terms",
    "residuals",
]

Array = npt.NDArray[Any]


class Linearisation:
    """Residuals around θ, ``r(θ + v) ≈ r + J v``.

    ``Jᵀ c`` is linear in c, and its derivative with respect to c applied to v is ``J v``: two
    reverse passes make one forward pass (J. Townsend, 2017). Use it inside ``tf.function``.

    Attributes:
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
            self._residual = tf.reshape(residual(), [-1])
        self._cotangent = tf.ones_like(self._residual)
        with tf.GradientTape(persistent=True) as self._outer:
            self._outer.watch(self._cotangent)
            self._pulled = self.pull(self._cotangent)
        self.size = tf.size(self._pulled)

    def pull(self, cotangent: Tensor) -> Tensor:
        """``Jᵀ c`` ``[P]``."""
        return pull_back(self._inner, self._residual, self._variables, cotangent)

    def push(self, tangent: Tensor) -> Tensor:
        """``J v`` ``[N C]``."""
        return pull_back(self._outer, self._pulled, [self._cotangent], tangent)


def lacks_residuals(problem: Problem) -> str:
    """Why a problem has no Gauss-Newton matrix, and what to do, or nothing.

    Example:
        >>> lacks_residuals(Problem(None, [LossTerm("norm", loss=lambda model: 0.0)]))
        'The Gauss-Newton matrix is made of derivatives of residuals, and some terms have none: \
norm. Declare them as ResidualTerm'
    """
    others = [term.name for term in problem.terms if not isinstance(term, ResidualTerm)]
    if not others:
        return ""
    advice = "Declare them as ResidualTerm"
    if REGULARIZATION in others:
        # Weights that are penalised are no residuals at points.
        advice = f"Leave the regularisers, which are {REGULARIZATION}, out of the network's layers"
    return (
        "The Gauss-Newton matrix is made of derivatives of residuals, and some terms have none: "
        f"{', '.join(others)}. {advice}"
    )


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

    def push(term: ResidualTerm) -> Callable[[Tensor], Tensor]:
        return lambda vector: _linearise(problem, term).push(vector)

    return {t.name: apply_compiled(problem, push(t))(vectors) for t in residual_terms(problem)}


def gauss_newton_vector_product(problem: Problem, vectors: Array) -> Array:
    """``G v`` for the total loss; see :func:`compile_gauss_newton_product`.

    Args:
        problem: The problem, its model resolved to a Keras model.
        vectors: One vector a row, ``[K, P]``.

    Returns:
        The products, one a row, ``[K, P]`` in the model's dtype.
    """
    return compile_gauss_newton_product(problem)(vectors)


def compile_gauss_newton_product(
    problem: Problem, term: str | None = None
) -> Callable[[Array], Array]:
    """Compile ``G v``: ``J v`` of every term, pulled back.

    Like :func:`jacobian_vector_product` it shares nothing with the layered Jacobians.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: Name of one term, or None for the total loss.

    Returns:
        A function of vectors ``[K, P]``, one a row, that gives their products likewise, in the
        model's dtype.
    """
    terms = [t for t in select_terms(problem, term) if isinstance(t, ResidualTerm)]

    def product(vector: Tensor) -> Tensor:
        parts = []
        for chosen in terms:
            around = _linearise(problem, chosen)
            image = around.push(vector)
            count = tf.cast(tf.size(image), image.dtype)
            parts.append(around.pull(2 * chosen.weight / count * image))
        return tf.add_n(parts)

    return apply_compiled(problem, product)


def _linearise(problem: Problem, term: ResidualTerm) -> Linearisation:
    variables = trainable_variables(problem.model)
    return Linearisation(lambda: term_values(problem, term, reverse_derivative), variables)
