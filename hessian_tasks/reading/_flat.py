"""Derivatives that a loss term asks for, and that its network does not have.

A network of ``relu`` is piecewise linear: its second derivatives are zero at every point, whatever
its weights are. A term that depends on them is as good as none, and neither its loss nor its matrix
shows why.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import NotLayeredError, ProblemWarning
from hessian_tasks.networks.models import get_theta, kept_weights, set_theta
from hessian_tasks.networks.numerics import is_piecewise_linear
from hessian_tasks.networks.trainables import networks_of
from hessian_tasks.problem import Problem, Term
from hessian_tasks.problem.terms import is_batched
from hessian_tasks.reading._read import Reading
from hessian_tasks.reading._words import derivatives_that_matter

__all__ = ["warn_of_flat_derivatives"]


def warn_of_flat_derivatives(problem: Problem) -> None:
    """Warn of terms that depend on derivatives which are zero everywhere.

    Networks with curvature at random points, which are nearly all, cost no more than finding that
    out. Of the others the terms are read, and their derivatives evaluated at other weights.

    Args:
        problem: The problem, its model resolved to a Keras model.

    Warns:
        ProblemWarning: For each such term.
    """
    num_coordinates = len(problem.coordinates)
    networks = networks_of(problem.model).values()
    if not any(is_piecewise_linear(network, num_coordinates) for network in networks):
        return
    for term in problem.terms:
        names = [] if is_batched(term) else _flat_derivatives(problem, term)
        if names:
            warnings.warn(
                f"Term {term.name!r} depends on {', '.join(names)}, which is zero at all of its "
                "points whatever the weights are: relu and other piecewise linear functions have "
                "no second derivatives. Take a smooth activation, such as tanh.",
                ProblemWarning,
                stacklevel=2,
            )


def _flat_derivatives(problem: Problem, term: Term) -> list[str]:
    """Names of the derivatives that matter to a term and vanish at its points."""
    reading = Reading(problem, term)
    try:
        matter = derivatives_that_matter(problem, reading.dependence, reading.quadratic)
        jets = _elsewhere(reading)
    except NotLayeredError:
        return []
    found = [
        name
        for name, number, slot, outputs in matter
        if reading.dependence.evaluations[number].indices[slot]
        and not jets[number][:, slot, outputs].any()
    ]
    return list(dict.fromkeys(found))


def _elsewhere(reading: Reading) -> Sequence[npt.NDArray[Any]]:
    """The jets of a term at random weights; weights of zero make every derivative zero."""
    model = reading.problem.model
    theta = get_theta(model)
    size = float(np.sqrt(np.mean(np.square(theta)))) or 1.0
    with kept_weights(model):
        set_theta(model, size * np.random.default_rng(11).normal(size=theta.shape))
        return reading.again().jets
