"""What is asked of measurements: which term holds them, at a minimum, and what they determine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import ProblemError
from hessian_tasks.parameters import LAYER, ParameterLayout
from hessian_tasks.problem import Problem, ResidualTerm
from pipeline.analysis.fields import Cut, cut_through
from pipeline.analysis.inverse import HessianInverse, open_inverse
from pipeline.api import rebuild_problem
from pipeline.errors import PlanError
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

__all__ = ["Measured", "cut_of", "open_measured", "parameter_rows", "solution_at"]

Array: TypeAlias = npt.NDArray[Any]

# Points along each side of the plane on which the solution is looked at.
GRID_POINTS = 25


@dataclass(frozen=True)
class Measured:
    """A problem with measurements, at a minimum.

    Attributes:
        store: Its matrix.
        inverse: The inverse of that.
        problem: The problem, rebuilt.
        term: The residual term that holds the measurements.
    """

    store: HessianStore
    inverse: HessianInverse
    problem: Problem
    term: ResidualTerm

    def residuals(self) -> Array:
        """Those of the term, ``[N, C]``, float64."""
        from hessian_tasks.autodiff.linearised import residuals

        found = residuals(replace(self.problem, terms=[self.term]))
        return found[self.term.name].astype(np.float64)

    def jacobian(self) -> Callable[[Sequence[int]], Array]:
        """Gives rows of their ``∂r/∂θ`` ``[N C, P]``, in the model's dtype."""
        from hessian_tasks.autodiff.linearised import compile_jacobian

        return compile_jacobian(self.problem, self.term)


def open_measured(
    store: HessianStore | Place,
    name: str | None,
    damping: float,
    problem: Problem | str | Path | None,
) -> Measured:
    """Open a store for questions about measurements.

    Args:
        store: A complete store of the Hessian, or of the Gauss-Newton matrix.
        name: The term; the only one that has data by default.
        damping: μ.
        problem: The problem, if the store was made from a live object or its file has moved.

    Raises:
        ProblemError: If there is no such term, or its weight is not positive.
        PlanError: If the matrix has negative eigenvalues beyond its noise, or does not fit.
    """
    opened = store if isinstance(store, HessianStore) else HessianStore(store)
    inverse = open_inverse(opened, damping)
    _check_minimum(opened, inverse)
    rebuilt = rebuild_problem(opened, problem)
    return Measured(opened, inverse, rebuilt, _data_term(rebuilt, name))


def _check_minimum(store: HessianStore, inverse: HessianInverse) -> None:
    if inverse.num_negative:
        raise PlanError(
            f"The {store.matrix.title} at θ has {inverse.num_negative:,} negative eigenvalues "
            f"beyond its noise, so that θ is no minimum and has no covariance. Train further, take "
            "the Gauss-Newton matrix (hessian run --engine ggn), or give a damping above the most "
            "negative one, which hessian spectrum prints."
        )


def _data_term(problem: Problem, name: str | None) -> ResidualTerm:
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


def solution_at(points: Array) -> ResidualTerm:
    """The first network at points, as a residual like any other."""
    return ResidualTerm("solution", points, lambda x, u: u.value)
