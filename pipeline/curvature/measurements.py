"""What is asked of measurements: which term holds them, at a minimum, and what they determine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import ProblemError
from hessian_tasks.parameters import LAYER
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.spec import GAUSS_NEWTON, HESSIAN
from pipeline.analysis.fields import Cut, cut_through
from pipeline.analysis.inverse import HessianInverse, open_inverse
from pipeline.api import rebuild_problem
from pipeline.errors import PlanError
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

__all__ = ["Measured", "measured_at", "open_measured"]

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

    @cached_property
    def residuals(self) -> Array:
        """Those of the term, ``[N, C]``, float64."""
        from hessian_tasks.autodiff.linearised import residuals

        found = residuals(replace(self.problem, terms=[self.term]))
        return found[self.term.name].astype(np.float64)

    @cached_property
    def jacobian(self) -> Callable[[Sequence[int]], Array]:
        """Gives rows of their ``∂r/∂θ`` ``[N C, P]``, in the model's dtype."""
        from hessian_tasks.autodiff.linearised import compile_jacobian

        return compile_jacobian(self.problem, self.term)

    @cached_property
    def solution(self) -> tuple[Cut, Array, Callable[[Sequence[int]], Array]]:
        """The first network on a line or a plane: where, ``[N, outputs]``, and rows of ∂u/∂θ."""
        from hessian_tasks.autodiff.linearised import compile_jacobian, residual_terms, residuals

        points = [np.asarray(term.points, np.float64) for term in residual_terms(self.problem)]
        cut = cut_through(points, self.problem.coordinates, GRID_POINTS)
        # The network itself is a residual like any other.
        shown = ResidualTerm("solution", cut.points, lambda x, u: u.value)
        problem = replace(self.problem, terms=[shown])
        values = residuals(problem)[shown.name].astype(np.float64)
        return cut, values, compile_jacobian(problem, shown)

    def parameters(self) -> dict[str, int]:
        """Which row of the matrix each entry of the problem's parameters is, by its name."""
        layout = self.store.layout
        own = [variable for variable in layout.variables if variable.layer == LAYER]
        rows = [row for variable in own for row in range(variable.offset, variable.stop)]
        return {
            layout.describe(row).removeprefix(f"{LAYER}/").removesuffix("[]"): row for row in rows
        }

    def units(self) -> Array:
        """The unit vectors of these, ``[P, K]``."""
        rows = list(self.parameters().values())
        found = np.zeros((self.store.num_params, len(rows)))
        found[rows, range(len(rows))] = 1.0
        return found


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
        PlanError: If the matrix is without a term, has negative eigenvalues beyond its noise, or
            does not fit.
    """
    opened = store if isinstance(store, HessianStore) else HessianStore(store)
    return measured_at(opened, rebuild_problem(opened, problem), name, damping)


def measured_at(
    store: HessianStore, problem: Problem, name: str | None, damping: float
) -> Measured:
    """The same of an open store, with its problem rebuilt."""
    term = _data_term(problem, name)
    if store.left_out:
        raise PlanError(
            f"{store.location} is without {', '.join(store.left_out)}, of which there is no "
            "Gauss-Newton matrix, so that its inverse is that of another loss. Compute the "
            "Hessian (leave --engine out), or declare these terms as ResidualTerm."
        )
    inverse = open_inverse(store, damping)
    _check_minimum(store, inverse)
    return Measured(store, inverse, problem, term)


def _check_minimum(store: HessianStore, inverse: HessianInverse) -> None:
    if inverse.num_negative:
        both = store.matrix == HESSIAN and GAUSS_NEWTON in store.matrices
        way = "which this store holds: --matrix ggn" if both else "hessian run --engine ggn"
        raise PlanError(
            f"The {store.matrix.title} at θ has {inverse.num_negative:,} negative eigenvalues "
            f"beyond its noise, so that θ is no minimum and has no covariance. Train further, take "
            f"the Gauss-Newton matrix ({way}), or give a damping above the most negative one, "
            "which hessian spectrum prints."
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
