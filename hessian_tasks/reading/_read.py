"""A loss term, read once: what engines ask of it is found when it is first asked, and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.networks.models import dtype_of
from hessian_tasks.problem import Problem, ResidualTerm, Term
from hessian_tasks.reading._arguments import Arguments
from hessian_tasks.reading._checks import compile_jets
from hessian_tasks.reading._convexity import is_convex
from hessian_tasks.reading._evaluations import Dependence, find_dependence
from hessian_tasks.reading._quadratic import (
    QuadraticModel,
    ResidualModel,
    compile_quadratic,
    compile_residual,
)
from hessian_tasks.reading._words import describe

__all__ = ["Reading", "read_terms"]

Array: TypeAlias = npt.NDArray[Any]

# Of what is kept that which does not depend on the weights.
_TRACED = frozenset(
    {"dependence", "_find_jets", "_differentiate_twice", "_differentiate_residual", "_arguments"}
)


class Reading:
    """What one term of a problem is a function of, and its derivatives by that, at θ.

    It belongs to the weights that the networks have when it is asked; :meth:`again` is for others.
    Every property raises :class:`~hessian_tasks.errors.NotLayeredError` if the term is no such
    function, saying why.

    Attributes:
        problem: The problem, its model resolved to a Keras model.
        term: The term.

    Example:
        >>> from hessian_tasks import LossTerm
        >>> from hessian_tasks.problems.networks import mlp
        >>> import tensorflow as tf
        >>> X = tf.constant([[1.0], [2.0], [3.0]])
        >>> fit = LossTerm("fit", lambda model: tf.reduce_mean(model(X) ** 2))
        >>> reading = Reading(Problem(mlp(1, width=2, depth=1), [fit]), fit)
        >>> reading.words
        'u at 3 points, adds up point by point'
        >>> reading.is_convex
        True
    """

    def __init__(self, problem: Problem, term: Term) -> None:
        """Take a term; nothing is traced yet.

        Args:
            problem: The problem, its model resolved to a Keras model.
            term: One of its terms.
        """
        self.problem = problem
        self.term = term

    @cached_property
    def dependence(self) -> Dependence:
        """Where the term evaluates networks, and what else of θ it depends on."""
        return find_dependence(self.problem, self.term)

    @cached_property
    def jets(self) -> list[Array]:
        """The networks' derivatives at every evaluation ``[N, R, outputs]``."""
        return self._find_jets()

    @cached_property
    def quadratic(self) -> QuadraticModel:
        """The loss to second order in the jets, and in the weights that it reads itself."""
        return self._differentiate_twice(self.jets)

    @cached_property
    def residual(self) -> ResidualModel:
        """The residual of a residual term to first order."""
        return self._differentiate_residual(self.jets)

    @cached_property
    def is_convex(self) -> bool:
        """Whether the loss is convex in what it is a function of, near θ."""
        return is_convex(self.quadratic, np.dtype(dtype_of(self.problem.model)))

    @cached_property
    def _find_jets(self) -> Callable[[], list[Array]]:
        return compile_jets(self.problem, self.term, self.dependence)

    @cached_property
    def _differentiate_twice(self) -> Callable[[Sequence[Array]], QuadraticModel]:
        return compile_quadratic(self.problem, self.term, self._arguments)

    @cached_property
    def _differentiate_residual(self) -> Callable[[Sequence[Array]], ResidualModel]:
        assert isinstance(self.term, ResidualTerm)
        return compile_residual(self.problem, self.term, self._arguments)

    @cached_property
    def _arguments(self) -> Arguments:
        return Arguments(self.problem, self.dependence, [jet.shape for jet in self.jets])

    def again(self) -> Reading:
        """A reading at the weights that the networks have now; what was traced is kept."""
        other = Reading(self.problem, self.term)
        vars(other).update({n: value for n, value in vars(self).items() if n in _TRACED})
        return other

    @property
    def words(self) -> str:
        """What the term depends on, from what has been asked for."""
        known = "residual" in vars(self)
        return describe(self.problem, self.dependence, self.residual if known else self.quadratic)


def read_terms(problem: Problem) -> list[Reading]:
    """A reading of every term.

    Args:
        problem: The problem, its model resolved to a Keras model.
    """
    return [Reading(problem, term) for term in problem.terms]
