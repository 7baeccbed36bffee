"""What is asked of measurements: which term holds them, at a minimum, and what they determine."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import ProblemError
from hessian_tasks.parameters import LAYER, ParameterLayout
from hessian_tasks.problem import Problem, ResidualTerm
from pipeline.analysis.fields import Cut, cut_through
from pipeline.analysis.inverse import HessianInverse
from pipeline.errors import PlanError
from pipeline.store.store import HessianStore

__all__ = ["check_minimum", "cut_of", "data_term", "parameter_rows", "solution_at"]

# Points along each side of the plane on which the solution is looked at.
GRID_POINTS = 25


def check_minimum(store: HessianStore, inverse: HessianInverse) -> None:
    """Refuse a matrix with negative eigenvalues.

    Raises:
        PlanError: If it has any beyond its noise.
    """
    if inverse.num_negative:
        raise PlanError(
            f"The {store.matrix.title} at θ has {inverse.num_negative:,} negative eigenvalues "
            f"beyond its noise, so that θ is no minimum and has no covariance. Train further, take "
            "the Gauss-Newton matrix (hessian run --engine ggn), or give a damping above the most "
            "negative one, which hessian spectrum prints."
        )


def data_term(problem: Problem, name: str | None) -> ResidualTerm:
    """The residual term of that name, or the only one that has data.

    Raises:
        ProblemError: If there is no such term, or its weight is not positive.
    """
    from hessian_tasks.autodiff.linearised import residual_terms

    terms = residual_terms(problem)
    chosen = [t for t in terms if (t.name == name if name is not None else bool(t.data))]
    if len(chosen) != 1:
        known = ", ".join(t.name for t in terms) or "none"
        asked = f"no residual term {name!r}" if name is not None else "not one that has data alone"
        raise ProblemError(
            f"Which term holds the measurements? There is {asked}. Name one (--data); residual "
            f"terms: {known}."
        )
    if not chosen[0].weight > 0:
        raise ProblemError(
            f"Term {chosen[0].name!r} has weight {chosen[0].weight:g}, so that its measurements "
            "decide nothing; expected a positive one."
        )
    return chosen[0]


def parameter_rows(layout: ParameterLayout) -> dict[str, int]:
    """Which row of the matrix each entry of the problem's parameters is, by its name.

    Example:
        >>> parameter_rows(ParameterLayout.of([("a/kernel", (3,)), ("parameters/nu", ())]))
        {'nu': 3}
    """
    own = [variable for variable in layout.variables if variable.layer == LAYER]
    rows = [row for variable in own for row in range(variable.offset, variable.stop)]
    return {layout.describe(row).removeprefix(f"{LAYER}/").removesuffix("[]"): row for row in rows}


def cut_of(problem: Problem) -> Cut:
    """A line or a plane through all its collocation points."""
    from hessian_tasks.autodiff.linearised import residual_terms

    points = [np.asarray(term.points, np.float64) for term in residual_terms(problem)]
    return cut_through(points, problem.coordinates, GRID_POINTS)


def solution_at(points: npt.NDArray[Any]) -> ResidualTerm:
    """The first network at points, as a residual like any other."""
    return ResidualTerm("solution", points, lambda x, u: u.value)
